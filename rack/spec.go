package rack

import (
	"net/netip"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Spec is what a rack emulates: the networks and machines of one site, in
// plain Go values. It is kept as JSON in StateDir while the rack is up, so
// every field has a stable name.
type Spec struct {
	// Name is the site's name. The network namespace is called "edge-" and
	// this name, so it must be letters, digits, dots, dashes, underscores.
	Name string `json:"name"`
	// StateDir is an absolute directory that belongs to this rack alone:
	// disks, firmware variables, certificates, serial logs, the control
	// socket. It is created with mode 0700.
	StateDir string `json:"state_dir"`
	// CacheDir is an existing directory that outlives racks, where the
	// verdict of the KVM probe is kept; empty is StateDir.
	CacheDir string `json:"cache_dir,omitempty"`
	// Networks are the bridges inside the namespace.
	Networks []Network `json:"networks"`
	// Machines are the computers, in the order in which they are printed.
	Machines []Machine `json:"machines"`
	// Accelerator is "kvm", "tcg", or empty: KVM if a probe boot of the
	// firmware proves that it works here, else TCG.
	Accelerator Accelerator `json:"accelerator,omitempty"`
}

// Network is one bridge inside the namespace, with the machines' ports on it.
type Network struct {
	// Name is what NIC.Network refers to.
	Name string `json:"name"`
	// Interface is the bridge's name inside the namespace: the very name
	// that site.hcl gives as `interface`, at most 15 bytes.
	Interface string `json:"interface"`
	// HostAddress is the controller's own address on the bridge and the
	// network's prefix, such as 172.22.0.1/24.
	HostAddress netip.Prefix `json:"host_address"`
}

// Machine is one emulated computer.
type Machine struct {
	// Address is the machine's address in site.hcl, such as
	// machine.node["a"]. Every function of this package that takes a machine
	// takes this.
	Address string `json:"address"`
	// UUID is the SMBIOS system UUID and the PXE client's option 97.
	UUID uuid.UUID `json:"uuid"`
	// Serial is the SMBIOS system, board and chassis serial.
	Serial string `json:"serial"`
	// Manufacturer and Product are SMBIOS type 1 to 3; empty means
	// "edge-provision" and "virtual rack machine".
	Manufacturer string `json:"manufacturer,omitempty"`
	Product      string `json:"product,omitempty"`
	// Firmware is bios (SeaBIOS) or uefi (OVMF); empty is uefi.
	Firmware Firmware `json:"firmware,omitempty"`
	// SecureBoot enrolls Microsoft's keys and enforces them; uefi only.
	SecureBoot bool `json:"secure_boot,omitempty"`
	// HTTPBoot turns OVMF's PXE off, which leaves it UEFI HTTP boot; uefi
	// with the firmware's own stack only.
	HTTPBoot bool `json:"http_boot,omitempty"`
	// CPUs is the number of virtual CPUs; 0 is 1.
	CPUs int `json:"cpus,omitempty"`
	// MemoryBytes is the RAM, rounded down to MiB; 0 is 2 GiB.
	MemoryBytes int64 `json:"memory_bytes,omitempty"`
	// Disks and NICs are attached in this order.
	Disks []Disk `json:"disks,omitempty"`
	NICs  []NIC  `json:"nics"`
	// BootOrder is what the firmware tries, first to last; empty is
	// network, then disk. What is left out is not tried under bios; OVMF
	// tries it last.
	BootOrder []BootClass `json:"boot_order,omitempty"`
	// BMC is the controller in front of the machine.
	BMC BMC `json:"bmc"`
	// PowerOn switches the machine on as soon as the rack is up. A machine
	// without BMC is otherwise switched on by Rack.Power.
	PowerOn bool `json:"power_on,omitempty"`
}

// Firmware is the kind of firmware that a machine has.
type Firmware string

// Kinds of firmware.
const (
	FirmwareBIOS Firmware = "bios"
	FirmwareUEFI Firmware = "uefi"
)

// Accelerator is how QEMU executes the machines' code.
type Accelerator string

// Accelerators.
const (
	AcceleratorKVM Accelerator = "kvm"
	AcceleratorTCG Accelerator = "tcg"
)

// BootClass is a kind of device that firmware can boot from.
type BootClass string

// Classes of boot devices.
const (
	BootNetwork BootClass = "network"
	BootDisk    BootClass = "disk"
)

// Disk is one emulated disk, kept as a sparse raw file.
type Disk struct {
	// Bus is virtio, nvme, ahci or scsi; empty is virtio.
	Bus DiskBus `json:"bus,omitempty"`
	// Bytes is the disk's size, a multiple of LogicalBlock; 0 with Path
	// means the size of that file.
	Bytes int64 `json:"bytes,omitempty"`
	// Serial is at most 20 bytes, the least that all buses carry.
	Serial string `json:"serial,omitempty"`
	// WWN is "naa." and 16 hexadecimal digits (ahci, scsi) or "eui." and 16
	// digits (nvme); virtio has none. OVMF finds an NVMe disk with a WWN,
	// but QEMU cannot name it in a boot order: it is tried last under uefi.
	// Without one an NVMe disk has a UUID that stays the same.
	WWN string `json:"wwn,omitempty"`
	// LogicalBlock is the logical block size in bytes, 512 or 4096; 0 is
	// 512. QEMU's ahci disks know 512 only.
	LogicalBlock int `json:"logical_block_bytes,omitempty"`
	// Rotational makes ahci and scsi disks report 7200 min⁻¹; they report a
	// solid-state disk without it. NVMe never rotates; the virtio bus has no
	// such field and Linux takes its disks for rotating.
	Rotational bool `json:"rotational,omitempty"`
	// Source is the absolute path of a raw file whose content the disk
	// starts with when it is made; zeroes follow to Bytes. The file is only
	// read.
	Source string `json:"source,omitempty"`
	// Path is the absolute path of an existing raw file that is the disk
	// itself, written in place, instead of a file in StateDir. Down never
	// removes it.
	Path string `json:"path,omitempty"`
}

// DiskBus is how a disk is attached.
type DiskBus string

// Buses of disks.
const (
	DiskVirtio DiskBus = "virtio"
	DiskNVMe   DiskBus = "nvme"
	DiskAHCI   DiskBus = "ahci"
	DiskSCSI   DiskBus = "scsi" // virtio-scsi
)

// NIC is one emulated Ethernet port.
type NIC struct {
	// Model is virtio or e1000e; empty is virtio.
	Model NICModel      `json:"model,omitempty"`
	MAC   inventory.MAC `json:"mac"`
	// Network is the Name of the network that the cable is in.
	Network string `json:"network"`
	// PXE is which netboot stack serves the port: the firmware's own, or
	// the iPXE in QEMU's option ROM. Empty is the firmware's own where it
	// has one for the model (virtio under uefi), else iPXE.
	PXE PXEStack `json:"pxe,omitempty"`
}

// NICModel is the kind of network card.
type NICModel string

// Models of network cards.
const (
	NICVirtio NICModel = "virtio"
	NICE1000e NICModel = "e1000e"
)

// PXEStack is the code in a machine that speaks PXE.
type PXEStack string

// PXE stacks.
const (
	// PXEFirmware is EDK2's own stack, the code that vendors ship: QEMU gets
	// an empty romfile.
	PXEFirmware PXEStack = "firmware"
	// PXERom is QEMU's option ROM, an iPXE with user class "iPXE".
	PXERom PXEStack = "ipxe"
)

// BMC is the baseboard management controller in front of a machine.
type BMC struct {
	// Driver is redfish, ipmi or none; empty is none.
	Driver BMCDriver `json:"driver,omitempty"`
	// Address is where the BMC listens inside the namespace: the very
	// address that site.hcl names, which is added to the namespace's
	// loopback. Port 0 means 443 for redfish and 623 for ipmi.
	Address  netip.AddrPort `json:"address,omitzero"`
	Username string         `json:"username,omitempty"`
	Password string         `json:"password,omitempty"`
}

// BMCDriver is the protocol of a BMC.
type BMCDriver string

// Protocols of BMCs.
const (
	BMCRedfish BMCDriver = "redfish"
	BMCIPMI    BMCDriver = "ipmi"
	BMCNone    BMCDriver = "none"
)
