package pxe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/inventory"
)

// FrameConn sends and receives Ethernet payloads of one protocol on one
// interface. It is what UDP sockets cannot do: reach a station that has no
// address yet, and hear what is not addressed to one.
type FrameConn interface {
	// ReadFrame reads one payload and says whose it is. It returns an error
	// after Close.
	ReadFrame(b []byte) (n int, from inventory.MAC, err error)
	// WriteFrame sends one payload.
	WriteFrame(to inventory.MAC, b []byte) error
	Close() error
}

// receiveFrames hands each payload to handle until the socket is closed. An
// interface that is taken down and up again fails one read.
func receiveFrames(conn FrameConn, handle func(from inventory.MAC, b []byte)) error {
	b := make([]byte, maxMessage)
	for failed := 0; ; {
		n, from, err := conn.ReadFrame(b)
		if err == nil {
			failed = 0
			handle(from, b[:n])
			continue
		}
		if failed++; errors.Is(err, net.ErrClosed) || failed > maxReadErrors {
			return err
		}
	}
}

var broadcastMAC = inventory.MAC{255, 255, 255, 255, 255, 255}

// packetConn is a FrameConn on an AF_PACKET socket (packet(7)), without the
// link-layer header.
type packetConn struct {
	f       *os.File
	ifindex int
	proto   uint16 // EtherType
}

// openFrames opens a FrameConn for one EtherType. Without receive, nothing is
// queued for reading. A filter keeps the rest of the interface's traffic away.
func openFrames(ifi *net.Interface, proto uint16, receive bool, filter []bpf.Instruction) (*packetConn, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening a packet socket (needs CAP_NET_RAW): %w", err)
	}
	f := os.NewFile(uintptr(fd), "packet:"+ifi.Name)
	if !receive {
		return &packetConn{f, ifi.Index, proto}, nil
	}
	if filter != nil {
		if err := attach(fd, filter); err != nil {
			f.Close()
			return nil, fmt.Errorf("attaching a packet filter: %w", err)
		}
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: swap16(proto), Ifindex: ifi.Index}); err != nil {
		f.Close()
		return nil, fmt.Errorf("binding a packet socket to %s: %w", ifi.Name, err)
	}
	return &packetConn{f, ifi.Index, proto}, nil
}

func attach(fd int, filter []bpf.Instruction) error {
	raw, err := bpf.Assemble(filter)
	if err != nil {
		return err
	}
	prog := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		prog[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]})
}

// join makes the interface accept frames for a multicast MAC.
func (c *packetConn) join(group inventory.MAC) error {
	m := &unix.PacketMreq{Ifindex: int32(c.ifindex), Type: unix.PACKET_MR_MULTICAST, Alen: 6}
	copy(m.Address[:], group[:])
	raw, err := c.f.SyscallConn()
	if err != nil {
		return err
	}
	var operr error
	err = raw.Control(func(fd uintptr) {
		operr = unix.SetsockoptPacketMreq(int(fd), unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, m)
	})
	if err != nil {
		return err
	}
	return operr
}

func (c *packetConn) ReadFrame(b []byte) (n int, from inventory.MAC, err error) {
	raw, err := c.f.SyscallConn()
	if err != nil {
		return 0, from, err
	}
	var operr error
	err = raw.Read(func(fd uintptr) bool {
		var sa unix.Sockaddr
		n, sa, operr = unix.Recvfrom(int(fd), b, 0)
		if ll, ok := sa.(*unix.SockaddrLinklayer); ok && ll.Halen == 6 {
			from = inventory.MAC(ll.Addr[:6])
		}
		return operr != unix.EAGAIN
	})
	if err != nil {
		return 0, from, err
	}
	return n, from, operr
}

func (c *packetConn) WriteFrame(to inventory.MAC, b []byte) error {
	raw, err := c.f.SyscallConn()
	if err != nil {
		return err
	}
	sa := &unix.SockaddrLinklayer{Protocol: swap16(c.proto), Ifindex: c.ifindex, Halen: 6}
	copy(sa.Addr[:], to[:])
	var operr error
	err = raw.Write(func(fd uintptr) bool {
		operr = unix.Sendto(int(fd), b, 0, sa)
		return operr != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return operr
}

func (c *packetConn) Close() error { return c.f.Close() }

// swap16 is htons on the little-endian machines that Go programs of this
// project run on.
func swap16(v uint16) uint16 { return v<<8 | v>>8 }

// udpPacket wraps a payload into UDP and IPv4 (RFC 768, RFC 791).
func udpPacket(src, dst netip.AddrPort, payload []byte) []byte {
	const ip, udp = 20, 8
	b := make([]byte, ip+udp, ip+udp+len(payload))
	b = append(b, payload...)
	b[0], b[8], b[9] = 0x45, 64, unix.IPPROTO_UDP
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)))
	s, d := src.Addr().As4(), dst.Addr().As4()
	copy(b[12:], s[:])
	copy(b[16:], d[:])
	binary.BigEndian.PutUint16(b[10:], ^sum16(0, b[:ip]))
	u := b[ip:]
	binary.BigEndian.PutUint16(u, src.Port())
	binary.BigEndian.PutUint16(u[2:], dst.Port())
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	// The pseudo-header: both addresses, the protocol and the length.
	pseudo := sum16(uint32(unix.IPPROTO_UDP)+uint32(len(u)), b[12:20])
	check := ^sum16(uint32(pseudo), u)
	if check == 0 {
		check = 0xffff // zero would mean "no checksum"
	}
	binary.BigEndian.PutUint16(u[6:], check)
	return b
}

// udpPayload unwraps a UDP datagram for port; nil when b is none.
func udpPayload(b []byte, port uint16) (payload []byte, src netip.Addr) {
	if len(b) < 28 || b[0]>>4 != 4 || b[9] != unix.IPPROTO_UDP {
		return nil, src
	}
	ip, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if ip < 20 || total > len(b) || total < ip+8 {
		return nil, src
	}
	u := b[ip:total]
	if n := int(binary.BigEndian.Uint16(u[4:])); binary.BigEndian.Uint16(u[2:]) == port && n >= 8 && n <= len(u) {
		return u[8:n], addrOf(b[12:16])
	}
	return nil, src
}

// sum16 is the Internet checksum's sum (RFC 1071).
func sum16(sum uint32, b []byte) uint16 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}
