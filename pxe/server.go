package pxe

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// Server serves one network. Make it with Listen.
type Server struct {
	c    Config
	net  network
	url  string
	sock Sockets
	log  *slog.Logger
	now  func() time.Time

	packets   *limiter[inventory.MAC]
	strangers *limiter[inventory.MAC]
	arp       *arp // nil when addresses are not leased here
	files     *files
	// rangesSeen tells the first range of a file from those that follow.
	rangesSeen *limiter[rangeKey]
	web        *http.Server

	mu   sync.Mutex // guards pool and seen
	pool *Pool      // nil unless ModeServer
	seen *sightings
}

// Sockets are what a Server talks through. Listen opens them; tests bring
// their own. A nil member is a part that is not served.
type Sockets struct {
	DHCP  net.PacketConn // UDP 67
	Proxy net.PacketConn // UDP 4011
	TFTP  *net.UDPConn   // UDP 69
	HTTP  net.Listener
	IPv4  FrameConn // answers to clients without an address; write only
	ARP   FrameConn // asks for addresses before they are offered
	IPv6  FrameConn // router solicitations and their answers
	// Neighbor looks an address up in the host's ARP table; nil finds none.
	Neighbor func(netip.Addr) (inventory.MAC, bool)
	// MAC returns the interface's own address, which may change: a bridge
	// takes over that of a port.
	MAC func() inventory.MAC
}

// close closes what is open and leaves the errors: every socket is closed for
// good.
func (k Sockets) close() {
	for _, c := range []interface{ Close() error }{k.DHCP, k.Proxy, k.HTTP, k.IPv4, k.ARP, k.IPv6} {
		if c != nil {
			c.Close()
		}
	}
	if k.TFTP != nil {
		k.TFTP.Close()
	}
}

// Close releases the sockets of a Server that is not going to be served.
func (s *Server) Close() error {
	s.sock.close()
	return nil
}

// URL is the root of the HTTP server, such as "http://172.22.0.1:8480".
func (s *Server) URL() string { return s.url }

// Reload reads the reservations again, after the site changed.
func (s *Server) Reload(ctx context.Context) error {
	if s.pool == nil {
		return nil
	}
	reservations, err := s.c.Leases.Reservations(ctx)
	if err != nil {
		return fmt.Errorf("reading the reservations of %s: %w", s.c.Network, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool.Reserve(reservations)
}

// MACOf returns the MAC to which addr is leased, or which answers for addr on
// the link where another server leases addresses (proxy mode).
func (s *Server) MACOf(addr netip.Addr) (inventory.MAC, bool) {
	addr = addr.Unmap()
	if s.pool == nil {
		return s.neighbor(addr)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool.MACOf(addr, s.now())
}

// AddressOf returns the address that is leased to mac, in server mode.
func (s *Server) AddressOf(mac inventory.MAC) (netip.Addr, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool == nil {
		return netip.Addr{}, false
	}
	return s.pool.AddressOf(mac, s.now())
}

func (s *Server) neighbor(addr netip.Addr) (inventory.MAC, bool) {
	if s.sock.Neighbor == nil {
		return inventory.MAC{}, false
	}
	return s.sock.Neighbor(addr)
}

// whose is the MAC that events about addr belong to; zero when unknown.
func (s *Server) whose(addr netip.Addr) inventory.MAC {
	if mac, ok := s.MACOf(addr); ok {
		return mac
	}
	s.mu.Lock()
	mac, ok := s.seen.byAddr[addr]
	s.mu.Unlock()
	if !ok {
		mac, _ = s.neighbor(addr)
	}
	return mac
}

// holds reports whether addr is mac's: leased to it and, where the host's ARP
// table knows better, not used by another card.
func (s *Server) holds(mac inventory.MAC, addr netip.Addr) bool {
	if s.pool != nil {
		if held, ok := s.MACOf(addr); !ok || held != mac {
			return false
		}
		seen, ok := s.neighbor(addr)
		return !ok || seen == mac
	}
	seen, ok := s.neighbor(addr)
	return ok && seen == mac
}

// bootingTime is how long after its last DHCP message a machine counts as
// booting.
const bootingTime = 2 * time.Minute

// booting reports whether mac is a machine that iPXE is booting right now.
func (s *Server) booting(mac inventory.MAC) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.seen.byMAC[mac]
	return g != nil && (g.kind == KindInstall || g.kind == KindLocal) &&
		g.client.Stage.Netboots() && s.now().Sub(g.seen) < bootingTime
}

func (s *Server) record(mac inventory.MAC, kind inventory.EventKind, message string, attrs map[string]string) {
	if s.c.Recorder == nil {
		return
	}
	s.c.Recorder.Record(inventory.Event{
		Time: s.now(), Site: s.c.Site, MAC: mac, Kind: kind, Message: message, Attrs: attrs,
	})
}

// Serve answers until ctx ends, and then returns nil with all sockets closed
// and no goroutine left. Any other return is an error.
func (s *Server) Serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	part := func(name string, serve func() error) {
		wg.Go(func() {
			if err := serve(); err != nil && ctx.Err() == nil {
				cancel(fmt.Errorf("serving %s: %w", name, err))
			}
		})
	}
	if s.sock.DHCP != nil {
		part("DHCP", func() error { return s.serveDHCP(ctx, s.sock.DHCP, 67) })
	}
	if s.sock.Proxy != nil {
		part("proxyDHCP", func() error { return s.serveDHCP(ctx, s.sock.Proxy, pxePort) })
	}
	if s.arp != nil {
		part("ARP", s.arp.serve)
	}
	if s.sock.IPv6 != nil {
		a := &advertiser{conn: s.sock.IPv6, mac: s.sock.MAC, booting: s.booting}
		part("router advertisements", a.serve)
	}
	if s.sock.TFTP != nil {
		part("TFTP", func() error { return s.serveTFTP(ctx) })
	}
	if s.sock.HTTP != nil {
		part("HTTP", func() error {
			return s.web.Serve(limitListener{s.sock.HTTP, newGauge[string](connsPerClient, connsInAll)})
		})
	}
	<-ctx.Done()
	s.stop()
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// goodbye is how long HTTP transfers may go on after the context ended.
const goodbye = time.Second

func (s *Server) stop() {
	if s.sock.HTTP != nil {
		ctx, cancel := context.WithTimeout(context.Background(), goodbye)
		defer cancel()
		if s.web.Shutdown(ctx) != nil {
			s.web.Close()
		}
	}
	s.sock.close()
}

// DHCP packets are handled by a few workers. All packets of one client go to
// the same worker, in order; a queue that is full drops, and the client asks
// again.
const (
	dhcpWorkers = 8
	dhcpQueue   = 64
)

type datagram struct {
	b    []byte
	from netip.AddrPort
}

// maxReadErrors is how many reads in a row may fail before the socket counts
// as broken; a link that goes down fails a few.
const maxReadErrors = 100

func (s *Server) serveDHCP(ctx context.Context, conn net.PacketConn, port int) error {
	var wg sync.WaitGroup
	queues := make([]chan datagram, dhcpWorkers)
	for i := range queues {
		queues[i] = make(chan datagram, dhcpQueue)
		wg.Go(func() {
			for d := range queues[i] {
				s.handleSafely(ctx, d, port)
			}
		})
	}
	defer wg.Wait()
	defer func() {
		for _, q := range queues {
			close(q)
		}
	}()
	seed := maphash.MakeSeed()
	buf := make([]byte, maxMessage)
	failed := 0
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			if failed++; errors.Is(err, net.ErrClosed) || failed > maxReadErrors {
				return err
			}
			continue
		}
		failed = 0
		udp, ok := from.(*net.UDPAddr)
		if !ok || n < offOptions {
			continue
		}
		d := datagram{append([]byte(nil), buf[:n]...), udp.AddrPort()}
		select {
		case queues[maphash.Bytes(seed, d.b[28:34])%dhcpWorkers] <- d:
		default:
		}
	}
}

// handleSafely keeps a packet that breaks a parser from ending the service of
// all other machines.
func (s *Server) handleSafely(ctx context.Context, d datagram, port int) {
	defer func() {
		if r := recover(); r != nil {
			s.log.Error("a DHCP message broke its handler", "from", d.from, "panic", r)
		}
	}()
	s.handle(ctx, d.b, netip.AddrPortFrom(d.from.Addr().Unmap(), d.from.Port()), port)
}
