package k3s

import (
	"slices"
	"strings"
	"testing"
	"time"

	coordination "k8s.io/api/coordination/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// leadFrom has holder lead since a moment, as it says at now.
func (w *world) leadFrom(holder string, since, now time.Time) {
	s, n := meta.NewMicroTime(since), meta.NewMicroTime(now)
	for _, name := range electing {
		w.lease(meta.NamespaceSystem, name, coordination.LeaseSpec{HolderIdentity: &holder, AcquireTime: &s, RenewTime: &n})
	}
}

// The leader is on the first server, which is restarted: its lease runs out 15 s
// after its last word. Until another leads, evicted pods would stay in their
// services.
func TestNextNodeIsNotDrainedBeforeSomebodyLeads(t *testing.T) {
	w, _ := ha(t)
	w.took()
	var died, since time.Time
	elected := w.Now().Add(-time.Hour)
	w.elects = func(now time.Time) {
		switch {
		case died.IsZero() && w.did("a: start k3s.service"):
			died = now
		case died.IsZero():
			w.leadFrom("a", elected, now)
		case since.IsZero() && now.Sub(died) > 15*time.Second:
			since = now
			w.append("b leads")
			w.leadFrom("b", since, now)
		case !since.IsZero():
			w.leadFrom("b", since, now)
		}
	}
	mustApply(t, w.config(newVersion, []string{"a", "b", "c"}, []string{"d"}))
	log := w.took()
	election, next := slices.Index(log, "b leads"), slices.Index(log, "api: cordon b")
	if election < 0 || next < election {
		t.Errorf("Apply() did\n%s\nwant the second server cordoned after b leads", strings.Join(log, "\n"))
	}
	if !slices.Contains(log, "api: uncordon d") {
		t.Errorf("Apply() did\n%s\nwant every node upgraded", strings.Join(log, "\n"))
	}
	if said := strings.Join(w.says, "\n"); !strings.Contains(said, "machine.b: not drained yet: the leader of kube-controller-manager, a, does not renew its lease") {
		t.Errorf("Apply() said\n%s\nwant what it waited for", said)
	}
}

func TestNothingIsDrainedInAClusterThatNobodyLeads(t *testing.T) {
	w, _ := ha(t)
	w.took()
	w.leadFrom("x", w.Now().Add(-time.Hour), w.Now().Add(-time.Minute))
	_, err := apply(t, w.config(newVersion, []string{"a", "b", "c"}, []string{"d"}))
	if err == nil || !strings.Contains(err.Error(), "node a was not drained: in 2m0s the cluster had no controllers that would act on it") ||
		!strings.Contains(err.Error(), "the leader of kube-controller-manager, x, does not renew its lease") {
		t.Fatalf("Apply() = %v; want the leader that is gone", err)
	}
	if log := strings.Join(w.took(), "\n"); strings.Contains(log, "cordon") || strings.Contains(log, "start") {
		t.Errorf("Apply() did %q; want no node cordoned or restarted", log)
	}
}
