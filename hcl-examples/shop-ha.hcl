# A shop with three machines, any one of which may fail. All three are servers,
# and one more machine runs pods only.

site "shop-ha" {}

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
  cidr      = "192.168.61.0/24"
  gateway   = "192.168.61.1"
  dns       = ["192.168.61.1"]
  ntp       = ["192.168.61.1"]
}

image "debian" {
  distribution = "debian"
  release      = "bookworm"
  packages     = ["openssh-server", "chrony", "iptables"]
}

machine "node" {
  for_each = { a = 11, b = 12, c = 13 }

  mac     = "52:54:00:61:00:${each.value}"
  network = network.lan
  address = cidrhost(network.lan.cidr, each.value)
  image   = image.debian
}

machine "camera" {
  mac     = "52:54:00:61:00:20"
  network = network.lan
  address = "192.168.61.20"
  image   = image.debian
}

workflow "platform" {
  # One server begins the cluster, the others join it one after the other, then
  # the agents. It is later upgraded in the same order, a node at a time.
  step "k3s" "cluster" {
    version = "v1.36.3+k3s1"
    servers = values(machine.node)
    agents  = machine.camera
    profile = "cis"
    tls_san = ["api.shop.example"]
    disable = ["traefik", "servicelb"]
    timeout = "1h"

    binary {
      source = "files/k3s"
      sha256 = var.k3s_sha256
    }
    images {
      source = "files/k3s-airgap-images-amd64.tar.zst"
      sha256 = var.images_sha256
    }
    # Only what watches the shop runs beside the camera.
    node {
      machine = machine.camera
      labels  = { "shop/camera" = "yes" }
      taints  = ["shop/camera=yes:NoSchedule"]
    }
    snapshots {
      schedule  = "0 */4 * * *"
      retention = 12
      named     = ["before-stocktaking"] # taken once
    }
  }
}

output "kubeconfig" {
  value     = workflow.platform.step.k3s.cluster.kubeconfig
  sensitive = true
}
