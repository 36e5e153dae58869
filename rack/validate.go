package rack

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

const mib = 1 << 20

// Ports that a BMC listens on when its address names none: HTTPS, and RMCP of
// DSP0136 section 2.2.
const (
	redfishPort = 443
	ipmiPort    = 623
)

// Limits that the emulated parts have.
const (
	maxInterfaceName = 15 // IFNAMSIZ less the terminating zero
	maxDiskSerial    = 20 // virtio, ATA and NVMe serial fields
	maxAHCIDisks     = 6  // ports of q35's built-in controller
	maxMachines      = 256
	minMemory        = 256 * mib
	maxIPMIUsername  = 16 // IPMI 2.0 section 22.28
	maxIPMIPassword  = 20 // IPMI 2.0 section 22.30
)

var siteName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// withDefaults returns a copy of s with every default written out, so that
// nothing past this file has to know one.
func (s Spec) withDefaults() Spec {
	out := s
	out.StateDir = filepath.Clean(s.StateDir)
	setDefault(&out.CacheDir, out.StateDir)
	out.Machines = make([]Machine, len(s.Machines))
	for i, m := range s.Machines {
		out.Machines[i] = m.withDefaults()
	}
	return out
}

func (m Machine) withDefaults() Machine {
	setDefault(&m.Firmware, FirmwareUEFI)
	setDefault(&m.Manufacturer, "edge-provision")
	setDefault(&m.Product, "virtual rack machine")
	setDefault(&m.CPUs, 1)
	setDefault(&m.MemoryBytes, 2048*mib)
	if len(m.BootOrder) == 0 {
		m.BootOrder = []BootClass{BootNetwork, BootDisk}
	}
	m.Disks = append([]Disk(nil), m.Disks...)
	for i := range m.Disks {
		d := &m.Disks[i]
		setDefault(&d.Bus, DiskVirtio)
		setDefault(&d.LogicalBlock, 512)
		// NVMe has no disk without a serial, and a machine whose disks
		// cannot be told apart cannot be provisioned.
		setDefault(&d.Serial, fmt.Sprintf("%sD%d", m.UUID.String()[24:], i))
		if d.Bytes == 0 && d.Path != "" {
			if fi, err := os.Stat(d.Path); err == nil {
				d.Bytes = fi.Size()
			}
		}
	}
	m.NICs = append([]NIC(nil), m.NICs...)
	for i := range m.NICs {
		n := &m.NICs[i]
		setDefault(&n.Model, NICVirtio)
		if m.Firmware == FirmwareUEFI && n.Model == NICVirtio {
			setDefault(&n.PXE, PXEFirmware)
		}
		setDefault(&n.PXE, PXERom)
	}
	setDefault(&m.BMC.Driver, BMCNone)
	if a := m.BMC.Address; a.IsValid() && a.Port() == 0 {
		switch m.BMC.Driver {
		case BMCRedfish:
			m.BMC.Address = netip.AddrPortFrom(a.Addr(), redfishPort)
		case BMCIPMI:
			m.BMC.Address = netip.AddrPortFrom(a.Addr(), ipmiPort)
		case BMCNone:
		}
	}
	return m
}

// setDefault sets *v when it is the zero value.
func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// findings collects what is wrong, so that all of it is shown at once.
type findings []error

func (f *findings) addf(format string, args ...any) {
	*f = append(*f, fmt.Errorf(format, args...))
}

// validateHome checks the two fields that say where a rack is.
func (s Spec) validateHome() error {
	var f findings
	if !siteName.MatchString(s.Name) {
		f.addf("site name %.64q cannot name a network namespace: use letters, digits, dots, dashes and underscores, at most 63, the first a letter or digit", s.Name)
	}
	if !filepath.IsAbs(s.StateDir) || filepath.Clean(s.StateDir) == "/" {
		f.addf("state directory %q is not an absolute path of a directory of its own", s.StateDir)
	}
	return errors.Join(f...)
}

// Validate checks the whole spec, with defaults applied, and returns all that is
// wrong with it joined. It reads the size of disks given by Path and nothing
// else.
func (s Spec) Validate() error {
	s = s.withDefaults()
	var f findings
	if err := s.validateHome(); err != nil {
		f = append(f, err)
	}
	switch s.Accelerator {
	case "", AcceleratorKVM, AcceleratorTCG:
	default:
		f.addf("accelerator %q is unknown: use kvm, tcg or none", s.Accelerator)
	}
	networks := s.validateNetworks(&f)
	if n := len(s.Machines); n == 0 {
		f.addf("no machine is declared, so there is nothing to emulate")
	} else if n > maxMachines {
		f.addf("%d machines are declared; a virtual rack emulates at most %d", n, maxMachines)
	}
	seen := identities{
		address: map[string]string{}, dir: map[string]string{}, uuid: map[uuid.UUID]string{},
		mac: map[inventory.MAC]string{}, bmc: map[netip.AddrPort]string{}, path: map[string]string{},
	}
	for _, m := range s.Machines {
		seen.add(m, &f)
		m.validate(networks, &f)
		for i, d := range m.Disks {
			if d.Path != "" && strings.HasPrefix(filepath.Clean(d.Path), s.StateDir+"/") {
				f.addf("%s: disk %d: %s is inside the rack's state directory, where rack down may remove it", m.Address, i, d.Path)
			}
		}
		for _, n := range s.Networks {
			if m.BMC.Driver != BMCNone && m.BMC.Address.Addr() == n.HostAddress.Addr() {
				f.addf("%s: BMC address %s is the controller's own address on network %q", m.Address, m.BMC.Address.Addr(), n.Name)
			}
		}
	}
	return errors.Join(f...)
}

func (s Spec) validateNetworks(f *findings) map[string]bool {
	names, interfaces := map[string]bool{}, map[string]string{}
	for i, n := range s.Networks {
		if names[n.Name] {
			f.addf("network %q is declared twice", n.Name)
		}
		names[n.Name] = true
		switch {
		case n.Interface == "" || len(n.Interface) > maxInterfaceName || strings.ContainsAny(n.Interface, "/ \t\n") || n.Interface == "." || n.Interface == "..":
			f.addf("network %q: %q cannot name an interface: use 1 to %d bytes without blanks and slashes", n.Name, n.Interface, maxInterfaceName)
		case n.Interface == "lo" || tapName.MatchString(n.Interface):
			f.addf("network %q: interface name %q is needed by the rack itself", n.Name, n.Interface)
		case interfaces[n.Interface] != "":
			f.addf("networks %q and %q both use interface %s; the rack cannot give one bridge to two networks", interfaces[n.Interface], n.Name, n.Interface)
		}
		interfaces[n.Interface] = n.Name
		if !n.HostAddress.IsValid() || !n.HostAddress.Addr().Is4() {
			f.addf("network %q: the controller's address %s is not an IPv4 address with a prefix length", n.Name, n.HostAddress)
			continue
		}
		for _, o := range s.Networks[:i] {
			if o.HostAddress.IsValid() && o.HostAddress.Masked().Overlaps(n.HostAddress.Masked()) {
				f.addf("networks %q (%s) and %q (%s) overlap", o.Name, o.HostAddress.Masked(), n.Name, n.HostAddress.Masked())
			}
		}
	}
	return names
}

// identities are what no two machines may share, each with the machine that has
// it.
type identities struct {
	address, dir map[string]string
	uuid         map[uuid.UUID]string
	mac          map[inventory.MAC]string
	bmc          map[netip.AddrPort]string
	path         map[string]string
}

func (seen identities) add(m Machine, f *findings) {
	switch dir := machineDir(m.Address); {
	case seen.address[m.Address] != "":
		f.addf("machine %s is declared twice", m.Address)
	case seen.dir[dir] != "":
		f.addf("machines %s and %s would share the directory %q: rename one", seen.dir[dir], m.Address, dir)
	default:
		seen.dir[dir] = m.Address
	}
	seen.address[m.Address] = m.Address
	claim(seen.uuid, m.UUID, m.Address, "UUID", f)
	for _, n := range m.NICs {
		claim(seen.mac, n.MAC, m.Address, "MAC address", f)
	}
	if m.BMC.Driver != BMCNone {
		claim(seen.bmc, m.BMC.Address, m.Address, "BMC address", f)
	}
	for _, d := range m.Disks {
		if d.Path != "" {
			claim(seen.path, d.Path, m.Address, "disk file", f)
		}
	}
}

// claim gives v to the machine, or finds that it is another's.
func claim[K comparable](seen map[K]string, v K, machine, what string, f *findings) {
	if other, ok := seen[v]; ok {
		f.addf("machines %s and %s have the same %s %v", other, machine, what, v)
		return
	}
	seen[v] = machine
}

func (m Machine) validate(networks map[string]bool, f *findings) {
	if m.Address == "" || len(m.Address) > 200 || strings.ContainsFunc(m.Address, isControl) {
		f.addf("machine address %.64q is not one: use 1 to 200 printable bytes, such as machine.node[\"a\"]", m.Address)
	}
	if m.UUID == uuid.Nil {
		f.addf("%s: the SMBIOS UUID is missing; without it PXE's option 97 is zero", m.Address)
	}
	for what, v := range map[string]string{"serial": m.Serial, "manufacturer": m.Manufacturer, "product": m.Product} {
		if len(v) > 64 || strings.ContainsFunc(v, isControl) {
			f.addf("%s: SMBIOS %s %.64q is not at most 64 printable bytes", m.Address, what, v)
		}
	}
	switch {
	case m.Firmware != FirmwareBIOS && m.Firmware != FirmwareUEFI:
		f.addf("%s: firmware %q is unknown: use bios or uefi", m.Address, m.Firmware)
	case m.SecureBoot && m.Firmware != FirmwareUEFI:
		f.addf("%s: Secure Boot needs firmware uefi", m.Address)
	}
	if m.CPUs < 1 || m.CPUs > 255 {
		f.addf("%s: %d CPUs cannot be emulated: use 1 to 255", m.Address, m.CPUs)
	}
	if m.MemoryBytes < minMemory {
		f.addf("%s: %d bytes of memory are too few: the firmware needs %d MiB", m.Address, m.MemoryBytes, minMemory/mib)
	}
	classes := map[BootClass]bool{}
	for _, c := range m.BootOrder {
		if c != BootNetwork && c != BootDisk {
			f.addf("%s: boot class %q is unknown: use network or disk", m.Address, c)
		} else if classes[c] {
			f.addf("%s: boot class %s appears twice in the boot order", m.Address, c)
		}
		classes[c] = true
	}
	m.validateDisks(f)
	m.validateNICs(networks, f)
	m.validateBMC(f)
}

func isControl(r rune) bool { return r < ' ' || r == 0x7f }

func (m Machine) validateDisks(f *findings) {
	ahci := 0
	serials := map[string]bool{}
	for i, d := range m.Disks {
		at := fmt.Sprintf("%s: disk %d", m.Address, i)
		if d.LogicalBlock != 512 && d.LogicalBlock != 4096 {
			f.addf("%s: logical blocks of %d bytes do not exist here: use 512 or 4096", at, d.LogicalBlock)
		} else if d.Bytes < mib || d.Bytes%int64(d.LogicalBlock) != 0 {
			f.addf("%s: size %d is not at least 1 MiB and a multiple of %d bytes", at, d.Bytes, d.LogicalBlock)
		}
		if d.Serial == "" || len(d.Serial) > maxDiskSerial || strings.ContainsFunc(d.Serial, isControl) {
			f.addf("%s: serial %.64q is not 1 to %d printable bytes", at, d.Serial, maxDiskSerial)
		}
		if serials[d.Serial] {
			f.addf("%s: another disk of the machine has the same serial %q", at, d.Serial)
		}
		serials[d.Serial] = true
		if d.Path != "" && !filepath.IsAbs(d.Path) {
			f.addf("%s: path %q is not absolute", at, d.Path)
		}
		if d.Source != "" && !filepath.IsAbs(d.Source) {
			f.addf("%s: source %q is not absolute", at, d.Source)
		}
		if d.Source != "" && d.Path != "" {
			f.addf("%s: has both a source, which is copied, and a path, which is used in place: choose one", at)
		}
		prefix := "naa."
		switch d.Bus {
		case DiskVirtio:
			if d.WWN != "" {
				f.addf("%s: the virtio bus has no field for a WWN", at)
			}
			continue
		case DiskNVMe:
			prefix = "eui."
			if d.Rotational {
				f.addf("%s: an NVMe disk does not rotate", at)
			}
		case DiskAHCI:
			ahci++
			if d.LogicalBlock == 4096 {
				f.addf("%s: QEMU's ahci disks have 512-byte blocks only: use nvme, scsi or virtio", at)
			}
		case DiskSCSI:
		default:
			f.addf("%s: bus %q is unknown: use virtio, nvme, ahci or scsi", at, d.Bus)
			continue
		}
		if d.WWN != "" {
			if _, err := wwnNumber(d.WWN, prefix); err != nil {
				f.addf("%s: %w", at, err)
			}
		}
	}
	if ahci > maxAHCIDisks {
		f.addf("%s: %d ahci disks, but the controller has %d ports", m.Address, ahci, maxAHCIDisks)
	}
}

func (m Machine) validateNICs(networks map[string]bool, f *findings) {
	if len(m.NICs) == 0 {
		f.addf("%s: a machine without a NIC cannot netboot", m.Address)
	} else if len(m.NICs) > 16 {
		f.addf("%s: %d NICs; at most 16 are emulated", m.Address, len(m.NICs))
	}
	for i, n := range m.NICs {
		at := fmt.Sprintf("%s: NIC %d", m.Address, i)
		if n.MAC.IsZero() || n.MAC[0]&1 == 1 {
			f.addf("%s: %s is not the MAC address of one port", at, n.MAC)
		}
		if !networks[n.Network] {
			f.addf("%s: network %q is not declared", at, n.Network)
		}
		if n.Model != NICVirtio && n.Model != NICE1000e {
			f.addf("%s: model %q is unknown: use virtio or e1000e", at, n.Model)
		}
		switch {
		case n.PXE != PXEFirmware && n.PXE != PXERom:
			f.addf("%s: PXE stack %q is unknown: use firmware or ipxe", at, n.PXE)
		case n.PXE == PXEFirmware && (m.Firmware != FirmwareUEFI || n.Model != NICVirtio):
			// SeaBIOS has no PXE at all, and Debian's OVMF no driver for
			// Intel cards: both depend on the card's option ROM.
			f.addf("%s: the firmware has no PXE of its own for %s under %s: use ipxe", at, n.Model, m.Firmware)
		case m.HTTPBoot && n.PXE != PXEFirmware:
			f.addf("%s: UEFI HTTP boot needs the firmware's own stack, so uefi and virtio", at)
		}
	}
}

func (m Machine) validateBMC(f *findings) {
	b := m.BMC
	switch b.Driver {
	case BMCNone:
		return
	case BMCRedfish, BMCIPMI:
	default:
		f.addf("%s: BMC driver %q cannot be emulated: use redfish, ipmi or none", m.Address, b.Driver)
		return
	}
	if !b.Address.IsValid() || !b.Address.Addr().Is4() || b.Address.Addr().IsUnspecified() || b.Address.Addr().IsMulticast() || b.Address.Addr().IsLoopback() {
		f.addf("%s: BMC address %s is not the IPv4 address of one host", m.Address, b.Address)
	}
	if b.Username == "" || b.Password == "" {
		f.addf("%s: the BMC needs a username and a password", m.Address)
	}
	if b.Driver == BMCIPMI && (len(b.Username) > maxIPMIUsername || len(b.Password) > maxIPMIPassword) {
		f.addf("%s: IPMI 2.0 carries usernames of at most %d bytes and passwords of at most %d", m.Address, maxIPMIUsername, maxIPMIPassword)
	}
}
