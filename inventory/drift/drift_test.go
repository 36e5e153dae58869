package drift

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

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
			{Name: "sda", Serial: "S1", Bytes: 100, FirmwareRev: "A", Rotational: &no, Signatures: []string{}},
			{Name: "sdb", Serial: "S2", Bytes: 200, Signatures: []string{"gpt"}},
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
			"a disk is swapped", func(f *inventory.Facts) { f.Disks[1].Serial, f.Disks[1].Bytes = "S3", 300 },
			"disk \"S2\" is gone (bytes 200, serial \"S2\")\ndisk \"S3\" is new (bytes 300, serial \"S3\")",
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
			"disk \"S1\": firmware_rev is \"B\"; it was \"A\"",
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

func TestTwoPathsToOneDiskAreTwoMembers(t *testing.T) {
	paths := func(n int) inventory.Facts {
		var f inventory.Facts
		for i := range n {
			f.Disks = append(f.Disks, inventory.Disk{Name: fmt.Sprintf("sd%c", 'a'+i), Serial: "S", Bytes: 1})
		}
		return f
	}
	if got := Compare(paths(2), paths(2)); len(got) != 0 {
		t.Errorf("Compare(two paths, two paths) = %v; want none", got)
	}
	if got := Compare(paths(2), paths(1)); len(got) != 1 || got[0].Path != `disks["S#2"]` {
		t.Errorf("Compare(two paths, one path) = %v; want that one is gone", got)
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
