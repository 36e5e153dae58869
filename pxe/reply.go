package pxe

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/edge-provision/edge-provision/inventory"
)

// network is what replies say about the network.
type network struct {
	prefix  netip.Prefix
	address netip.Addr // ours
	gateway netip.Addr
	dns     []netip.Addr
	ntp     []netip.Addr
	domain  string
	lease   time.Duration
}

// minMessage is the size of IP datagram that every client accepts (RFC 2131
// section 2), headers is what IP and UDP take of it.
const (
	minMessage = 576
	maxMessage = 1500
	headers    = 28
)

// reply builds an answer to m. addr is the client's address, zero for an
// answer that gives none; b is what it is told to boot.
func (n network) reply(m *message, typ dhcpv4.MessageType, addr netip.Addr, hostname string, b bootFile) *dhcpv4.DHCPv4 {
	r := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: m.HWType, ClientHWAddr: m.ClientHWAddr,
		TransactionID: m.TransactionID, Flags: m.Flags,
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero,
		GatewayIPAddr: m.GatewayIPAddr, Options: dhcpv4.Options{},
	}
	set := func(code uint8, v []byte) {
		if len(v) > 0 {
			r.Options[code] = v
		}
	}
	set(dhcpv4.OptionDHCPMessageType.Code(), []byte{byte(typ)})
	set(dhcpv4.OptionServerIdentifier.Code(), n.address.AsSlice())
	// RFC 6842, RFC 3046 section 2.2, RFC 4578 section 2.3: these come back.
	for _, code := range []uint8{dhcpv4.OptionClientIdentifier.Code(), dhcpv4.OptionRelayAgentInformation.Code(), optClientUUID} {
		set(code, m.Options[code])
	}
	if typ == dhcpv4.MessageTypeNak {
		return r
	}
	if addr.IsValid() {
		r.YourIPAddr = addr.AsSlice()
		set(dhcpv4.OptionIPAddressLeaseTime.Code(), seconds(n.lease))
		set(dhcpv4.OptionRenewTimeValue.Code(), seconds(n.lease/2))
		set(dhcpv4.OptionRebindingTimeValue.Code(), seconds(n.lease*7/8))
	}
	if typ == dhcpv4.MessageTypeAck {
		r.ClientIPAddr = m.ClientIPAddr
	}
	if addr.IsValid() || m.MessageType() == dhcpv4.MessageTypeInform {
		set(dhcpv4.OptionSubnetMask.Code(), net.CIDRMask(n.prefix.Bits(), 32))
		if n.gateway.IsValid() {
			set(dhcpv4.OptionRouter.Code(), n.gateway.AsSlice())
		}
		set(dhcpv4.OptionDomainNameServer.Code(), join(n.dns))
		set(dhcpv4.OptionNTPServers.Code(), join(n.ntp))
		set(dhcpv4.OptionDomainName.Code(), []byte(n.domain))
		set(dhcpv4.OptionHostName.Code(), []byte(hostname))
		set(dhcpv4.OptionBroadcastAddress.Code(), broadcastOf(n.prefix).AsSlice())
	}
	n.setBoot(r, m, b)
	fit(r, m)
	return r
}

func (n network) setBoot(r *dhcpv4.DHCPv4, m *message, b bootFile) {
	if b.class != "" {
		r.Options[dhcpv4.OptionClassIdentifier.Code()] = []byte(b.class)
	}
	if b.direct {
		// PXE 2.1 section 2.2.2: PXE_DISCOVERY_CONTROL with bit 3 set: load
		// the boot file of this very message.
		r.Options[optVendorSpecific] = []byte{6, 1, 8, 255}
	}
	if b.noProxyWait {
		r.Options[optIPXE] = []byte{ipxeNoProxyDHCP, 1, 1}
	}
	if b.name == "" {
		return
	}
	r.BootFileName, r.ServerIPAddr = b.name, n.address.AsSlice()
	asked := m.Options.Get(dhcpv4.OptionParameterRequestList)
	if slices.Contains(asked, dhcpv4.OptionBootfileName.Code()) || b.class == "HTTPClient" {
		r.Options[dhcpv4.OptionBootfileName.Code()] = []byte(b.name)
	}
	if slices.Contains(asked, dhcpv4.OptionTFTPServerName.Code()) && !strings.HasPrefix(b.name, "http:") {
		r.Options[dhcpv4.OptionTFTPServerName.Code()] = []byte(n.address.String())
	}
}

// expendable lists the options that are left out, in this order, of a reply
// that would be larger than its client takes. 67 repeats the file field.
var expendable = []uint8{
	dhcpv4.OptionDomainName.Code(), dhcpv4.OptionHostName.Code(), dhcpv4.OptionNTPServers.Code(),
	dhcpv4.OptionBroadcastAddress.Code(), dhcpv4.OptionTFTPServerName.Code(), dhcpv4.OptionBootfileName.Code(),
	dhcpv4.OptionClientIdentifier.Code(), optClientUUID, dhcpv4.OptionDomainNameServer.Code(),
	dhcpv4.OptionRelayAgentInformation.Code(),
}

// fit keeps the reply within what the client said it takes (option 57).
func fit(r *dhcpv4.DHCPv4, m *message) {
	limit := minMessage
	if v := m.Options.Get(dhcpv4.OptionMaximumDHCPMessageSize); len(v) == 2 {
		limit = min(max(limit, int(binary.BigEndian.Uint16(v))), maxMessage)
	}
	for _, code := range expendable {
		if len(r.ToBytes())+headers <= limit {
			return
		}
		delete(r.Options, code)
	}
}

func seconds(d time.Duration) []byte {
	return binary.BigEndian.AppendUint32(nil, uint32(d/time.Second))
}

func join(addrs []netip.Addr) (b []byte) {
	for _, a := range addrs {
		b = append(b, a.AsSlice()...)
	}
	return b
}

// destination is where a reply goes (RFC 2131 section 4.1). raw says that the
// client has no address to be found by yet: the datagram must be put into a
// frame for its MAC.
func destination(m *message, r *dhcpv4.DHCPv4) (to netip.AddrPort, raw bool) {
	const client, server = 68, 67
	all := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), client)
	yours := addrOf(r.YourIPAddr)
	switch {
	case m.giaddr.IsValid():
		return netip.AddrPortFrom(m.giaddr, server), false
	case r.MessageType() == dhcpv4.MessageTypeNak:
		return all, false
	case m.ciaddr.IsValid():
		return netip.AddrPortFrom(m.ciaddr, client), false
	case m.IsBroadcast(), !yours.IsValid():
		return all, false
	default:
		return netip.AddrPortFrom(yours, client), true
	}
}

// eventAttrs are the attributes that all DHCP events share.
func (m *message) eventAttrs() map[string]string {
	a := map[string]string{"xid": m.TransactionID.String(), "firmware": string(m.client.Stage)}
	put := func(k, v string) {
		if v != "" {
			a[k] = v
		}
	}
	if m.client.HasArch {
		a["arch"] = strconv.Itoa(int(m.client.Arch))
	}
	put("vendor_class", m.client.VendorClass)
	put("user_class", m.client.UserClass)
	if m.server.IsValid() {
		a["server"] = m.server.String()
	}
	if m.giaddr.IsValid() {
		a["relay"] = m.giaddr.String()
	}
	return a
}

// eventKind is the event that a client's message is recorded as.
func eventKind(t dhcpv4.MessageType) inventory.EventKind {
	switch t {
	case dhcpv4.MessageTypeDiscover:
		return inventory.EventDHCPDiscover
	case dhcpv4.MessageTypeRequest:
		return inventory.EventDHCPRequest
	case dhcpv4.MessageTypeDecline:
		return inventory.EventDHCPDecline
	case dhcpv4.MessageTypeRelease:
		return inventory.EventDHCPRelease
	default:
		return inventory.EventDHCPInform
	}
}
