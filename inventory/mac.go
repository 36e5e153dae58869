package inventory

import (
	"encoding/hex"
	"fmt"
	"strings"
)

// MAC is an EUI-48 Ethernet address. Unlike net.HardwareAddr it is comparable
// and has one text form.
type MAC [6]byte

// ParseMAC reads a MAC written with colons, dashes, Cisco dots or no separator
// at all, in either case. It refuses mixed separators, and the all-zero,
// broadcast and multicast addresses, which never name a machine.
func ParseMAC(s string) (MAC, error) {
	var m MAC
	digits, err := macDigits(s)
	if err != nil {
		return m, err
	}
	if _, err := hex.Decode(m[:], []byte(digits)); err != nil {
		return MAC{}, fmt.Errorf("%q is not a MAC address: want twelve hexadecimal digits, such as 52:54:00:04:21:01", clip(s))
	}
	switch {
	case m == MAC{}:
		return MAC{}, fmt.Errorf("%q is the all-zero MAC address, which names no machine", clip(s))
	case m[0]&1 == 1:
		return MAC{}, fmt.Errorf("%q is a group (multicast or broadcast) MAC address, which names no machine", clip(s))
	}
	return m, nil
}

// macDigits strips the separators of one of the four accepted forms.
func macDigits(s string) (string, error) {
	forms := []struct {
		sep   string
		group int
	}{{":", 2}, {"-", 2}, {".", 4}}
	if len(s) == 12 && !strings.ContainsAny(s, ":-.") {
		return s, nil
	}
	for _, f := range forms {
		parts := strings.Split(s, f.sep)
		if len(parts) != 12/f.group {
			continue
		}
		whole := true
		for _, p := range parts {
			whole = whole && len(p) == f.group
		}
		if whole {
			return strings.Join(parts, ""), nil
		}
	}
	return "", fmt.Errorf("%q is not a MAC address: want twelve hexadecimal digits, such as 52:54:00:04:21:01", clip(s))
}

// clip keeps a stranger's string from filling an error message.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}

// String is the lower-case, colon-separated form.
func (m MAC) String() string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// IsZero reports whether m is unset.
func (m MAC) IsZero() bool { return m == MAC{} }

// MarshalText implements encoding.TextMarshaler.
func (m MAC) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; it accepts what ParseMAC
// accepts.
func (m *MAC) UnmarshalText(b []byte) error {
	p, err := ParseMAC(string(b))
	if err != nil {
		return err
	}
	*m = p
	return nil
}
