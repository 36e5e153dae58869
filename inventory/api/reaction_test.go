package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// react queues what a class starts for a machine.
func (s *shop) react(m inventory.Machine, class, digest string) inventory.Reaction {
	s.Helper()
	queued, err := s.catalog.QueueReaction(s.Context(), inventory.Reaction{Site: m.Site, Machine: m.ID, Class: class, Digest: digest, State: inventory.ReactionQueued})
	if err != nil || !queued {
		s.Fatalf("QueueReaction = %t, %v; want it queued", queued, err)
	}
	list, err := s.catalog.ReactionPage(s.Context(), store.ReactionFilter{Machine: m.ID, Class: class}, 0, 1)
	if err != nil || len(list) != 1 {
		s.Fatalf("ReactionPage = %+v, %v; want the one", list, err)
	}
	return list[0]
}

func TestReactionsAreListedFilteredAndPaged(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := openOn(t, cfg)
		a, b := s.machine(1), s.machine(2)
		for i := range 3 {
			s.react(a, "node", fmt.Sprintf("sha256:%d", i))
		}
		till := s.react(b, "till", "sha256:1")
		if _, err := s.catalog.FinishReaction(t.Context(), till.ID, inventory.ReactionRefused, "its disk carries ext4"); err != nil {
			t.Fatal(err)
		}
		ids := func(query string) []int64 {
			t.Helper()
			var out []int64
			for cursor := ""; ; {
				page := read[resource.Page[inventory.Reaction]](t, s.get("/v1/reactions?limit=2&"+query+"&cursor="+cursor))
				for _, r := range page.Items {
					out = append(out, r.ID)
				}
				if cursor = page.Next; cursor == "" {
					return out
				}
			}
		}
		for query, want := range map[string][]int64{
			"": {4, 3, 2, 1}, "class=till": {4}, "state=queued": {3, 2, 1}, "machine=" + mac(2).String(): {4}, "machine=" + mac(1).String() + "&class=till": nil,
			"site=store-0421": {4, 3, 2, 1}, "site=another": nil, "state=refused&class=node": nil,
		} {
			if got := ids(query); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("reactions?%s = %d; want %d", query, got, want)
			}
		}
		page := read[resource.Page[map[string]any]](t, s.get("/v1/reactions?fields=id,state&state=refused"))
		if len(page.Items) != 1 || len(page.Items[0]) != 2 || page.Items[0]["state"] != "refused" {
			t.Errorf("with fields=id,state: %v; want these alone", page.Items)
		}
		path := "/v1/reactions/" + strconv.FormatInt(till.ID, 10)
		one := s.get(path)
		if got := read[inventory.Reaction](t, one); got.Machine != b.ID || got.Reason != "its disk carries ext4" || got.FinishedAt.IsZero() {
			t.Errorf("the reaction = %+v; want why it was refused, and when", got)
		}
		if r := s.do(call{path: path, header: map[string]string{"If-None-Match": one.header.Get("ETag")}}); r.status != http.StatusNotModified {
			t.Errorf("with its ETag the reaction is answered with %d; want 304", r.status)
		}
	})
}

func TestQueriesForReactionsThatAreNone(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := openOn(t, cfg)
		m := s.machine(1)
		for i := range 3 {
			s.react(m, "node", fmt.Sprintf("sha256:%d", i))
		}
		next := read[resource.Page[inventory.Reaction]](t, s.get("/v1/reactions?limit=1")).Next
		leases := read[resource.Page[inventory.Event]](t, s.get("/v1/events?limit=1&kind=machine.reaction")).Next
		for name, c := range map[string]struct{ path, problem string }{
			"a cursor with another class":   {"/v1/reactions?class=node&cursor=" + next, "invalid-cursor"},
			"a cursor of events":            {"/v1/reactions?cursor=" + leases, "invalid-cursor"},
			"a cursor for events":           {"/v1/events?cursor=" + next, "invalid-cursor"},
			"an invented cursor":            {"/v1/reactions?cursor=AAAA", "invalid-cursor"},
			"a cursor of 100 kB":            {"/v1/reactions?cursor=" + strings.Repeat("A", 100_000), "too-long"},
			"a state that is none":          {"/v1/reactions?state=running", "invalid-parameter"},
			"a field that is none":          {"/v1/reactions?fields=id,clas", "invalid-parameter"},
			"a parameter that is none":      {"/v1/reactions?classes=node", "unknown-parameter"},
			"a parameter twice":             {"/v1/reactions?class=a&class=b", "invalid-parameter"},
			"a huge page":                   {"/v1/reactions?limit=100000", "invalid-parameter"},
			"a machine that is none":        {"/v1/reactions?machine=nobody", "not-found"},
			"a class that is no UTF-8":      {"/v1/reactions?class=%ff", "invalid-parameter"},
			"a class with a NUL":            {"/v1/reactions?class=a%00b", "invalid-parameter"},
			"a machine that is no UTF-8":    {"/v1/machines/%ff%fe", "not-found"},
			"a machine with a NUL":          {"/v1/machines/a%00/facts", "not-found"},
			"an id that is none":            {"/v1/reactions/first", "not-found"},
			"an id beyond all":              {"/v1/reactions/99999999999999999999", "not-found"},
			"the id of no reaction":         {"/v1/reactions/4000", "not-found"},
			"an id that is no UTF-8":        {"/v1/reactions/%ff", "not-found"},
			"a source that is no UTF-8":     {"/v1/machines/" + m.ID.String() + "/facts/%ff", "not-found"},
			"an injection in a class":       {"/v1/reactions?fields=x&class=" + url.QueryEscape("' OR 1=1 --"), "invalid-parameter"},
			"an event's machine with a NUL": {"/v1/events?machine=%00", "invalid-parameter"},
		} {
			t.Run(name, func(t *testing.T) { refused(t, s.get(c.path), c.problem) })
		}
		if got := read[resource.Page[inventory.Reaction]](t, s.get("/v1/reactions?class="+url.QueryEscape("' OR 1=1 --"))); len(got.Items) != 0 {
			t.Errorf("an injection as a class finds %+v; want nothing", got.Items)
		}
	})
}

// TestReactionsAreWatchedOverACut leaves a stream while a reaction moves, and comes
// back.
func TestReactionsAreWatchedOverACut(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	said := func(msg message) string {
		var e inventory.Event
		if err := json.Unmarshal([]byte(msg.data), &e); err != nil {
			return err.Error()
		}
		return e.Attrs["reaction"] + " " + e.Attrs["class"] + " " + e.Attrs["state"] + " " + e.Attrs["reason"]
	}
	const path = "/v1/watch/events?kind=machine.reaction"
	f := s.follow(path, 0)
	r := s.react(m, "till", "sha256:1")
	id := strconv.FormatInt(r.ID, 10)
	last := f.expect(said, id+" till queued ")
	f.stop()
	if _, err := s.catalog.HoldReaction(t.Context(), r.ID, "no place is free"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.catalog.StartReaction(t.Context(), r.ID, m.Address); err != nil {
		t.Fatal(err)
	}
	again := s.follow(path, last)
	again.expect(said, id+" till queued no place is free", id+" till started ")
	if _, err := s.catalog.FinishReaction(t.Context(), r.ID, inventory.ReactionDone, "it is installed"); err != nil {
		t.Fatal(err)
	}
	again.expect(said, id+" till done it is installed")
	if got := read[inventory.Reaction](t, s.get("/v1/reactions/"+id)); got.State != inventory.ReactionDone {
		t.Errorf("the reaction that the events name = %+v; want it done", got)
	}
}
