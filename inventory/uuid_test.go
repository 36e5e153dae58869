package inventory

import (
	"encoding/hex"
	"testing"

	"github.com/google/uuid"
)

func TestSMBIOSUUIDFollowsTheVersion(t *testing.T) {
	// The example of DSP0134 section 7.2.1: the text form
	// 00112233-4455-6677-8899-AABBCCDDEEFF is stored as these bytes.
	stored := [16]byte{0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff}
	const inOrder, swapped = "33221100-5544-7766-8899-aabbccddeeff", "00112233-4455-6677-8899-aabbccddeeff"
	for _, c := range []struct {
		major, minor int
		want         string
	}{{2, 4, inOrder}, {2, 5, inOrder}, {2, 6, swapped}, {2, 8, swapped}, {3, 0, swapped}, {3, 7, swapped}} {
		if got := SMBIOSUUID(stored, c.major, c.minor).String(); got != c.want {
			t.Errorf("SMBIOSUUID(stored, %d.%d) = %s; want %s", c.major, c.minor, got, c.want)
		}
	}
}

func TestOption97UUID(t *testing.T) {
	want := uuid.MustParse("00112233-4455-6677-8899-aabbccddeeff")
	for name, c := range map[string]struct {
		option string
		ok     bool
	}{
		"SMBIOS order":    {"00" + "33221100554477668899aabbccddeeff", true},
		"RFC 9562 order":  {"00" + "00112233445566778899aabbccddeeff", true},
		"another type":    {"01" + "33221100554477668899aabbccddeeff", false},
		"without type":    {"33221100554477668899aabbccddeeff", false},
		"one byte longer": {"00" + "33221100554477668899aabbccddeeff00", false},
		"empty":           {"", false},
	} {
		raw, err := hex.DecodeString(c.option)
		if err != nil {
			t.Fatal(err)
		}
		got, ok := Option97UUID(raw)
		if ok != c.ok || ok && !SameUUID(got, want) || !ok && got != uuid.Nil {
			t.Errorf("Option97UUID(%s) = %s, %v; want %v and the same UUID as %s", name, got, ok, c.ok, want)
		}
	}
	if SameUUID(want, uuid.MustParse("00112233-4455-7766-8899-aabbccddeeff")) {
		t.Error("SameUUID of half-swapped UUIDs = true; want false")
	}
}

func FuzzSwapUUID(f *testing.F) {
	f.Add([]byte("0123456789abcdef"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		u, err := uuid.FromBytes(raw)
		if err != nil {
			return
		}
		if SwapUUID(SwapUUID(u)) != u || !SameUUID(u, SwapUUID(u)) || !SameUUID(SwapUUID(u), u) {
			t.Errorf("SwapUUID(%s) = %s; want its own inverse", u, SwapUUID(u))
		}
		if JunkUUID(u) != JunkUUID(SwapUUID(u)) {
			t.Errorf("JunkUUID(%s) = %v; want the same in the other byte order", u, JunkUUID(u))
		}
	})
}
