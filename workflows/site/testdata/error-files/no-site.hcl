# ERROR: Missing site block
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
}
