package pxe

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/inventory"
)

// ForeignServer is another DHCP server that answered a probe.
type ForeignServer struct {
	// Address is its server identifier (option 54), or the address it
	// answered from when it sent none.
	Address netip.Addr
	// Proxy is set for one that offered no address (a proxyDHCP server).
	Proxy bool
	// Offered is the address it offered; zero for a proxy.
	Offered netip.Addr
	// BootFile is the boot file it offered, if any.
	BootFile string
}

// A probe asks three times within probeTime: servers that test an address
// before they offer it take up to three seconds (dnsmasq) to answer.
const (
	probeTime = 3500 * time.Millisecond
	probeTick = time.Second
)

// Probe asks for an address on the interface, from a random locally
// administered MAC and without ever taking one, and returns the DHCP servers
// that answered within three and a half seconds, sorted by address. It needs CAP_NET_RAW.
// A server that answers only machines it knows is not found.
func Probe(ctx context.Context, iface string) ([]ForeignServer, error) {
	ifi, err := findInterface(iface)
	if err != nil {
		return nil, err
	}
	conn, err := openFrames(ifi, unix.ETH_P_IP, true, dhcpReplies())
	if err != nil {
		return nil, fmt.Errorf("probing %s for DHCP servers: %w", iface, err)
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	servers, err := probe(ctx, conn)
	if err != nil {
		return nil, fmt.Errorf("probing %s for DHCP servers: %w", iface, err)
	}
	return servers, nil
}

// dhcpReplies passes UDP datagrams to port 68. The offsets count from the IPv4 header.
func dhcpReplies() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_UDP, SkipFalse: 4},
		bpf.LoadMemShift{Off: 0},
		bpf.LoadIndirect{Off: 2, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 68, SkipFalse: 1},
		bpf.RetConstant{Val: 1500},
		bpf.RetConstant{Val: 0},
	}
}

// probe asks over conn until ctx ends, and closes conn.
func probe(ctx context.Context, conn FrameConn) ([]ForeignServer, error) {
	var mac inventory.MAC
	var xid dhcpv4.TransactionID
	// crypto/rand.Read never fails (its documentation).
	rand.Read(mac[:])
	rand.Read(xid[:])
	mac[0] = mac[0]&^1 | 2 // unicast, locally administered
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	sendErr := make(chan error, 1)
	go func() { sendErr <- askRepeatedly(ctx, conn, mac, xid) }()
	found := map[ForeignServer]bool{}
	b := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrame(b)
		if err != nil {
			break
		}
		if s, ok := parseOffer(b[:n], mac, xid); ok && len(found) < 64 {
			found[s] = true
		}
	}
	if ctx.Err() == nil {
		return nil, fmt.Errorf("the packet socket failed")
	}
	if err := <-sendErr; err != nil {
		return nil, err
	}
	return sorted(found), nil
}

// askRepeatedly sends a plain DISCOVER, which servers answer, and one in the
// name of PXE firmware, which proxyDHCP servers answer, each second.
func askRepeatedly(ctx context.Context, conn FrameConn, mac inventory.MAC, xid dhcpv4.TransactionID) error {
	tick := time.NewTicker(probeTick)
	defer tick.Stop()
	for {
		for _, class := range []string{"", "PXEClient:Arch:00007:UNDI:003016"} {
			d := probeDiscover(mac, xid, class)
			p := udpPacket(netip.AddrPortFrom(netip.IPv4Unspecified(), 68),
				netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 67), d)
			if err := conn.WriteFrame(broadcastMAC, p); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return fmt.Errorf("sending DISCOVER: %w", err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// probeDiscover has the broadcast flag set: an offer to the probe's MAC would
// not be received by this host's card.
func probeDiscover(mac inventory.MAC, xid dhcpv4.TransactionID, class string) []byte {
	d := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: mac[:], TransactionID: xid,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{
			dhcpv4.OptionDHCPMessageType.Code():      {byte(dhcpv4.MessageTypeDiscover)},
			dhcpv4.OptionParameterRequestList.Code(): {1, 3, 6, 54, 60, 66, 67},
		},
	}
	d.SetBroadcast()
	if class != "" {
		d.Options[dhcpv4.OptionClassIdentifier.Code()] = []byte(class)
		d.Options[optClientArch] = []byte{0, 7}
		d.Options[optClientNII] = []byte{1, 3, 16}
		d.Options[optClientUUID] = append([]byte{0}, bytes.Repeat([]byte{0xff}, 16)...)
	}
	return d.ToBytes()
}

// parseOffer reads a server's answer to the probe.
func parseOffer(packet []byte, mac inventory.MAC, xid dhcpv4.TransactionID) (s ForeignServer, ok bool) {
	payload, src := udpPayload(packet, 68)
	if len(payload) < offOptions || payload[0] != byte(dhcpv4.OpcodeBootReply) {
		return s, false
	}
	r, err := dhcpv4.FromBytes(payload)
	if err != nil || r.TransactionID != xid || !bytes.Equal(r.ClientHWAddr, mac[:]) ||
		r.MessageType() != dhcpv4.MessageTypeOffer && r.MessageType() != dhcpv4.MessageTypeNone {
		return s, false
	}
	s.Address = addrOf(r.Options.Get(dhcpv4.OptionServerIdentifier))
	if !s.Address.IsValid() {
		s.Address = src
	}
	s.Offered = addrOf(r.YourIPAddr)
	s.Proxy = !s.Offered.IsValid()
	s.BootFile = clipClass([]byte(r.BootFileName))
	if v := r.Options.Get(dhcpv4.OptionBootfileName); len(v) > 0 {
		s.BootFile = clipClass(v)
	}
	return s, s.Address.IsValid()
}

// sorted merges what one server answered: the plain offer counts, and the boot
// file of whichever had one.
func sorted(found map[ForeignServer]bool) []ForeignServer {
	byAddr := map[netip.Addr]ForeignServer{}
	for s := range found {
		old, seen := byAddr[s.Address]
		switch {
		case !seen:
			byAddr[s.Address] = s
			continue
		case old.Proxy && !s.Proxy, old.Proxy == s.Proxy && s.Offered.Less(old.Offered):
			s.BootFile = max(s.BootFile, old.BootFile)
			byAddr[s.Address] = s
		default:
			old.BootFile = max(s.BootFile, old.BootFile)
			byAddr[s.Address] = old
		}
	}
	out := make([]ForeignServer, 0, len(byAddr))
	for _, s := range byAddr {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b ForeignServer) int { return a.Address.Compare(b.Address) })
	return out
}
