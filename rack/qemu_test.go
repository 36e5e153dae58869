package rack

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("reading the golden file (-update writes it): %v", err)
	}
	if got != string(want) {
		t.Errorf("%s differs from its golden file; got\n%s\nwant\n%s", name, got, want)
	}
}

func machineUnderTest() Machine {
	return Machine{
		Address: `machine.node["a"]`, UUID: uuid.MustParse("0f8e0c5a-5f0d-4c3c-9d55-000000000001"), Serial: "SN,1",
		NICs: []NIC{{MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1}, Network: "edge"}},
	}
}

// validSpec is one that Validate accepts.
func validSpec() Spec {
	a, b := machineUnderTest(), machineUnderTest()
	a.Disks = []Disk{{Bytes: 64 * mib}}
	a.BMC = BMC{Driver: BMCRedfish, Address: netip.MustParseAddrPort("172.22.1.11:0"), Username: "admin", Password: "secret"}
	b.Address, b.UUID = `machine.node["b"]`, uuid.MustParse("0f8e0c5a-5f0d-4c3c-9d55-000000000002")
	b.Firmware = FirmwareBIOS
	b.NICs = []NIC{{Model: NICE1000e, MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 2}, Network: "edge"}}
	b.BMC = BMC{Driver: BMCIPMI, Address: netip.MustParseAddrPort("172.22.1.12:0"), Username: "admin", Password: "secret"}
	return Spec{
		Name: "store-0421", StateDir: "/var/lib/rack",
		Networks: []Network{{Name: "edge", Interface: "eth1", HostAddress: netip.MustParsePrefix("172.22.0.1/24")}},
		Machines: []Machine{a, b},
	}
}

func TestQEMUCommandLines(t *testing.T) {
	cases := map[string]struct {
		change   func(*Machine)
		accel    Accelerator
		override sim.Override
	}{
		"uefi-native-pxe-nvme": {change: func(m *Machine) {
			m.Disks = []Disk{{Bus: DiskNVMe, Bytes: 32 << 30, WWN: "eui.0025385b71b0ac2d", LogicalBlock: 4096, Serial: "S4EVNX0R"}}
		}},
		"uefi-secure-boot": {change: func(m *Machine) { m.SecureBoot = true }},
		"uefi-http-boot":   {change: func(m *Machine) { m.HTTPBoot = true }},
		"uefi-ipxe-rom":    {change: func(m *Machine) { m.NICs[0].PXE = PXERom }},
		"uefi-e1000e":      {change: func(m *Machine) { m.NICs[0].Model = NICE1000e }},
		"bios-every-bus": {change: func(m *Machine) {
			m.Firmware = FirmwareBIOS
			m.CPUs, m.MemoryBytes = 2, 4<<30
			m.Disks = []Disk{
				{Bytes: mib},
				{Bus: DiskAHCI, Bytes: mib, WWN: "naa.5000c500a1b2c3d4", Rotational: true},
				{Bus: DiskSCSI, Bytes: mib, WWN: "naa.5000c500a1b2c3d5", LogicalBlock: 4096},
				{Bus: DiskAHCI, Bytes: mib, Path: "/images/old, copy.raw"},
			}
			m.NICs = append(m.NICs, NIC{Model: NICE1000e, MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 9}, Network: "edge"})
		}},
		"bios-one-time-pxe": {change: func(m *Machine) {
			m.Firmware = FirmwareBIOS
			m.Disks, m.BootOrder = []Disk{{Bytes: mib}}, []BootClass{BootDisk}
		}, override: sim.Override{Device: sim.PXE, Once: true}},
		"bios-kvm": {change: func(m *Machine) { m.Firmware = FirmwareBIOS }, accel: AcceleratorKVM},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := machineUnderTest()
			c.change(&m)
			if c.accel == "" {
				c.accel = AcceleratorTCG
			}
			args := qemuArgs("/var/lib/rack", 3, m.withDefaults(), c.accel, c.override)
			golden(t, name, strings.Join(args, "\n")+"\n")
		})
	}
}

func TestLinksOfANamespace(t *testing.T) {
	golden(t, "links", strings.Join(linkBatch(validSpec().withDefaults()), "\n")+"\n")
}

func TestBootIndexesObeyTheOverrideOfTheirFirmwareOnly(t *testing.T) {
	m := machineUnderTest()
	m.Disks = []Disk{{Bytes: mib}, {Bytes: mib}}
	bios := m
	bios.Firmware = FirmwareBIOS
	diskOnly := m
	diskOnly.BootOrder = []BootClass{BootDisk}
	cases := []struct {
		name     string
		machine  Machine
		override sim.Override
		want     []string
	}{
		{"usual order", m, sim.Override{}, []string{"nic0", "disk0", "disk1"}},
		{"disk first", m, sim.Override{Device: sim.Disk, EFI: true}, []string{"disk0", "disk1", "nic0"}},
		{"what is not in the order is tried when asked for", diskOnly, sim.Override{Device: sim.PXE, EFI: true}, []string{"nic0", "disk0", "disk1"}},
		{"and not otherwise", diskOnly, sim.Override{}, []string{"disk0", "disk1"}},
		{"a legacy override under UEFI is not obeyed", diskOnly, sim.Override{Device: sim.PXE}, []string{"disk0", "disk1"}},
		{"a UEFI override under BIOS is not obeyed", bios, sim.Override{Device: sim.Disk, EFI: true}, []string{"nic0", "disk0", "disk1"}},
		{"a device that is not there is not obeyed", bios, sim.Override{Device: sim.CDROM}, []string{"nic0", "disk0", "disk1"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			indexes := bootIndexes(c.machine.withDefaults(), c.override)
			got := make([]string, len(indexes))
			for id, n := range indexes {
				if n < 1 || n > len(got) {
					t.Fatalf("bootIndexes = %v; want numbers from 1 without a gap", indexes)
				}
				got[n-1] = id
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("bootIndexes = %v; want %v", got, c.want)
			}
		})
	}
}
