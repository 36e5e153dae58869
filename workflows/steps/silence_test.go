package steps

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
)

// pretendedAPI answers like an API server without objects that takes every
// ConfigMap, as far as a plan asks it. fault answers in its place when it returns
// true.
func pretendedAPI(t *testing.T, fault func(w http.ResponseWriter, r *http.Request) bool) (kubeconfig []byte) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A handler learns that its caller is gone only when the request was read.
		body, err := io.ReadAll(r.Body)
		if err != nil || fault(w, r) {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		var answer any = map[string]any{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": http.StatusNotFound}
		code := http.StatusNotFound
		switch {
		case r.URL.Path == probed:
			code, answer = http.StatusOK, map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "default"}}
		case r.URL.Path == "/api/v1":
			code, answer = http.StatusOK, map[string]any{"kind": "APIResourceList", "groupVersion": "v1", "resources": []any{
				map[string]any{"name": "configmaps", "namespaced": true, "kind": "ConfigMap"},
			}}
		case r.Method == http.MethodPatch:
			code, answer = http.StatusCreated, json.RawMessage(body)
		}
		w.WriteHeader(code)
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			t.Errorf("answering %s: %v", r.URL.Path, err)
		}
	}))
	t.Cleanup(server.Close)
	return kubetest.Kubeconfig(server.URL, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), "none")
}

// pretendedObjects is pretendedAPI with objects of its own: whatever objects returns for
// a path, unless it is nil.
func pretendedObjects(t *testing.T, objects func(path string) any) (kubeconfig []byte) {
	t.Helper()
	return pretendedAPI(t, func(w http.ResponseWriter, r *http.Request) bool {
		o := objects(r.URL.Path)
		if o == nil {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(o); err != nil {
			t.Errorf("answering %s: %v", r.URL.Path, err)
		}
		return true
	})
}

// resources is how an API server lists what a group has.
func resources(groupVersion string, list ...any) any {
	return map[string]any{"kind": "APIResourceList", "groupVersion": groupVersion, "resources": list}
}

// probed is what Reach asks for.
const probed = "/api/v1/namespaces/default"

// configMapStep declares one ConfigMap, and the files of more.
func configMapStep(t *testing.T, env Env, kubeconfig []byte, name string, files ...cty.Value) *clusterStep {
	t.Helper()
	given := map[string]cty.Value{"content": cty.StringVal("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\n")}
	if len(files) > 0 {
		given["manifest"] = cty.ListVal(files)
	}
	env.Address = "step.manifest." + name
	made, err := newManifest(manifestInputs(kubeconfig, given), env)
	if err != nil {
		t.Fatal(err)
	}
	s := made.(*clusterStep)
	// One attempt is enough: how often a request is repeated is not the matter here.
	if s.cluster, err = kube.Open(kube.Config{Kubeconfig: kubeconfig, Attempts: 1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.cluster.Close)
	return s
}

// TestSilentClusterIsAskedOnceWhileASiteIsObserved lets an API server take
// requests and answer none: the first step waits, the others know.
func TestSilentClusterIsAskedOnceWhileASiteIsObserved(t *testing.T) {
	var asked atomic.Int64
	var answers atomic.Bool
	kubeconfig := pretendedAPI(t, func(_ http.ResponseWriter, r *http.Request) bool {
		asked.Add(1)
		if !answers.Load() {
			<-r.Context().Done()
		}
		return !answers.Load()
	})
	// The bound of the product is 15 s; this is about how often, not how long. It is
	// long enough for a request to arrive.
	cluster, err := kube.Open(kube.Config{Kubeconfig: kubeconfig, ReachTimeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	var d Declared
	reach := func() error { return d.reach(t.Context(), cluster) }
	if err := reach(); err != nil || asked.Load() != 0 {
		t.Errorf("while nothing is observed reach = %v after %d requests; want none: each request has patience of its own", err, asked.Load())
	}
	for observation := int64(1); observation <= 2; observation++ {
		end := d.observe()
		for range 3 {
			if err := reach(); !noAnswer(err) {
				t.Errorf("reach of a silent server = %v; want that it gave no answer", err)
			}
		}
		// Whoever waited in vain has nothing to doubt then.
		d.doubt(cluster.Server())
		if err := reach(); !noAnswer(err) {
			t.Errorf("reach of a silent server = %v; want that it gave no answer", err)
		}
		end()
		if got := asked.Load(); got != observation {
			t.Errorf("after %d observations of four steps the server was asked %d times; want once each", observation, got)
		}
	}
	answers.Store(true)
	if cluster, err = kube.Open(kube.Config{Kubeconfig: kubeconfig}); err != nil { // what answers may take its time
		t.Fatal(err)
	}
	defer cluster.Close()
	defer d.observe()()
	for range 2 {
		if err := reach(); err != nil {
			t.Errorf("reach of a server that answers again = %v; want nil", err)
		}
	}
	if got := asked.Load(); got != 3 {
		t.Errorf("the server that answers was asked %d times; want once", got-2)
	}
	// It answered, and is silent when the objects are asked for.
	answers.Store(false)
	step := &clusterStep{env: Env{Declared: &d}, cluster: cluster}
	step.doubt(context.DeadlineExceeded)
	for range 3 {
		if err := reach(); !noAnswer(err) {
			t.Errorf("reach after a step found it silent = %v; want that", err)
		}
	}
	if got := asked.Load(); got != 4 {
		t.Errorf("the server that fell silent was asked %d times more; want once", got-3)
	}
	// A caller that ends says nothing about the server.
	d.observe()
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(context.DeadlineExceeded)
	if err := d.reach(ended, cluster); err == nil {
		t.Error("reach for a caller that has ended = nil; want its end")
	}
	answers.Store(true)
	if err := reach(); err != nil {
		t.Errorf("reach after another caller's end = %v; want the server's answer", err)
	}
}

// TestWhatOneStepWaitsForKeepsNoOtherFromBeingAsked has one step of a cluster that
// gets to no end: the others see the cluster as it is.
func TestWhatOneStepWaitsForKeepsNoOtherFromBeingAsked(t *testing.T) {
	const slow = "slow"
	for name, test := range map[string]struct {
		// hangs and fails are asked for by the step that is to fail alone.
		hangs, fails func(r *http.Request) bool
		source       bool
		want         string
	}{
		"a source that hangs":           {source: true, want: "slow.yaml"},
		"an object that takes for ever": {hangs: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/configmaps/"+slow) }, want: slow},
		"a webhook that is broken": {fails: func(r *http.Request) bool {
			return r.Method == http.MethodPatch && strings.HasSuffix(r.URL.Path, "/"+slow)
		}, want: "no endpoints"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The slow step's time ends when what it waits for has been asked for.
			late, out := context.WithCancelCause(t.Context())
			defer out(nil)
			var probes atomic.Int64
			hang := func(r *http.Request) {
				out(context.DeadlineExceeded)
				<-r.Context().Done()
			}
			kubeconfig := pretendedAPI(t, func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path == probed {
					probes.Add(1)
				}
				switch {
				case test.hangs != nil && test.hangs(r):
					hang(r)
					return true
				case test.fails != nil && test.fails(r):
					http.Error(w, `failed calling webhook: no endpoints available`, http.StatusInternalServerError)
					return true
				}
				return false
			})
			files := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hang(r) }))
			defer files.Close()
			store, err := artifact.New(artifact.Config{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			env := Env{Catalog: "catalog", Artifacts: store, Clock: workflows.SystemClock{}, Declared: &Declared{}, Say: t.Logf}
			var waits []cty.Value
			if test.source {
				waits = append(waits, cty.ObjectVal(map[string]cty.Value{
					"source": cty.StringVal(files.URL + "/slow.yaml"), "sha256": cty.StringVal(strings.Repeat("0", 64)),
				}))
			}
			defer env.Declared.observe()()
			f, err := configMapStep(t, env, kubeconfig, slow, waits...).Inspect(late)
			if err != nil || f.Presence != workflows.Unreachable || !strings.Contains(f.Detail, test.want) {
				t.Errorf("Inspect of the step that waits = %+v, %v; want unreachable, and %q", f, err, test.want)
			}
			for _, other := range []string{"first", "second"} {
				f, err := configMapStep(t, env, kubeconfig, other).Inspect(t.Context())
				if err != nil || f.Presence != workflows.Absent || len(f.Changes) != 1 || !strings.HasPrefix(f.Changes[0], "ConfigMap/default/"+other+": create") {
					t.Errorf("Inspect of another step = %+v, %v; want its object to be created", f, err)
				}
			}
			if got := probes.Load(); got != 2 {
				t.Errorf("the server was asked %d times whether it is there; want 2: at first, and after the step that waited", got)
			}
		})
	}
}

// TestClusterThatFallsSilentIsDoubtedByWhatIsTakenAway has an API server that says
// that it is there, and is silent when the first step asks what would be lost: the
// second step must not wait for the same.
func TestClusterThatFallsSilentIsDoubtedByWhatIsTakenAway(t *testing.T) {
	late, out := context.WithCancelCause(t.Context())
	defer out(nil)
	var probes, others atomic.Int64
	kubeconfig := pretendedAPI(t, func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == probed && probes.Add(1) == 1 {
			return false
		}
		if r.URL.Path != probed {
			others.Add(1)
			out(context.DeadlineExceeded)
		}
		<-r.Context().Done()
		return true
	})
	env := Env{Catalog: "catalog", Clock: workflows.SystemClock{}, Declared: &Declared{}, Say: t.Logf}
	first, second := configMapStep(t, env, kubeconfig, "first"), configMapStep(t, env, kubeconfig, "second")
	defer env.Declared.observe()()
	if loss, err := first.Loss(late); !noAnswer(err) {
		t.Errorf("Loss of the first step = %q, %v; want that there was no answer, and never that nothing is lost", loss, err)
	}
	// The bound of the product is 15 s; this is about whether it is asked.
	var err error
	if second.cluster, err = kube.Open(kube.Config{Kubeconfig: kubeconfig, Attempts: 1, ReachTimeout: time.Second}); err != nil {
		t.Fatal(err)
	}
	defer second.cluster.Close()
	asked := others.Load()
	if loss, err := second.Loss(t.Context()); !noAnswer(err) {
		t.Errorf("Loss of the second step = %q, %v; want that there was no answer", loss, err)
	}
	if probes.Load() != 2 || others.Load() != asked {
		t.Errorf("the server was asked %d times whether it is there and %d times for objects after that; want 2 and 0", probes.Load(), others.Load()-asked)
	}
}
