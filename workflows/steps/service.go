package steps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// ServiceConfig says what a Service serves, and from what.
type ServiceConfig struct {
	Site      *site.Site
	Catalog   *store.Store
	Authority *keyring.Authority
	Wanted    *Wanted
	// HTTPPort carries boot files and images, AgentPort the agents' API. They
	// stay the same over restarts, because machines in the installer keep
	// asking there. Zero means DefaultHTTPPort and DefaultAgentPort.
	HTTPPort, AgentPort uint16
	Log                 *slog.Logger
	Now                 func() time.Time
	// Sockets replaces the sockets that would be bound on a network's
	// interface, and our address there; for tests. Nil: they are bound.
	Sockets func(*site.Network) (*pxe.Sockets, netip.Addr)
}

// Default ports of a controller.
const (
	DefaultHTTPPort  = pxe.DefaultHTTPPort
	DefaultAgentPort = 8481
)

// Service is everything that machines talk to while they boot: on each network
// DHCP, TFTP and HTTP, and the agents' API.
type Service struct {
	Dispatch *dispatch.Server
	cfg      ServiceConfig
	segments []*segment

	mu   sync.Mutex
	site *site.Site // that is served now: ServiceConfig's, or the one of Use
}

// segment is the service of one network.
type segment struct {
	network *site.Network
	pxe     *pxe.Server
	booter  *Booter
	agents  net.Listener
	api     string // URL of the agents' API
}

// ForeignServerError says that another DHCP server answers on a network that
// this site wants to serve.
type ForeignServerError struct {
	Network *site.Network
	Servers []pxe.ForeignServer
}

func (e *ForeignServerError) Error() string {
	var names []string
	for _, f := range e.Servers {
		names = append(names, f.Address.String())
	}
	return fmt.Sprintf("%s: another DHCP server answers on %s: %s. Two servers would give out addresses against each other. "+
		"Switch that one off, or declare dhcp { mode = \"proxy\" } to boot machines beside it",
		e.Network.Address, e.Network.Interface, strings.Join(names, ", "))
}

// Listen checks the networks and binds every socket; nothing is answered until
// Serve. In mode "server" it first asks whether somebody else already serves.
func Listen(ctx context.Context, c ServiceConfig) (*Service, error) {
	if c.HTTPPort == 0 {
		c.HTTPPort = DefaultHTTPPort
	}
	if c.AgentPort == 0 {
		c.AgentPort = DefaultAgentPort
	}
	s := &Service{cfg: c, site: c.Site}
	var hosts []string
	for _, n := range c.Site.Networks {
		if n.Gateway.IsValid() {
			hosts = append(hosts, n.Gateway.String())
		}
	}
	tls, err := c.Authority.TLS(hosts, c.Now())
	if err != nil {
		return nil, err
	}
	s.Dispatch, err = dispatch.New(dispatch.Config{
		Site: c.Site.Name, Store: c.Catalog.Settings(), Leases: s, Facts: MachineFacts(c.Site, c.Catalog),
		Neighbors: MachineNeighbors(c.Site, c.Catalog),
		Recorder:  recorder{c.Catalog}, Logger: c.Log, Now: c.Now, TLS: tls,
	})
	if err != nil {
		return nil, err
	}
	for _, n := range c.Site.Networks {
		seg, err := s.listen(ctx, n)
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		s.segments = append(s.segments, seg)
	}
	return s, nil
}

func (s *Service) listen(ctx context.Context, n *site.Network) (*segment, error) {
	mode := pxe.Mode(n.DHCP.Mode)
	if mode == pxe.ModeServer && s.cfg.Sockets == nil {
		foreign, err := pxe.Probe(ctx, n.Interface)
		if err != nil {
			return nil, fmt.Errorf("%s: looking for another DHCP server on %s: %w", n.Address, n.Interface, err)
		}
		if len(foreign) > 0 {
			return nil, &ForeignServerError{Network: n, Servers: foreign}
		}
	}
	seg := &segment{network: n, booter: NewBooter(s.cfg.Site, n, s.cfg.Catalog, s.Dispatch, s.cfg.Wanted)}
	config := pxe.Config{
		Site: s.cfg.Site.Name, Network: n.ID(), Interface: n.Interface, Prefix: n.CIDR, Mode: mode,
		Gateway: n.Gateway, DNS: n.DNS, NTP: n.NTP, Domain: n.Domain, LeaseTime: n.DHCP.Lease,
		HTTPPort: s.cfg.HTTPPort, Booter: seg.booter, Leases: leases{s, n},
		Recorder: s.cfg.Catalog, Logger: s.cfg.Log, Now: s.cfg.Now,
	}
	if n.DHCP.First.IsValid() {
		config.Range = []pxe.Range{{First: n.DHCP.First, Last: n.DHCP.Last}}
	}
	if s.cfg.Sockets != nil {
		config.Sockets, config.Address = s.cfg.Sockets(n)
	}
	var err error
	if seg.pxe, err = pxe.Listen(ctx, config); err != nil {
		return nil, fmt.Errorf("%s: %w", n.Address, err)
	}
	root, err := url.Parse(seg.pxe.URL())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", n.Address, err), seg.pxe.Close())
	}
	at := net.JoinHostPort(root.Hostname(), strconv.Itoa(int(s.cfg.AgentPort)))
	seg.agents, err = (&net.ListenConfig{}).Listen(ctx, "tcp", at)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: serving agents: %w", n.Address, err), seg.pxe.Close())
	}
	seg.api = "https://" + at
	return seg, nil
}

// Installer is what machines netboot; its files have been verified.
type Installer struct {
	Kernel, Initramfs pxe.Asset
	// Console are arguments of the kernel such as console=ttyS0.
	Console []string
}

// Boot registers the installer on every network; from now on machines that are
// wanted there get it.
func (s *Service) Boot(i Installer) error {
	boot, err := s.Prepare(i)
	if err == nil {
		boot()
	}
	return err
}

// Prepare registers the files of an installer on every network, and leaves what
// machines boot as it is until boot is called, which cannot fail. The zero
// Installer is none: no machine is sent to one then.
func (s *Service) Prepare(i Installer) (boot func(), err error) {
	if i.none() {
		return func() { s.bootstrap(i) }, nil
	}
	for _, seg := range s.segments {
		for _, asset := range []pxe.Asset{i.Kernel, i.Initramfs} {
			if _, err := seg.pxe.Register(asset); err != nil {
				return nil, fmt.Errorf("%s: serving %s: %w", seg.network.Address, asset.Name, err)
			}
		}
	}
	return func() { s.bootstrap(i) }, nil
}

func (i Installer) none() bool { return i.Kernel.Name == "" && i.Initramfs.Name == "" }

// bootstrap tells every network of an installer whose files are registered.
func (s *Service) bootstrap(i Installer) {
	for _, seg := range s.segments {
		seg.booter.SetBootstrap(Bootstrap{
			Kernel: i.Kernel.Name, Initramfs: i.Initramfs.Name,
			Controller: seg.api, Pin: s.cfg.Authority.Pin(), Console: i.Console,
		})
	}
}

// Publish makes files fetchable on a network and returns their URLs.
func (s *Service) Publish(network *site.Network, assets ...pxe.Asset) ([]string, error) {
	for _, seg := range s.segments {
		if seg.network.Address != network.Address {
			continue
		}
		var urls []string
		for _, a := range assets {
			url, err := seg.pxe.Register(a)
			if err != nil {
				return nil, fmt.Errorf("%s: serving %s: %w", network.Address, a.Name, err)
			}
			urls = append(urls, url)
		}
		return urls, nil
	}
	return nil, fmt.Errorf("%s is not being served", network.Address)
}

// Serve answers on every network until ctx ends, or until one of the services
// fails; then it ends the others too.
func (s *Service) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	run := func(what string, serve func(context.Context) error) {
		wg.Go(func() {
			defer cancel()
			if err := serve(ctx); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("%s: %w", what, err))
			}
		})
	}
	for _, seg := range s.segments {
		if s.cfg.Sockets == nil {
			wg.Go(func() { s.checkFirewall(ctx, seg) })
		}
		run(seg.network.Address, seg.pxe.Serve)
		run(seg.network.Address, func(ctx context.Context) error { return s.Dispatch.Serve(ctx, seg.agents) })
	}
	if len(s.segments) == 0 {
		<-ctx.Done()
	}
	wg.Wait()
	return errors.Join(errs...)
}

// NetworkChangedError says that a site has other networks than those that are
// bound.
type NetworkChangedError struct {
	Address string // of the network
	What    string // such as "its interface changed"
}

// Error implements error.
func (e *NetworkChangedError) Error() string {
	return fmt.Sprintf("%s: %s. Networks stay as they were when serve began: start it again to have them changed", e.Address, e.What)
}

// Fits returns *NetworkChangedError for a site that cannot be served by the
// sockets of this Service.
func (s *Service) Fits(next *site.Site) error {
	for _, seg := range s.segments {
		i := slices.IndexFunc(next.Networks, func(n *site.Network) bool { return n.Address == seg.network.Address })
		if i < 0 {
			return &NetworkChangedError{seg.network.Address, "it is not declared any more"}
		}
		if what := networkChange(seg.network, next.Networks[i]); what != "" {
			return &NetworkChangedError{seg.network.Address, what}
		}
	}
	for _, n := range next.Networks {
		if !slices.ContainsFunc(s.segments, func(seg *segment) bool { return seg.network.Address == n.Address }) {
			return &NetworkChangedError{n.Address, "it is new"}
		}
	}
	return nil
}

// networkChange names what a running service cannot follow; empty: nothing.
func networkChange(was, is *site.Network) string {
	switch {
	case was.Interface != is.Interface:
		return fmt.Sprintf("its interface was %s and is %s", was.Interface, is.Interface)
	case was.CIDR != is.CIDR:
		return fmt.Sprintf("its cidr was %s and is %s", was.CIDR, is.CIDR)
	case was.DHCP.Mode != is.DHCP.Mode:
		return fmt.Sprintf("its dhcp mode was %q and is %q", was.DHCP.Mode, is.DHCP.Mode)
	case was.DHCP.First != is.DHCP.First || was.DHCP.Last != is.DHCP.Last || was.DHCP.Lease != is.DHCP.Lease:
		return "its dhcp block changed"
	case was.Gateway != is.Gateway || was.Domain != is.Domain || !slices.Equal(was.DNS, is.DNS) || !slices.Equal(was.NTP, is.NTP):
		return "what its clients are told (gateway, dns, ntp, domain) changed"
	}
	return ""
}

// Use serves another version of the site from now on, such as one that was
// edited: its machines, their addresses and what is done about unknown clients. A
// site that does not fit leaves everything as it was.
func (s *Service) Use(ctx context.Context, next *site.Site) error {
	if err := s.Fits(next); err != nil {
		return err
	}
	before := s.served()
	s.take(next)
	for _, seg := range s.segments {
		if err := seg.pxe.Reload(ctx); err != nil {
			s.take(before)
			return fmt.Errorf("%s: %w", seg.network.Address, err)
		}
	}
	return nil
}

// take hands a site that fits to all who ask for it.
func (s *Service) take(next *site.Site) {
	s.mu.Lock()
	s.site = next
	s.mu.Unlock()
	for _, seg := range s.segments {
		i := slices.IndexFunc(next.Networks, func(n *site.Network) bool { return n.Address == seg.network.Address })
		seg.booter.Use(next, next.Networks[i])
	}
}

// served is the site as it is served now.
func (s *Service) served() *site.Site {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.site
}

// Close releases the sockets of a Service that is not going to be served.
func (s *Service) Close() error {
	var errs []error
	for _, seg := range s.segments {
		errs = append(errs, seg.pxe.Close(), seg.agents.Close())
	}
	return errors.Join(errs...)
}

// LeasedAddress implements dispatch.Leases: in mode "server" an address is ours
// to know, in every other mode nothing can be said.
func (s *Service) LeasedAddress(_ context.Context, mac inventory.MAC) (netip.Addr, bool, error) {
	known := len(s.segments) > 0
	for _, seg := range s.segments {
		if seg.network.DHCP.Mode != site.DHCPServer {
			known = false
			continue
		}
		if addr, ok := seg.pxe.AddressOf(mac); ok {
			return addr, true, nil
		}
	}
	return netip.Addr{}, known, nil
}

// recorder hands the events of agents to the catalog.
type recorder struct{ catalog *store.Store }

// Record implements dispatch.Recorder.
func (r recorder) Record(_ context.Context, e inventory.Event) { r.catalog.Record(e) }

// leases gives one network's part of the catalog to its DHCP service.
type leases struct {
	service *Service
	network *site.Network
}

// Reservations implements pxe.Leases.
func (l leases) Reservations(ctx context.Context) ([]pxe.Reservation, error) {
	var out []pxe.Reservation
	current := l.service.served()
	for _, m := range current.Machines {
		if m.Network == nil || m.Network.Address != l.network.Address || !m.IP.IsValid() {
			continue
		}
		mac := m.MAC
		if m.Match != nil {
			row, err := l.service.cfg.Catalog.MachineByAddress(ctx, current.Name, m.Address)
			if err != nil || len(row.MACs) == 0 {
				continue // not bound yet
			}
			mac = row.MACs[0]
		}
		out = append(out, pxe.Reservation{MAC: mac, Address: m.IP, Hostname: m.Hostname})
	}
	return out, nil
}

// Leases implements pxe.Leases.
func (l leases) Leases(ctx context.Context, network string) ([]inventory.Lease, error) {
	return l.service.cfg.Catalog.Leases(ctx, network)
}

// Commit implements pxe.Leases.
func (l leases) Commit(ctx context.Context, lease inventory.Lease) error {
	return l.service.cfg.Catalog.Commit(ctx, lease)
}
