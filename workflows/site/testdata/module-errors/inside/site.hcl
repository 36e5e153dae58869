site "bad" {}
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
}
module "m" {
  source   = "./m"
  for_each = toset(["a", "b"])
  network  = network.edge
  secret   = sensitive("hunter2")
}
workflow "w" {
  step "nonsense" "x" { # ERROR: Unknown step type
    hosts = machine.nothing # ERROR: Unknown reference
  }
  step "ssh" "after" {
    hosts      = module.m["a"].nodes
    command    = step.nonsense.x.anything
    depends_on = [step.nonsense.x, module.m["c"]] # ERROR: Unknown reference
  }
  step "ssh" "shadow" {
    hosts   = local.nothing # ERROR: Unknown reference
    comand  = "true"         # ERROR: Unsupported argument
    command = "true"
  }
}
output "secret" {
  value = module.m["a"].secret # ERROR: Sensitive value in output
}
