package drift

import (
	"slices"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
)

func TestChangedPathsNameFactsAndWhatHoldsThem(t *testing.T) {
	yes := true
	tests := []struct {
		name   string
		change func(*inventory.Facts)
		want   string
	}{
		{"nothing", nil, ""},
		{"firmware is updated", func(f *inventory.Facts) {
			f.BIOS = &inventory.BIOS{Vendor: "Dell Inc.", Version: "1.12.1", Date: "11/17/2023"}
		}, "bios bios.version"},
		{"a list of plain values", func(f *inventory.Facts) {
			f.CPU = &inventory.CPU{Model: "Xeon", Cores: 24, Threads: 48, Flags: []string{"aes", "avx2"}}
		}, "cpu cpu.flags"},
		{"a part appears", func(f *inventory.Facts) { f.BMC = &inventory.BMCFacts{Address: "172.22.1.11"} }, "bmc bmc.address"},
		{"a module", func(f *inventory.Facts) { f.Memory.Modules[1].ECC = &yes }, "memory memory.modules"},
		{"a disk is swapped", func(f *inventory.Facts) { f.Disks[1].Serial = "S4EV3" }, "disks"},
		{"a disk's firmware is updated", func(f *inventory.Facts) { f.Disks[0].FirmwareRev = "B" }, "disks"},
		{"the last disk is gone", func(f *inventory.Facts) { f.Disks = []inventory.Disk{} }, "disks"},
		{"nobody looks for disks any more", func(f *inventory.Facts) { f.Disks = nil }, "disks"},
		{"a port is new", func(f *inventory.Facts) {
			f.NICs = append(f.NICs, inventory.NIC{Name: "eno2", MAC: inventory.MAC{2, 0, 0, 0, 0, 2}})
		}, "nics"},
		{"a card is pulled", func(f *inventory.Facts) { f.PCI = f.PCI[:1] }, "pci"},
		{"a cable is moved", func(f *inventory.Facts) {
			f.Neighbors = []inventory.Neighbor{{MAC: inventory.MAC{2, 0, 0, 0, 0, 1}, Port: "Gi1/0/3"}}
		}, "neighbors"},
		{"the installed system reports after the installer", func(f *inventory.Facts) {
			f.Disks[0].Name, f.Disks[1].Name = "sdb", "sda"
			f.Disks[0].Signatures, f.Disks[0].PartUUIDs = []string{"gpt"}, []string{"0190f5fe-7c00-7a00-8abc-012345678901"}
			f.Disks[0].Owner = &inventory.Owner{Catalog: "c"}
			f.NICs[0].Name, f.NICs[0].Driver, f.NICs[0].Boot = "enp1s0", "igc-next", true
			f.PCI[0].Driver = "vfio-pci"
			f.Kernel = &inventory.Kernel{Release: "6.12.0"}
		}, "kernel kernel.release"},
	}
	for _, tt := range tests {
		before := server(nil)
		before.Neighbors = []inventory.Neighbor{{MAC: inventory.MAC{2, 0, 0, 0, 0, 1}, Port: "Gi1/0/8"}}
		after := server(func(f *inventory.Facts) {
			f.Neighbors = slices.Clone(before.Neighbors)
			if tt.change != nil {
				tt.change(f)
			}
		})
		if got := strings.Join(ChangedPaths(before, after), " "); got != tt.want {
			t.Errorf("%s: ChangedPaths = %s; want %s", tt.name, got, tt.want)
		}
	}
}

// TestChangedPathsOfDisksWithoutNumbers: nothing but the kernel's name tells such disks
// apart, and it is not asked.
func TestChangedPathsOfDisksWithoutNumbers(t *testing.T) {
	was := disks(inventory.Disk{Bytes: 100}, inventory.Disk{Bytes: 200, Signatures: []string{}})
	is := disks(inventory.Disk{Bytes: 200, Signatures: []string{"gpt"}}, inventory.Disk{Bytes: 100})
	if got := ChangedPaths(was, is); len(got) != 0 {
		t.Errorf("ChangedPaths of two disks in the other order = %v; want none", got)
	}
	is.Disks[0].Bytes = 300
	if got := ChangedPaths(was, is); !slices.Equal(got, []string{"disks"}) {
		t.Errorf("ChangedPaths with another disk = %v; want disks", got)
	}
}
