# An image that somebody else built: raw, qcow2, or zstd over raw, from a path
# or a URL. The digest is of the file as it is stored (sha256sum FILE); bytes
# with another digest are never written.

site "imported" {}

network "lan" {
  interface = "eth1"
  cidr      = "172.26.0.0/24"
  gateway   = "172.26.0.1"

  dhcp {
    mode = "server"
  }
}

image "cloud" {
  source   = "images/debian-12-genericcloud-amd64.qcow2" # relative to this file
  digest   = "sha256:8a3f5f6c0b1e4d7792c60d1e5a9b48f3c27d06e1b9f45a830c6d2e7f91b4a056"
  format   = "qcow2"
  firmware = ["bios", "uefi"]
}

machine "kiosk" {
  mac     = "52-54-00-26-00-01" # any usual notation of a MAC
  network = network.lan
  address = "172.26.0.11"
  image   = image.cloud

  # Imported cloud images get their hostname, users and keys as NoCloud data.
  user "ops" {
    sudo            = true
    authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEDGVQ/HsZEtQ5k1sMbJJKVJ7KTwoJpXXCtWNzMmhwkW ops@example"]
  }

  rack {
    firmware = "bios"
    memory   = GiB(1)
    disk {
      size = GiB(8)
    }
  }
}
