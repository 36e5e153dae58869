# A machine without BMC that boots from the network first, one that the site
# does not declare unless it is asked to (the rack has it, apply and serve do not
# know it), and one that is whatever machine has a certain disk.

site "@site@" {}

variable "stranger" {
  type    = bool
  default = false
}

network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  gateway   = "172.22.0.1"
  unknown   = "discover"

  dhcp {
    range = "172.22.0.100-172.22.0.120"
  }
}

image "edge-os" {
  distribution = "debian"
  release      = "bookworm"
  kernel       = "cloud"
  packages     = ["openssh-server", "chrony"]
}

machine "node" {
  mac          = "52:54:00:e2:04:01"
  network      = network.edge
  address      = "172.22.0.11"
  image        = image.edge-os
  boot_timeout = "8m"

  rack {
    firmware   = "bios"
    memory     = MiB(896)
    boot_order = ["network", "disk"]

    disk {
      size = GiB(1)
    }
  }
}

class "kiosk" {
  match = any([for d in facts.disks : d.serial == "KIOSK-0"])

  react {
    provision = machine.kiosk
    workflow  = workflow.kiosk
  }
}

machine "kiosk" {
  match        = class.kiosk
  network      = network.edge
  address      = "172.22.0.12"
  image        = image.edge-os
  boot_timeout = "8m"

  rack {
    firmware   = "bios"
    memory     = MiB(896)
    boot_order = ["network", "disk"]

    disk {
      size   = GiB(1)
      serial = "KIOSK-0"
    }
    nic {
      mac = "52:54:00:e2:04:03"
    }
  }
}

workflow "kiosk" {
  step "file" "motd" {
    hosts   = machine.kiosk
    path    = "/etc/motd"
    content = "This is the kiosk.\n"
  }
}

machine "stranger" {
  count   = var.stranger ? 1 : 0
  mac     = "52:54:00:e2:04:02"
  network = network.edge

  rack {
    firmware   = "bios"
    memory     = MiB(768)
    boot_order = ["network", "disk"]

    disk {
      size = MiB(64)
    }
  }
}
