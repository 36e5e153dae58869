package steps

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zclconf/go-cty/cty"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// manifestInputs fills in null for what is not given.
func manifestInputs(kubeconfig []byte, given map[string]cty.Value) cty.Value {
	all := map[string]cty.Value{
		"cluster":  cty.ObjectVal(map[string]cty.Value{"kubeconfig": cty.StringVal(string(kubeconfig)).Mark(site.Sensitive)}),
		"manifest": cty.ListValEmpty(cty.Object(map[string]cty.Type{"source": cty.String, "sha256": cty.String})),
		"content":  cty.NullVal(cty.String), "namespace": cty.NullVal(cty.String), "wait": cty.NullVal(cty.Bool), "wait_timeout": cty.NullVal(cty.String), "force_conflicts": cty.NullVal(cty.Bool),
		"ignore_fields": cty.NullVal(cty.List(cty.String)), "prune_data": cty.NullVal(cty.List(cty.String)),
	}
	for k, v := range given {
		all[k] = v
	}
	return cty.ObjectVal(all)
}

// directory hands out files by name, as they are.
type directory string

func (d directory) Open(_ context.Context, ref artifact.Ref) (*os.File, error) {
	return os.Open(filepath.Join(string(d), ref.Source))
}

func (d directory) ImageArchive(context.Context, artifact.Image) (*os.File, error) {
	return nil, errors.New("there are no images here")
}

func TestManifestStep(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no API server is started")
	}
	server := kubetest.Run(t, kubetest.Config{})
	dir := directory(t.TempDir())
	file := []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: from-file}\ndata: {k: v}\n")
	if err := os.WriteFile(filepath.Join(string(dir), "cm.yaml"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(file)
	env := Env{
		Address: "step.manifest.shop", Catalog: "catalog", Artifacts: dir, Clock: workflows.SystemClock{}, Declared: &Declared{},
		Say: t.Logf,
	}
	made := func(env Env, content string, more map[string]cty.Value) Step {
		t.Helper()
		given := map[string]cty.Value{"content": cty.StringVal(content), "namespace": cty.StringVal("shop")}
		for k, v := range more {
			given[k] = v
		}
		s, err := newManifest(manifestInputs(server.Kubeconfig, given), env)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	inspect := func(s Step) Finding {
		t.Helper()
		f, err := s.Inspect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	const content = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: written}\ndata: {k: v}\n"
	files := map[string]cty.Value{"manifest": cty.ListVal([]cty.Value{cty.ObjectVal(map[string]cty.Value{
		"source": cty.StringVal("cm.yaml"), "sha256": cty.StringVal(hex.EncodeToString(sum[:])),
	})})}
	step := made(env, content, files)
	if f := inspect(step); f.Presence != workflows.Absent || len(f.Changes) != 3 {
		t.Errorf("Inspect of an empty cluster = %+v; want absent with three objects to create", f)
	}
	out, err := step.Do(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := step.Verify(t.Context()); err != nil {
		t.Errorf("Verify = %v", err)
	}
	if got := fmt.Sprintf("%#v", out.GetAttr("objects")); !strings.Contains(got, "ConfigMap/shop/from-file") || out.GetAttr("objects").LengthInt() != 3 {
		t.Errorf("objects = %s; want all three with their namespace", got)
	}
	if f := inspect(step); f.Presence != workflows.Present || len(f.Changes) > 0 {
		t.Errorf("Inspect after Do = %+v; want present without changes", f)
	}

	config, err := clientcmd.RESTConfigFromKubeConfig(server.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	maps := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}).Namespace("shop")
	_, err = maps.Patch(t.Context(), "written", types.MergePatchType, []byte(`{"data":{"k":"by hand"}}`), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	if err != nil {
		t.Fatal(err)
	}
	if f := inspect(step); f.Presence != workflows.Present || len(f.Changes) != 1 || !strings.HasPrefix(f.Changes[0], `ConfigMap/shop/written: .data.k: "by hand" -> "v" (changed by kubectl-edit at `) {
		t.Errorf("Inspect after a change by hand = %q; want it named with manager and time", f.Changes)
	}
	if _, err := step.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f := inspect(step); len(f.Changes) > 0 {
		t.Errorf("Inspect after the repair = %q; want nothing", f.Changes)
	}

	// Another step of the same run declares one of the objects as well.
	second := env
	second.Address = "step.manifest.other"
	twice := made(second, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: written}\ndata: {k: v}\n", nil)
	if _, err := twice.Inspect(t.Context()); err == nil || !strings.Contains(err.Error(), "step.manifest.shop") || !strings.Contains(err.Error(), "ConfigMap/shop/written") {
		t.Errorf("Inspect of an object that another step declares = %v; want both named", err)
	}

	// Without its namespace and its file, the step keeps what holds data.
	less := made(env, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: written}\ndata: {k: v}\n", nil)
	if _, err := less.Do(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(t.Context(), "from-file", metav1.GetOptions{}); err == nil {
		t.Error("an object that is declared no longer is still there")
	}
	remover := less.(Remover)
	loss, err := remover.Loss(t.Context())
	if err != nil || len(loss) != 1 || !strings.HasPrefix(loss[0], "Namespace/shop") {
		t.Errorf("Loss = %q, %v; want the namespace", loss, err)
	}
	if err := remover.Remove(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := maps.Get(t.Context(), "written", metav1.GetOptions{}); err == nil {
		t.Error("an object is there after Remove")
	}

	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	bounded, cancel := context.WithTimeout(t.Context(), inspectTimeout)
	defer cancel()
	if f, err := step.Inspect(bounded); err != nil || f.Presence != workflows.Unreachable {
		t.Errorf("Inspect of an API server that is gone = %+v, %v; want unreachable", f, err)
	}
}

func TestManifestStepRefusesWhatIsNoManifest(t *testing.T) {
	for name, test := range map[string]struct {
		given  map[string]cty.Value
		want   string
		detail string
	}{
		"nothing":   {nil, "No objects", ""},
		"text":      {map[string]cty.Value{"content": cty.StringVal("hello")}, "Invalid manifest", "not an object"},
		"sensitive": {map[string]cty.Value{"content": cty.StringVal("s3cret: [").Mark(site.Sensitive)}, "Invalid manifest", "not shown"},
		"twice": {
			map[string]cty.Value{"content": cty.StringVal(strings.Repeat("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", 2))},
			"Invalid manifest", "declared twice",
		},
		"field":     {map[string]cty.Value{"content": cty.StringVal(""), "ignore_fields": cty.ListVal([]cty.Value{cty.StringVal("metadata.name")})}, "Invalid field", ""},
		"namespace": {map[string]cty.Value{"content": cty.StringVal(""), "namespace": cty.StringVal("Shop")}, "Invalid namespace", ""},
	} {
		diags := checkManifest(manifestInputs(nil, test.given), nil)
		if !diags.HasErrors() || diags[0].Summary != test.want || !strings.Contains(diags[0].Detail, test.detail) || strings.Contains(diags[0].Detail, "s3cret") {
			t.Errorf("%s: checkManifest = %v; want %s", name, diags, test.want)
		}
	}
	unknown := manifestInputs(nil, map[string]cty.Value{"content": cty.UnknownVal(cty.String), "ignore_fields": cty.UnknownVal(cty.List(cty.String))})
	if diags := checkManifest(unknown, nil); diags.HasErrors() {
		t.Errorf("checkManifest of what is not known yet = %v", diags)
	}
	_, err := newManifest(manifestInputs([]byte("s3cret"), map[string]cty.Value{"content": cty.StringVal("")}), Env{})
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("newManifest with a kubeconfig that is none = %v; want an error without it", err)
	}
	var unreachable *kube.UnreachableError
	if errors.As(err, &unreachable) {
		t.Error("a bad kubeconfig is taken for an API server that is silent")
	}
}

func TestWaitTimeout(t *testing.T) {
	for text, want := range map[string]time.Duration{"1s": time.Second, "45m": 45 * time.Minute, "1d": 24 * time.Hour, "0s": 0, "25h": 0, "soon": 0} {
		given := map[string]cty.Value{"wait_timeout": cty.StringVal(text)}
		inputs := helmInputs(nil, "c.tgz", given)
		diags := checkHelm(inputs, nil)
		given["content"] = cty.StringVal("")
		diags = append(diags, checkManifest(manifestInputs(nil, given), nil)...)
		if wrong := map[bool]int{true: 2}[want == 0]; len(diags) != wrong {
			t.Errorf("wait_timeout %q: %v; want %d errors, of both steps", text, diags, wrong)
		}
		if want == 0 {
			continue
		}
		s := &clusterStep{}
		if err := s.patience(inputs); err != nil || s.opts.Wait != want || s.opts.NoWait {
			t.Errorf("wait_timeout %q gives %v, %v; want %v", text, s.opts.Wait, err, want)
		}
	}
}
