# Three machines of different hardware, for which the image has Debian's generic
# kernel.

site "@site@" {}

network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  gateway   = "172.22.0.1"
}

image "edge-os" {
  distribution = "debian"
  release      = "bookworm"
  packages     = ["openssh-server"]
}

locals {
  nodes = {
    ahci   = { host = 11, firmware = "bios", nic = "e1000e", bus = "ahci" }
    nvme   = { host = 12, firmware = "uefi", nic = "e1000e", bus = "nvme" }
    virtio = { host = 13, firmware = "uefi", nic = "virtio", bus = "virtio" }
  }
}

machine "node" {
  for_each = local.nodes

  mac          = format("52:54:00:e2:06:%02x", each.value.host)
  network      = network.edge
  address      = cidrhost(network.edge.cidr, each.value.host)
  image        = image.edge-os
  boot_timeout = "8m"

  bmc {
    driver   = "ipmi"
    address  = "172.22.1.${each.value.host}"
    username = "admin"
    password = "emulated-only"
  }

  rack {
    firmware   = each.value.firmware
    memory     = MiB(896)
    boot_order = ["disk", "network"]

    disk {
      bus  = each.value.bus
      size = GiB(2)
    }
    nic {
      model = each.value.nic
    }
  }
}
