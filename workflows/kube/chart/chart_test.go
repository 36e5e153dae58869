package chart

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func request(values map[string]any) Request {
	return Request{Release: "corner", Namespace: "pos", KubeVersion: "v1.34.4+k3s1", Values: values}
}

// writeChart writes a chart into a fresh directory and reads it.
func writeChart(t *testing.T, files map[string]string) (*Chart, error) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return ReadDir(dir)
}

const minimal = "apiVersion: v2\nname: m\nversion: 0.1.0\n"

func TestRenderIsWhatTheChartSays(t *testing.T) {
	c, err := ReadDir("testdata/shop")
	if err != nil {
		t.Fatal(err)
	}
	r := request(map[string]any{"replicas": 3, "till": map[string]any{"drawers": 4}})
	r.APIVersions = []string{"monitoring.coreos.com/v1"}
	got, err := c.Render(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/shop.golden.yaml"
	whole := "# CRDs\n" + string(got.CRDs) + "# Manifests\n" + string(got.Manifests) + "# Notes\n# " + got.Notes + "\n"
	if *update {
		if err := os.WriteFile(golden, []byte(whole), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), whole); diff != "" {
		t.Errorf("Render (-want +got):\n%s", diff)
	}
}

func TestRenderLeavesTheChartAndTheValuesAlone(t *testing.T) {
	c, err := ReadDir("testdata/shop")
	if err != nil {
		t.Fatal(err)
	}
	off := request(map[string]any{"till": map[string]any{"enabled": false}})
	without, err := c.Render(t.Context(), off)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(without.Manifests, []byte("corner-till")) {
		t.Error("the dependency was rendered although its condition is false")
	}
	with, err := c.Render(t.Context(), request(nil))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(with.Manifests, []byte("corner-till")) {
		t.Error("a dependency that one rendering switched off is gone from the next")
	}
	if diff := cmp.Diff(map[string]any{"till": map[string]any{"enabled": false}}, off.Values); diff != "" {
		t.Errorf("Render changed its values (-want +got):\n%s", diff)
	}
}

// TestDefinitionsOfDependencies: of one that is switched off there are none, and of one
// that is taken in twice each comes once.
func TestDefinitionsOfDependencies(t *testing.T) {
	c, err := writeChart(t, map[string]string{
		"Chart.yaml":                  minimal + "dependencies:\n- {name: d, version: 0.1.0, alias: one, condition: one.enabled}\n- {name: d, version: 0.1.0, alias: two, condition: two.enabled}\n",
		"values.yaml":                 "one: {enabled: true}\ntwo: {enabled: true}\n",
		"charts/d/Chart.yaml":         "apiVersion: v2\nname: d\nversion: 0.1.0\n",
		"charts/d/crds/things.yaml":   "kind: CustomResourceDefinition\n",
		"charts/d/templates/own.yaml": "kind: ConfigMap\n",
	})
	if err != nil {
		t.Fatal(err)
	}
	off := map[string]any{"enabled": false}
	for _, tt := range []struct {
		values map[string]any
		want   int
	}{
		{nil, 1},
		{map[string]any{"one": off}, 1},
		{map[string]any{"one": off, "two": off}, 0},
	} {
		got, err := c.Render(t.Context(), request(tt.values))
		if err != nil {
			t.Fatal(err)
		}
		if n := bytes.Count(got.CRDs, []byte("kind: CustomResourceDefinition")); n != tt.want {
			t.Errorf("with %v there are %d definitions; want %d:\n%s", tt.values, n, tt.want, got.CRDs)
		}
	}
}

func TestTemplatesAskForKindsOfTheCluster(t *testing.T) {
	c, err := writeChart(t, map[string]string{
		"Chart.yaml":          minimal,
		"values.yaml":         "ask: []\n",
		"templates/kind.yaml": "{{ range .Values.ask }}{{ . }}: {{ $.Capabilities.APIVersions.Has . }}\n{{ end }}",
	})
	if err != nil {
		t.Fatal(err)
	}
	old, now := "v1.21.14", "v1.34.4+k3s1"
	for _, tt := range []struct {
		ask    string
		served []string
	}{
		{"v1", []string{old, now}},
		{"v1/Pod", []string{old, now}},
		{"apps/v1/Deployment", []string{old, now}},
		{"policy/v1/PodDisruptionBudget", []string{old, now}},
		{"networking.k8s.io/v1/Ingress", []string{old, now}},
		{"apiextensions.k8s.io/v1/CustomResourceDefinition", []string{old, now}},
		{"apiregistration.k8s.io/v1", []string{old, now}},
		{"autoscaling/v2", []string{now}},
		{"autoscaling/v2/HorizontalPodAutoscaler", []string{now}},
		{"policy/v1beta1", []string{old}},
		{"extensions/v1beta1/Ingress", []string{old}},
		{"apps/v1beta1", nil},
		{"networking.k8s.io/v1beta1/IPAddress", nil},
		{"admissionregistration.k8s.io/v1alpha1", nil},
		{"v1/PodList", nil},
		{"monitoring.coreos.com/v1", nil},
	} {
		for _, version := range []string{old, now} {
			r := request(map[string]any{"ask": []any{tt.ask}})
			r.KubeVersion = version
			got, err := c.Render(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("%s: %t\n", tt.ask, slices.Contains(tt.served, version))
			if !strings.Contains(string(got.Manifests), want) {
				t.Errorf("on %s it renders\n%s\nwant %s", version, got.Manifests, want)
			}
		}
	}
}

func TestPackedAndUnpackedAreOneChart(t *testing.T) {
	var packed bytes.Buffer
	zipped := gzip.NewWriter(&packed)
	archive := tar.NewWriter(zipped)
	root := os.DirFS("testdata")
	err := fs.WalkDir(root, "shop", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = archive.Write(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zipped.Close(); err != nil {
		t.Fatal(err)
	}
	fromArchive, err := Read(&packed)
	if err != nil {
		t.Fatal(err)
	}
	fromDir, err := ReadDir("testdata/shop")
	if err != nil {
		t.Fatal(err)
	}
	if fromArchive.Digest() != fromDir.Digest() {
		t.Errorf("the packed chart is %s; unpacked it is %s", fromArchive.Digest(), fromDir.Digest())
	}
}

func TestBadChartsAreRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		files  map[string]string
		values map[string]any
		want   []string
	}{
		{
			"a dependency that is not there",
			map[string]string{"Chart.yaml": minimal + "dependencies:\n- {name: redis, version: 20.1.0, repository: https://charts.example}\n"},
			nil,
			[]string{"chart m needs chart redis 20.1.0", "helm dependency build"},
		},
		{
			"a library",
			map[string]string{"Chart.yaml": minimal + "type: library\n"},
			nil,
			[]string{"is a library"},
		},
		{
			"a template that does not parse",
			map[string]string{"Chart.yaml": minimal, "templates/a.yaml": "{{ if }}"},
			nil,
			[]string{"templates/a.yaml:1"},
		},
		{
			"a template that asks for a required value",
			map[string]string{"Chart.yaml": minimal, "templates/a.yaml": `host: {{ required "host is needed" .Values.host }}`},
			nil,
			[]string{"host is needed"},
		},
		{
			"random names",
			map[string]string{"Chart.yaml": minimal, "templates/a.yaml": "metadata:\n  name: {{ randAlphaNum 8 }}"},
			nil,
			[]string{"renders differently twice", "templates/a.yaml: line 2, name"},
		},
		{
			"the year",
			map[string]string{"Chart.yaml": minimal, "templates/a.yaml": `year: {{ now | date "2006" }}`},
			nil,
			[]string{"renders differently twice", "line 1, year"},
		},
		{
			"another Kubernetes",
			map[string]string{"Chart.yaml": minimal + "kubeVersion: '>=1.99.0'\n"},
			nil,
			[]string{"is for Kubernetes >=1.99.0", "v1.34.4+k3s1"},
		},
		{
			"a value of another type than the schema's",
			map[string]string{"Chart.yaml": minimal, "values.yaml": "replicas: 1", "values.schema.json": `{"properties": {"replicas": {"type": "integer"}}}`},
			map[string]any{"replicas": "three"},
			[]string{"values.schema.json", "replicas"},
		},
		{
			"a value that nothing reads",
			map[string]string{"Chart.yaml": minimal, "values.yaml": "replicas: 1", "templates/a.yaml": "n: {{ .Values.replicas }}"},
			map[string]any{"replcias": 3},
			[]string{`no value "replcias"`, `did you mean "replicas"?`},
		},
		{
			"no version",
			map[string]string{"Chart.yaml": "apiVersion: v2\nname: m\n"},
			nil,
			[]string{"version"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := writeChart(t, tt.files)
			if err == nil {
				_, err = c.Render(t.Context(), request(tt.values))
			}
			if err == nil {
				t.Fatal("it was rendered")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestSecretsThatATemplateMakesAreNotShown(t *testing.T) {
	c, err := writeChart(t, map[string]string{"Chart.yaml": minimal, "templates/a.yaml": `data: {password: "p-{{ randAlphaNum 30 }}"}`})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Render(t.Context(), request(nil))
	if err == nil || strings.Contains(err.Error(), "p-") {
		t.Errorf("Render() = %v; want a refusal without the password", err)
	}
}

func TestNestedValuesAreWarnedOf(t *testing.T) {
	c, err := ReadDir("testdata/shop")
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Render(t.Context(), request(map[string]any{
		"image":     map[string]any{"repositry": "x"},
		"resources": map[string]any{"limits": map[string]any{"memory": "1Gi"}},
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{`value image.repositry is not in the chart's values.yaml; did you mean "repository"?`}
	if diff := cmp.Diff(want, got.Warnings); diff != "" {
		t.Errorf("Warnings (-want +got):\n%s", diff)
	}
}

// TestSchemaSomewhereElseIsWarnedOf: it is not fetched, and the chart's own other schemas
// hold all the same.
func TestSchemaSomewhereElseIsWarnedOf(t *testing.T) {
	c, err := writeChart(t, map[string]string{
		"Chart.yaml": minimal + "dependencies:\n- {name: d, version: 0.1.0}\n", "values.yaml": "d: {n: 1}\n",
		"values.schema.json":          `{"properties": {"x": {"$ref": "https://schemas.example/x.json"}}}`,
		"charts/d/Chart.yaml":         "apiVersion: v2\nname: d\nversion: 0.1.0\n",
		"charts/d/values.schema.json": `{"properties": {"n": {"type": "integer"}}}`,
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Render(t.Context(), request(nil))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], "chart m: the values are not checked") || !strings.Contains(got.Warnings[0], "https://schemas.example/x.json") {
		t.Errorf("Warnings = %q; want the chart and what its schema refers to", got.Warnings)
	}
	if _, err := c.Render(t.Context(), request(map[string]any{"d": map[string]any{"n": "x"}})); err == nil || !strings.Contains(err.Error(), "chart d: its values.schema.json refuses") {
		t.Errorf("Render with a value that the dependency's schema refuses = %v; want that", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("no archive"))
	f.Add([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff})
	f.Fuzz(func(t *testing.T, packed []byte) {
		c, err := Read(bytes.NewReader(packed))
		if (c == nil) == (err == nil) {
			t.Errorf("Read() = %v, %v; want either", c, err)
		}
	})
}
