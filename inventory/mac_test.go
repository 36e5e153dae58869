package inventory

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestParseMACAcceptsEveryCommonForm(t *testing.T) {
	want := MAC{0x52, 0x54, 0, 0x04, 0x21, 0xab}
	for _, s := range []string{
		"52:54:00:04:21:ab", "52:54:00:04:21:AB", "52-54-00-04-21-ab", "5254.0004.21ab", "5254000421ab", "5254000421AB",
	} {
		if got, err := ParseMAC(s); err != nil || got != want {
			t.Errorf("ParseMAC(%q) = %v, %v; want %v", s, got, err, want)
		}
	}
}

func TestParseMACRefusesWhatNamesNoMachine(t *testing.T) {
	cases := map[string]string{
		"":                                "not a MAC",
		"52:54:00:04:21":                  "not a MAC",
		"52:54:00:04:21:ab:cd":            "not a MAC",
		"52:54-00:04:21:ab":               "not a MAC",
		"52:54:00:04:21:0g":               "not a MAC",
		"5:254:00:04:21:ab":               "not a MAC",
		"5254.0004:21ab":                  "not a MAC",
		" 52:54:00:04:21:ab":              "not a MAC",
		"5254000421a":                     "not a MAC",
		"52540004.1ab":                    "not a MAC",
		"00:00:00:00:00:00":               "all-zero",
		"ff:ff:ff:ff:ff:ff":               "group",
		"01:00:5e:00:00:01":               "group",
		"00:00:00:00:fe:80:00:00":         "not a MAC", // IPoIB and EUI-64 are no Ethernet addresses
		strings.Repeat("52:54:00:", 1000): "not a MAC",
	}
	for s, want := range cases {
		_, err := ParseMAC(s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseMAC(%.30q) = %v; want an error that says %q", s, err, want)
			continue
		}
		if len(err.Error()) > 256 {
			t.Errorf("ParseMAC(%.30q) has an error of %d bytes; want a short one", s, len(err.Error()))
		}
	}
}

func TestMACInJSON(t *testing.T) {
	type doc struct {
		MAC MAC `json:"mac,omitzero"`
	}
	var d doc
	if err := json.Unmarshal([]byte(`{"mac":"52-54-00-04-21-AB"}`), &d); err != nil {
		t.Fatal(err)
	}
	if raw, err := json.Marshal(d); err != nil || string(raw) != `{"mac":"52:54:00:04:21:ab"}` {
		t.Errorf("Marshal = %s, %v; want the one text form", raw, err)
	}
	if raw, err := json.Marshal(doc{}); err != nil || string(raw) != `{}` {
		t.Errorf("Marshal of no MAC = %s, %v; want it left out", raw, err)
	}
	if err := json.Unmarshal([]byte(`{"mac":"00:00:00:00:00:00"}`), &d); err == nil {
		t.Error("Unmarshal of the zero MAC = nil; want an error")
	}
}

func FuzzParseMAC(f *testing.F) {
	for _, s := range []string{"52:54:00:04:21:ab", "52-54-00-04-21-ab", "5254.0004.21ab", "5254000421ab", "ff:ff:ff:ff:ff:ff", "::::::", "\x00", "5254.0004.21\xc3\xa9"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			if m != (MAC{}) {
				t.Errorf("ParseMAC(%q) = %v beside an error; want zero", s, m)
			}
			return
		}
		if m.IsZero() || m[0]&1 == 1 {
			t.Errorf("ParseMAC(%q) = %v; want no zero and no group address", s, m)
		}
		if again, err := ParseMAC(m.String()); err != nil || again != m {
			t.Errorf("ParseMAC(%q) = %v, %v; want %v: the text form reads back", m, again, err, m)
		}
		digits := strings.ToLower(strings.NewReplacer(":", "", "-", "", ".", "").Replace(s))
		if digits != strings.ReplaceAll(m.String(), ":", "") {
			t.Errorf("ParseMAC(%q) = %v; want the digits that were given", s, m)
		}
	})
}
