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
	// SourceManual is what a person wrote.
	SourceManual Source = "manual"
)

// SchemaVersion is the version of the Facts document. A reader refuses a
// document with a greater one.
const SchemaVersion = 1

// Facts is what one source observed of one machine at one time. A document is
// never edited, only superseded. A field that was not observed is left out of
// the JSON form: absent is not zero. A list that is nil was not observed, and is
// left out too; an empty one says that its source looked and found none. Volatile
// values (link, sensors, uptime) do not belong here, because an identical report
// must have an identical digest.
type Facts struct {
	// SchemaVersion is the version of this form; 1.
	SchemaVersion int `json:"schema_version"`
	// System is the computer as its maker names it.
	System *System `json:"system,omitempty"`
	// Baseboard is the main board.
	Baseboard *Board `json:"baseboard,omitempty"`
	// Chassis is the enclosure.
	Chassis *Chassis `json:"chassis,omitempty"`
	// BIOS is the platform firmware, also where it is UEFI.
	BIOS *BIOS `json:"bios,omitempty"`
	// Firmware says how the machine booted.
	Firmware *Firmware `json:"firmware,omitempty"`
	// CPU describes all processors together.
	CPU *CPU `json:"cpu,omitempty"`
	// Memory is the installed memory.
	Memory *Memory `json:"memory,omitempty"`
	// Disks are the block devices that could hold an image.
	Disks []Disk `json:"disks,omitzero"`
	// NICs are the physical Ethernet ports.
	NICs []NIC `json:"nics,omitzero"`
	// Neighbors are what the Ethernet ports are connected to, as it was heard by
	// LLDP. A port on which nothing was heard is not in it; the list is absent when
	// nothing was heard at all, which is not that nothing is connected.
	Neighbors []Neighbor `json:"neighbors,omitzero"`
	// PCI are the PCI functions.
	PCI []PCI `json:"pci,omitzero"`
	// BMC is the baseboard management controller; absent when none was found.
	BMC *BMCFacts `json:"bmc,omitempty"`
	// TPM is the trusted platform module; absent when none was found.
	TPM *TPM `json:"tpm,omitempty"`
	// Kernel is the kernel that made the observation.
	Kernel *Kernel `json:"kernel,omitempty"`
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
	Manufacturer string `json:"manufacturer,omitempty"` // as SMBIOS has it
	Product      string `json:"product,omitempty"`      // product name
	Version      string `json:"version,omitempty"`      // as SMBIOS has it
	Serial       string `json:"serial,omitempty"`       // serial number, junk such as "To Be Filled By O.E.M." included
	UUID         string `json:"uuid,omitempty"`         // RFC 9562 text order, lower case
	SKU          string `json:"sku,omitempty"`          // stock keeping unit
	Family       string `json:"family,omitempty"`       // product family
}

// Board is SMBIOS type 2 (DSP0134 section 7.3).
type Board struct {
	Manufacturer string `json:"manufacturer,omitempty"` // as SMBIOS has it
	Product      string `json:"product,omitempty"`      // product name
	Version      string `json:"version,omitempty"`      // as SMBIOS has it
	Serial       string `json:"serial,omitempty"`       // serial number
}

// Chassis is SMBIOS type 3 (DSP0134 section 7.4).
type Chassis struct {
	Manufacturer string `json:"manufacturer,omitempty"` // as SMBIOS has it
	Type         string `json:"type,omitempty"`         // name of the type, such as "Rack Mount Chassis"
	Serial       string `json:"serial,omitempty"`       // serial number
	AssetTag     string `json:"asset_tag,omitempty"`    // the owner's number of it
}

// BIOS is SMBIOS type 0 (DSP0134 section 7.1).
type BIOS struct {
	Vendor  string `json:"vendor,omitempty"`  // who wrote it
	Version string `json:"version,omitempty"` // as its vendor counts
	Date    string `json:"date,omitempty"`    // of its release, as the firmware writes it, usually MM/DD/YYYY
}

// Firmware says how the machine booted.
type Firmware struct {
	Mode       string `json:"mode,omitempty"`        // "uefi" or "bios"
	SecureBoot *bool  `json:"secure_boot,omitempty"` // whether Secure Boot was enforced; absent under bios
}

// CPU describes all processors of the machine together.
type CPU struct {
	Architecture string `json:"architecture,omitempty"`  // as Go names it: amd64, arm64
	Vendor       string `json:"vendor,omitempty"`        // as the processor names it, such as GenuineIntel
	Model        string `json:"model,omitempty"`         // as the processor names it
	Sockets      int    `json:"sockets,omitempty"`       // number of processors
	Cores        int    `json:"cores,omitempty"`         // number of cores in all of them
	Threads      int    `json:"threads,omitempty"`       // number of hardware threads in all of them
	MaxSpeedMHz  int    `json:"max_speed_mhz,omitempty"` // greatest clock rate, in MHz
	// Flags are the processor feature flags as Linux names them, sorted.
	Flags []string `json:"flags,omitzero"`
}

// Memory is the installed memory and its modules.
type Memory struct {
	Bytes   int64          `json:"bytes,omitempty"`  // in bytes: sum of the modules; what the kernel sees when there are none
	Modules []MemoryModule `json:"modules,omitzero"` // those that are populated
}

// MemoryModule is one populated SMBIOS type 17 (DSP0134 section 7.18).
type MemoryModule struct {
	Locator      string `json:"locator,omitempty"`      // name of its slot
	Bytes        int64  `json:"bytes,omitempty"`        // size, in bytes
	Type         string `json:"type,omitempty"`         // DDR4, DDR5, …
	SpeedMTs     int    `json:"speed_mts,omitempty"`    // configured speed, or else the greatest, in megatransfers per second
	Manufacturer string `json:"manufacturer,omitempty"` // as SMBIOS has it
	Part         string `json:"part,omitempty"`         // part number
	Serial       string `json:"serial,omitempty"`       // serial number
	ECC          *bool  `json:"ecc,omitempty"`          // whether it corrects errors
}

// Disk is one block device that could hold an image. Removable media and
// devices of zero size are left out.
type Disk struct {
	Name          string `json:"name"`                           // what its source calls it: the kernel's name at observation, such as "sda", or the BMC's; not stable
	ByID          string `json:"by_id,omitempty"`                // stable name as /dev/disk/by-id has it
	WWN           string `json:"wwn,omitempty"`                  // world wide name: "naa.…", "eui.…" or "nvme.…"
	Serial        string `json:"serial,omitempty"`               // serial number
	Vendor        string `json:"vendor,omitempty"`               // as the disk names it
	Model         string `json:"model,omitempty"`                // as the disk names it
	FirmwareRev   string `json:"firmware_rev,omitempty"`         // revision of its firmware
	Bytes         int64  `json:"bytes"`                          // size, in bytes
	LogicalBlock  int    `json:"logical_block_bytes,omitempty"`  // smallest unit that can be addressed, in bytes
	PhysicalBlock int    `json:"physical_block_bytes,omitempty"` // smallest unit that is written at once, in bytes
	Rotational    *bool  `json:"rotational,omitempty"`           // whether it turns
	Bus           string `json:"bus,omitempty"`                  // nvme, sata, sas, scsi, virtio, usb, mmc, loop (in containers)
	Path          string `json:"path,omitempty"`                 // where it is connected, as /dev/disk/by-path has it
	// Signatures are the filesystems, partition tables and volume members
	// found on the disk, such as "gpt", "ext4", "LVM2_member". Empty means
	// that the disk was read and none was found; null, that nobody read it.
	Signatures []string `json:"signatures"`
	// PartUUIDs are the GUIDs of its GPT partitions, upper half first.
	PartUUIDs []string `json:"part_uuids,omitempty"`
	// Owner is whose the installed system on the disk says it is; absent
	// when it carries no system that edge-provision installed.
	Owner *Owner `json:"owner,omitempty"`
}

// Owner is who installed the system on a disk.
type Owner struct {
	Catalog string `json:"catalog"`           // id of the catalog
	Site    string `json:"site,omitempty"`    // name of the site
	Address string `json:"address,omitempty"` // in that site's site.hcl
	Image   string `json:"image,omitempty"`   // digest of the image
}

// NIC is one physical Ethernet port.
type NIC struct {
	Name     string `json:"name"`                 // what its source calls it: the kernel's name at observation, or the BMC's; not stable
	MAC      MAC    `json:"mac,omitzero"`         // permanent Ethernet address
	Driver   string `json:"driver,omitempty"`     // kernel module that drives it
	PCI      string `json:"pci,omitempty"`        // its PCI function, domain:bus:device.function
	Vendor   string `json:"vendor,omitempty"`     // PCI vendor, four hexadecimal digits
	Device   string `json:"device,omitempty"`     // PCI device, four hexadecimal digits
	SpeedMbs int    `json:"speed_mbps,omitempty"` // greatest supported, in megabits per second
	Boot     bool   `json:"boot,omitempty"`       // the machine netbooted through this port
}

// Neighbor is what one Ethernet port is connected to, as it tells by LLDP (IEEE
// 802.1AB): as a rule a port of a switch. An identifier that is an address is
// written as one; one that is no text, in hexadecimal digits.
type Neighbor struct {
	MAC             MAC    `json:"mac,omitzero"`               // Ethernet address of the machine's own port that heard it, as in nics
	Chassis         string `json:"chassis,omitempty"`          // what the switch calls itself, unique in its network: often an Ethernet address
	Port            string `json:"port,omitempty"`             // what the switch calls the port
	PortDescription string `json:"port_description,omitempty"` // what the port is, or what people call it
	System          string `json:"system,omitempty"`           // name of the switch
	Address         string `json:"address,omitempty"`          // where the switch is managed: an IP address
	VLAN            int    `json:"vlan,omitempty"`             // number of the VLAN that untagged frames are in
}

// SameEnd reports whether two looks found one port connected to one and the same.
func (n Neighbor) SameEnd(other Neighbor) bool {
	return n.MAC == other.MAC && n.Chassis == other.Chassis && n.Port == other.Port
}

// PCI is one PCI function.
type PCI struct {
	Address string `json:"address"`          // domain:bus:device.function
	Class   string `json:"class"`            // class code, six hexadecimal digits
	Vendor  string `json:"vendor"`           // four hexadecimal digits
	Device  string `json:"device"`           // four hexadecimal digits
	Driver  string `json:"driver,omitempty"` // kernel module that drives it
}

// BMCFacts is what is known of the machine's BMC.
type BMCFacts struct {
	Address  string `json:"address,omitempty"`  // LAN address, dotted quad
	MAC      string `json:"mac,omitempty"`      // Ethernet address of its LAN
	Firmware string `json:"firmware,omitempty"` // version of its firmware
	Vendor   string `json:"vendor,omitempty"`   // who made it
}

// TPM is the machine's trusted platform module.
type TPM struct {
	Version string `json:"version,omitempty"` // "1.2" or "2.0"
}

// Kernel is the kernel that made the observation.
type Kernel struct {
	Release string `json:"release,omitempty"` // as uname -r prints it
}
