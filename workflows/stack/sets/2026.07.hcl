# A set of versions that belong together. Every pair says who says so, and how
# it is known: "documented" by its vendor, or "run" by a test of this project.
# What is not written here is not known.
stack "2026.07" {
  after = "2026.03" # apply this one first when coming from an older one

  component "k3s" {
    range {
      from  = "1.35.0"
      below = "1.36.0"
    }
    # "Ensure that your plan does not skip intermediate minor versions"
    one_minor_at_a_time = "https://docs.k3s.io/upgrades/manual"
  }

  component "calico" {
    recommended = "3.32.1"
    range {
      from  = "3.32.0"
      below = "3.33.0"
    }
  }

  component "portworx" {
    recommended = "3.6.1"
    range {
      from  = "3.6.0"
      below = "3.7.0"
    }
  }

  component "fluentd" {
    recommended = "1.19.3"
    range {
      from  = "1.19.0"
      below = "1.20.0"
    }
  }

  component "prometheus" {
    recommended = "3.14.0"
    range {
      from  = "3.14.0"
      below = "3.15.0"
    }
  }

  component "kernel" {
    range {
      from = "5.10.0" # the pages below name no end
    }
  }

  pair "calico" "k3s" {
    status = "documented"
    source = "https://docs.tigera.io/calico/3.32/getting-started/kubernetes/requirements"
    says   = "Calico 3.32 is tested against Kubernetes 1.34, 1.35 and 1.36"
  }

  pair "calico" "kernel" {
    status = "documented"
    source = "https://docs.tigera.io/calico/3.32/getting-started/kubernetes/requirements"
    says   = "Linux kernel 5.10 or later; Debian 10 or later is known to work"
  }

  pair "k3s" "kernel" {
    status = "documented"
    source = "https://kubernetes.io/docs/concepts/architecture/cgroups/"
    says   = "control groups v2, which the kubelet uses, need Linux kernel 5.8 or later"
  }

  pair "k3s" "portworx" {
    status = "documented"
    source = "https://raw.githubusercontent.com/portworx/helm/master/stable/index.yaml"
    says   = "the chart asks for Kubernetes >=1.26.0-0; an upper bound, and K3s by name, are not given there"
  }

  pair "fluentd" "k3s" {
    status = "documented"
    source = "https://kubernetes.io/docs/reference/using-api/deprecation-policy/"
    says   = "its objects are of v1, apps/v1 and rbac.authorization.k8s.io/v1, which Kubernetes 1.x does not remove"
  }

  pair "k3s" "prometheus" {
    status = "documented"
    source = "https://kubernetes.io/docs/reference/using-api/deprecation-policy/"
    says   = "its objects are of v1, apps/v1 and rbac.authorization.k8s.io/v1, which Kubernetes 1.x does not remove"
  }

  # The vendor's list of kernels is not quoted here, so kernel/portworx is not
  # known: https://docs.portworx.com/portworx-enterprise/support/kernels-distros-support-policy
  unknown "kernel" "portworx" {
    advice = "look the kernel up in the vendor's list of supported kernels, then allow the pair"
  }
}
