# What is done with machines once they run: every kind of step, and how steps
# depend on each other. The machine is adopted: it runs already, is reached
# over SSH, and is never powered or imaged.
#
# Two keys have to be exchanged before. The line that "edge-provision key
# SITE.hcl" prints goes into ~ops/.ssh/authorized_keys on the machine. The
# machine's own key comes from its /etc/ssh/ssh_host_ed25519_key.pub and is given
# as --var host_key="ssh-ed25519 AAAA…", or written below as the default. As long
# as it is missing, plan refuses the machine and prints what it offers.

required_version = ">= 0.1"

site "workflow" {}

variable "host_key" {
  type        = string
  default     = null
  description = "The machine's SSH host key: one line, as in its ssh_host_ed25519_key.pub."
}

variable "motd" {
  type    = string
  default = "Welcome."
}

variable "harden" {
  type    = bool
  default = false
}

machine "controller" {
  address = "172.27.0.10"

  ssh {
    user     = "ops"
    sudo     = true # ops may do everything without a password
    host_key = var.host_key
  }
}

workflow "day-one" {
  # Nothing else starts before the machine answers.
  step "wait" "up" {
    hosts   = machine.controller
    timeout = "10m"
  }

  # A file is kept as declared: it is compared on every apply, and written
  # when it differs.
  step "file" "motd" {
    hosts      = machine.controller
    path       = "/etc/motd"
    mode       = "0644"
    content    = "${trimspace(var.motd)}\n"
    depends_on = [step.wait.up]
  }

  # A command runs once for each digest of its inputs and triggers. With check
  # or creates it runs whenever that says there is something to do. Here the
  # reference to step.file.motd makes the edge; no depends_on is needed.
  step "ssh" "note" {
    hosts   = machine.controller
    command = "logger 'motd is now ${step.file.motd.sha256}'"

    triggers = {
      motd = step.file.motd.sha256
    }
    retry {
      attempts = 3
      backoff  = "10s"
    }
  }

  # A step whose condition is false has null outputs and undoes nothing.
  step "ssh" "harden" {
    when       = var.harden
    hosts      = machine.controller
    command    = "sysctl -w kernel.kptr_restrict=2"
    check      = "test $(sysctl -n kernel.kptr_restrict) = 2"
    on_failure = "continue" # only what depends on it is blocked
    depends_on = [step.wait.up]
  }

  # for_each works on steps, too: workflow.day-one.step.file.limit["nofile"].
  step "file" "limit" {
    for_each = { nofile = 65536, nproc = 8192 }

    hosts      = machine.controller
    path       = "/etc/security/limits.d/${each.key}.conf"
    content    = "* soft ${each.key} ${each.value}\n"
    depends_on = [step.wait.up]
  }

  step "reboot" "once" {
    hosts      = machine.controller
    timeout    = "15m"
    depends_on = [step.file.limit]
    triggers   = { for key, file in step.file.limit : key => file.sha256 }
  }
}

output "motd_digest" {
  value = workflow.day-one.step.file.motd.sha256
}
