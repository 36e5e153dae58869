package kube_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
)

// server is one real API server with its controllers for all tests of the
// package; tests keep apart by namespaces and names.
var server struct {
	once sync.Once
	*kubetest.Server
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if server.Server != nil {
		if err := server.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// open is a client of the shared server. The tests that use it run side by side:
// most of their time is spent waiting for controllers.
func open(t *testing.T) *kube.Cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: no API server is started")
	}
	t.Parallel()
	server.once.Do(func() {
		server.Server, server.err = kubetest.Start(context.Background(), kubetest.Config{Controllers: true})
	})
	if errors.Is(server.err, kubetest.ErrNotBuilt) {
		t.Skip(server.err)
	}
	if server.err != nil {
		t.Fatal(server.err)
	}
	c, err := server.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// other is somebody else with access to the cluster, who uses no code of ours.
func other(t *testing.T) dynamic.Interface {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(server.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	config.WarningHandler = rest.NoWarnings{}
	c, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var (
	configMaps  = schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	deployments = schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}
	secrets     = schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
)

// edit changes an object as `kubectl edit` does.
func edit(t *testing.T, gvr schema.GroupVersionResource, namespace, name, mergePatch string) {
	t.Helper()
	_, err := other(t).Resource(gvr).Namespace(namespace).Patch(t.Context(), name, types.MergePatchType, []byte(mergePatch), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	if err != nil {
		t.Fatal(err)
	}
}

// set parses a manifest into a set.
func set(t *testing.T, manifest string) kube.Set {
	t.Helper()
	objects, err := kube.Parse("test", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	s, err := kube.NewSet(objects...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// upstream reads a manifest that others publish.
func upstream(t *testing.T, name string) kube.Set {
	t.Helper()
	path := filepath.Join("..", "..", "..", "shared", "testdata", "manifests", name)
	content, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		t.Skipf("the upstream manifests are not here: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".gz") {
		z, err := gzip.NewReader(bytes.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		if content, err = io.ReadAll(z); err != nil {
			t.Fatal(err)
		}
	}
	return set(t, string(content))
}

// testBound ends what hangs. It is far from what a busy machine needs under the race
// detector.
const testBound = time.Minute

// options are of one step of the test's own catalog.
func options(t *testing.T, step string) kube.Options {
	return kube.Options{
		Owner: kube.Owner{Catalog: t.Name(), Address: "step.manifest." + step}, NoWait: true, Wait: testBound,
		Say: t.Logf,
	}
}

func apply(t *testing.T, c *kube.Cluster, s kube.Set, opts kube.Options) {
	t.Helper()
	if err := c.Apply(t.Context(), s, opts); err != nil {
		t.Fatal(err)
	}
}

func diff(t *testing.T, c *kube.Cluster, s kube.Set, opts kube.Options) kube.Diff {
	t.Helper()
	d, err := c.Diff(t.Context(), s, opts)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func wantNothing(t *testing.T, d kube.Diff) {
	t.Helper()
	if !d.Empty() {
		t.Errorf("the set is applied, and differs (installed: %v):\n%s", d.Installed, strings.Join(d.Lines(), "\n"))
	}
}

func TestUpstreamManifests(t *testing.T) {
	c := open(t)
	for _, test := range []struct {
		name, file, namespace string
		objects               int // without the hooks
	}{
		{"calico-crds", "calico-crds-v3.32.1.yaml.gz", "", 32},
		{"tigera-operator", "tigera-operator-v3.32.1.yaml", "tigera-operator", 9},
		{"portworx", "portworx-9.1.1.yaml.gz", "portworx", 10},
		{"prometheus", "prometheus-29.27.0.yaml", "monitoring", 20},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := upstream(t, test.file)
			opts := options(t, test.name)
			opts.Namespace = test.namespace
			if test.namespace != "" {
				ns := set(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+test.namespace+"}\n")
				var err error
				if s, err = kube.Join(ns, s); err != nil {
					t.Fatal(err)
				}
			}
			if len(s.Objects) != test.objects {
				t.Errorf("%s has %d objects; want %d", test.file, len(s.Objects), test.objects)
			}
			s.Hooks = nil // no pod runs here
			began := time.Now()
			d := diff(t, c, s, opts)
			if len(d.Changes) != len(s.Objects) {
				t.Errorf("Diff of %d new objects has %d changes", len(s.Objects), len(d.Changes))
			}
			planned := time.Since(began)
			began = time.Now()
			apply(t, c, s, opts)
			applied := time.Since(began)
			began = time.Now()
			wantNothing(t, diff(t, c, s, opts))
			t.Logf("%d objects: first diff %s, apply %s, diff %s", len(s.Objects), planned, applied, time.Since(began))
			parts, err := c.List(t.Context(), "v1", "Secret", kube.Namespace, "edge-provision.io/inventory="+opts.Owner.Label())
			if err != nil || len(parts) != 1 {
				t.Errorf("the inventory has %d parts (%v); want one", len(parts), err)
			}
			for _, p := range parts {
				data, _, _ := unstructured.NestedString(p.Object, "data", "inventory.json.gz")
				t.Logf("inventory: %d bytes in base64", len(data))
			}
		})
	}
}

// TestRefusalNamesObjectAndField uses an upstream chart that the API server
// refuses to apply, and mistakes of other kinds.
func TestRefusalNamesObjectAndField(t *testing.T) {
	c := open(t)
	pod := func(container string) string {
		return "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: default}\nspec: {containers: [{name: a, image: b, " + container + "}]}\n"
	}
	for _, test := range []struct{ name, manifest, want string }{
		{"mistyped field", pod("imagePullPolice: Always"), "Pod/default/p.*imagePullPolice"},
		{"bad enum", pod("imagePullPolicy: Sometimes"), `Pod/default/p.*spec\.containers\[0\]\.imagePullPolicy: Unsupported value: "Sometimes"`},
		{"bad quantity", pod("resources: {limits: {cpu: many}}"), "Pod/default/p.*quantities must match"},
		{"wrong type", pod("env: none"), `Pod/default/p.*env: expected list`},
		{"in a namespace that comes with the set", namespace("notyet") + strings.ReplaceAll("---\n"+pod("imagePullPolicy: Sometimes"), "namespace: default", "namespace: notyet"), "Pod/notyet/p.*Sometimes"},
		{"mistyped field of a Secret", "apiVersion: v1\nkind: Secret\nmetadata: {name: p, namespace: default}\nstringDatum: {k: s3cret}\n", `Secret/default/p.*\.stringDatum: there is no such field`},
		{"unknown version", "apiVersion: policy/v1beta1\nkind: PodDisruptionBudget\nmetadata: {name: p}\n", "policy/v1beta1.*serves v1"},
		{"bad ignore_fields", "", "ignore_fields.*no path"},
	} {
		t.Run(test.name, func(t *testing.T) {
			opts := options(t, "bad")
			if test.manifest == "" {
				opts.IgnoreFields = []string{"spec..replicas"}
			}
			_, err := c.Diff(t.Context(), set(t, test.manifest), opts)
			if err == nil || !regexp.MustCompile("(?s)"+test.want).MatchString(err.Error()) {
				t.Errorf("Diff = %v; want an error that fits %s", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") {
				t.Error("the value of a Secret is shown")
			}
			var unreachable *kube.UnreachableError
			if errors.As(err, &unreachable) {
				t.Error("a refusal is taken for silence")
			}
		})
	}
	t.Run("upstream chart with a key twice", func(t *testing.T) {
		opts := options(t, "fluentd")
		opts.Namespace = "default"
		_, err := c.Diff(t.Context(), upstream(t, "fluentd-0.6.0.yaml"), opts)
		var invalid *kube.InvalidError
		if !errors.As(err, &invalid) || invalid.ID.Kind != "DaemonSet" || !strings.Contains(err.Error(), `containers[name="fluentd"].env: duplicate entries for key [name="FLUENTD_CONF"]`) {
			t.Errorf("Diff = %v; want an InvalidError about the DaemonSet's env", err)
		}
	})
}
