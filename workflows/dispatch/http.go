package dispatch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

// refusal is an error with the status and reason that the agent is told.
type refusal struct {
	status int
	reason agent.RefusalReason
	detail string
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %s", r.reason, r.detail) }

func refuse(status int, reason agent.RefusalReason, format string, args ...any) error {
	return &refusal{status: status, reason: reason, detail: fmt.Sprintf(format, args...)}
}

// routes builds the handler. Handlers return an error; answer logs it and picks
// the status, once.
func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST "+agent.PathSession, s.answer(s.serveSession))
	for path, rt := range map[string]route{
		agent.PathFacts:     {agent.MaxFactsBytes, 1, 10, s.serveFacts},
		agent.PathNeighbors: {agent.MaxNeighborsBytes, 1, 10, s.serveNeighbors},
		agent.PathTask:      {agent.MaxTaskBytes, 10, 50, s.serveTask},
		agent.PathProgress:  {agent.MaxProgressBytes, 20, 100, s.serveProgress},
		agent.PathResult:    {agent.MaxResultBytes, 5, 20, s.serveResult},
		agent.PathLog:       {agent.MaxLogBytes, 5, 50, s.serveLog},
	} {
		mux.Handle("POST "+path, s.answer(s.authenticated(path, rt)))
	}
	return mux
}

// route is a path that needs a session: how many bytes a body has at most, how
// many requests a machine may make, and what answers.
type route struct {
	maxBytes         int64
	perSecond, burst float64
	serve            func(ctx context.Context, m *machine, session sessionRecord, body []byte) (any, error)
}

func (s *Server) answer(serve func(r *http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply, err := serve(r)
		status := http.StatusOK
		if err != nil {
			var ref *refusal
			if !errors.As(err, &ref) {
				s.log.Error("agent request failed", "path", r.URL.Path, "client", r.RemoteAddr, "error", err)
				// What went wrong inside is not a machine's business.
				ref = &refusal{http.StatusServiceUnavailable, agent.RefusalBusy, "the controller could not handle the request; its log says why"}
			} else {
				s.log.Debug("agent request refused", "path", r.URL.Path, "client", r.RemoteAddr, "error", err)
			}
			status, reply = ref.status, agent.Refusal{Reason: ref.reason, Detail: ref.detail}
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		if reply == nil {
			reply = struct{}{}
		}
		if err := json.NewEncoder(w).Encode(reply); err != nil {
			s.log.Debug("answering an agent", "path", r.URL.Path, "client", r.RemoteAddr, "error", err)
		}
	})
}

// authenticated admits requests of the machine's present session.
func (s *Server) authenticated(path string, rt route) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		ctx := r.Context()
		m, session, err := s.authenticate(ctx, r)
		if err != nil {
			return nil, err
		}
		m.mu.Lock()
		limit := m.rate[path]
		if limit == nil {
			limit = newBucket(rt.perSecond, rt.burst, s.now)
			m.rate[path] = limit
		}
		m.mu.Unlock()
		if !limit.take() {
			return nil, refuse(http.StatusTooManyRequests, agent.RefusalBusy, "too many requests to %s", path)
		}
		body, err := readBody(r, rt.maxBytes)
		if err != nil {
			return nil, err
		}
		return rt.serve(ctx, m, session, body)
	}
}

func (s *Server) authenticate(ctx context.Context, r *http.Request) (*machine, sessionRecord, error) {
	unknown := refuse(http.StatusUnauthorized, agent.RefusalSession, "no such session: boot the installer again")
	bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	id, secret, err := splitCredential(bearer)
	if !ok || err != nil {
		return nil, sessionRecord{}, s.stranger(unknown)
	}
	m, err := s.known(ctx, id)
	if err != nil {
		return nil, sessionRecord{}, err
	}
	if m == nil {
		return nil, sessionRecord{}, s.stranger(unknown)
	}
	hash := hashSecret(secret)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.doc.Session == nil || !equal(m.doc.Session.Hash, hash) {
		if slices.Contains(m.doc.Past, hash) {
			return nil, sessionRecord{}, refuse(http.StatusForbidden, agent.RefusalSuperseded, "a newer boot of this machine has taken over")
		}
		return nil, sessionRecord{}, s.stranger(unknown)
	}
	s.seen(m, r.RemoteAddr)
	return m, *m.doc.Session, nil
}

// stranger returns err, or a plainer one when there are too many strangers.
func (s *Server) stranger(err error) error {
	if !s.strangers.take() {
		return refuse(http.StatusTooManyRequests, agent.RefusalBusy, "too many requests")
	}
	return err
}

// seen notes that the machine's session is alive. m.mu is held.
func (s *Server) seen(m *machine, remote string) {
	sr := m.doc.Session
	if sr.Hash == m.gone {
		return
	}
	if m.live == nil || m.live.Boot != sr.Boot {
		m.live = &Session{Machine: m.id, MAC: sr.MAC, Boot: sr.Boot, Agent: sr.Agent}
		defer m.broadcast()
	}
	m.live.LastSeen = s.now()
	m.live.Address = remoteAddr(remote)
}

func remoteAddr(remote string) netip.Addr {
	ap, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func readBody(r *http.Request, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, agent.RefusalInvalid, "the request was cut off")
	}
	if int64(len(body)) > limit {
		return nil, refuse(http.StatusRequestEntityTooLarge, agent.RefusalInvalid, "the request is larger than %d bytes", limit)
	}
	return body, nil
}

func decode[T any](body []byte) (T, error) {
	var v T
	dec := json.NewDecoder(bytes.NewReader(body))
	if err := dec.Decode(&v); err != nil {
		return v, refuse(http.StatusBadRequest, agent.RefusalInvalid, "the request is not the JSON that was expected: %v", err)
	}
	if dec.More() {
		return v, refuse(http.StatusBadRequest, agent.RefusalInvalid, "the request holds more than one JSON value")
	}
	return v, nil
}

func (s *Server) serveSession(r *http.Request) (any, error) {
	if !s.strangers.take() {
		return nil, refuse(http.StatusTooManyRequests, agent.RefusalBusy, "too many requests")
	}
	ctx := r.Context()
	body, err := readBody(r, agent.MaxSessionBytes)
	if err != nil {
		return nil, err
	}
	req, err := decode[agent.SessionRequest](body)
	if err != nil {
		return nil, err
	}
	if req.Version != agent.ProtocolVersion {
		return nil, refuse(http.StatusBadRequest, agent.RefusalVersion, "the agent speaks protocol version %d, this controller %d: build the installer again", req.Version, agent.ProtocolVersion)
	}
	if len(req.Session) < 43 || len(req.Session) > 128 || len(req.Boot) > 128 {
		return nil, refuse(http.StatusBadRequest, agent.RefusalInvalid, "the session secret or boot id has a wrong length")
	}
	address := remoteAddr(r.RemoteAddr)
	m, err := s.admit(ctx, req, address)
	var ref *refusal
	if errors.As(err, &ref) && s.refusals.take() {
		s.record(ctx, uuid.UUID{}, inventory.Event{
			Kind: inventory.EventAgentRefused, MAC: req.MAC, Boot: clean(req.Boot, 128),
			Message: "An agent asked for a session and was refused.",
			Attrs:   map[string]string{"reason": ref.detail, "address": address.String()},
		})
	}
	if err != nil {
		return nil, err
	}
	return agent.SessionReply{Version: agent.ProtocolVersion, Machine: m.id, Site: s.cfg.Site}, nil
}

// admit exchanges a token for a session.
func (s *Server) admit(ctx context.Context, req agent.SessionRequest, address netip.Addr) (*machine, error) {
	denied := func(format string, args ...any) error {
		return refuse(http.StatusForbidden, agent.RefusalToken, format, args...)
	}
	id, secret, err := splitCredential(req.Token)
	if err != nil {
		return nil, denied("the token is malformed")
	}
	m, err := s.known(ctx, id)
	if err != nil {
		return nil, err
	}
	if m == nil {
		return nil, denied("the token is unknown")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	hash := hashSecret(req.Session)
	// The reply to the first use may have been lost: the same secret gets it
	// again, until a newer boot takes over.
	if sr := m.doc.Session; sr != nil && equal(sr.Token, hashSecret(secret)) {
		if !equal(sr.Hash, hash) {
			return nil, denied("the token was used before")
		}
		s.seen(m, netip.AddrPortFrom(address, 0).String())
		return m, nil
	}
	i, ok := m.doc.token(secret, s.now())
	if !ok {
		return nil, denied("the token is unknown, was used before, or is older than %s", s.cfg.TokenLifetime)
	}
	token := m.doc.Tokens[i]
	if token.Boot != req.Boot || token.MAC != req.MAC {
		return nil, denied("the token was given to another boot or port")
	}
	if err := s.checkLease(ctx, token.MAC, address); err != nil {
		return nil, err
	}
	err = s.update(ctx, m, func(d *document) {
		if d.Session != nil {
			d.Past = last(append(d.Past, d.Session.Hash), maxPast)
		}
		// Tokens minted before this one belong to boots that are over.
		d.Tokens = slices.Clone(d.Tokens[i+1:])
		d.Session = &sessionRecord{Hash: hash, Token: token.Hash, MAC: token.MAC, Boot: token.Boot, Agent: clean(req.Agent, 64)}
	})
	if err != nil {
		return nil, err
	}
	m.live = nil
	s.seen(m, netip.AddrPortFrom(address, 0).String())
	s.record(ctx, m.id, inventory.Event{
		Kind: inventory.EventAgentSession, MAC: token.MAC, Boot: token.Boot,
		Message: "The installer's agent opened a session.",
		Attrs:   map[string]string{"address": address.String(), "version": m.doc.Session.Agent},
	})
	return m, nil
}

// checkLease refuses a session to an address that the MAC does not hold.
func (s *Server) checkLease(ctx context.Context, mac inventory.MAC, address netip.Addr) error {
	if s.cfg.Leases == nil {
		return nil
	}
	leased, known, err := s.cfg.Leases.LeasedAddress(ctx, mac)
	if err != nil {
		return fmt.Errorf("looking up the lease of %s: %w", mac, err)
	}
	if known && leased != address {
		return refuse(http.StatusForbidden, agent.RefusalToken, "the request comes from %s, which is not leased to %s", address, mac)
	}
	return nil
}

func (s *Server) serveFacts(ctx context.Context, m *machine, session sessionRecord, body []byte) (any, error) {
	facts, err := decode[inventory.Facts](body)
	if err != nil {
		return nil, err
	}
	if facts.SchemaVersion < 1 || facts.SchemaVersion > inventory.SchemaVersion {
		return nil, refuse(http.StatusBadRequest, agent.RefusalInvalid, "facts have schema version %d; this controller reads 1 to %d", facts.SchemaVersion, inventory.SchemaVersion)
	}
	if s.cfg.Facts != nil {
		if err := s.cfg.Facts(ctx, m.id, session.Boot, facts); err != nil {
			return nil, fmt.Errorf("keeping the facts of machine %s: %w", m.id, err)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	// Facts of a boot that is over were kept above, but answer no question.
	if m.doc.Session != nil && m.doc.Session.Boot == session.Boot {
		r := &report{Boot: session.Boot, Facts: facts}
		if err := saveReport(ctx, s.cfg.Store, m.id, *r); err != nil {
			return nil, err
		}
		m.reported = r
		m.broadcast()
	}
	s.record(ctx, m.id, inventory.Event{
		Kind: inventory.EventAgentFacts, MAC: session.MAC, Boot: session.Boot,
		Message: "The agent reported the machine's facts.",
		Attrs:   map[string]string{"digest": "sha256:" + hashSecret(string(body))},
	})
	return nil, nil
}

func (s *Server) serveNeighbors(ctx context.Context, m *machine, _ sessionRecord, body []byte) (any, error) {
	req, err := decode[agent.NeighborsReport](body)
	if err != nil {
		return nil, err
	}
	if err := (inventory.Facts{Neighbors: req.Neighbors}).Validate(); err != nil {
		return nil, refuse(http.StatusBadRequest, agent.RefusalInvalid, "%v", err)
	}
	if s.cfg.Neighbors == nil {
		return nil, nil
	}
	if err := s.cfg.Neighbors(ctx, m.id, req.Neighbors); err != nil {
		return nil, fmt.Errorf("keeping the neighbors of machine %s: %w", m.id, err)
	}
	return nil, nil
}

func (s *Server) serveTask(ctx context.Context, m *machine, session sessionRecord, body []byte) (any, error) {
	req, err := decode[agent.PollRequest](body)
	if err != nil {
		return nil, err
	}
	hold := min(max(time.Duration(req.WaitMillis)*time.Millisecond, 0), s.cfg.PollLimit)
	ctx, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	var reply agent.PollReply
	var failed error
	err = m.wait(ctx, func() bool {
		if m.doc.Session == nil || m.doc.Session.Hash != session.Hash {
			failed = refuse(http.StatusForbidden, agent.RefusalSuperseded, "a newer boot of this machine has taken over")
			return true
		}
		reply, failed = s.next(ctx, m, session, req.Running)
		return failed != nil || reply != (agent.PollReply{})
	})
	if failed != nil {
		return nil, failed
	}
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, refuse(http.StatusServiceUnavailable, agent.RefusalBusy, "the controller is stopping")
	}
	return reply, nil
}

// next decides what an agent that runs running is told; the zero reply means
// that there is nothing to say. m.mu is held.
func (s *Server) next(ctx context.Context, m *machine, session sessionRecord, running *agent.TaskRef) (agent.PollReply, error) {
	reply := agent.PollReply{Facts: !m.hasFacts() && running == nil}
	if m.cancel != nil {
		ref := *m.cancel
		switch {
		case running != nil && *running == ref:
			reply.Cancel = &ref
			return reply, nil
		case running == nil && m.want != nil && m.want.task.Ref() == ref:
			// Never started: it ends here.
			result := agent.Result{
				Task: ref, Boot: session.Boot, Outcome: agent.OutcomeCancelled,
				Error: &agent.Failure{Code: agent.CodeCancelled, Message: "cancelled before it was started"},
			}
			if err := s.update(context.WithoutCancel(ctx), m, func(d *document) { d.addResult(result) }); err != nil {
				return reply, err
			}
			m.cancel = nil
			m.broadcast()
			return reply, nil
		}
	}
	if m.want == nil {
		return reply, nil
	}
	task := m.want.task
	if running != nil && (*running == task.Ref() || m.want.spare) {
		return reply, nil
	}
	if _, done := m.doc.result(task.Ref()); done {
		return reply, nil
	}
	if !slices.Contains(m.doc.Offers, task.Ref()) {
		err := s.update(context.WithoutCancel(ctx), m, func(d *document) {
			d.Offers = last(append(d.Offers, task.Ref()), maxOffers)
		})
		if err != nil {
			return reply, err
		}
		s.record(ctx, m.id, inventory.Event{
			Kind: inventory.EventAgentTask, MAC: session.MAC, Boot: session.Boot, Run: task.Run, Step: task.Step,
			Message: "The agent was given a task.",
			Attrs:   map[string]string{"task": task.ID, "kind": string(task.Kind), "attempt": fmt.Sprint(task.Attempt)},
		})
	}
	if task.Kind == agent.KindReboot || task.Kind == agent.KindPoweroff {
		m.ending = task.Ref()
	}
	if w := task.Write; w != nil && m.doc.unfinished(w.Disk) {
		resumed := *w
		resumed.Resume = true
		task.Write = &resumed
	}
	reply.Task = &task
	return reply, nil
}

func (s *Server) serveProgress(ctx context.Context, m *machine, session sessionRecord, body []byte) (any, error) {
	p, err := decode[agent.Progress](body)
	if err != nil {
		return nil, err
	}
	p.Message = clean(p.Message, 1024)
	p.Phase = agent.Phase(clean(string(p.Phase), 32))
	if p.Bytes < 0 || p.Total < 0 || p.FetchedBytes < 0 {
		return nil, refuse(http.StatusBadRequest, agent.RefusalInvalid, "progress counts are not negative")
	}
	s.heard(ctx, m)
	m.mu.Lock()
	o := m.want
	if o == nil || o.task.Ref() != p.Task {
		m.mu.Unlock()
		if p.Phase == agent.PhaseBegin {
			return nil, refuse(http.StatusServiceUnavailable, agent.RefusalBusy, "nobody waits for task %s now: keep the disk as it is and ask again", p.Task)
		}
		return nil, nil
	}
	fresh := m.phase != string(p.Phase)
	m.phase = string(p.Phase)
	m.mu.Unlock()

	o.calling.Lock()
	if !o.ended && o.progress != nil {
		o.progress(p)
	}
	ended := o.ended || o.ctx.Err() != nil
	o.calling.Unlock()
	if p.Phase == agent.PhaseBegin {
		if ended {
			return nil, refuse(http.StatusServiceUnavailable, agent.RefusalBusy, "nobody waits for task %s now: keep the disk as it is and ask again", p.Task)
		}
		if w := o.task.Write; w != nil {
			m.mu.Lock()
			err := s.update(ctx, m, func(d *document) {
				d.begin(Unfinished{Task: o.task.ID, Run: o.task.Run, Disk: w.Disk, Image: w.Image})
			})
			m.mu.Unlock()
			if err != nil {
				return nil, err
			}
		}
	}
	if fresh {
		s.record(ctx, m.id, inventory.Event{
			Kind: inventory.EventAgentProgress, MAC: session.MAC, Boot: session.Boot, Run: o.task.Run, Step: o.task.Step,
			Message: p.Message,
			Attrs: map[string]string{
				"task": p.Task.ID, "phase": string(p.Phase),
				"bytes": fmt.Sprint(p.Bytes), "total": fmt.Sprint(p.Total),
			},
		})
	}
	return nil, nil
}

func (s *Server) serveResult(ctx context.Context, m *machine, session sessionRecord, body []byte) (any, error) {
	result, err := decode[agent.Result](body)
	if err != nil {
		return nil, err
	}
	if !slices.Contains([]agent.Outcome{agent.OutcomeOK, agent.OutcomeFailed, agent.OutcomeRefused, agent.OutcomeCancelled}, result.Outcome) {
		return nil, refuse(http.StatusBadRequest, agent.RefusalInvalid, "unknown outcome %q", clean(string(result.Outcome), 32))
	}
	if result.Boot != session.Boot {
		return nil, refuse(http.StatusBadRequest, agent.RefusalInvalid, "the result is of another boot than the session")
	}
	if result.Error != nil {
		result.Error.Message = clean(result.Error.Message, 8192)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.doc.result(result.Task); known {
		return nil, nil
	}
	if !slices.Contains(m.doc.Offers, result.Task) {
		return nil, refuse(http.StatusConflict, agent.RefusalInvalid, "this machine was never given task %s", clean(result.Task.String(), 256))
	}
	if err := s.update(ctx, m, func(d *document) { d.addResult(result) }); err != nil {
		return nil, err
	}
	if m.cancel != nil && *m.cancel == result.Task {
		m.cancel = nil
	}
	event := inventory.Event{
		Kind: inventory.EventAgentResult, MAC: session.MAC, Boot: session.Boot,
		Message: "The agent finished a task.",
		Attrs: map[string]string{
			"task": result.Task.ID, "attempt": fmt.Sprint(result.Task.Attempt),
			"outcome": string(result.Outcome),
		},
	}
	if m.want != nil && m.want.task.Ref() == result.Task {
		event.Run, event.Step = m.want.task.Run, m.want.task.Step
		event.Attrs["kind"] = string(m.want.task.Kind)
	}
	if result.Outcome == agent.OutcomeOK && result.Task == m.ending {
		m.live, m.gone = nil, session.Hash
	}
	if result.Error != nil {
		event.Attrs["error"] = result.Error.Message
	}
	s.record(ctx, m.id, event)
	m.broadcast()
	return nil, nil
}

// maxLogLines bounds one log request.
const maxLogLines = 200

func (s *Server) serveLog(ctx context.Context, m *machine, session sessionRecord, body []byte) (any, error) {
	req, err := decode[agent.LogRequest](body)
	if err != nil {
		return nil, err
	}
	if len(req.Lines) > maxLogLines {
		return nil, refuse(http.StatusBadRequest, agent.RefusalInvalid, "more than %d log lines at once", maxLogLines)
	}
	for _, l := range req.Lines {
		attrs := map[string]string{"level": clean(l.Level, 16)}
		keys := slices.Sorted(maps.Keys(l.Attrs))
		for _, k := range keys[:min(len(keys), 16)] {
			attrs[clean(k, 64)] = clean(l.Attrs[k], 1024)
		}
		s.record(ctx, m.id, inventory.Event{
			Kind: inventory.EventAgentLog, MAC: session.MAC, Boot: session.Boot,
			Message: clean(l.Message, 1024), Attrs: attrs,
		})
	}
	return nil, nil
}

func (s *Server) record(ctx context.Context, id uuid.UUID, e inventory.Event) {
	if s.cfg.Recorder == nil {
		return
	}
	e.Time, e.Site, e.Machine = s.now(), s.cfg.Site, id
	s.cfg.Recorder.Record(ctx, e)
}

// clean makes a machine's text fit for logs and terminals: no control
// characters, at most limit bytes.
func clean(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
