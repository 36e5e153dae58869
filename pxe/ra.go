package pxe

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/inventory"
)

// An iPXE that is not ours asks for an IPv6 router first and waits 13 s for
// one that this network does not have. It is told that there is none: a router
// advertisement without prefix, without flags and with lifetime 0 (RFC 4861
// section 4.2: not a default router). It is sent to the asking machine alone,
// and only while that machine is being booted, so that no other host on the
// LAN ever hears of it.

const (
	icmpRouterSolicitation  = 133
	icmpRouterAdvertisement = 134
	ipv6Header              = 40
)

// allRouters is the Ethernet form of ff02::2 (RFC 2464 section 7).
var allRouters = inventory.MAC{0x33, 0x33, 0, 0, 0, 2}

// solicitations passes ICMPv6 router solicitations and nothing else. The
// offsets count from the IPv6 header.
func solicitations() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 6, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipFalse: 3},
		bpf.LoadAbsolute{Off: ipv6Header, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: icmpRouterSolicitation, SkipFalse: 1},
		bpf.RetConstant{Val: 1500},
		bpf.RetConstant{Val: 0},
	}
}

// advertiser answers router solicitations.
type advertiser struct {
	conn FrameConn
	mac  func() inventory.MAC // of the interface
	// booting reports whether a machine is being booted right now.
	booting func(inventory.MAC) bool
}

// serve answers until the socket is closed.
func (a *advertiser) serve() error {
	return receiveFrames(a.conn, func(from inventory.MAC, b []byte) {
		if src, ok := parseSolicitation(b); ok && a.booting(from) {
			// A frame that is lost costs the machine its wait and nothing else.
			_ = a.conn.WriteFrame(from, advertisement(a.mac(), src))
		}
	})
}

// parseSolicitation returns the source address of a router solicitation that
// is valid by RFC 4861 section 6.1.1.
func parseSolicitation(b []byte) (src netip.Addr, ok bool) {
	if len(b) < ipv6Header+8 || b[0]>>4 != 6 || b[6] != unix.IPPROTO_ICMPV6 || b[7] != 255 ||
		b[ipv6Header] != icmpRouterSolicitation || b[ipv6Header+1] != 0 {
		return src, false
	}
	src = netip.AddrFrom16([16]byte(b[8:24]))
	return src, src.IsUnspecified() || src.IsLinkLocalUnicast()
}

// advertisement is an IPv6 packet with an empty router advertisement. A client
// that asked from the unspecified address is answered at ff02::1, in a frame
// that goes to its MAC alone.
func advertisement(from inventory.MAC, to netip.Addr) []byte {
	if to.IsUnspecified() {
		to = netip.MustParseAddr("ff02::1")
	}
	src, dst := linkLocal(from).As16(), to.As16()
	b := make([]byte, ipv6Header+16)
	b[0], b[6], b[7] = 0x60, unix.IPPROTO_ICMPV6, 255
	binary.BigEndian.PutUint16(b[4:], 16)
	copy(b[8:], src[:])
	copy(b[24:], dst[:])
	icmp := b[ipv6Header:]
	icmp[0] = icmpRouterAdvertisement
	pseudo := sum16(uint32(unix.IPPROTO_ICMPV6)+uint32(len(icmp)), b[8:40])
	binary.BigEndian.PutUint16(icmp[2:], ^sum16(uint32(pseudo), icmp))
	return b
}

// linkLocal is the link-local address made of a MAC (RFC 4291 appendix A).
// It need not be configured: nobody is expected to write to it.
func linkLocal(m inventory.MAC) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]})
}
