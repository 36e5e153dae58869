package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/client"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Run(m)) }

// none is a journal without runs.
type none struct{}

func (none) Runs(context.Context, string, uuid.UUID, int) ([]resource.Run, error) { return nil, nil }

func (none) Run(context.Context, uuid.UUID) (resource.Run, []resource.Step, error) {
	return resource.Run{}, nil, fs.ErrNotExist
}

// serve is a real server over a real catalog; wrap may stand before it.
func serve(t *testing.T, wrap func(http.Handler) http.Handler) (*store.Store, *client.Client) {
	t.Helper()
	catalog := storetest.Open(t, storetest.SQLite(t))
	s, err := api.New(api.Config{Catalog: catalog, Runs: none{}, Anonymous: resource.RoleReader, WatchInterval: 5 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	handler := s.Handler()
	if wrap != nil {
		handler = wrap(handler)
	}
	server := httptest.NewServer(handler)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		server.CloseClientConnections()
		server.Close()
	})
	c, err := client.New(client.Config{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	return catalog, c
}

func add(t *testing.T, s *store.Store, n int) inventory.Machine {
	t.Helper()
	m, err := s.Declare(t.Context(), "shop", fmt.Sprintf("machine.m%d", n), inventory.MAC{0x52, 0x54, 0, 0, 0, byte(n)})
	if err == nil {
		_, _, err = s.PutFacts(t.Context(), m.ID, inventory.SourceAgent, inventory.Facts{Memory: &inventory.Memory{Bytes: int64(n) << 30}}, time.Time{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestListsAreReadOverTheirPages(t *testing.T) {
	s, c := serve(t, nil)
	for n := range 7 {
		add(t, s, n+1)
	}
	var got []string
	for m, err := range c.Machines(t.Context(), client.MachineQuery{Filter: "facts.memory.bytes > GiB(2)", Sort: "-facts.memory.bytes", Facts: true, Limit: 2}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s=%d", m.Address, m.Facts.Memory.Bytes>>30))
	}
	if want := "machine.m7=7 machine.m6=6 machine.m5=5 machine.m4=4 machine.m3=3"; strings.Join(got, " ") != want {
		t.Errorf("machines = %s; want %s", strings.Join(got, " "), want)
	}
	events, err := client.Collect(c.Events(t.Context(), client.EventQuery{Kinds: []inventory.EventKind{inventory.EventMachineChanged}}))
	if err != nil || len(events) != 14 {
		t.Errorf("events = %d, %v; want the 14 changes", len(events), err)
	}
	counts, err := c.CountMachines(t.Context())
	if err != nil || counts.Machines != 7 || counts.States[inventory.StateDeclared] != 7 || len(counts.States) != 1 || len(counts.Drift) != 0 {
		t.Errorf("counts = %+v, %v; want 7 declared machines", counts, err)
	}
	for _, list := range []func() error{
		func() error { _, err := client.Collect(c.Leases(t.Context(), "network.edge")); return err },
		func() error { _, err := client.Collect(c.Images(t.Context())); return err },
		func() error { _, err := client.Collect(c.Runs(t.Context(), "shop")); return err },
		func() error { _, err := client.Collect(c.History(t.Context(), "machine.m1", "agent")); return err },
		func() error { _, err := c.Ansible(t.Context(), client.MachineQuery{Site: "shop"}, ""); return err },
		func() error { _, err := c.Facts(t.Context(), "machine.m1"); return err },
	} {
		if err := list(); err != nil {
			t.Error(err)
		}
	}
}

func TestProblemsComeBackAsTheyAre(t *testing.T) {
	_, c := serve(t, nil)
	_, _, err := c.Machine(t.Context(), "../../healthz?x=#")
	p, ok := errors.AsType[*resource.Problem](err)
	if !ok || p.Name() != "not-found" || p.Status != http.StatusNotFound {
		t.Errorf("an unknown machine: %v; want the problem not-found", err)
	}
	_, err = client.Collect(c.Machines(t.Context(), client.MachineQuery{Filter: "facts.x"}))
	if p, ok = errors.AsType[*resource.Problem](err); !ok || len(p.Diagnostics) != 1 || !strings.Contains(err.Error(), "^^^") {
		t.Errorf("a bad filter: %v; want its diagnostics with carets", err)
	}
	if err := c.ForgetMachine(t.Context(), "x", `"00"`); err == nil || !strings.Contains(err.Error(), "token") {
		t.Errorf("forgetting without a token: %v; want that one is needed", err)
	}
}

func TestAddressesThatAreNoServer(t *testing.T) {
	for _, address := range []string{"", "controller", "ftp://controller", "http://", "://"} {
		if _, err := client.New(client.Config{URL: address}); err == nil {
			t.Errorf("New(%q) succeeded; want an error", address)
		}
	}
	if _, err := client.New(client.Config{URL: "http://192.0.2.1:8482", Token: "edge_x"}); err == nil || !strings.Contains(err.Error(), "https") {
		t.Errorf("a token in clear: %v; want it refused", err)
	}
	if _, err := client.New(client.Config{URL: "https://localhost", CA: []byte("no PEM")}); err == nil {
		t.Error("New with a CA that is none succeeded")
	}
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" && r.URL.Path == "/elsewhere" {
			t.Error("the token followed a redirect")
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}))
	defer stranger.Close()
	c, err := client.New(client.Config{URL: stranger.URL, Token: "edge_x"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Machine(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "302") {
		t.Errorf("a redirect: %v; want it shown, not followed", err)
	}
}

// TestWatchGoesOnOverBreaks breaks every connection after a few messages.
func TestWatchGoesOnOverBreaks(t *testing.T) {
	var breaks atomic.Int32
	begin := make(chan struct{}) // closed when the first answer has begun
	begun := sync.OnceFunc(func() { close(begin) })
	s, c := serve(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(&breaking{ResponseWriter: w, left: 3, breaks: &breaks, begun: begun}, r)
		})
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const events = 12
	record := func(n int) {
		s.Record(inventory.Event{Site: "shop", Kind: inventory.EventDHCPAck, Step: fmt.Sprint(n)})
		if err := s.Flush(ctx); err != nil {
			t.Error(err)
		}
	}
	go func() {
		<-begin
		record(0)
	}()
	next := 0
	for change, err := range c.WatchEvents(ctx, client.EventQuery{Kinds: []inventory.EventKind{inventory.EventDHCPAck}}, 0) {
		if err != nil {
			t.Fatalf("after %d events: %v", next, err)
		}
		if want := fmt.Sprint(next); change.Event.Step != want {
			t.Fatalf("event %s came; want %s", change.Event.Step, want)
		}
		if next++; next == events {
			break
		}
		record(next) // one after the other, so that each is a message of its own
	}
	if breaks.Load() == 0 {
		t.Error("no connection was broken")
	}
}

// breaking lets a few writes through and then none.
type breaking struct {
	http.ResponseWriter
	left   int
	breaks *atomic.Int32
	begun  func()
}

func (b *breaking) Write(p []byte) (int, error) {
	if b.left == 0 {
		b.breaks.Add(1)
		return 0, errors.New("the connection broke")
	}
	b.left--
	b.begun()
	return b.ResponseWriter.Write(p)
}

func (b *breaking) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func TestWatchGoesOnWhenItIsCutBeforeItsFirstEvent(t *testing.T) {
	event, err := json.Marshal(inventory.Event{ID: 7, Kind: inventory.EventDHCPAck})
	if err != nil {
		t.Fatal(err)
	}
	var answers atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch answers.Add(1) {
		case 1:
			fmt.Fprint(w, "retry: 2000\n\n")
			if err := http.NewResponseController(w).Flush(); err != nil {
				t.Error(err)
			}
			panic(http.ErrAbortHandler)
		case 2:
			fmt.Fprintf(w, "id: 7\nevent: event\ndata: %s\n\n", event)
		default:
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `{"type":"/v1/problems/forbidden","title":"Forbidden","status":403}`)
		}
	}))
	defer server.Close()
	c, err := client.New(client.Config{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	events, last := 0, error(nil)
	for change, err := range c.WatchEvents(ctx, client.EventQuery{}, 0) {
		if last = err; err == nil && change.Event != nil {
			events++
		}
	}
	if p, ok := errors.AsType[*resource.Problem](last); events != 1 || !ok || p.Status != http.StatusForbidden || answers.Load() != 3 {
		t.Errorf("%d events and %v after %d connections; want the event of the second and the refusal of the third", events, last, answers.Load())
	}
	server.Close()
	for _, err := range c.WatchEvents(ctx, client.EventQuery{}, 0) {
		if err == nil || ctx.Err() != nil {
			t.Errorf("a server that never answered: %v; want its error, and no second try", err)
		}
	}
}

func TestWatchOfMachinesFollowsTheFilter(t *testing.T) {
	s, c := serve(t, nil)
	a := add(t, s, 4)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []string
	for change, err := range c.WatchMachines(ctx, client.MachineQuery{Filter: "facts.memory.bytes >= GiB(4)"}) {
		if err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		switch {
		case change.Machine != nil:
			got = append(got, "machine")
		case change.Synced != nil:
			got = append(got, "synced")
			if _, _, err := s.PutFacts(ctx, a.ID, inventory.SourceAgent, inventory.Facts{Memory: &inventory.Memory{Bytes: 1}}, time.Time{}); err != nil {
				t.Fatal(err)
			}
		case change.Removed != nil:
			got = append(got, "removed")
		}
		if change.Removed != nil {
			break
		}
	}
	if strings.Join(got, " ") != "machine synced removed" {
		t.Errorf("changes = %q; want the machine, synced, and that it left", got)
	}
	for _, err := range c.WatchMachines(ctx, client.MachineQuery{Filter: "nonsense"}) {
		if p, ok := errors.AsType[*resource.Problem](err); !ok || p.Name() != "invalid-filter" {
			t.Errorf("a watch with a bad filter: %v; want the problem, and no second try", err)
		}
	}
}

// FuzzStream holds the reader of streams to bounded work on whatever a server
// sends.
func FuzzStream(f *testing.F) {
	event, err := json.Marshal(inventory.Event{ID: 7, Kind: inventory.EventDHCPAck})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("id: 7\nevent: event\ndata: " + string(event) + "\n\n")
	f.Add(": still here\n\nid: 9\n\n")
	f.Add("id: x\n\n")
	f.Add("event: machine\ndata: {\"id\":\ndata: 1}\n\n")
	f.Add("event: removed\r\ndata: {}\r\n\r\n")
	f.Add("data\n\nevent\n\n\n\n")
	f.Fuzz(func(t *testing.T, stream string) {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Last-Event-ID") != "" {
				http.Error(w, "", http.StatusTeapot)
				return
			}
			fmt.Fprint(w, stream)
		}))
		defer server.Close()
		c, err := client.New(client.Config{URL: server.URL})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		changes := 0
		for change, err := range c.WatchEvents(ctx, client.EventQuery{}, 0) {
			if err != nil {
				break
			}
			if change == (client.Change{}) {
				t.Errorf("an empty change came from %q", stream)
			}
			if changes++; changes > len(stream) {
				break
			}
		}
	})
}
