//go:build e2e

package scenario

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows"
)

// desk takes the requests of http steps. GET finds what was posted before.
type desk struct {
	url    string
	mu     sync.Mutex
	posted map[string]int
}

// openDesk starts a desk at the lab's controller.
func openDesk(c *cluster) *desk {
	c.t.Helper()
	l, err := c.lab.Listen(c.t.Context(), "tcp", c.lab.Controller.String()+":0")
	if err != nil {
		c.t.Fatal(err)
	}
	d := &desk{url: "http://" + l.Addr().String(), posted: map[string]int{}}
	server := &http.Server{Handler: d, ReadHeaderTimeout: time.Minute}
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
	return d
}

// ServeHTTP implements http.Handler.
func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case r.Method == http.MethodPost:
		d.posted[r.URL.Path]++
	case d.posted[r.URL.Path] == 0:
		http.NotFound(w, r)
	}
}

// times is how often something was posted.
func (d *desk) times(path string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.posted[path]
}

// tillChart is a chart with a hook that writes down on its node that it ran.
var tillChart = map[string]string{
	"till/Chart.yaml": "apiVersion: v2\nname: till\nversion: 1.0.0\n",
	"till/templates/all.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: till}
spec:
  selector: {matchLabels: {app: till}}
  template:
    metadata: {labels: {app: till}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{name: till, image: "{{ .Values.image }}", imagePullPolicy: IfNotPresent, command: [sleep, "100000"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, annotations: {helm.sh/hook: "pre-install,pre-upgrade"}}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: migrate, image: "{{ .Values.image }}", imagePullPolicy: IfNotPresent, command: [sh, -c, "echo ran >>/ran/hook"], volumeMounts: [{name: ran, mountPath: /ran}]}
      volumes: [{name: ran, hostPath: {path: /var/lib/till, type: DirectoryOrCreate}}]
`,
}

// offer packs a chart for the site and returns a block that names it.
func (c *cluster) offer(name string, files map[string]string) string {
	c.t.Helper()
	content := map[string][]byte{}
	for file, text := range files {
		content[file] = []byte(text)
	}
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, err := z.Write(archive(c, content))
	if err = errors.Join(err, z.Close()); err != nil {
		c.t.Fatal(err)
	}
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, packed.Bytes(), 0o600); err != nil {
		c.t.Fatal(err)
	}
	return fmt.Sprintf("    chart {\n      source = %q\n      sha256 = %q\n    }\n", path, c.digest(path))
}

// archive is a tar archive of files by name.
func archive(c *cluster, files map[string][]byte) []byte {
	c.t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))})
		if err == nil {
			_, err = w.Write(files[name])
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		c.t.Fatal(err)
	}
	return out.Bytes()
}

// busyBox is the image with a shell that comes with K3s's own.
const busyBox = "docker.io/rancher/mirrored-library-busybox:1.37.0"

// killed applies and is killed at a boundary, as by a power cut.
func (c *cluster) killed(address string, at workflows.Boundary) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), clusterLimit)
	defer cancel()
	point := fmt.Sprintf("%s@%s", address, at)
	cmd := c.lab.Command(ctx, c.bin, "--data-dir", filepath.Join(c.dir, "data"), "--cache-dir", filepath.Join(c.dir, "cache"), "apply", "--auto-approve", c.site)
	cmd.Env = append(os.Environ(), "EDGE_FAILPOINT="+point)
	began := time.Now()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != -1 || ctx.Err() != nil {
		c.t.Logf("apply:\n%s", out)
		c.confess()
		c.t.Fatalf("apply = %v after %.1f s; want it killed at %s", err, time.Since(began).Seconds(), point)
	}
	c.t.Logf("killed at %s after %.1f s", point, time.Since(began).Seconds())
}

// boundaryStep is one step of the scenario below, and the object by which it
// shows that its work was done once.
type boundaryStep struct{ name, object string }

// boundarySteps are in the order in which they depend on each other, so that each
// kill finds one of them at work.
var boundarySteps = []boundaryStep{
	{"http.told", ""},
	{"http.act", ""},
	{"k3s.cluster", "node/node-1"},
	{"calico.network", "-n tigera-operator deployment/tigera-operator"},
	{"manifest.provisioner", "-n kube-system daemonset/provisioner-standin"},
	{"local_path.local", "storageclass/edge-local"},
	{"fluentd.logs", "-n edge-logging daemonset/fluentd"},
	{"prometheus.metrics", "-n edge-monitoring statefulset/prometheus"},
	{"helm.till", "-n till deployment/till"},
}

const platform = "workflow.platform.step."

// clusterStart tells a cluster from another, and a start of K3s from another.
const clusterStart = "sha256sum </var/lib/rancher/k3s/server/tls/server-ca.crt; systemctl show k3s -p InvocationID -p NRestarts"

// uid tells an object from another of its name.
func (c *cluster) uid(object string) string {
	c.t.Helper()
	return c.on(0, "k3s kubectl get "+object+" -o jsonpath='{.metadata.uid} of generation {.metadata.generation}'")
}

// TestKillAtEveryBoundaryOfACluster kills apply at each boundary of each step of
// a one-machine cluster, each time with what the kills before have left, and
// applies once more: the whole is one installation, with one power cut after the
// other. The boundary after a result is the one before the next step's intent; it
// is passed by a repair of the last step. Then the cluster, and after that its
// machine, answers nobody.
func TestKillAtEveryBoundaryOfACluster(t *testing.T) {
	c := newCluster(t, 1)
	workload(c)
	logs, desk := listen(c), openDesk(c)
	c.extra = "cni = \"calico\"\n    depends_on = [step.http.act]"
	c.steps = boundarySite(c, logs, desk)
	c.declare()

	once := map[string]string{}
	start := ""
	for _, step := range boundarySteps {
		for _, at := range workflows.Boundaries() {
			if at == workflows.AfterResult {
				continue // what is recorded does not run again
			}
			c.killed(platform+step.name, at)
			if at != workflows.AfterDo || step.object == "" {
				continue
			}
			once[step.object] = c.uid(step.object)
			if start == "" {
				start = c.on(0, clusterStart)
			}
		}
	}
	if r := c.apply(); !strings.Contains(r.stdout+r.stderr, "No changes.") {
		t.Errorf("the last apply = %s%s; want nothing left to do", r.stdout, r.stderr)
	}
	c.same()
	c.whole()

	if got := c.on(0, clusterStart); got != start {
		t.Errorf("the cluster and its start are\n%s\nwant those of the first apply that made it:\n%s", got, start)
	}
	for object, first := range once {
		if got := c.uid(object); got != first {
			t.Errorf("%s is %s; want %s as it was first made", object, got, first)
		}
	}
	c.on(0, "k3s kubectl -n till delete deployment till")
	c.killed(platform+"helm.till", workflows.AfterResult)
	if r := c.apply(); !strings.Contains(r.stdout+r.stderr, "No changes.") {
		t.Errorf("apply after a kill that came after the result = %s%s; want nothing left to do", r.stdout, r.stderr)
	}
	if got := c.on(0, "cat /var/lib/till/hook"); got != "ran" {
		t.Errorf("the chart's hook wrote %q; want that it ran once for its installation", got)
	}
	if got := desk.times("/told"); got != 1 {
		t.Errorf("a request with a check was sent %d times; want once: the check tells that it was", got)
	}
	// An action whose end nobody wrote down may have run, and runs again.
	if got := desk.times("/act"); got != 2 {
		t.Errorf("a request without a check was sent %d times; want twice, for the kill right after it", got)
	}
	c.silent()
}

// boundarySite are the steps before and after K3s, each of which waits for the one
// before.
func boundarySite(c *cluster, logs *sink, desk *desk) string {
	return `
  step "http" "told" {
    method = "POST"
    url    = "` + desk.url + `/told"
    check  = "` + desk.url + `/told"
  }

  step "http" "act" {
    depends_on = [step.http.told]
    method     = "POST"
    url        = "` + desk.url + `/act"
  }

  step "calico" "network" {
    cluster = step.k3s.cluster
    version = "v3.32.1"
    tenants = ["pos"]
` + manifestBlock(c, "tigera-operator-v3.32.1.yaml") + manifestBlock(c, "calico-crds-v3.32.1.yaml.gz") + `  }

  step "manifest" "provisioner" {
    cluster    = step.k3s.cluster
    depends_on = [step.calico.network]
    content = <<-EOT
` + provisioner + `
    EOT
  }

  step "local_path" "local" {
    cluster    = step.k3s.cluster
    depends_on = [step.manifest.provisioner]
  }

  step "fluentd" "logs" {
    cluster    = step.k3s.cluster
    depends_on = [step.local_path.local]
    image      = "docker.io/edge-provision/fluentd-standin:1"
    preloaded  = true
    verify_url = "` + logs.url + `/?q={marker}"
    http {
      url = "` + logs.url + `/ingest"
    }
  }

  step "prometheus" "metrics" {
    cluster                  = step.k3s.cluster
    depends_on               = [step.fluentd.logs]
    image                    = "quay.io/prometheus/prometheus:v3.14.0"
    node_exporter_image      = "quay.io/prometheus/node-exporter:v1.12.1"
    kube_state_metrics_image = "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0"
    preloaded                = true
    ephemeral                = true
  }

  step "helm" "till" {
    cluster    = step.k3s.cluster
    depends_on = [step.prometheus.metrics]
    namespace  = "till"
    values     = { image = "` + busyBox + `" }
` + c.offer("till-1.0.0.tgz", tillChart) + `  }
`
}

// silenceLimit bounds a command that waits for answers that do not come, and
// silentPlan a plan of a cluster that does not answer: 15 s for its API server, 15 s
// for its K3s, and what a busy machine adds.
const (
	silenceLimit = 5 * time.Minute
	silentPlan   = time.Minute
)

// silent lets first the API server and then SSH answer the controller nothing:
// nothing is planned, nothing is removed, and all is there when they answer
// again.
func (c *cluster) silent() {
	c.t.Helper()
	const objects = "k3s kubectl get all,storageclass,crd -A --no-headers -o custom-columns=K:.kind,NS:.metadata.namespace,N:.metadata.name,U:.metadata.uid | sort"
	before := c.on(0, objects)
	unanswered := func(r result, steps ...string) {
		c.t.Helper()
		for _, step := range steps {
			if want := platform + step + " cannot be asked; it is left alone"; !strings.Contains(r.stdout, want) {
				c.t.Errorf("the plan is %s\nwant %q in it", r.stdout, want)
			}
		}
		if strings.Contains(r.stdout, " will ") {
			c.t.Errorf("the plan is %s\nwant nothing in it that will be done", r.stdout)
		}
	}
	c.drop("6443")
	began := time.Now()
	unanswered(c.want(2, c.run(silenceLimit, "plan", c.site)), "k3s.cluster", "prometheus.metrics")
	if took := time.Since(began); took > silentPlan {
		c.t.Errorf("the plan of a cluster that does not answer took %s; want %s at most", took, silentPlan)
	}
	// The machine could be uninstalled; what runs on it cannot be asked.
	target := platform + "k3s.cluster"
	unanswered(c.want(1, c.run(silenceLimit, "destroy", "--auto-approve", "--target", target, "--destroy-data", target, c.site)), "prometheus.metrics", "calico.network")
	c.on(0, "nft delete table ip silence")
	c.drop("22")
	unanswered(c.want(2, c.run(silenceLimit, "plan", c.site)), "k3s.cluster", "prometheus.metrics")
	c.on(0, "nft delete table ip silence")
	if after := c.on(0, objects); after != before {
		c.t.Errorf("after a time of silence the cluster has\n%s\nwant as before\n%s", after, before)
	}
	c.same()
}

// drop leaves the controller's packets to a port of the first host unanswered, by
// a table of its own: those of Kubernetes and Calico stay as they are.
func (c *cluster) drop(port string) {
	c.t.Helper()
	c.on(0, "nft add table ip silence && nft add chain ip silence input '{ type filter hook input priority -300; }' && "+
		"nft add rule ip silence input ip saddr "+c.lab.Controller.String()+" tcp dport "+port+" drop")
}
