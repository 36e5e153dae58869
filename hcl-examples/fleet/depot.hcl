# The same tills as in store.hcl, at a depot: two of them, beside a DHCP server
# that is somebody else's, and without BMCs.

required_version = ">= 0.1"

site "depot-07" {
  labels = { region = "emea", tier = "logistics" }
}

network "yard" {
  interface = "eth0"
  cidr      = "172.26.7.0/24"

  dhcp {
    mode = "proxy"
  }
}

module "gate" {
  source = "./till"

  name    = "gate"
  network = network.yard
  macs    = { north = "52:54:00:26:07:01", south = "52:54:00:26:07:02" }
}

# The depot had one machine before it had the module.
moved {
  from = machine.gate
  to   = module.gate.machine.till["north"]
}

output "addresses" {
  value = module.gate.addresses
}
