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
