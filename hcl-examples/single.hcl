# The smallest complete site: one machine, one image, one network.

site "single" {}

variable "bmc_password" {
  description = "Set EDGE_VAR_bmc_password, or use --var-file."
  type        = string
  sensitive   = true # never shown, logged or kept

  validation {
    condition     = length(var.bmc_password) >= 8
    error_message = "A BMC password has at least 8 characters."
  }
}

variable "bmc_fingerprint" {
  description = "SHA-256 of the BMC's certificate, 64 hexadecimal digits, colons allowed."
  type        = string
  default     = null # null is the same as not written
}

network "lan" {
  interface = "eth1"
  cidr      = "192.168.50.0/24"
  gateway   = "192.168.50.1"
  dns       = ["192.168.50.1"]

  # Without a dhcp block the declared machines, and only those, are served.
}

image "debian" {
  distribution = "debian"
  release      = "bookworm"
  packages     = ["openssh-server"]
}

# Without for_each the address is machine.gateway and the hostname gateway.
machine "gateway" {
  mac     = "52:54:00:50:00:0a"
  network = network.lan
  address = "192.168.50.10"
  image   = image.debian

  bmc {
    driver   = "redfish"
    address  = "https://192.168.50.210"
    username = "admin"
    password = var.bmc_password
    # A BMC signs its certificate itself, so pin it: its SHA-256 goes here. A
    # CA that signed it goes into ca_cert instead. With neither, the
    # certificate must be one that this host trusts.
    fingerprint = var.bmc_fingerprint
  }

  user "ops" {
    sudo = true
    authorized_keys = [
      "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEDGVQ/HsZEtQ5k1sMbJJKVJ7KTwoJpXXCtWNzMmhwkW ops@example",
    ]
  }

  # Without a root_disk block the machine must have exactly one disk.

  rack {
    memory = GiB(1)
  }
}

output "address" {
  value = machine.gateway.address
}
