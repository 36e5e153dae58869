site "bad" {}
site "two" { # ERROR: Duplicate block
}
machines "a" { # ERROR: Unsupported block type | Did you mean "machine"?
}
removed { # ERROR: Not supported in this version
}
network { # ERROR: Wrong block labels
}
network "a" "b" { # ERROR: Wrong block labels
}
image "-x" { # ERROR: Invalid name
}
locals {
  a = 1
  b { # ERROR: Unsupported block type
  }
}
locals {
  a = 2 # ERROR: Duplicate local
}
output "o" {
  value = 1
}
output "o" { # ERROR: Duplicate block
  value = 1
}
name = "x" # ERROR: Unsupported argument
workflow "w" {
  stage "a" "b" { # ERROR: Unsupported block type
  }
  step "ssj" "x" { # ERROR: Unknown step type | Did you mean "ssh"?
  }
  step "ssh" { # ERROR: Wrong block labels
  }
}
