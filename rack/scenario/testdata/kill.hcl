# One BIOS machine whose disk is full of random bytes, so that nothing which a
# write leaves out goes unseen.

site "@site@" {}

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
  mac          = "52:54:00:e2:02:01"
  network      = network.edge
  address      = "172.22.0.11"
  image        = image.edge-os
  boot_timeout = "8m"
  wipe         = true

  bmc {
    driver   = "ipmi"
    address  = "172.22.1.11"
    username = "admin"
    password = "emulated-only"
  }

  rack {
    firmware   = "bios"
    memory     = MiB(896)
    boot_order = ["disk", "network"]

    disk {
      size   = GiB(1)
      serial = "RANDOM"
      source = "random.raw"
    }
  }
}
