package kube

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"
	for _, test := range []struct {
		name, manifest string
		want           []string // IDs
		err            string
	}{
		{"one", fmt.Sprintf(cm, "a"), []string{"ConfigMap/a"}, ""},
		{"several, with empty and commented documents", "---\n# nothing\n---\n" + fmt.Sprintf(cm, "a") + "---\n\n--- # b follows\n" + fmt.Sprintf(cm, "b") + "---\n", []string{"ConfigMap/a", "ConfigMap/b"}, ""},
		{"windows line ends", strings.ReplaceAll(fmt.Sprintf(cm, "a")+"---\n"+fmt.Sprintf(cm, "b"), "\n", "\r\n"), []string{"ConfigMap/a", "ConfigMap/b"}, ""},
		{"dashes in a block of text", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  text: |\n    ---\n    x\n", []string{"ConfigMap/a"}, ""},
		{"JSON", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, []string{"ConfigMap/a"}, ""},
		{"list", `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}]}`, []string{"ConfigMap/a"}, ""},
		{"list of a kind", `{"apiVersion":"v1","kind":"ConfigMapList","items":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}]}`, []string{"ConfigMap/a"}, ""},
		{"kind that ends in List", "apiVersion: example.com/v1\nkind: AllowList\nmetadata: {name: a}\n", []string{"AllowList/a"}, ""},
		{"nothing", "", nil, ""},
		{"no YAML", "a: b: c\n", nil, "document 1"},
		{"second document broken", fmt.Sprintf(cm, "a") + "---\na: [\n", nil, "document 2"},
		{"key twice", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: x, k: z}\n", nil, "already set"},
		{"text", "just some text\n", nil, "not an object"},
		{"no kind", "apiVersion: v1\nmetadata: {name: a}\n", nil, "no kind"},
		{"no name", "apiVersion: v1\nkind: ConfigMap\nmetadata: {}\n", nil, "no metadata.name"},
		{"generateName", "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: a}\n", nil, "generateName makes another object each time"},
		{"name with a slash", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: ../secrets/x}\n", nil, "no name of an object"},
		{"namespace with a slash", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: a/b}\n", nil, "no name of a namespace"},
		{"label that is a number", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, labels: {v: 1}}\n", nil, "put it in quotes"},
		{"bad item", `{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}},5]}`, nil, "items[1]"},
		{"nested too deep", strings.Repeat(`{"a":`, 300) + "1" + strings.Repeat("}", 300), nil, "nested deeper"},
		{"billion laughs", "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\n" +
			"e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f]\n", nil, "excessive aliasing"},
		{"too many", strings.Repeat(fmt.Sprintf(cm, "a")+"---\n", maxDocuments+1), nil, "more than 5000 objects"},
		{"too large", strings.Repeat(" ", maxManifestBytes+1), nil, "the limit is"},
	} {
		t.Run(test.name, func(t *testing.T) {
			objects, err := Parse("shop.yaml", []byte(test.manifest))
			var got []string
			for _, o := range objects {
				got = append(got, IDOf(o).String())
			}
			if test.err == "" && (err != nil || !slices.Equal(got, test.want)) {
				t.Errorf("Parse = %v, %v; want %v", got, err, test.want)
			}
			if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err) || !strings.HasPrefix(err.Error(), "shop.yaml: ")) {
				t.Errorf("Parse = %v, %v; want an error about shop.yaml with %q", got, err, test.err)
			}
		})
	}
}

func TestParseRenderedSplitsAsHelmDoes(t *testing.T) {
	const cm = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"
	for _, dashes := range []string{"---", "--- ", "---\t", "---\n", "---\r\n", "--- # b follows\n"} {
		manifest := "---\n# Source: c/templates/a.yaml\n" + fmt.Sprintf(cm, "a") + dashes + fmt.Sprintf(cm, "b") + "---"
		objects, _, err := ParseRendered("c", []byte(manifest))
		var got []string
		for _, o := range objects {
			got = append(got, IDOf(o).String())
		}
		if err != nil || !slices.Equal(got, []string{"ConfigMap/a", "ConfigMap/b"}) {
			t.Errorf("ParseRendered with %q between two objects = %v, %v; want both", dashes, got, err)
		}
	}
	if _, err := Parse("shop.yaml", []byte(fmt.Sprintf(cm, "a")+"---"+fmt.Sprintf(cm, "b"))); err == nil {
		t.Error("Parse takes dashes that end no document of YAML")
	}
}

func TestParseRenderedTakesTheLastOfTwoKeys(t *testing.T) {
	manifest := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: b}\ndata:\n  k: first\n  other: x\n  k: last\n"
	objects, notes, err := ParseRendered("shop", []byte(manifest))
	if err != nil || len(objects) != 2 {
		t.Fatalf("ParseRendered = %v, %v; want both objects", objects, err)
	}
	if got := str(objects[1], "data", "k"); got != "last" {
		t.Errorf("k = %q; want the last", got)
	}
	if want := `shop: document 2: ConfigMap b: line 8: key "k" already set in map; the last one counts`; len(notes) != 1 || notes[0] != want {
		t.Errorf("notes = %q; want %q", notes, want)
	}
	if _, _, err := ParseRendered("shop", []byte("a: {k: 1, k: 2}\nb: [\n")); err == nil {
		t.Error("ParseRendered takes what is no YAML")
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a, labels: {x: \"y\"}}\n---\n{}\n"))
	f.Add([]byte(`{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"a","annotations":{"helm.sh/hook":"pre-install","helm.sh/hook-weight":"-5"}}}`))
	f.Add([]byte("a: &a [1,2]\nb: *a\n---\n- x\n"))
	f.Fuzz(func(t *testing.T, manifest []byte) {
		if len(manifest) > 1<<16 {
			return
		}
		objects, err := Parse("fuzz", manifest)
		if err != nil {
			return
		}
		set, err := NewSet(objects...)
		if err != nil {
			return
		}
		if len(set.Objects) > len(objects) {
			t.Errorf("NewSet made %d objects of %d", len(set.Objects), len(objects))
		}
		if digest := set.Digest(); digest != set.copySet().Digest() {
			t.Error("a copy has another digest")
		}
		for _, o := range set.Objects {
			Ready(o)
			if found := differences(o, o.DeepCopy()); len(found) > 0 {
				t.Errorf("%s differs from itself at %s", IDOf(o), found[0].path)
			}
		}
		_, _ = define(set.Objects)
	})
}

func TestOrderOfASet(t *testing.T) {
	var objects []Object
	for _, o := range [][3]string{
		{"operator.tigera.io/v1", "Installation", "default"},
		{"apps/v1", "Deployment", "web"},
		{"admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "hook"},
		{"v1", "Service", "web"},
		{"apiregistration.k8s.io/v1", "APIService", "v1.x"},
		{"v1", "ConfigMap", "b"},
		{"v1", "ConfigMap", "a"},
		{"apiextensions.k8s.io/v1", "CustomResourceDefinition", "x.example.com"},
		{"rbac.authorization.k8s.io/v1", "ClusterRole", "r"},
		{"v1", "Namespace", "ns"},
		{"v1", "ServiceAccount", "sa"},
	} {
		objects = append(objects, Make(o[0], o[1], "", o[2], nil))
	}
	set, err := NewSet(objects...)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range set.Objects {
		got = append(got, IDOf(o).String())
	}
	want := []string{
		"Namespace/ns", "CustomResourceDefinition/x.example.com", "ServiceAccount/sa", "ConfigMap/a", "ConfigMap/b", "ClusterRole/r", "Service/web",
		"Deployment/web", "APIService/v1.x", "ValidatingWebhookConfiguration/hook", "Installation/default",
	}
	if !slices.Equal(got, want) {
		t.Errorf("order = %v\nwant    %v", got, want)
	}
}

func TestWebhooksThatHinderPods(t *testing.T) {
	rule := func(group, resource, operation string) map[string]any {
		return map[string]any{"apiGroups": []any{group}, "resources": []any{resource}, "operations": []any{operation}}
	}
	for _, test := range []struct {
		policy string
		rule   map[string]any
		want   bool
	}{
		{"Fail", rule("", "pods", "CREATE"), true},
		{"", rule("", "pods", "CREATE"), true}, // Fail, by default
		{"Fail", rule("", "pods/binding", "CREATE"), true},
		{"Fail", rule("apps", "deployments", "UPDATE"), true},
		{"Fail", rule("*", "*", "*"), true},
		{"Fail", rule("*", "*/*", "*"), true},
		{"Ignore", rule("", "pods", "CREATE"), false},
		{"Fail", rule("", "pods/exec", "CONNECT"), false},
		{"Fail", rule("", "pods", "DELETE"), false},
		{"Fail", rule("", "services", "CREATE"), false},
		{"Fail", rule("example.com", "*", "*"), false},
	} {
		webhook := map[string]any{"name": "w", "rules": []any{test.rule}}
		if test.policy != "" {
			webhook["failurePolicy"] = test.policy
		}
		o := Make("admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "", "w", map[string]any{"webhooks": []any{webhook}})
		if got := hinders(o); got != test.want {
			t.Errorf("hinders of %q and %v = %t; want %t", test.policy, test.rule, got, test.want)
		}
	}
}

func TestSetRefusesWhatIsDeclaredTwice(t *testing.T) {
	make := func() Object { return Make("v1", "ConfigMap", "ns", "a", nil) }
	if _, err := NewSet(make(), make()); err == nil || !strings.Contains(err.Error(), "ConfigMap/ns/a is declared twice") {
		t.Errorf("NewSet of the same object twice = %v; want an error that names it", err)
	}
	one, err := NewSet(make())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Join(one, one); err == nil || !strings.Contains(err.Error(), "ConfigMap/ns/a is declared twice") {
		t.Errorf("Join of a set with itself = %v; want an error that names the object", err)
	}
}

func TestHookAnnotations(t *testing.T) {
	install := []Event{PreInstall}
	for _, test := range []struct {
		annotations map[string]string
		isHook      bool
		want        Hook
		odd         string
	}{
		{nil, false, Hook{}, ""},
		{map[string]string{"helm.sh/hook": "pre-install, post-upgrade"}, true, Hook{Events: []Event{PreInstall, PostUpgrade}, BeforeCreation: true}, ""},
		{map[string]string{"helm.sh/hook": " Pre-Install"}, true, Hook{Events: install, BeforeCreation: true}, ""},
		{map[string]string{"helm.sh/hook": "test"}, true, Hook{BeforeCreation: true}, ""},
		{map[string]string{"helm.sh/hook": "crd-install"}, false, Hook{}, ""},
		{map[string]string{"helm.sh/hook": "pre-delete", "helm.sh/hook-delete-policy": "Hook-Succeeded , hook-failed"}, true, Hook{Events: []Event{PreDelete}, Succeeded: true, Failed: true}, ""},
		{map[string]string{"helm.sh/hook": "pre-install,pre-instal"}, true, Hook{}, `Job/j is left out, as Helm does: "pre-instal" is no event of its hooks`},
		{map[string]string{"helm.sh/hook": "pre-install", "helm.sh/hook-weight": "-3"}, true, Hook{Events: install, Weight: -3, BeforeCreation: true}, ""},
		{map[string]string{"helm.sh/hook": "pre-install", "helm.sh/hook-weight": "heavy"}, true, Hook{Events: install, BeforeCreation: true}, ""},
		{map[string]string{"helm.sh/hook": "pre-install", "helm.sh/hook-delete-policy": "never"}, true, Hook{Events: install}, ""},
	} {
		o := Make("batch/v1", "Job", "", "j", nil)
		o.SetAnnotations(test.annotations)
		h, isHook, odd := hookOf(o)
		h.Object = nil
		if isHook != test.isHook || odd != test.odd || !reflect.DeepEqual(h, test.want) {
			t.Errorf("hookOf(%v) = %+v, %v, %q; want %+v, %v, %q", test.annotations, h, isHook, odd, test.want, test.isHook, test.odd)
		}
		if notes := OddHooks([]Object{o}); len(notes) > 0 != (test.odd != "") {
			t.Errorf("OddHooks(%v) = %q; want %q", test.annotations, notes, test.odd)
		}
		set, err := NewSet(o)
		if err != nil || len(set.Objects) > 0 == test.isHook || len(set.Hooks) > 0 != (len(test.want.Events) > 0) {
			t.Errorf("NewSet(%v) = %+v, %v", test.annotations, set, err)
		}
	}
}
