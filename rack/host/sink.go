package host

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// The link between a lab and its sink, with addresses of RFC 5737.
const (
	exitLink    = "exit0"
	sinkLink    = "sink0"
	exitMAC     = "02:00:00:00:00:02"
	sinkMAC     = "02:00:00:00:00:01"
	exitAddress = "192.0.2.2/30"
)

// SinkAddress is the default gateway and the name server of a lab that has a
// sink. Nobody has the address.
const SinkAddress = "192.0.2.1"

// Sink is where every packet ends that a lab sends to anywhere else, questions for
// names among them. It answers nothing, and counts.
type Sink struct {
	own      []netip.Prefix
	socket   int
	resolver string // path of a resolv.conf
	closing  sync.Once
	closed   error
}

// Traffic is what has left a lab.
type Traffic struct {
	// Packets is how many; Queries is how many of them were questions to a name
	// server (port 53).
	Packets, Queries int
	// Strays are, beside these, packets for the lab's own networks: those of a
	// node that did not know its way yet.
	Strays int
	// Lines describe them, each once, 100 at most: for a person who wants none.
	Lines []string
}

// maxTrafficLines bounds Traffic.Lines.
const maxTrafficLines = 100

func (l *Lab) sinkNamespace() string { return l.Namespace + "-sink" }

// AddSink gives the lab a way out that leads nowhere: a default route, and a name
// server for its hosts and for Command, both of which are the sink. own are the
// networks that the hosts make between themselves, as those of pods and services.
// Hosts that Replace renews later have the route and no name server. A lab has one
// sink, which Close removes.
func (l *Lab) AddSink(ctx context.Context, own ...netip.Prefix) (_ *Sink, err error) {
	if l.sink != nil {
		return nil, errors.New("adding a sink: the lab has one")
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("adding a sink to lab %s: %w", l.config.Name, err)
		}
	}()
	s := &Sink{own: own, resolver: filepath.Join(l.config.Dir, "resolv.conf")}
	resolver := "nameserver " + SinkAddress + "\noptions timeout:1 attempts:1\n"
	if err := os.WriteFile(s.resolver, []byte(resolver), 0o644); err != nil {
		return nil, err
	}
	// Without IPv6, and with a neighbour that is known, nothing travels by itself.
	for _, args := range [][]string{
		{"netns", "add", l.sinkNamespace()},
		{"-n", l.Namespace, "link", "add", "name", exitLink, "address", exitMAC, "type", "veth", "peer", "name", sinkLink, "address", sinkMAC, "netns", l.sinkNamespace()},
	} {
		if err := ip(ctx, args...); err != nil {
			return nil, err
		}
	}
	if err := write(l.sinkNamespace(), map[string]string{"ipv6/conf/" + sinkLink + "/disable_ipv6": "1"}); err != nil {
		return nil, err
	}
	err = write(l.Namespace, map[string]string{
		"ipv6/conf/" + exitLink + "/disable_ipv6": "1",
		"ipv4/ip_forward":                         "1",
		// Pods' packets leave under addresses that the lab has no route to.
		"ipv4/conf/all/rp_filter":                 "0",
		"ipv4/conf/" + bridge + "/rp_filter":      "0",
		"ipv4/conf/" + bridge + "/send_redirects": "0",
		"ipv4/conf/all/send_redirects":            "0",
	})
	if err != nil {
		return nil, err
	}
	if err := inside(l.sinkNamespace(), s.listen); err != nil {
		return nil, err
	}
	l.sink = s
	for _, args := range [][]string{
		{"-n", l.sinkNamespace(), "link", "set", "dev", sinkLink, "up"},
		{"-n", l.Namespace, "address", "add", exitAddress, "dev", exitLink},
		{"-n", l.Namespace, "link", "set", "dev", exitLink, "up"},
		{"-n", l.Namespace, "neighbour", "replace", SinkAddress, "lladdr", sinkMAC, "dev", exitLink, "nud", "permanent"},
		{"-n", l.Namespace, "route", "add", "default", "via", SinkAddress},
	} {
		if err := ip(ctx, args...); err != nil {
			return nil, err
		}
	}
	return s, l.each(func(h *Host) error {
		_, err := h.exec(ctx, "sh", "-c", `rm -f /etc/resolv.conf && printf %s "$0" >/etc/resolv.conf`, resolver)
		return err
	})
}

// write writes settings of a network namespace.
func write(namespace string, settings map[string]string) error {
	return inside(namespace, func() error {
		for name, value := range settings {
			if err := os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644); err != nil {
				return fmt.Errorf("setting %s to %s: %w", name, value, err)
			}
		}
		return nil
	})
}

// sinkBufferBytes is how many bytes of packets wait to be described. Those beyond
// are counted all the same.
const sinkBufferBytes = 4 << 20

// listen opens the socket that counts (packet(7)), before anything can arrive.
func (s *Sink) listen() (err error) {
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	s.socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening the socket that counts: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("opening the socket that counts: %w", err), unix.Close(s.socket))
		}
	}()
	link, err := net.InterfaceByName(sinkLink)
	if err != nil {
		return err
	}
	if err := unix.SetsockoptInt(s.socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, sinkBufferBytes); err != nil {
		return err
	}
	return unix.Bind(s.socket, &unix.SockaddrLinklayer{Protocol: all, Ifindex: link.Index})
}

// Take returns what has left since the last time.
func (s *Sink) Take() (Traffic, error) {
	var t Traffic
	frame := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(s.socket, frame, unix.MSG_DONTWAIT)
		switch {
		case errors.Is(err, unix.EAGAIN):
			// What did not fit into the buffer; reading the counter sets it to zero.
			stats, err := unix.GetsockoptTpacketStats(s.socket, unix.SOL_PACKET, unix.PACKET_STATISTICS)
			if err != nil {
				return t, fmt.Errorf("counting what left the lab: %w", err)
			}
			t.Packets += int(stats.Drops)
			return t, nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ENETDOWN):
			// Told once, because the link was down when the socket was opened.
		case err != nil:
			return t, fmt.Errorf("reading what left the lab: %w", err)
		default:
			s.count(&t, frame[:n])
		}
	}
}

func (s *Sink) count(t *Traffic, frame []byte) {
	line, to, query := describe(frame)
	switch {
	case slices.ContainsFunc(s.own, func(p netip.Prefix) bool { return p.Contains(to) }):
		t.Strays++
	case query:
		t.Packets++
		t.Queries++
	default:
		t.Packets++
	}
	if len(t.Lines) < maxTrafficLines && !slices.Contains(t.Lines, line) {
		t.Lines = append(t.Lines, line)
	}
}

func (s *Sink) close() error {
	if s == nil {
		return nil
	}
	s.closing.Do(func() { s.closed = unix.Close(s.socket) })
	return s.closed
}

const (
	ethernetBytes = 14
	dnsPort       = 53
)

// describe says what an Ethernet frame is, for which address (the zero one where it
// has none), and whether it is a question for a name.
func describe(frame []byte) (line string, to netip.Addr, query bool) {
	if len(frame) < ethernetBytes {
		return fmt.Sprintf("a frame of %d bytes", len(frame)), to, false
	}
	kind, packet := binary.BigEndian.Uint16(frame[12:]), frame[ethernetBytes:]
	if kind != unix.ETH_P_IP {
		return fmt.Sprintf("a frame of type %#04x", kind), to, false
	}
	// RFC 791, section 3.1.
	if len(packet) < 20 || packet[0]>>4 != 4 || len(packet) < int(packet[0]&15)*4 || packet[0]&15 < 5 {
		return "a cut IPv4 packet", to, false
	}
	from := netip.AddrFrom4([4]byte(packet[12:16]))
	to = netip.AddrFrom4([4]byte(packet[16:20]))
	protocol, payload := packet[9], packet[int(packet[0]&15)*4:]
	name, ok := map[byte]string{unix.IPPROTO_TCP: "TCP", unix.IPPROTO_UDP: "UDP"}[protocol]
	later := binary.BigEndian.Uint16(packet[6:])&0x1fff != 0 // a fragment without ports
	if !ok || later || len(payload) < 8 {
		return fmt.Sprintf("IPv4 protocol %d from %s to %s", protocol, from, to), to, false
	}
	port := binary.BigEndian.Uint16(payload[2:])
	line = fmt.Sprintf("%s from %s to %s", name, from, netip.AddrPortFrom(to, port))
	if port != dnsPort {
		return line, to, false
	}
	if protocol == unix.IPPROTO_UDP {
		line += question(payload[8:])
	}
	return line, to, true
}

// question is what a DNS message asks for (RFC 1035, section 4.1).
func question(message []byte) string {
	var p dnsmessage.Parser
	if _, err := p.Start(message); err != nil {
		return ", which is no DNS message"
	}
	q, err := p.Question()
	if err != nil {
		return ", which asks nothing"
	}
	return fmt.Sprintf(", which asks for %s %s", q.Name, q.Type)
}
