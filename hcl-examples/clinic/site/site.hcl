# A clinic with three machines, any one of which may fail: K3s with a network of
# tenants, replicated storage, logs that survive a cut uplink, and monitoring of
# its own. The files are got once, and named here by their digests.

site "clinic" {
  stack       = "2026.11"
  stack_allow = ["kernel/portworx"] # the vendor's list of kernels was looked at by hand
}

variable "sha256" {
  description = "Digests of the files, by name."
  type        = map(string)
  default = {
    k3s         = "0000000000000000000000000000000000000000000000000000000000000000"
    images      = "0000000000000000000000000000000000000000000000000000000000000000"
    operator    = "0000000000000000000000000000000000000000000000000000000000000000"
    definitions = "0000000000000000000000000000000000000000000000000000000000000000"
    portworx    = "0000000000000000000000000000000000000000000000000000000000000000"
  }
}

variable "bmc_password" {
  type      = string
  sensitive = true
}

variable "log_key" {
  description = "Shared with the sink of logs."
  type        = string
  sensitive   = true
  default     = "change-me"
}

variable "log_ca" {
  description = "The authority of the sink's certificate, PEM."
  type        = string
  default     = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
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
  packages     = ["openssh-server", "chrony", "iptables"]
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
    match  = disk.bytes >= GiB(32)
    select = "smallest"
  }

  require {
    condition = facts.memory.bytes >= GiB(7) && length(facts.disks) >= 2
    message   = "a node stores for the others, too: it needs memory and a second disk"
  }
}

workflow "platform" {
  step "k3s" "cluster" {
    version = "v1.36.3+k3s1"
    servers = values(machine.node)
    cni     = "calico"
    timeout = "1h"

    binary {
      source = "files/k3s"
      sha256 = var.sha256.k3s
    }
    images {
      source = "files/k3s-airgap-images-amd64.tar.zst"
      sha256 = var.sha256.images
    }
  }

  # Two tenants that cannot reach each other.
  step "calico" "network" {
    cluster   = step.k3s.cluster
    version   = "v3.32.1"
    node_cidr = network.lan.cidr
    tenants   = ["patients", "cameras"]

    manifest {
      source = "files/tigera-operator.yaml"
      sha256 = var.sha256.operator
    }
    manifest {
      source = "files/operator-crds.yaml"
      sha256 = var.sha256.definitions
    }
  }

  # Every disk that is free is for data. edge-database keeps three copies.
  step "portworx" "storage" {
    depends_on = [step.calico.network]

    cluster        = step.k3s.cluster
    nodes          = values(machine.node)
    image          = "portworx/oci-monitor:3.6.1"
    disks          = "disk.bytes >= GiB(100)"
    data_interface = "eth0"

    snapshots {
      every_minutes = 60
      retain        = 24
    }
    manifest {
      source = "files/portworx.yaml"
      sha256 = var.sha256.portworx
    }
  }

  # A day without an uplink fits into the buffer.
  step "fluentd" "logs" {
    depends_on = [step.calico.network]

    cluster = step.k3s.cluster
    image   = "docker.io/fluent/fluentd-kubernetes-daemonset:v1.19.3-debian-forward-1.0"

    forward {
      host       = "logs.example"
      ca         = var.log_ca
      shared_key = var.log_key
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
}

output "kubeconfig" {
  value     = workflow.platform.step.k3s.cluster.kubeconfig
  sensitive = true
}
