package steps

import (
	"slices"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/site"
)

func TestPublicKnowsNoSecret(t *testing.T) {
	inputs := cty.ObjectVal(map[string]cty.Value{
		"name": cty.StringVal("app"),
		"env":  cty.MapVal(map[string]cty.Value{"key": cty.StringVal("hunter2").Mark(site.Sensitive), "lang": cty.StringVal("en").Mark(site.Sensitive)}),
		"file": cty.ObjectVal(map[string]cty.Value{"source": cty.StringVal("https://hunter2@x/f").Mark(site.Sensitive), "sha256": cty.StringVal(strings.Repeat("0", 64))}),
	})
	got, err := Public(inputs)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(got.GoString(), "hunter2") || got.GetAttr("name").AsString() != "app" {
		t.Errorf("Public() = %#v; want the name and no secret", got)
	}
	if needs, err := listedFiles(got); err != nil || len(needs.Files) != 0 {
		t.Errorf("listedFiles() = %v, %v; want nothing of a file whose source is secret", needs.Files, err)
	}
}

func TestFilesAmongInputsAreFound(t *testing.T) {
	file := func(name string) cty.Value {
		return cty.ObjectVal(map[string]cty.Value{"source": cty.StringVal(name), "sha256": cty.StringVal(strings.Repeat("1", 64))})
	}
	needs, err := listedFiles(cty.ObjectVal(map[string]cty.Value{
		"binary": file("k3s"), "images": cty.ListVal([]cty.Value{file("a.tar"), file("b.tar")}),
		"none": cty.NullVal(file("x").Type()), "later": cty.UnknownVal(file("x").Type()), "source": cty.StringVal("alone"),
	}))
	var got []string
	for _, f := range needs.Files {
		got = append(got, f.Source)
	}
	if want := []string{"k3s", "a.tar", "b.tar"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("listedFiles() = %q, %v; want %q", got, err, want)
	}
}

func TestPodImages(t *testing.T) {
	objects, err := kube.Parse("test", []byte(`apiVersion: batch/v1
kind: CronJob
metadata: {name: j, namespace: d}
spec:
  jobTemplate:
    spec:
      template:
        spec:
          initContainers: [{name: i, image: "init:1"}]
          containers: [{name: c, image: "job:1"}, {name: d, image: "job:1"}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: m, namespace: d}
data: {image: "not:this"}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: a.b.c}
spec:
  containers: [{image: "nor:this"}]
`))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, i := range podImages(objects) {
		got = append(got, i.Name)
	}
	if want := []string{"init:1", "job:1"}; !slices.Equal(got, want) {
		t.Errorf("podImages() = %q; want %q", got, want)
	}
}

func TestDeclaredVersion(t *testing.T) {
	for _, c := range []struct {
		inputs map[string]cty.Value
		want   string
	}{
		{map[string]cty.Value{"version": cty.StringVal("v1.36.3+k3s1")}, "v1.36.3+k3s1"},
		{map[string]cty.Value{"image": cty.StringVal("docker.io/prom/prometheus:v3.14.0")}, "v3.14.0"},
		{map[string]cty.Value{"image": cty.StringVal("registry:5000/px@sha256:" + strings.Repeat("0", 64))}, ""},
		{map[string]cty.Value{"version": cty.UnknownVal(cty.String)}, ""},
		{map[string]cty.Value{"version": cty.NullVal(cty.String), "image": cty.StringVal("a:1.2")}, "1.2"},
		{map[string]cty.Value{"other": cty.StringVal("1")}, ""},
	} {
		if got, ok := declaredVersion(cty.ObjectVal(c.inputs)); got != c.want && (ok || c.want != "") {
			t.Errorf("declaredVersion(%v) = %q, %v; want %q", c.inputs, got, ok, c.want)
		}
	}
}
