package api_test

import (
	"crypto/ed25519"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

var snapshotKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// disked reports a machine with one disk.
func (s *shop) disked(m inventory.Machine, serial string) {
	s.Helper()
	f := inventory.Facts{Disks: []inventory.Disk{{Name: "sda", Serial: serial, Bytes: 1 << 30}}}
	if _, _, err := s.catalog.PutFacts(s.Context(), m.ID, inventory.SourceAgent, f, time.Time{}); err != nil {
		s.Fatal(err)
	}
}

func (s *shop) drift(m inventory.Machine) resource.Drift {
	s.Helper()
	return read[resource.Drift](s.T, s.get("/v1/machines/"+m.ID.String()+"/drift"))
}

func (s *shop) accept(m inventory.Machine, key, digest string) reply {
	s.Helper()
	return s.do(call{
		method: http.MethodPost, path: "/v1/machines/" + m.ID.String() + "/actions/accept-drift", role: resource.RoleOperator,
		header: map[string]string{"Idempotency-Key": key}, body: resource.AcceptDrift{Digest: digest},
	})
}

func TestDriftIsShownFilteredCountedAndAccepted(t *testing.T) {
	s := open(t)
	s.catalog.UseSnapshotKey(snapshotKey)
	m, other := s.machine(1), s.machine(2)
	s.disked(m, "OLD")
	if d := s.drift(m); d.State != "" || d.Snapshot != nil || d.LookedAt == nil {
		t.Errorf("drift before the first snapshot = %+v; want no state, and when it was looked at", d)
	}
	if _, err := s.catalog.Commission(t.Context(), m.ID, "run-1"); err != nil {
		t.Fatal(err)
	}
	if d := s.drift(m); d.State != inventory.DriftNone || d.Snapshot.Run != "run-1" || len(d.History) != 1 {
		t.Errorf("drift of a commissioned machine = %+v; want none", d)
	}
	s.disked(m, "NEW")
	d := s.drift(m)
	if d.State != inventory.DriftChanged || len(d.Changes) != 2 || !strings.Contains(d.Changes[0].Text, `disk "NEW" is new`) || d.Since == nil {
		t.Fatalf("drift = %+v; want the disk swapped", d)
	}
	shown := read[resource.Machine](t, s.get("/v1/machines/"+m.ID.String()))
	if shown.Drift != inventory.DriftChanged || shown.DriftSince.IsZero() || shown.LookedAt.IsZero() {
		t.Errorf("machine = %+v; want its drift", shown)
	}
	list := read[resource.Page[resource.Machine]](t, s.get("/v1/machines?filter="+`machine.drift+%3D%3D+%22changed%22`))
	if len(list.Items) != 1 || list.Items[0].ID != m.ID {
		t.Errorf("machines with machine.drift == changed: %d; want the one, and not %s", len(list.Items), other.ID)
	}
	for series, want := range map[string]float64{
		`edge_machine_drift{site="` + m.Site + `",state="changed"}`: 1, `edge_machine_drift{site="` + m.Site + `",state="none"}`: 0,
		`edge_machine_drift{site="` + m.Site + `",state="unknown"}`: 1,
	} {
		if got := s.metric(series); got != want {
			t.Errorf("%s = %g; want %g", series, got, want)
		}
	}

	refused(t, s.do(call{method: http.MethodPost, path: "/v1/machines/" + m.ID.String() + "/actions/accept-drift", body: resource.AcceptDrift{Digest: d.Digest}}), "no-token")
	refused(t, s.accept(m, "", d.Digest), "precondition-required")
	wrong := s.ended(read[resource.Operation](t, s.accept(m, "k1", "sha256:of another difference")))
	if wrong.State != resource.OperationFailed || !strings.Contains(wrong.Error, "in another way than was shown") {
		t.Errorf("operation with another digest = %+v; want it failed", wrong)
	}
	first := s.ended(read[resource.Operation](t, s.accept(m, "k2", d.Digest)))
	again := read[resource.Operation](t, s.accept(m, "k2", d.Digest))
	if first.State != resource.OperationSucceeded || first.Kind != "accept-drift" || again.ID != first.ID {
		t.Errorf("operation = %+v, the same request again = %s; want one that succeeded", first, again.ID)
	}
	if late := s.ended(read[resource.Operation](t, s.accept(m, "k3", d.Digest))); late.State != resource.OperationFailed || !strings.Contains(late.Error, "as in its snapshot") {
		t.Errorf("a second acceptance = %+v; want that there is nothing to accept", late)
	}
	d = s.drift(m)
	if d.State != inventory.DriftNone || len(d.Changes) != 0 || len(d.History) != 2 || d.History[0].AcceptedBy != "the operator (token "+first.Actor+")" || first.Actor == "" {
		t.Errorf("drift after acceptance = %+v; want none, and who accepted", d)
	}
}

func TestDriftNeedsTheKey(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	refused(t, s.get("/v1/machines/"+m.ID.String()+"/drift"), "conflict")
	if o := s.ended(read[resource.Operation](t, s.accept(m, "k", ""))); o.State != resource.OperationFailed || !strings.Contains(o.Error, "key for snapshots") {
		t.Errorf("operation = %+v; want that there is no key", o)
	}
}
