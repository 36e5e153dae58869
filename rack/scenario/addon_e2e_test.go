//go:build e2e

package scenario

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/rack/host"
)

// sink takes log lines as the site's Fluentd posts them, and tells which it has.
type sink struct {
	url   string
	mu    sync.Mutex
	lines []string
	nodes map[string]bool
	// shown are the credentials that lines came with.
	shown map[string]bool
}

// listen starts a sink at the lab's controller.
func listen(c *cluster) *sink {
	c.t.Helper()
	l, err := c.lab.Listen(c.t.Context(), "tcp", c.lab.Controller.String()+":0")
	if err != nil {
		c.t.Fatal(err)
	}
	s := &sink{url: "http://" + l.Addr().String(), nodes: map[string]bool{}, shown: map[string]bool{}}
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
	s.shown[r.Header.Get("Authorization")] = true
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

// upstream is a file with upstream's objects.
func upstream(c *cluster, name string) string {
	c.t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "..", "shared", "testdata", "manifests", name))
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		c.t.Skipf("%s is not here: ../shared/testdata/manifests has the upstream manifests that this scenario applies", name)
	}
	return path
}

// manifestBlock is a manifest block of such a file.
func manifestBlock(c *cluster, name string) string {
	c.t.Helper()
	return block(c, upstream(c, name))
}

func block(c *cluster, path string) string {
	return fmt.Sprintf("    manifest {\n      source = %q\n      sha256 = %q\n    }\n", path, c.digest(path))
}

// workloadArchive has the images that `make workload` has built.
func workloadArchive(c *cluster) string {
	c.t.Helper()
	path := filepath.Join(cacheDir(c.t), "workload", "images.tar")
	if _, err := os.Stat(path); err != nil {
		c.t.Skipf("%v: run make workload", err)
	}
	return path
}

// workload adds them to the images of the cluster.
func workload(c *cluster) {
	c.t.Helper()
	c.images = append(c.images, workloadArchive(c))
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

// viewerImage is in no archive that K3s comes with: its pods run only where the
// bundle has brought it.
const viewerImage = "registry.example/clinic/viewer:2026.11"

// fluentdImage is what the clinic names; the stand-in has its name here.
const fluentdImage = "docker.io/fluent/fluentd-kubernetes-daemonset:v1.19.3-debian-forward-1.0"

// brought are the images that only the bundle has.
var brought = []string{
	fluentdImage, "reg.site.local:5000/portworx/px-operator:26.2.1",
	"quay.io/prometheus/prometheus:v3.14.0", "quay.io/prometheus/node-exporter:v1.12.1", "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0",
	viewerImage,
}

// monitorImage is what the clinic names of Portworx, and unrun is that and what comes
// with it: the stand-in for Portworx's operator starts none of them.
const monitorImage = "docker.io/portworx/oci-monitor:3.6.1"

var unrun = []string{
	monitorImage, "docker.io/portworx/px-enterprise:3.6.1", "docker.io/openstorage/stork:26.2.0",
	"registry.k8s.io/kube-controller-manager-amd64:v1.34.4", "registry.k8s.io/kube-scheduler-amd64:v1.34.4", "registry.k8s.io/pause:3.1",
}

// portworxVersions are the images of unrun that Portworx's operator would start.
const portworxVersions = `version: 3.6.1
components:
  stork: docker.io/openstorage/stork:26.2.0
  kubeControllerManager: registry.k8s.io/kube-controller-manager-amd64:v1.34.4
  kubeScheduler: registry.k8s.io/kube-scheduler-amd64:v1.34.4
  pause: registry.k8s.io/pause:3.1
`

// viewer is a chart with a pod on each node.
var viewer = map[string]string{
	"Chart.yaml":  "apiVersion: v2\nname: viewer\nversion: 1.0.0\n",
	"values.yaml": "replicas: 1\nimage: none\n",
	"templates/viewer.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: viewer}
spec:
  replicas: {{ .Values.replicas }}
  selector: {matchLabels: {app: viewer}}
  template:
    metadata: {labels: {app: viewer}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: viewer}}}
      containers:
      - name: viewer
        image: {{ .Values.image }}
        imagePullPolicy: Never
        command: [sleep, "1000000"]
`,
}

// logToken is what the site shows to its log server.
const logToken = "Bearer the-clinic's-own-token"

// TestClusterWithAddOns takes the clinic of hcl-examples, three hosts with two
// disks each, to a cluster with a network of tenants, storage, log shipping and
// monitoring by one apply from a bundle, in a network whose only way out counts
// what leaves; finds nothing to do in a second; and sees and repairs what
// somebody deletes and edits. Without its policies the tenants' pods reach each
// other across nodes, and what verifies the step says so. At the end the site is
// taken away with its data.
func TestClusterWithAddOns(t *testing.T) {
	c := newHosts(t, "clinic", host.Config{
		Hosts: 3, Names: []string{"node-a", "node-b", "node-c"}, Network: netip.MustParsePrefix("192.168.62.0/24"), DiskBytes: []int64{100 << 30, 32 << 30},
	})
	c.findReleases()
	logs := listen(c)
	f := newFactory(c)
	f.stock(workloadArchive(c))
	for _, archive := range c.images {
		f.stock(archive)
	}
	for _, image := range unrun {
		f.stub(image)
	}
	f.rename(fluentdImage, f.archived(workloadArchive(c), "docker.io/edge-provision/fluentd-standin:1"))
	f.manyPlatforms(viewerImage, f.archived(c.images[0], busyBox))
	c.given(map[string]any{
		"stack": standinSet, "portworx_versions": portworxVersions, "k3s_version": c.versions[0].version, "bmc_password": "not-needed-here", "waive": []string{"cores", "memory"}, // the hosts share what this machine has
		"log_sink": map[string]string{"url": logs.url + "/ingest", "search": logs.url + "/?q={marker}"}, "log_token": logToken,
		"files": map[string]any{
			"k3s": c.fileOf(f.file(c.versions[0].path)), "images": c.fileOf(f.file(c.packed(c.versions[0], "docker.io/edge-provision/provisioner-standin:1"))), "viewer": c.fileOf(f.chart("viewer", viewer)),
			"operator": c.fileOf(f.file(upstream(c, "tigera-operator-v3.32.1.yaml"))), "definitions": c.fileOf(f.file(upstream(c, "calico-crds-v3.32.1.yaml.gz"))),
			"portworx": c.fileOf(f.file(upstream(c, "portworx-9.1.1.yaml.gz"))),
		},
	})
	c.site = c.example("clinic/site", map[string]int{"52:54:00:62:00:11": 0, "52:54:00:62:00:12": 1, "52:54:00:62:00:13": 2})
	i := newIsland(c, f.build())
	i.withoutSecret(logToken)
	before := i.allBelongings()
	// K3s comes with a provisioner of its own in this directory. The stand-in's is
	// that of Portworx, too.
	c.on(0, "install -d -m 0700 /var/lib/rancher/k3s/server && mkdir /var/lib/rancher/k3s/server/manifests && cat >/var/lib/rancher/k3s/server/manifests/provisioner.yaml <<'EOF'\n"+provisioner+"EOF")

	i.apply()
	c.whole()
	if len(logs.nodes) != 3 || !logs.shown[logToken] || len(logs.shown) != 1 {
		t.Errorf("logs arrived of %d nodes, with %d kinds of credentials; want 3, all with the site's token", len(logs.nodes), len(logs.shown))
	}
	devices := c.on(0, "k3s kubectl -n portworx get storagecluster clinic -o jsonpath='{.spec.nodes[*].storage}'")
	if strings.Count(devices, "/dev/disk/by-id/virtio-") != 6 {
		t.Errorf("the StorageCluster names %s; want two disks of each of three nodes", devices)
	}
	i.inPods(brought)
	i.onNodes(slices.Concat(brought, unrun))
	i.quiet("while the bundle was applied")
	i.same()

	// All the policies have to go: one of them alone keeps its tenants apart.
	c.on(1, "k3s kubectl -n patients delete networkpolicy edge-provision-tenant")
	c.on(1, "k3s kubectl -n cameras delete networkpolicy edge-provision-tenant")
	c.on(1, "k3s kubectl delete globalnetworkpolicies.crd.projectcalico.org default.edge-provision-tenants")
	c.tenantsMeet("patients", "cameras")

	// What stands in the statefulset then is on the nodes, so that no node asks a
	// registry for it; nothing runs what the archive holds that goes.
	c.on(1, "k3s kubectl -n edge-logging delete configmap fluentd")
	c.on(1, "k3s kubectl -n edge-monitoring set image statefulset/prometheus prometheus=docker.io/edge-provision/toolbox:1")
	c.on(2, "rm \"$(grep -l "+monitorImage+" /var/lib/rancher/k3s/agent/images/edge-*.tar)\"")
	i.differs("ConfigMap/edge-logging/fluentd: create: somebody deleted it", "changed by kubectl-set", "the images of "+monitorImage+".tar are missing",
		"NetworkPolicy/patients/edge-provision-tenant: create: somebody deleted it", "NetworkPolicy/cameras/edge-provision-tenant: create: somebody deleted it",
		"GlobalNetworkPolicy/default.edge-provision-tenants: create: somebody deleted it")
	// The step's own probe finds the tenants apart again, or apply fails.
	if r := i.apply(); !strings.Contains(r.stdout+r.stderr, "asking pods on every node who reaches whom") {
		t.Error("the repaired policies were not verified between pods")
	}
	i.same()
	i.onNodes(slices.Concat(brought, unrun))
	i.quiet("while what was done by hand was repaired")

	// Nothing is left of all of it, but for the volumes of the stand-in for provisioners,
	// which lie on no disk that could be wiped, and what was made above before K3s came.
	i.destroy("k3s.cluster", "portworx.storage", "local_path.scratch", "fluentd.logs", "prometheus.metrics", "manifest.database", "helm.viewer", "calico.network")
	i.nothingLeft(before, regexp.MustCompile(`^file /var/lib/(rancher|standin-volumes(/.*)?)$`))
	i.quiet("while the site was taken away")
}
