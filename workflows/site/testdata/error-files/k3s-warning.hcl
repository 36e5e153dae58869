site "odd" {}
network "services" {
  interface = "eth1"
  cidr      = "10.0.0.0/8" # WARNING: Network overlaps with the cluster
}
