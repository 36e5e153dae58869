# A UEFI machine with its own PXE stack and a BIOS machine, each with a second
# disk that is a bootable older copy of the image and a third for data; and one that is declared, but
# that nobody asks for.

site "@site@" {}

network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  gateway   = "172.22.0.1"

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

locals {
  nodes = {
    uefi  = { host = 11, driver = "redfish", bmc = "https://172.22.1.11", firmware = "uefi" }
    bios  = { host = 12, driver = "ipmi", bmc = "172.22.1.12", firmware = "bios" }
    decoy = { host = 13, driver = "redfish", bmc = "https://172.22.1.13", firmware = "uefi" }
  }
}

machine "node" {
  for_each = local.nodes

  mac          = format("52:54:00:e2:01:%02x", each.value.host)
  network      = network.edge
  address      = cidrhost(network.edge.cidr, each.value.host)
  image        = image.edge-os
  boot_timeout = "8m"

  bmc {
    driver   = each.value.driver
    address  = each.value.bmc
    username = "admin"
    password = "emulated-only"
  }

  root_disk {
    match = disk.serial == "ROOT-${each.key}"
  }

  rack {
    firmware   = each.value.firmware
    memory     = MiB(896)
    boot_order = ["disk", "network"]

    disk {
      size   = GiB(2)
      serial = "ROOT-${each.key}"
    }
    disk {
      size   = GiB(1)
      serial = "OLD-${each.key}"
      source = "image.raw"
    }
    disk { # for data; it is swapped while the machine runs
      bus    = "scsi"
      size   = MiB(64)
      serial = "DATA-${each.key}"
    }
  }
}

workflow "platform" {
  step "file" "motd" {
    hosts   = [machine.node["uefi"], machine.node["bios"]]
    path    = "/etc/motd"
    content = "Kept by edge-provision.\n"
  }
}
