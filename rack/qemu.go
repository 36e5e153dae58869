package rack

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc/sim"
)

// qemuProgram is the emulator, looked up in PATH.
const qemuProgram = "qemu-system-x86_64"

// Firmware images of Debian's package ovmf, in their 4 MiB layout.
const (
	ovmfCode       = "/usr/share/OVMF/OVMF_CODE_4M.fd"
	ovmfVars       = "/usr/share/OVMF/OVMF_VARS_4M.fd"
	ovmfSecureCode = "/usr/share/OVMF/OVMF_CODE_4M.ms.fd"
	ovmfSecureVars = "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"
)

// qmpFD is the descriptor number of QMP in the emulator: the first of
// exec.Cmd's ExtraFiles.
const qmpFD = 3

// acceleratorArgs are the flags for fast and complete emulation. Bare qemu64
// under TCG lacks rdrand, without which a young kernel hangs in getrandom. What
// newer processors add does not help: BMI2 makes neither SHA-256 nor zstd
// faster when it is emulated, QEMU 7.2 has no SHA instructions, and qemu64 with
// xsave, which AVX needs, hangs Linux 6.1 early in its boot.
func acceleratorArgs(a Accelerator) []string {
	if a == AcceleratorKVM {
		return []string{"-accel", "kvm", "-cpu", "host"}
	}
	return []string{
		"-accel", "tcg,thread=multi,tb-size=512",
		"-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand",
	}
}

// firmwareArgs are the machine type and the flash. variables is the machine's
// own copy of the UEFI variables.
func firmwareArgs(fw Firmware, secure bool, variables string) []string {
	if fw == FirmwareBIOS {
		// Without graphics SeaBIOS copies its screen, and so that of
		// iPXE, to the serial port.
		return []string{"-machine", "q35,graphics=off"}
	}
	code, machine := ovmfCode, "q35,graphics=off"
	if secure {
		code, machine = ovmfSecureCode, "q35,graphics=off,smm=on"
	}
	args := []string{"-machine", machine}
	if secure {
		// The variables are writable from system management mode only;
		// otherwise the OS could enroll its own keys.
		args = append(args, "-global", "driver=cfi.pflash01,property=secure,value=on")
	}
	return append(args,
		"-drive", "if=pflash,unit=0,format=raw,readonly=on,file="+code,
		"-drive", "if=pflash,unit=1,format=raw,file="+comma(variables))
}

// comma doubles commas, as QEMU's option syntax wants them in values.
func comma(s string) string { return strings.ReplaceAll(s, ",", ",,") }

// qemuArgs is the command line of machine number index, whose first boot obeys
// the override. m has its defaults.
func qemuArgs(l layout, index int, m Machine, accel Accelerator, o sim.Override) []string {
	args := []string{
		"-name", comma(m.Address),
		"-nodefaults", "-no-user-config", "-display", "none",
	}
	args = append(args, acceleratorArgs(accel)...)
	args = append(args, firmwareArgs(m.Firmware, m.SecureBoot, l.variables(m))...)
	args = append(args,
		"-smp", strconv.Itoa(m.CPUs),
		"-m", fmt.Sprintf("size=%dM", m.MemoryBytes/mib),
		"-rtc", "base=utc",
		"-boot", "strict=on",
		"-action", "reboot=shutdown", // see computer
		"-uuid", m.UUID.String(),
		"-smbios", smbios("type=1", m.Manufacturer, m.Product, m.Serial)+",uuid="+m.UUID.String(),
		"-smbios", smbios("type=2", m.Manufacturer, m.Product, m.Serial),
		"-smbios", smbios("type=3", m.Manufacturer, "", m.Serial),
		"-chardev", fmt.Sprintf("socket,id=qmp,fd=%d", qmpFD),
		"-mon", "chardev=qmp,mode=control",
		"-chardev", "file,id=serial0,append=on,path="+comma(l.serial(m.Address)),
		"-serial", "chardev:serial0",
		"-device", "virtio-rng-pci",
	)
	if m.Firmware == FirmwareUEFI {
		// A rack's networks have no IPv6: OVMF would look for it for 70 s
		// after each boot that IPv4 sends back to the disk.
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n")
	}
	if m.HTTPBoot {
		args = append(args, "-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n")
	}
	order := bootIndexes(m, o)
	for i, n := range m.NICs {
		args = append(args, nicArgs(index, i, n, order)...)
	}
	ahci, scsi := 0, false
	for i, d := range m.Disks {
		if d.Bus == DiskSCSI && !scsi {
			args = append(args, "-device", "virtio-scsi-pci,id=scsi0")
			scsi = true
		}
		args = append(args, diskArgs(l.disk(m, i), m, i, ahci, order)...)
		if d.Bus == DiskAHCI {
			ahci++
		}
	}
	return args
}

func smbios(kind, manufacturer, product, serial string) string {
	s := kind + ",manufacturer=" + comma(manufacturer)
	if product != "" {
		s += ",product=" + comma(product)
	}
	if serial != "" {
		s += ",serial=" + comma(serial)
	}
	return s
}

func nicArgs(machine, i int, n NIC, order map[string]int) []string {
	id := fmt.Sprintf("nic%d", i)
	model := "virtio-net-pci"
	if n.Model == NICE1000e {
		model = "e1000e"
	}
	device := fmt.Sprintf("%s,id=%s,netdev=net%d,mac=%s", model, id, i, n.MAC)
	if n.PXE == PXEFirmware {
		device += ",romfile="
	}
	return []string{
		"-netdev", fmt.Sprintf("tap,id=net%d,ifname=%s,script=no,downscript=no", i, tap(machine, i)),
		"-device", device + bootIndex(order, id),
	}
}

// diskArgs attaches the machine's disk number i; port is the next free one of
// the ahci controller.
func diskArgs(path string, m Machine, i, port int, order map[string]int) []string {
	d := m.Disks[i]
	id := fmt.Sprintf("disk%d", i)
	args := []string{
		"-blockdev", fmt.Sprintf("driver=file,node-name=file%d,discard=unmap,filename=%s", i, comma(path)),
		"-blockdev", fmt.Sprintf("driver=raw,node-name=drive%d,file=file%d,discard=unmap", i, i),
	}
	blocks := fmt.Sprintf(",drive=drive%d,logical_block_size=%d,physical_block_size=%d", i, d.LogicalBlock, max(d.LogicalBlock, 512))
	serial := ",serial=" + comma(d.Serial)
	// A rate of 1 is a solid-state disk (ACS-4 word 217, SBC-4 section 6.5.2).
	rotation := ",rotation_rate=1"
	if d.Rotational {
		rotation = ",rotation_rate=7200"
	}
	var device string
	switch d.Bus {
	case DiskNVMe:
		// The identity belongs to the namespace, serial and boot index to
		// its controller: with the index of a namespace QEMU 7.2 makes a
		// path that OVMF cannot parse, and OVMF then drops the whole order.
		// Left alone, QEMU invents another UUID at each start, and Linux
		// prefers it to the EUI-64.
		identity := ",uuid=" + uuid.NewSHA1(m.UUID, []byte(d.Serial)).String()
		if d.WWN != "" {
			identity = ",uuid=" + uuid.Nil.String() + wwnArg("eui64", d.WWN, "eui.")
		}
		return append(args,
			"-device", fmt.Sprintf("nvme,id=%s%s%s", id, serial, bootIndex(order, id)),
			"-device", fmt.Sprintf("nvme-ns,bus=%s%s%s", id, blocks, identity))
	case DiskAHCI:
		device = fmt.Sprintf("ide-hd,id=%s,bus=ide.%d%s%s%s%s", id, port, blocks, serial, rotation, wwnArg("wwn", d.WWN, "naa."))
	case DiskSCSI:
		device = fmt.Sprintf("scsi-hd,id=%s,bus=scsi0.0,scsi-id=%d%s%s%s%s", id, i, blocks, serial, rotation, wwnArg("wwn", d.WWN, "naa."))
	case DiskVirtio:
		device = fmt.Sprintf("virtio-blk-pci,id=%s%s%s", id, blocks, serial)
	}
	return append(args, "-device", device+bootIndex(order, id))
}

// wwnNumber reads "naa." or "eui." and 16 hexadecimal digits.
func wwnNumber(wwn, prefix string) (uint64, error) {
	digits, ok := strings.CutPrefix(wwn, prefix)
	n, err := strconv.ParseUint(digits, 16, 64)
	if !ok || err != nil || len(digits) != 16 || n == 0 {
		return 0, fmt.Errorf("WWN %.64q is not %q and 16 hexadecimal digits, not all zero", wwn, prefix)
	}
	return n, nil
}

func wwnArg(property, wwn, prefix string) string {
	n, err := wwnNumber(wwn, prefix)
	if err != nil {
		return ""
	}
	return fmt.Sprintf(",%s=%#x", property, n)
}

// bootIndexes gives each bootable device its place in the firmware's order,
// from 1: the class of the override first, then the machine's own order. A
// device that is not in it is not tried.
func bootIndexes(m Machine, o sim.Override) map[string]int {
	classes := m.BootOrder
	if c, ok := overrideClass(m, o); ok {
		classes = append([]BootClass{c}, classes...)
	}
	order := map[string]int{}
	for _, c := range classes {
		prefix, n := "nic", len(m.NICs)
		if c == BootDisk {
			prefix, n = "disk", len(m.Disks)
		}
		for i := range n {
			id := fmt.Sprintf("%s%d", prefix, i)
			if _, ok := order[id]; !ok {
				order[id] = len(order) + 1
			}
		}
	}
	return order
}

// overrideClass is the class that an override puts first. One for the other
// kind of firmware is not obeyed, as on boards without a compatibility module;
// nor is one for a device that the machine does not have.
func overrideClass(m Machine, o sim.Override) (BootClass, bool) {
	if o.EFI != (m.Firmware == FirmwareUEFI) {
		return "", false
	}
	switch o.Device {
	case sim.PXE:
		return BootNetwork, true
	case sim.Disk:
		return BootDisk, true
	case sim.FirmwareOrder, sim.CDROM, sim.BIOSSetup:
	}
	return "", false
}

func bootIndex(order map[string]int, id string) string {
	n, ok := order[id]
	if !ok {
		return ""
	}
	return fmt.Sprintf(",bootindex=%d", n)
}
