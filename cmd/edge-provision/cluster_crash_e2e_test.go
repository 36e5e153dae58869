//go:build e2e

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
)

// estate is a plant whose steps bring objects to a cluster: a real API server
// with its real controllers. No node runs its pods: the test writes what becomes
// of them.
type estate struct {
	*plant
	server *kubetest.Server
	client dynamic.Interface
	// kubeconfig is what the site's steps have.
	kubeconfig []byte

	mu sync.Mutex
	// hooks are the pods of hooks that the controllers made, by UID.
	hooks map[types.UID]bool
	// requests are what the http steps sent.
	requests []string
	// url takes them.
	url string
}

func newEstate(t *testing.T) *estate {
	t.Helper()
	t.Parallel()
	e := &estate{server: kubetest.Run(t, kubetest.Config{Controllers: true}), hooks: map[types.UID]bool{}}
	e.plant = newPlant(t)
	e.kubeconfig = e.server.Kubeconfig
	var err error
	e.client, err = dynamic.NewForConfig(&rest.Config{
		Host: "https://" + e.server.Address, BearerToken: e.server.Token, TLSClientConfig: rest.TLSClientConfig{CAData: e.server.CA},
		QPS: -1, WarningHandler: rest.NoWarnings{},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.background(func(ctx context.Context) error { return e.server.PretendKubelet(ctx, e.outcome) })
	sink := httptest.NewServer(http.HandlerFunc(e.serve))
	t.Cleanup(sink.Close)
	e.url = sink.URL
	return e
}

// background runs work until the test ends.
func (e *estate) background(work func(context.Context) error) {
	ctx, cancel := context.WithCancel(e.t.Context())
	done := make(chan error, 1)
	go func() { done <- work(ctx) }()
	e.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			e.t.Error(err)
		}
	})
}

// outcome lets the pods of hooks and canaries succeed and all others run.
func (e *estate) outcome(pod kube.Object) kubetest.Outcome {
	if pod.GetLabels()["hook"] != "" {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.hooks[pod.GetUID()] = true
		return kubetest.Succeeded
	}
	if strings.HasPrefix(pod.GetNamespace(), "edge-provision-canary-") {
		return kubetest.Succeeded
	}
	return kubetest.Running
}

// serve takes the requests of http steps; /told is answered once it was posted.
func (e *estate) serve(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	said := r.Method + " " + r.URL.Path
	if r.Method == http.MethodGet && e.count("POST "+r.URL.Path) == 0 {
		http.NotFound(w, r)
	}
	e.requests = append(e.requests, said)
}

func (e *estate) count(request string) (n int) {
	for _, r := range e.requests {
		if r == request {
			n++
		}
	}
	return n
}

// sent is how often a request came.
func (e *estate) sent(request string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.count(request)
}

// ran is how often the controllers made a pod of a hook.
func (e *estate) ran() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.hooks)
}

// clusterAttribute names the API server in a step.
const clusterAttribute = "cluster = { kubeconfig = sensitive(KUBECONFIG) }"

// declare writes the site with these steps.
func (e *estate) declare(steps string) {
	e.t.Helper()
	e.write("site \"plant\" {}\nworkflow \"w\" {\n" + steps + "\n}\n")
}

// write puts the kubeconfig in last: chance may have written any word in it.
func (e *estate) write(text string) {
	e.t.Helper()
	e.plant.write(text)
	written, err := os.ReadFile(e.site())
	if err == nil {
		filled := strings.ReplaceAll(string(written), "KUBECONFIG", strconv.Quote(string(e.kubeconfig)))
		err = os.WriteFile(e.site(), []byte(filled), 0o600)
	}
	if err != nil {
		e.t.Fatal(err)
	}
}

// offer writes a file for the site and returns a block that names it.
func (e *estate) offer(block, name string, content []byte) string {
	e.t.Helper()
	path := filepath.Join(e.dir, name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		e.t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	return fmt.Sprintf("%s {\n source = %q\n sha256 = %q\n}\n", block, path, hex.EncodeToString(sum[:]))
}

// object is an object of the cluster; nil while there is none.
func (e *estate) object(of schema.GroupVersionResource, namespace, name string) kube.Object {
	e.t.Helper()
	o, err := e.client.Resource(of).Namespace(namespace).Get(e.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		return nil
	}
	return o
}

// edited changes an object as somebody else does by hand.
func (e *estate) edited(of schema.GroupVersionResource, namespace, name, patch string) {
	e.t.Helper()
	_, err := e.client.Resource(of).Namespace(namespace).Patch(e.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "somebody-else"})
	if err != nil {
		e.t.Fatal(err)
	}
}

// killed applies and is killed at a boundary.
func (e *estate) killed(step string, at workflows.Boundary) {
	e.t.Helper()
	point := "workflow.w.step." + step + "@" + string(at)
	if code, out := e.run("", []string{failPointVariable + "=" + point}, "apply", "-auto-approve", e.site()); code != -1 {
		e.t.Fatalf("apply exits with %d; want it killed at %s\n%s", code, point, out)
	}
}

// walk kills apply at each boundary of one step after the other, each time with
// what the kill before has left. AfterResult is not among them, because a step
// whose record is written is not run again: see repaired.
func (e *estate) walk(steps ...string) {
	e.t.Helper()
	for _, step := range steps {
		for _, at := range workflows.Boundaries() {
			if at != workflows.AfterResult {
				e.killed(step, at)
			}
		}
	}
}

// repaired wants that plan sees what was done to a step by hand, kills the apply
// that repairs it when the journal has its result, and applies again.
func (e *estate) repaired(step, how string) {
	e.t.Helper()
	e.wants(e.must(exitDifferent, "", "plan", "-detailed-exitcode", e.site()), "workflow.w.step."+step+" will run", how)
	e.killed(step, workflows.AfterResult)
	e.apply()
	e.same()
}

// same wants that nothing is left to do, also in the journal.
func (e *estate) same() {
	e.t.Helper()
	e.wants(e.apply(), "No changes.")
	e.wants(e.must(exitOK, "", "plan", "-detailed-exitcode", e.site()), "No changes.")
	for _, r := range e.runs() {
		if r.Finished.IsZero() {
			e.t.Errorf("run %s is still open", r.ID)
		}
	}
}

var (
	configMaps     = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	namespaces     = schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	storageClasses = schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}
	pxClusters     = schema.GroupVersionResource{Group: "core.libopenstorage.org", Version: "v1", Resource: "storageclusters"}
	pxNodes        = schema.GroupVersionResource{Group: "core.libopenstorage.org", Version: "v1", Resource: "storagenodes"}
)

// crashChart has a hook that is to run once for its installation.
var crashChart = map[string]string{
	"till/Chart.yaml": "apiVersion: v2\nname: till\nversion: 1.0.0\n",
	"till/templates/all.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: till}
data: {drawers: "{{ .Values.drawers }}"}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: till}
spec:
  selector: {matchLabels: {app: till}}
  template:
    metadata: {labels: {app: till}}
    spec: {containers: [{name: till, image: "till:1"}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: migrate, annotations: {helm.sh/hook: "pre-install,pre-upgrade"}}
spec:
  template:
    metadata: {labels: {hook: "yes"}}
    spec: {restartPolicy: Never, containers: [{name: migrate, image: "till:1"}]}
`,
}

// TestKillAtEveryBoundaryOfStepsInACluster kills apply at every boundary of steps
// that bring objects to a cluster, and of requests.
func TestKillAtEveryBoundaryOfStepsInACluster(t *testing.T) {
	e := newEstate(t)
	e.declare(`
  step "http" "told" {
    url    = "` + e.url + `/told"
    method = "POST"
    check  = "` + e.url + `/told"
  }
  step "http" "act" {
    url        = "` + e.url + `/act"
    method     = "POST"
    depends_on = [step.http.told]
  }
  step "manifest" "base" {
    ` + clusterAttribute + `
    depends_on = [step.http.act]
    content    = <<-EOT
apiVersion: v1
kind: Namespace
metadata: {name: base}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: kept, namespace: base}
data: {k: v}
    EOT
  }
  step "helm" "till" {
    ` + clusterAttribute + `
    depends_on = [step.manifest.base]
    namespace  = "till"
    values     = { drawers = 4 }
    ` + e.offer("chart", "till-1.0.0.tgz", pack(t, crashChart)) + `
  }
  step "local_path" "volumes" {
    ` + clusterAttribute + `
    depends_on = [step.helm.till]
  }`)
	e.walk("http.told", "http.act", "manifest.base")
	uid := e.object(namespaces, "", "base").GetUID()
	e.walk("helm.till", "local_path.volumes")
	e.same()
	if got := e.sent("POST /told"); got != 1 {
		t.Errorf("a request with a check was sent %d times; want once: the check tells that it was", got)
	}
	// An action whose end nobody wrote down may have run, and runs again.
	if got := e.sent("POST /act"); got != 2 {
		t.Errorf("a request without a check was sent %d times; want twice, for the kill right after it", got)
	}
	if got := e.ran(); got != 1 {
		t.Errorf("the hook of the chart ran %d times; want once for its installation", got)
	}
	e.edited(configMaps, "base", "kept", `{"data":{"k":"other"}}`)
	e.repaired("manifest.base", "changed by somebody-else")
	e.edited(configMaps, "till", "till", `{"data":{"drawers":"5"}}`)
	e.repaired("helm.till", "changed by somebody-else")
	if err := e.client.Resource(storageClasses).Delete(t.Context(), "edge-local", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	e.repaired("local_path.volumes", "somebody deleted it")
	if got := e.ran(); got != 1 {
		t.Errorf("the hook of the chart ran %d times after repairs; want once: a repair is no new revision", got)
	}
	if got := e.object(namespaces, "", "base").GetUID(); got != uid {
		t.Error("a namespace was made anew")
	}
	if got := e.sent("POST /act"); got != 2 {
		t.Errorf("an action that depends on nothing that changed was sent %d times; want twice as before", got)
	}
}

// pack makes an archive as `helm package` does.
func pack(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	w := tar.NewWriter(z)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(files[name]))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, files[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return packed.Bytes()
}

// storeMachines are three machines, all of them this one, with the disks that
// know writes into the catalog.
const storeMachines = `machine "store" {
  for_each = toset(["a", "b", "c"])
  ssh {
    host     = "127.0.0.1"
    host_key = "HOSTKEY"
    port     = PORT
    user     = "root"
  }
}
`

// TestKillAtEveryBoundaryOfPortworx does the same with the step that takes disks
// of three machines, from upstream's own manifest.
func TestKillAtEveryBoundaryOfPortworx(t *testing.T) {
	path := filepath.Join(repository, "..", "shared", "testdata", "manifests", "portworx-9.1.1.yaml.gz")
	upstream, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		t.Skipf("%s is not here: ../shared/testdata/manifests has the upstream manifest that this test applies", path)
	}
	if err != nil {
		t.Fatal(err)
	}
	e := newEstate(t)
	e.background(e.pretendPortworx)
	e.know("a", "b", "c")
	e.write("site \"plant\" {}\n" + storeMachines + `workflow "w" {
  step "portworx" "storage" {
    ` + clusterAttribute + `
    nodes     = values(machine.store)
    image     = "portworx/oci-monitor:3.6.1"
    preloaded = true
    ` + e.offer("manifest", "portworx.yaml.gz", upstream) + `
  }
}
`)
	e.walk("portworx.storage")
	e.same()
	cluster := e.object(pxClusters, "portworx", "plant")
	nodes, _, _ := unstructured.NestedSlice(cluster.Object, "spec", "nodes")
	if len(nodes) != 3 || cluster.GetGeneration() != 1 {
		t.Errorf("the StorageCluster is of generation %d with nodes %v; want it sent once, with three nodes", cluster.GetGeneration(), nodes)
	}
	e.edited(pxClusters, "portworx", "plant", `{"spec":{"deleteStrategy":{"type":"UninstallAndWipe"}}}`)
	e.repaired("portworx.storage", "changed by somebody-else")
	again := e.object(pxClusters, "portworx", "plant")
	if got, _, _ := unstructured.NestedString(again.Object, "spec", "deleteStrategy", "type"); got != "Uninstall" || again.GetUID() != cluster.GetUID() {
		t.Errorf("after the repair the StorageCluster %s deletes by %q; want %s, which keeps the data", again.GetUID(), got, cluster.GetUID())
	}
}

// know writes the facts of machines into the catalog, as edge-agent would tell
// them.
func (e *estate) know(keys ...string) {
	e.t.Helper()
	e.catalog(func(s *store.Store) {
		for _, key := range keys {
			row, err := s.Adopt(e.t.Context(), "plant", "machine.store[\""+key+"\"]")
			if err != nil {
				e.t.Fatal(err)
			}
			facts := inventory.Facts{
				SchemaVersion: inventory.SchemaVersion,
				CPU:           &inventory.CPU{Cores: 8}, Memory: &inventory.Memory{Bytes: 16 << 30},
				Disks: []inventory.Disk{
					{Name: "sda", ByID: "ata-root-" + key, Bytes: 64 << 30, Signatures: []string{"gpt"}},
					{Name: "sdb", ByID: "ata-data-" + key, Bytes: 256 << 30, Signatures: []string{}},
				},
			}
			if _, _, err := s.Observe(e.t.Context(), "plant", store.Observation{Machine: row.ID, Source: inventory.SourceAgent, Facts: &facts}); err != nil {
				e.t.Fatal(err)
			}
		}
	})
}

// pretendPortworx writes what Portworx's operator reports of a cluster that
// works, where somebody has asked for one.
func (e *estate) pretendPortworx(ctx context.Context) error {
	clusters, nodes := e.client.Resource(pxClusters).Namespace("portworx"), e.client.Resource(pxNodes).Namespace("portworx")
	report := func(of dynamic.ResourceInterface, o kube.Object, phase string) {
		if was, _, _ := unstructured.NestedString(o.Object, "status", "phase"); was == phase {
			return
		}
		o.Object["status"] = map[string]any{"phase": phase}
		// What changed meanwhile is seen again in the next round.
		_, _ = of.UpdateStatus(ctx, o, metav1.UpdateOptions{FieldManager: "pretended-operator"})
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		if cluster, err := clusters.Get(ctx, "plant", metav1.GetOptions{}); err == nil {
			declared, _, _ := unstructured.NestedSlice(cluster.Object, "spec", "nodes")
			for _, n := range declared {
				name, _, _ := unstructured.NestedString(n.(map[string]any), "selector", "nodeName")
				node, err := nodes.Get(ctx, name, metav1.GetOptions{})
				if err != nil {
					node, err = nodes.Create(ctx, kube.Make("core.libopenstorage.org/v1", "StorageNode", "portworx", name, map[string]any{"spec": map[string]any{}}), metav1.CreateOptions{})
				}
				if err == nil {
					report(nodes, node, "Online")
				}
			}
			report(clusters, cluster, "Running")
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// TestNothingIsDoneToAClusterThatGivesNoAnswer lets an API server answer every
// question with an error. Whatever is asked of the program then, no object is
// made, changed or deleted, also those that are declared no longer.
func TestNothingIsDoneToAClusterThatGivesNoAnswer(t *testing.T) {
	e := newEstate(t)
	var ill atomic.Bool
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(e.server.CA)
	through := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: e.server.Address})
	through.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	front := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ill.Load() {
			http.Error(w, "etcdserver: request timed out", http.StatusInternalServerError)
			return
		}
		through.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: front.Certificate().Raw})
	e.kubeconfig = kubetest.Kubeconfig(front.URL, ca, e.server.Token)
	const objects = `apiVersion: v1
kind: ConfigMap
metadata: {name: one, namespace: default}
`
	declare := func(content string) {
		e.declare(`
  step "manifest" "base" {
    ` + clusterAttribute + `
    content = <<-EOT
` + content + `
    EOT
  }
  step "http" "act" {
    url        = "` + e.url + `/act"
    method     = "POST"
    depends_on = [step.manifest.base]
  }`)
	}
	declare(objects + "---\n" + strings.ReplaceAll(objects, "one", "two"))
	e.apply()
	before := e.object(configMaps, "default", "two")
	ill.Store(true)
	declare(objects + "data: {k: changed}\n")
	const base = "workflow.w.step.manifest.base"
	for _, args := range [][]string{
		{"plan", e.site()},
		{"apply", "-auto-approve", e.site()},
		{"destroy", "-auto-approve", "-target=" + base, "-destroy-data=" + base, e.site()},
	} {
		want := map[string]int{"plan": exitDifferent, "apply": exitError, "destroy": exitError}[args[0]]
		e.wants(e.must(want, "", args...), base+" cannot be asked; it is left alone", "gave no answer")
	}
	if after := e.object(configMaps, "default", "two"); after == nil || after.GetResourceVersion() != before.GetResourceVersion() {
		t.Errorf("an object that is declared no longer is now %v; want it untouched while its server gives no answer", after)
	}
	if got := e.sent("POST /act"); got != 1 {
		t.Errorf("an action was sent %d times; want once: it depends on what cannot be asked", got)
	}
	ill.Store(false)
	e.apply()
	if after := e.object(configMaps, "default", "two"); after != nil {
		t.Error("an object that is declared no longer is there when its server answers again; want it pruned")
	}
}
