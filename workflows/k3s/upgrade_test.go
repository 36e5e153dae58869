package k3s

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestUpgradeIsOneNodeAtATime(t *testing.T) {
	w, c := ha(t)
	for _, n := range []string{"a", "b", "c", "d"} {
		pod := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "pod-" + n, Namespace: "default", OwnerReferences: []meta.OwnerReference{controller("ReplicaSet")}}, Spec: core.PodSpec{NodeName: n}}
		daemon := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "daemon-" + n, Namespace: "default", OwnerReferences: []meta.OwnerReference{controller("DaemonSet")}}, Spec: core.PodSpec{NodeName: n}}
		for _, p := range []*core.Pod{pod, daemon} {
			if err := w.kube.Tracker().Add(p); err != nil {
				t.Fatal(err)
			}
		}
	}
	next := w.config(newVersion, []string{"a", "b", "c"}, []string{"d"})
	next.Recorded = true
	report, err := inspect(t, next)
	if err != nil || len(report.Changes) != 4 || report.Changes[0] != "machine.a: runs "+oldVersion+", declared is "+newVersion {
		t.Fatalf("Inspect() = %q, %v; want every node's version", report.Changes, err)
	}
	w.took()
	mustApply(t, next)
	want := []string{"a: etcd-snapshot save edge-before-v1-35-1-k3s1"}
	for _, n := range []string{"a", "b", "c", "d"} {
		unit := "k3s.service"
		if n == "d" {
			unit = "k3s-agent.service"
		}
		want = append(want, "api: cordon "+n, "api: evict pod-"+n, n+": start "+unit, "api: uncordon "+n)
	}
	if diff := cmp.Diff(want, w.took()); diff != "" {
		t.Errorf("Apply() (-want +got):\n%s", diff)
	}
	if report, err := inspect(t, next); err != nil || len(report.Changes) > 0 {
		t.Errorf("Inspect() after the upgrade = %q, %v; want no changes", report.Changes, err)
	}
	if _, err := inspect(t, c); err == nil || !strings.Contains(err.Error(), "going back is not supported") {
		t.Errorf("Inspect() with the old version = %v; want a refusal", err)
	}
}

func controller(kind string) meta.OwnerReference {
	yes := true
	return meta.OwnerReference{Kind: kind, Name: "x", Controller: &yes}
}

func TestBlockedDrainStopsTheUpgradeAndLiftsTheCordon(t *testing.T) {
	w, _ := ha(t)
	p := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "guarded", Namespace: "pos", OwnerReferences: []meta.OwnerReference{controller("ReplicaSet")}}, Spec: core.PodSpec{NodeName: "a"}}
	if err := w.kube.Tracker().Add(p); err != nil {
		t.Fatal(err)
	}
	w.took()
	c := w.config(newVersion, []string{"a", "b", "c"}, []string{"d"})
	c.DrainTimeout = 200 * time.Millisecond
	_, err := apply(t, c)
	if err == nil || !strings.Contains(err.Error(), "was not drained in 200ms") || !strings.Contains(err.Error(), "pod pos/guarded") {
		t.Fatalf("Apply() = %v; want the pod that stands in the way", err)
	}
	log := w.took()
	if log[len(log)-1] != "api: uncordon a" || strings.Contains(strings.Join(log, "\n"), "start") {
		t.Errorf("Apply() did %q; want the cordon lifted and nothing restarted", log)
	}
}

func TestNodeIsNotCordonedWhileABudgetNeedsItsPods(t *testing.T) {
	w, _ := ha(t)
	w.budgeted = "till"
	p := &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "till", Namespace: "pos", OwnerReferences: []meta.OwnerReference{controller("ReplicaSet")}}, Spec: core.PodSpec{NodeName: "a"}}
	if err := w.kube.Tracker().Add(p); err != nil {
		t.Fatal(err)
	}
	w.took()
	c := w.config(newVersion, []string{"a", "b", "c"}, []string{"d"})
	c.DrainTimeout = 200 * time.Millisecond
	_, err := apply(t, c)
	if err == nil || !strings.Contains(err.Error(), "pod pos/till may not go yet: the disruption budget x needs 2 healthy pods") {
		t.Fatalf("Apply() = %v; want the budget that needs the pod", err)
	}
	if log := strings.Join(w.took(), "\n"); strings.Contains(log, "cordon") || strings.Contains(log, "start") {
		t.Errorf("Apply() did %q; want no node cordoned or restarted", log)
	}
}

func TestStoppedClusterIsStartedBeforeItIsUpgraded(t *testing.T) {
	w, _ := ha(t)
	for _, n := range []string{"a", "b", "c"} {
		w.set("machine."+n, "k3s.service.active", "inactive\n")
	}
	mustApply(t, w.config(newVersion, []string{"a", "b", "c"}, []string{"d"}))
	log := w.took()
	if slices.Sort(log[:3]); !cmp.Equal(log[:4], []string{"a: start k3s.service", "b: start k3s.service", "c: start k3s.service", "a: etcd-snapshot save edge-before-v1-35-1-k3s1"}) {
		t.Errorf("Apply() did %q; want the servers started as they were, then saved", log)
	}
}

func TestCutOffUpgradeIsFinished(t *testing.T) {
	w, _ := ha(t)
	next := w.config(newVersion, []string{"a", "b", "c"}, []string{"d"})
	// The first node was cordoned and given the new program, and then the power
	// of the controller went.
	if _, err := apply(t, func() Config { c := next; c.StartTimeout = 1; return c }()); err == nil {
		t.Fatal("Apply() = nil; want it to end before the first node is ready")
	}
	w.took()
	mustApply(t, next)
	log := strings.Join(w.took(), "\n")
	for _, n := range []string{"a", "b", "c", "d"} {
		if !strings.Contains(log, "uncordon "+n) {
			t.Errorf("Apply() did\n%s\nwant %s uncordoned", log, n)
		}
	}
	if strings.Contains(log, "etcd-snapshot") {
		t.Error("the snapshot was taken twice")
	}
}

func TestSkippedMinorsAreRefused(t *testing.T) {
	w, _ := ha(t)
	_, err := apply(t, w.config("v1.36.0+k3s1", []string{"a", "b", "c"}, []string{"d"}))
	if err == nil || !strings.Contains(err.Error(), "minor releases cannot be skipped. Declare a v1.35 release first") {
		t.Errorf("Apply() = %v; want the release to apply first", err)
	}
}
