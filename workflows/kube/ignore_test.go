package kube

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestIgnoredFieldsTakeTheirLiveValues(t *testing.T) {
	for _, test := range []struct{ field, declared, live, want string }{
		{"spec.replicas", `{"spec":{"replicas":2}}`, `{"spec":{"replicas":7}}`, `{"spec":{"replicas":7}}`},
		{".spec.replicas", `{"spec":{"replicas":2}}`, `{"spec":{}}`, `{"spec":{}}`},
		{"spec.replicas", `{"spec":{}}`, `{"spec":{"replicas":7}}`, `{"spec":{}}`},
		{`metadata.annotations["a.b/c"]`, `{"metadata":{"annotations":{"a.b/c":"x","d":"y"}}}`, `{"metadata":{"annotations":{"a.b/c":"z"}}}`, `{"metadata":{"annotations":{"a.b/c":"z","d":"y"}}}`},
		{"Deployment/web spec.replicas", `{"spec":{"replicas":2}}`, `{"spec":{"replicas":7}}`, `{"spec":{"replicas":7}}`},
		{"Deployment/other spec.replicas", `{"spec":{"replicas":2}}`, `{"spec":{"replicas":7}}`, `{"spec":{"replicas":2}}`},
		{"Deployment/shop/web spec.replicas", `{"spec":{"replicas":2}}`, `{"spec":{"replicas":7}}`, `{"spec":{"replicas":7}}`},
		{"StatefulSet/web spec.replicas", `{"spec":{"replicas":2}}`, `{"spec":{"replicas":7}}`, `{"spec":{"replicas":2}}`},
		{
			"spec.c[name=web].image", `{"spec":{"c":[{"name":"a","image":"1"},{"name":"web","image":"1"}]}}`, `{"spec":{"c":[{"name":"web","image":"2"},{"name":"a","image":"2"}]}}`,
			`{"spec":{"c":[{"name":"a","image":"1"},{"name":"web","image":"2"}]}}`,
		},
		{
			"spec.c[*].image", `{"spec":{"c":[{"name":"a","image":"1"},{"name":"web","image":"1"}]}}`, `{"spec":{"c":[{"name":"web","image":"2"}]}}`,
			`{"spec":{"c":[{"name":"a"},{"name":"web","image":"2"}]}}`,
		},
		{"spec.l[1]", `{"spec":{"l":[1,2]}}`, `{"spec":{"l":[5,6]}}`, `{"spec":{"l":[1,6]}}`},
		{"spec.replicas.deeper", `{"spec":{"replicas":2}}`, `{"spec":{"replicas":7}}`, `{"spec":{"replicas":2}}`},
	} {
		i, err := parseIgnored(test.field)
		if err != nil {
			t.Errorf("parseIgnored(%q) = %v", test.field, err)
			continue
		}
		declared, live := decode(t, test.declared), decode(t, test.live)
		if i.applies(ID{Group: "apps", Kind: "Deployment", Namespace: "shop", Name: "web"}) {
			i.settle(declared, live)
		}
		got, err := json.Marshal(declared)
		if err != nil || string(got) != string(compact(t, test.want)) {
			t.Errorf("%s: %s over %s = %s, %v; want %s", test.field, test.declared, test.live, got, err, test.want)
		}
	}
}

func decode(t *testing.T, s string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(s), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func compact(t *testing.T, s string) []byte {
	t.Helper()
	b, err := json.Marshal(decode(t, s))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestIgnoredFieldsThatAreNone(t *testing.T) {
	for _, field := range []string{
		"", ".", "spec.", "spec..x", "spec[", "spec[x]", `spec["x`, "[0].x", "kind", "metadata.name", "metadata", "Deployment/ spec.x", "a/b/c/d spec.x", "Deployment spec.x", "spec x.y",
		strings.Repeat("a.", 200) + "a",
	} {
		if err := CheckIgnoreField(field); err == nil {
			t.Errorf("CheckIgnoreField(%q) = nil; want an error", field)
		}
	}
}

func FuzzIgnoreField(f *testing.F) {
	for _, s := range []string{"spec.replicas", `Deployment/a metadata.annotations["a.b/c"]`, "spec.c[name=web].image", "spec.c[*].x[0]"} {
		f.Add(s, `{"spec":{"replicas":1,"c":[{"name":"web","image":"x"}]}}`)
	}
	f.Fuzz(func(t *testing.T, field, object string) {
		i, err := parseIgnored(field)
		if err != nil {
			return
		}
		var declared, live map[string]any
		if json.Unmarshal([]byte(object), &declared) != nil || json.Unmarshal([]byte(object), &live) != nil {
			return
		}
		before, _ := json.Marshal(declared)
		i.settle(declared, live)
		if after, _ := json.Marshal(declared); string(after) != string(before) {
			t.Errorf("%s over itself = %s; want %s", field, after, before)
		}
	})
}
