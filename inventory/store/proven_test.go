package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/drift"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// proven is what a program sees on a machine that it knows by its host key.
func proven(id uuid.UUID, f inventory.Facts) store.Observation {
	return store.Observation{Machine: id, Proven: true, Source: inventory.SourceAgent, Facts: &f}
}

// shows fails unless the machine has drifted in exactly these ways.
func shows(t *testing.T, s *store.Store, id uuid.UUID, want ...string) {
	t.Helper()
	var got []string
	for _, c := range stands(t, s, id, inventory.DriftChanged).Changes {
		got = append(got, drift.Describe(c))
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("changes = %q; want %q", got, want)
	}
}

func conflicts(t *testing.T, s *store.Store) []inventory.Event {
	t.Helper()
	return must[[]inventory.Event](t)(s.Events(t.Context(), store.EventFilter{Kinds: []inventory.EventKind{inventory.EventIdentityConflict}}))
}

func TestAnotherBoardInAProvenMachineIsDrift(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s, id := frozen(t, cfg)
		board := original
		board.System = &inventory.System{Manufacturer: "Dell Inc.", Product: "PowerEdge XR12", Serial: "8XK2Q94", UUID: uuidB.String()}
		unproven := proven(id, board)
		unproven.Proven = false
		var conflict *store.ConflictError
		if _, _, err := s.Observe(t.Context(), site, unproven); !errors.As(err, &conflict) {
			t.Errorf("Observe of an unproven machine = %v; want a *ConflictError", err)
		}
		stands(t, s, id, inventory.DriftNone)
		told := len(conflicts(t, s))

		m := observe(t, s, proven(id, board))
		if m.ID != id || m.Serial != "8XK2Q94" || m.SMBIOSUUID != uuidB {
			t.Errorf("machine = %+v; want %s with the serial and UUID of its board", m, id)
		}
		shows(t, s, id, `system.serial is "8XK2Q94"; it was "7XK2Q93"`, `system.uuid is "`+uuidB.String())
		if n := len(conflicts(t, s)); n != told {
			t.Errorf("%d conflicts after the look; want %d: nobody else has that board", n, told)
		}
		r := must[drift.Report](t)(s.Drift(t.Context(), id))
		must[drift.Report](t)(s.AcceptDrift(t.Context(), id, r.Digest, "somebody"))
		observe(t, s, proven(id, board))
		stands(t, s, id, inventory.DriftNone)
	})
}

func TestACardOfAnotherMachineInAProvenMachineIsDrift(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		s, a := frozen(t, cfg)
		other := inventory.Facts{System: &inventory.System{Serial: "BBB222", UUID: uuidB.String()}, NICs: []inventory.NIC{{Name: "eno1", MAC: mac(2)}}}
		b := observe(t, s, store.Observation{Source: inventory.SourceAgent, Facts: &other}).ID
		must[bool](t)(s.Commission(ctx, b, "run-2"))
		with, without := other, original
		with.NICs, without.NICs = []inventory.NIC{{Name: "eno1", MAC: mac(2)}, {Name: "eno2", MAC: mac(1)}}, []inventory.NIC{}

		for range 2 {
			observe(t, s, proven(b, with))
		}
		observe(t, s, proven(a, without))
		shows(t, s, b, `network port "52:54:00:00:00:01" is new`)
		shows(t, s, a, `network port "52:54:00:00:00:01" is gone`)
		if m := must[inventory.Machine](t)(s.MachineByMAC(ctx, mac(1))); m.ID != a {
			t.Errorf("MAC of the card is of %s; want %s, which it was first seen in", m.ID, a)
		}
		got := conflicts(t, s)
		if len(got) != 1 || got[0].Machine != b || got[0].Attrs["b"] != a.String() || !strings.Contains(got[0].Message, "mac 52:54:00:00:00:01 of machine "+a.String()) {
			t.Errorf("conflicts = %+v; want one of machine %s that names the card and %s", got, b, a)
		}
	})
}

// TestWhatAnotherMachineIsKnownByStaysThere has the disk of one machine run in the
// case of another, which the catalog knows too.
func TestWhatAnotherMachineIsKnownByStaysThere(t *testing.T) {
	s, a := frozen(t, storetest.SQLite(t))
	other := inventory.Facts{System: &inventory.System{Serial: "BBB222", UUID: uuidB.String()}, NICs: []inventory.NIC{{Name: "eno1", MAC: mac(2)}}}
	b := observe(t, s, store.Observation{Source: inventory.SourceAgent, Facts: &other})
	if m := observe(t, s, proven(a, other)); m.ID != a || m.Serial != "7XK2Q93" || m.SMBIOSUUID != uuidA || !slices.Equal(m.MACs, []inventory.MAC{mac(1)}) {
		t.Errorf("machine = %+v; want %s with what it was known by", m, a)
	}
	if again := must[inventory.Machine](t)(s.Machine(t.Context(), b.ID)); !same(again, b) {
		t.Errorf("the other machine = %+v; want it as it was: %+v", again, b)
	}
	stands(t, s, a, inventory.DriftChanged)
}
