# What a site says of its tills.

variable "name" {
  type        = string
  description = "What the tills are called, the first part of their hostnames."

  validation {
    condition     = length(var.name) <= 20
    error_message = "The name of a till has at most 20 characters."
  }
}

# A machine, a network or an image passes through a variable of type any.
variable "network" {
  type = any
}

variable "macs" {
  type        = map(string)
  description = "MACs by the key of the till."
}

variable "first_host" {
  type        = number
  default     = null
  description = "Host number of the first till; null: another server gives addresses."
}

variable "bmc_network" {
  type        = string
  default     = null
  description = "Where the BMCs are, at the same host numbers; null: there are none."
}

variable "bmc_password" {
  type      = string
  sensitive = true
  default   = ""
}

variable "banner" {
  type    = string
  default = "Kept by edge-provision."
}
