site "bad" {}
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  dhcp {
    range = "172.22.0.100-172.22.0.199"
  }
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
machine "m" {
  match   = facts.memory.bytes >= var.leest # ERROR: Unknown reference | Did you mean "least"?
  network = network.edge
  image   = image.os
  root_disk {
    match = disk.bites > 1 # ERROR: Unknown field
  }
  require {
    condition = facts.cpus.cores > 2 # ERROR: Unknown field
    message   = "more cores"
  }
  require {
    condition = changed(facts.bios.version, "7d") # ERROR: Unsupported in a site
    message   = "old firmware"
  }
  require {
    condition = !older(machine.looked_at, "7d") # ERROR: Unsupported in a site
    message   = "not looked at"
  }
  require {
    condition = missing(machine.last_seen) # ERROR: Unsupported in a site
    message   = "seen"
  }
  require {
    condition = any([for l in machine.leases : l.network == "edge"]) # ERROR: Unsupported in a site
    message   = "no lease"
  }
}
variable "least" {
  default = 1
}
