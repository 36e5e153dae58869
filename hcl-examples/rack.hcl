# A rack with three machines of different hardware, for which one image with
# Debian's generic kernel does. It needs no network but its own: everything comes
# from one signed file.
#
#   edge-provision bundle key -o bundle.key
#   edge-provision bundle build rack.hcl --key bundle.key -o rack.bundle
#   edge-provision rack up rack.hcl     emulates the machines
#   edge-provision apply -bundle rack.bundle --trust-key ed25519:… rack.hcl

site "rack" {}

# The BMCs are emulated and reachable from the rack's own network only. For real
# ones leave the default out, and set EDGE_VAR_bmc_password or use --var-file.
variable "bmc_password" {
  type      = string
  sensitive = true
  default   = "emulated-only"
}

locals {
  nodes = {
    ahci   = { host = 11, firmware = "bios", nic = "e1000e", bus = "ahci" }
    nvme   = { host = 12, firmware = "uefi", nic = "e1000e", bus = "nvme" }
    virtio = { host = 13, firmware = "uefi", nic = "virtio", bus = "virtio" }
  }
}

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
    password = var.bmc_password
  }

  # Ignored where the machines are real.
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
