# A shop with one machine that is a whole cluster, and watches itself. There is
# nothing beside it that could take its work, so that its data are what counts:
# etcd is saved every few hours.
#
# `make demo CLUSTER=1` applies this site to an emulated machine, with values for
# its variables that fit what stands in for K3s there.

site "shop" {}

variable "bmc_password" {
  description = "Set EDGE_VAR_bmc_password, or use --var-file."
  type        = string
  sensitive   = true
}

variable "k3s_version" {
  type    = string
  default = "v1.36.3+k3s1"
}

variable "files" {
  description = "What is installed: where each file is, and its SHA-256. That of k3s is the line \"k3s\" of the release's sha256sum-amd64.txt."
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
    # The three images of the prometheus step, as `docker save` writes them.
    monitoring = {
      source = "files/monitoring.tar"
      sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
    }
  }
}

variable "k3s_settings" {
  description = "More of K3s's own settings, as YAML."
  type        = string
  default     = ""
}

variable "packages" {
  description = "What the system has beside its base."
  type        = list(string)
  default     = ["openssh-server", "chrony", "iptables"]
}

variable "kernel" {
  description = "generic for real machines; cloud is smaller, for virtual ones."
  type        = string
  default     = "generic"
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
  kernel       = var.kernel
  packages     = var.packages
}

machine "till" {
  mac     = "52:54:00:60:00:0a"
  network = network.lan
  address = "192.168.60.10"
  image   = image.debian

  bmc {
    driver   = "redfish"
    address  = "https://192.168.64.10"
    username = "admin"
    password = var.bmc_password
  }

  require {
    condition = facts.memory.bytes >= GiB(2)
    message   = "a server of K3s with monitoring beside it needs 2 GiB of memory"
  }

  rack {
    firmware   = "uefi"
    cpus       = 2
    memory     = GiB(3)
    boot_order = ["network", "disk"]

    disk {
      size   = GiB(8)
      serial = "SHOP-0"
    }
  }
}

workflow "platform" {
  # K3s ends when its controllers lose the lease of their leader, which happens
  # on a machine that is too slow for ten seconds. One server has no other to
  # which it could lose it.
  step "file" "settings" {
    hosts   = machine.till
    path    = "/etc/rancher/k3s/config.yaml.d/one-server.yaml"
    content = <<-EOT
      kube-controller-manager-arg+: [leader-elect=false]
      kube-scheduler-arg+: [leader-elect=false]
      ${var.k3s_settings}
    EOT
  }

  step "k3s" "cluster" {
    version       = var.k3s_version
    servers       = machine.till
    disable       = ["traefik", "servicelb"]
    start_timeout = "30m" # a small machine takes long over many images
    timeout       = "40m"
    depends_on    = [step.file.settings]

    binary {
      source = var.files["k3s"].source
      sha256 = var.files["k3s"].sha256
    }
    images {
      source = var.files["images"].source
      sha256 = var.files["images"].sha256
    }
    images {
      source = var.files["monitoring"].source
      sha256 = var.files["monitoring"].sha256
    }
    snapshots {
      schedule  = "0 */4 * * *"
      retention = 12
    }
    retry {
      attempts = 3
      backoff  = "20s"
    }
  }

  # Done when Prometheus reaches all its targets and evaluates its rules.
  step "prometheus" "metrics" {
    cluster                  = step.k3s.cluster
    image                    = "quay.io/prometheus/prometheus:v3.14.0"
    node_exporter_image      = "quay.io/prometheus/node-exporter:v1.12.1"
    kube_state_metrics_image = "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0"
    preloaded                = true
    ephemeral                = true # a restart forgets what was measured, and wears no disk
    timeout                  = "30m"

    retry {
      attempts = 3
      backoff  = "20s"
    }
  }

  # Two questions, asked once, for the outputs.
  step "ssh" "nodes" {
    hosts      = machine.till
    command    = "k3s kubectl get nodes --no-headers"
    depends_on = [step.prometheus.metrics]
  }

  step "ssh" "targets" {
    hosts   = machine.till
    command = "k3s kubectl get --raw '/api/v1/namespaces/${step.prometheus.metrics.namespace}/services/prometheus:9090/proxy/api/v1/query?query=up'"
  }
}

output "api" {
  value = workflow.platform.step.k3s.cluster.endpoint
}

output "nodes" {
  description = "As the cluster lists them."
  value       = [for text in values(workflow.platform.step.ssh.nodes.stdout) : trimspace(text)]
}

output "targets" {
  description = "What Prometheus scrapes, and whether it answered: 1 or 0."
  value = merge([
    for text in values(workflow.platform.step.ssh.targets.stdout) :
    { for series in jsondecode(text).data.result : "${series.metric.job} ${series.metric.instance}" => series.value[1] }
  ]...)
}
