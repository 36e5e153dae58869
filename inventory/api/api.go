// Package api serves the catalog over HTTP: machines, their facts and history,
// leases, images, runs and events, to read, to page through and to watch.
//
// Everything the server answers is one table of routes (routes.go). The mux, the
// checks of roles and of parameters and the OpenAPI document all come from it, so
// that what is documented is what is served.
//
// A request passes, in this order: the bounds on its size, Host and Origin (a
// page in somebody's browser must not reach a server on loopback, whatever name
// it resolves to its address), the token and its role, the audit record of
// what changes something, the parameters. Then the route's function answers.
package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/schema"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// DefaultListen is where a controller serves the API: on loopback, beside the
// ports of boot files (8480) and agents (8481).
const DefaultListen = "127.0.0.1:8482"

// Runs reads the journal of runs.
type Runs interface {
	// Runs returns the runs of a site, or of every site when site is empty, the
	// newest first, at most limit, that began before a run (uuid.Nil: all).
	Runs(ctx context.Context, site string, before uuid.UUID, limit int) ([]resource.Run, error)
	// Run returns a run with its steps in the order they were started, or an
	// error for which errors.Is(err, fs.ErrNotExist) holds. No step carries its
	// outputs: they can be secret.
	Run(ctx context.Context, id uuid.UUID) (resource.Run, []resource.Step, error)
}

// Config says what a Server serves.
type Config struct {
	Catalog *store.Store
	Runs    Runs
	// Version is the program's, for the OpenAPI document and the metrics.
	Version string
	// Anonymous is the role of a request without a token. It must be
	// resource.RolePublic where others than this host's users can connect.
	Anonymous resource.Role
	// Names are the host names, beside localhost and IP addresses, under which
	// clients may call the server. A request for another name is refused.
	Names []string
	// TLS makes Serve speak HTTPS; nil: HTTP, which is for loopback.
	TLS *tls.Config
	// Address is where a machine answers, as far as its site declares it; the
	// zero address where it does not. Nil: only leases tell.
	Address func(inventory.Machine) netip.Addr
	// Hostname is a machine's host name, empty where no site declares it. Nil:
	// none is known.
	Hostname func(inventory.Machine) string
	// Site is the one that this controller works on; operations on its machines
	// that an earlier one left unfinished are closed when Run begins. Empty:
	// none are.
	Site string
	// Power changes the power of machines; nil: requests for that are refused.
	Power Powerer
	// Runner begins and cancels runs; nil: requests for that are refused.
	Runner Runner
	// Sealer keeps the secrets of webhooks; nil: there are no webhooks.
	Sealer Sealer
	// WebhookTimeout bounds one delivery to a webhook; 10 s when zero.
	WebhookTimeout time.Duration
	// WebhookRetry is the wait after the first delivery that fails; 1 s when zero.
	WebhookRetry time.Duration
	// Dashboard is served at / and below /dashboard/; nil: nothing is.
	Dashboard http.Handler
	// Log receives what no client can be told; nil discards it.
	Log *slog.Logger
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// RequestTimeout bounds a request that is no watch; 30 s when zero.
	RequestTimeout time.Duration
	// BodyTimeout bounds how long a client may take to send a body; 5 s when
	// zero.
	BodyTimeout time.Duration
	// Readers bounds how many requests read the catalog at once, so that the
	// controller's own work always finds a connection; 4 when zero.
	Readers int
	// Watchers bounds the number of watches; 2,000 when zero.
	Watchers int
	// WatchQueue is how many events may wait for a slow watcher before it is cut
	// off; 4,096 when zero.
	WatchQueue int
	// WatchInterval is how often the catalog is asked for new events while
	// somebody watches; 250 ms when zero.
	WatchInterval time.Duration
	// KeepAlive is how often an idle watch sends a comment, and how long one
	// write to a client may take; 15 s when zero.
	KeepAlive time.Duration
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Address == nil {
		c.Address = func(inventory.Machine) netip.Addr { return netip.Addr{} }
	}
	if c.Hostname == nil {
		c.Hostname = func(inventory.Machine) string { return "" }
	}
	defaultTo(&c.RequestTimeout, 30*time.Second)
	defaultTo(&c.BodyTimeout, 5*time.Second)
	defaultTo(&c.WebhookTimeout, 10*time.Second)
	defaultTo(&c.WebhookRetry, time.Second)
	defaultTo(&c.Readers, 4)
	defaultTo(&c.Watchers, 2_000)
	defaultTo(&c.WatchQueue, 4_096)
	defaultTo(&c.WatchInterval, 250*time.Millisecond)
	defaultTo(&c.KeepAlive, 15*time.Second)
	return c
}

func defaultTo[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Server answers the API's requests.
type Server struct {
	cfg     Config
	mux     *http.ServeMux
	routes  []route
	openAPI []byte
	// factsSchema is the JSON Schema of facts documents.
	factsSchema []byte
	metrics     *metrics
	hub         *hub
	readers     chan struct{}
	touched     touched

	operations operations
}

// New makes a server over a catalog. Watches and actions go on only while Serve, or
// Run, runs: those that come earlier wait for it.
func New(cfg Config) (*Server, error) {
	cfg = cfg.withDefaults()
	if cfg.Catalog == nil || cfg.Runs == nil {
		return nil, errors.New("serving the API: a catalog and its journal of runs are needed")
	}
	s := &Server{cfg: cfg, mux: http.NewServeMux(), readers: make(chan struct{}, cfg.Readers)}
	s.touched.at = map[string]time.Time{}
	s.operations.ready = make(chan struct{})
	s.hub = newHub(cfg)
	s.metrics = newMetrics(cfg, s.hub)
	s.routes = s.table()
	var err error
	if s.factsSchema, err = schema.Facts(); err != nil {
		return nil, fmt.Errorf("describing facts: %w", err)
	}
	if s.openAPI, err = openAPI(s.routes, cfg.Version); err != nil {
		return nil, fmt.Errorf("describing the API: %w", err)
	}
	for _, r := range s.routes {
		s.mux.HandleFunc(r.method+" "+r.path, s.answer(r))
	}
	if cfg.Dashboard != nil {
		s.mux.Handle("GET /{$}", cfg.Dashboard)
		s.mux.Handle("GET "+dashboardPath, cfg.Dashboard)
	}
	s.mux.HandleFunc("/", s.answer(s.unknown()))
	return s, nil
}

// Handler is the whole API, for a server that somebody else runs.
func (s *Server) Handler() http.Handler { return s.guard(s.mux) }

// Registry is what /metrics shows; others of the program may add to it.
func (s *Server) Registry() *prometheus.Registry { return s.metrics.registry }

// dashboardPath is where the files of the dashboard are.
const dashboardPath = "/dashboard/"

// Bounds of a connection.
const (
	// maxHeaderBytes leaves room for the longest filter in a URL, where each of
	// its bytes may take three.
	maxHeaderBytes  = 128 << 10
	headerTimeout   = 10 * time.Second
	idleTimeout     = 2 * time.Minute
	shutdownTimeout = 5 * time.Second
)

// Serve answers on a listener until ctx ends, then finishes what is being
// answered, but no watch, and returns. The listener is closed.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{
		Handler: s.Handler(), MaxHeaderBytes: maxHeaderBytes, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout,
		ErrorLog:    slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
		TLSConfig:   s.cfg.TLS,
	}
	ran := make(chan struct{})
	go func() {
		defer close(ran)
		s.Run(ctx)
	}()
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		bounded, done := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer done()
		err := srv.Shutdown(bounded)
		if err != nil { // a client that does not read must not hold us
			err = srv.Close()
		}
		stopped <- err
	}()
	var err error
	if s.cfg.TLS != nil {
		err = srv.ServeTLS(l, "", "")
	} else {
		err = srv.Serve(l)
	}
	cancel()
	err = errors.Join(ignore(err, http.ErrServerClosed), <-stopped)
	<-ran
	if err != nil {
		return fmt.Errorf("serving the API on %s: %w", l.Addr(), err)
	}
	return nil
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}

// Run tells watchers and webhooks what happens and carries operations out, until
// ctx ends. It runs once.
// Serve calls it; call it where Handler is served by another server.
func (s *Server) Run(ctx context.Context) {
	var parts sync.WaitGroup
	parts.Go(func() { s.hub.run(ctx) })
	parts.Go(func() { s.operate(ctx) })
	if s.cfg.Sealer != nil {
		parts.Go(func() { newCourier(s.cfg).run(ctx) })
	}
	parts.Wait()
}

// Loopback reports whether an address to listen on can be reached by this host
// alone.
func Loopback(addr net.Addr) bool {
	switch a := addr.(type) {
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	case *net.UnixAddr:
		return true
	}
	return false
}

// hostAllowed reports whether the Host header names this server. An IP address
// cannot have been rebound by DNS; a name must be one of ours.
func (s *Server) hostAllowed(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.ToLower(strings.TrimSuffix(strings.Trim(name, "[]"), "."))
	if _, err := netip.ParseAddr(name); err == nil {
		return true
	}
	return name == "localhost" || slices.ContainsFunc(s.cfg.Names, func(n string) bool { return strings.EqualFold(n, name) })
}
