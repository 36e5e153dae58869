site "bad" {}
locals {
  list = ["a", "b"]
}
machine "list" {
  for_each = local.list # ERROR: Wrong type | toset()
}
machine "both" {
  for_each = {}
  count    = 1 # ERROR: Both for_each and count
}
machine "half" {
  count = 0.5 # ERROR: Wrong type
}
machine "many" {
  count = 1000000 # ERROR: Wrong type
}
machine "late" {
  count = machine.ssh.facts.cpu.cores # ERROR: Value must be known | (known after inspection)
}
machine "ssh" {
  address = "10.0.0.1"
  ssh {
  }
}
machine "named" {
  hostname = machine.ssh.facts.system.serial # ERROR: Value must be known | "hostname"
  address  = "10.0.0.2"
  ssh {
  }
}
network "keyed" {
  for_each  = toset(["x"])
  interface = count.index # ERROR: Unknown reference | count can only
  cidr      = "10.9.0.0/24"
}
network "function" {
  interface = uper("x")              # ERROR: Call to unknown function
  cidr      = cidrhost("10.8.0.0/24", 300) # ERROR: Invalid function argument | no host number
}
output "file" {
  value = file("/etc/passwd") # ERROR: Invalid function argument | not allowed here
}
output "env" {
  value = env("HOME") # ERROR: Error in function call | not allowed here
}
output "wide" {
  value = format("%9999999d", 1) # ERROR: Invalid function argument | three digits
}
