site "bad" {}
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  gateway   = machine.router.address
}
machine "router" {
  mac     = "52:54:00:00:00:01"
  network = network.edge # ERROR: Dependency cycle | network.edge refers to machine.router
  address = "172.22.0.1"
}
