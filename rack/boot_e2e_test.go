//go:build e2e

package rack

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// rebootingSector is a boot sector that writes "RACK-DISK" to COM1 and then
// resets the machine through the keyboard controller, as an operating system
// does.
func rebootingSector() []byte {
	code := []byte{0xba, 0xf8, 0x03} // mov dx, 0x3f8
	for _, c := range []byte("RACK-DISK") {
		code = append(code, 0xb0, c, 0xee) // mov al, c; out dx, al
	}
	code = append(code, 0xb0, 0xfe, 0xe6, 0x64, // mov al, 0xfe; out 0x64, al
		0xf4, 0xeb, 0xfd) // hlt; jmp to it
	sector := make([]byte, 512)
	copy(sector, code)
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

var (
	biosPXE  = regexp.MustCompile(`Configuring \(net0 `)
	diskBoot = regexp.MustCompile(`RACK-DISK`)
)

func TestOneTimeBootIsOnceAcrossAResetByTheGuest(t *testing.T) {
	spec := siteUnderTest(t)
	spec.Machines = spec.Machines[1:]
	spec.Machines[0].BMC = BMC{}
	decoy := filepath.Join(t.TempDir(), "prefilled, with comma.raw")
	disk := make([]byte, 2*mib)
	copy(disk, rebootingSector())
	if err := os.WriteFile(decoy, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	spec.Machines[0].Disks = []Disk{{Path: decoy}}
	r := newRack(t, spec)
	if err := r.Up(bounded(t, time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	if err := r.BootOnce(bounded(t, time.Minute), biosMachine, BootDisk); err != nil {
		t.Fatalf("BootOnce = %v", err)
	}
	if err := r.Power(bounded(t, time.Minute), biosMachine, PowerOn); err != nil {
		t.Fatalf("Power = %v", err)
	}
	console := r.Console(biosMachine, false)
	defer console.Close()
	if _, err := console.Wait(bounded(t, time.Minute), diskBoot); err != nil {
		t.Fatalf("the override is not obeyed: %v", err)
	}
	if _, err := console.Wait(bounded(t, time.Minute), biosPXE); err != nil {
		t.Fatalf("the boot after it does not follow the usual order: %v", err)
	}
	m, err := r.Machine(bounded(t, time.Minute), biosMachine)
	if err != nil || m.PowerOns != 1 || m.GuestResets != 1 || m.Resets != 0 || m.Boots != 2 || m.BootNext != "" {
		t.Errorf("status = %+v, %v; want one power on, one reset by the guest, no override", m, err)
	}
	if err := r.Down(bounded(t, time.Minute), true); err != nil {
		t.Fatalf("Down = %v", err)
	}
	if got, err := os.ReadFile(decoy); err != nil || string(got) != string(disk) {
		t.Errorf("a disk given by path changed, or was removed, by Down(removeDisks): %v", err)
	}
}

func TestOneTimeBootOfARunningMachineIsObeyedAtItsReset(t *testing.T) {
	spec := siteUnderTest(t)
	for i := range spec.Machines {
		spec.Machines[i].BootOrder = []BootClass{BootDisk, BootNetwork}
		spec.Machines[i].BMC = BMC{}
		spec.Machines[i].PowerOn = true
	}
	r := newRack(t, spec)
	if err := r.Up(bounded(t, 2*time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	for _, c := range []struct {
		machine   string
		disk, pxe *regexp.Regexp
	}{
		{uefiMachine, regexp.MustCompile(`BdsDxe: failed to load`), regexp.MustCompile(`>>Start PXE over IPv4`)},
		{biosMachine, regexp.MustCompile(`Boot failed: not a bootable disk`), biosPXE},
	} {
		either := regexp.MustCompile(c.disk.String() + "|" + c.pxe.String())
		console := r.Console(c.machine, false)
		defer console.Close()
		// The first that the firmware tries, at power on, after the reset
		// that the override is for, and after the next one.
		for boot, want := range []*regexp.Regexp{c.disk, c.pxe, c.disk} {
			match, err := console.Wait(bounded(t, 2*time.Minute), either)
			if err != nil || !want.Match(match) {
				t.Fatalf("boot %d of %s begins with %q, %v; want %q", boot, c.machine, match, err, want)
			}
			if boot == 0 {
				if err := r.BootOnce(bounded(t, time.Minute), c.machine, BootNetwork); err != nil {
					t.Fatalf("BootOnce = %v", err)
				}
			}
			if boot == 2 {
				break
			}
			if err := r.Power(bounded(t, time.Minute), c.machine, PowerReset); err != nil {
				t.Fatalf("Power(reset) = %v", err)
			}
			if err := console.Close(); err != nil {
				t.Fatalf("closing the console = %v", err)
			}
			console = r.Console(c.machine, true)
		}
		m, err := r.Machine(bounded(t, time.Minute), c.machine)
		if err != nil || m.Resets != 2 || m.PowerOns != 1 || m.GuestResets != 0 || m.BootNext != "" {
			t.Errorf("status of %s = %+v, %v; want one power on and two resets", c.machine, m, err)
		}
	}
}

// TestEveryBusIsInTheBootOrder: an order that names a disk which the firmware
// cannot find under that name would quietly boot something else.
func TestEveryBusIsInTheBootOrder(t *testing.T) {
	spec := siteUnderTest(t)
	bios, uefi := spec.Machines[1], spec.Machines[0]
	spec.Machines = nil
	image := make([]byte, 2*mib)
	copy(image, rebootingSector())
	dir := t.TempDir()
	for i, bus := range []DiskBus{DiskVirtio, DiskNVMe, DiskAHCI, DiskSCSI} {
		for j, m := range []Machine{bios, uefi} {
			n := byte(2*i + j)
			m.Address = fmt.Sprintf("machine.%s-%s", m.Firmware, bus)
			m.UUID[0] = n
			m.NICs = []NIC{{MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x22, n}, Network: "edge"}}
			m.BMC = BMC{}
			m.MemoryBytes = 256 * mib
			m.BootOrder = []BootClass{BootDisk, BootNetwork}
			path := filepath.Join(dir, fmt.Sprintf("%d.raw", n))
			if err := os.WriteFile(path, image, 0o600); err != nil {
				t.Fatal(err)
			}
			m.Disks = []Disk{{Bus: bus, Path: path}}
			spec.Machines = append(spec.Machines, m)
		}
	}
	r := newRack(t, spec)
	if err := r.Up(bounded(t, time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	first := regexp.MustCompile(`RACK-DISK|Configuring \(net0|BdsDxe: failed to load[^\r\n]*|>>Start PXE`)
	for _, m := range spec.Machines {
		want := "RACK-DISK"
		if m.Firmware == FirmwareUEFI {
			want = "failed to load" // there is no EFI program on the disk
		}
		if err := r.Power(bounded(t, time.Minute), m.Address, PowerOn); err != nil {
			t.Fatalf("Power = %v", err)
		}
		got, err := r.WaitSerial(bounded(t, 2*time.Minute), m.Address, first)
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s first tries %q, %v; want its disk", m.Address, got, err)
		}
		if err := r.Power(bounded(t, time.Minute), m.Address, PowerOff); err != nil {
			t.Fatalf("Power = %v", err)
		}
	}
}

// TestFirmwareVariantsReachTheNetwork has no server to answer: it shows that
// each stack starts and asks.
func TestFirmwareVariantsReachTheNetwork(t *testing.T) {
	spec := siteUnderTest(t)
	base := spec.Machines[0]
	base.BMC, base.Disks = BMC{}, []Disk{{Bus: DiskSCSI, Bytes: 64 * mib, LogicalBlock: 4096}}
	variants := map[string]struct {
		change func(*Machine)
		want   *regexp.Regexp
	}{
		"machine.secure-boot": {func(m *Machine) { m.SecureBoot = true }, regexp.MustCompile(`>>Start PXE over IPv4`)},
		"machine.http-boot":   {func(m *Machine) { m.HTTPBoot = true }, regexp.MustCompile(`>>Start HTTP Boot over IPv4`)},
		"machine.e1000e":      {func(m *Machine) { m.NICs[0].Model = NICE1000e }, regexp.MustCompile(`iPXE|>>Start PXE over IPv4`)},
		"machine.rom":         {func(m *Machine) { m.NICs[0].PXE = PXERom }, regexp.MustCompile(`iPXE`)},
	}
	spec.Machines = nil
	for address, v := range variants {
		m := base
		m.Address = address
		n := byte(len(spec.Machines))
		m.UUID[0] = n
		m.NICs = []NIC{{MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x23, n}, Network: "edge"}}
		v.change(&m)
		spec.Machines = append(spec.Machines, m)
	}
	r := newRack(t, spec)
	if err := r.Up(bounded(t, time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	for address, v := range variants {
		if err := r.Power(bounded(t, time.Minute), address, PowerOn); err != nil {
			t.Fatalf("Power = %v", err)
		}
		got, err := r.WaitSerial(bounded(t, 3*time.Minute), address, v.want)
		t.Logf("%s says %q", address, got)
		if err != nil {
			t.Errorf("%s: %v", address, err)
		}
		if err := r.Power(bounded(t, time.Minute), address, PowerOff); err != nil {
			t.Fatalf("Power = %v", err)
		}
	}
}

func TestPowerIsCutAndSerialLogsAreKept(t *testing.T) {
	spec := siteUnderTest(t)
	spec.Machines = spec.Machines[1:]
	spec.Machines[0].BMC = BMC{}
	r := newRack(t, spec)
	if err := r.Up(bounded(t, time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	if err := r.Power(bounded(t, time.Minute), biosMachine, PowerReset); err == nil {
		t.Errorf("Power(reset) of a machine that is off = nil; want it refused")
	}
	for i, a := range []PowerAction{PowerOn, PowerOn, PowerCycle} {
		if err := r.Power(bounded(t, time.Minute), biosMachine, a); err != nil {
			t.Fatalf("Power(%s) = %v", a, err)
		}
		if _, err := r.WaitSerial(bounded(t, time.Minute), biosMachine, biosPXE); err != nil {
			t.Fatalf("after action %d: %v", i, err)
		}
	}
	m, err := r.Machine(bounded(t, time.Minute), biosMachine)
	if err != nil || m.PowerOns != 2 || m.Boots != 2 {
		t.Errorf("status = %+v, %v; want two power ons", m, err)
	}
	if err := r.Power(bounded(t, time.Minute), biosMachine, PowerOff); err != nil {
		t.Fatalf("Power(off) = %v", err)
	}
	if err := r.WaitPower(bounded(t, time.Minute), biosMachine, false); err != nil {
		t.Fatalf("WaitPower = %v", err)
	}
	if statOf, err := statOf(m.PID); err == nil {
		t.Errorf("the emulator %d is still there: %+v", m.PID, statOf)
	}
	for _, path := range []string{r.SerialPath(biosMachine), r.SerialPath(biosMachine) + ".1"} {
		if b, err := os.ReadFile(path); err != nil || !biosPXE.Match(b) {
			t.Errorf("serial log %s: %v, %d bytes; want the boot in it", path, err, len(b))
		}
	}
}

func TestBMCAddressesAndInterfacesAreInsideTheNamespace(t *testing.T) {
	spec := siteUnderTest(t)
	r := newRack(t, spec)
	if err := r.Up(bounded(t, time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	want := map[netip.Addr]bool{}
	for _, a := range []string{"172.22.0.1", "172.22.1.11", "172.22.1.12"} {
		want[netip.MustParseAddr(a)] = true
	}
	out, err := r.Command(bounded(t, time.Minute), "ip", "-4", "-o", "address").CombinedOutput()
	if err != nil {
		t.Fatalf("ip address = %v: %s", err, out)
	}
	for a := range want {
		if !regexp.MustCompile(regexp.QuoteMeta(a.String()) + `/`).Match(out) {
			t.Errorf("ip address inside = %s; want %s in it", out, a)
		}
	}
	if out, err := r.Command(bounded(t, time.Minute), "ip", "route", "show", "default").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("default route inside = %q, %v; want none", out, err)
	}
}
