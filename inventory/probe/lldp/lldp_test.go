package lldp

import (
	"bytes"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/edge-provision/edge-provision/inventory"
)

// captured is a frame of testdata.
func captured(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name+".hex"))
	if err != nil {
		t.Fatal(err)
	}
	frame, err := hex.DecodeString(strings.ReplaceAll(string(text), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	return frame
}

func TestCapturedFrames(t *testing.T) {
	for name, want := range map[string]inventory.Neighbor{
		"extreme-summit300": {Chassis: "00:01:30:f9:ad:a0", Port: "1/1", PortDescription: "Summit300-48-Port 1001", System: "Summit300-48", VLAN: 488},
		"cumulus-swp13":     {Chassis: "00:01:e8:d8:0f:25", Port: "swp13", PortDescription: "swp13", System: "cumulus"},
		"nortel-minimal":    {Chassis: "00:17:d1:a8:35:bf", Port: "00:17:d1:a8:36:02"},
		"siemens-scalance": {
			Chassis: "switch1", Port: "port-001", PortDescription: "Siemens, SIMATIC NET, Ethernet Switch Port 01",
			System: "Switch1", Address: "141.81.0.190",
		},
		"lldpd-linux": {
			Chassis: "00:16:17:2f:a1:b6", Port: "00:16:17:2f:a1:b6", PortDescription: "eth0",
			System: "naruto.XXXXXXXXXXXXXXXXXXX", Address: "10.238.80.75",
		},
	} {
		t.Run(name, func(t *testing.T) {
			frame := captured(t, name)
			lifetime := 120 * time.Second
			if name == "siemens-scalance" {
				lifetime = 20 * time.Second
			}
			for what, f := range map[string][]byte{
				"": frame, "tagged ": slices.Insert(slices.Clone(frame), 12, 0x88, 0xa8, 0, 9, 0x81, 0, 0, 1),
			} {
				if got, err := Parse(f); err != nil || got.Neighbor != want || got.Lifetime != lifetime {
					t.Errorf("Parse(%s%s) = %+v, %v; want %+v for %s", what, name, got, err, want, lifetime)
				}
			}
			for n := range frame {
				if got, err := Parse(frame[:n]); err == nil && (got.Chassis != want.Chassis || got.Port != want.Port) {
					t.Errorf("Parse(the first %d bytes) = %+v; want the same sender or an error", n, got)
				}
			}
		})
	}
}

// frame makes one out of TLVs, given as type and value.
func frame(tlvs ...any) []byte {
	out := append([]byte{0x01, 0x80, 0xc2, 0, 0, 0x0e, 2, 0, 0, 0, 0, 1}, 0x88, 0xcc)
	for i := 0; i < len(tlvs); i += 2 {
		value := []byte(tlvs[i+1].(string))
		out = append(out, byte(tlvs[i].(int)<<1|len(value)>>8), byte(len(value)))
		out = append(out, value...)
	}
	return out
}

func TestIdentifiers(t *testing.T) {
	for _, test := range []struct{ chassis, port, wantChassis, wantPort string }{
		{"\x04\x00\x1b\x21\x00\x00\x0a", "\x03\x00\x1b\x21\x00\x00\x0b", "00:1b:21:00:00:0a", "00:1b:21:00:00:0b"},
		{"\x05\x01\x0a\x00\x00\x01", "\x04\x02\xfe\x80" + strings.Repeat("\x00", 13) + "\x01", "10.0.0.1", "fe80::1"},
		{"\x06eth0", "\x05Gi1/0/7", "eth0", "Gi1/0/7"},
		{"\x07sw-1\x00\x00", "\x07 42 ", "sw-1", "42"},
		{"\x07Schränke", "\x01Büro", "Schränke", "Büro"},
		{"\x04short", "\x03longer than one", "short", "longer than one"},
		{"\x07\x00\x01\x02", "\x06\xff\xfe", "000102", "fffe"},
		{"\x07a\nb", "\x07\x00", "610a62", "00"},
		{"\x05\x06\x00\x1b\x21\x00\x00\x0a", "\x04\x01\x0a", "06001b2100000a", "010a"},
		{"\x09new", "\x00old", "new", "old"},
	} {
		got, err := Parse(frame(1, test.chassis, 2, test.port, 3, "\x00\x78"))
		if err != nil || got.Chassis != test.wantChassis || got.Port != test.wantPort {
			t.Errorf("Parse(%q, %q) = %q, %q, %v; want %q, %q", test.chassis, test.port, got.Chassis, got.Port, err, test.wantChassis, test.wantPort)
		}
	}
}

// to is a frame that is right but for whom it is sent to.
func to(destination ...byte) []byte {
	return append(destination, frame(1, "\x07sw", 2, "\x07p", 3, "\x00\x78")[6:]...)
}

func TestAllGroupsOfLLDPAreHeard(t *testing.T) {
	for _, last := range []byte{0x00, 0x03, 0x0e} {
		if got, err := Parse(to(0x01, 0x80, 0xc2, 0, 0, last)); err != nil || got.Port != "p" {
			t.Errorf("Parse(to 01:80:c2:00:00:%02x) = %+v, %v; want what it says", last, got, err)
		}
	}
}

func TestFramesThatAreNone(t *testing.T) {
	chassis, port, lifetime := "\x07sw", "\x07p", "\x00\x78"
	for name, test := range map[string]struct {
		frame []byte
		want  string
	}{
		"empty":             {nil, "not a frame of LLDP"},
		"IPv4":              {append(make([]byte, 12), 0x08, 0x00, 1, 2), "not a frame of LLDP"},
		"cut in a tag":      {append(make([]byte, 12), 0x81, 0x00, 1), "not a frame of LLDP"},
		"no TLV":            {frame(), "ends before"},
		"no end":            {frame(1, chassis, 2, port), "ends before"},
		"no chassis":        {frame(2, port, 3, lifetime), "come first"},
		"no lifetime":       {frame(1, chassis, 2, port, 5, "sw"), "come first"},
		"ends at once":      {frame(0, ""), "come first"},
		"two chassis":       {frame(1, chassis, 2, port, 3, lifetime, 1, chassis), "come first"},
		"empty port":        {frame(1, chassis, 2, "\x07", 3, lifetime), "port ID is empty"},
		"short lifetime":    {frame(1, chassis, 2, port, 3, "\x78"), "time to live"},
		"TLV without bytes": {append(frame(1, chassis, 2, port, 3, lifetime), 0x0a, 0x09, 'x'), "9 bytes, and 1 are left"},
		"half a header":     {append(frame(1, chassis, 2, port, 3, lifetime), 0x0a), "1 byte is left"},
		"to this machine":   {to(0x52, 0x54, 0, 4, 0x21, 1), "not a frame of LLDP"},
		"to everybody":      {to(0xff, 0xff, 0xff, 0xff, 0xff, 0xff), "not a frame of LLDP"},
		"to another group":  {to(0x01, 0x80, 0xc2, 0, 0, 0x0f), "not a frame of LLDP"},
	} {
		got, err := Parse(test.frame)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Parse(%s) = %+v, %v; want an error with %q", name, got, err, test.want)
		}
		if other := errors.Is(err, ErrOther); other != (test.want == ErrOther.Error()) {
			t.Errorf("Parse(%s) is another protocol's: %t", name, other)
		}
	}
}

func TestTextsCanBeShownAndKept(t *testing.T) {
	got, err := Parse(frame(1, "\x07sw", 2, "\x07p", 3, "\x00\x00", 4, "up\x1b[31m link\xff\x00", 5, "  a\r\nb\x00", 8, "\x05\x01\x0a", 8, "\x05\x01\x0a\x00\x00\x02\x01", 127, "\x00\x80\xc2\x01\x00\x07", 127, ""))
	want := inventory.Neighbor{Chassis: "sw", Port: "p", PortDescription: "up [31m link", System: "a b", Address: "10.0.0.2", VLAN: 7}
	if err != nil || got.Neighbor != want || got.Lifetime != 0 {
		t.Errorf("Parse() = %+v, %v; want %+v, no longer true", got, err, want)
	}
}

func FuzzParse(f *testing.F) {
	names, err := filepath.Glob(filepath.Join("testdata", "*.hex"))
	if err != nil || len(names) < 5 {
		f.Fatalf("Glob = %v, %v; want the captured frames", names, err)
	}
	for _, name := range names {
		f.Add(captured(f, strings.TrimSuffix(filepath.Base(name), ".hex")))
	}
	f.Add(frame(1, "\x05\x01\x0a\x00\x00\x01", 2, "\x07\xff", 3, "\x00\x00", 8, "\xff", 127, "\x00\x80\xc2\x01\x0f\xff"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		before := bytes.Clone(frame)
		a, err := Parse(frame)
		if !bytes.Equal(before, frame) {
			t.Error("Parse changed the frame")
		}
		if err != nil {
			return
		}
		if a.Chassis == "" || a.Port == "" || a.Lifetime < 0 || a.Lifetime > 65535*time.Second {
			t.Errorf("Parse() = %+v; want who sent it", a)
		}
		n := a.Neighbor
		n.MAC = inventory.MAC{2}
		if err := (inventory.Facts{Neighbors: []inventory.Neighbor{n}}).Validate(); err != nil {
			t.Errorf("Parse() = %+v, which no catalog takes: %v", a, err)
		}
		for _, s := range []string{a.Chassis, a.Port, a.PortDescription, a.System} {
			if !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' }) {
				t.Errorf("Parse() = %q; want text that can be shown", s)
			}
		}
	})
}
