package steps

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// packChart writes a chart's archive into a directory.
func packChart(t *testing.T, dir directory, name string, files map[string]string) {
	t.Helper()
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	for file, text := range files {
		if err := archive.WriteHeader(&tar.Header{Name: "c/" + file, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(string(dir), name), packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

// helmInputs fills in null for what is not given.
func helmInputs(kubeconfig []byte, archive string, given map[string]cty.Value) cty.Value {
	all := map[string]cty.Value{
		"cluster":   cty.ObjectVal(map[string]cty.Value{"kubeconfig": cty.StringVal(string(kubeconfig)).Mark(site.Sensitive)}),
		"chart":     cty.ObjectVal(map[string]cty.Value{"source": cty.StringVal(archive), "sha256": cty.StringVal("unread")}),
		"namespace": cty.StringVal("default"),
		"release":   cty.NullVal(cty.String), "create_namespace": cty.NullVal(cty.Bool), "values": cty.NullVal(cty.DynamicPseudoType),
		"api_versions": cty.NullVal(cty.List(cty.String)), "skip_crds": cty.NullVal(cty.Bool), "wait": cty.NullVal(cty.Bool), "wait_timeout": cty.NullVal(cty.String),
		"force_conflicts": cty.NullVal(cty.Bool), "ignore_fields": cty.NullVal(cty.List(cty.String)), "prune_data": cty.NullVal(cty.List(cty.String)),
	}
	for k, v := range given {
		all[k] = v
	}
	return cty.ObjectVal(all)
}

const thingDefinition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Thing, plural: things}
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]
`

func TestHelmStep(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no API server is started")
	}
	server := kubetest.Run(t, kubetest.Config{})
	dir := directory(t.TempDir())
	packChart(t, dir, "c.tgz", map[string]string{
		"Chart.yaml":         "apiVersion: v2\nname: c\nversion: 0.1.0\n",
		"crds/things.yaml":   thingDefinition,
		"templates/cm.yaml":  "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: {{ .Release.Name }}}\ndata: {k: x, k: z}\n",
		"templates/odd.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: odd, annotations: {helm.sh/hook: post-boot}}\n",
	})
	said := ""
	env := Env{Address: "step.helm.c", Catalog: "catalog", Artifacts: dir, Clock: workflows.SystemClock{}}
	env.Say = func(format string, args ...any) { said += fmt.Sprintf(format+"\n", args...) }
	for _, test := range []struct {
		name  string
		given map[string]cty.Value
		want  []string
	}{
		{"all of it", nil, []string{"CustomResourceDefinition/things.example.com", "ConfigMap/c"}},
		{"without definitions", map[string]cty.Value{"skip_crds": cty.True}, []string{"ConfigMap/c"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			given := map[string]cty.Value{"wait_timeout": cty.StringVal("30m")}
			maps.Copy(given, test.given)
			step, err := newHelm(helmInputs(server.Kubeconfig, "c.tgz", given), env)
			if err != nil {
				t.Fatal(err)
			}
			if got := step.(*helmStep).opts.Wait; got != 30*time.Minute {
				t.Errorf("it waits for %s; want the 30 min that are written", got)
			}
			set, err := step.(*helmStep).render(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, o := range set.Objects {
				got = append(got, kube.IDOf(o).String())
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("it renders %v; want %v", got, test.want)
			}
			for _, want := range []string{`key "k" already set`, "ConfigMap/odd is left out"} {
				if !strings.Contains(said, want) {
					t.Errorf("it said %q; want %q", said, want)
				}
			}
			said = ""
		})
	}
}
