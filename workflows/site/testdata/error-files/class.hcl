site "bad" {}
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
  dhcp {
    range = "172.22.0.100-172.22.0.199"
  }
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
class "no_rule" { # ERROR: Missing required argument
}
class "small" {
  match = facts.memory.byts < GiB(2) # ERROR: Unknown field | Did you mean "bytes"?
}
class "twice" {
  match = facts.cpu.cores > 1
}
class "twice" { # ERROR: Duplicate block
  match = facts.cpu.cores > 2
}
class "first" {
  match = class.second # ERROR: Unknown reference | can only be the match of a machine
}
class "second" {
  match = contains(machine.classes, "first") # ERROR: Class refers to classes
}
class "recent" {
  match = changed(facts.bios.version, "7d") # ERROR: Unsupported in a site
}
class "each" {
  for_each = { a = 1 } # ERROR: Unsupported argument
  match    = facts.cpu.cores > 1
}
class "idle" {
  match = facts.cpu.cores > 1
  react { # ERROR: Reaction without work
  }
}
class "limits" {
  match = facts.cpu.cores > 1
  react {
    provision = machine.limited
    at_once   = 0     # ERROR: Number out of range
    per_hour  = 20000 # ERROR: Number out of range
  }
}
class "unknowns" {
  match = facts.cpu.cores > 1
  react {
    provision = machine.limitd    # ERROR: Unknown reference | Did you mean "limited"?
    workflow  = workflow.greetings # ERROR: Unknown reference | Did you mean "greeting"?
    delete    = true              # ERROR: Unsupported argument
  }
}
class "values" {
  match = facts.cpu.cores > 1
  react {
    provision = "machine.limited"         # ERROR: Wrong type | without quotes
    workflow  = workflow.greeting.step.ssh # ERROR: Wrong type | a whole workflow
  }
}
class "other" {
  match = facts.cpu.cores > 1
  react {
    provision = machine.limited # ERROR: Machine of another class | match = class.other
  }
}
class "bare" {
  match = facts.cpu.cores > 1
  react {
    provision = machine.bare # ERROR: Nothing to install
  }
}
class "key" {
  match = facts.cpu.cores > 1
  react {
    provision = machine.many["c"] # ERROR: Unknown reference | no such instance
  }
}
machine "limited" {
  match   = class.limits
  network = network.edge
  image   = image.os
}
machine "bare" {
  match   = class.bare
  network = network.edge
}
machine "many" {
  for_each = toset(["a", "b"])
  match    = class.key
  network  = network.edge
  image    = image.os
}
machine "misspelt" {
  match   = class.limit # ERROR: Unknown reference | Did you mean "limits"?
  network = network.edge
}
machine "inside" {
  match   = class.limits && facts.cpu.cores > 8 # ERROR: Class inside an expression | contains(machine.classes
  network = network.edge
}
machine "required" {
  mac     = "52:54:00:00:00:01"
  network = network.edge
  require {
    condition = class.limits # ERROR: Unknown reference | machine.classes
    message   = "no"
  }
}
workflow "greeting" {
}
