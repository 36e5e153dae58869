site "bad" {}
machine "node" {
  for_each = toset(["a", "b"])
  address  = "10.0.0.${each.key == "a" ? 1 : 2}"
  ssh {
  }
}
workflow "w" {
  step "ssh" "misspelt" {
    hosts     = machine.node["a"]
    chekc     = "true" # ERROR: Unsupported argument | Did you mean "check"?
    command   = "true"
    timeout   = "5"         # ERROR: Invalid duration
    on_failure = "rollback" # ERROR: Step cannot be undone
    when      = "perhaps"   # ERROR: Wrong type
    retry {
      attempts = 0     # ERROR: Number out of range
      backof   = "1s"  # ERROR: Unsupported argument | Did you mean "backoff"?
    }
  }
  step "ssh" "incomplete" { # ERROR: Missing required argument | "command"
    hosts = machine.node["c"] # ERROR: Invalid index | machine.node has no "c"; it has a, b.
  }
  step "ssh" "unknown" {
    hosts   = machine.nod         # ERROR: Unknown reference | Did you mean "node"?
    command = step.ssh.misspeld.x # ERROR: Unknown reference | Did you mean "ssh.misspelt"?
  }
  step "ssh" "output" {
    hosts   = machine.node["a"]
    command = join(",", keys(step.ssh.unknown.stdot)) # ERROR: Unsupported attribute | Did you mean "stdout"?
  }
  step "ssh" "fact" {
    hosts   = machine.node["a"]
    command = machine.node["a"].facts.memory.byte # ERROR: Unsupported attribute | Did you mean "bytes"?
  }
  step "file" "check" {
    hosts   = machine.node
    path    = "relative" # ERROR: Invalid path
    content = each.key   # ERROR: Unknown reference | for_each
  }
  step "ssh" "depends" {
    hosts      = machine.node["a"]
    command    = "true"
    depends_on = [
      step.ssh.nothing, # ERROR: Unknown reference | ssh.nothing
      "step.ssh.fact",  # ERROR: Invalid depends_on
      var.x,            # ERROR: Invalid depends_on
    ]
  }
}
