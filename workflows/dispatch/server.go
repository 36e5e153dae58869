// Package dispatch is the controller's side of the agent protocol: it admits
// agents by one-use tokens, hands out tasks, and gives the engine their results.
//
// Everything that must survive a restart of the controller (hashes of tokens
// and sessions, which writes have begun, accepted results) is one small JSON
// document per machine, kept through Store.
package dispatch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/net/netutil"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

// Store keeps one document per machine. inventory/store implements it.
type Store interface {
	// Get returns the value last put under key, or an error for which
	// errors.Is(err, fs.ErrNotExist) holds when there is none.
	Get(ctx context.Context, key string) ([]byte, error)
	// Put replaces the value of key. When it returns nil the value survives
	// a power cut.
	Put(ctx context.Context, key string, value []byte) error
}

// Leases tells which address a MAC holds.
type Leases interface {
	// LeasedAddress returns the address leased to mac now. known is false
	// when the site's addresses are given out by somebody else (proxy or
	// off), so that nothing can be said.
	LeasedAddress(ctx context.Context, mac inventory.MAC) (address netip.Addr, known bool, err error)
}

// Recorder keeps events. It must not block for long.
type Recorder interface {
	Record(ctx context.Context, e inventory.Event)
}

// FactsSink keeps a facts document in the catalog. An error is reported to the
// agent, which repeats the report.
type FactsSink func(ctx context.Context, machine uuid.UUID, boot string, facts inventory.Facts) error

// NeighborsSink keeps in the catalog what a machine's ports are connected to. An
// error is reported to the agent, which repeats the report.
type NeighborsSink func(ctx context.Context, machine uuid.UUID, neighbors []inventory.Neighbor) error

// Config configures a Server.
type Config struct {
	Site string
	// Store keeps what must survive a restart. Required.
	Store Store
	// Leases checks that a session is asked for from the address leased to
	// the machine's MAC; nil checks nothing.
	Leases Leases
	// Facts receives facts reports; nil keeps them in memory only.
	Facts FactsSink
	// Neighbors receives what was heard after the facts; nil drops it.
	Neighbors NeighborsSink
	// Recorder receives events; nil discards them.
	Recorder Recorder
	// TokenLifetime is how long a token may wait for its first use; default
	// one hour, because a big machine's memory test comes in between.
	TokenLifetime time.Duration
	// PollLimit bounds a long poll; default 30 s.
	PollLimit time.Duration
	// Logger receives diagnostics; nil discards them.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// TLS is the server's certificate; see keyring.Authority.TLS. Serve
	// requires it, Handler does not use it.
	TLS *tls.Config
}

// Session is one boot of the installer that talks to us.
type Session struct {
	Machine  uuid.UUID
	MAC      inventory.MAC
	Boot     string
	Agent    string // the agent's version
	Address  netip.Addr
	LastSeen time.Time
}

// ErrReplaced is returned by Do when a later Do for the same machine took over
// before this one had its result.
var ErrReplaced = errors.New("replaced by a newer task for the same machine")

// ErrBusy is returned by Spare for a machine that was given something to do.
var ErrBusy = errors.New("the machine has been given another task")

// ErrStale is returned by Do for a task that is older than the one on offer.
var ErrStale = errors.New("older than the task already given to this machine")

// Defaults of Config.
const (
	defaultTokenLifetime = time.Hour
	defaultPollLimit     = 30 * time.Second
	// maxConnections bounds the agents that talk at once; hundreds of
	// machines in a boot storm have two connections each.
	maxConnections = 2048
)

// Server admits agents and gives them tasks. It is safe for use by several
// goroutines.
type Server struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	handler http.Handler
	// strangers limits requests that carry no valid credential, and refusals
	// the events about them.
	strangers, refusals *bucket

	mu       sync.Mutex
	machines map[uuid.UUID]*machine
}

// machine is what this process knows of one machine. mu guards all fields; it
// is held while the document is written, so that memory never runs ahead of it.
type machine struct {
	id uuid.UUID

	mu   sync.Mutex
	doc  document
	live *Session
	// reported are the facts of the session's boot.
	reported *report
	// gone is the hash of a session whose machine was told to restart: what
	// still trickles in from it does not make it alive again.
	gone string
	want *order
	// ending is the newest task given that ends the boot: its result may come when
	// nobody waits for it any more.
	ending  agent.TaskRef
	cancel  *agent.TaskRef
	phase   string    // last phase recorded as an event
	heard   time.Time // last sign of life that was kept
	changed chan struct{}
	rate    map[string]*bucket
}

// order is one Do under way.
type order struct {
	ctx      context.Context // Do's: once it is over nobody listens any more
	task     agent.Task
	spare    bool // of Spare: for an agent that does nothing else
	progress func(agent.Progress)
	replaced bool
	// calling is held while progress is called, so that Do returns only
	// when no call is under way.
	calling sync.Mutex
	ended   bool
}

// New returns a Server.
func New(cfg Config) (*Server, error) {
	if cfg.Store == nil {
		return nil, errors.New("dispatch: Config.Store is required")
	}
	if cfg.TokenLifetime <= 0 {
		cfg.TokenLifetime = defaultTokenLifetime
	}
	if cfg.PollLimit <= 0 {
		cfg.PollLimit = defaultPollLimit
	}
	s := &Server{cfg: cfg, log: cfg.Logger, now: cfg.Now, machines: make(map[uuid.UUID]*machine)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	s.strangers = newBucket(200, 400, s.now)
	s.refusals = newBucket(2, 20, s.now)
	s.handler = s.routes()
	return s, nil
}

// Handler serves /agent/v1/. It must be reached over TLS only.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers agents on l, in TLS with Config.TLS, until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	if s.cfg.TLS == nil {
		return errors.New("dispatch: Config.TLS is required to serve")
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	srv := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		WriteTimeout:      s.cfg.PollLimit + time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// Long polls end with their base.
		BaseContext: func(net.Listener) context.Context { return serving },
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		<-serving.Done()
		grace, cancel := context.WithTimeout(context.WithoutCancel(serving), 3*time.Second)
		defer cancel()
		if srv.Shutdown(grace) != nil {
			srv.Close()
		}
	}()
	err := srv.Serve(tls.NewListener(netutil.LimitListener(l, maxConnections), s.cfg.TLS))
	ended := ctx.Err() != nil
	stop()
	<-stopped
	if ended {
		return nil
	}
	return fmt.Errorf("serving agents on %s: %w", l.Addr(), err)
}

// known returns the machine if this process or the store knows it; nil
// otherwise. Strangers' ids leave nothing behind.
func (s *Server) known(ctx context.Context, id uuid.UUID) (*machine, error) {
	s.mu.Lock()
	m := s.machines[id]
	s.mu.Unlock()
	if m != nil {
		return m, nil
	}
	doc, err := loadDocument(ctx, s.cfg.Store, id)
	if isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	m = s.intern(id, doc)
	m.mu.Lock()
	defer m.mu.Unlock()
	if sr := m.doc.Session; sr != nil && m.reported == nil {
		m.reported, err = loadReport(ctx, s.cfg.Store, id, sr.Boot)
	}
	return m, err
}

// machine returns the machine, made when it is new. Only the engine's calls come
// here.
func (s *Server) machine(ctx context.Context, id uuid.UUID) (*machine, error) {
	m, err := s.known(ctx, id)
	if m != nil || err != nil {
		return m, err
	}
	return s.intern(id, document{}), nil
}

// intern keeps the machine in memory; the first of two callers wins.
func (s *Server) intern(id uuid.UUID, doc document) *machine {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.machines[id]
	if m == nil {
		m = &machine{id: id, doc: doc, changed: make(chan struct{}), rate: make(map[string]*bucket)}
		s.machines[id] = m
	}
	return m
}

// broadcast wakes everybody who waits for a change of m. m.mu is held.
func (m *machine) broadcast() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// update changes the document in memory once the changed one is on disk. m.mu
// is held.
func (s *Server) update(ctx context.Context, m *machine, change func(*document)) error {
	next := m.doc.clone()
	change(&next)
	if err := saveDocument(ctx, s.cfg.Store, m.id, next); err != nil {
		return err
	}
	m.doc = next
	return nil
}

// MintToken returns a token with which the machine that boots now over mac may
// open one session. bootID names this boot; it goes on the kernel command line
// beside the token. A session of another boot counts as gone from now on.
func (s *Server) MintToken(ctx context.Context, id uuid.UUID, mac inventory.MAC, bootID string) (string, error) {
	m, err := s.machine(ctx, id)
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	secret := newSecret()
	now := s.now()
	err = s.update(ctx, m, func(d *document) {
		kept := d.Tokens[:0]
		for _, t := range d.Tokens {
			if now.Before(t.Expires) {
				kept = append(kept, t)
			}
		}
		d.Tokens = last(append(kept, tokenRecord{
			Hash: hashSecret(secret), MAC: mac, Boot: bootID, Expires: now.Add(s.cfg.TokenLifetime),
		}), maxTokens)
	})
	if err != nil {
		return "", err
	}
	if m.live != nil && m.live.Boot != bootID {
		m.live = nil
		m.broadcast()
	}
	return id.String() + "." + secret, nil
}

// wait calls look, with m.mu held, until it returns true; again after every
// change of m and at least every second.
func (m *machine) wait(ctx context.Context, look func() bool) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		m.mu.Lock()
		done, changed := look(), m.changed
		m.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// alive reports whether the machine's agent was heard of lately. m.mu is held.
func (s *Server) alive(m *machine) bool {
	return m.live != nil && s.now().Sub(m.live.LastSeen) < 2*s.cfg.PollLimit+10*time.Second
}

// WaitSession waits until the machine's installer talks to us, and returns its
// session. After a restart of the controller that is the agent's next request.
func (s *Server) WaitSession(ctx context.Context, id uuid.UUID) (Session, error) {
	return s.waitSession(ctx, id, "")
}

// WaitNewSession is WaitSession for a boot other than notBoot.
func (s *Server) WaitNewSession(ctx context.Context, id uuid.UUID, notBoot string) (Session, error) {
	return s.waitSession(ctx, id, notBoot)
}

func (s *Server) waitSession(ctx context.Context, id uuid.UUID, notBoot string) (Session, error) {
	m, err := s.machine(ctx, id)
	if err != nil {
		return Session{}, err
	}
	var session Session
	err = m.wait(ctx, func() bool {
		if !s.alive(m) || notBoot != "" && m.live.Boot == notBoot {
			return false
		}
		session = *m.live
		return true
	})
	if err != nil {
		return Session{}, fmt.Errorf("waiting for the installer of machine %s: %w", id, err)
	}
	return session, nil
}

// Session returns the machine's live session, if it has one.
func (s *Server) Session(ctx context.Context, id uuid.UUID) (Session, bool) {
	m, err := s.known(ctx, id)
	if m == nil || err != nil {
		return Session{}, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !s.alive(m) {
		return Session{}, false
	}
	return *m.live, true
}

// WaitFacts waits for the facts of the machine's present boot. They have passed
// the FactsSink already. They survive a restart of the controller, so that an
// agent in the middle of a write is not asked again.
func (s *Server) WaitFacts(ctx context.Context, id uuid.UUID) (inventory.Facts, error) {
	m, err := s.machine(ctx, id)
	if err != nil {
		return inventory.Facts{}, err
	}
	var facts inventory.Facts
	err = m.wait(ctx, func() bool {
		if !s.alive(m) || !m.hasFacts() {
			return false
		}
		facts = m.reported.Facts
		return true
	})
	if err != nil {
		return inventory.Facts{}, fmt.Errorf("waiting for the facts of machine %s: %w", id, err)
	}
	return facts, nil
}

// hasFacts reports whether the facts of the present boot are known. m.mu is held.
func (m *machine) hasFacts() bool {
	return m.reported != nil && m.doc.Session != nil && m.reported.Boot == m.doc.Session.Boot
}

// RefreshFacts asks the agent for a new report and waits for it. An agent that
// carries out a task reports when that is done.
func (s *Server) RefreshFacts(ctx context.Context, id uuid.UUID) (inventory.Facts, error) {
	m, err := s.machine(ctx, id)
	if err != nil {
		return inventory.Facts{}, err
	}
	m.mu.Lock()
	m.reported = nil
	m.broadcast()
	m.mu.Unlock()
	return s.WaitFacts(ctx, id)
}

// UnfinishedWrites lists the machine's disks that a write has begun on and not
// ended well. Kept across restarts.
func (s *Server) UnfinishedWrites(ctx context.Context, id uuid.UUID) ([]Unfinished, error) {
	m, err := s.known(ctx, id)
	if m == nil || err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]Unfinished(nil), m.doc.Begun...), nil
}

// Do gives the machine a task and waits for the result of exactly this task and
// attempt. The result may be there already: results are kept across restarts,
// and an agent that runs the attempt since before a restart is not disturbed.
//
// A task replaces the one that the machine runs: the agent stops that one
// entirely before it starts. When ctx ends the agent goes on with what it does,
// as it would if this process died: call Do again to take it up, or Cancel.
//
// onProgress (nil ignores) is called from another goroutine, never twice at
// once and never after Do returned. For agent.PhaseBegin the agent waits until
// onProgress has returned before it changes the disk: journal there. If that
// fails, end ctx before returning, and the disk stays as it is.
//
// A failed task is no error: see Result.Outcome. Errors are those of ctx and
// Store, ErrStale and ErrReplaced.
func (s *Server) Do(ctx context.Context, id uuid.UUID, task agent.Task, onProgress func(agent.Progress)) (agent.Result, error) {
	return s.order(ctx, id, &order{ctx: ctx, task: task, progress: onProgress})
}

// Spare is Do for an agent that does nothing: the task is not given to one that
// runs another, takes no other's place, and gives way to any that comes. The error
// is ErrBusy where another one is on offer.
func (s *Server) Spare(ctx context.Context, id uuid.UUID, task agent.Task) (agent.Result, error) {
	return s.order(ctx, id, &order{ctx: ctx, task: task, spare: true})
}

// order is Do.
func (s *Server) order(ctx context.Context, id uuid.UUID, o *order) (agent.Result, error) {
	task := o.task
	if err := task.Check(); err != nil {
		return agent.Result{}, fmt.Errorf("task %s for machine %s: %w", task.Ref(), id, err)
	}
	m, err := s.machine(ctx, id)
	if err != nil {
		return agent.Result{}, err
	}
	m.mu.Lock()
	if r, ok := m.doc.result(task.Ref()); ok {
		m.mu.Unlock()
		return r, nil
	}
	if w := m.want; w != nil {
		if o.spare && !w.spare {
			m.mu.Unlock()
			return agent.Result{}, fmt.Errorf("task %s for machine %s: %w (%s)", task.Ref(), id, ErrBusy, w.task.Ref())
		}
		if !w.spare && task.Fence < w.task.Fence || task.ID == w.task.ID && task.Attempt < w.task.Attempt {
			m.mu.Unlock()
			return agent.Result{}, fmt.Errorf("task %s for machine %s: %w (%s)", task.Ref(), id, ErrStale, w.task.Ref())
		}
		w.replaced = true
	}
	m.want, m.phase = o, ""
	m.broadcast()
	m.mu.Unlock()

	err = m.wait(ctx, func() bool {
		_, ok := m.doc.result(task.Ref())
		return ok || o.replaced
	})
	m.mu.Lock()
	if m.want == o {
		m.want = nil
		m.broadcast()
	}
	// It may have come since the wait ended, of a task that was replaced.
	result, finished := m.doc.result(task.Ref())
	m.mu.Unlock()
	o.calling.Lock()
	o.ended = true
	o.calling.Unlock()
	switch {
	case err != nil:
		return agent.Result{}, fmt.Errorf("task %s of machine %s: %w", task.Ref(), id, err)
	case !finished:
		return agent.Result{}, fmt.Errorf("task %s of machine %s: %w", task.Ref(), id, ErrReplaced)
	}
	return result, nil
}

// Cancel tells the agent to stop an attempt. The Do that waits for it returns
// with agent.OutcomeCancelled, or with the result if that came first.
func (s *Server) Cancel(ctx context.Context, id uuid.UUID, ref agent.TaskRef) error {
	m, err := s.machine(ctx, id)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cancel = &ref
	m.broadcast()
	return nil
}
