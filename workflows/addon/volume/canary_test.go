package volume

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// kept is a cluster in which every pod succeeds, but for those of names in fail.
type kept struct {
	sets    []kube.Set
	removed int
	fail    string
}

func (k *kept) Apply(_ context.Context, set kube.Set, _ kube.Options) error {
	k.sets = append(k.sets, set)
	return nil
}

func (k *kept) Remove(_ context.Context, _ kube.Set, _ kube.Options, data bool) error {
	if data {
		k.removed++
	}
	return nil
}

func (k *kept) WaitFor(_ context.Context, _, kind, namespace, name string, _ time.Duration, done func(kube.Object) (kube.Status, error)) (kube.Object, error) {
	phase := "Succeeded"
	if name == k.fail {
		phase = "Failed"
	}
	pod := kube.Make("v1", kind, namespace, name, map[string]any{"status": map[string]any{"phase": phase}})
	status, err := done(pod)
	if status.Failed {
		err = errors.New(status.Reason)
	}
	return pod, err
}

// object is the one of a kind in a set.
func object(t *testing.T, set kube.Set, kind string) kube.Object {
	t.Helper()
	i := slices.IndexFunc(set.Objects, func(o kube.Object) bool { return o.GetKind() == kind })
	if i < 0 {
		t.Fatalf("there is no %s among what is applied", kind)
	}
	return set.Objects[i]
}

func class() kube.Object {
	const schedule = "snapshotschedule.stork.libopenstorage.org/edge"
	return kube.Make("storage.k8s.io/v1", "StorageClass", "", "edge-database", map[string]any{
		"metadata":   map[string]any{"annotations": map[string]any{schedule: "x", "other": "y"}},
		"parameters": map[string]any{schedule: "schedulePolicyName: edge-snapshots", "repl": "3"}, "reclaimPolicy": "Retain",
	})
}

func TestNothingOfTheCanaryIsLeft(t *testing.T) {
	declared := class()
	k := &kept{}
	if err := (Canary{Cluster: k, Class: declared, Image: "busybox"}).Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(k.sets) != 2 || k.removed != 2 {
		t.Fatalf("it applied %d times and was removed %d times; want a writer and a reader, and nothing before nor after", len(k.sets), k.removed)
	}
	twin := object(t, k.sets[0], "StorageClass")
	parameters, _, _ := unstructured.NestedMap(twin.Object, "parameters")
	if twin.Object["reclaimPolicy"] != "Delete" || len(parameters) != 1 || parameters["repl"] != "3" || len(twin.GetAnnotations()) != 1 || twin.GetName() == declared.GetName() {
		t.Errorf("the canary's class is %v; want one that deletes, without what has volumes kept", twin.Object)
	}
	if was := class(); len(declared.Object["parameters"].(map[string]any)) != len(was.Object["parameters"].(map[string]any)) || len(declared.GetAnnotations()) != 2 {
		t.Errorf("the class itself is %v now", declared.Object)
	}
	k = &kept{fail: "reader"}
	if err := (Canary{Cluster: k, Class: declared, Image: "busybox"}).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "storage class edge-database: reader") || k.removed != 2 {
		t.Errorf("Run() of a reader that finds nothing = %v, removed %d times", err, k.removed)
	}
}

// The kubelet hands no group a volume that many nodes mount, so that nobody but root
// could write there; the cis profile refuses root where no label admits it.
func TestWhoWrites(t *testing.T) {
	for shared, want := range map[bool]struct {
		user, group int64
		label, mode string
	}{
		false: {65534, 65534, "", "ReadWriteOnce"},
		true:  {0, 0, "baseline", "ReadWriteMany"},
	} {
		k := &kept{}
		if err := (Canary{Cluster: k, Class: class(), Shared: shared, Image: "busybox"}).Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, set := range k.sets {
			pod := object(t, set, "Pod")
			user, _, _ := unstructured.NestedInt64(pod.Object, "spec", "securityContext", "runAsUser")
			group, _, _ := unstructured.NestedInt64(pod.Object, "spec", "securityContext", "fsGroup")
			nobody, _, _ := unstructured.NestedBool(pod.Object, "spec", "securityContext", "runAsNonRoot")
			modes, _, _ := unstructured.NestedStringSlice(object(t, set, "PersistentVolumeClaim").Object, "spec", "accessModes")
			label := object(t, set, "Namespace").GetLabels()["pod-security.kubernetes.io/enforce"]
			if user != want.user || group != want.group || nobody == shared || label != want.label || !slices.Equal(modes, []string{want.mode}) {
				t.Errorf("shared %t: %s runs as %d of group %d, not root: %t, in a namespace %q, with a claim of %q; want %+v", shared, pod.GetName(), user, group, nobody, label, modes, want)
			}
			containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", "containers")
			rights, _, _ := unstructured.NestedStringSlice(containers[0].(map[string]any), "securityContext", "capabilities", "drop")
			escalates, there, _ := unstructured.NestedBool(containers[0].(map[string]any), "securityContext", "allowPrivilegeEscalation")
			if !slices.Equal(rights, []string{"ALL"}) || escalates || !there {
				t.Errorf("shared %t: the container drops %q, may escalate: %t", shared, rights, escalates)
			}
		}
	}
}
