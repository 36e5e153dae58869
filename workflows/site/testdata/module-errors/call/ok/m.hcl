variable "size" { # ERROR: Invalid variable value
  type    = number
  default = 1
  validation {
    condition     = var.size < 50
    error_message = "too large"
  }
}
variable "network" {
  type = any
}
output "size" {
  value = var.size
}
