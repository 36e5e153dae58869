# A clinic with three machines, any one of which may fail: K3s with a network of
# tenants, replicated storage, logs that survive a cut uplink, monitoring of its
# own, and a program on each machine. Everything comes from one signed file:
#
#   edge-provision bundle key -o bundle.key
#   edge-provision bundle build site --key bundle.key -o clinic.bundle
#   edge-provision apply -bundle clinic.bundle --trust-key ed25519:… site

variable "stack" {
  description = "The set of versions; one that this program does not have is given with --stack-set."
  type        = string
  default     = "2026.11"
}

site "clinic" {
  stack       = var.stack
  stack_allow = ["kernel/portworx"] # the vendor's list of kernels was looked at by hand
}

variable "k3s_version" {
  type    = string
  default = "v1.36.3+k3s1"
}

variable "files" {
  description = "What is installed: where each file is, and its SHA-256. They are got once."
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
    operator = {
      source = "files/tigera-operator.yaml"
      sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    }
    definitions = {
      source = "files/operator-crds.yaml"
      sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    }
    portworx = {
      source = "files/portworx.yaml"
      sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    }
    # A chart of the clinic's own.
    viewer = {
      source = "files/viewer-1.0.0.tgz"
      sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    }
  }
}

variable "portworx_versions" {
  description = "Which images Portworx's operator runs; without the internet it can ask nobody."
  type        = string
  # The answer of https://install.portworx.com/3.6.1/version?kbver=1.36.3&opver=26.2.1
  # belongs here, with the three components that it leaves out.
  default = <<-EOT
    version: 3.6.1
    components:
      kubeControllerManager: registry.k8s.io/kube-controller-manager-amd64:v1.36.3
      kubeScheduler: registry.k8s.io/kube-scheduler-amd64:v1.36.3
      pause: registry.k8s.io/pause:3.1
  EOT
}

variable "bmc_password" {
  type      = string
  sensitive = true
}

variable "log_sink" {
  description = "Where logs go, and where one asks whether a line has arrived."
  type        = object({ url = string, search = string })
  default = {
    url    = "https://logs.example/ingest"
    search = "https://logs.example/search?q={marker}"
  }
}

variable "log_token" {
  description = "Shown to the sink of logs. Not in the bundle: it is given where the site is applied."
  type        = string
  sensitive   = true
  default     = "Bearer change-me"
}

variable "waive" {
  description = "Demands of Portworx that a trial on small machines goes without: \"cores\", \"memory\"."
  type        = list(string)
  default     = []
}

network "lan" {
  interface = "eth1"
  cidr      = "192.168.62.0/24"
  gateway   = "192.168.62.1"
  dns       = ["192.168.62.1"]
  ntp       = ["192.168.62.1"]
}

image "debian" {
  distribution = "debian"
  release      = "bookworm"
  packages     = ["openssh-server", "chrony", "iptables", "nfs-common"] # files that pods share go by NFS
}

machine "node" {
  for_each = { a = 11, b = 12, c = 13 }

  mac     = "52:54:00:62:00:${each.value}"
  network = network.lan
  address = cidrhost(network.lan.cidr, each.value)
  image   = image.debian

  bmc {
    driver   = "redfish"
    address  = "https://192.168.63.${each.value}"
    username = "admin"
    password = var.bmc_password
  }

  root_disk {
    match = disk.bytes < GiB(32)
  }

  require {
    condition = facts.memory.bytes >= GiB(7) && length(facts.disks) >= 3
    message   = "a node stores for the others, too: it needs memory, a disk for data and one for keys"
  }
}

workflow "platform" {
  step "k3s" "cluster" {
    version = var.k3s_version
    servers = values(machine.node)
    cni     = "calico"
    timeout = "1h"

    binary {
      source = var.files["k3s"].source
      sha256 = var.files["k3s"].sha256
    }
    images {
      source = var.files["images"].source
      sha256 = var.files["images"].sha256
    }
  }

  # Two tenants that cannot reach each other.
  step "calico" "network" {
    cluster   = step.k3s.cluster
    version   = "v3.32.1"
    node_cidr = network.lan.cidr
    tenants   = ["patients", "cameras"]

    manifest {
      source = var.files["operator"].source
      sha256 = var.files["operator"].sha256
    }
    manifest {
      source = var.files["definitions"].source
      sha256 = var.files["definitions"].sha256
    }
  }

  # The large disks are for data, the others for Portworx's keys. edge-database
  # keeps three copies.
  step "portworx" "storage" {
    depends_on = [step.calico.network]

    cluster   = step.k3s.cluster
    nodes     = values(machine.node)
    image     = "portworx/oci-monitor:3.6.1"
    versions  = var.portworx_versions
    kvdb_disk = "disk.bytes >= GiB(32) && disk.bytes < GiB(100)"
    disks     = "disk.bytes >= GiB(100)"
    waive     = var.waive
    timeout   = "1h" # Portworx takes a quarter of an hour to come up

    snapshots {
      every_minutes = 60
      retain        = 24
    }
    manifest {
      source = var.files["portworx"].source
      sha256 = var.files["portworx"].sha256
    }
  }

  # For what may be lost with its machine.
  step "local_path" "scratch" {
    cluster    = step.k3s.cluster
    depends_on = [step.calico.network]
  }

  # A day without an uplink fits into the buffer.
  step "fluentd" "logs" {
    depends_on = [step.calico.network]

    cluster    = step.k3s.cluster
    image      = "docker.io/fluent/fluentd-kubernetes-daemonset:v1.19.3-debian-forward-1.0"
    verify_url = var.log_sink.search

    http {
      url           = var.log_sink.url
      authorization = var.log_token
    }
    buffer {
      limit_bytes = GiB(1)
      drop_oldest = true
    }
  }

  step "prometheus" "metrics" {
    cluster                  = step.k3s.cluster
    image                    = "quay.io/prometheus/prometheus:v3.14.0"
    node_exporter_image      = "quay.io/prometheus/node-exporter:v1.12.1"
    kube_state_metrics_image = "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0"
    storage_class            = step.portworx.storage.database_class
    retention_days           = 7
  }

  # A database for the patients, on three copies.
  step "manifest" "database" {
    cluster   = step.k3s.cluster
    namespace = step.calico.network.tenants[0]
    wait      = false
    content   = <<-EOT
      apiVersion: v1
      kind: PersistentVolumeClaim
      metadata:
        name: records
      spec:
        storageClassName: ${step.portworx.storage.database_class}
        accessModes: [ReadWriteOnce]
        resources:
          requests:
            storage: 20Gi
    EOT
  }

  # The program that the doctors use, on each machine.
  step "helm" "viewer" {
    cluster    = step.k3s.cluster
    depends_on = [step.calico.network]
    namespace  = "viewer"
    values     = { replicas = length(machine.node), image = "registry.example/clinic/viewer:2026.11" }

    chart {
      source = var.files["viewer"].source
      sha256 = var.files["viewer"].sha256
    }
  }
}

output "kubeconfig" {
  value     = workflow.platform.step.k3s.cluster.kubeconfig
  sensitive = true
}
