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

// told are the attributes of a machine's events of a kind, oldest first.
func told(t *testing.T, s *store.Store, id uuid.UUID, kind inventory.EventKind, names ...string) string {
	t.Helper()
	var out []string
	for _, e := range must[[]inventory.Event](t)(s.EventsAfter(t.Context(), 0, 1000, kind)) {
		if e.Machine != id {
			continue
		}
		var parts []string
		for _, n := range names {
			if e.Attrs[n] != "" {
				parts = append(parts, e.Attrs[n])
			}
		}
		out = append(out, strings.Join(parts, " "))
	}
	return strings.Join(out, ", ")
}

func TestEachChangeOfClassesIsToldOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		m := observe(t, s, seen("", uuidA, 1))
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				if _, err := s.SetClasses(ctx, m.ID, []string{"till", "small"}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		set := func(want bool, classes ...string) {
			t.Helper()
			if got := must[bool](t)(s.SetClasses(ctx, m.ID, classes)); got != want {
				t.Errorf("SetClasses(%q) = %v; want %v", classes, got, want)
			}
		}
		set(false, "small", "till")
		set(true, "till", "old", "old")
		if got := must[inventory.Machine](t)(s.Machine(ctx, m.ID)).Classes; !slices.Equal(got, []string{"old", "till"}) {
			t.Errorf("classes = %q; want old and till", got)
		}
		set(true)
		want := "entered small, entered till, left small, entered old, left old, left till"
		if got := told(t, s, m.ID, inventory.EventMachineClass, "change", "class"); got != want {
			t.Errorf("events = %s; want %s", got, want)
		}
		if _, err := s.SetClasses(ctx, uuid.New(), []string{"till"}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("SetClasses(unknown machine) = %v; want ErrNotFound", err)
		}
	})
}

func TestAReactionIsQueuedOnceAndMovesOneWay(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		m := observe(t, s, seen("", uuidA, 1))
		due := inventory.Reaction{Site: site, Machine: m.ID, Class: "till", Digest: "sha256:1", State: inventory.ReactionQueued}
		var all sync.WaitGroup
		var mu sync.Mutex
		queued := 0
		for range 4 {
			all.Go(func() {
				ok, err := s.QueueReaction(ctx, due)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if ok {
					queued++
				}
			})
		}
		all.Wait()
		if queued != 1 {
			t.Errorf("queued %d times; want once", queued)
		}
		rows := must[[]inventory.Reaction](t)(s.Reactions(ctx, store.ReactionFilter{Site: site, Machine: m.ID}))
		if len(rows) != 1 || rows[0].State != inventory.ReactionQueued || rows[0].QueuedAt.IsZero() {
			t.Fatalf("reactions = %+v; want one that is queued", rows)
		}
		id := rows[0].ID
		do := must[inventory.Reaction](t)
		do(s.HoldReaction(ctx, id, "no place"))
		do(s.HoldReaction(ctx, id, "no place"))
		do(s.StartReaction(ctx, id, nodeA))
		if _, err := s.HoldReaction(ctx, id, "late"); !errors.Is(err, store.ErrReactionMoved) {
			t.Errorf("HoldReaction(started) = %v; want ErrReactionMoved", err)
		}
		if got := do(s.StartReaction(ctx, id, nodeA)); got.Attempts != 0 || got.Reason != "" || got.StartedAt.IsZero() {
			t.Errorf("started again = %+v; want it started, and no attempt yet", got)
		}
		if _, err := s.DelayReaction(ctx, id, "no stick"); err != nil {
			t.Fatal(err)
		}
		if got := do(s.DelayReaction(ctx, id, "no stick")); got.State != inventory.ReactionStarted || got.Reason != "no stick" {
			t.Errorf("delayed = %+v; want it started, and what it waits for", got)
		}
		do(s.DelayReaction(ctx, id, ""))
		do(s.CountReaction(ctx, id))
		if got := do(s.CountReaction(ctx, id)); got.Attempts != 2 || got.State != inventory.ReactionStarted {
			t.Errorf("counted twice = %+v; want two attempts", got)
		}
		if _, err := s.FinishReaction(ctx, id, inventory.ReactionQueued, ""); err == nil {
			t.Error("FinishReaction(queued) = nil; want an error")
		}
		if got := do(s.FinishReaction(ctx, id, inventory.ReactionFailed, "its disk\x00 broke")); got.FinishedAt.IsZero() || got.Reason != "its disk\uFFFD broke" {
			t.Errorf("finished = %+v; want when, and why", got)
		}
		for name, err := range map[string]error{
			"start":  second(s.StartReaction(ctx, id, nodeA)),
			"count":  second(s.CountReaction(ctx, id)),
			"delay":  second(s.DelayReaction(ctx, id, "late")),
			"finish": second(s.FinishReaction(ctx, id, inventory.ReactionDone, "")),
		} {
			if !errors.Is(err, store.ErrReactionMoved) {
				t.Errorf("%s of a finished one = %v; want ErrReactionMoved", name, err)
			}
		}
		due.Digest, due.State, due.Reason = "sha256:2", inventory.ReactionDone, "it is installed already"
		if !must[bool](t)(s.QueueReaction(ctx, due)) {
			t.Error("QueueReaction(another definition) = false; want it kept")
		}
		want := fmt.Sprintf("queued, queued no place, started %[1]s, started %[1]s, started %[1]s no stick, started %[1]s, failed %[1]s its disk\uFFFD broke, done it is installed already", nodeA)
		if got := told(t, s, m.ID, inventory.EventMachineReaction, "state", "address", "reason"); got != want {
			t.Errorf("events = %s; want %s", got, want)
		}
		ok(t, s.Forget(ctx, m.ID))
		if rows := must[[]inventory.Reaction](t)(s.Reactions(ctx, store.ReactionFilter{})); len(rows) != 0 {
			t.Errorf("reactions of a forgotten machine = %+v; want none", rows)
		}
	})
}

// A machine that has a reaction under both digests keeps them as they are, and so
// does what is of another class, definition or site.
func TestReactionsAreRenewedWhereNothingStandsInTheWay(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		a, b := observe(t, s, seen("", uuidA, 1)), observe(t, s, seen("", uuidB, 2))
		for _, r := range []inventory.Reaction{
			{Machine: a.ID, Class: "till", Digest: "former"},
			{Machine: a.ID, Class: "till", Digest: "older"},
			{Machine: a.ID, Class: "other", Digest: "former"},
			{Machine: b.ID, Class: "till", Digest: "former"},
			{Machine: b.ID, Class: "till", Digest: "new"},
		} {
			r.Site, r.State = site, inventory.ReactionDone
			must[bool](t)(s.QueueReaction(ctx, r))
		}
		ok(t, s.RenewReactions(ctx, "elsewhere", "till", "former", "new"))
		ok(t, s.RenewReactions(ctx, site, "till", "former", "new"))
		var got []string
		for _, r := range must[[]inventory.Reaction](t)(s.Reactions(ctx, store.ReactionFilter{})) {
			got = append(got, r.Class+" "+r.Digest)
		}
		if want := []string{"till new", "till older", "other former", "till former", "till new"}; !slices.Equal(got, want) {
			t.Errorf("reactions = %q; want %q", got, want)
		}
	})
}

func second[T any](_ T, err error) error { return err }
