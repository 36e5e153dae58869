package drift

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

func server(change func(*inventory.Facts)) inventory.Facts {
	yes, no := true, false
	f := inventory.Facts{
		SchemaVersion: 1,
		System:        &inventory.System{Manufacturer: "Dell Inc.", Product: "PowerEdge XR12", Serial: "7XK2Q93"},
		BIOS:          &inventory.BIOS{Vendor: "Dell Inc.", Version: "1.9.2", Date: "11/17/2023"},
		Firmware:      &inventory.Firmware{Mode: "uefi", SecureBoot: &yes},
		CPU:           &inventory.CPU{Model: "Xeon", Cores: 24, Threads: 48, Flags: []string{"aes"}},
		Memory: &inventory.Memory{Bytes: 64 << 30, Modules: []inventory.MemoryModule{
			{Locator: "A1", Bytes: 32 << 30, Serial: "8A1B"}, {Locator: "A2", Bytes: 32 << 30, Serial: "8A1C"},
		}},
		Disks: []inventory.Disk{
			{Name: "sda", Serial: "S4EV1", Bytes: 100, FirmwareRev: "A", Rotational: &no, Signatures: []string{}},
			{Name: "sdb", Serial: "S4EV2", Bytes: 200, Signatures: []string{"gpt"}},
		},
		NICs: []inventory.NIC{{Name: "eno1", MAC: inventory.MAC{2, 0, 0, 0, 0, 1}, Driver: "igc", PCI: "0000:02:00.0"}},
		PCI: []inventory.PCI{
			{Address: "0000:02:00.0", Class: "020000", Vendor: "8086", Device: "15f2", Driver: "igc"},
			{Address: "0000:03:00.0", Class: "020000", Vendor: "8086", Device: "15f2", Driver: "igc"},
		},
		TPM:    &inventory.TPM{Version: "2.0"},
		Kernel: &inventory.Kernel{Release: "6.1.0"},
	}
	if change != nil {
		change(&f)
	}
	return f
}

func TestCompareTellsWhatWasChangedInTheMachine(t *testing.T) {
	tests := []struct {
		name   string
		change func(*inventory.Facts)
		want   string
	}{
		{"nothing", nil, ""},
		{
			"a disk is swapped", func(f *inventory.Facts) { f.Disks[1].Serial, f.Disks[1].Bytes = "S4EV3", 300 },
			"disk \"S4EV2\" is gone (bytes 200, serial \"S4EV2\")\ndisk \"S4EV3\" is new (bytes 300, serial \"S4EV3\")",
		},
		{
			"a module is gone", func(f *inventory.Facts) { f.Memory.Modules, f.Memory.Bytes = f.Memory.Modules[:1], 32<<30 },
			"memory module \"A2\" is gone (bytes 34359738368, serial \"8A1C\")",
		},
		{
			"a module is replaced in its slot", func(f *inventory.Facts) { f.Memory.Modules[1].Serial = "8A1D" },
			"memory module \"A2\": serial is \"8A1D\"; it was \"8A1C\"",
		},
		{
			"firmware is updated", func(f *inventory.Facts) {
				f.BIOS = &inventory.BIOS{Vendor: "Dell Inc.", Version: "1.12.1", Date: "11/17/2023"}
			},
			"bios.version is \"1.12.1\"; it was \"1.9.2\"",
		},
		{
			"a disk's firmware is updated", func(f *inventory.Facts) { f.Disks[0].FirmwareRev = "B" },
			"disk \"S4EV1\": firmware_rev is \"B\"; it was \"A\"",
		},
		{
			"secure boot is switched off", func(f *inventory.Facts) { no := false; f.Firmware.SecureBoot = &no },
			"firmware.secure_boot is false; it was true",
		},
		{
			"a network card is replaced by its twin", func(f *inventory.Facts) { f.NICs[0].MAC[5] = 2 },
			"network port \"02:00:00:00:00:01\" is gone (mac \"02:00:00:00:00:01\")\nnetwork port \"02:00:00:00:00:02\" is new (mac \"02:00:00:00:00:02\")",
		},
		{"a card is pulled and the rest renumbered", func(f *inventory.Facts) {
			f.PCI = []inventory.PCI{{Address: "0000:05:00.0", Class: "020000", Vendor: "8086", Device: "15f2"}}
		}, "PCI function \"8086:15f2 class 020000\": count is 1; it was 2"},
		{"what another boot, kernel or installation changes", func(f *inventory.Facts) {
			f.Disks[0].Name, f.Disks[1].Name = "nvme0n1", "sda"
			f.Disks[0].Signatures, f.Disks[0].Owner = []string{"gpt", "ext4"}, &inventory.Owner{Catalog: "c"}
			slices.Reverse(f.Disks)
			f.NICs[0].Name, f.NICs[0].Driver, f.NICs[0].Boot = "enp2s0", "", true
			f.CPU.Flags, f.CPU.Threads, f.Kernel.Release, f.Memory.Bytes = nil, 24, "6.12", 63<<30
		}, ""},
		{"what a user may not see, and what another source sees too", func(f *inventory.Facts) {
			f.System, f.TPM, f.Memory, f.Disks[0].FirmwareRev = nil, nil, nil, ""
			f.BMC = &inventory.BMCFacts{Firmware: "7.0"}
			f.Disks[1].Model = "ST4000NM"
		}, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			was, is := server(nil), server(test.change)
			var got []string
			for _, c := range Compare(was, is) {
				got = append(got, Describe(c))
			}
			if strings.Join(got, "\n") != test.want {
				t.Errorf("Compare() =\n%s\nwant\n%s", strings.Join(got, "\n"), test.want)
			}
			there, back := Compare(was, is), Compare(is, was)
			if len(there) != len(back) || (Digest(there) == "") != (test.want == "") {
				t.Errorf("Compare() = %v and back %v, digest %q; want as many, and a digest for a difference", there, back, Digest(there))
			}
		})
	}
}

// disks are a machine's, in the order in which the kernel found them.
func disks(all ...inventory.Disk) inventory.Facts {
	f := inventory.Facts{Disks: []inventory.Disk{}}
	for i, d := range all {
		d.Name = fmt.Sprintf("sd%c", 'a'+i)
		f.Disks = append(f.Disks, d)
	}
	return f
}

func TestMembersOfOneNameAreComparedAsAWhole(t *testing.T) {
	disk := func(serial string, bytes int64, rev string) inventory.Disk {
		return inventory.Disk{Serial: serial, Bytes: bytes, FirmwareRev: rev}
	}
	path := disk("S4EVNX0N", 1, "A")
	module := func(locator, serial string, bytes int64) inventory.MemoryModule {
		return inventory.MemoryModule{Locator: locator, Serial: serial, Bytes: bytes}
	}
	modules := func(all ...inventory.MemoryModule) inventory.Facts {
		return inventory.Facts{Memory: &inventory.Memory{Modules: all}}
	}
	tests := []struct {
		name    string
		was, is inventory.Facts
		want    string
	}{
		{"two paths to one disk", disks(path, path), disks(path, path), ""},
		{"one of two paths to a disk", disks(path, path), disks(path), `disk "S4EVNX0N#2" is gone (bytes 1, firmware_rev "A", serial "S4EVNX0N")`},
		{"a third path to a disk", disks(path, path), disks(path, path, path), `disk "S4EVNX0N#3" is new (bytes 1, firmware_rev "A", serial "S4EVNX0N")`},
		{"one serial number on two disks, found in another order", disks(disk("AB12CD", 1, "A"), disk("AB12CD", 2, "B")), disks(disk("AB12CD", 2, "B"), disk("AB12CD", 1, "A")), ""},
		{"placeholders, found in another order", disks(disk("0000", 1, "A"), disk("0000", 2, "B")), disks(disk("0000", 2, "B"), disk("0000", 1, "A")), ""},
		{
			"a placeholder that another source writes otherwise is no name", disks(disk("0", 1, ""), disk("To be filled by O.E.M.", 2, "")), disks(disk("To be filled by O.E.M.", 2, ""), disk("0", 1, "")), "",
		},
		{
			"no number at all, and numbered buses anew", disks(inventory.Disk{Bytes: 1, Path: "pci-1"}, inventory.Disk{Bytes: 2, Path: "pci-2"}), disks(inventory.Disk{Bytes: 2, Path: "pci-1"}, inventory.Disk{Bytes: 1, Path: "pci-2"}), "",
		},
		{
			"a WWN tells disks apart that share a placeholder", disks(inventory.Disk{Serial: "N/A", WWN: "naa.5000c500a1b2c3d4", Bytes: 1}, inventory.Disk{Serial: "N/A", WWN: "naa.5000c500a1b2c3d5", Bytes: 1}),
			disks(inventory.Disk{Serial: "N/A", WWN: "naa.5000c500a1b2c3d5", Bytes: 1}), `disk "naa.5000c500a1b2c3d4" is gone (bytes 1, serial "N/A", wwn "naa.5000c500a1b2c3d4")`,
		},
		{
			"a WWN of zeros tells nothing", disks(inventory.Disk{WWN: "eui.0000000000000000", Bytes: 1}, inventory.Disk{WWN: "eui.0000000000000000", Bytes: 2}),
			disks(inventory.Disk{WWN: "eui.0000000000000000", Bytes: 2}, inventory.Disk{WWN: "eui.0000000000000000", Bytes: 1}), "",
		},
		{
			"one of two with a placeholder is swapped", disks(disk("Default string", 1, "A"), disk("Default string", 2, "A")), disks(disk("Default string", 3, "A"), disk("Default string", 1, "A")),
			`disk "without a number#2": bytes is 3; it was 2`,
		},
		{
			"one of two with a placeholder is taken out", disks(disk("0", 1, "A"), disk("0", 2, "A")), disks(disk("0", 2, "A")),
			`disk "without a number" is gone (bytes 1, firmware_rev "A", serial "0")`,
		},
		{
			"a look that sees less", disks(disk("0", 1, "A"), disk("0", 2, "B")), disks(disk("0", 2, ""), disk("0", 1, "")), "",
		},
		{"every disk is taken out", disks(disk("AB12CD", 1, "")), disks(), `disk "AB12CD" is gone (bytes 1, serial "AB12CD")`},
		{"a look that sees no disks says nothing of them", disks(disk("AB12CD", 1, "")), inventory.Facts{}, ""},
		{"modules of one slot's name, found in another order", modules(module("DIMM 0", "8A1B", 1), module("DIMM 0", "8A1C", 2)), modules(module("DIMM 0", "8A1C", 2), module("DIMM 0", "8A1B", 1)), ""},
		{
			"modules without slot, with placeholders", modules(module("", "00000000", 1), module("", "00000000", 2)), modules(module("", "00000000", 2)),
			`memory module "without a number" is gone (bytes 1, serial "00000000")`,
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, c := range Compare(test.was, test.is) {
				got = append(got, Describe(c))
			}
			if strings.Join(got, "\n") != test.want {
				t.Errorf("Compare() =\n%s\nwant\n%s", strings.Join(got, "\n"), test.want)
			}
			if back := Compare(test.is, test.was); len(back) != len(got) {
				t.Errorf("Compare() the other way round = %v; want %d changes", back, len(got))
			}
		})
	}
}

// TestManyMembersOfOneNameAreComparedAtOnce has far more of them than a report may
// hold. Compared each with each they would take minutes.
func TestManyMembersOfOneNameAreComparedAtOnce(t *testing.T) {
	const many = 10_000
	modules := func(first int64) inventory.Facts {
		m := &inventory.Memory{Modules: make([]inventory.MemoryModule, many)}
		for i := range m.Modules {
			m.Modules[i].Bytes = first + int64(i)
		}
		return inventory.Facts{Memory: m}
	}
	began := time.Now()
	if got := len(Compare(modules(1), modules(1+many))); got != many {
		t.Errorf("Compare() = %d changes; want one of each module", got)
	}
	if got := len(Compare(modules(1), modules(2))); got != 1 {
		t.Errorf("Compare() = %d changes; want the one module that differs", got)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("Compare() took %s", took)
	}
}

// TestEveryFactCountsOrSaysWhyNot makes whoever adds a fact decide.
func TestEveryFactCountsOrSaysWhyNot(t *testing.T) {
	var leaves []string
	var walk func(path string, t reflect.Type)
	walk = func(path string, typ reflect.Type) {
		for typ.Kind() == reflect.Pointer {
			typ = typ.Elem()
		}
		switch {
		case typ == reflect.TypeFor[inventory.MAC]():
			leaves = append(leaves, path)
		case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct:
			walk(path+"[]", typ.Elem())
			if names[path] == nil {
				t.Errorf("list %s: names says by nothing how its members are known", path)
			}
		case typ.Kind() == reflect.Struct:
			for i := range typ.NumField() {
				name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
				at := name
				if path != "" {
					at = path + "." + name
				}
				walk(at, typ.Field(i).Type)
			}
		default:
			leaves = append(leaves, path)
		}
	}
	walk("", reflect.TypeFor[inventory.Facts]())
	known := map[string]bool{}
	for _, leaf := range leaves {
		known[leaf] = true
		if _, is := ignored[leaf]; is == counted[leaf] {
			t.Errorf("fact %s: counted %t, ignored %t; want one of them: does it change when nobody changes the hardware?", leaf, counted[leaf], is)
		}
	}
	for path := range counted {
		if !known[path] {
			t.Errorf("counted has %s, which is no fact", path)
		}
	}
	for path := range ignored {
		if !known[path] {
			t.Errorf("ignored has %s, which is no fact", path)
		}
	}
}
