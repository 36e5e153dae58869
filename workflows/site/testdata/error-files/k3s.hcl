site "bad" {}
network "pods" {
  interface = "eth1"
  cidr      = "10.42.7.0/24" # ERROR: Network overlaps with the cluster
}
machine "m" {
  mac     = "52:54:00:00:00:01"
  network = network.pods
  address = "10.42.7.2"
}
workflow "w" {
  step "k3s" "cluster" {
    servers = machine.m
  }
}
