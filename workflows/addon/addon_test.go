package addon_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"github.com/edge-provision/edge-provision/workflows/addon/calico"
	"github.com/edge-provision/edge-provision/workflows/addon/fluentd"
	"github.com/edge-provision/edge-provision/workflows/addon/portworx"
	"github.com/edge-provision/edge-provision/workflows/addon/prometheus"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
)

// Prometheus looks for Portworx where it is installed.
func TestPortworxIsScrapedInItsNamespace(t *testing.T) {
	images := prometheus.Images{Prometheus: "prometheus:v3", NodeExporter: "node-exporter:v1", KubeStateMetrics: "ksm:v2"}
	set, err := prometheus.Config{Site: "store-0421", Ephemeral: true, Images: images}.Set()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range set.Objects {
		config, _, _ := unstructured.NestedString(o.Object, "data", "prometheus.yml")
		if _, job, ok := strings.Cut(config, "job_name: portworx"); ok {
			if job, _, _ = strings.Cut(job, "job_name:"); !strings.Contains(job, "- "+portworx.Namespace+"\n") {
				t.Errorf("Portworx is looked for by\n%s\nwant it in namespace %s", job, portworx.Namespace)
			}
			return
		}
	}
	t.Error("nothing looks for Portworx")
}

// upstream reads what a release publishes, where the copies of it are.
func upstream(t *testing.T, names ...string) []kube.Object {
	t.Helper()
	var out []kube.Object
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join("..", "..", "..", "shared", "testdata", "manifests", name))
		if errors.Is(err, fs.ErrNotExist) {
			t.Skipf("%s is not here: ../shared/testdata/manifests has the upstream manifests that this test applies", name)
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".gz") {
			r, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			if b, err = io.ReadAll(r); err != nil {
				t.Fatal(err)
			}
		}
		objects, err := kube.Parse(name, b)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, objects...)
	}
	return out
}

func node(name string) portworx.Node {
	return portworx.Node{
		Machine: "machine." + name, Name: name, Devices: []string{"/dev/disk/by-id/nvme-eui." + name}, DeviceBytes: []int64{256 << 30},
		Cores: 8, MemoryBytes: 16 << 30,
	}
}

// addons are all sets, from upstream's own manifests.
func addons(t *testing.T) map[string]func() (kube.Set, error) {
	operator := upstream(t, "tigera-operator-v3.32.1.yaml", "calico-crds-v3.32.1.yaml.gz")
	px := upstream(t, "portworx-9.1.1.yaml.gz")
	return map[string]func() (kube.Set, error){
		"calico": calico.Config{
			Upstream: operator, Version: "v3.32.1", PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), NodeCIDR: netip.MustParsePrefix("172.22.0.0/24"),
			Images: map[string]string{"calico/node": "sha256:" + strings.Repeat("ab", 32)}, Tenants: []string{"pos", "vision"},
		}.Set,
		"portworx": portworx.Config{
			Upstream: px, Name: "store-0421", Image: "portworx/oci-monitor:3.6.1", Preloaded: true, Versions: "version: 3.6.1\n",
			Nodes: []portworx.Node{node("a"), node("b"), node("c")}, DataInterface: "eth1",
		}.Set,
		"fluentd": fluentd.Config{
			Site: "store-0421", Image: "fluent/fluentd-kubernetes-daemonset:v1.19.3-debian-forward",
			Sink: fluentd.Sink{Forward: &fluentd.Forward{Host: "logs.example", CA: "PEM", SharedKey: "hunter2"}},
		}.Set,
		"prometheus": prometheus.Config{
			Site: "store-0421", Ephemeral: true,
			Images:      prometheus.Images{Prometheus: "prometheus:v3", NodeExporter: "node-exporter:v1", KubeStateMetrics: "ksm:v2"},
			RemoteWrite: &prometheus.RemoteWrite{URL: "https://metrics.example/write", BearerToken: "hunter2"},
		}.Set,
	}
}

// TestAPIServerTakesEveryAddOn applies all four from upstream's own manifests to
// a real API server, which checks every field (fieldValidation Strict) and, for
// custom resources, upstream's schemas. Then nothing differs; a field that
// somebody changes by hand does.
func TestAPIServerTakesEveryAddOn(t *testing.T) {
	sets := addons(t)
	server := kubetest.Run(t, kubetest.Config{})
	cluster, err := server.Open()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"calico", "portworx", "fluentd", "prometheus"} {
		t.Run(name, func(t *testing.T) {
			set, err := sets[name]()
			if err != nil {
				t.Fatal(err)
			}
			// No node ever runs a pod here.
			opts := kube.Options{Owner: kube.Owner{Catalog: "test", Address: "step." + name}, NoWait: true}
			if err := cluster.Apply(t.Context(), set, opts); err != nil {
				t.Fatal(err)
			}
			again, err := sets[name]()
			if err != nil {
				t.Fatal(err)
			}
			diff, err := cluster.Diff(t.Context(), again, opts)
			if err != nil {
				t.Fatal(err)
			}
			if !diff.Empty() {
				t.Errorf("after apply it differs: %q", diff.Lines())
			}
		})
	}
	t.Run("a deleted policy and an edited StorageCluster are drift", func(t *testing.T) {
		for _, tt := range []struct {
			addon, want     string
			resource        schema.GroupVersionResource
			namespace, name string
			patch           string
		}{
			{
				"calico", "spec.order",
				schema.GroupVersionResource{Group: "crd.projectcalico.org", Version: "v1", Resource: "globalnetworkpolicies"},
				"", "default.edge-provision-tenants", `{"spec": {"order": 9}}`,
			},
			{
				"portworx", "deleteStrategy",
				schema.GroupVersionResource{Group: "core.libopenstorage.org", Version: "v1", Resource: "storageclusters"},
				portworx.Namespace, "store-0421", `{"spec": {"deleteStrategy": {"type": "UninstallAndWipe"}}}`,
			},
		} {
			edit(t, server, tt.resource, tt.namespace, tt.name, tt.patch)
			set, err := sets[tt.addon]()
			if err != nil {
				t.Fatal(err)
			}
			diff, err := cluster.Diff(t.Context(), set, kube.Options{Owner: kube.Owner{Catalog: "test", Address: "step." + tt.addon}, NoWait: true})
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Join(diff.Lines(), "\n")
			if !strings.Contains(lines, tt.want) || !strings.Contains(lines, "changed by somebody-else") || len(diff.Changes) != 1 {
				t.Errorf("%s: plan says %q; want %s, changed by somebody-else, and nothing else", tt.addon, lines, tt.want)
			}
		}
	})
}

// edit changes a field as another manager would, and takes it.
func edit(t *testing.T, server *kubetest.Server, resource schema.GroupVersionResource, namespace, name, patch string) {
	t.Helper()
	client, err := dynamic.NewForConfig(&rest.Config{
		Host: "https://" + server.Address, BearerToken: server.Token, TLSClientConfig: rest.TLSClientConfig{CAData: server.CA},
	})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Resource(resource).Namespace(namespace).Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "somebody-else"})
	if err != nil {
		t.Fatal(err)
	}
}
