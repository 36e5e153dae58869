package pxe

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/edge-provision/edge-provision/inventory"
)

// packetPipe is a net.PacketConn between a test and a Server.
type packetPipe struct {
	in     chan datagram
	out    chan datagram
	once   sync.Once
	closed chan struct{}
}

func newPacketPipe() *packetPipe {
	return &packetPipe{in: make(chan datagram, 16), out: make(chan datagram, 16), closed: make(chan struct{})}
}

func (p *packetPipe) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-p.in:
		return copy(b, d.b), net.UDPAddrFromAddrPort(d.from), nil
	case <-p.closed:
		return 0, nil, net.ErrClosed
	}
}

func (p *packetPipe) WriteTo(b []byte, to net.Addr) (int, error) {
	p.out <- datagram{append([]byte(nil), b...), to.(*net.UDPAddr).AddrPort()}
	return len(b), nil
}

func (p *packetPipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}
func (p *packetPipe) LocalAddr() net.Addr              { return &net.UDPAddr{Port: 67} }
func (p *packetPipe) SetDeadline(time.Time) error      { return nil }
func (p *packetPipe) SetReadDeadline(time.Time) error  { return nil }
func (p *packetPipe) SetWriteDeadline(time.Time) error { return nil }

// framePipe is a FrameConn between a test and a Server. answer, when set,
// replies to a frame at once.
type framePipe struct {
	in     chan frame
	out    chan frame
	answer func(frame) (frame, bool)
	once   sync.Once
	closed chan struct{}
}

type frame struct {
	mac inventory.MAC
	b   []byte
}

func newFramePipe() *framePipe {
	return &framePipe{in: make(chan frame, 16), out: make(chan frame, 64), closed: make(chan struct{})}
}

func (p *framePipe) ReadFrame(b []byte) (int, inventory.MAC, error) {
	select {
	case f := <-p.in:
		return copy(b, f.b), f.mac, nil
	case <-p.closed:
		return 0, inventory.MAC{}, net.ErrClosed
	}
}

func (p *framePipe) WriteFrame(to inventory.MAC, b []byte) error {
	f := frame{to, append([]byte(nil), b...)}
	select {
	case p.out <- f:
	case <-p.closed:
		return net.ErrClosed
	}
	if p.answer != nil {
		if back, ok := p.answer(f); ok {
			p.in <- back
		}
	}
	return nil
}

func (p *framePipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

// wire is a Server with everything around it in the test's hands.
type wire struct {
	t      *testing.T
	s      *Server
	dhcp   *packetPipe
	proxy  *packetPipe
	ipv4   *framePipe
	arp    *framePipe
	leases *memoryLeases
	log    *eventLog
}

// newWire listens with c on injected sockets; the caller serves.
func newWire(t *testing.T, c Config) *wire {
	t.Helper()
	w := &wire{t: t, dhcp: newPacketPipe(), ipv4: newFramePipe(), log: newEventLog()}
	c.Site, c.Network, c.Prefix, c.Address = "store", "edge", testPrefix, testServer
	c.Recorder = w.log
	if c.Mode == "" {
		c.Mode = ModeServer
	}
	if l, ok := c.Leases.(*memoryLeases); ok {
		w.leases = l
	} else {
		w.leases = &memoryLeases{}
		c.Leases = w.leases
	}
	c.Sockets = &Sockets{DHCP: w.dhcp, IPv4: w.ipv4, MAC: func() inventory.MAC { return mustMAC("02:00:00:00:00:01") }}
	if c.Mode == ModeProxy {
		w.proxy = newPacketPipe()
		c.Sockets.Proxy = w.proxy
	} else {
		w.arp = newFramePipe()
		c.Sockets.ARP = w.arp
	}
	s, err := Listen(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	w.s = s
	return w
}

// serve starts the server; it is stopped, and its return checked, at the end.
func (w *wire) serve() *wire {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.s.Serve(ctx) }()
	w.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				w.t.Errorf("Serve() = %v; want nil", err)
			}
		case <-time.After(eventBound):
			w.t.Error("Serve did not return after its context ended")
		}
	})
	return w
}

// request is a client's message in a test.
type request struct {
	typ     dhcpv4.MessageType
	mac     inventory.MAC
	ciaddr  string
	giaddr  string
	flags   uint16
	options dhcpv4.Options
}

func (q request) bytes() []byte {
	ip := func(s string) net.IP {
		if s == "" {
			return net.IPv4zero
		}
		return net.ParseIP(s)
	}
	d := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: q.mac[:], TransactionID: [4]byte{1, 2, 3, 4}, Flags: q.flags,
		ClientIPAddr: ip(q.ciaddr), YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: ip(q.giaddr),
		Options: dhcpv4.Options{53: {byte(q.typ)}},
	}
	for k, v := range q.options {
		d.Options[k] = v
	}
	return d.ToBytes()
}

// address is an option's value that is an IPv4 address.
func address(s string) []byte { return netip.MustParseAddr(s).AsSlice() }

// ask hands a message to the server and returns its answer, or nil when it
// stays silent. It runs the handler itself, so silence needs no waiting.
func (w *wire) ask(q request) (reply *dhcpv4.DHCPv4, to string) {
	w.t.Helper()
	return w.askOn(q, 67, "0.0.0.0:68")
}

func (w *wire) askOn(q request, port int, from string) (reply *dhcpv4.DHCPv4, to string) {
	w.t.Helper()
	w.s.handle(w.t.Context(), q.bytes(), netip.MustParseAddrPort(from), port)
	var b []byte
	conn := w.dhcp
	if port == pxePort {
		conn = w.proxy
	}
	select {
	case d := <-conn.out:
		b, to = d.b, d.from.String()
	case f := <-w.ipv4.out:
		var src netip.Addr
		if b, src = udpPayload(f.b, 68); b == nil || src != testServer {
			w.t.Fatalf("the frame to %s is not a DHCP answer from %s", f.mac, testServer)
		}
		to = f.mac.String()
	default:
		return nil, ""
	}
	r, err := dhcpv4.FromBytes(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, to
}

// Options of the firmware that netboots, as captured from QEMU's OVMF and iPXE.
func uefiPXE() dhcpv4.Options {
	return dhcpv4.Options{
		55: {1, 2, 3, 4, 5, 6, 12, 13, 15, 17, 18, 22, 23, 28, 40, 41, 42, 43, 50, 51, 54, 58, 59, 60, 66, 67, 97, 128, 129, 130, 131, 132, 133, 134, 135},
		57: {0x05, 0xc0}, 93: {0, 7}, 94: {1, 3, 0}, 60: []byte("PXEClient:Arch:00007:UNDI:003000"),
		97: append([]byte{0}, "\x21\x04\x4d\x56\x00\x00\x00\x40\x80\x00\x00\x00\x00\x04\x21\x01"...),
	}
}

func romIPXE() dhcpv4.Options {
	return dhcpv4.Options{
		60: []byte("PXEClient:Arch:00000:UNDI:002001"), 77: []byte("iPXE"), 93: {0, 0}, 94: {1, 2, 1},
		175: {0xb1, 5, 1, 0x1a, 0xf4, 0x10, 0, 0x13, 1, 1, 0x10, 1, 2, 0xeb, 3, 1, 0, 0},
	}
}
