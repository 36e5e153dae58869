# Finding out what is there. Undeclared machines that netboot on this network
# are booted into the installer, report their facts, and are left alone after
# that: nothing is written to their disks.

site "discover" {}

network "floor" {
  interface = "eth1"
  cidr      = "172.24.0.0/24"
  gateway   = "172.24.0.1"
  unknown   = "discover" # the default is "ignore"

  dhcp {
    mode  = "server"
    range = "172.24.0.100-172.24.0.250"
    lease = "30m"
  }
}

# A declared machine without image is only looked at, too. It is bound to the
# first discovered machine for which the expression is true, and remembered.
machine "storage" {
  match   = facts.memory.bytes >= GiB(4) && length(facts.disks) >= 2
  network = network.floor

  rack {
    memory = GiB(4)
    disk {
      bus  = "nvme"
      size = GiB(8)
    }
    disk {
      bus  = "ahci"
      size = GiB(16)
    }
    nic {
      model = "e1000e"
      mac   = "52:54:00:24:00:01"
    }
  }
}
