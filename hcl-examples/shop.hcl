# A shop with one machine that is a whole cluster. There is nothing beside it
# that could take its work, so that its data are what counts: etcd is saved every
# few hours.

site "shop" {}

variable "k3s_sha256" {
  description = "Of the k3s binary: the line \"k3s\" of the release's sha256sum-amd64.txt."
  type        = string
  default     = "0000000000000000000000000000000000000000000000000000000000000000"
}

variable "images_sha256" {
  description = "Of its images: the line \"k3s-airgap-images-amd64.tar.zst\"."
  type        = string
  default     = "0000000000000000000000000000000000000000000000000000000000000000"
}

network "lan" {
  interface = "eth1"
  cidr      = "192.168.60.0/24" # not in 10.42.0.0/16 and 10.43.0.0/16, which are pods and services
  gateway   = "192.168.60.1"
  dns       = ["192.168.60.1"]
  ntp       = ["192.168.60.1"] # a node with a wrong clock is refused
}

image "debian" {
  distribution = "debian"
  release      = "bookworm"
  packages     = ["openssh-server", "chrony", "iptables"]
}

machine "till" {
  mac     = "52:54:00:60:00:0a"
  network = network.lan
  address = "192.168.60.10"
  image   = image.debian
}

workflow "platform" {
  step "k3s" "cluster" {
    version = "v1.36.3+k3s1"
    servers = machine.till

    binary {
      source = "files/k3s"
      sha256 = var.k3s_sha256
    }
    images {
      source = "files/k3s-airgap-images-amd64.tar.zst"
      sha256 = var.images_sha256
    }
    snapshots {
      schedule  = "0 */4 * * *"
      retention = 12
    }
  }
}

output "api" {
  value = workflow.platform.step.k3s.cluster.endpoint
}
