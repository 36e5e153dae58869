package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// Powerer changes the power of machines. Bringing a machine to the state that it
// is in must be no error, and ctx must bound the call.
type Powerer interface {
	// Working is the run that works on a machine now, or has yet to; nil: none
	// does. The run's ID may be Nil while it plans and holds the machine.
	Working(ctx context.Context, m inventory.Machine) (*resource.Run, error)
	// SetPower carries one of PowerActions out and returns the state that the
	// machine is in after it, in a word. The error must hold no password.
	SetPower(ctx context.Context, m inventory.Machine, action string) (state string, err error)
}

// PowerActions are what can be done to a machine's power.
var PowerActions = []string{"on", "off", "soft", "cycle", "reset"}

// operationTimeout bounds an operation: a BMC that hangs must not hold it for
// ever.
const operationTimeout = 5 * time.Minute

// operations are the operations that this server carries out.
type operations struct {
	// ready is closed when Run lets operations begin; who asks earlier waits.
	ready   chan struct{}
	ctx     context.Context // of Run
	mu      sync.Mutex
	stopped bool // nothing is begun any more
	running sync.WaitGroup
	// held are the machines that something is being done to.
	held map[uuid.UUID]bool
}

func (s *Server) actionRoutes() []route {
	paramOperation := param{name: "operation", in: "path", summary: "the id of an operation", example: "01968f3c-1111-7000-8000-000000000002"}
	return []route{
		{
			method: http.MethodPost, path: "/v1/machines/{machine}/power", id: "setPower", tag: "actions", need: resource.RoleOperator,
			summary: "Change a machine's power through its BMC",
			detail:  "Answers at once with an operation; follow it at the path in Location. One thing is done to a machine at a time. Everything but \"on\" is refused while a run works on the machine, unless it is forced.",
			params:  []param{paramMachine}, body: resource.PowerRequest{}, reply: resource.Operation{}, status: http.StatusAccepted, idempotent: true,
			problems: []string{"not-found", "ambiguous", "conflict", "machine-busy", "invalid-body", "key-reused", "precondition-required", "unsupported-media-type", "too-large"},
			serve:    s.setPower,
		},
		{
			method: http.MethodGet, path: "/v1/operations", id: "listOperations", tag: "actions", need: resource.RoleReader,
			summary: "List operations, the newest first", params: []param{{name: "machine", summary: "only this machine's; named as in a path"}, paramLimit, paramCursor},
			reply: resource.Page[resource.Operation]{}, problems: []string{"not-found", "ambiguous", "invalid-cursor"}, serve: s.listOperations,
		},
		{
			method: http.MethodGet, path: "/v1/operations/{operation}", id: "getOperation", tag: "actions", need: resource.RoleReader,
			summary: "Show how an operation stands", params: []param{paramOperation}, reply: resource.Operation{}, etag: true,
			problems: []string{"not-found"}, serve: s.getOperation,
		},
	}
}

func (s *Server) setPower(x *exchange) error {
	key, err := x.idempotencyKey()
	if err != nil {
		return err
	}
	var want resource.PowerRequest
	if err := x.read(&want); err != nil {
		return err
	}
	if !slices.Contains(PowerActions, want.Action) {
		return problem("invalid-body", "action: %q is none of %s.", clip(want.Action), strings.Join(PowerActions, ", "))
	}
	m, err := x.machine()
	if err != nil {
		return err
	}
	x.target = want.Subject(m.ID.String())
	if s.cfg.Power == nil {
		return problem("conflict", "This controller powers no machines.")
	}
	// A repeated request gets its operation, whatever began since.
	if _, err := s.cfg.Catalog.OperationByKey(x.ctx(), x.who.id, key); err != nil {
		if err := s.undisturbed(x.ctx(), m, want); err != nil {
			return err
		}
	}
	return s.begin(x, key, "power", m, want, func(ctx context.Context) (string, error) {
		if err := s.undisturbed(ctx, m, want); err != nil {
			return "", err
		}
		state, err := s.cfg.Power.SetPower(ctx, m, want.Action)
		return "The power is " + state + ".", err
	})
}

// undisturbed refuses what would cut a run off in its work on the machine.
func (s *Server) undisturbed(ctx context.Context, m inventory.Machine, want resource.PowerRequest) error {
	if want.Force || want.Action == "on" {
		return nil
	}
	run, err := s.cfg.Power.Working(ctx, m)
	if err != nil || run == nil {
		return err
	}
	p := problem("machine-busy", "A run (%s) holds machine %s and has begun nothing yet. Wait for it, or send \"force\": true.", run.Command, m.ID)
	if run.ID != uuid.Nil {
		p = problem("machine-busy", "Run %s (%s) works on machine %s, or has yet to. Wait for it, cancel it with POST /v1/runs/%s/actions/cancel, or send \"force\": true.", run.ID, run.Command, m.ID, run.ID)
	}
	p.Run = run.ID
	return p
}

// idempotencyKey reads the header of that name
// (draft-ietf-httpapi-idempotency-key-header).
func (x *exchange) idempotencyKey() (string, error) {
	const name, longest = "Idempotency-Key", 128
	key := x.Request.Header.Get(name)
	if key == "" {
		return "", problem("precondition-required", "Send an Idempotency-Key that is new for each thing to be done, such as a random UUID.").at(name)
	}
	printable := !strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' })
	if len(key) > longest || !printable {
		return "", problem("invalid-parameter", "The Idempotency-Key must be 1 to %d printable ASCII characters.", longest).at(name)
	}
	return key, nil
}

// begin starts an operation, unless the same request has started it before, and
// answers with it.
func (s *Server) begin(x *exchange, key, kind string, m inventory.Machine, request any, do func(context.Context) (string, error)) error {
	asked, err := json.Marshal(request)
	if err != nil {
		return err
	}
	digest := sha256.Sum256([]byte(x.route.id + "\x00" + m.ID.String() + "\x00" + string(asked)))
	select {
	case <-s.operations.ready:
	case <-x.ctx().Done():
		return problem("busy", "The server is starting.")
	}
	s.operations.mu.Lock()
	defer s.operations.mu.Unlock()
	if s.operations.stopped || s.operations.ctx.Err() != nil {
		return problem("busy", "The server is stopping.")
	}
	if m.ID != uuid.Nil && s.operations.held[m.ID] {
		// A repeated request is told of its operation all the same.
		known, err := s.cfg.Catalog.OperationByKey(x.ctx(), x.who.id, key)
		if err == nil && known.Digest == hex.EncodeToString(digest[:]) {
			return x.accepted(known)
		}
		return problem("conflict", "Another operation on machine %s has not ended; GET /v1/operations?machine=%s lists it.", m.ID, m.ID)
	}
	o, started, err := s.cfg.Catalog.BeginOperation(x.ctx(), store.Operation{
		Actor: x.who.id, Key: key, Digest: hex.EncodeToString(digest[:]), Kind: kind, Machine: m.ID, Site: m.Site,
	})
	if errors.Is(err, store.ErrKeyReused) {
		return problem("key-reused", "The Idempotency-Key was used for another request before. Use a new one.").at("Idempotency-Key")
	}
	if err != nil {
		return err
	}
	if started {
		s.operations.held[m.ID] = true
		ctx := s.operations.ctx
		s.operations.running.Go(func() { s.carryOut(ctx, o, do) })
	}
	return x.accepted(o)
}

func (x *exchange) accepted(o store.Operation) error {
	x.Header().Set("Location", "/v1/operations/"+o.ID.String())
	return x.send(operationOf(o))
}

// carryOut does an operation and records how it ended.
func (s *Server) carryOut(ctx context.Context, o store.Operation, do func(context.Context) (string, error)) {
	bounded, cancel := context.WithTimeout(ctx, timeoutOf(o.Kind))
	defer cancel()
	result, err := do(bounded)
	state, failure := resource.OperationSucceeded, ""
	switch {
	case err != nil && ctx.Err() != nil:
		state, result, failure = resource.OperationInterrupted, "", "the controller stopped before it was done; whether it was done is not known"
	case err != nil:
		state, result, failure = resource.OperationFailed, "", err.Error()
	}
	// Who reads that it has ended may begin the next one at once.
	s.release(o.Machine)
	record, done := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.RequestTimeout)
	defer done()
	if err := s.cfg.Catalog.FinishOperation(record, o.ID, state, result, failure); err != nil {
		s.cfg.Log.Error("recording how an operation ended", "operation", o.ID, "state", state, "error", err)
	}
}

// release lets the next operation on a machine begin.
func (s *Server) release(machine uuid.UUID) {
	s.operations.mu.Lock()
	defer s.operations.mu.Unlock()
	delete(s.operations.held, machine)
}

// operate lets operations begin until ctx ends, and waits for those that run.
// What a server before this one left is closed first: nobody works on it.
func (s *Server) operate(ctx context.Context) {
	if s.cfg.Site != "" {
		n, err := s.cfg.Catalog.InterruptOperations(ctx, s.cfg.Site, resource.OperationInterrupted, "the controller ended before it did; whether it was done is not known")
		if err != nil || n > 0 {
			s.cfg.Log.Warn("operations of a controller that ended", "closed", n, "error", err)
		}
	}
	s.operations.ctx, s.operations.held = ctx, map[uuid.UUID]bool{}
	close(s.operations.ready)
	<-ctx.Done()
	s.operations.mu.Lock() // one that is being begun now is waited for too
	s.operations.stopped = true
	s.operations.mu.Unlock()
	s.operations.running.Wait()
}

func (s *Server) listOperations(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	at, err := x.cursor()
	if err != nil {
		return err
	}
	var before, machine uuid.UUID
	if at != "" {
		if before, err = uuid.Parse(at); err != nil {
			return problem("invalid-cursor", "This is no cursor of this server.").at("cursor")
		}
	}
	if name, ok := x.query["machine"]; ok {
		m, err := s.find(x.ctx(), name)
		if err != nil {
			return err
		}
		machine = m.ID
	}
	rows, err := s.cfg.Catalog.Operations(x.ctx(), machine, before, limit+1)
	if err != nil {
		return err
	}
	kept, next, err := pageOf(x, rows, limit, func(o store.Operation) string { return o.ID.String() })
	if err != nil {
		return err
	}
	page := resource.Page[resource.Operation]{Items: make([]resource.Operation, len(kept)), Next: next}
	for i, o := range kept {
		page.Items[i] = operationOf(o)
	}
	return x.send(page)
}

func (s *Server) getOperation(x *exchange) error {
	id, err := uuid.Parse(x.PathValue("operation"))
	if err != nil {
		return problem("not-found", "%q is no id of an operation.", clip(x.PathValue("operation"))).at("operation")
	}
	o, err := s.cfg.Catalog.Operation(x.ctx(), id)
	if err != nil {
		return err
	}
	return x.send(operationOf(o))
}

func operationOf(o store.Operation) resource.Operation {
	return resource.Operation{
		ID: o.ID, Kind: o.Kind, Machine: o.Machine, Site: o.Site, Actor: o.Actor, State: o.State,
		Result: o.Result, Error: o.Error, CreatedAt: o.CreatedAt, FinishedAt: timeOf(o.FinishedAt),
	}
}
