package store_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

func steps(events []inventory.Event) []string {
	var out []string
	for _, e := range events {
		out = append(out, e.Step)
	}
	return out
}

func TestEventsAreFoundByWhatTheyAreAbout(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		minute := func(n int) time.Time { return noon.Add(time.Duration(n) * time.Minute) }
		// The first two come before the machine is known.
		s.Record(inventory.Event{Time: minute(0), Site: site, MAC: mac(1), Kind: inventory.EventDHCPDiscover, Step: "0"})
		s.Record(inventory.Event{Time: minute(1), Site: site, MAC: mac(9), Kind: inventory.EventDHCPDiscover, Step: "1"})
		ok(t, s.Flush(ctx))
		m := observe(t, s, seen("", uuid.Nil, 1, 2))
		s.Record(inventory.Event{Time: minute(2), Site: site, MAC: mac(2), Kind: inventory.EventTFTPStart, Step: "2"})
		s.Record(inventory.Event{Time: minute(4), Site: site, Machine: m.ID, Kind: inventory.EventStepStarted, Run: "run1", Step: "4"})
		s.Record(inventory.Event{Time: minute(3), Site: site, Kind: inventory.EventRunStarted, Run: "run1", Boot: "boot1", Step: "3"})
		for what, c := range map[string]struct {
			f    store.EventFilter
			want string
		}{
			"all":          {store.EventFilter{}, "0 1 2 3 4"},
			"machine":      {store.EventFilter{Machine: m.ID}, "0 2 4"},
			"mac":          {store.EventFilter{MAC: mac(1)}, "0"},
			"run":          {store.EventFilter{Run: "run1"}, "3 4"},
			"boot":         {store.EventFilter{Boot: "boot1"}, "3"},
			"kinds":        {store.EventFilter{Kinds: []inventory.EventKind{inventory.EventTFTPStart, inventory.EventRunStarted}}, "2 3"},
			"since, until": {store.EventFilter{Since: minute(1), Until: minute(3)}, "1 2 3"},
			"latest two":   {store.EventFilter{Limit: 2}, "3 4"},
			"site":         {store.EventFilter{Site: "elsewhere"}, ""},
		} {
			got := must[[]inventory.Event](t)(s.Events(ctx, c.f))
			if strings.Join(steps(got), " ") != c.want {
				t.Errorf("Events(%s) = %v; want %s", what, steps(got), c.want)
			}
		}
		// What was written after the machine was known carries its id.
		for _, e := range must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{MAC: mac(2)})) {
			if e.Machine != m.ID {
				t.Errorf("event %+v has machine %s; want %s", e, e.Machine, m.ID)
			}
		}
		// A follower reads on, in the order of commit.
		var last int64
		var followed []string
		for range 10 {
			part := must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{After: max(last, 0), Limit: 2, Since: minute(0)}))
			if last == 0 {
				part = must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{After: 1, Limit: 2}))
			}
			if len(part) == 0 {
				break
			}
			last = part[len(part)-1].ID
			followed = append(followed, steps(part)...)
		}
		if strings.Join(followed, " ") != "1 2 4 3" {
			t.Errorf("following = %v; want 1 2 4 3", followed)
		}
	})
}

func TestEventIsKeptWhole(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		want := inventory.Event{
			Time: noon.Add(123456 * time.Microsecond), Site: site, MAC: mac(1), Machine: uuidA, Kind: inventory.EventAgentResult, Run: "run1",
			Step: nodeA, Boot: "boot1", Message: "écrit", Attrs: map[string]string{"task": "1", "outcome": "ok"},
		}
		s.Record(want)
		hostile := inventory.Event{Time: noon.Add(time.Hour), Kind: "dhcp.discover", Message: strings.Repeat("x", 1<<20) + "\x00", Attrs: map[string]string{"vendor_class": "a\x00b\xffc"}}
		for i := range 1000 {
			hostile.Attrs[fmt.Sprint(i)] = "v"
		}
		s.Record(hostile)
		got := must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{}))
		if len(got) != 2 {
			t.Fatalf("Events = %d; want 2, a stranger's bytes lose no event", len(got))
		}
		want.ID = got[0].ID
		if fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", want) {
			t.Errorf("event = %+v; want %+v", got[0], want)
		}
		if n, a := len(got[1].Message), len(got[1].Attrs); n > 4<<10 || a > 64 {
			t.Errorf("a stranger's event has a message of %d bytes and %d attributes; want at most 4096 and 64", n, a)
		}
		if v, has := got[1].Attrs["vendor_class"]; has && v != "a\uFFFDb\uFFFDc" {
			t.Errorf("vendor_class = %q; want NUL and invalid bytes replaced", v)
		}
	})
}

func TestRecordNeverBlocksAndCountsWhatItDropped(t *testing.T) {
	cfg := storetest.SQLite(t)
	cfg.EventQueue = 100
	s := storetest.Open(t, cfg)
	held, release := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.HoldWrite(t.Context(), func() { close(held); <-release }); err != nil {
			t.Error(err)
		}
	})
	<-held
	const n = 1000 // the writer may hold one batch of 256, the queue 100
	start := time.Now()
	for i := range n {
		s.Record(inventory.Event{Time: noon, Kind: inventory.EventAgentLog, Step: fmt.Sprint(i)})
	}
	if took := time.Since(start); took > 10*time.Second { // it would wait for ever
		t.Errorf("Record of %d events while the catalog was held took %s; want it not to wait", n, took)
	}
	dropped := s.EventsDropped()
	close(release)
	wg.Wait()
	got := must[[]inventory.Event](t)(s.Events(t.Context(), store.EventFilter{}))
	if dropped < n-100-256 || uint64(len(got))+dropped != n {
		t.Errorf("%d events kept and %d dropped; want %d together, most of them dropped", len(got), dropped, n)
	}
	for i := range 100 {
		if step, want := got[len(got)-1-i].Step, fmt.Sprint(n-1-i); step != want {
			t.Fatalf("event %d from the end = %s; want %s: the oldest are dropped", i, step, want)
		}
	}
}

func TestEventsOfManyGoroutinesAllArrive(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 200 {
					s.Record(inventory.Event{Time: noon, MAC: mac(g + 1), Kind: inventory.EventAgentLog, Step: fmt.Sprint(i)})
				}
			})
		}
		wg.Wait()
		for g := range 8 {
			got := steps(must[[]inventory.Event](t)(s.Events(t.Context(), store.EventFilter{MAC: mac(g + 1)})))
			want := make([]string, 200)
			for i := range want {
				want[i] = fmt.Sprint(i)
			}
			if !slices.Equal(got, want) {
				t.Errorf("events of goroutine %d = %v; want 0 to 199 in order", g, got)
			}
		}
	})
}

func TestCloseWritesWaitingEvents(t *testing.T) {
	cfg := storetest.SQLite(t)
	s := must[*store.Store](t)(store.Open(t.Context(), cfg))
	s.Record(inventory.Event{Kind: inventory.EventRunFinished})
	ok(t, s.Close())
	ok(t, s.Close())
	s.Record(inventory.Event{Kind: inventory.EventRunFinished})
	if s.EventsDropped() != 1 {
		t.Errorf("EventsDropped() after Close = %d; want 1", s.EventsDropped())
	}
	if got := must[[]inventory.Event](t)(storetest.Open(t, cfg).Events(t.Context(), store.EventFilter{})); len(got) != 1 || got[0].Time.IsZero() {
		t.Errorf("Events = %+v; want the one recorded before Close, with a time", got)
	}
}

func TestPruneBoundsThePast(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		var now atomic.Int64
		cfg = at(cfg, &now)
		cfg.EventRetention, cfg.EventLimit, cfg.FactsLimit = 7*24*time.Hour, 5, 3
		s := storetest.Open(t, cfg)
		ok(t, s.PutApplied(ctx, store.Applied{Site: site, Address: nodeA, Digest: "d", Time: noon.AddDate(-1, 0, 0)}))
		id := observe(t, s, seen("", uuidA, 1)).ID
		for i := range 6 {
			_, _, err := s.PutFacts(ctx, id, inventory.SourceAgent, withBIOS(fmt.Sprint(i)), noon.Add(time.Duration(i)*time.Minute))
			ok(t, err)
		}
		for i := range 20 { // ten of them too old
			s.Record(inventory.Event{Time: noon.AddDate(0, 0, i-10).Add(-7*24*time.Hour + 8*24*time.Hour), Kind: inventory.EventAgentLog, Step: fmt.Sprint(i)})
		}
		gone := leaseTo(7, "172.22.0.107", inventory.LeaseActive)
		gone.Starts, gone.Expires = noon.AddDate(0, -3, 0), noon.AddDate(0, -2, 0)
		ok(t, s.Commit(ctx, gone))
		ok(t, s.Commit(ctx, leaseTo(1, "172.22.0.101", inventory.LeaseActive)))
		ok(t, s.Flush(ctx))
		p := must[store.Pruned](t)(s.Prune(ctx))
		// Seven events tell of the machine's changes.
		if want := (store.Pruned{Events: 22, Observations: 3, Leases: 1}); p != want {
			t.Errorf("Prune() = %+v; want %+v", p, want)
		}
		if got := steps(must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{}))); strings.Join(got, " ") != "15 16 17 18 19" {
			t.Errorf("events after Prune = %v; want the last five", got)
		}
		if h := must[[]inventory.Document](t)(s.FactsHistory(ctx, id, "")); len(h) != 3 || h[2].Facts.BIOS.Version != "5" {
			t.Errorf("history after Prune = %d documents; want 3, the latest among them", len(h))
		}
		if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM documents")); n != 3 {
			t.Errorf("documents after Prune = %d; want 3", n)
		}
		if all := must[[]store.Applied](t)(s.AppliedAll(ctx, site)); len(all) != 1 {
			t.Errorf("applied records after Prune = %d; want 1: they are exempt", len(all))
		}
		if again := must[store.Pruned](t)(s.Prune(ctx)); again != (store.Pruned{}) {
			t.Errorf("Prune() again = %+v; want nothing", again)
		}
	})
}

func TestRoomOfRemovedEventsIsUsedAgain(t *testing.T) {
	cfg := storetest.SQLite(t)
	cfg.EventLimit = 10
	ctx, s := t.Context(), storetest.Open(t, cfg)
	const n = 5_000 // more than one transaction removes
	fill := func() {
		t.Helper()
		ok(t, s.Exec(ctx, `INSERT INTO events (time, kind, message) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < ?)
			SELECT ?, 'dhcp.discover', 'asked for an address' FROM n`, n, time.Now().UTC()))
	}
	fill()
	full := must[int64](t)(s.Number(ctx, "PRAGMA page_count"))
	for range 3 {
		if p := must[store.Pruned](t)(s.Prune(ctx)); p.Events < n-cfg.EventLimit {
			t.Errorf("Prune() removed %d events; want all but %d", p.Events, cfg.EventLimit)
		}
		if left := must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{})); len(left) != cfg.EventLimit {
			t.Errorf("%d events are left; want %d", len(left), cfg.EventLimit)
		}
		fill()
	}
	if now := must[int64](t)(s.Number(ctx, "PRAGMA page_count")); now > full+full/10 {
		t.Errorf("the file has %d pages after three times as many events were removed; want about the %d that held them once", now, full)
	}
}
