# A BIOS machine whose disk carries a system already, without consent to erase
# it.

site "@site@" {}

variable "bmc_password" {
  type      = string
  sensitive = true
  default   = "emulated-only"
}

network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  gateway   = "172.22.0.1"
}

image "edge-os" {
  distribution = "debian"
  release      = "bookworm"
  kernel       = "cloud"
  packages     = ["openssh-server", "chrony"]
}

machine "node" {
  mac          = "52:54:00:e2:03:01"
  network      = network.edge
  address      = "172.22.0.11"
  image        = image.edge-os
  boot_timeout = "8m"

  bmc {
    driver   = "ipmi"
    address  = "172.22.1.11"
    username = "admin"
    password = var.bmc_password
  }

  rack {
    firmware   = "bios"
    memory     = MiB(896)
    boot_order = ["disk", "network"]

    disk {
      size   = GiB(1)
      serial = "IN-USE"
      source = "image.raw"
    }
  }
}
