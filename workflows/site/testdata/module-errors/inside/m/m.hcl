variable "network" {}
variable "secret" {}
machine "node" { # ERROR: Hostname used twice
  mac     = "52:54:00:00:00:01" # ERROR: MAC used twice
  network = network.edge # ERROR: Unknown reference
  address = "172.23.0.9" # ERROR: Address used twice
  speed   = 1            # ERROR: Unsupported argument
}
machine "hidden" {
  mac     = var.secret # ERROR: Sensitive value not allowed here
  network = var.network
  address  = "172.22.0.8" # ERROR: Address used twice
  hostname = "hidden"     # ERROR: Hostname used twice
}
output "nodes" {
  value = machine.node
}
output "secret" {
  value = var.secret
}
