package journal_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows/journal"
)

func TestMain(m *testing.M) { os.Exit(storetest.Run(m)) }

const (
	site  = "store-0421"
	nodeA = `machine.node["a"]`
	nodeB = `machine.node["b"]`
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// clock moves on by a second whenever it is read.
func clock() func() time.Time {
	var n atomic.Int64
	return func() time.Time { return noon.Add(time.Duration(n.Add(1)) * time.Second) }
}

func TestRunIsReadBackAfterARestart(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		first := must[*store.Store](t)(store.Open(ctx, cfg))
		j := journal.New(first, clock())
		r := must[journal.Run](t)(j.Begin(ctx, journal.Run{Site: site, PlanDigest: "sha256:plan", Actions: json.RawMessage(`[{"do":"create"}]`)}))
		if r.ID.Version() != 7 || r.State != journal.StateRunning {
			t.Errorf("Begin = %+v; want a running run with a version 7 id", r)
		}
		ok(t, j.Started(ctx, r.ID, nodeA, 1, "in-1"))
		ok(t, j.Finished(ctx, r.ID, nodeA, 1, "failed", "the disk is gone", nil))
		ok(t, j.Started(ctx, r.ID, nodeA, 2, "in-1"))
		ok(t, j.Note(ctx, r.ID, nodeA, "image.write", `{"state":"started"}`))
		ok(t, j.Note(ctx, r.ID, nodeA, "image.write", `{"state":"finished"}`))
		ok(t, j.Finished(ctx, r.ID, nodeA, 2, "ok", "", []byte("sealed\x00")))
		ok(t, j.Started(ctx, r.ID, nodeB, 1, "in-2"))
		ok(t, first.Close()) // the controller dies here, with node b in flight

		j = journal.New(storetest.Open(t, cfg), clock())
		runs := must[[]journal.Run](t)(j.Unfinished(ctx, site))
		if len(runs) != 1 {
			t.Fatalf("Unfinished = %+v; want the one run", runs)
		}
		got := runs[0]
		if got.ID != r.ID || got.PlanDigest != "sha256:plan" || !got.Started.Equal(r.Started) || !got.Finished.IsZero() {
			t.Errorf("run = %+v; want %+v", got, r)
		}
		var actions []map[string]string
		if err := json.Unmarshal(got.Actions, &actions); err != nil || fmt.Sprint(actions) != "[map[do:create]]" {
			t.Errorf("actions = %s, %v; want those of Begin", got.Actions, err)
		}
		var steps []string
		for _, s := range got.Steps {
			steps = append(steps, fmt.Sprintf("%s %d %s %q %q", s.Address, s.Attempt, s.State, s.Error, s.Outputs))
		}
		want := []string{
			nodeA + ` 1 failed "the disk is gone" ""`,
			nodeA + ` 2 ok "" "sealed\x00"`,
			nodeB + ` 1 running "" ""`,
		}
		if strings.Join(steps, "\n") != strings.Join(want, "\n") {
			t.Errorf("steps =\n%s\nwant\n%s", strings.Join(steps, "\n"), strings.Join(want, "\n"))
		}
		if f := got.InFlight(); len(f) != 1 || f[0].Address != nodeB || f[0].InputsDigest != "in-2" || !f[0].Finished.IsZero() {
			t.Errorf("InFlight = %+v; want node b alone", f)
		}
		if len(got.Notes) != 1 || got.Notes[0].Value != `{"state":"finished"}` || got.Notes[0].Run != r.ID {
			t.Errorf("notes = %+v; want the later one", got.Notes)
		}
		ok(t, j.Finish(ctx, r.ID, journal.OutcomeSuperseded, "site.hcl was changed"))
		if left := must[[]journal.Run](t)(j.Unfinished(ctx, site)); len(left) != 0 {
			t.Errorf("Unfinished after Finish = %+v; want none", left)
		}
		if shown := must[journal.Run](t)(j.Show(ctx, r.ID)); shown.State != journal.OutcomeSuperseded || shown.Error == "" || shown.Finished.IsZero() || len(shown.InFlight()) != 1 {
			t.Errorf("Show = %+v; want it superseded, with node b still in flight", shown)
		}
	})
}

func TestAnAttemptIsStartedAndEndsOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		j := journal.New(storetest.Open(t, cfg), clock())
		r := must[journal.Run](t)(j.Begin(ctx, journal.Run{Site: site}))
		ok(t, j.Started(ctx, r.ID, nodeA, 1, ""))
		if err := j.Started(ctx, r.ID, nodeA, 1, ""); err == nil || !strings.Contains(err.Error(), nodeA) {
			t.Errorf("Started again = %v; want an error that names %s", err, nodeA)
		}
		ok(t, j.Finished(ctx, r.ID, nodeA, 1, "ok", "", []byte("x")))
		ok(t, j.Finished(ctx, r.ID, nodeA, 1, "ok", "", []byte("y")))
		if err := j.Finished(ctx, r.ID, nodeA, 1, "failed", "late", nil); err == nil {
			t.Error("Finished with another outcome = nil; want an error")
		}
		if s := must[journal.Run](t)(j.Show(ctx, r.ID)).Steps; len(s) != 1 || s[0].State != "ok" || string(s[0].Outputs) != "x" {
			t.Errorf("steps = %+v; want the first end kept", s)
		}
		unknown := uuid.MustParse("019aa5c2-7c00-7000-8000-000000000009")
		for what, err := range map[string]error{
			"Finished before Started": j.Finished(ctx, r.ID, nodeB, 1, "ok", "", nil),
			"Finish":                  j.Finish(ctx, unknown, "ok", ""),
			"Cancel":                  j.Cancel(ctx, unknown),
			"Close":                   j.Close(ctx, unknown, "interrupted", ""),
		} {
			if !errors.Is(err, journal.ErrNotFound) {
				t.Errorf("%s of what is unknown = %v; want ErrNotFound", what, err)
			}
		}
		if err := j.Started(ctx, unknown, nodeA, 1, ""); err == nil {
			t.Error("Started of an unknown run = nil; want an error")
		}
		if _, err := j.Show(ctx, unknown); !errors.Is(err, journal.ErrNotFound) {
			t.Errorf("Show(unknown) = %v; want ErrNotFound", err)
		}
	})
}

func TestConcurrentStartsOfOneAttemptHaveOneWinner(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		journals := []*journal.Journal{journal.New(storetest.Open(t, cfg), clock()), journal.New(storetest.Open(t, cfg), clock())}
		r := must[journal.Run](t)(journals[0].Begin(t.Context(), journal.Run{Site: site}))
		var won atomic.Int32
		var wg sync.WaitGroup
		for n := range 8 {
			wg.Go(func() {
				if journals[n%2].Started(t.Context(), r.ID, nodeA, 1, "") == nil {
					won.Add(1)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d of 8 started the attempt; want 1", won.Load())
		}
	})
}

func TestCancelIsARequest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		j := journal.New(storetest.Open(t, cfg), clock())
		r := must[journal.Run](t)(j.Begin(ctx, journal.Run{Site: site}))
		if must[bool](t)(j.CancelRequested(ctx, r.ID)) {
			t.Error("CancelRequested of a new run = true; want false")
		}
		ok(t, j.Cancel(ctx, r.ID))
		at := must[journal.Run](t)(j.Show(ctx, r.ID)).CancelRequested
		ok(t, j.Cancel(ctx, r.ID))
		got := must[journal.Run](t)(j.Show(ctx, r.ID))
		if !must[bool](t)(j.CancelRequested(ctx, r.ID)) || !got.CancelRequested.Equal(at) || got.State != journal.StateRunning {
			t.Errorf("run after Cancel = %+v; want it running with the first request at %s", got, at)
		}
		ok(t, j.Finish(ctx, r.ID, "cancelled", ""))
		if err := j.Cancel(ctx, r.ID); err == nil || !strings.Contains(err.Error(), "cancelled") {
			t.Errorf("Cancel of a run that ended = %v; want an error that says how it ended", err)
		}
	})
}

func TestRunThatComesToItsEndIsNotClosedAsCutOff(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		j := journal.New(storetest.Open(t, cfg), clock())
		dead, done := must[journal.Run](t)(j.Begin(ctx, journal.Run{Site: site})), must[journal.Run](t)(j.Begin(ctx, journal.Run{Site: site}))
		ok(t, j.Close(ctx, dead.ID, "interrupted", "its process ended"))
		if got := must[journal.Run](t)(j.Show(ctx, dead.ID)); got.State != "interrupted" || got.Error != "its process ended" || got.Finished.IsZero() {
			t.Errorf("a run without process = %+v; want it closed", got)
		}
		ok(t, j.Finish(ctx, done.ID, "ok", ""))
		if err := j.Close(ctx, done.ID, "interrupted", "its process ended"); err == nil || !strings.Contains(err.Error(), `"ok"`) {
			t.Errorf("Close of a run that ended = %v; want an error that says how", err)
		}
		if got := must[journal.Run](t)(j.Show(ctx, done.ID)); got.State != "ok" || got.Error != "" {
			t.Errorf("it = %+v; want it as it ended", got)
		}
	})
}

func TestListAndLatestNote(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		j := journal.New(s, clock())
		var ids []uuid.UUID
		for i := range 4 {
			r := must[journal.Run](t)(j.Begin(ctx, journal.Run{Site: site}))
			ids = append(ids, r.ID)
			ok(t, j.Note(ctx, r.ID, nodeA, "image.write", fmt.Sprint(i)))
			if i != 2 {
				ok(t, j.Finish(ctx, r.ID, "ok", ""))
			}
		}
		other := must[journal.Run](t)(j.Begin(ctx, journal.Run{Site: "elsewhere"}))
		ok(t, j.Note(ctx, other.ID, nodeA, "image.write", "elsewhere"))
		for limit, want := range map[int]int{0: 4, 2: 2} {
			got := must[[]journal.Run](t)(j.List(ctx, site, limit))
			if len(got) != want || got[0].ID != ids[3] {
				t.Errorf("List(%d) = %+v; want %d runs, the newest first", limit, got, want)
			}
		}
		if n := must[journal.Note](t)(j.LatestNote(ctx, site, nodeA, "image.write")); n.Value != "3" || n.Run != ids[3] {
			t.Errorf("LatestNote = %+v; want that of the newest run of the site", n)
		}
		if _, err := j.LatestNote(ctx, site, nodeB, "image.write"); !errors.Is(err, journal.ErrNotFound) {
			t.Errorf("LatestNote(none) = %v; want ErrNotFound", err)
		}
		// Retention leaves the newest finished run, and the unfinished one
		// however old.
		cfg.RunLimit = 1
		p := must[store.Pruned](t)(storetest.Open(t, cfg).Prune(ctx))
		left := must[[]journal.Run](t)(j.List(ctx, site, 0))
		if p.Runs != 2 || len(left) != 2 || left[0].ID != ids[3] || left[1].ID != ids[2] {
			t.Errorf("after Prune (%+v): %+v; want the newest and the unfinished run", p, left)
		}
	})
}

func TestPagesOfRunsBeginWithTheNewest(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		j := journal.New(storetest.Open(t, cfg), clock())
		var want []uuid.UUID
		for i := range 5 {
			name := site
			if i == 2 {
				name = "elsewhere"
			}
			r := must[journal.Run](t)(j.Begin(ctx, journal.Run{Site: name, PlanDigest: "sha256:plan"}))
			ok(t, j.Started(ctx, r.ID, nodeA, 1, "in"))
			if i != 2 {
				want = append([]uuid.UUID{r.ID}, want...)
			}
		}
		var got []uuid.UUID
		for before := uuid.Nil; ; {
			page := must[[]journal.Run](t)(j.Page(ctx, site, before, 3))
			if len(page) == 0 {
				break
			}
			for _, r := range page {
				got, before = append(got, r.ID), r.ID
				if len(r.Steps) > 0 {
					t.Errorf("run %s comes with %d steps; want none", r.ID, len(r.Steps))
				}
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("pages of runs = %v; want %v", got, want)
		}
	})
}
