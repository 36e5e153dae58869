package kube_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// namespace is a Namespace document.
func namespace(name string) string {
	return "---\napiVersion: v1\nkind: Namespace\nmetadata: {name: " + name + "}\n"
}

func configMap(namespace, name, data string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {%s}\n", name, namespace, data)
}

func deployment(namespace, name, image string, replicas int) string {
	return fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %s, namespace: %s}
spec:
  replicas: %d
  selector: {matchLabels: {app: %s}}
  template:
    metadata: {labels: {app: %s}}
    spec: {containers: [{name: web, image: %q}]}
`, name, namespace, replicas, name, name, image)
}

// find is the field of a difference at a path.
func find(t *testing.T, d kube.Diff, id, path string) kube.Field {
	t.Helper()
	for _, c := range d.Changes {
		if c.ID.String() != id {
			continue
		}
		for _, f := range c.Fields {
			if f.Path == path {
				return f
			}
		}
	}
	t.Fatalf("nothing differs at %s of %s; what does:\n%s", path, id, strings.Join(d.Lines(), "\n"))
	return kube.Field{}
}

func TestDriftIsToldFromConflict(t *testing.T) {
	c := open(t)
	opts := options(t, "web")
	s := set(t, namespace("drift")+deployment("drift", "web", "nginx:1", 2)+configMap("drift", "settings", `a: "1", b: "2"`))
	apply(t, c, s, opts)
	wantNothing(t, diff(t, c, s, opts))

	before := time.Now().Add(-2 * time.Second)
	edit(t, deployments, "drift", "web", `{"spec":{"replicas":5,"template":{"spec":{"containers":[{"name":"web","image":"nginx:evil"}]}}}}`)
	edit(t, configMaps, "drift", "settings", `{"data":{"a":null,"theirs":"kept"}}`)
	d := diff(t, c, s, opts)
	for _, want := range []struct{ id, path, old, now string }{
		{"Deployment/drift/web", ".spec.replicas", "5", "2"},
		{"Deployment/drift/web", `.spec.template.spec.containers[name="web"].image`, `"nginx:evil"`, `"nginx:1"`},
		{"ConfigMap/drift/settings", ".data.a", "(absent)", `"1"`},
	} {
		f := find(t, d, want.id, want.path)
		if f.Cause != kube.Drift || f.Manager != "kubectl-edit" || f.Time.Before(before) || f.Old != want.old || f.New != want.now {
			t.Errorf("%s %s: got %+v; want drift by kubectl-edit just now from %s to %s", want.id, want.path, f, want.old, want.now)
		}
	}
	if d.Conflicts() != nil {
		t.Errorf("drift is called a conflict: %v", d.Conflicts())
	}
	apply(t, c, s, opts)
	wantNothing(t, diff(t, c, s, opts))
	live, err := c.Get(t.Context(), "v1", "ConfigMap", "drift", "settings")
	if err != nil {
		t.Fatal(err)
	}
	if data, _, _ := unstructured.NestedStringMap(live.Object, "data"); data["theirs"] != "kept" || data["a"] != "1" {
		t.Errorf("data after the repair = %v; want a taken back, and theirs, which was never declared, left alone", data)
	}

	// Now a field that we begin to declare only after somebody else set it.
	s = set(t, namespace("drift")+deployment("drift", "web", "nginx:1", 2)+configMap("drift", "settings", `a: "1", b: "2", theirs: "ours"`))
	d = diff(t, c, s, opts)
	f := find(t, d, "ConfigMap/drift/settings", ".data.theirs")
	if f.Cause != kube.Conflict || f.Manager != "kubectl-edit" || f.Old != `"kept"` || f.New != `"ours"` {
		t.Errorf("a field that was never applied: got %+v; want a conflict with kubectl-edit", f)
	}
	var conflict *kube.ConflictError
	if err := c.Apply(t.Context(), s, opts); !errors.As(err, &conflict) || !strings.Contains(err.Error(), "kubectl-edit") {
		t.Errorf("Apply over a conflict = %v; want a ConflictError that names kubectl-edit", err)
	}
	opts.Force = true
	if f := find(t, diff(t, c, s, opts), "ConfigMap/drift/settings", ".data.theirs"); f.Cause != kube.Taken {
		t.Errorf("with Force: got %+v; want it taken", f)
	}
	apply(t, c, s, opts)
	opts.Force = false
	wantNothing(t, diff(t, c, s, opts))
}

// TestFieldsInListsAreNamedByTheirKeys: the server names an item of a list by its
// keys, which are not always its name.
func TestFieldsInListsAreNamedByTheirKeys(t *testing.T) {
	c := open(t)
	opts := options(t, "svc")
	services := schema.GroupVersionResource{Version: "v1", Resource: "services"}
	s := set(t, namespace("lists")+`---
apiVersion: v1
kind: Service
metadata:
  name: svc
  namespace: lists
  # What kubectl prints of an object can be declared as it is.
  uid: 00000000-0000-0000-0000-000000000000
  resourceVersion: "1"
  creationTimestamp: null
  managedFields: []
spec:
  selector: {app: x}
  ports:
  - {name: metrics, port: 9090, protocol: TCP, targetPort: 9090}
  - {name: web, port: 80, protocol: TCP, targetPort: 8080}
`)
	apply(t, c, s, opts)
	wantNothing(t, diff(t, c, s, opts))
	edit(t, services, "lists", "svc", `{"spec":{"ports":[{"name":"web","port":80,"protocol":"TCP","targetPort":6666},{"name":"metrics","port":9090,"protocol":"TCP","targetPort":9090},{"name":"theirs","port":7,"protocol":"TCP"}]}}`)
	d := diff(t, c, s, opts)
	if f := find(t, d, "Service/lists/svc", `.spec.ports[port=80,protocol="TCP"].targetPort`); f.Cause != kube.Drift || f.Manager != "kubectl-edit" || f.Old != "6666" || f.New != "8080" {
		t.Errorf("the changed port = %+v; want drift from 6666 to 8080 by kubectl-edit", f)
	}
	if lines := d.Lines(); len(lines) != 1 {
		t.Errorf("Diff = %q; want the one changed field and nothing about the port that they added", lines)
	}
	apply(t, c, s, opts)
	wantNothing(t, diff(t, c, s, opts))
}

func TestConflictStopsBeforeAnythingIsSent(t *testing.T) {
	c := open(t)
	opts := options(t, "step")
	apply(t, c, set(t, namespace("conflict")), options(t, "namespace"))
	theirs := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "zz", "namespace": "conflict"}, "data": map[string]any{"k": "theirs"},
	}}
	if _, err := other(t).Resource(configMaps).Namespace("conflict").Apply(t.Context(), "zz", theirs, metav1.ApplyOptions{FieldManager: "argocd"}); err != nil {
		t.Fatal(err)
	}
	s := set(t, configMap("conflict", "aa", "k: ours")+configMap("conflict", "zz", "k: ours"))
	var conflict *kube.ConflictError
	if err := c.Apply(t.Context(), s, opts); !errors.As(err, &conflict) || !strings.Contains(err.Error(), "argocd") {
		t.Fatalf("Apply = %v; want a conflict with argocd", err)
	}
	if _, err := c.Get(t.Context(), "v1", "ConfigMap", "conflict", "aa"); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("aa was applied although zz is in conflict (error %v)", err)
	}
}

func TestIgnoredFieldIsAppliedOnceAndLeftAloneAfter(t *testing.T) {
	c := open(t)
	opts := options(t, "web")
	opts.IgnoreFields = []string{"Deployment/web spec.replicas"}
	s := set(t, namespace("ignore")+deployment("ignore", "web", "nginx:1", 3))
	apply(t, c, s, opts)
	edit(t, deployments, "ignore", "web", `{"spec":{"replicas":7}}`)
	wantNothing(t, diff(t, c, s, opts))
	apply(t, c, set(t, namespace("ignore")+deployment("ignore", "web", "nginx:2", 3)), opts)
	live, err := c.Get(t.Context(), "apps/v1", "Deployment", "ignore", "web")
	if err != nil {
		t.Fatal(err)
	}
	if n, _, _ := unstructured.NestedInt64(live.Object, "spec", "replicas"); n != 7 {
		t.Errorf("replicas after another apply = %d; want the autoscaler's 7", n)
	}
}

func TestPruneTakesOnlyWhatIsOurs(t *testing.T) {
	c := open(t)
	opts := options(t, "step")
	all := set(t, namespace("prune")+configMap("prune", "stays", "k: v")+configMap("prune", "goes", "k: v")+configMap("prune", "remade", "k: v")+
		"---\napiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data, namespace: prune}\n"+
		"spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n")
	apply(t, c, all, opts)
	// Somebody puts another object in the place of one of ours.
	if err := other(t).Resource(configMaps).Namespace("prune").Delete(t.Context(), "remade", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	remade := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{"name": "remade", "namespace": "prune", "labels": map[string]any{kube.OwnerLabel: opts.Owner.Label()}},
	}}
	if _, err := other(t).Resource(configMaps).Namespace("prune").Create(t.Context(), remade, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	fewer := set(t, namespace("prune")+configMap("prune", "stays", "k: v"))
	d := diff(t, c, fewer, opts)
	got := map[string]kube.Operation{}
	for _, ch := range d.Changes {
		got[ch.ID.String()] = ch.Operation
	}
	want := map[string]kube.Operation{
		"ConfigMap/prune/goes": kube.Delete, "ConfigMap/prune/remade": kube.Release, "PersistentVolumeClaim/prune/data": kube.Release,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Diff of fewer objects = %v; want %v", got, want)
	}
	apply(t, c, fewer, opts)
	there := func(kind, name string) bool {
		_, err := c.Get(t.Context(), "v1", kind, "prune", name)
		if err != nil && !errors.Is(err, kube.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil
	}
	if there("ConfigMap", "goes") || !there("ConfigMap", "remade") || !there("ConfigMap", "stays") || !there("PersistentVolumeClaim", "data") {
		t.Error("the wrong objects are gone")
	}
	d = diff(t, c, fewer, opts)
	wantNothing(t, d)
	if len(d.Kept) != 1 || d.Kept[0].Name != "data" {
		t.Errorf("Kept = %v; want the claim", d.Kept)
	}
	// The claim has the finalizer of its protection; its controller releases it.
	opts.PruneData = []string{"PersistentVolumeClaim/prune/data"}
	if d = diff(t, c, fewer, opts); len(d.Changes) != 1 || d.Changes[0].Operation != kube.Delete {
		t.Errorf("with consent: Diff = %v; want the claim deleted", d.Lines())
	}
	apply(t, c, fewer, opts)
	if there("PersistentVolumeClaim", "data") {
		t.Error("the claim is there although its deletion was consented to")
	}
}

func TestObjectMovesBetweenSteps(t *testing.T) {
	for _, newFirst := range []bool{true, false} {
		t.Run(fmt.Sprintf("new step first %v", newFirst), func(t *testing.T) {
			c := open(t)
			ns := fmt.Sprintf("move-%v", newFirst)
			from, to := options(t, "from"), options(t, "to")
			from.Owner.Catalog, to.Owner.Catalog = "moving", "moving"
			from.Owner.Address += ns
			to.Owner.Address += ns
			apply(t, c, set(t, namespace(ns)+configMap(ns, "moves", "a: x, b: z")), from)
			was, err := c.Get(t.Context(), "v1", "ConfigMap", ns, "moves")
			if err != nil {
				t.Fatal(err)
			}
			without, with := set(t, namespace(ns)), set(t, configMap(ns, "moves", "a: x"))
			from.Elsewhere = func(id kube.ID) string {
				if id.Name == "moves" {
					return to.Owner.Address
				}
				return ""
			}
			takeOver := func() {
				d := diff(t, c, with, to)
				if lines := strings.Join(d.Lines(), "\n"); !strings.Contains(lines, "moves here from "+from.Owner.Address) && !strings.Contains(lines, "from a step that is gone") {
					t.Errorf("Diff of the new step = %s; want that the object moves here", lines)
				}
				apply(t, c, with, to)
			}
			if newFirst {
				takeOver()
				apply(t, c, without, from)
			} else {
				apply(t, c, without, from)
				takeOver()
			}
			is, err := c.Get(t.Context(), "v1", "ConfigMap", ns, "moves")
			if err != nil {
				t.Fatalf("the object did not survive its move: %v", err)
			}
			if is.GetUID() != was.GetUID() {
				t.Error("the object was deleted and made anew")
			}
			if data, _, _ := unstructured.NestedStringMap(is.Object, "data"); fmt.Sprint(data) != "map[a:x]" {
				t.Errorf("data = %v; want what the new step declares and no more", data)
			}
			wantNothing(t, diff(t, c, without, from))
			wantNothing(t, diff(t, c, with, to))
		})
	}
}

func TestAnotherCatalogsObjectIsAConflict(t *testing.T) {
	c := open(t)
	s := set(t, namespace("catalogs")+configMap("catalogs", "cm", "a: x"))
	first, second := options(t, "step"), options(t, "step")
	second.Owner.Catalog = "another"
	apply(t, c, s, first)
	var conflict *kube.ConflictError
	if err := c.Apply(t.Context(), s, second); !errors.As(err, &conflict) || !strings.Contains(err.Error(), first.Owner.Catalog) {
		t.Errorf("Apply by another catalog = %v; want a conflict that names the first", err)
	}
	wantNothing(t, diff(t, c, s, first))
}

func TestDeletedObjectIsMissedAndMadeAgain(t *testing.T) {
	c := open(t)
	opts := options(t, "step")
	s := set(t, namespace("missed")+configMap("missed", "cm", "a: x"))
	apply(t, c, s, opts)
	if err := other(t).Resource(configMaps).Namespace("missed").Delete(t.Context(), "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if lines := diff(t, c, s, opts).Lines(); !slices.Equal(lines, []string{"ConfigMap/missed/cm: create: somebody deleted it"}) {
		t.Errorf("Diff = %q; want that somebody deleted it", lines)
	}
	apply(t, c, s, opts)
	wantNothing(t, diff(t, c, s, opts))
}

func TestValuesOfSecretsAreNotShown(t *testing.T) {
	c := open(t)
	opts := options(t, "step")
	secret := func(value string) kube.Set {
		return set(t, namespace("hidden")+"---\napiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: hidden}\nstringData: {password: "+value+"}\n")
	}
	apply(t, c, secret("first-password"), opts)
	edit(t, secrets, "hidden", "s", `{"stringData":{"password":"their-password"}}`)
	d := diff(t, c, secret("second-password"), opts)
	lines := strings.Join(d.Lines(), "\n")
	if d.Empty() || !strings.Contains(lines, "(sensitive)") {
		t.Errorf("Diff = %s; want a sensitive change", lines)
	}
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []string{"password\"", "first-", "second-", "their-", "Zmlyc3Q", "c2Vjb25k", "dGhlaXI"} {
		if strings.Contains(lines, value) || value != "password\"" && strings.Contains(string(raw), value) {
			t.Errorf("the difference of a Secret has %q in it:\n%s", value, lines)
		}
	}
	err = c.Apply(t.Context(), set(t, namespace("hidden")+"---\napiVersion: v1\nkind: Secret\nmetadata: {name: t, namespace: hidden}\ndata: {password: not-base64!}\n"), opts)
	if err == nil || strings.Contains(err.Error(), "not-base64") {
		t.Errorf("Apply of a bad Secret = %v; want an error without the value", err)
	}
}

func TestNothingIsLeftAfterRemove(t *testing.T) {
	c := open(t)
	opts := options(t, "step")
	s := set(t, namespace("removed")+deployment("removed", "web", "nginx:1", 1)+configMap("removed", "cm", "a: x"))
	apply(t, c, s, opts)
	loss, err := c.Loss(t.Context(), s, opts)
	if err != nil || !slices.Equal(loss, []string{"Namespace/removed with everything in it"}) {
		t.Errorf("Loss = %q, %v; want the namespace", loss, err)
	}
	if err := c.Remove(t.Context(), s, opts, false); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "apps/v1", "Deployment", "removed", "web"); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("the deployment after Remove: %v; want it gone", err)
	}
	if _, err := c.Get(t.Context(), "v1", "Namespace", "", "removed"); err != nil {
		t.Errorf("the namespace was deleted without consent: %v", err)
	}
	if err := c.Remove(t.Context(), s, opts, true); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), "v1", "Namespace", "", "removed"); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("the namespace after Remove with data: %v; want it gone", err)
	}
	if all, err := c.List(t.Context(), "v1", "Secret", kube.Namespace, "edge-provision.io/inventory="+opts.Owner.Label()); err != nil || len(all) > 0 {
		t.Errorf("%d inventories are left (%v)", len(all), err)
	}
	if err := c.Remove(t.Context(), s, opts, true); err != nil {
		t.Errorf("Remove of what is gone = %v; want no error", err)
	}
}

// TestRunThatWasCutOffIsFinished puts the cluster into the state of a run that
// died after its intent was written and one object was sent.
func TestRunThatWasCutOffIsFinished(t *testing.T) {
	c := open(t)
	opts := options(t, "step")
	first := set(t, namespace("cut")+configMap("cut", "one", "a: x"))
	apply(t, c, first, opts)
	// The API server refuses the second object only when it is really sent.
	policy := set(t, `
apiVersion: v1
kind: ResourceQuota
metadata: {name: none, namespace: cut}
spec: {hard: {count/secrets: "0"}}
`)
	apply(t, c, policy, options(t, "quota"))
	secrets := other(t).Resource(schema.GroupVersionResource{Version: "v1", Resource: "secrets"}).Namespace("cut")
	until(t, "the server knows the quota", func() bool {
		probe := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"generateName": "probe-"}}}
		_, err := secrets.Create(t.Context(), probe, metav1.CreateOptions{})
		return apierrors.IsForbidden(err)
	})
	second := set(t, namespace("cut")+configMap("cut", "two", "a: x")+"---\napiVersion: v1\nkind: Secret\nmetadata: {name: zz, namespace: cut}\n")
	err := c.Apply(t.Context(), second, opts)
	if err == nil || apierrors.IsConflict(err) {
		t.Fatalf("Apply = %v; want the refusal of the quota", err)
	}
	if d, err := c.Diff(t.Context(), first, opts); err != nil || !d.Installed && len(d.Changes) == 0 && d.Empty() {
		t.Errorf("Diff after a failure = %v, %v", d.Lines(), err)
	}
	if err := c.Remove(t.Context(), policy, options(t, "quota"), false); err != nil {
		t.Fatal(err)
	}
	apply(t, c, second, opts)
	wantNothing(t, diff(t, c, second, opts))
	if _, err := c.Get(t.Context(), "v1", "ConfigMap", "cut", "one"); !errors.Is(err, kube.ErrNotFound) {
		t.Errorf("what is declared no longer is still there: %v", err)
	}
}

func TestObjectIsReplacedWhileItIsBeingDeleted(t *testing.T) {
	c := open(t)
	opts := options(t, "step")
	s := set(t, namespace("dying")+configMap("dying", "cm", "a: x"))
	apply(t, c, s, opts)
	edit(t, configMaps, "dying", "cm", `{"metadata":{"finalizers":["example.com/hold"]}}`)
	if err := other(t).Resource(configMaps).Namespace("dying").Delete(t.Context(), "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if lines := diff(t, c, s, opts).Lines(); !slices.Equal(lines, []string{"ConfigMap/dying/cm: create: it is being deleted"}) {
		t.Errorf("Diff = %q; want that it is being deleted", lines)
	}
	opts.Wait = 200 * time.Millisecond
	var notReady *kube.NotReadyError
	if err := c.Apply(t.Context(), s, opts); !errors.As(err, &notReady) || !strings.Contains(err.Error(), "example.com/hold") {
		t.Errorf("Apply = %v; want an error that names the finalizer", err)
	}
	patch := []byte(`{"metadata":{"finalizers":null}}`)
	if _, err := other(t).Resource(configMaps).Namespace("dying").Patch(t.Context(), "cm", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	apply(t, c, s, opts)
	wantNothing(t, diff(t, c, s, opts))
}

func TestKeyLeavesASecretWithItsStringData(t *testing.T) {
	c := open(t)
	opts := options(t, "strings")
	secret := func(fields string) kube.Set {
		return set(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: strings, namespace: default}\n"+fields)
	}
	apply(t, c, secret("data: {c: eA==}\nstringData: {a: x, b: z, c: z}\n"), opts)
	less := secret("data: {c: eA==}\nstringData: {a: x}\n")
	apply(t, c, less, opts)
	wantNothing(t, diff(t, c, less, opts))
	live, err := c.Get(t.Context(), "v1", "Secret", "default", "strings")
	if err != nil {
		t.Fatal(err)
	}
	data, _, _ := unstructured.NestedStringMap(live.Object, "data")
	if want := map[string]string{"a": "eA==", "c": "eA=="}; !maps.Equal(data, want) {
		t.Errorf("data = %v; want %v", data, want)
	}
	for _, fields := range []string{"stringData: {a: 1}\n", "data: [a]\nstringData: {a: x}\n"} {
		if _, err := c.Diff(t.Context(), secret(fields), opts); err == nil || !strings.Contains(err.Error(), "Secret/default/strings") {
			t.Errorf("Diff of %q = %v; want a refusal that names the Secret", fields, err)
		}
	}
	if err := c.Remove(t.Context(), less, opts, false); err != nil {
		t.Fatal(err)
	}
}
