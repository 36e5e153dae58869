# A shop with three machines, any one of which may fail. All three are servers,
# and one more machine runs pods only.

site "shop-ha" {}

variable "k3s_version" {
  type    = string
  default = "v1.36.3+k3s1"
}

variable "files" {
  description = "What is installed: where each file is, and its SHA-256: the lines \"k3s\" and \"k3s-airgap-images-amd64.tar.zst\" of the release's sha256sum-amd64.txt."
  type        = map(object({ source = string, sha256 = string }))
  default = {
    k3s = {
      source = "files/k3s"
      sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    }
    images = {
      source = "files/k3s-airgap-images-amd64.tar.zst"
      sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    }
  }
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
  mac     = "52:54:00:61:00:14"
  network = network.lan
  address = "192.168.61.14"
  image   = image.debian
}

workflow "platform" {
  # One server begins the cluster, the others join it one after the other, then
  # the agents. It is later upgraded in the same order, a node at a time.
  step "k3s" "cluster" {
    version = var.k3s_version
    servers = values(machine.node)
    agents  = machine.camera
    profile = "cis"
    tls_san = ["api.shop.example"]
    disable = ["traefik", "servicelb"]
    timeout = "1h"

    binary {
      source = var.files["k3s"].source
      sha256 = var.files["k3s"].sha256
    }
    images {
      source = var.files["images"].source
      sha256 = var.files["images"].sha256
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
