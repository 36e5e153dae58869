package inventory

import (
	"fmt"
	"strings"
	"testing"
)

func diffText(a, b Facts) string {
	var out []string
	for _, c := range Diff(a, b) {
		out = append(out, c.String())
	}
	return strings.Join(out, "\n")
}

func TestDiffNamesWhatChanged(t *testing.T) {
	yes, no := true, false
	a := Facts{
		BIOS:   &BIOS{Vendor: "Dell Inc.", Version: "1.9.2"},
		TPM:    &TPM{Version: "2.0"},
		CPU:    &CPU{Cores: 24, Flags: []string{"vmx", "aes"}},
		Memory: &Memory{Bytes: 64 << 30, Modules: []MemoryModule{{Locator: "A1", Serial: "8A1B", Bytes: 32 << 30}, {Locator: "A2", Serial: "8A1C", Bytes: 32 << 30}}},
		Disks: []Disk{
			{Name: "sda", Serial: "S1", Bytes: 100, FirmwareRev: "A", Rotational: &no, Signatures: []string{"gpt"}},
			{Name: "sdb", Serial: "S2", Bytes: 200, Signatures: []string{}},
		},
		NICs: []NIC{{Name: "eno1", MAC: MAC{2, 0, 0, 0, 0, 1}, Driver: "igc"}},
	}
	b := Facts{
		BIOS:   &BIOS{Vendor: "Dell Inc.", Version: "1.12.1"},
		CPU:    &CPU{Cores: 24, Flags: []string{"aes", "vmx"}}, // another order is no change
		Memory: &Memory{Bytes: 32 << 30, Modules: []MemoryModule{{Locator: "A1", Serial: "8A1B", Bytes: 32 << 30}}},
		Disks: []Disk{ // the kernel found them in another order
			{Name: "sda", Serial: "S2", Bytes: 200, Signatures: []string{"ext4"}},
			{Name: "sdb", Serial: "S1", Bytes: 100, FirmwareRev: "B", Rotational: &yes, Signatures: []string{"gpt"}},
		},
		NICs: []NIC{{Name: "eno1", MAC: MAC{2, 0, 0, 0, 0, 2}, Driver: "igc"}},
	}
	want := strings.TrimSpace(`
~ bios.version: "1.9.2" -> "1.12.1"
~ disks["S1"].firmware_rev: "A" -> "B"
~ disks["S1"].name: "sda" -> "sdb"
~ disks["S1"].rotational: false -> true
~ disks["S2"].name: "sdb" -> "sda"
~ disks["S2"].signatures: [] -> ["ext4"]
~ memory.bytes: 68719476736 -> 34359738368
- memory.modules["8A1C"].bytes: 34359738368
- memory.modules["8A1C"].locator: "A2"
- memory.modules["8A1C"].serial: "8A1C"
- nics["02:00:00:00:00:01"].driver: "igc"
- nics["02:00:00:00:00:01"].mac: "02:00:00:00:00:01"
- nics["02:00:00:00:00:01"].name: "eno1"
+ nics["02:00:00:00:00:02"].driver: "igc"
+ nics["02:00:00:00:00:02"].mac: "02:00:00:00:00:02"
+ nics["02:00:00:00:00:02"].name: "eno1"
- tpm.version: "2.0"`)
	if got := diffText(a, b); got != want {
		t.Errorf("Diff =\n%s\nwant\n%s", got, want)
	}
	if got := Diff(a, a); len(got) != 0 {
		t.Errorf("Diff(a, a) = %v; want nothing", got)
	}
	back := Diff(b, a)
	for i, c := range Diff(a, b) {
		if r := back[i]; r.Path != c.Path || r.Old != c.New || r.New != c.Old {
			t.Errorf("Diff(b, a)[%d] = %v; want the reverse of %v", i, r, c)
		}
	}
}

func TestDiffTellsAnEmptyListFromOneThatNobodyLookedFor(t *testing.T) {
	absent, empty := Facts{}, Facts{Disks: []Disk{}, Memory: &Memory{Modules: []MemoryModule{}}}
	one := Facts{Disks: []Disk{{Name: "sda", Serial: "S4EVNX0N", Bytes: 1, Signatures: []string{}}}}
	for name, c := range map[string]struct {
		a, b Facts
		want string
	}{
		"looked at for the first time": {absent, empty, "[+ disks: [] + memory.modules: []]"},
		"not looked at any more":       {empty, absent, "[- disks: [] - memory.modules: []]"},
		"the last disk is gone": {
			one, Facts{Disks: []Disk{}}, `[+ disks: [] - disks["S4EVNX0N"].bytes: 1 - disks["S4EVNX0N"].name: "sda" - disks["S4EVNX0N"].serial: "S4EVNX0N" - disks["S4EVNX0N"].signatures: []]`,
		},
		"the disks are not seen any more": {
			one, absent, `[- disks["S4EVNX0N"].bytes: 1 - disks["S4EVNX0N"].name: "sda" - disks["S4EVNX0N"].serial: "S4EVNX0N" - disks["S4EVNX0N"].signatures: []]`,
		},
		"still none": {empty, empty, "[]"},
	} {
		if got := fmt.Sprint(Diff(c.a, c.b)); got != c.want {
			t.Errorf("%s: Diff = %s; want %s", name, got, c.want)
		}
	}
}

func TestDiffOfMembersWithoutIdentity(t *testing.T) {
	twins := func(n int64) Facts {
		return Facts{Disks: []Disk{{Name: "vda", Bytes: n}, {Name: "vda", Bytes: 2 * n}}}
	}
	if got := len(Diff(twins(1), twins(3))); got != 2 {
		t.Errorf("Diff of two disks with one name = %d changes; want 2: %s", got, diffText(twins(1), twins(3)))
	}
	if got, want := fmt.Sprint(Diff(Facts{}, Facts{Disks: []Disk{{Name: "vda", Signatures: []string{}}}})),
		`[+ disks["vda"].bytes: 0 + disks["vda"].name: "vda" + disks["vda"].signatures: []]`; got != want {
		t.Errorf("Diff from nothing = %s; want %s", got, want)
	}
}
