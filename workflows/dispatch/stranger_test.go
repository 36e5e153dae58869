package dispatch_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/keyring/keyringtest"
)

func secret(c byte) string { return strings.Repeat(string(c), 43) }

func reason(err error) agent.RefusalReason {
	var refused *agent.RefusedError
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return agent.RefusalReason(fmt.Sprintf("no refusal: %v", err))
}

func TestTokenAdmitsOneAgentOfOneBoot(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	token := r.mint("boot-1")
	good := agent.SessionRequest{Token: token, Session: secret('a'), Boot: "boot-1", MAC: mac}
	other := inventory.MAC{0x52, 0x54, 0, 4, 0x21, 2}
	for name, change := range map[string]func(*agent.SessionRequest){
		"no token":               func(q *agent.SessionRequest) { q.Token = "" },
		"invented secret":        func(q *agent.SessionRequest) { q.Token = r.machine.String() + "." + secret('x') },
		"invented machine":       func(q *agent.SessionRequest) { q.Token = uuid.NewString() + "." + secret('x') },
		"another boot":           func(q *agent.SessionRequest) { q.Boot = "boot-2" },
		"another MAC":            func(q *agent.SessionRequest) { q.MAC = other },
		"token of other machine": func(q *agent.SessionRequest) { q.Token = uuid.NewString() + token[36:] },
	} {
		request := good
		change(&request)
		if _, err := r.client().Open(ctx, request); reason(err) != agent.RefusalToken {
			t.Errorf("Open with %s = %v; want it refused for its token", name, err)
		}
	}
	c := r.client()
	if reply, err := c.Open(ctx, good); err != nil || reply.Machine != r.machine {
		t.Fatalf("Open = %+v, %v; want machine %s", reply, err, r.machine)
	}
	// The reply may have been lost: the same agent asks again, a thief does
	// not know its secret.
	if _, err := r.client().Open(ctx, good); err != nil {
		t.Errorf("Open again with the same secret = %v; want the session", err)
	}
	thief := good
	thief.Session = secret('b')
	if _, err := r.client().Open(ctx, thief); reason(err) != agent.RefusalToken {
		t.Errorf("Open with a used token = %v; want it refused", err)
	}
	// All of that holds after a restart as well.
	r.kill()
	r.start()
	if _, err := r.client().Open(ctx, thief); reason(err) != agent.RefusalToken {
		t.Errorf("Open with a used token after a restart = %v; want it refused", err)
	}
	err := c.Facts(ctx, inventory.Facts{SchemaVersion: 1})
	if refused := new(agent.RefusedError); err != nil && !errors.As(err, &refused) {
		// Only now it may find that its connection ended with the controller before;
		// an agent asks again.
		err = c.Facts(ctx, inventory.Facts{SchemaVersion: 1})
	}
	if err != nil {
		t.Errorf("Facts in a session from before the restart = %v; want them taken", err)
	}
	if r.events.count(inventory.EventAgentRefused) == 0 {
		t.Error("no refusal was recorded as an event")
	}
}

func TestStrangerGetsNoTaskAndChangesNoFacts(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	token := r.mint("boot-1")
	owner := r.client()
	if _, err := owner.Open(ctx, agent.SessionRequest{Token: token, Session: secret('a'), Boot: "boot-1", MAC: mac}); err != nil {
		t.Fatal(err)
	}
	go func() {
		// It waits until the test ends.
		_, _ = r.server.Do(ctx, r.machine, writeTask(1), nil)
	}()
	task := writeTask(1)
	for name, bearer := range map[string]string{
		"nothing": "", "an invented session": agent.Bearer(r.machine, secret('z')),
		"the token": token, "another machine": agent.Bearer(uuid.New(), secret('a')),
	} {
		for path, body := range map[string]any{
			agent.PathTask: agent.PollRequest{}, agent.PathFacts: inventory.Facts{SchemaVersion: 1},
			agent.PathNeighbors: agent.NeighborsReport{},
			agent.PathResult:    agent.Result{Task: task.Ref(), Boot: "boot-1", Outcome: agent.OutcomeOK},
			agent.PathProgress:  agent.Progress{Task: task.Ref(), Phase: agent.PhaseBegin},
			agent.PathLog:       agent.LogRequest{},
		} {
			status, text := r.raw(path, bearer, body)
			if status != http.StatusUnauthorized || strings.Contains(text, "sha256") {
				t.Errorf("POST %s with %s = %d %s; want 401 and nothing told", path, name, status, text)
			}
		}
	}
	select {
	case f := <-r.sunk:
		t.Errorf("a stranger's facts reached the catalog: %+v", f)
	default:
	}
	// The task may not be there yet: Do runs beside this. While facts are missing
	// a poll says so at once, with a task or without.
	for {
		reply, err := owner.Poll(ctx, nil, time.Second)
		if err != nil {
			t.Fatalf("Poll of the owner = %v; want the task", err)
		}
		if reply.Task != nil {
			break
		}
	}
}

// raw sends a request to the handler itself.
func (r *rig) raw(path, bearer string, body any) (int, string) {
	r.t.Helper()
	text, ok := body.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(body); err != nil {
			r.t.Fatal(err)
		}
	}
	req := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(text))
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	w := httptest.NewRecorder()
	r.server.Handler().ServeHTTP(w, req)
	return w.Code, w.Body.String()
}

func TestOlderBootIsToldThatItIsOver(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	first, second := r.client(), r.client()
	if _, err := first.Open(ctx, agent.SessionRequest{Token: r.mint("boot-1"), Session: secret('a'), Boot: "boot-1", MAC: mac}); err != nil {
		t.Fatal(err)
	}
	unused := r.mint("boot-2")
	if _, err := second.Open(ctx, agent.SessionRequest{Token: r.mint("boot-3"), Session: secret('b'), Boot: "boot-3", MAC: mac}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Poll(ctx, nil, 0); reason(err) != agent.RefusalSuperseded {
		t.Errorf("Poll of the older boot = %v; want superseded", err)
	}
	if _, err := r.client().Open(ctx, agent.SessionRequest{Token: unused, Session: secret('c'), Boot: "boot-2", MAC: mac}); reason(err) != agent.RefusalToken {
		t.Errorf("Open with a token older than the session = %v; want it refused", err)
	}
	if session, err := r.server.WaitNewSession(ctx, r.machine, "boot-1"); err != nil || session.Boot != "boot-3" {
		t.Errorf("WaitNewSession = %+v, %v; want boot-3", session, err)
	}
}

type fixedLease struct {
	address netip.Addr
	known   bool
}

func (f fixedLease) LeasedAddress(context.Context, inventory.MAC) (netip.Addr, bool, error) {
	return f.address, f.known, nil
}

func TestSessionIsGivenOnlyToTheLeasedAddress(t *testing.T) {
	for _, c := range []struct {
		lease fixedLease
		want  bool
	}{
		{fixedLease{netip.MustParseAddr("127.0.0.1"), true}, true},
		{fixedLease{netip.MustParseAddr("127.0.0.2"), true}, false},
		{fixedLease{netip.Addr{}, true}, false}, // no lease at all
		{fixedLease{netip.Addr{}, false}, true}, // somebody else's DHCP
	} {
		r := newRig(t)
		r.kill()
		r.leases = c.lease
		r.start()
		_, err := r.client().Open(within(t), agent.SessionRequest{Token: r.mint("boot-1"), Session: secret('a'), Boot: "boot-1", MAC: mac})
		if (err == nil) != c.want {
			t.Errorf("Open from 127.0.0.1 under lease %+v = %v; want admitted = %v", c.lease, err, c.want)
		}
	}
}

func TestClientRefusesAnotherKey(t *testing.T) {
	r := newRig(t)
	c, err := agent.NewClient(agent.ClientConfig{URL: "https://" + r.address, Pin: strings.Repeat("ab", 32)})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Open(within(t), agent.SessionRequest{Token: r.mint("boot-1"), Session: secret('a'), Boot: "boot-1", MAC: mac})
	var pin *agent.PinError
	if !errors.As(err, &pin) || pin.Got != r.authority.Pin() {
		t.Errorf("Open at a server with another key = %v; want a PinError that names the key", err)
	}
}

func TestResultIsAcceptedOnceAndOnlyForAGivenTask(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	c := r.client()
	if _, err := c.Open(ctx, agent.SessionRequest{Token: r.mint("boot-1"), Session: secret('a'), Boot: "boot-1", MAC: mac}); err != nil {
		t.Fatal(err)
	}
	result := agent.Result{Task: writeTask(1).Ref(), Boot: "boot-1", Outcome: agent.OutcomeOK, Write: &agent.WriteResult{Bytes: 1}}
	if err := c.Result(ctx, result); reason(err) != agent.RefusalInvalid {
		t.Errorf("Result of a task that was never given = %v; want it refused", err)
	}
	done := make(chan agent.Result, 1)
	go func() {
		got, err := r.server.Do(ctx, r.machine, writeTask(1), nil)
		if err != nil {
			t.Error(err)
		}
		done <- got
	}()
	reply, err := c.Poll(ctx, nil, time.Second)
	for ; err == nil && reply.Task == nil; reply, err = c.Poll(ctx, nil, time.Second) {
		if err := c.Facts(ctx, inventory.Facts{SchemaVersion: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	wrong := result
	wrong.Boot = "boot-0"
	if err := c.Result(ctx, wrong); reason(err) != agent.RefusalInvalid {
		t.Errorf("Result of another boot = %v; want it refused", err)
	}
	if err := c.Result(ctx, result); err != nil {
		t.Fatal(err)
	}
	second := result
	second.Write = &agent.WriteResult{Bytes: 2}
	if err := c.Result(ctx, second); err != nil {
		t.Errorf("the same result again = %v; want it acknowledged", err)
	}
	if got := <-done; got.Write.Bytes != 1 {
		t.Errorf("Do = %+v; want the result that came first", got)
	}
	if got, err := r.server.Do(ctx, r.machine, writeTask(1), nil); err != nil || got.Write.Bytes != 1 {
		t.Errorf("Do again = %+v, %v; want the result that came first", got, err)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	c := r.client()
	if _, err := c.Open(ctx, agent.SessionRequest{Token: r.mint("boot-1"), Session: secret('a'), Boot: "boot-1", MAC: mac}); err != nil {
		t.Fatal(err)
	}
	bearer := agent.Bearer(r.machine, secret('a'))
	for path, limit := range map[string]int{
		agent.PathFacts: agent.MaxFactsBytes, agent.PathNeighbors: agent.MaxNeighborsBytes, agent.PathTask: agent.MaxTaskBytes, agent.PathLog: agent.MaxLogBytes,
		agent.PathProgress: agent.MaxProgressBytes, agent.PathResult: agent.MaxResultBytes,
	} {
		if status, text := r.raw(path, bearer, bytes.Repeat([]byte(" "), limit+1)); status != http.StatusRequestEntityTooLarge {
			t.Errorf("POST %s of %d bytes = %d %s; want 413", path, limit+1, status, text)
		}
		if status, text := r.raw(path, bearer, []byte("{")); status != http.StatusBadRequest {
			t.Errorf("POST %s of broken JSON = %d %s; want 400", path, status, text)
		}
	}
	if status, _ := r.raw(agent.PathFacts, bearer, []byte(`{"schema_version":999}`)); status != http.StatusBadRequest {
		t.Errorf("facts of a newer schema = %d; want 400", status)
	}
	refused := 0
	for range 200 {
		if status, _ := r.raw(agent.PathFacts, bearer, []byte("{")); status == http.StatusTooManyRequests {
			refused++
		}
	}
	if refused == 0 {
		t.Error("200 facts reports at once were all looked at; want most refused")
	}
}

func TestLogLinesReachTheRecorderWithoutControlCharacters(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	c := r.client()
	if _, err := c.Open(ctx, agent.SessionRequest{Token: r.mint("boot-1"), Session: secret('a'), Boot: "boot-1", MAC: mac}); err != nil {
		t.Fatal(err)
	}
	line := agent.LogLine{Level: "INFO", Message: "disk \x1b[31mred\x1b[0m\nsecond", Attrs: map[string]string{"a\x00b": strings.Repeat("x", 5000)}}
	if err := c.Log(ctx, []agent.LogLine{line}); err != nil {
		t.Fatal(err)
	}
	r.events.mu.Lock()
	defer r.events.mu.Unlock()
	for _, e := range r.events.all {
		if e.Kind != inventory.EventAgentLog {
			continue
		}
		if strings.ContainsAny(e.Message, "\x1b\n") || len(e.Attrs["a b"]) > 1100 {
			t.Errorf("log event = %q %q; want it clean and bounded", e.Message, e.Attrs)
		}
		return
	}
	t.Error("no log event was recorded")
}

// FuzzRequests sends arbitrary bodies in an open session: whatever a machine
// says, the controller answers and goes on.
func FuzzRequests(f *testing.F) {
	paths := []string{agent.PathSession, agent.PathFacts, agent.PathTask, agent.PathProgress, agent.PathResult, agent.PathLog, agent.PathNeighbors}
	for i, body := range []string{
		`{"version":1,"token":"x.y","session":"z","mac":"52:54:00:04:21:01"}`,
		`{"schema_version":1,"disks":[{"name":"sda","bytes":-1}]}`, `{"running":{"id":"a","attempt":1},"wait_ms":1}`,
		`{"task":{"id":"a","attempt":1},"phase":"begin"}`, `{"task":{"id":"a","attempt":1},"boot":"b","outcome":"ok"}`,
		`{"lines":[{"level":"INFO","message":"m","attrs":{"k":"v"}}]}`, `{"neighbors":[{"mac":"52:54:00:04:21:01","chassis":"sw","port":"7","vlan":-1}]}`, `[[[[[[`, `nul`, `{"wait_ms":9223372036854775807}`,
	} {
		f.Add(i%len(paths), body)
	}
	values, err := keyringtest.OpenFiles(f.TempDir())
	if err != nil {
		f.Fatal(err)
	}
	machine := uuid.New()
	now := time.Now()
	s, err := dispatch.New(dispatch.Config{Store: values, PollLimit: time.Millisecond, Now: func() time.Time {
		// Time flies, so that no limit of rate hides what is behind it.
		now = now.Add(time.Second)
		return now
	}})
	if err != nil {
		f.Fatal(err)
	}
	token, err := s.MintToken(f.Context(), machine, mac, "b")
	if err != nil {
		f.Fatal(err)
	}
	post := func(path, bearer string, body []byte) int {
		req := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+bearer)
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, req)
		return w.Code
	}
	open, err := json.Marshal(agent.SessionRequest{Version: 1, Token: token, Session: secret('a'), Boot: "b", MAC: mac})
	if err != nil {
		f.Fatal(err)
	}
	if code := post(agent.PathSession, "", open); code != http.StatusOK {
		f.Fatalf("opening a session = %d", code)
	}
	bearer := agent.Bearer(machine, secret('a'))
	f.Fuzz(func(t *testing.T, which int, body string) {
		path := paths[(which%len(paths)+len(paths))%len(paths)]
		if code := post(path, bearer, []byte(body)); code >= 500 && code != http.StatusServiceUnavailable {
			t.Errorf("POST %s %q = %d; want an answer below 500", path, body, code)
		}
		if code := post(agent.PathLog, bearer, []byte(`{"lines":[]}`)); code != http.StatusOK {
			t.Errorf("after POST %s %q the session answers %d; want 200", path, body, code)
		}
	})
}
