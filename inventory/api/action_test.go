package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// switchboard is a Powerer that waits until it is let go.
type switchboard struct {
	mu    sync.Mutex
	calls []string
	let   chan struct{} // each call takes one
	fail  error
	run   *resource.Run // works on each machine
}

func (b *switchboard) Working(context.Context, inventory.Machine) (*resource.Run, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.run, nil
}

func (b *switchboard) SetPower(ctx context.Context, m inventory.Machine, action string) (string, error) {
	b.mu.Lock()
	b.calls = append(b.calls, m.Address+" "+action)
	b.mu.Unlock()
	select {
	case <-b.let:
		return action, b.fail
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (b *switchboard) made() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.calls...)
}

func (s *shop) power(m inventory.Machine, key, action string) reply {
	s.Helper()
	return s.do(call{
		method: http.MethodPost, path: "/v1/machines/" + m.ID.String() + "/power", role: resource.RoleOperator,
		header: map[string]string{"Idempotency-Key": key}, body: resource.PowerRequest{Action: action},
	})
}

func (s *shop) ended(o resource.Operation) resource.Operation {
	s.Helper()
	s.until("the operation has ended", func() bool {
		o = read[resource.Operation](s.T, s.get("/v1/operations/"+o.ID.String()))
		return o.State != resource.OperationRunning
	})
	return o
}

func TestRepeatedRequestPowersAMachineOnce(t *testing.T) {
	board := &switchboard{let: make(chan struct{})}
	s := open(t, func(c *api.Config) { c.Power = board })
	a, b := s.machine(1), s.machine(2)
	first := s.power(a, "k1", "cycle")
	o := read[resource.Operation](t, first)
	if first.status != http.StatusAccepted || first.header.Get("Location") != "/v1/operations/"+o.ID.String() || o.State != resource.OperationRunning || o.Machine != a.ID {
		t.Errorf("power = %d %s; want 202 and a running operation", first.status, first.body)
	}
	if again := read[resource.Operation](t, s.power(a, "k1", "cycle")); again.ID != o.ID {
		t.Errorf("the same request again = %s; want operation %s", again.ID, o.ID)
	}
	refused(t, s.power(a, "k2", "off"), "conflict")
	other := read[resource.Operation](t, s.power(b, "k3", "on"))
	board.let <- struct{}{}
	board.let <- struct{}{}
	for _, want := range []resource.Operation{o, other} {
		if got := s.ended(want); got.State != resource.OperationSucceeded || got.FinishedAt == nil || !strings.Contains(got.Result, "The power is") {
			t.Errorf("operation = %+v; want it succeeded", got)
		}
	}
	if again := read[resource.Operation](t, s.power(a, "k1", "cycle")); again.ID != o.ID || again.State != resource.OperationSucceeded {
		t.Errorf("the same request after its end = %+v; want the operation as it ended", again)
	}
	refused(t, s.power(a, "k1", "off"), "key-reused")
	refused(t, s.power(b, "k1", "cycle"), "key-reused")
	if calls := board.made(); len(calls) != 2 {
		t.Errorf("the BMCs were asked for %q; want one cycle of a and one start of b", calls)
	}
	list := read[resource.Page[resource.Operation]](t, s.get("/v1/operations?machine="+a.ID.String()))
	if len(list.Items) != 1 || list.Items[0].ID != o.ID {
		t.Errorf("operations of a = %+v; want the one", list.Items)
	}
}

func TestFailedOperationSaysWhy(t *testing.T) {
	board := &switchboard{let: make(chan struct{}, 1), fail: errors.New("the BMC at 172.22.1.11 does not answer")}
	s := open(t, func(c *api.Config) { c.Power = board })
	m := s.machine(1)
	board.let <- struct{}{}
	got := s.ended(read[resource.Operation](t, s.power(m, "k", "on")))
	if got.State != resource.OperationFailed || got.Error != "the BMC at 172.22.1.11 does not answer" || got.Result != "" {
		t.Errorf("operation = %+v; want it failed with the BMC's error", got)
	}
}

func TestActionsWantAKeyAndAnActionThatExists(t *testing.T) {
	s := open(t, func(c *api.Config) { c.Power = &switchboard{} })
	m := s.machine(1)
	refused(t, s.power(m, "", "on"), "precondition-required")
	refused(t, s.power(m, strings.Repeat("k", 129), "on"), "invalid-parameter")
	refused(t, s.power(m, "k", "explode"), "invalid-body")
	refused(t, s.do(call{
		method: http.MethodPost, path: "/v1/machines/nobody/power", role: resource.RoleOperator,
		header: map[string]string{"Idempotency-Key": "k"}, body: resource.PowerRequest{Action: "on"},
	}), "not-found")
	without := open(t)
	refused(t, without.power(without.machine(1), "k", "on"), "conflict")
}

func TestOperationsThatAControllerLeavesAreInterrupted(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	board := &switchboard{let: make(chan struct{})}
	cfg := api.Config{Catalog: s.catalog, Runs: &s.journal, Site: m.Site, Power: board}
	server, err := api.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := contextOf(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Run(ctx)
	}()
	post := func(key string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodPost, "http://localhost/v1/machines/"+m.ID.String()+"/power", strings.NewReader(`{"action":"on"}`))
		req.Header.Set("Authorization", "Bearer "+s.bearers[resource.RoleOperator])
		req.Header.Set("Idempotency-Key", key)
		req.Header.Set("Content-Type", "application/json")
		server.Handler().ServeHTTP(w, req)
		return w
	}
	n := 0
	s.until("the server takes actions", func() bool {
		n++
		return post(fmt.Sprint("k", n)).Code == http.StatusAccepted
	})
	cancel()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("Run did not return in %s", patience)
	}
	list := read[resource.Page[resource.Operation]](t, s.get("/v1/operations"))
	if len(list.Items) != 1 || list.Items[0].State != resource.OperationInterrupted {
		t.Errorf("operations = %+v; want the one, interrupted", list.Items)
	}
	if w := post("later"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("an action of a server that stopped = %d; want 503", w.Code)
	}
}

// doorbell is a switchboard that says when it is asked about a machine.
type doorbell struct {
	*switchboard
	rung chan struct{}
}

func (d doorbell) Working(context.Context, inventory.Machine) (*resource.Run, error) {
	d.rung <- struct{}{}
	return nil, nil
}

// TestWhoComesBeforeTheServerRunsIsNotSentAway: a server takes connections before
// all of its parts have begun.
func TestWhoComesBeforeTheServerRunsIsNotSentAway(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	board := doorbell{&switchboard{let: make(chan struct{}, 1)}, make(chan struct{}, 2)}
	board.let <- struct{}{}
	server, err := api.New(api.Config{
		Catalog: s.catalog, Runs: &s.journal, Power: board, Anonymous: resource.RoleReader, WatchInterval: 5 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(server.Handler())
	t.Cleanup(web.Close)
	early := &shop{T: t, catalog: s.catalog, http: web}
	f := early.follow("/v1/watch/events", 0)
	asked := httptest.NewRecorder()
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		req := httptest.NewRequest(http.MethodPost, "http://localhost/v1/machines/"+m.ID.String()+"/power", strings.NewReader(`{"action":"off"}`))
		req.Header.Set("Authorization", "Bearer "+s.bearers[resource.RoleOperator])
		req.Header.Set("Idempotency-Key", "k")
		req.Header.Set("Content-Type", "application/json")
		server.Handler().ServeHTTP(asked, req)
	}()
	<-board.rung // the request has come as far as it gets
	ctx, cancel := contextOf(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		server.Run(ctx)
	}()
	early.record(1, 1)
	f.expect(step, "1")
	<-answered
	if asked.Code != http.StatusAccepted {
		t.Errorf("an action before the server ran = %d %s; want 202", asked.Code, asked.Body)
	}
	early.ended(read[resource.Operation](t, reply{status: asked.Code, header: asked.Header(), body: asked.Body.Bytes()}))
	cancel()
	<-done
}

func TestPowerIsNotTakenFromARunUnlessForced(t *testing.T) {
	board := &switchboard{let: make(chan struct{}, 9), run: &resource.Run{ID: uuid.New(), Command: "apply"}}
	s := open(t, func(c *api.Config) { c.Power = board })
	m := s.machine(1)
	for range cap(board.let) {
		board.let <- struct{}{}
	}
	for i, action := range []string{"off", "soft", "cycle", "reset"} {
		got := s.power(m, fmt.Sprint("k", i), action)
		var p resource.Problem
		if err := json.Unmarshal(got.body, &p); err != nil {
			t.Fatal(err)
		}
		if got.status != http.StatusConflict || p.Name() != "machine-busy" || p.Run != board.run.ID || !strings.Contains(p.Detail, board.run.ID.String()) {
			t.Errorf("%s = %d %s; want 409 machine-busy with the run", action, got.status, got.body)
		}
	}
	if made := board.made(); len(made) != 0 {
		t.Errorf("the BMC was told %q; want nothing", made)
	}
	on := read[resource.Operation](t, s.power(m, "k-on", "on"))
	if got := s.ended(on); got.State != resource.OperationSucceeded {
		t.Errorf("on = %+v; want it done: it cuts nothing off", got)
	}
	force := func() resource.Operation {
		return read[resource.Operation](t, s.do(call{
			method: http.MethodPost, path: "/v1/machines/" + m.ID.String() + "/power", role: resource.RoleOperator,
			header: map[string]string{"Idempotency-Key": "k-force"}, body: resource.PowerRequest{Action: "cycle", Force: true},
		}))
	}
	if got := s.ended(force()); got.State != resource.OperationSucceeded {
		t.Errorf("forced = %+v; want it done", got)
	}
	// A run that begins between the request and the action, and a repeated request.
	board.run = nil
	off := s.ended(read[resource.Operation](t, s.power(m, "k-off", "off")))
	board.mu.Lock()
	board.run = &resource.Run{Command: "apply"}
	board.mu.Unlock()
	if again := read[resource.Operation](t, s.power(m, "k-off", "off")); again.ID != off.ID {
		t.Errorf("the repeated request = %+v; want its operation %s, whatever runs by now", again, off.ID)
	}
	refused(t, s.power(m, "k-late", "off"), "machine-busy")
	records := read[resource.Page[resource.AuditEntry]](t, s.do(call{path: "/v1/audit", role: resource.RoleAdmin}))
	var forced []string
	for _, r := range records.Items {
		if strings.Contains(r.Target, "forced") {
			forced = append(forced, r.Action+" "+r.Target)
		}
	}
	if want := "setPower " + m.ID.String() + " cycle, forced"; len(forced) != 1 || forced[0] != want || records.Items[0].Target != m.ID.String()+" off" {
		t.Errorf("the audit tells of %q among %+v; want %q, and the others with their action", forced, records.Items, want)
	}
	if got, want := strings.Join(board.made(), ", "), m.Address+" on, "+m.Address+" cycle, "+m.Address+" off"; got != want {
		t.Errorf("the BMC was told %q; want %q", got, want)
	}
}
