//go:build e2e

package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// sink takes log lines as the site's Fluentd posts them, and tells which it has.
type sink struct {
	url   string
	mu    sync.Mutex
	lines []string
	nodes map[string]bool
}

// listen starts a sink at the lab's controller.
func listen(c *cluster) *sink {
	c.t.Helper()
	l, err := c.lab.Listen(c.t.Context(), "tcp", "172.24.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	s := &sink{url: "http://" + l.Addr().String(), nodes: map[string]bool{}}
	server := &http.Server{Handler: s, ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	c.t.Cleanup(func() {
		if err := server.Close(); err != nil {
			c.t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			c.t.Error(err)
		}
	})
	return s
}

// ServeHTTP implements http.Handler: POST takes records, GET ?q= finds lines.
func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method == http.MethodGet {
		for _, line := range s.lines {
			if strings.Contains(line, r.URL.Query().Get("q")) {
				fmt.Fprintln(w, line)
			}
		}
		return
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	var records []struct{ Message, Node, Site string }
	if err == nil {
		err = json.Unmarshal(b, &records)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, record := range records {
		s.lines = append(s.lines, record.Message)
		s.nodes[record.Node] = true
	}
}

// manifestBlock is a manifest block of a file with upstream's objects.
func manifestBlock(c *cluster, name string) string {
	c.t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "shared", "testdata", "manifests", name))
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		c.t.Skipf("%s is not here: ../shared/testdata/manifests has the upstream manifests that this scenario applies", name)
	}
	return fmt.Sprintf("    manifest {\n      source = %q\n      sha256 = %q\n    }\n", path, c.digest(path))
}

// workload adds what `make workload` has built to the images of the cluster.
func workload(c *cluster) {
	c.t.Helper()
	path := filepath.Join(cacheDir(c.t), "workload", "images.tar")
	if _, err := os.Stat(path); err != nil {
		c.t.Skipf("%v: run make workload", err)
	}
	c.images = append(c.images, path)
}

// provisioner is the stand-in for K3s's own local-path provisioner, and for that
// of Portworx.
const provisioner = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: provisioner-standin, namespace: kube-system}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: provisioner-standin}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}
subjects: [{kind: ServiceAccount, name: provisioner-standin, namespace: kube-system}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: provisioner-standin, namespace: kube-system}
spec:
  selector: {matchLabels: {app: provisioner-standin}}
  template:
    metadata: {labels: {app: provisioner-standin}}
    spec:
      serviceAccountName: provisioner-standin
      tolerations: [{operator: Exists}]
      containers:
        - name: provisioner
          image: docker.io/edge-provision/provisioner-standin:1
          imagePullPolicy: IfNotPresent
          env: [{name: NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
          volumeMounts: [{name: volumes, mountPath: /var/lib/standin-volumes}]
      volumes: [{name: volumes, hostPath: {path: /var/lib/standin-volumes, type: DirectoryOrCreate}}]
`

// TestClusterWithAddOns takes three hosts with two disks each to a cluster with a
// network of tenants, storage, log shipping and monitoring by one apply; finds
// nothing to do in a second; and sees and repairs what somebody deletes and edits.
func TestClusterWithAddOns(t *testing.T) {
	c := newCluster(t, 3, 40<<30, 10<<30)
	workload(c)
	logs := listen(c)
	c.extra = `cni = "calico"`
	c.steps = `
  step "calico" "network" {
    cluster = step.k3s.cluster
    version = "v3.32.1"
    tenants = ["pos", "vision"]
` + manifestBlock(c, "tigera-operator-v3.32.1.yaml") + manifestBlock(c, "calico-crds-v3.32.1.yaml.gz") + `  }

  step "manifest" "provisioner" {
    cluster    = step.k3s.cluster
    depends_on = [step.calico.network]
    content = <<-EOT
` + provisioner + `
    EOT
  }

  step "local_path" "local" {
    cluster     = step.k3s.cluster
    depends_on  = [step.manifest.provisioner]
  }

  step "portworx" "storage" {
    cluster     = step.k3s.cluster
    nodes       = values(machine.node)
    image       = "portworx/oci-monitor:3.6.1"
    preloaded   = true
    kvdb_disk   = "disk.bytes >= GiB(32)"
    waive       = ["cores", "memory"] # the hosts share what this machine has
    depends_on  = [step.manifest.provisioner]
    snapshots {
      every_minutes = 60
    }
` + manifestBlock(c, "portworx-9.1.1.yaml.gz") + `  }

  step "fluentd" "logs" {
    cluster    = step.k3s.cluster
    depends_on = [step.calico.network]
    image      = "docker.io/edge-provision/fluentd-standin:1"
    preloaded  = true
    verify_url = "` + logs.url + `/?q={marker}"
    http {
      url = "` + logs.url + `/ingest"
    }
  }

  step "prometheus" "metrics" {
    cluster                  = step.k3s.cluster
    depends_on = [step.calico.network]
    image                    = "quay.io/prometheus/prometheus:v3.14.0"
    node_exporter_image      = "quay.io/prometheus/node-exporter:v1.12.1"
    kube_state_metrics_image = "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0"
    preloaded                = true
    ephemeral                = true
  }
`
	c.declare()
	c.apply()
	c.whole()
	if len(logs.nodes) != 3 {
		t.Errorf("logs arrived of %d nodes; want 3", len(logs.nodes))
	}
	devices := c.on(0, "k3s kubectl -n portworx get storagecluster store -o jsonpath='{.spec.nodes[*].storage}'")
	if strings.Count(devices, "/dev/disk/by-id/virtio-") != 6 {
		t.Errorf("the StorageCluster names %s; want two disks of each of three nodes", devices)
	}
	c.same()

	c.on(1, "k3s kubectl -n edge-logging delete configmap fluentd")
	c.on(1, "k3s kubectl -n pos delete networkpolicy edge-provision-tenant")
	c.on(1, "k3s kubectl -n edge-monitoring set image statefulset/prometheus prometheus=prometheus:latest")
	r := c.want(2, c.run(commandLimit, "plan", "--detailed-exitcode", c.site))
	for _, line := range []string{
		"ConfigMap/edge-logging/fluentd: create: somebody deleted it", "NetworkPolicy/pos/edge-provision-tenant: create: somebody deleted it",
		"changed by kubectl-set",
	} {
		if !strings.Contains(r.stdout, line) {
			t.Errorf("plan = %s\nwant %q in it", r.stdout, line)
		}
	}
	c.apply()
	c.same()
}
