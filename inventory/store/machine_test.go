package store_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

const (
	nodeA = `machine.node["a"]`
	nodeB = `machine.node["b"]`
)

var (
	uuidA = uuid.MustParse("4c4c4544-0058-4b10-8032-b7c04f513933")
	uuidB = uuid.MustParse("564d1c2e-6b1a-4a5d-9d0e-3f8a7c2b1d90")
)

// seen is a shorthand for an observation.
func seen(serial string, u uuid.UUID, macs ...int) store.Observation {
	o := store.Observation{Serial: serial, UUID: u}
	for _, n := range macs {
		o.MACs = append(o.MACs, mac(n))
	}
	return o
}

func observe(t *testing.T, s *store.Store, o store.Observation) inventory.Machine {
	t.Helper()
	m, _, err := s.Observe(t.Context(), site, o)
	ok(t, err)
	return m
}

// TestObserveDecidesWhoWasSeen holds the identity rules: each case first
// observes some machines, then one more, and says which of the first it is.
func TestObserveDecidesWhoWasSeen(t *testing.T) {
	none := uuid.Nil
	const isNew, isConflict = -1, -2
	cases := map[string]struct {
		before []store.Observation
		then   store.Observation
		want   int    // index into before
		by     string // of a conflict
	}{
		"same MAC":                         {before: []store.Observation{seen("", none, 1)}, then: seen("", none, 1), want: 0},
		"another MAC":                      {before: []store.Observation{seen("", none, 1)}, then: seen("", none, 2), want: isNew},
		"any of its MACs":                  {before: []store.Observation{seen("", none, 1, 2, 3)}, then: seen("", none, 3), want: 0},
		"new MAC, same UUID":               {before: []store.Observation{seen("", uuidA, 1)}, then: seen("", uuidA, 2), want: 0},
		"same UUID in the other order":     {before: []store.Observation{seen("", uuidA, 1)}, then: seen("", inventory.SwapUUID(uuidA), 2), want: 0},
		"new MAC, same serial":             {before: []store.Observation{seen("7XK2Q93", none, 1)}, then: seen("7XK2Q93", none, 2), want: 0},
		"serial alone, as a BMC tells":     {before: []store.Observation{seen("7XK2Q93", none, 1)}, then: seen("7XK2Q93", none), want: 0},
		"junk serial is no identity":       {before: []store.Observation{seen("To Be Filled By O.E.M.", none, 1)}, then: seen("To be filled by O.E.M.", none, 2), want: isNew},
		"junk UUID is no identity":         {before: []store.Observation{seen("", uuid.Max, 1)}, then: seen("", uuid.Max, 2), want: isNew},
		"AMI's UUID is no identity":        {before: []store.Observation{seen("", uuid.MustParse("03000200-0400-0500-0006-000700080009"), 1)}, then: seen("", uuid.MustParse("03000200-0400-0500-0006-000700080009"), 2), want: isNew},
		"MAC of one, serial of another":    {before: []store.Observation{seen("AAA111", none, 1), seen("BBB222", none, 2)}, then: seen("BBB222", none, 1), want: isConflict, by: "serial"},
		"MAC of one, UUID of another":      {before: []store.Observation{seen("", uuidA, 1), seen("", uuidB, 2)}, then: seen("", uuidB, 1), want: isConflict, by: "uuid"},
		"UUID of one, serial of another":   {before: []store.Observation{seen("AAA111", uuidA, 1), seen("BBB222", uuidB, 2)}, then: seen("BBB222", uuidA), want: isConflict, by: "serial"},
		"MACs of two machines":             {before: []store.Observation{seen("", none, 1), seen("", none, 2)}, then: seen("", none, 1, 2), want: isConflict, by: "mac"},
		"a card moved to another machine":  {before: []store.Observation{seen("AAA111", uuidA, 1)}, then: seen("BBB222", uuidB, 1), want: isConflict, by: "serial"},
		"a board replaced, serial kept":    {before: []store.Observation{seen("AAA111", uuidA, 1)}, then: seen("AAA111", uuidB, 1), want: 0},
		"a serial written later":           {before: []store.Observation{seen("", uuidA, 1)}, then: seen("AAA111", uuidA, 1), want: 0},
		"one UUID on two computers":        {before: []store.Observation{seen("AAA111", uuidA, 1)}, then: seen("BBB222", uuidA, 2), want: isNew},
		"a UUID known to be shared":        {before: []store.Observation{seen("AAA111", uuidA, 1), seen("BBB222", uuidA, 2)}, then: seen("", uuidA, 3), want: isNew},
		"a shared UUID beside a known MAC": {before: []store.Observation{seen("AAA111", uuidA, 1), seen("BBB222", uuidA, 2)}, then: seen("", uuidA, 2), want: 1},
	}
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		for name, c := range cases {
			t.Run(name, func(t *testing.T) {
				for _, m := range must[[]inventory.Machine](t)(s.Machines(t.Context(), store.MachineFilter{})) {
					ok(t, s.Forget(t.Context(), m.ID))
				}
				var ids []uuid.UUID
				for _, o := range c.before {
					ids = append(ids, observe(t, s, o).ID)
				}
				before := must[[]inventory.Machine](t)(s.Machines(t.Context(), store.MachineFilter{}))
				m, changed, err := s.Observe(t.Context(), site, c.then)
				var conflict *store.ConflictError
				if errors.As(err, &conflict) != (c.want == isConflict) || c.want != isConflict && err != nil {
					t.Fatalf("Observe = %v; want conflict %v", err, c.want == isConflict)
				}
				switch c.want {
				case isConflict:
					if conflict.By != c.by || conflict.A == uuid.Nil || conflict.A == conflict.B {
						t.Errorf("conflict = %+v; want by %s between two machines", conflict, c.by)
					}
					after := must[[]inventory.Machine](t)(s.Machines(t.Context(), store.MachineFilter{}))
					if !slices.EqualFunc(before, after, same) {
						t.Errorf("machines after a conflict = %+v; want them unchanged: %+v", after, before)
					}
					events := must[[]inventory.Event](t)(s.Events(t.Context(), store.EventFilter{Kinds: []inventory.EventKind{inventory.EventIdentityConflict}}))
					last := events[len(events)-1]
					if last.Attrs["a"] != conflict.A.String() || last.Attrs["by"] != c.by {
						t.Errorf("event of the conflict = %+v; want a and by of %+v", last, conflict)
					}
				case isNew:
					if slices.Contains(ids, m.ID) || !changed || m.State != inventory.StateDiscovered {
						t.Errorf("Observe = %+v, changed %v; want a new machine in state discovered", m, changed)
					}
				default:
					if m.ID != ids[c.want] {
						t.Errorf("Observe = machine %s; want %s", m.ID, ids[c.want])
					}
					for _, x := range c.then.MACs {
						if !slices.Contains(m.MACs, x) {
							t.Errorf("MACs = %v; want %s among them", m.MACs, x)
						}
					}
				}
			})
		}
	})
}

func same(a, b inventory.Machine) bool {
	return a.ID == b.ID && slices.Equal(a.MACs, b.MACs) && a.SMBIOSUUID == b.SMBIOSUUID && a.Serial == b.Serial && a.Address == b.Address
}

func TestObserveReportsChangeOnce(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	o := seen("7XK2Q93", uuidA, 1, 2)
	for i, want := range []bool{true, false, false} {
		if _, changed, err := s.Observe(t.Context(), site, o); err != nil || changed != want {
			t.Errorf("Observe %d = changed %v, %v; want %v", i, changed, err, want)
		}
	}
}

func TestObserveTakesTheByteOrderThatSMBIOSShows(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	byROM := observe(t, s, seen("", inventory.SwapUUID(uuidA), 1))
	m := observe(t, s, store.Observation{
		MACs: []inventory.MAC{mac(1)}, Source: inventory.SourceAgent,
		Facts: &inventory.Facts{System: &inventory.System{UUID: uuidA.String(), Serial: "7XK2Q93"}},
	})
	again := observe(t, s, seen("", inventory.SwapUUID(uuidA), 1))
	if m.ID != byROM.ID || m.SMBIOSUUID != uuidA || m.Serial != "7XK2Q93" || again.SMBIOSUUID != uuidA {
		t.Errorf("machine = %+v, later %+v; want one machine with UUID %s and the serial of its facts", m, again, uuidA)
	}
}

func TestObserveNeedsAnIdentity(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	for name, o := range map[string]store.Observation{
		"nothing":   {},
		"junk only": {UUID: uuid.Max, Serial: "Default string", MACs: []inventory.MAC{{}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}},
	} {
		if _, _, err := s.Observe(t.Context(), site, o); err == nil {
			t.Errorf("Observe(%s) = nil; want an error", name)
		}
	}
	if _, _, err := s.Observe(t.Context(), "", seen("", uuidA, 1)); err == nil {
		t.Error("Observe without a site = nil; want an error")
	}
	if all := must[[]inventory.Machine](t)(s.Machines(t.Context(), store.MachineFilter{})); len(all) != 0 {
		t.Errorf("machines = %+v; want none", all)
	}
}

func TestParallelObservationsOfOneMachineMakeOneRow(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		stores := []*store.Store{storetest.Open(t, cfg), storetest.Open(t, cfg)}
		// The site exists, or its row alone would put them in order.
		other := observe(t, stores[0], seen("", uuidB, 9))
		done := make(chan error)
		const n = 16
		for i := range n {
			go func() {
				o := seen("", uuidA, 1, 2)
				if i%4 != 0 { // most by the UUID alone, which no index keeps unique
					o = seen("", uuidA)
				}
				o.Source, o.Facts = inventory.SourceAgent, &inventory.Facts{BIOS: &inventory.BIOS{Version: "1"}}
				_, _, err := stores[i%2].Observe(t.Context(), site, o)
				done <- err
			}()
		}
		for range n {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		ok(t, stores[0].Forget(t.Context(), other.ID))
		all := must[[]inventory.Machine](t)(stores[0].Machines(t.Context(), store.MachineFilter{}))
		if len(all) != 1 || len(all[0].MACs) != 2 {
			t.Fatalf("machines = %+v; want one with two MACs", all)
		}
		if h := must[[]inventory.Document](t)(stores[0].FactsHistory(t.Context(), all[0].ID, "")); len(h) != 1 {
			t.Errorf("history = %d documents; want 1", len(h))
		}
	})
}

func TestDeclareAndBind(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		do := must[inventory.Machine](t)
		a := do(s.Declare(ctx, site, nodeA, mac(1)))
		if a.State != inventory.StateDeclared || a.Address != nodeA || !slices.Equal(a.MACs, []inventory.MAC{mac(1)}) {
			t.Errorf("Declare = %+v; want a declared machine at %s", a, nodeA)
		}
		if again := do(s.Declare(ctx, site, nodeA, mac(1))); again.ID != a.ID {
			t.Errorf("Declare again = %s; want %s", again.ID, a.ID)
		}
		if m := observe(t, s, seen("7XK2Q93", uuidA, 1)); m.ID != a.ID || m.Address != nodeA {
			t.Errorf("Observe of the declared MAC = %+v; want machine %s", m, a.ID)
		}
		found := observe(t, s, seen("", uuidB, 2))
		if b := do(s.Declare(ctx, site, nodeB, mac(2))); b.ID != found.ID || b.State != inventory.StateDiscovered {
			t.Errorf("Declare of a discovered MAC = %+v; want machine %s", b, found.ID)
		}
		var conflict *store.ConflictError
		if _, err := s.Declare(ctx, site, nodeA, mac(1), mac(2)); !errors.As(err, &conflict) {
			t.Errorf("Declare of two machines' MACs = %v; want a *ConflictError", err)
		}
		if _, err := s.Declare(ctx, "other", nodeA, mac(1)); !errors.As(err, &conflict) || !strings.Contains(err.Error(), site) {
			t.Errorf("Declare at another site = %v; want a *ConflictError that names %s", err, site)
		}
		// New hardware takes the address; the old machine keeps the rest.
		c := do(s.Declare(ctx, site, nodeA, mac(3)))
		if old := do(s.Machine(ctx, a.ID)); old.Address != "" || old.Serial != "7XK2Q93" || c.ID == a.ID {
			t.Errorf("after a new MAC at %s: old %+v, new %+v; want two machines, the old one without address", nodeA, old, c)
		}
		if m := do(s.Bind(ctx, site, nodeA, a.ID)); m.ID != a.ID || m.Address != nodeA {
			t.Errorf("Bind = %+v; want machine %s at %s", m, a.ID, nodeA)
		}
		if _, err := s.Bind(ctx, site, nodeA, uuidB); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Bind(unknown machine) = %v; want ErrNotFound", err)
		}
		if m := do(s.MachineByAddress(ctx, site, nodeA)); m.ID != a.ID {
			t.Errorf("MachineByAddress after a failed Bind = %s; want %s", m.ID, a.ID)
		}
	})
}

func TestAssignTakesNothingAway(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		first, second := observe(t, s, seen("", uuidA, 1)).ID, observe(t, s, seen("", uuidB, 2)).ID
		ok(t, s.Assign(ctx, site, nodeA, first))
		ok(t, s.Assign(ctx, site, nodeA, first))
		var taken *store.TakenError
		if err := s.Assign(ctx, site, nodeA, second); !errors.As(err, &taken) || taken.Machine != first || taken.Address != nodeA {
			t.Errorf("Assign(address of another) = %v; want a *TakenError of machine %s", err, first)
		}
		if err := s.Assign(ctx, site, nodeB, first); !errors.As(err, &taken) || taken.Machine != first || taken.Address != nodeA {
			t.Errorf("Assign(machine with an address) = %v; want a *TakenError of %s", err, nodeA)
		}
		if m := must[inventory.Machine](t)(s.MachineByAddress(ctx, site, nodeA)); m.ID != first {
			t.Errorf("%s = %s; want %s as before", nodeA, m.ID, first)
		}
		if err := s.Assign(ctx, "other", nodeB, second); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Assign at another site = %v; want ErrNotFound", err)
		}
	})
}

// TestAssignHasOneWinner has programs that share the catalog give each of two
// machines both of two addresses at once.
func TestAssignHasOneWinner(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		machines := []uuid.UUID{observe(t, s, seen("", uuidA, 1)).ID, observe(t, s, seen("", uuidB, 2)).ID}
		var programs sync.WaitGroup
		said := make(chan string, 16)
		for i := range cap(said) {
			programs.Go(func() {
				address, id := []string{nodeA, nodeB}[i&1], machines[i>>1&1]
				err := s.Assign(t.Context(), site, address, id)
				var taken *store.TakenError
				switch {
				case err == nil:
					said <- fmt.Sprint(address, " is ", id)
				case !errors.As(err, &taken):
					t.Errorf("Assign(%s, %s) = %v; want a *TakenError", address, id, err)
				}
			})
		}
		programs.Wait()
		close(said)
		won := map[string]bool{}
		for line := range said {
			won[line] = true
		}
		for _, address := range []string{nodeA, nodeB} {
			m, err := s.MachineByAddress(t.Context(), site, address)
			if err != nil || !won[fmt.Sprint(address, " is ", m.ID)] || len(won) != 2 {
				t.Errorf("%s = %s, %v; programs were told %v, want each address once and kept", address, m.ID, err, won)
			}
		}
	})
}

func TestStateImageAndHostKey(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		id := observe(t, s, seen("", uuidA, 1)).ID
		ok(t, s.SetState(ctx, id, inventory.StateInstalled))
		ok(t, s.SetState(ctx, id, inventory.StateInstalled))
		ok(t, s.SetImage(ctx, id, "sha256:aa"))
		ok(t, s.SetHostKey(ctx, id, "ssh-ed25519 AAAA"))
		m := must[inventory.Machine](t)(s.Machine(ctx, id))
		if m.State != inventory.StateInstalled || m.Image != "sha256:aa" || m.HostKey != "ssh-ed25519 AAAA" {
			t.Errorf("machine = %+v; want it installed with image and host key", m)
		}
		events := must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{Machine: id}))
		if len(events) != 1 || events[0].Attrs["from"] != "discovered" || events[0].Attrs["to"] != "installed" || events[0].MAC != mac(1) {
			t.Errorf("events = %+v; want one move from discovered to installed", events)
		}
		ok(t, s.SetImage(ctx, id, ""))
		ok(t, s.SetHostKey(ctx, id, ""))
		if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM machines WHERE image IS NULL AND host_key IS NULL")); n != 1 {
			t.Errorf("machines without image and host key = %d; want 1: absent is NULL", n)
		}
		if err := s.SetState(ctx, uuidB, inventory.StateFailed); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("SetState(unknown) = %v; want ErrNotFound", err)
		}
		if got := must[[]inventory.Machine](t)(s.Machines(ctx, store.MachineFilter{Site: site, State: inventory.StateFailed})); len(got) != 0 {
			t.Errorf("Machines(failed) = %+v; want none", got)
		}
	})
}

func TestFind(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) { testFind(t, storetest.Open(t, cfg)) })
}

func testFind(t *testing.T, s *store.Store) {
	ctx := t.Context()
	do := must[inventory.Machine](t)
	a, b := do(s.Declare(ctx, site, nodeA, mac(1))), do(s.Declare(ctx, site, nodeB, mac(2)))
	gw := do(s.Declare(ctx, site, "module.m.machine.gateway", mac(3)))
	observe(t, s, seen("7XK2Q93", uuidA, 1))
	l := leaseTo(2, "172.22.0.12", inventory.LeaseActive)
	ok(t, s.Commit(ctx, l))
	for name, want := range map[string]uuid.UUID{
		a.ID.String(): a.ID, strings.ToUpper(a.ID.String()): a.ID, nodeA: a.ID, "a": a.ID, "b": b.ID,
		"52-54-00-00-00-01": a.ID, "5254.0000.0002": b.ID, "7xk2q93": a.ID, "172.22.0.12": b.ID,
		"gateway": gw.ID, "module.m.machine.gateway": gw.ID, `node["b"]`: b.ID, "7XK2Q93": a.ID, "7Xk2q93": a.ID,
		// Ids of one test begin alike, with the time.
		b.ID.String()[:35]: b.ID, strings.ToUpper(gw.ID.String()[:34]): gw.ID,
	} {
		if m, err := s.Find(ctx, site, name); err != nil || m.ID != want {
			t.Errorf("Find(%q) = %s, %v; want %s", name, m.ID, err, want)
		}
	}
	var many *store.AmbiguousError
	if _, err := s.Find(ctx, site, "node"); !errors.As(err, &many) || len(many.Candidates) != 2 || !strings.Contains(err.Error(), nodeB) {
		t.Errorf("Find(node) = %v; want an *AmbiguousError with both nodes", err)
	}
	for _, name := range []string{"", "c", "A", "machine", "0", "172.22.0.13", "%", "_", `["a"]`, "7XK2Q9_", "0000000-0", strings.Repeat("x", 1000)} {
		if _, err := s.Find(ctx, site, name); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Find(%.20q) = %v; want ErrNotFound", name, err)
		}
	}
	if _, err := s.Find(ctx, "other", "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Find at another site = %v; want ErrNotFound", err)
	}
	for i := range 12 {
		do(s.Declare(ctx, "other", fmt.Sprintf("machine.node[%d]", i), mac(40+i)))
	}
	if m, err := s.Find(ctx, "", "11"); err != nil || m.Address != "machine.node[11]" {
		t.Errorf("Find(11) = %s, %v; want machine.node[11]", m.Address, err)
	}
	if _, err := s.Find(ctx, "other", "node"); !errors.As(err, &many) || len(many.Candidates) != 10 || !many.More || !strings.Contains(err.Error(), "more than 10 machines") {
		t.Errorf("Find(node) among twelve = %v; want an *AmbiguousError that names ten and says that there are more", err)
	}
	if _, err := s.Find(ctx, site, "node"); !errors.As(err, &many) || len(many.Candidates) != 2 || many.More {
		t.Errorf("Find(node) at a site with two = %v; want an *AmbiguousError with both", err)
	}
}

func TestForgetTakesFactsAndLeavesEvents(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		o := seen("7XK2Q93", uuidA, 1)
		o.Source, o.Facts = inventory.SourceAgent, &full
		m := observe(t, s, o)
		s.Record(inventory.Event{Site: site, MAC: mac(1), Kind: inventory.EventDHCPDiscover})
		ok(t, s.Flush(ctx))
		ok(t, s.Forget(ctx, m.ID))
		for _, table := range append(projections, "machines", "macs", "observations", "documents") {
			if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM "+table)); n != 0 {
				t.Errorf("%s has %d rows after Forget; want 0", table, n)
			}
		}
		if e := must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{MAC: mac(1)})); len(e) != 1 {
			t.Errorf("events after Forget = %d; want 1", len(e))
		}
		if err := s.Forget(ctx, m.ID); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Forget again = %v; want ErrNotFound", err)
		}
	})
}
