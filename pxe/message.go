package pxe

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/uuid"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/edge-provision/edge-provision/inventory"
)

// Option codes that the DHCP library has no typed form for, or whose typed
// form parses more than is wanted of a stranger's bytes.
const (
	optOverload       = 52  // RFC 2132 section 9.3
	optVendorSpecific = 43  // RFC 2132 section 8.4; PXE 2.1 section 2.2
	optClientArch     = 93  // RFC 4578 section 2.1
	optClientNII      = 94  // RFC 4578 section 2.2
	optClientUUID     = 97  // RFC 4578 section 2.3
	optIPXE           = 175 // Etherboot/iPXE encapsulated options
)

// Offsets in the fixed part of a BOOTP message (RFC 951, RFC 2131 section 2).
const (
	offSName   = 44
	offFile    = 108
	offCookie  = 236
	offOptions = 240
)

// message is a DHCP request with what this package reads from it.
type message struct {
	*dhcpv4.DHCPv4
	mac    inventory.MAC
	ciaddr netip.Addr // zero when unspecified
	giaddr netip.Addr
	wanted netip.Addr // option 50
	server netip.Addr // option 54
	client Client     // Address and WantsScript are not set
	http   bool       // an iPXE that says it can fetch by HTTP
}

// parseMessage reads a client's message. It refuses whatever is not an
// Ethernet BOOTREQUEST with a DHCP message type; the message's size is bounded
// by the datagram.
func parseMessage(b []byte) (m *message, err error) {
	if len(b) < offOptions {
		return nil, fmt.Errorf("%d bytes are too few for a DHCP message", len(b))
	}
	if b[0] != byte(dhcpv4.OpcodeBootRequest) || b[1] != 1 || b[2] != 6 {
		return nil, fmt.Errorf("op %d, hardware type %d, length %d is not a request from an Ethernet client", b[0], b[1], b[2])
	}
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		return nil, err
	}
	if err := readOverload(p, b); err != nil {
		return nil, err
	}
	if p.MessageType() == dhcpv4.MessageTypeNone {
		return nil, fmt.Errorf("no DHCP message type: BOOTP is not served")
	}
	m = &message{
		DHCPv4: p,
		mac:    inventory.MAC(b[28:34]),
		ciaddr: addrOf(p.ClientIPAddr),
		giaddr: addrOf(p.GatewayIPAddr),
		wanted: addrOf(p.Options.Get(dhcpv4.OptionRequestedIPAddress)),
		server: addrOf(p.Options.Get(dhcpv4.OptionServerIdentifier)),
	}
	if m.mac.IsZero() || m.mac[0]&1 == 1 {
		return nil, fmt.Errorf("%s names no machine", m.mac)
	}
	m.client = Client{
		MAC: m.mac, Relay: m.giaddr,
		VendorClass: clipClass(p.Options.Get(dhcpv4.OptionClassIdentifier)),
		UserClass:   userClass(p.Options.Get(dhcpv4.OptionUserClassInformation)),
		UUID:        clientUUID(p.Options[optClientUUID]),
	}
	if a := p.Options[optClientArch]; len(a) >= 2 {
		m.client.Arch, m.client.HasArch = Arch(binary.BigEndian.Uint16(a)), true
	} else if a, ok := archOfVendorClass(m.client.VendorClass); ok {
		m.client.Arch, m.client.HasArch = a, true
	}
	m.client.Stage = stageOf(m.client, p.Options[optIPXE] != nil)
	m.http = ipxeFeature(p.Options[optIPXE], ipxeHTTP)
	return m, nil
}

// readOverload adds the options that a client put into the fields for the
// boot file and the server's name (RFC 2132 section 9.3), which the library
// does not look at. The order is the RFC's: options, file, sname.
func readOverload(p *dhcpv4.DHCPv4, b []byte) error {
	o := p.Options[optOverload]
	if len(o) != 1 {
		return nil
	}
	if o[0]&1 != 0 {
		if err := p.Options.FromBytes(b[offFile:offCookie]); err != nil {
			return fmt.Errorf("options in the boot file field: %w", err)
		}
	}
	if o[0]&2 != 0 {
		if err := p.Options.FromBytes(b[offSName:offFile]); err != nil {
			return fmt.Errorf("options in the server name field: %w", err)
		}
	}
	return nil
}

// addrOf reads four bytes; anything else, and 0.0.0.0, is the zero Addr.
func addrOf(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if a = a.Unmap(); !ok || !a.Is4() || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// clipClass makes a class printable and bounds it.
func clipClass(b []byte) string {
	if len(b) > 255 {
		b = b[:255]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, string(b))
}

// userClass reads option 77. RFC 3004 wants length-prefixed strings; iPXE and
// most others send one bare string.
func userClass(b []byte) string {
	if len(b) > 1 && int(b[0]) == len(b)-1 {
		b = b[1:]
	}
	return clipClass(b)
}

// clientUUID reads option 97; one that identifies no machine is none.
func clientUUID(b []byte) uuid.UUID {
	u, ok := inventory.Option97UUID(b)
	if !ok || inventory.JunkUUID(u) {
		return uuid.Nil
	}
	return u
}

// Sub-options of option 175, and the features among them.
const (
	ipxeNoProxyDHCP = 0xb0 // "no-pxedhcp": do not wait for a ProxyDHCP offer
	ipxeHTTP        = 0x13 // HTTP is built in
)

// ipxeFeature reports whether the encapsulated iPXE options set code.
func ipxeFeature(b []byte, code byte) bool {
	for len(b) >= 2 {
		n := int(b[1])
		switch {
		case b[0] == 0:
			b = b[1:]
			continue
		case b[0] == 255 || len(b) < 2+n:
			return false
		case b[0] == code:
			return n >= 1 && b[2] != 0
		}
		b = b[2+n:]
	}
	return false
}
