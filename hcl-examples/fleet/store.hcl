# A store and a depot (depot.hcl) share one definition of a till: the module in
# till/. What differs from site to site is said here, what is the same there.

required_version = ">= 0.1"

site "store-0421" {
  labels = { region = "emea", tier = "retail" }
}

variable "bmc_password" {
  type      = string
  sensitive = true
}

network "shop" {
  interface = "eth1"
  cidr      = "172.26.21.0/24"
  gateway   = "172.26.21.1"
  dns       = ["172.26.21.1"]
}

# One instance of the module for each kind of lane. Machines have addresses such
# as module.lane["self"].machine.till["a"], for --target and everywhere else.
module "lane" {
  source = "./till"

  for_each = {
    staffed = { macs = { a = "52:54:00:26:21:01", b = "52:54:00:26:21:02" }, first = 11 }
    self    = { macs = { a = "52:54:00:26:21:03" }, first = 13 }
  }

  name         = each.key
  network      = network.shop
  macs         = each.value.macs
  first_host   = each.value.first
  bmc_network  = "172.26.121.0/24"
  bmc_password = var.bmc_password
  banner       = "Store 0421, ${each.key} lane"
}

workflow "opening" {
  # An output of a module can be machines; the step waits for them.
  step "wait" "tills" {
    hosts = flatten(values(module.lane)[*].tills)
  }

  # Or for everything that a module does.
  step "ssh" "announce" {
    hosts      = module.lane["staffed"].tills[0]
    command    = "logger 'the store is open'"
    depends_on = [module.lane]
  }
}

output "addresses" {
  value = { for name, lane in module.lane : name => lane.addresses }
}
