# The definition that all sites share.

locals {
  keys = keys(var.macs)
}

image "till" {
  distribution = "debian"
  release      = "bookworm"
  packages     = ["openssh-server", "chrony"]
}

machine "till" {
  for_each = var.macs

  mac      = each.value
  hostname = "${var.name}-${each.key}"
  network  = var.network
  address  = var.first_host == null ? null : cidrhost(var.network.cidr, var.first_host + index(local.keys, each.key))
  image    = image.till

  bmc {
    driver   = var.bmc_network == null ? "none" : "redfish"
    address  = var.bmc_network == null ? null : "https://${cidrhost(var.bmc_network, var.first_host + index(local.keys, each.key))}"
    username = var.bmc_network == null ? null : "admin"
    password = var.bmc_network == null ? null : var.bmc_password
  }

  root_disk {
    match  = disk.bytes >= GiB(8)
    select = "smallest"
  }
}

workflow "till" {
  step "file" "banner" {
    hosts   = values(machine.till)
    path    = "/etc/motd"
    content = "${var.banner}\n"
  }
}

output "tills" {
  value = values(machine.till)
}

output "addresses" {
  value = { for key, till in machine.till : till.hostname => till.address }
}
