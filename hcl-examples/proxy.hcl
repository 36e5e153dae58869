# Beside a DHCP server that somebody else runs and that stays as it is: it
# gives the addresses, edge-provision adds the boot answers (proxyDHCP).

site "proxy" {}

network "lan" {
  interface = "eth1"
  cidr      = "172.23.0.0/24"

  dhcp {
    mode = "proxy" # no range: the addresses are the other server's
  }
}

image "edge-os" {
  distribution = "debian"
  release      = "bookworm"
  kernel       = "cloud"
  packages     = ["openssh-server"]
}

machine "till" {
  mac     = "52:54:00:23:00:01"
  network = network.lan
  image   = image.edge-os

  # No address: it keeps what the other server gives it, and
  # machine.till.address is known after inspection.

  # No bmc block: plan says which machine to switch on, and apply waits for it.

  rack {
    firmware = "uefi"
    memory   = GiB(1)
  }
}

workflow "check" {
  step "ssh" "hello" {
    hosts   = machine.till
    command = "echo ${machine.till.address} > /run/known-as"
    creates = "/run/known-as"
  }
}
