// Package lldp hears what the Ethernet ports of this machine are connected to.
//
// A switch that speaks LLDP (IEEE 802.1AB) says every 30 seconds, on each of its
// ports, who it is and which port that is. The frames go to group addresses that
// no bridge forwards, so what is heard comes from the other end of the cable:
//
//	switch                                   machine
//	  | 01:80:c2:00:00:0e, EtherType 88cc       |
//	  |   chassis ID, port ID, time to live     |
//	  |   port description, system name, …      |
//	  |---------------------------------------->|
//
// Nothing is sent. What was not heard says nothing: the switch may not speak LLDP,
// the wait may have been too short, and some network cards (Intel's X710 and
// others of its family, by default) keep the frames to their own firmware.
package lldp

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/edge-provision/edge-provision/inventory"
)

// Announcement is what one frame says.
type Announcement struct {
	// Neighbor is who sent it. Its MAC, that of the port which heard it, is not in
	// the frame and zero.
	inventory.Neighbor
	// Lifetime is how long it is true; zero says that it is no longer.
	Lifetime time.Duration
}

// EtherType of LLDP (IEEE 802.1AB-2016 section 7.3).
const EtherType = 0x88cc

// ErrOther says that a frame is none of LLDP.
var ErrOther = errors.New("not a frame of LLDP")

// Types of TLVs (IEEE 802.1AB-2016 table 8-1).
const (
	tlvEnd             = 0
	tlvChassis         = 1
	tlvPort            = 2
	tlvLifetime        = 3
	tlvPortDescription = 4
	tlvSystemName      = 5
	tlvAddress         = 8
	tlvOrganization    = 127
)

// mandatory are the TLVs with which every frame begins, in this order.
var mandatory = [...]byte{tlvChassis, tlvPort, tlvLifetime}

// Parse reads an Ethernet frame, with or without VLAN tags, and without its
// checksum. The error is ErrOther when it is not of LLDP.
func Parse(frame []byte) (Announcement, error) {
	var a Announcement
	rest, err := payload(frame)
	if err != nil {
		return a, err
	}
	n := 0
	for ; len(rest) > 0; n++ {
		if len(rest) < 2 {
			return a, fmt.Errorf("reading an LLDP frame: %d byte is left after its TLVs", len(rest))
		}
		header := binary.BigEndian.Uint16(rest)
		kind, size := byte(header>>9), int(header&0x1ff)
		if rest = rest[2:]; size > len(rest) {
			return a, fmt.Errorf("reading an LLDP frame: TLV %d of type %d says that it has %d bytes, and %d are left", n+1, kind, size, len(rest))
		}
		value := rest[:size]
		rest = rest[size:]
		if n < len(mandatory) != (kind >= tlvChassis && kind <= tlvLifetime) || n < len(mandatory) && kind != mandatory[n] {
			return a, fmt.Errorf("reading an LLDP frame: TLV %d is of type %d; chassis ID, port ID and time to live come first, once each", n+1, kind)
		}
		if kind == tlvEnd {
			return a, nil // what follows fills the frame up
		}
		if err := a.take(kind, value); err != nil {
			return a, fmt.Errorf("reading an LLDP frame: %w", err)
		}
	}
	if n < len(mandatory) {
		return a, errors.New("reading an LLDP frame: it ends before it says who sent it, and for how long that is true")
	}
	return a, nil
}

// groups are the addresses that LLDP is sent to: the nearest bridge, the nearest
// that is more than a relay, and the nearest of the customer (IEEE 802.1AB-2016
// table 7-1). A card passes on no group that nobody asked for.
var groups = [...][6]byte{
	{0x01, 0x80, 0xc2, 0x00, 0x00, 0x0e},
	{0x01, 0x80, 0xc2, 0x00, 0x00, 0x03},
	{0x01, 0x80, 0xc2, 0x00, 0x00, 0x00},
}

// payload is what follows the EtherType of LLDP. A frame that is sent to no group of
// LLDP may come from anywhere in the network, and says nothing of this cable.
func payload(frame []byte) ([]byte, error) {
	const addresses, tag = 12, 4
	if len(frame) < addresses || !slices.Contains(groups[:], [6]byte(frame)) {
		return nil, ErrOther
	}
	for rest := frame[addresses:]; len(rest) >= 2; {
		switch binary.BigEndian.Uint16(rest) {
		case EtherType:
			return rest[2:], nil
		case 0x8100, 0x88a8: // IEEE 802.1Q: customer and service tags
			if len(rest) < tag {
				return nil, ErrOther
			}
			rest = rest[tag:]
		default:
			return nil, ErrOther
		}
	}
	return nil, ErrOther
}

// take adds what one TLV says.
func (a *Announcement) take(kind byte, value []byte) (err error) {
	switch kind {
	case tlvChassis:
		a.Chassis, err = identifier("chassis ID", value, 4, 5)
	case tlvPort:
		a.Port, err = identifier("port ID", value, 3, 4)
	case tlvLifetime:
		if len(value) < 2 {
			return fmt.Errorf("its time to live has %d bytes; want 2", len(value))
		}
		a.Lifetime = time.Duration(binary.BigEndian.Uint16(value)) * time.Second
	case tlvPortDescription:
		a.PortDescription = plain(value)
	case tlvSystemName:
		a.System = plain(value)
	case tlvAddress:
		// The address has its own length, with its family in front; what comes
		// after it is about SNMP.
		if len(value) > 1 && len(value) > int(value[0]) && a.Address == "" {
			a.Address = address(value[1 : 1+value[0]])
		}
	case tlvOrganization:
		// IEEE 802.1Q-2018 section D.2.1: the VLAN of the port.
		if len(value) == 6 && [4]byte(value) == [4]byte{0x00, 0x80, 0xc2, 0x01} {
			a.VLAN = int(binary.BigEndian.Uint16(value[4:]))
		}
	}
	return err
}

// identifier reads the ID of a chassis or a port: a subtype, of which one is an
// Ethernet address and one a network address, and what it is.
func identifier(what string, value []byte, ethernet, network byte) (string, error) {
	if len(value) < 2 {
		return "", fmt.Errorf("its %s is empty", what)
	}
	subtype, id := value[0], value[1:]
	switch {
	case subtype == ethernet && len(id) == 6:
		return net.HardwareAddr(id).String(), nil
	case subtype == network:
		if text := address(id); text != "" {
			return text, nil
		}
	}
	text := strings.TrimSpace(strings.TrimRight(string(id), "\x00"))
	if text != "" && utf8.ValidString(text) && !strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return text, nil
	}
	return hex.EncodeToString(id), nil
}

// address is an IP address after the number of its family (IANA's address family
// numbers); empty when it is none.
func address(value []byte) string {
	if len(value) == 5 && value[0] == 1 || len(value) == 17 && value[0] == 2 {
		ip, _ := netip.AddrFromSlice(value[1:])
		return ip.String()
	}
	return ""
}

// plain is text as it can be shown to people and kept in any database. Many
// switches end it with a NUL.
func plain(value []byte) string {
	text := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(value), " "))
	return strings.Join(strings.Fields(text), " ")
}
