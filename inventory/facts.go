package inventory

import "time"

// Source names who observed a facts document.
type Source string

// Sources of facts.
const (
	SourceAgent   Source = "agent"
	SourceRedfish Source = "redfish"
	SourceIPMI    Source = "ipmi"
	SourceLLDP    Source = "lldp"
	SourceCluster Source = "cluster"
)

// SchemaVersion is the version of the Facts document. A reader refuses a
// document with a greater one.
const SchemaVersion = 1

// Facts is what one source observed of one machine at one time. A document is
// never edited, only superseded. A field that was not observed is left out of
// the JSON form: absent is not zero. Volatile values (link, sensors, uptime)
// do not belong here, because an identical report must have an identical
// digest.
type Facts struct {
	SchemaVersion int       `json:"schema_version"`
	System        *System   `json:"system,omitempty"`
	Baseboard     *Board    `json:"baseboard,omitempty"`
	Chassis       *Chassis  `json:"chassis,omitempty"`
	BIOS          *BIOS     `json:"bios,omitempty"`
	Firmware      *Firmware `json:"firmware,omitempty"`
	CPU           *CPU      `json:"cpu,omitempty"`
	Memory        *Memory   `json:"memory,omitempty"`
	Disks         []Disk    `json:"disks,omitempty"`
	NICs          []NIC     `json:"nics,omitempty"`
	PCI           []PCI     `json:"pci,omitempty"`
	BMC           *BMCFacts `json:"bmc,omitempty"`
	TPM           *TPM      `json:"tpm,omitempty"`
	Kernel        *Kernel   `json:"kernel,omitempty"`
}

// Document is a Facts document together with who saw it and when.
type Document struct {
	Source     Source    `json:"source"`
	ObservedAt time.Time `json:"observed_at"` // first time this exact content was seen
	LastSeen   time.Time `json:"last_seen"`   // last time this exact content was seen
	Digest     string    `json:"digest"`      // "sha256:" + hex over the canonical JSON
	Facts      Facts     `json:"facts"`
}

// System is SMBIOS type 1 (DSP0134 section 7.2).
type System struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Product      string `json:"product,omitempty"`
	Version      string `json:"version,omitempty"`
	Serial       string `json:"serial,omitempty"`
	UUID         string `json:"uuid,omitempty"` // RFC 9562 text order, lower case
	SKU          string `json:"sku,omitempty"`
	Family       string `json:"family,omitempty"`
}

// Board is SMBIOS type 2.
type Board struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Product      string `json:"product,omitempty"`
	Version      string `json:"version,omitempty"`
	Serial       string `json:"serial,omitempty"`
}

// Chassis is SMBIOS type 3.
type Chassis struct {
	Manufacturer string `json:"manufacturer,omitempty"`
	Type         string `json:"type,omitempty"`
	Serial       string `json:"serial,omitempty"`
	AssetTag     string `json:"asset_tag,omitempty"`
}

// BIOS is SMBIOS type 0.
type BIOS struct {
	Vendor  string `json:"vendor,omitempty"`
	Version string `json:"version,omitempty"`
	Date    string `json:"date,omitempty"` // as the firmware writes it, usually MM/DD/YYYY
}

// Firmware says how the machine booted.
type Firmware struct {
	Mode       string `json:"mode"`                  // "uefi" or "bios"
	SecureBoot *bool  `json:"secure_boot,omitempty"` // absent under bios
}

// CPU describes all processors of the machine together.
type CPU struct {
	Architecture string `json:"architecture,omitempty"` // GOARCH form: amd64, arm64
	Vendor       string `json:"vendor,omitempty"`
	Model        string `json:"model,omitempty"`
	Sockets      int    `json:"sockets,omitempty"`
	Cores        int    `json:"cores,omitempty"`
	Threads      int    `json:"threads,omitempty"`
	MaxSpeedMHz  int    `json:"max_speed_mhz,omitempty"`
	// Flags are the processor feature flags, sorted.
	Flags []string `json:"flags,omitempty"`
}

// Memory is the installed memory and its modules.
type Memory struct {
	Bytes   int64          `json:"bytes,omitempty"` // sum of the modules; what the kernel sees when there are none
	Modules []MemoryModule `json:"modules,omitempty"`
}

// MemoryModule is one populated SMBIOS type 17.
type MemoryModule struct {
	Locator      string `json:"locator,omitempty"`
	Bytes        int64  `json:"bytes,omitempty"`
	Type         string `json:"type,omitempty"` // DDR4, DDR5, …
	SpeedMTs     int    `json:"speed_mts,omitempty"`
	Manufacturer string `json:"manufacturer,omitempty"`
	Part         string `json:"part,omitempty"`
	Serial       string `json:"serial,omitempty"`
	ECC          *bool  `json:"ecc,omitempty"`
}

// Disk is one block device that could hold an image. Removable media and
// devices of zero size are left out.
type Disk struct {
	Name          string `json:"name"`            // kernel name at observation, such as "sda"; not stable
	ByID          string `json:"by_id,omitempty"` // stable name as /dev/disk/by-id has it
	WWN           string `json:"wwn,omitempty"`   // "naa.…", "eui.…" or "nvme.…"
	Serial        string `json:"serial,omitempty"`
	Vendor        string `json:"vendor,omitempty"`
	Model         string `json:"model,omitempty"`
	FirmwareRev   string `json:"firmware_rev,omitempty"`
	Bytes         int64  `json:"bytes"`
	LogicalBlock  int    `json:"logical_block_bytes,omitempty"`
	PhysicalBlock int    `json:"physical_block_bytes,omitempty"`
	Rotational    *bool  `json:"rotational,omitempty"`
	Bus           string `json:"bus,omitempty"` // nvme, sata, sas, scsi, virtio, usb, mmc, loop (in containers)
	Path          string `json:"path,omitempty"`
	// Signatures are the filesystems, partition tables and volume members
	// found on the disk, such as "gpt", "ext4", "LVM2_member". Empty means
	// that the disk was read and none was found.
	Signatures []string `json:"signatures"`
	// PartUUIDs are the GUIDs of its GPT partitions, upper half first.
	PartUUIDs []string `json:"part_uuids,omitempty"`
	// Owner is whose the installed system on the disk says it is; absent
	// when it carries no system that edge-provision installed.
	Owner *Owner `json:"owner,omitempty"`
}

// Owner is who installed the system on a disk.
type Owner struct {
	Catalog string `json:"catalog"` // id of the catalog
	Site    string `json:"site,omitempty"`
	Address string `json:"address,omitempty"` // in that site's site.hcl
	Image   string `json:"image,omitempty"`   // digest
}

// NIC is one physical Ethernet port.
type NIC struct {
	Name     string `json:"name"` // kernel name at observation; not stable
	MAC      MAC    `json:"mac,omitzero"`
	Driver   string `json:"driver,omitempty"`
	PCI      string `json:"pci,omitempty"` // domain:bus:device.function
	Vendor   string `json:"vendor,omitempty"`
	Device   string `json:"device,omitempty"`
	SpeedMbs int    `json:"speed_mbps,omitempty"` // greatest supported, megabits per second
	Boot     bool   `json:"boot,omitempty"`       // the machine netbooted through this port
}

// PCI is one PCI function.
type PCI struct {
	Address string `json:"address"` // domain:bus:device.function
	Class   string `json:"class"`   // six hexadecimal digits
	Vendor  string `json:"vendor"`  // four hexadecimal digits
	Device  string `json:"device"`  // four hexadecimal digits
	Driver  string `json:"driver,omitempty"`
}

// BMCFacts is what the host can see of its own BMC.
type BMCFacts struct {
	Address  string `json:"address,omitempty"` // LAN address, dotted quad
	MAC      string `json:"mac,omitempty"`
	Firmware string `json:"firmware,omitempty"`
	Vendor   string `json:"vendor,omitempty"`
}

// TPM is the machine's trusted platform module.
type TPM struct {
	Version string `json:"version"` // "1.2" or "2.0"
}

// Kernel is the kernel that made the observation.
type Kernel struct {
	Release string `json:"release,omitempty"`
}
