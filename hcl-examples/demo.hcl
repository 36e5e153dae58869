# The site of `make demo`: two emulated machines, one with UEFI and a Redfish
# BMC, one with BIOS and an IPMI BMC, from powered off to SSH.
#
#   edge-provision rack up hcl-examples/demo.hcl     emulates the machines
#   edge-provision apply hcl-examples/demo.hcl       provisions them
#
# On real hardware the rack blocks are ignored; everything else is the same.

site "demo" {
  labels = { region = "lab", tier = "demo" }
}

# The BMCs of the demo are emulated and reachable from the rack's own network
# only, so their password is no secret and may have a default. For real BMCs
# leave the default out, and set EDGE_VAR_emulated_bmc_password or use
# --var-file.
variable "emulated_bmc_password" {
  description = "Password of the emulated BMCs; real ones never have a default."
  type        = string
  default     = "emulated-only"
  sensitive   = true
}

locals {
  # One entry a machine. The key becomes part of its address, here
  # machine.node["a"], and of its hostname, here node-a.
  nodes = {
    a = {
      mac      = "52:54:00:04:21:01"
      host     = 11
      driver   = "redfish"
      bmc      = "https://172.22.1.11"
      firmware = "uefi"
      pxe      = "native" # the firmware's own PXE stack boots it
    }
    b = {
      mac      = "52:54:00:04:21:02"
      host     = 12
      driver   = "ipmi"
      bmc      = "172.22.1.12"
      firmware = "bios"
      pxe      = "ipxe" # the network card's ROM boots it
    }
  }
}

network "edge" {
  interface = "eth1" # of the host that runs edge-provision
  cidr      = "172.22.0.0/24"
  gateway   = "172.22.0.1"
  dns       = ["172.22.0.1"]
  ntp       = ["172.22.0.1"]

  dhcp {
    mode  = "server"
    range = "172.22.0.100-172.22.0.199" # for machines without an address of their own
    lease = "1h"
  }
}

image "edge-os" {
  distribution = "debian"
  release      = "bookworm"
  kernel       = "cloud" # small, and all that virtio hardware needs
  packages     = ["openssh-server", "chrony"]
}

machine "node" {
  for_each = local.nodes

  mac     = each.value.mac
  network = network.edge
  address = cidrhost(network.edge.cidr, each.value.host)
  image   = image.edge-os

  boot_timeout = "15m"

  bmc {
    driver   = each.value.driver
    address  = each.value.bmc
    username = "admin"
    password = var.emulated_bmc_password
  }

  # Checked against the facts that the machine reports, before anything is
  # written to its disk.
  require {
    condition = facts.memory.bytes >= MiB(900)
    message   = "the demo image needs about 1 GiB of memory"
  }

  # Exactly one disk must match.
  root_disk {
    match = disk.bytes >= GiB(4)
  }

  rack {
    firmware   = each.value.firmware
    pxe        = each.value.pxe
    cpus       = 1
    memory     = GiB(1)
    boot_order = ["network", "disk"]

    disk {
      bus    = "virtio"
      size   = GiB(8)
      serial = "DEMO-${upper(each.key)}-0"
    }
    nic {
      model = "virtio"
    }
  }
}

workflow "platform" {
  # A check: it changes nothing, and fails unless the time service runs.
  step "ssh" "chrony" {
    hosts   = values(machine.node)
    command = "systemctl is-active --quiet chrony"
    check   = "systemctl is-active --quiet chrony"
    timeout = "5m"

    retry {
      attempts = 10
      backoff  = "3s"
    }
  }

  step "file" "motd" {
    hosts      = values(machine.node)
    path       = "/etc/motd"
    mode       = "0644"
    content    = "This machine belongs to ${site.name} and is kept by edge-provision.\n"
    depends_on = [step.ssh.chrony]
  }
}

output "addresses" {
  description = "Where the machines answer SSH."
  value       = { for key, node in machine.node : node.hostname => node.address }
}
