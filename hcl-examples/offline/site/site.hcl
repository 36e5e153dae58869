# A store without internet: everything comes from one signed file.
#
#   edge-provision bundle key -o bundle.key
#   edge-provision bundle build site.hcl -o site.bundle --key bundle.key
#   edge-provision apply -bundle site.bundle site.hcl
#
# K3s and its images are fetched once, where the bundle is built. Their digests
# are the lines "k3s" and "k3s-airgap-images-amd64.tar.zst" of the release's
# sha256sum-amd64.txt: put them here instead of the zeros, which fit no file.

variable "k3s_version" {
  type    = string
  default = "v1.36.3+k3s1"
}

variable "k3s" {
  type = object({ source = string, sha256 = string })
  default = {
    source = "https://github.com/k3s-io/k3s/releases/download/v1.36.3%2Bk3s1/k3s"
    sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
  }
}

variable "k3s_images" {
  type = object({ source = string, sha256 = string })
  default = {
    source = "https://github.com/k3s-io/k3s/releases/download/v1.36.3%2Bk3s1/k3s-airgap-images-amd64.tar.zst"
    sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
  }
}

# Not in the bundle: it is given where the site is applied.
variable "till_key" {
  type      = string
  sensitive = true
  default   = "change-me-on-site"
}

variable "stack" {
  description = "The set of versions; one that this program does not have is given with --stack-set."
  type        = string
  default     = "2026.11"
}

site "store-0815" {
  stack = var.stack
  # Whose bundles this site takes: what "bundle key" printed.
  trusted_keys = ["ed25519:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
}

# A machine that runs already; with an image instead, that would be in the bundle, too.
machine "node" {
  ssh {
    host = "192.0.2.11"
  }
}

workflow "platform" {
  step "file" "key" {
    hosts   = machine.node
    path    = "/etc/till.key"
    content = var.till_key
    mode    = "0600"
  }

  step "k3s" "cluster" {
    version = var.k3s_version
    servers = machine.node
    binary {
      source = var.k3s.source
      sha256 = var.k3s.sha256
    }
    images {
      source = var.k3s_images.source
      sha256 = var.k3s_images.sha256
    }
  }

  # The image that its pod runs goes into the bundle, and from there onto the node.
  step "manifest" "till" {
    cluster = step.k3s.cluster
    manifest {
      source = "app.yaml"
      sha256 = "ff826d76a137c458eceb9bd3109a41738996bc5bc959eab04e0213c950b35101"
    }
  }
}
