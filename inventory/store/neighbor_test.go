package store_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// cable is what a port is connected to.
func cable(port int, system, at string) inventory.Neighbor {
	return inventory.Neighbor{MAC: mac(port), Chassis: "id of " + system, Port: at, System: system, VLAN: 20}
}

// look is a report of edge-agent on a machine with ports 1 and 2, or as many as nics
// says.
func look(t *testing.T, s *store.Store, id uuid.UUID, nics []inventory.NIC, heard ...inventory.Neighbor) {
	t.Helper()
	f := full
	f.NICs, f.Neighbors = nics, heard
	_, _, err := s.Observe(t.Context(), "store-0421", store.Observation{Machine: id, Source: inventory.SourceAgent, Facts: &f})
	ok(t, err)
}

func cables(t *testing.T, s *store.Store, id uuid.UUID) string {
	t.Helper()
	f := must[inventory.Facts](t)(s.MergedFacts(t.Context(), id))
	var out []string
	for _, n := range f.Neighbors {
		out = append(out, fmt.Sprintf("%d: %s %s", n.MAC[5], n.System, n.Port))
	}
	rows := must[int64](t)(s.Number(t.Context(), "SELECT count(*) FROM neighbors"))
	known := must[int64](t)(s.Number(t.Context(), "SELECT count(*) FROM machine_facts WHERE neighbors_observed"))
	if int(rows) != len(out) || known == 1 != (len(out) > 0) {
		t.Errorf("%d rows in the projection, observed %d; want those of %q", rows, known, out)
	}
	return strings.Join(out, ", ")
}

func TestWhatIsNotHeardTakesNothingBack(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		id := observe(t, s, seen("", uuidA, 1)).ID
		two := []inventory.NIC{{Name: "eno1", MAC: mac(1)}, {Name: "eno2", MAC: mac(2)}}
		for i, step := range []struct {
			nics  []inventory.NIC
			heard []inventory.Neighbor
			want  string
		}{
			{two, nil, ""},
			{two, []inventory.Neighbor{cable(1, "sw-1", "7")}, "1: sw-1 7"},
			{two, nil, "1: sw-1 7"},
			{two, []inventory.Neighbor{cable(2, "sw-1", "8")}, "1: sw-1 7, 2: sw-1 8"},
			{two, []inventory.Neighbor{cable(1, "sw-2", "3")}, "1: sw-2 3, 2: sw-1 8"},
			{two, []inventory.Neighbor{cable(2, "phone", "1"), cable(2, "sw-1", "8")}, "1: sw-2 3, 2: phone 1, 2: sw-1 8"},
			{two, []inventory.Neighbor{cable(2, "phone", "1")}, "1: sw-2 3, 2: phone 1, 2: sw-1 8"}, // the other is silent now
			{two, []inventory.Neighbor{cable(2, "sw-1", "8")}, "1: sw-2 3, 2: phone 1, 2: sw-1 8"},
			{two, []inventory.Neighbor{cable(2, "sw-3", "9")}, "1: sw-2 3, 2: sw-3 9"},
			{two, []inventory.Neighbor{cable(2, "sw-1", "8")}, "1: sw-2 3, 2: sw-1 8"},
			{nil, nil, "1: sw-2 3, 2: sw-1 8"}, // who may not look at ports takes none out
			{two[:1], nil, "1: sw-2 3"},
			{[]inventory.NIC{}, nil, ""},
		} {
			look(t, s, id, step.nics, step.heard...)
			if got := cables(t, s, id); got != step.want {
				t.Errorf("look %d: neighbors %q; want %q", i+1, got, step.want)
			}
		}
		history := must[[]inventory.Document](t)(s.FactsHistory(t.Context(), id, inventory.SourceLLDP))
		if len(history) != 8 {
			t.Errorf("%d documents of what was heard; want the 8 that say something new", len(history))
		}
		for _, d := range must[[]inventory.Document](t)(s.FactsHistory(t.Context(), id, inventory.SourceAgent)) {
			if d.Facts.Neighbors != nil {
				t.Errorf("the agent's document has neighbors: %+v", d.Facts.Neighbors)
			}
		}
	})
}

func TestWhatIsReportedLaterJoinsTheRest(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	id := observe(t, s, seen("", uuidA, 1)).ID
	look(t, s, id, []inventory.NIC{{Name: "eno1", MAC: mac(1)}, {Name: "eno2", MAC: mac(2)}}, cable(1, "sw-1", "7"))
	later := store.Observation{Machine: id, Source: inventory.SourceLLDP, Facts: &inventory.Facts{Neighbors: []inventory.Neighbor{cable(2, "sw-1", "8")}}}
	if _, changed, err := s.Observe(t.Context(), "store-0421", later); err != nil || !changed {
		t.Fatalf("Observe() = %t, %v; want a change", changed, err)
	}
	if got := cables(t, s, id); got != "1: sw-1 7, 2: sw-1 8" {
		t.Errorf("neighbors %q; want both ports'", got)
	}
	if _, changed, err := s.Observe(t.Context(), "store-0421", later); err != nil || changed {
		t.Errorf("Observe() = %t, %v; want no change by the same", changed, err)
	}
}

func TestDriftOfACable(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		s.UseSnapshotKey(snapshotKey)
		id := observe(t, s, seen("", uuidA, 1)).ID
		two := []inventory.NIC{{Name: "eno1", MAC: mac(1)}, {Name: "eno2", MAC: mac(2)}}
		look(t, s, id, two, cable(1, "sw-1", "7"))
		if frozen, err := s.Commission(ctx, id, "run"); err != nil || !frozen {
			t.Fatalf("Commission() = %t, %v; want a snapshot", frozen, err)
		}
		want := func(when string, state inventory.DriftState, events int, number int) {
			t.Helper()
			r, err := s.Drift(ctx, id)
			ok(t, err)
			told := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM events WHERE kind = 'machine.drift'"))
			if r.State != state || int(told) != events || r.Snapshot.Number != number {
				t.Errorf("%s: %s, %+v, told %d times, snapshot %d; want %s, told %d times, snapshot %d", when, r.State, r.Changes, told, r.Snapshot.Number, state, events, number)
			}
		}
		want("at first", inventory.DriftNone, 0, 1)
		look(t, s, id, two)
		want("when nothing is heard", inventory.DriftNone, 0, 1)
		look(t, s, id, two, cable(2, "sw-1", "8"))
		want("when the other port is heard the first time, which completes the snapshot", inventory.DriftNone, 0, 2)
		look(t, s, id, two, cable(2, "sw-2", "1"))
		want("when that cable is moved", inventory.DriftChanged, 1, 2)
		look(t, s, id, two)
		want("when nothing is heard then", inventory.DriftChanged, 1, 2)
		look(t, s, id, two, cable(1, "sw-1", "7"))
		want("when the port that was not touched is heard", inventory.DriftChanged, 1, 2)
		r, err := s.Drift(ctx, id)
		ok(t, err)
		_, err = s.AcceptDrift(ctx, id, r.Digest, "ops")
		ok(t, err)
		want("when it is accepted", inventory.DriftNone, 1, 3)
		look(t, s, id, two, cable(2, "sw-1", "8"))
		want("when it is put back", inventory.DriftChanged, 2, 3)
		look(t, s, id, two, cable(2, "sw-2", "1"))
		want("and moved once more", inventory.DriftNone, 2, 3)
		for _, snapshot := range must[[]store.Snapshot](t)(s.Snapshots(ctx, id)) {
			if snapshot.Forged || snapshot.TakenAt.IsZero() || snapshot.TakenAt.After(time.Now()) || snapshot.Number < 3 && snapshot.Run != "run" {
				t.Errorf("snapshot %+v; want it signed, with the run that it comes from", snapshot.Snapshot)
			}
		}
	})
}
