package pxe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/pxe/ipxe"
)

// Defaults of Config.
const (
	defaultLeaseTime      = time.Hour
	minLeaseTime          = time.Minute
	defaultQuarantineTime = 10 * time.Minute
)

// Listen checks c, reads the leases, binds every socket and returns a Server
// that has not answered anything yet. A port that another program holds is a
// *PortTakenError; an interface without address in c.Prefix wraps ErrNoAddress.
func Listen(ctx context.Context, c Config) (*Server, error) {
	if err := c.complete(); err != nil {
		return nil, fmt.Errorf("network %s: %w", c.Network, err)
	}
	s := &Server{
		c: c, log: c.Logger, now: c.Now, seen: newSightings(), packets: newPacketLimiter(),
		strangers: newLimiter[inventory.MAC](1, strangersInAll, strangerWindow),
	}
	if err := s.openSockets(ctx); err != nil {
		return nil, fmt.Errorf("network %s: %w", c.Network, err)
	}
	if err := s.prepare(ctx); err != nil {
		s.sock.close()
		return nil, fmt.Errorf("network %s: %w", c.Network, err)
	}
	return s, nil
}

// complete puts in the defaults and refuses what cannot be served.
func (c *Config) complete() error {
	if c.Booter == nil {
		return errors.New("Config.Booter is required")
	}
	if c.Mode == "" {
		c.Mode = ModeOff
	}
	if !slices.Contains([]Mode{ModeOff, ModeProxy, ModeServer}, c.Mode) {
		return fmt.Errorf("DHCP mode %q is not one of server, proxy, off", c.Mode)
	}
	if c.Mode == ModeServer && c.Leases == nil {
		return errors.New("Config.Leases is required in server mode")
	}
	if !c.Prefix.IsValid() || !c.Prefix.Addr().Is4() {
		return fmt.Errorf("prefix %s is not an IPv4 prefix", c.Prefix)
	}
	c.Prefix = c.Prefix.Masked()
	if c.LeaseTime == 0 {
		c.LeaseTime = defaultLeaseTime
	}
	if c.LeaseTime < minLeaseTime {
		return fmt.Errorf("a lease of %s is shorter than %s", c.LeaseTime, minLeaseTime)
	}
	if c.QuarantineTime == 0 {
		c.QuarantineTime = defaultQuarantineTime
	}
	if c.HTTPPort == 0 {
		c.HTTPPort = DefaultHTTPPort
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// openSockets finds the interface and our address on it, and binds.
func (s *Server) openSockets(ctx context.Context) (err error) {
	if s.c.Sockets != nil {
		if !s.c.Address.IsValid() {
			return errors.New("Config.Address is required with Config.Sockets")
		}
		s.sock = *s.c.Sockets
		return nil
	}
	ifi, err := findInterface(s.c.Interface)
	if err != nil {
		return err
	}
	if s.c.Address, err = addressOn(ifi, s.c.Prefix, s.c.Address); err != nil {
		return err
	}
	if s.sock, err = bind(ctx, ifi, s.c); err != nil {
		return err
	}
	return nil
}

// prepare builds everything that needs no socket of its own.
func (s *Server) prepare(ctx context.Context) error {
	c := s.c
	s.net = network{
		prefix: c.Prefix, address: c.Address, gateway: c.Gateway,
		dns: c.DNS, ntp: c.NTP, domain: c.Domain, lease: c.LeaseTime,
	}
	s.url = "http://" + netip.AddrPortFrom(c.Address, c.HTTPPort).String()
	if s.sock.HTTP != nil {
		if a, ok := s.sock.HTTP.Addr().(*net.TCPAddr); ok {
			s.url = "http://" + net.JoinHostPort(c.Address.String(), strconv.Itoa(a.Port))
		}
	}
	programs, err := ipxe.Programs(s.url, c.IPXE)
	if err != nil {
		return err
	}
	s.files = newFiles(programs)
	if s.web, err = s.newWeb(); err != nil {
		return err
	}
	if c.Mode != ModeServer {
		return nil
	}
	if s.sock.ARP != nil {
		s.arp = newARP(s.sock.ARP, s.sock.MAC)
	}
	reservations, err := c.Leases.Reservations(ctx)
	if err != nil {
		return fmt.Errorf("reading the reservations: %w", err)
	}
	kept, err := c.Leases.Leases(ctx, c.Network)
	if err != nil {
		return fmt.Errorf("reading the leases: %w", err)
	}
	s.pool, err = NewPool(PoolConfig{
		Network: c.Network, Prefix: c.Prefix, Range: c.Range, Excluded: []netip.Addr{c.Address, c.Gateway},
		LeaseTime: c.LeaseTime, Quarantine: c.QuarantineTime,
	}, reservations, kept)
	return err
}

// findInterface returns an interface by name, or an error that lists those
// there are.
func findInterface(name string) (*net.Interface, error) {
	ifi, err := net.InterfaceByName(name)
	if err == nil {
		return ifi, nil
	}
	all, listErr := net.Interfaces()
	if listErr != nil {
		return nil, fmt.Errorf("finding interface %q: %w", name, err)
	}
	names := make([]string, len(all))
	for i, other := range all {
		names[i] = other.Name
	}
	return nil, fmt.Errorf("interface %q does not exist: this host has %s", name, strings.Join(names, ", "))
}

// addressOn chooses our address on the interface.
func addressOn(ifi *net.Interface, prefix netip.Prefix, want netip.Addr) (netip.Addr, error) {
	if ifi.Flags&net.FlagUp == 0 {
		return netip.Addr{}, fmt.Errorf("interface %s is down: bring it up first: %w", ifi.Name, ErrNoAddress)
	}
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("reading the addresses of %s: %w", ifi.Name, err)
	}
	var has []string
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err != nil || !p.Addr().Is4() {
			continue
		}
		has = append(has, p.String())
		if prefix.Contains(p.Addr()) && (!want.IsValid() || p.Addr() == want) {
			return p.Addr(), nil
		}
	}
	found := "it has none"
	if len(has) > 0 {
		found = "it has " + strings.Join(has, ", ")
	}
	wanted := "an address in " + prefix.String()
	if want.IsValid() {
		wanted = "address " + want.String()
	}
	return netip.Addr{}, fmt.Errorf("interface %s needs %s, but %s: configure one, or name another interface: %w", ifi.Name, wanted, found, ErrNoAddress)
}

// bind opens all sockets of c on the interface. On an error none stays open.
func bind(ctx context.Context, ifi *net.Interface, c Config) (k Sockets, err error) {
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	k.MAC = func() inventory.MAC { return hardwareAddr(ifi) }
	k.Neighbor = func(a netip.Addr) (inventory.MAC, bool) { return neighbor(ifi.Name, a) }
	if c.Mode != ModeOff {
		if k.DHCP, err = bindUDP(ctx, ifi, netip.IPv4Unspecified(), 67); err != nil {
			return k, err
		}
		if err = bindFrames(&k, ifi, c.Mode); err != nil {
			return k, err
		}
	}
	if c.Mode == ModeProxy {
		if k.Proxy, err = bindUDP(ctx, ifi, netip.IPv4Unspecified(), pxePort); err != nil {
			return k, err
		}
	}
	tftp, err := bindUDP(ctx, ifi, c.Address, 69)
	if err != nil {
		return k, err
	}
	k.TFTP = tftp.(*net.UDPConn)
	lc := net.ListenConfig{Control: toDevice(ifi.Name)}
	at := netip.AddrPortFrom(c.Address, c.HTTPPort)
	web, err := lc.Listen(ctx, "tcp4", at.String())
	if err != nil {
		return k, portError("tcp", at, err)
	}
	k.HTTP = web
	return k, nil
}

// hardwareAddr is the interface's MAC now, or as it was when it cannot be read.
func hardwareAddr(ifi *net.Interface) (mac inventory.MAC) {
	copy(mac[:], ifi.HardwareAddr)
	if now, err := net.InterfaceByIndex(ifi.Index); err == nil {
		copy(mac[:], now.HardwareAddr)
	}
	return mac
}

func bindFrames(k *Sockets, ifi *net.Interface, mode Mode) error {
	out, err := openFrames(ifi, unix.ETH_P_IP, false, nil)
	if err != nil {
		return err
	}
	k.IPv4 = out
	solicited, err := openFrames(ifi, unix.ETH_P_IPV6, true, solicitations())
	if err != nil {
		return err
	}
	k.IPv6 = solicited
	if err := solicited.join(allRouters); err != nil {
		return fmt.Errorf("listening for router solicitations on %s: %w", ifi.Name, err)
	}
	if mode != ModeServer {
		return nil
	}
	asked, err := openFrames(ifi, unix.ETH_P_ARP, true, nil)
	if err != nil {
		return err
	}
	k.ARP = asked
	return nil
}

func bindUDP(ctx context.Context, ifi *net.Interface, addr netip.Addr, port uint16) (net.PacketConn, error) {
	lc := net.ListenConfig{Control: toDevice(ifi.Name)}
	at := netip.AddrPortFrom(addr, port)
	conn, err := lc.ListenPacket(ctx, "udp4", at.String())
	if err != nil {
		return nil, portError("udp", at, err)
	}
	return conn, nil
}

// toDevice ties a socket to one interface before it is bound, so that nothing
// is ever received from another.
func toDevice(name string) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var operr error
		if err := c.Control(func(fd uintptr) { operr = unix.BindToDevice(int(fd), name) }); err != nil {
			return err
		}
		return operr
	}
}

// portError turns "address already in use" into who uses it.
func portError(proto string, at netip.AddrPort, err error) error {
	if !errors.Is(err, unix.EADDRINUSE) {
		return fmt.Errorf("binding %s port %d: %w", proto, at.Port(), err)
	}
	return &PortTakenError{Port: int(at.Port()), Proto: proto, Owner: portOwner("/proc", proto, at.Port()), Err: err}
}
