package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// TestNoEventIsCommittedBehindAFollower holds the order of ids to the order of
// commits, between two programs: an event whose number was taken first, but whose
// transaction lasts, must keep later ones from being seen before it.
func TestNoEventIsCommittedBehindAFollower(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		slow, fast := storetest.Open(t, cfg), storetest.Open(t, cfg)
		m := must[inventory.Machine](t)(slow.Declare(ctx, site, "machine.a", mac(1)))
		begin := must[store.EventSpan](t)(slow.EventSpan(ctx)).Newest
		err := slow.HoldChange(ctx, m.ID, func() {
			fast.Record(inventory.Event{Site: site, Kind: inventory.EventDHCPAck})
			bounded, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
			defer cancel()
			if err := fast.Flush(bounded); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("an event was written beside one that is not committed: Flush = %v; want it to wait", err)
			}
			if got := must[[]inventory.Event](t)(fast.EventsAfter(ctx, begin, 10)); len(got) != 0 {
				t.Errorf("a follower sees %+v before the first transaction ended; want nothing", got)
			}
		})
		ok(t, err)
		ok(t, fast.Flush(ctx))
		got := must[[]inventory.Event](t)(fast.EventsAfter(ctx, begin, 10))
		if len(got) != 2 || got[0].Kind != inventory.EventMachineChanged || got[1].Kind != inventory.EventDHCPAck {
			t.Errorf("a follower sees %+v; want the change, then the event that waited for it", got)
		}
	})
}

func TestFollowerOfManyWritersMissesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		writers := []*store.Store{storetest.Open(t, cfg), storetest.Open(t, cfg)}
		var machines []inventory.Machine
		for n := range 4 {
			machines = append(machines, must[inventory.Machine](t)(writers[0].Declare(ctx, site, fmt.Sprintf("machine.m%d", n), mac(n+1))))
		}
		const rounds = 15
		var wg sync.WaitGroup
		for i, s := range writers {
			for j, m := range machines {
				wg.Go(func() {
					for r := range rounds {
						s.Record(inventory.Event{Site: site, Kind: inventory.EventDHCPAck, Step: "recorded"})
						key := fmt.Sprintf("k%d-%d", i, j)
						if _, err := s.SetTags(ctx, m.ID, map[string]string{key: fmt.Sprint(r)}, nil, nil); err != nil {
							t.Error(err)
						}
					}
				})
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			wg.Wait()
			for _, s := range writers {
				if err := s.Flush(ctx); err != nil {
					t.Error(err)
				}
			}
		}()
		var seen []int64
		last := int64(0)
		follow := func() {
			for {
				events := must[[]inventory.Event](t)(writers[0].EventsAfter(ctx, last, 7))
				if len(events) == 0 {
					return
				}
				for _, e := range events {
					seen, last = append(seen, e.ID), e.ID
				}
			}
		}
		for running := true; running; {
			select {
			case <-done:
				running = false
			default:
			}
			follow()
		}
		all := must[int64](t)(writers[0].Number(ctx, "SELECT COUNT(*) FROM events"))
		if int64(len(seen)) != all || !slices.IsSorted(seen) {
			t.Errorf("a follower saw %d of %d events, in order: %v", len(seen), all, slices.IsSorted(seen))
		}
		if all < 2*4*rounds*2 {
			t.Errorf("%d events were written; want %d or more", all, 2*4*rounds*2)
		}
	})
}

func TestEveryChangeOfAMachineIsAnEventOfItsTransaction(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		m := must[inventory.Machine](t)(s.Declare(ctx, site, "machine.a", mac(1)))
		other := must[inventory.Machine](t)(s.Declare(ctx, site, "machine.b", mac(2)))
		facts := inventory.Facts{Memory: &inventory.Memory{Bytes: 1 << 30}}
		put := func() error {
			_, _, err := s.PutFacts(ctx, m.ID, inventory.SourceAgent, facts, time.Time{})
			return err
		}
		last := must[store.EventSpan](t)(s.EventSpan(ctx)).Newest
		for _, c := range []struct {
			what string
			do   func() error
			want string // changed machines with what changed
		}{
			{"facts", put, "a facts"},
			{"the same facts", put, ""},
			{"state", func() error { return s.SetState(ctx, m.ID, inventory.StateHeld) }, "a state"},
			{"the same state", func() error { return s.SetState(ctx, m.ID, inventory.StateHeld) }, ""},
			{"image", func() error { return s.SetImage(ctx, m.ID, "sha256:00") }, "a image"},
			{"host key", func() error { return s.SetHostKey(ctx, m.ID, "ssh-ed25519 AAAA") }, "a host_key"},
			{"address", func() error { _, err := s.Bind(ctx, site, "machine.b", m.ID); return err }, "a address, b address"},
			{"declaration", func() error { _, err := s.Declare(ctx, site, "machine.b", mac(1)); return err }, ""},
			{"tags", func() error { _, err := s.SetTags(ctx, m.ID, map[string]string{"x": "y"}, nil, nil); return err }, "a tags"},
			{"forgotten", func() error { return s.Forget(ctx, m.ID) }, "a removed"},
		} {
			ok(t, c.do())
			events := must[[]inventory.Event](t)(s.EventsAfter(ctx, last, 100, inventory.EventMachineChanged, inventory.EventMachineRemoved))
			var got []string
			for _, e := range events {
				name := map[uuid.UUID]string{m.ID: "a", other.ID: "b"}[e.Machine]
				if e.Kind == inventory.EventMachineRemoved {
					got = append(got, name+" removed")
				} else {
					got = append(got, name+" "+e.Attrs["what"])
				}
				last = e.ID
				if e.Site != site {
					t.Errorf("%s: event has site %q; want %q", c.what, e.Site, site)
				}
			}
			slices.Sort(got)
			if strings.Join(got, ", ") != c.want {
				t.Errorf("%s: changes = %q; want %q", c.what, strings.Join(got, ", "), c.want)
			}
		}
	})
}

func TestSpanOfEventsRemembersWhatRetentionRemoved(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		now := noon
		cfg.Now, cfg.EventLimit = func() time.Time { return now }, 3
		ctx, s := t.Context(), storetest.Open(t, cfg)
		record := func(n int) {
			for range n {
				s.Record(inventory.Event{Site: site, Kind: inventory.EventDHCPAck})
			}
			ok(t, s.Flush(ctx))
		}
		span := func() store.EventSpan {
			_, err := s.Prune(ctx)
			ok(t, err)
			return must[store.EventSpan](t)(s.EventSpan(ctx))
		}
		if got := span(); got != (store.EventSpan{}) {
			t.Errorf("EventSpan of an empty catalog = %+v; want zeroes", got)
		}
		record(5)
		if got := span(); got != (store.EventSpan{Pruned: 2, Newest: 5}) {
			t.Errorf("EventSpan after 2 of 5 events were surplus = %+v; want pruned 2, newest 5", got)
		}
		now = now.Add(31 * 24 * time.Hour)
		if got := span(); got != (store.EventSpan{Pruned: 5, Newest: 5}) {
			t.Errorf("EventSpan after all grew old = %+v; want pruned 5, newest 5", got)
		}
		record(1)
		if got := span(); got != (store.EventSpan{Pruned: 5, Newest: 6}) {
			t.Errorf("EventSpan after another event = %+v; want pruned 5, newest 6", got)
		}
	})
}

func TestPagesOfEventsInBothDirections(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		for n := range 5 {
			s.Record(inventory.Event{Site: site, Kind: inventory.EventDHCPAck, Step: fmt.Sprint(n)})
		}
		ok(t, s.Flush(ctx))
		for _, c := range []struct {
			reverse bool
			want    string
		}{{false, "0 1|2 3|4"}, {true, "4 3|2 1|0"}} {
			var pages []string
			for cursor := int64(0); ; {
				page := must[[]inventory.Event](t)(s.EventPage(ctx, store.EventFilter{Site: site}, cursor, 2, c.reverse))
				if len(page) == 0 {
					break
				}
				cursor = page[len(page)-1].ID
				pages = append(pages, strings.Join(steps(page), " "))
			}
			if got := strings.Join(pages, "|"); got != c.want {
				t.Errorf("pages (reverse %v) = %s; want %s", c.reverse, got, c.want)
			}
		}
	})
}

func TestHistoryOfReportsSaysWhatWasThereBefore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		m := must[inventory.Machine](t)(s.Declare(ctx, site, "machine.a", mac(1)))
		for i, source := range []inventory.Source{"agent", "redfish", "agent", "agent", "redfish"} {
			f := inventory.Facts{Memory: &inventory.Memory{Bytes: int64(i + 1)}}
			_, _, err := s.PutFacts(ctx, m.ID, source, f, noon.Add(time.Duration(i)*time.Minute))
			ok(t, err)
		}
		var got []string
		for before := 0; ; {
			page := must[[]store.Report](t)(s.Reports(ctx, m.ID, "", before, 2))
			if len(page) == 0 {
				break
			}
			for _, r := range page {
				was := "-"
				if r.Before != nil {
					was = fmt.Sprint(r.Before.Memory.Bytes)
				}
				got, before = append(got, fmt.Sprintf("%s %s>%d", r.Source, was, r.Facts.Memory.Bytes)), r.ID
			}
		}
		want := "redfish 2>5, agent 3>4, agent 1>3, redfish ->2, agent ->1"
		if strings.Join(got, ", ") != want {
			t.Errorf("history = %s; want %s", strings.Join(got, ", "), want)
		}
	})
}

func TestOneOfManyRequestsWithAKeyBeginsTheOperation(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		o := store.Operation{Actor: "t1", Key: "k", Digest: "d", Kind: "power", Site: site}
		const racers = 6
		ids, starts := make([]uuid.UUID, racers), make([]bool, racers)
		var wg sync.WaitGroup
		for i := range racers {
			wg.Go(func() {
				begun, started, err := s.BeginOperation(ctx, o)
				if err != nil {
					t.Error(err)
				}
				ids[i], starts[i] = begun.ID, started
			})
		}
		wg.Wait()
		n := 0
		for i := range racers {
			if starts[i] {
				n++
			}
			if ids[i] != ids[0] {
				t.Errorf("racer %d got operation %s; want %s, as racer 0", i, ids[i], ids[0])
			}
		}
		if n != 1 {
			t.Errorf("%d of %d requests with one key began an operation; want 1", n, racers)
		}
		o.Digest = "other"
		if _, _, err := s.BeginOperation(ctx, o); !errors.Is(err, store.ErrKeyReused) {
			t.Errorf("the key with another request: %v; want ErrKeyReused", err)
		}
		o.Actor = "t2"
		if begun, started, err := s.BeginOperation(ctx, o); err != nil || !started || begun.ID == ids[0] {
			t.Errorf("the key of another actor: %+v, %v, %v; want an operation of its own", begun, started, err)
		}
	})
}
