package inventory

import (
	"os"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// lines reads a fixture list.
func lines(t *testing.T, name string) []string {
	t.Helper()
	raw, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(raw)) {
		if line = strings.TrimSuffix(line, "\n"); line != "" && !strings.HasPrefix(line, "#") {
			out = append(out, line)
		}
	}
	return out
}

func TestJunkIdentifiesNoMachine(t *testing.T) {
	for _, s := range append(lines(t, "junk-serials.txt"), "", " ", "\t\n") {
		if !JunkSerial(s) {
			t.Errorf("JunkSerial(%q) = false; want true", s)
		}
	}
	for _, s := range lines(t, "junk-uuids.txt") {
		u := uuid.MustParse(s)
		if !JunkUUID(u) || !JunkUUID(SwapUUID(u)) {
			t.Errorf("JunkUUID(%s) = false in one byte order; want true in both", s)
		}
	}
}

func TestTrueIdentifiersAreKept(t *testing.T) {
	// Serial numbers in the forms of Dell, HPE, Lenovo, Supermicro,
	// Raspberry Pi, Intel NUC and QEMU users.
	for _, s := range []string{"7XK2Q93", "CZ3430PX2L", "J301ABCD", "S15831234567890", "10000000a1b2c3d4", "GENY1234001F", "rack1-u07", "1", "00000001"} {
		if got, want := JunkSerial(s), s == "1"; got != want {
			t.Errorf("JunkSerial(%q) = %v; want %v", s, got, want)
		}
	}
	for _, s := range []string{"4c4c4544-0058-4b10-8032-b7c04f513933", "38393550-3036-5a43-3334-33305058324c", "00000000-0000-0000-0000-ac1f6b8dca6a", "7a1f6d2e-1234-5678-1234-567812345678"} {
		if u := uuid.MustParse(s); JunkUUID(u) {
			t.Errorf("JunkUUID(%s) = true; want false", s)
		}
	}
}
