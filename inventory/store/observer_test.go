package store_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// TestManyMachinesAreKeptAsEachWouldBe observes machines that are new, known, and seen
// several times, by one source and by several, at once and one by one.
func TestManyMachinesAreKeptAsEachWouldBe(t *testing.T) {
	anew := func(n int, f inventory.Facts) inventory.Facts {
		f.System, f.NICs = nil, []inventory.NIC{{Name: "eno2", MAC: mac(n + 100)}, {Name: "eno1", MAC: mac(n)}} // not in order
		return f
	}
	heard := anew(2, withBIOS("1"))
	heard.Neighbors = []inventory.Neighbor{{MAC: mac(2), Chassis: "sw1", Port: "7"}}
	small := inventory.Facts{BIOS: &inventory.BIOS{Version: "1"}} // of several machines
	all := []store.Observation{
		{Source: inventory.SourceAgent, Facts: new(anew(1, withBIOS("2")))}, // known
		{Source: inventory.SourceAgent, Facts: &heard},
		{Source: inventory.SourceAgent, Facts: new(anew(3, withBIOS("1")))},
		{Source: inventory.SourceRedfish, Facts: new(anew(3, withBIOS("2")))}, // disagrees
		{Source: inventory.SourceAgent, Facts: &heard},
		{Source: inventory.SourceAgent, Facts: new(anew(3, withBIOS("3")))},
		{Source: inventory.SourceAgent, Facts: &small, MACs: []inventory.MAC{mac(4)}},
		{Source: inventory.SourceIPMI, Facts: &small, MACs: []inventory.MAC{mac(5)}},
		{MACs: []inventory.MAC{mac(6)}, Serial: "7XK2Q96"},
		{Source: inventory.SourceIPMI, Facts: &small, MACs: []inventory.MAC{mac(6)}},
		{Source: inventory.SourceLLDP, Facts: &inventory.Facts{Neighbors: heard.Neighbors}, MACs: []inventory.MAC{mac(7)}},
	}
	for i := range all {
		all[i].At = noon.Add(time.Duration(i) * time.Minute)
	}
	open := func(t *testing.T, cfg store.Config) *store.Store {
		cfg.Now = func() time.Time { return noon }
		s := storetest.Open(t, cfg)
		s.UseSnapshotKey(snapshotKey)
		known := observe(t, s, store.Observation{Source: inventory.SourceAgent, Facts: new(anew(1, withBIOS("1"))), At: noon.Add(-time.Hour)})
		must[bool](t)(s.Commission(t.Context(), known.ID, "run-1"))
		return s
	}
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s, single := t.Context(), open(t, cfg), open(t, storetest.SQLite(t))
		var changed []bool
		for i, o := range must[[]store.Observed](t)(s.ObserveAll(ctx, site, all)) {
			_, was, err := single.Observe(ctx, site, all[i])
			ok(t, err)
			if changed = append(changed, o.Changed); o.Changed != was || o.Conflict != nil {
				t.Errorf("observation %d at once = %+v; one by one changed is %v", i, o, was)
			}
		}
		if !slices.Contains(changed, false) || !slices.Contains(changed, true) {
			t.Fatalf("changed = %v; want some", changed)
		}
		machines := must[[]inventory.Machine](t)(s.Machines(ctx, store.MachineFilter{}))
		if len(machines) != 7 {
			t.Fatalf("%d machines; want 7", len(machines))
		}
		for _, m := range machines {
			got, want := known(t, s, m.MACs[0]), known(t, single, m.MACs[0])
			for _, part := range slices.Sorted(maps.Keys(want)) {
				if !reflect.DeepEqual(got[part], want[part]) {
					t.Errorf("machine %s kept at once: %s\n%+v\nwant as one by one\n%+v", m.MACs[0], part, got[part], want[part])
				}
			}
		}
		before := projectionOf(t, s)
		ok(t, s.RebuildProjection(ctx))
		if after := projectionOf(t, s); !reflect.DeepEqual(before, after) {
			t.Errorf("projection\n%v\nwant that of the documents\n%v", before, after)
		}
	})
}

// known is all that a catalog has of a machine but its ids.
func known(t *testing.T, s *store.Store, a inventory.MAC) map[string]any {
	t.Helper()
	ctx := t.Context()
	m := must[inventory.Machine](t)(s.MachineByMAC(ctx, a))
	var events []string
	for _, e := range must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{Machine: m.ID, Kinds: []inventory.EventKind{inventory.EventFactsDisagree, inventory.EventMachineDrift}})) {
		events = append(events, fmt.Sprint(e.Kind, e.Attrs))
	}
	id := m.ID
	m.ID, m.DriftSince = uuid.Nil, time.Time{}
	return map[string]any{
		"machine": m, "events": events,
		"history": must[[]inventory.Document](t)(s.FactsHistory(ctx, id, "")),
		"facts":   must[map[uuid.UUID]inventory.Facts](t)(s.FactsOf(ctx, id))[id],
		"changes": must[inventory.Subject](t)(s.Subject(ctx, id)).Changes,
	}
}

// TestAnotherNewMachineCostsFiveStatements: its MACs, UUID and serial number are looked
// for, it and its MACs are written, and all else with that of the other machines. On
// PostgreSQL, where each is a round trip, they were 34, and took three times as long.
func TestAnotherNewMachineCostsFiveStatements(t *testing.T) {
	s := storetest.Open(t, storetest.PostgreSQL(t))
	count := must[func() int](t)(s.CountStatements())
	made := 0
	observations := func(n int) []store.Observation {
		out := make([]store.Observation, n)
		for i := range out {
			made++
			f := withBIOS("1")
			f.System = &inventory.System{Serial: fmt.Sprintf("7XK3Q%d", made), UUID: fmt.Sprintf("4c4c4544-0058-4b10-8032-%012x", made)}
			f.NICs = []inventory.NIC{{Name: "eno1", MAC: mac(made)}, {Name: "eno2", MAC: mac(1000 + made)}}
			out[i] = store.Observation{Source: inventory.SourceAgent, Facts: &f}
		}
		return out
	}
	cost := func(n int) int {
		all, before := observations(n), count()
		must[[]store.Observed](t)(s.ObserveAll(t.Context(), site, all))
		return count() - before
	}
	cost(1) // makes the site
	few, many := cost(2), cost(32)
	if each := float64(many-few) / 30; each > 5 {
		t.Errorf("2 machines took %d statements and 32 took %d; want at most 5 for each more", few, many)
	}
}
