site "bad" {}
variable "missing" { # ERROR: Missing variable value | EDGE_VAR_missing
  type = string
}
variable "typed" {
  type    = number
  default = "seven" # ERROR: Invalid variable value
}
variable "refused" { # ERROR: Invalid variable value | at least ten
  type    = string
  default = "short"
  validation {
    condition     = length(var.refused) >= 10
    error_message = "It has at least ten characters."
  }
}
variable "odd" {
  typ       = string # ERROR: Unsupported argument | Did you mean "type"?
  default   = 1
  sensitive = "very" # ERROR: Wrong type
}
variable "half" {
  default = 1
  validation { # ERROR: Incomplete validation
    condition = true
  }
}
output "near" {
  value = var.hlaf # ERROR: Unknown reference | Did you mean "half"?
}
variable "secret" {
  sensitive = true
  default   = "hunter2"
}
output "leak" {
  value = "password: ${var.secret}" # ERROR: Sensitive value in output
}
network "edge" {
  interface = var.secret # ERROR: Sensitive value not allowed here
  cidr      = "10.0.0.0/24"
}
machine "m" {
  for_each = toset([var.secret]) # ERROR: Sensitive value not allowed here
}
