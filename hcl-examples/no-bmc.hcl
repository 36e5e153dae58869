# Machines without any BMC, set to boot from the network first: they are
# switched on by hand once. When their image is written, every later netboot is
# answered with "boot from your disk", so that they do not install in a loop.

site "no-bmc" {}

network "shop" {
  interface = "eth1"
  cidr      = "172.25.0.0/24"
  gateway   = "172.25.0.1"
  dns       = ["172.25.0.1"]

  dhcp {
    mode  = "server"
    range = "172.25.0.100-172.25.0.120"
  }
}

image "edge-os" {
  distribution = "debian"
  release      = "bookworm"
  kernel       = "cloud"
  packages     = ["openssh-server"]
}

# count numbers machines where keys would mean nothing: machine.till[0] has
# the hostname till-0.
machine "till" {
  count = 2

  mac     = format("52:54:00:25:00:%02x", count.index + 1)
  network = network.shop
  address = cidrhost(network.shop.cidr, 11 + count.index)
  image   = image.edge-os

  bmc {
    driver = "none"
  }

  # The site's consent to erase disks that carry something already. Without
  # it apply asks for the machine's serial.
  wipe = true

  root_disk {
    match  = disk.bytes >= GiB(4)
    select = "smallest"
  }

  rack {
    firmware   = count.index == 0 ? "uefi" : "bios"
    memory     = GiB(1)
    boot_order = ["network", "disk"]
    power_on   = true
    disk {
      size = GiB(8)
    }
  }
}
