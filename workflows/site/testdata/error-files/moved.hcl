site "bad" {}
machine "m" {
  address = "10.0.0.1"
  ssh {
  }
}
moved {
  from = machine.old
  to   = machine.n # ERROR: Moved to nothing
}
moved {
  from = machine.m # ERROR: Moved from something declared
  to   = machine.m
}
moved { # ERROR: Missing required argument
  from = "machine.x" # ERROR: Invalid address
}
