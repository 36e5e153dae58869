# The versions of what clusters of tests run: stand-ins, most of them, that say so
# (docs/standin.md). A pair is "run" here when a test runs both as they are in
# this set. It is no knowledge about the products.
stack "standin-1.34" {
  component "k3s" {
    range {
      from  = "1.34.4"
      below = "1.34.5"
    }
    one_minor_at_a_time = "https://docs.k3s.io/upgrades/manual"
  }

  component "calico" {
    range {
      from  = "3.32.1"
      below = "3.32.2"
    }
  }

  component "portworx" {
    range {
      from  = "3.6.1"
      below = "3.6.2"
    }
  }

  component "fluentd" {
    range {
      from  = "1.19.3"
      below = "1.19.4"
    }
  }

  component "prometheus" {
    range {
      from  = "3.14.0"
      below = "3.14.1"
    }
  }

  pair "calico" "k3s" {
    status = "run"
    source = "docs/standin.md"
    says   = "upstream's objects of Calico, with calico-standin, on Kubernetes 1.34.4 under k3s-standin"
  }

  pair "k3s" "portworx" {
    status = "run"
    source = "docs/standin.md"
    says   = "upstream's objects of Portworx, with a stand-in for its operator, on Kubernetes 1.34.4 under k3s-standin"
  }

  pair "fluentd" "k3s" {
    status = "run"
    source = "docs/standin.md"
    says   = "our objects of Fluentd, with fluentd-standin, on Kubernetes 1.34.4 under k3s-standin"
  }

  pair "k3s" "prometheus" {
    status = "run"
    source = "docs/standin.md"
    says   = "the real Prometheus 3.14.0 on Kubernetes 1.34.4 under k3s-standin"
  }
}
