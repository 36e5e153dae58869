package site

import "github.com/edge-provision/edge-provision/inventory"

// Rack is how the virtual rack emulates a machine. It is ignored elsewhere.
type Rack struct {
	Decl
	Firmware    string // bios or uefi (the default)
	PXE         string // native (the firmware's own stack) or ipxe (the NIC's ROM); default native under uefi, ipxe under bios
	CPUs        int
	MemoryBytes int64
	BootOrder   []string // of network and disk, first first
	PowerOn     bool     // the machine is on when the rack comes up
	Disks       []RackDisk
	NICs        []RackNIC // the first one has the machine's MAC unless it says otherwise
}

// RackDisk is one emulated disk.
type RackDisk struct {
	Decl
	Bus        string // virtio, nvme, ahci or scsi
	SizeBytes  int64
	Serial     string // empty: the rack makes one up
	BlockBytes int    // logical block size: 512 or 4096
	Source     string // a raw file whose content the disk starts with; empty: zeroes
}

// RackNIC is one emulated Ethernet port.
type RackNIC struct {
	Decl
	Model string        // virtio or e1000e
	MAC   inventory.MAC // zero: the rack makes one up
}

// Defaults of the virtual rack.
const (
	defaultRackMemory = 2 << 30
	defaultRackDisk   = 8 << 30
)

var (
	rackShape = shape{
		attributes: []string{"firmware", "pxe", "cpus", "memory", "boot_order", "power_on"},
		blocks:     map[string]int{"disk": 0, "nic": 0},
	}
	rackDiskShape = shape{attributes: []string{"bus", "size", "serial", "block", "source"}}
	rackNICShape  = shape{attributes: []string{"model", "mac"}}
)

// rack reads a rack block. Without disk blocks the machine has one of 8 GiB,
// without nic blocks one port with the machine's MAC.
func (d *decoder) rack(mac inventory.MAC) *Rack {
	r := &Rack{
		Decl:        d.decl,
		Firmware:    d.choice("firmware", "uefi", "bios", "uefi"),
		CPUs:        int(d.integer("cpus", 1, 1, 64)),
		MemoryBytes: d.size("memory", defaultRackMemory, 256<<20),
		PowerOn:     d.flag("power_on"),
		BootOrder:   d.texts("boot_order"),
	}
	pxe := "native"
	if r.Firmware == "bios" {
		// SeaBIOS has no PXE stack of its own.
		pxe = "ipxe"
	}
	r.PXE = d.choice("pxe", pxe, "native", "ipxe")
	if r.Firmware == "bios" && r.PXE == "native" {
		d.fail("pxe", "Unsupported firmware", "The emulated BIOS (SeaBIOS) has no PXE stack of its own, so pxe = \"native\" works with firmware = \"uefi\" only.")
	}
	seen := make(map[string]bool)
	for _, device := range r.BootOrder {
		if device != "network" && device != "disk" {
			d.fail("boot_order", "Unknown choice", "%q is not a boot device.%s It is network or disk.", clip(device), suggest(device, []string{"network", "disk"}))
		}
		if seen[device] {
			d.fail("boot_order", "Duplicate boot device", "%q comes twice in the boot order.", clip(device))
		}
		seen[device] = true
	}
	if len(r.BootOrder) == 0 {
		r.BootOrder = []string{"network", "disk"}
	}
	for _, block := range d.content.Blocks {
		switch block.Type {
		case "disk":
			r.Disks = append(r.Disks, d.nested(block, rackDiskShape).rackDisk())
		case "nic":
			n := d.nested(block, rackNICShape)
			r.NICs = append(r.NICs, RackNIC{Decl: n.decl, Model: n.choice("model", "virtio", "virtio", "e1000e"), MAC: n.mac("mac")})
		}
	}
	if len(r.Disks) == 0 {
		r.Disks = []RackDisk{{Decl: d.decl, Bus: "virtio", SizeBytes: defaultRackDisk, BlockBytes: 512}}
	}
	if len(r.NICs) == 0 {
		r.NICs = []RackNIC{{Decl: d.decl, Model: "virtio"}}
	}
	if r.NICs[0].MAC.IsZero() {
		r.NICs[0].MAC = mac
	}
	return r
}

// rackDisk reads a disk block.
func (d *decoder) rackDisk() RackDisk {
	disk := RackDisk{
		Decl:       d.decl,
		Bus:        d.choice("bus", "virtio", "virtio", "nvme", "ahci", "scsi"),
		SizeBytes:  d.size("size", defaultRackDisk, 1<<20),
		Serial:     d.text("serial", ""),
		BlockBytes: int(d.integer("block", 512, 512, 4096)),
		Source:     d.path("source"),
	}
	if disk.BlockBytes != 512 && disk.BlockBytes != 4096 {
		d.fail("block", "Unknown choice", "The logical block size is 512 or 4096 bytes.")
		disk.BlockBytes = 512
	}
	if disk.SizeBytes%4096 != 0 {
		d.fail("size", "Number out of range", "The size of a disk is a multiple of 4096 bytes.")
	}
	if len(disk.Serial) > 20 {
		// The field of NVMe and ATA identify data, and virtio's limit.
		d.fail("serial", "Invalid serial", "%q has more than the 20 characters that a disk can report.", clip(disk.Serial))
	}
	return disk
}
