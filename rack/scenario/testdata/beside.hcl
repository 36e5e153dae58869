# A network on which somebody else's DHCP server answers.

site "@site@" {}

variable "mode" {
  type    = string
  default = "proxy"
}

network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  gateway   = "172.22.0.1"

  dhcp {
    mode = var.mode
  }
}

image "edge-os" {
  distribution = "debian"
  release      = "bookworm"
  kernel       = "cloud"
  packages     = ["openssh-server", "chrony"]
}

machine "node" {
  mac          = "52:54:00:e2:05:01"
  network      = network.edge
  address      = "172.22.0.11"
  image        = image.edge-os
  boot_timeout = "8m"

  bmc {
    driver   = "redfish"
    address  = "https://172.22.1.11"
    username = "admin"
    password = "emulated-only"
  }

  rack {
    firmware   = "uefi"
    memory     = MiB(896)
    boot_order = ["disk", "network"]

    disk {
      size = GiB(1)
    }
  }
}
