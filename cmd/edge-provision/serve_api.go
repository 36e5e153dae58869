package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/dashboard"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/workflows/journal"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// apiFlags say where the API is served, and to whom.
type apiFlags struct {
	listen       string
	names        []string
	requireToken bool

	listenGiven bool // listen was chosen, and is no default

	inherited net.Listener  // from a service manager, in place of listen; nil: none
	current   func() *world // the site as it is served; nil: it never changes
	runner    api.Runner    // begins and cancels runs; nil: nothing does
}

func (f *apiFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.listen, "listen", api.DefaultListen, "address and TCP port of the API; off: none")
	c.Flags().StringArrayVar(&f.names, "server-name", nil, "name under which clients call the API; may be repeated")
	c.Flags().BoolVar(&f.requireToken, "require-token", false, "ask for a token over loopback too")
}

// fits refuses an address that would be passed over in silence, because a service
// manager has bound another.
func (f *apiFlags) fits(inherited net.Listener) error {
	if inherited == nil || !f.listenGiven || f.listen == inherited.Addr().String() {
		return nil
	}
	return fmt.Errorf("--listen %s cannot be followed: the service manager has bound %s for the API. Leave --listen out, and set that address by ListenStream= in a drop-in of edge-provision.socket",
		f.listen, inherited.Addr())
}

// apiService is the API on its bound socket.
type apiService struct {
	*api.Server
	listener net.Listener
	secure   bool
}

// url is where a person finds it.
func (s *apiService) url() string {
	scheme := "http"
	if s.secure {
		scheme = "https"
	}
	return scheme + "://" + s.listener.Addr().String()
}

// listenAPI binds the API; nil when it is switched off. Off loopback it speaks
// TLS, by the site's CA, and asks everybody for a token.
func (w *world) listenAPI(f apiFlags) (*apiService, error) {
	l := f.inherited
	var err error
	switch {
	case l != nil:
	case f.listen == "off":
		return nil, nil
	default:
		if l, err = net.Listen("tcp", f.listen); err != nil {
			return nil, fmt.Errorf("serving the API: %w; choose another address with --listen, or --listen off", err)
		}
	}
	current := f.current
	if current == nil {
		current = func() *world { return w }
	}
	cfg := api.Config{
		Catalog: w.catalog, Runs: runs{w.journal}, Version: version, Names: f.names, Log: w.app.logger(), Now: time.Now,
		Address: func(m inventory.Machine) netip.Addr { return current().addressOf(m) }, Hostname: func(m inventory.Machine) string { return current().hostnameOf(m) },
		Site: w.site.Name, Power: powerer{current}, Sealer: w.keys, Runner: f.runner,
	}
	switch {
	case !api.Loopback(l.Addr()):
		hosts := certificateHosts(l.Addr(), f.names)
		cfg.Names = hosts
		cfg.TLS, err = w.ca.TLS(hosts, time.Now())
	case !f.requireToken:
		cfg.Anonymous = resource.RoleReader
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	if cfg.Dashboard, err = dashboard.Handler(); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	server, err := api.New(cfg)
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &apiService{Server: server, listener: l, secure: cfg.TLS != nil}, nil
}

// certificateHosts are the names and addresses of the certificate: those that were
// given, this host's name, and where it listens.
func certificateHosts(addr net.Addr, names []string) []string {
	hosts := slices.Clone(names)
	if name, err := os.Hostname(); err == nil {
		hosts = append(hosts, name)
	}
	tcp, ok := addr.(*net.TCPAddr)
	if ok && !tcp.IP.IsUnspecified() {
		return append(hosts, tcp.IP.String())
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return hosts // its names remain
	}
	for _, a := range own {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			hosts = append(hosts, p.Addr().String())
		}
	}
	return hosts
}

// declaredMachine is how the site declares a machine of the catalog; nil: it does
// not, or declares another at its address. While another version takes the site's
// place, the catalog is ahead of the one that is served.
func (w *world) declaredMachine(m inventory.Machine) *site.Machine {
	if m.Site != w.site.Name || m.Address == "" {
		return nil
	}
	d := w.site.MachineByAddress(m.Address)
	if d != nil && !d.MAC.IsZero() && !slices.Contains(m.MACs, d.MAC) {
		return nil
	}
	return d
}

func (w *world) addressOf(m inventory.Machine) netip.Addr {
	d := w.declaredMachine(m)
	switch {
	case d == nil:
	case d.IP.IsValid():
		return d.IP
	case d.Adopted():
		if at, err := netip.ParseAddr(d.SSH.Host); err == nil {
			return at
		}
	}
	return netip.Addr{}
}

func (w *world) hostnameOf(m inventory.Machine) string {
	if d := w.declaredMachine(m); d != nil {
		return d.Hostname
	}
	return ""
}

// powerer changes power through the BMCs that the site declares.
type powerer struct{ current func() *world }

// Working implements api.Powerer.
func (p powerer) Working(ctx context.Context, m inventory.Machine) (*resource.Run, error) {
	w := p.current()
	if w.declaredMachine(m) == nil {
		return nil, nil // it has no BMC that we know
	}
	run, err := w.workingOn(ctx, m.Address)
	switch {
	case err != nil:
		return nil, err
	case run != nil:
		out := runResource(*run)
		return &out, nil
	case w.wanted.Has(m.ID):
		return &resource.Run{Site: w.site.Name, Command: "apply"}, nil
	}
	return nil, nil
}

// SetPower implements api.Powerer.
func (p powerer) SetPower(ctx context.Context, m inventory.Machine, action string) (string, error) {
	w := p.current()
	if w.declaredMachine(m) == nil {
		return "", fmt.Errorf("site %s declares no machine with the id %s, so its BMC is not known", w.site.Name, m.ID)
	}
	c, err := w.powers.BMC(m.Address)
	if err != nil {
		return "", err
	}
	if err := c.SetPower(ctx, bmc.PowerAction(action)); err != nil {
		return "", err
	}
	state, err := c.PowerState(ctx)
	return string(state), err
}

// runs shows the journal to the API. What steps put out stays there.
type runs struct{ journal *journal.Journal }

// Runs implements api.Runs.
func (r runs) Runs(ctx context.Context, site string, before uuid.UUID, limit int) ([]resource.Run, error) {
	rows, err := r.journal.Page(ctx, site, before, limit)
	if err != nil {
		return nil, err
	}
	out := make([]resource.Run, len(rows))
	for i, row := range rows {
		out[i] = runResource(row)
	}
	return out, nil
}

// Run implements api.Runs.
func (r runs) Run(ctx context.Context, id uuid.UUID) (resource.Run, []resource.Step, error) {
	row, err := r.journal.Show(ctx, id)
	if err != nil {
		return resource.Run{}, nil, err
	}
	run := runResource(row)
	run.Actions = actionsOf(row)
	return run, stepResources(row), nil
}

func stepResources(r journal.Run) []resource.Step {
	steps := make([]resource.Step, len(r.Steps))
	for i, s := range r.Steps {
		steps[i] = resource.Step{
			Run: r.ID, Address: s.Address, Attempt: s.Attempt, State: s.State, Error: s.Error,
			StartedAt: s.Started, FinishedAt: timeOrNil(s.Finished),
		}
	}
	return steps
}

func runResource(r journal.Run) resource.Run {
	return resource.Run{
		ID: r.ID, Site: r.Site, Command: recordOf(r).Command, PlanDigest: r.PlanDigest, State: r.State, Error: r.Error,
		StartedAt: r.Started, FinishedAt: timeOrNil(r.Finished), CancelRequested: timeOrNil(r.CancelRequested),
	}
}

// actionsOf is what the plan of a run does. The record that it is part of says
// also where files are, which is nobody's business.
func actionsOf(r journal.Run) []resource.Action {
	var record struct {
		Plan struct {
			Actions []resource.Action `json:"actions"`
		} `json:"plan"`
	}
	if len(r.Actions) == 0 || json.Unmarshal(r.Actions, &record) != nil {
		return nil // of an older program
	}
	return record.Plan.Actions
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
