// Package addontest is what tests of add-ons share: a comparison of objects with a golden
// file, and a clock.
package addontest

import (
	"flag"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

var update = flag.Bool("update", false, "write the golden files anew")

// Golden compares the set with the YAML stream in the file.
func Golden(t *testing.T, path string, set kube.Set) {
	t.Helper()
	var stream []byte
	for _, o := range set.Objects {
		document, err := yaml.Marshal(o.Object)
		if err != nil {
			t.Fatal(err)
		}
		stream = append(append(stream, "---\n"...), document...)
	}
	if *update {
		if err := os.WriteFile(path, stream, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(stream)); diff != "" {
		t.Errorf("%s (-want +got; run with -update when it is meant):\n%s", path, diff)
	}
}

// Upstream is what a release publishes, as small as it can be: an operator and
// one definition.
func Upstream(t *testing.T, namespace string) []kube.Object {
	t.Helper()
	objects, err := kube.Parse("upstream.yaml", []byte(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: operator, namespace: `+namespace+`}
spec:
  selector: {matchLabels: {name: operator}}
  template:
    metadata: {labels: {name: operator}}
    spec:
      containers:
        - {name: operator, image: "registry.example/operator:v1", imagePullPolicy: Always}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.operator.example}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: uninstall
  namespace: `+namespace+`
  annotations: {helm.sh/hook: pre-delete}
`))
	if err != nil {
		t.Fatal(err)
	}
	return objects
}
