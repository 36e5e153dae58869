package pxe

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/edge-provision/edge-provision/inventory"
)

// Bounds of what one packet may cost.
const (
	bootTime   = time.Second     // for the Booter
	commitTime = 5 * time.Second // for the lease to be on disk; the client asks again after four
	maxOffers  = 4               // conflicting addresses tried for one DISCOVER
)

// pxePort is where a client that took a proxyDHCP offer asks for its boot file
// (PXE 2.1 section 2.2.3).
const pxePort = 4011

// handle answers one datagram that arrived on port 67 or 4011. What it does
// not answer it drops: a client that matters asks again.
func (s *Server) handle(ctx context.Context, b []byte, from netip.AddrPort, port int) {
	m, err := parseMessage(b)
	if err != nil {
		s.log.Debug("malformed DHCP message", "from", from, "error", err)
		return
	}
	now := s.now()
	if !s.packets.allow(m.mac, now) {
		return
	}
	if reason := s.misplaced(m, from, port); reason != "" {
		s.ignore(m, reason)
		return
	}
	m.client.Address = s.addressFor(m, now)
	answer, err := s.boot(ctx, m.client)
	if err != nil {
		s.log.Error("deciding what to boot", "mac", m.mac, "error", err)
		return
	}
	if answer.Kind == KindIgnore || answer.Kind == "" {
		s.ignore(m, answer.Reason)
		return
	}
	s.mu.Lock()
	g := s.seen.saw(m.client, now)
	g.kind = answer.Kind
	chained := g.chainedNow(now)
	s.mu.Unlock()
	file, refused := bootFor(m.client, m.http, answer, bootSite{
		url: s.url, chainROM: s.c.ChainROM, proxy: s.c.Mode == ModeProxy, chained: chained,
	})
	s.converse(ctx, m, file, refused, from, port)
}

// misplaced says why a message is not for this network, so that no answer can
// be reflected to somebody else.
func (s *Server) misplaced(m *message, from netip.AddrPort, port int) string {
	switch {
	case m.giaddr.IsValid() && !s.net.prefix.Contains(m.giaddr):
		return fmt.Sprintf("relay agent %s is not on %s", m.giaddr, s.net.prefix)
	case port == pxePort && !s.net.prefix.Contains(from.Addr()):
		return fmt.Sprintf("%s is not on %s", from.Addr(), s.net.prefix)
	case m.ciaddr.IsValid() && !s.net.prefix.Contains(m.ciaddr) && m.MessageType() != dhcpv4.MessageTypeRequest:
		return fmt.Sprintf("%s is not on %s", m.ciaddr, s.net.prefix)
	}
	return ""
}

// addressFor is the address that the machine has or asks from, before anything
// is decided.
func (s *Server) addressFor(m *message, now time.Time) netip.Addr {
	if s.pool != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		if a, ok := s.pool.AddressOf(m.mac, now); ok {
			return a
		}
	}
	return m.ciaddr
}

func (s *Server) boot(ctx context.Context, c Client) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	return s.c.Booter.Boot(ctx, c)
}

// ignore records a client that gets no answer, once a minute.
func (s *Server) ignore(m *message, reason string) {
	if !s.strangers.allow(m.mac, s.now()) {
		return
	}
	if reason == "" {
		reason = "not a machine of this site"
	}
	a := m.eventAttrs()
	a["reason"] = reason
	s.record(m.mac, inventory.EventDHCPIgnored, "", a)
}

// converse takes an admitted client's message to its answer.
func (s *Server) converse(ctx context.Context, m *message, file bootFile, refused string, from netip.AddrPort, port int) {
	typ := m.MessageType()
	attrs := m.eventAttrs()
	if m.wanted.IsValid() {
		attrs["address"] = m.wanted.String()
	} else if m.ciaddr.IsValid() {
		attrs["address"] = m.ciaddr.String()
	}
	s.record(m.mac, eventKind(typ), refused, attrs)
	if s.c.Mode == ModeProxy {
		s.proxy(m, file, from, port)
		return
	}
	switch typ {
	case dhcpv4.MessageTypeDiscover:
		s.discover(ctx, m, file)
	case dhcpv4.MessageTypeRequest:
		s.request(ctx, m, file)
	case dhcpv4.MessageTypeDecline:
		s.decline(ctx, m)
	case dhcpv4.MessageTypeRelease:
		s.release(ctx, m)
	case dhcpv4.MessageTypeInform:
		if m.ciaddr.IsValid() {
			s.reply(m, s.net.reply(m, dhcpv4.MessageTypeAck, netip.Addr{}, "", file))
		}
	}
}

// proxy answers beside another DHCP server: it adds a boot file to a DISCOVER
// of something that netboots, and never gives an address. A REQUEST on port 67
// is meant for the server whose offer was taken; one on port 4011 is for us.
func (s *Server) proxy(m *message, file bootFile, from netip.AddrPort, port int) {
	typ := m.MessageType()
	switch {
	case typ == dhcpv4.MessageTypeRequest && port != pxePort && m.server.IsValid() && m.server != s.net.address:
		s.record(m.mac, inventory.EventDHCPForeign, "the address comes from another DHCP server, as it must in proxy mode",
			map[string]string{"server": m.server.String(), "expected": "true"})
	case file.name == "":
	case port == pxePort && (typ == dhcpv4.MessageTypeRequest || typ == dhcpv4.MessageTypeInform):
		r := s.net.reply(m, dhcpv4.MessageTypeAck, netip.Addr{}, "", file)
		s.sent(m, r, s.sock.Proxy, net.UDPAddrFromAddrPort(from))
	case port != pxePort && typ == dhcpv4.MessageTypeDiscover:
		s.reply(m, s.net.reply(m, dhcpv4.MessageTypeOffer, netip.Addr{}, "", file))
	}
}

func (s *Server) discover(ctx context.Context, m *message, file bootFile) {
	for range maxOffers {
		s.mu.Lock()
		addr, probe, err := s.pool.Offer(m.mac, m.wanted, s.now())
		s.mu.Unlock()
		if err != nil {
			s.log.Error("no address to offer", "mac", m.mac, "error", err)
			s.record(m.mac, inventory.EventDHCPNak, "no address to offer: "+err.Error(), map[string]string{"reason": err.Error(), "sent": "false"})
			return
		}
		// A relayed client's address is not on this link, so ARP cannot
		// ask for it.
		if probe && s.arp != nil && !m.giaddr.IsValid() {
			if mac, used := s.arp.occupant(ctx, addr); used && mac != m.mac {
				s.conflict(addr, mac)
				continue
			}
		}
		s.reply(m, s.net.reply(m, dhcpv4.MessageTypeOffer, addr, s.hostname(m.mac), file))
		return
	}
}

// conflict quarantines an address of the pool that somebody already uses.
func (s *Server) conflict(addr netip.Addr, by inventory.MAC) {
	s.mu.Lock()
	s.pool.Conflict(addr, s.now())
	s.mu.Unlock()
	s.log.Warn("an address of the dynamic range is in use without a lease", "address", addr, "mac", by)
	s.record(by, inventory.EventDHCPDecline, "uses an address of the dynamic range without a lease",
		map[string]string{"address": addr.String(), "by": "arp"})
}

func (s *Server) hostname(mac inventory.MAC) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pool.reserved[mac].Hostname
}

func (s *Server) request(ctx context.Context, m *message, file bootFile) {
	var addr netip.Addr
	var state RequestState
	switch {
	case m.server.IsValid() && m.server != s.net.address:
		s.mu.Lock()
		s.pool.Forget(m.mac)
		s.mu.Unlock()
		s.log.Warn("a machine chose another DHCP server", "mac", m.mac, "server", m.server)
		s.record(m.mac, inventory.EventDHCPForeign, "chose another DHCP server", map[string]string{"server": m.server.String()})
		return
	case m.ciaddr.IsValid():
		addr, state = m.ciaddr, StateRenewing
	case m.wanted.IsValid() && m.server.IsValid():
		addr, state = m.wanted, StateSelecting
	case m.wanted.IsValid():
		addr, state = m.wanted, StateInitReboot
	default:
		return
	}
	s.mu.Lock()
	verdict, lease, reason := s.pool.Request(m.mac, addr, state, s.now())
	s.mu.Unlock()
	switch verdict {
	case VerdictNak:
		s.nak(m, reason)
	case VerdictAck:
		lease.ClientID = fmt.Sprintf("%x", m.Options.Get(dhcpv4.OptionClientIdentifier))
		if v := m.Options.Get(dhcpv4.OptionHostName); lease.Hostname == "" && len(v) > 0 {
			lease.Hostname = clipClass(v)
		}
		if !s.commit(ctx, lease) {
			return
		}
		m.client.Address = addr
		s.mu.Lock()
		s.seen.saw(m.client, s.now())
		s.mu.Unlock()
		s.reply(m, s.net.reply(m, dhcpv4.MessageTypeAck, addr, s.hostname(m.mac), file))
	}
}

// commit puts a lease on disk; without that nothing is acknowledged.
func (s *Server) commit(ctx context.Context, l inventory.Lease) bool {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), commitTime)
	defer cancel()
	if err := s.c.Leases.Commit(ctx, l); err != nil {
		s.log.Error("a lease could not be stored, so it was not given", "mac", l.MAC, "address", l.Address, "error", err)
		s.record(l.MAC, inventory.EventDHCPNak, "the lease could not be stored, so it was not given",
			map[string]string{"address": l.Address, "reason": err.Error(), "sent": "false"})
		return false
	}
	return true
}

func (s *Server) nak(m *message, reason string) {
	r := s.net.reply(m, dhcpv4.MessageTypeNak, netip.Addr{}, "", bootFile{})
	// RFC 2131 section 4.3.2: a relayed NAK must be broadcast on the far link.
	if m.giaddr.IsValid() {
		r.SetBroadcast()
	}
	a := s.transmit(m, r)
	a["reason"] = reason
	s.record(m.mac, inventory.EventDHCPNak, reason, a)
}

func (s *Server) decline(ctx context.Context, m *message) {
	if m.server.IsValid() && m.server != s.net.address || !m.wanted.IsValid() {
		return
	}
	s.mu.Lock()
	lease, ok := s.pool.Decline(m.mac, m.wanted, s.now())
	s.mu.Unlock()
	if ok {
		s.log.Warn("a machine found its address in use", "mac", m.mac, "address", m.wanted)
		s.commit(ctx, lease)
	}
}

func (s *Server) release(ctx context.Context, m *message) {
	if m.server.IsValid() && m.server != s.net.address {
		return
	}
	s.mu.Lock()
	lease, ok := s.pool.Release(m.mac, m.ciaddr, s.now())
	s.mu.Unlock()
	if ok {
		s.commit(ctx, lease)
	}
}

// reply sends r and records it.
func (s *Server) reply(m *message, r *dhcpv4.DHCPv4) {
	kind := inventory.EventDHCPOffer
	if r.MessageType() == dhcpv4.MessageTypeAck {
		kind = inventory.EventDHCPAck
	}
	s.record(m.mac, kind, "", s.transmit(m, r))
}

// transmit sends r to where RFC 2131 wants it, and returns the attributes of
// its event.
func (s *Server) transmit(m *message, r *dhcpv4.DHCPv4) map[string]string {
	to, raw := destination(m, r)
	a := s.replyAttrs(m, r)
	var err error
	if raw && s.sock.IPv4 != nil {
		err = s.sock.IPv4.WriteFrame(m.mac, udpPacket(netip.AddrPortFrom(s.net.address, 67), to, r.ToBytes()))
	} else {
		if raw {
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), 68)
		}
		_, err = s.sock.DHCP.WriteTo(r.ToBytes(), net.UDPAddrFromAddrPort(to))
	}
	s.noteSend(a, m, err)
	return a
}

// sent sends r over conn to where the request came from, and records it.
func (s *Server) sent(m *message, r *dhcpv4.DHCPv4, conn net.PacketConn, to net.Addr) {
	a := s.replyAttrs(m, r)
	_, err := conn.WriteTo(r.ToBytes(), to)
	s.noteSend(a, m, err)
	s.record(m.mac, inventory.EventDHCPAck, "", a)
}

func (s *Server) noteSend(a map[string]string, m *message, err error) {
	if err != nil && !errors.Is(err, net.ErrClosed) {
		s.log.Error("sending a DHCP answer", "mac", m.mac, "error", err)
		a["error"] = err.Error()
	}
}

func (s *Server) replyAttrs(m *message, r *dhcpv4.DHCPv4) map[string]string {
	a := m.eventAttrs()
	a["server"] = s.net.address.String()
	if addr := addrOf(r.YourIPAddr); addr.IsValid() {
		a["address"] = addr.String()
	}
	if r.BootFileName != "" {
		a["boot_file"], a["next_server"] = r.BootFileName, s.net.address.String()
	}
	return a
}
