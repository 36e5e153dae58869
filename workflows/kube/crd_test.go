package kube_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/kube/kubetest"
)

// crd defines a kind with an enumeration and, optionally, further properties.
func crd(plural, kind, scope, more string) string {
	return fmt.Sprintf(`---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[1]s.example.com}
spec:
  group: example.com
  scope: %[3]s
  names: {plural: %[1]s, singular: %[4]s, kind: %[2]s, listKind: %[2]sList}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [mode]
            properties:
              mode: {type: string, enum: [fast, slow]}
              size: {type: integer, default: 3}
              %[5]s
          status: {type: object, x-kubernetes-preserve-unknown-fields: true}
`, plural, kind, scope, strings.ToLower(kind), more)
}

func custom(kind, namespace, name, spec string) string {
	ns := ""
	if namespace != "" {
		ns = ", namespace: " + namespace
	}
	return fmt.Sprintf("---\napiVersion: example.com/v1\nkind: %s\nmetadata: {name: %s%s}\nspec: {%s}\n", kind, name, ns, spec)
}

func TestDefinitionAndItsObjectsInOneSet(t *testing.T) {
	c := open(t)
	opts := options(t, "gadgets")
	opts.Namespace = "gadgets"
	// In the wrong order on purpose.
	s := set(t, custom("Gadget", "", "one", "mode: fast")+custom("World", "", "earth", "mode: slow")+
		crd("gadgets", "Gadget", "Namespaced", "")+crd("worlds", "World", "Cluster", "")+namespace("gadgets"))
	d := diff(t, c, s, opts)
	if len(d.Changes) != 5 {
		t.Fatalf("Diff = %q; want five objects to create", d.Lines())
	}
	for _, ch := range d.Changes {
		if ch.Operation != kube.Create {
			t.Errorf("%s: %s; want create", ch.ID, ch.Operation)
		}
	}
	if !slices.Contains(d.Lines(), "Gadget/gadgets/one: create: its kind comes with CustomResourceDefinition/gadgets.example.com") {
		t.Errorf("Diff = %q; want the gadget in its namespace and whence its kind comes", d.Lines())
	}
	apply(t, c, s, opts)
	wantNothing(t, diff(t, c, s, opts))

	// A new version of the definition has a field that its objects already use.
	newer := set(t, custom("Gadget", "", "one", "mode: fast, color: red")+custom("World", "", "earth", "mode: slow")+
		crd("gadgets", "Gadget", "Namespaced", "color: {type: string}")+crd("worlds", "World", "Cluster", "")+namespace("gadgets"))
	if f := find(t, diff(t, c, newer, opts), "Gadget/gadgets/one", ".spec.color"); f.Old != "(absent)" || f.New != `"red"` {
		t.Errorf("color = %+v; want it to come", f)
	}
	apply(t, c, newer, opts)
	wantNothing(t, diff(t, c, newer, opts))

	// The definition is declared no longer: it stays, and its objects too.
	without := set(t, namespace("gadgets")+crd("worlds", "World", "Cluster", "")+custom("World", "", "earth", "mode: slow"))
	opts.PruneData = nil
	apply(t, c, without, opts)
	if _, err := c.Get(t.Context(), "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "gadgets.example.com"); err != nil {
		t.Errorf("the definition was pruned without consent: %v", err)
	}
	loss, err := c.Loss(t.Context(), without, opts)
	want := []string{
		"CustomResourceDefinition/gadgets.example.com with all objects of its kind (0)", "CustomResourceDefinition/worlds.example.com with all objects of its kind (1)",
		"Namespace/gadgets with everything in it",
	}
	if err != nil || !slices.Equal(loss, want) {
		t.Errorf("Loss = %q, %v; want %q", loss, err, want)
	}
	if err := c.Remove(t.Context(), without, opts, true); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"gadgets.example.com", "worlds.example.com"} {
		if _, err := c.Get(t.Context(), "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name); !errors.Is(err, kube.ErrNotFound) {
			t.Errorf("%s after Remove with data: %v; want it gone", name, err)
		}
	}
}

func TestObjectsAreCheckedAgainstDefinitionsOfTheSet(t *testing.T) {
	c := open(t)
	definition := crd("checks", "Check", "Namespaced", "list: {type: array, items: {type: object, properties: {name: {type: string}}}}")
	for _, test := range []struct{ name, spec, want string }{
		{"bad enum", "mode: quick", `spec.mode: Unsupported value: "quick": supported values: "fast", "slow"`},
		{"mistyped field", "mode: fast, sise: 4", "spec.sise: there is no such field"},
		{"mistyped field in a list", "mode: fast, list: [{nam: x}]", "spec.list[0].nam: there is no such field"},
		{"wrong type", "mode: fast, size: big", "spec.size: Invalid value"},
		{"missing field", "size: 4", "spec.mode: Required value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := c.Diff(t.Context(), set(t, definition+custom("Check", "default", "x", test.spec)), options(t, "checks"))
			var invalid *kube.InvalidError
			if !errors.As(err, &invalid) || invalid.ID.String() != "Check/default/x" || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Diff = %v; want Check/default/x and %s", err, test.want)
			}
		})
	}
	t.Run("definition of another set", func(t *testing.T) {
		opts := options(t, "checks")
		opts.Definitions = set(t, definition).Objects
		if _, err := c.Diff(t.Context(), set(t, custom("Check", "default", "x", "mode: quick")), opts); err == nil || !strings.Contains(err.Error(), "Unsupported value") {
			t.Errorf("Diff = %v; want the enumeration enforced", err)
		}
	})
}

// TestUpstreamObjectsAreCheckedBeforeTheirDefinitionsAreThere plans Calico's
// Installation against its real schema, on a server of its own, which does not
// have it.
func TestUpstreamObjectsAreCheckedBeforeTheirDefinitionsAreThere(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: no API server is started")
	}
	t.Parallel()
	c, err := kubetest.Run(t, kubetest.Config{}).Open()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	opts := options(t, "installation")
	opts.Definitions = upstream(t, "calico-crds-v3.32.1.yaml.gz").Objects
	installation := func(dataplane string) kube.Set {
		return set(t, "apiVersion: operator.tigera.io/v1\nkind: Installation\nmetadata: {name: planned}\nspec: {calicoNetwork: {bgp: Disabled, linuxDataplane: "+dataplane+"}}\n")
	}
	if d := diff(t, c, installation("Iptables"), opts); len(d.Changes) != 1 || d.Changes[0].Operation != kube.Create {
		t.Errorf("Diff = %q; want the Installation created", d.Lines())
	}
	_, err = c.Diff(t.Context(), installation("Userspace"), opts)
	if err == nil || !strings.Contains(err.Error(), "spec.calicoNetwork.linuxDataplane: Unsupported value") {
		t.Errorf("Diff of a bad dataplane = %v; want the enumeration enforced", err)
	}
}

func TestKindThatNobodyDefines(t *testing.T) {
	c := open(t)
	opts := options(t, "orphan")
	s := set(t, strings.Replace(custom("Orphan", "default", "x", "mode: fast"), "example.com", "example.net", 1))
	if lines := diff(t, c, s, opts).Lines(); !slices.Equal(lines, []string{"Orphan/default/x: create: the cluster does not know its kind yet"}) {
		t.Errorf("Diff = %q; want it planned, with a note", lines)
	}
	var unknown *kube.UnknownKindError
	if err := c.Apply(t.Context(), s, opts); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "definition") {
		t.Errorf("Apply = %v; want an UnknownKindError that says what to do", err)
	}
}

// TestDefinitionThatNeverBecomesEstablished takes the names of another one.
func TestDefinitionThatNeverBecomesEstablished(t *testing.T) {
	c := open(t)
	apply(t, c, set(t, crd("takens", "Taken", "Namespaced", "")), options(t, "first"))
	opts := options(t, "second")
	// The same kind and singular under another plural.
	s := set(t, strings.ReplaceAll(crd("takens", "Taken", "Namespaced", ""), "takens", "others"))
	var err error
	// A busy API server takes longer to say what is wrong with it.
	for opts.Wait = time.Second; opts.Wait < testBound; opts.Wait *= 4 {
		if err = c.Apply(t.Context(), s, opts); err == nil || strings.Contains(err.Error(), "NamesAccepted") {
			break
		}
	}
	var notReady *kube.NotReadyError
	if !errors.As(err, &notReady) || notReady.ID.Name != "others.example.com" || !strings.Contains(err.Error(), "NamesAccepted=False") {
		t.Errorf("Apply = %v; want the definition and its condition NamesAccepted", err)
	}
	if waited := notReady.Waited; waited > opts.Wait+10*time.Second {
		t.Errorf("it waited for %s; want the bound of %s", waited, opts.Wait)
	}
	for _, step := range []string{"first", "second"} {
		if err := c.Remove(t.Context(), kube.Set{}, options(t, step), true); err != nil {
			t.Error(err)
		}
	}
}

// TestOperatorsReleaseTheirObjectsBeforeTheyGo: the finalizer of a custom object
// holds up the removal of what would release it.
func TestFinalizerHoldsUpRemovalAndIsNamed(t *testing.T) {
	c := open(t)
	opts := options(t, "held")
	s := set(t, crd("helds", "Held", "Namespaced", "")+deployment("default", "operator-of-helds", "x:1", 1)+
		strings.Replace(custom("Held", "default", "x", "mode: fast"), "name: x", `name: x, finalizers: ["example.com/operator"]`, 1))
	apply(t, c, s, opts)
	opts.Wait = 300 * time.Millisecond
	err := c.Remove(t.Context(), s, opts, false)
	if err == nil || !strings.Contains(err.Error(), "Held/default/x") || !strings.Contains(err.Error(), "example.com/operator") {
		t.Errorf("Remove = %v; want the object and its finalizer named", err)
	}
	if _, err := c.Get(t.Context(), "apps/v1", "Deployment", "default", "operator-of-helds"); err != nil {
		t.Errorf("the operator is gone before it released its object: %v", err)
	}
	gvr := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "helds"}
	edit(t, gvr, "default", "x", `{"metadata":{"finalizers":null}}`)
	opts.Wait = testBound
	if err := c.Remove(t.Context(), s, opts, true); err != nil {
		t.Fatal(err)
	}
}

func TestCustomObjectIsReadyByItsConditions(t *testing.T) {
	c := open(t)
	opts := options(t, "status")
	s := set(t, crd("conds", "Cond", "Namespaced", "")+custom("Cond", "default", "x", "mode: fast"))
	apply(t, c, s, opts)
	opts.NoWait, opts.Wait = false, 300*time.Millisecond
	gvr := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "conds"}
	status := func(observed int64, kind, value, message string) {
		live, err := other(t).Resource(gvr).Namespace("default").Get(t.Context(), "x", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := unstructured.SetNestedField(live.Object, map[string]any{
			"observedGeneration": observed,
			"conditions":         []any{map[string]any{"type": kind, "status": value, "reason": "Because", "message": message}},
		}, "status"); err != nil {
			t.Fatal(err)
		}
		if _, err := other(t).Resource(gvr).Namespace("default").UpdateStatus(t.Context(), live, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		observed             int64
		kind, value, message string
		want                 string
	}{
		{1, "Ready", "False", "no disks", "Ready=False Because: no disks"},
		{0, "Ready", "True", "", "has not yet seen the change"},
		{1, "Stalled", "True", "for ever", "failed: Stalled=True Because: for ever"},
		{1, "Ready", "True", "", ""},
	} {
		status(test.observed, test.kind, test.value, test.message)
		err := c.Wait(t.Context(), s, opts)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "Cond/default/x")) {
			t.Errorf("Wait with %s=%s seen %d = %v; want %q", test.kind, test.value, test.observed, err, test.want)
		}
	}
	opts.Wait = testBound
	if err := c.Remove(t.Context(), s, opts, true); err != nil {
		t.Fatal(err)
	}
}

// rewrite writes a definition as Portworx's operator does when it starts: from a file of
// its own, of what is there only resourceVersion is kept.
func rewrite(t *testing.T, definition, name string) {
	t.Helper()
	gvr := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	live, err := other(t).Resource(gvr).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	own := set(t, definition).Objects[0]
	own.SetResourceVersion(live.GetResourceVersion())
	now, err := other(t).Resource(gvr).Update(t.Context(), own, metav1.UpdateOptions{FieldManager: "operator"})
	if err != nil {
		t.Fatal(err)
	}
	if now.GetLabels()[kube.OwnerLabel] != "" || now.GetUID() != live.GetUID() {
		t.Fatalf("the definition was written with labels %v, UID %s; want the same one without ours", now.GetLabels(), now.GetUID())
	}
}

func TestDefinitionThatAnOperatorWritesAnewStaysOurs(t *testing.T) {
	c := open(t)
	opts := options(t, "rewritten")
	definition := crd("rewrittens", "Rewritten", "Namespaced", "")
	s := set(t, definition+configMap("default", "rewritten", `a: "1"`))
	apply(t, c, s, opts)
	rewrite(t, definition, "rewrittens.example.com")
	wantNothing(t, diff(t, c, s, opts))

	// Of what is no definition nobody knows why it has lost the label, and another
	// definition of the same name is not the one that was applied.
	edit(t, configMaps, "default", "rewritten", `{"metadata":{"labels":null}}`)
	if lines := diff(t, c, s, opts).Lines(); !slices.Equal(lines, []string{"ConfigMap/default/rewritten: update: it is there already, and is taken over"}) {
		t.Errorf("Diff = %q; want the ConfigMap alone taken over", lines)
	}
	apply(t, c, s, opts)
	rewrite(t, definition, "rewrittens.example.com")
	elsewhere := options(t, "rewritten-elsewhere")
	if lines := diff(t, c, set(t, definition), elsewhere).Lines(); len(lines) != 1 || !strings.Contains(lines[0], "taken over") {
		t.Errorf("Diff of another step = %q; want the definition taken over", lines)
	}

	loss, err := c.Loss(t.Context(), s, opts)
	if err != nil || len(loss) != 1 || !strings.HasPrefix(loss[0], "CustomResourceDefinition/rewrittens.example.com") {
		t.Errorf("Loss = %q, %v; want the definition", loss, err)
	}
	if err := c.Remove(t.Context(), s, opts, true); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", "rewrittens.example.com"); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("the definition after Remove with data: %v; want it gone", err)
	}
}

// What takes an object down reads from it how: so it is told before it goes, and nobody
// else's object of the name is.
func TestObjectIsToldHowToGo(t *testing.T) {
	c := open(t)
	opts := options(t, "parting")
	held := strings.Replace(custom("Parted", "default", "x", "mode: fast"), "name: x", `name: x, finalizers: ["example.com/operator"]`, 1)
	s := set(t, crd("parteds", "Parted", "Namespaced", "wipe: {type: boolean}")+held)
	apply(t, c, s, opts)
	opts.Gone = 300 * time.Millisecond
	opts.Parting = map[string]map[string]any{"Parted/default/x": {"spec": map[string]any{"wipe": true}}}
	began := time.Now()
	err := c.Remove(t.Context(), s, opts, false)
	if err == nil || !strings.Contains(err.Error(), "Parted/default/x") || time.Since(began) > 20*time.Second {
		t.Errorf("Remove = %v after %s; want it to end at the bound for what goes", err, time.Since(began))
	}
	gvr := schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "parteds"}
	live, err := other(t).Resource(gvr).Namespace("default").Get(t.Context(), "x", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	spec, _, _ := unstructured.NestedMap(live.Object, "spec")
	if spec["wipe"] != true || spec["mode"] != "fast" || live.GetDeletionTimestamp() == nil {
		t.Errorf("it is deleted at %v with %v; want it told, and the rest as it was", live.GetDeletionTimestamp(), spec)
	}
	// Somebody asks for another way while it goes.
	opts.Parting["Parted/default/x"] = map[string]any{"spec": map[string]any{"wipe": false}}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	opts.Gone = testBound
	if err := c.Remove(ctx, s, opts, false); err == nil || !strings.Contains(err.Error(), "example.com/operator") {
		t.Errorf("Remove that is cut off = %v; want what was waited for", err)
	}
	live, err = other(t).Resource(gvr).Namespace("default").Get(t.Context(), "x", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if wipe, _, _ := unstructured.NestedBool(live.Object, "spec", "wipe"); wipe {
		t.Error("what is going already was not told the other way")
	}
	edit(t, gvr, "default", "x", `{"metadata":{"finalizers":null}}`)

	// One that is not ours is not told.
	apply(t, c, s, options(t, "parting"))
	edit(t, gvr, "default", "x", `{"metadata":{"labels":{"`+kube.OwnerLabel+`":"somebody"}}}`)
	opts.Parting["Parted/default/x"] = map[string]any{"spec": map[string]any{"wipe": true}}
	if err := c.Remove(t.Context(), s, opts, false); err != nil {
		t.Fatal(err)
	}
	live, err = other(t).Resource(gvr).Namespace("default").Get(t.Context(), "x", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if wipe, _, _ := unstructured.NestedBool(live.Object, "spec", "wipe"); wipe || live.GetDeletionTimestamp() != nil {
		t.Error("somebody else's object was told, or deleted")
	}
	edit(t, gvr, "default", "x", `{"metadata":{"finalizers":null}}`)
	if err := c.Remove(t.Context(), s, opts, true); err != nil {
		t.Fatal(err)
	}
}

// TestServerThatHasNotLearnedADefinitionYet answers as a server does that still has the
// schema before: an object that fits the new one is sent again, one that fits no
// schema that was just changed is refused at once.
func TestServerThatHasNotLearnedADefinitionYet(t *testing.T) {
	open(t)
	var refusals atomic.Int64
	c := faulty(t, kube.Config{}, func(_ int64, w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPatch || r.URL.Query().Has("dryRun") || !strings.HasSuffix(r.URL.Path, "/laggards/one") || refusals.Add(-1) < 0 {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusInternalServerError)
		fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","code":500,"message":"failed to create typed patch object (laggards/one; example.com/v1, Kind=Laggard): .spec.color: field not declared in schema"}`)
		return true
	})
	opts := options(t, "laggards")
	older := set(t, namespace("laggards")+crd("laggards", "Laggard", "Namespaced", "")+custom("Laggard", "laggards", "one", "mode: fast"))
	apply(t, c, older, opts)
	newer := func(color string) kube.Set {
		return set(t, namespace("laggards")+crd("laggards", "Laggard", "Namespaced", "color: {type: string}")+custom("Laggard", "laggards", "one", "mode: fast, color: "+color))
	}
	refusals.Store(3)
	apply(t, c, newer("red"), opts)
	wantNothing(t, diff(t, c, newer("red"), opts))
	if n := refusals.Load(); n >= 0 {
		t.Errorf("the object was sent %d times; want again after each of 3 refusals", 3-n)
	}

	refusals.Store(1)
	var invalid *kube.InvalidError
	if err := c.Apply(t.Context(), newer("blue"), opts); !errors.As(err, &invalid) {
		t.Errorf("Apply without a change of the definition = %v; want the server's refusal", err)
	}
}
