package imagebuilder

// ContractVersion is the version of the promises in Contract.
const ContractVersion = 1

// What the agent may rely on in an image that BuildOS made.
const (
	BIOSBootNumber = 1 // core image of GRUB for BIOS, no file system
	ESPNumber      = 2 // FAT32, EFI/BOOT/BOOTX64.EFI
	RootNumber     = 3 // ext4, last on the disk so that it can grow
	ESPBytes       = 64 << 20
	BIOSBootBytes  = 1 << 20

	// ContractPath is a JSON file of type Contract in the root file system.
	ContractPath = "/etc/edge-provision/image.json"
	// SSHHostKeyPath is the only host key that the image's sshd uses: ed25519, absent from the image.
	SSHHostKeyPath = "/etc/ssh/ssh_host_ed25519_key"
	// NetworkDir is where systemd-networkd reads its *.network files.
	NetworkDir = "/etc/systemd/network"
)

// Contract is the content of ContractPath: what the image promises to who personalises it.
type Contract struct {
	Version      int    `json:"contract"`
	Distribution string `json:"distribution"`
	Release      string `json:"release"`
	Architecture string `json:"architecture"`
	Kernel       string `json:"kernel"`
	// Partitions by role: "bios_boot", "esp", "root".
	Partitions map[string]ContractPartition `json:"partitions"`
	// PARTUUIDFiles hold the PARTUUID of the root partition and must be changed with it. The boot loader's
	// configuration does not: it asks the disk that it was loaded from.
	PARTUUIDFiles []string `json:"partuuid_files"`
	Network       string   `json:"network"`      // "systemd-networkd"
	SSHHostKey    string   `json:"ssh_host_key"` // SSHHostKeyPath
}

// ContractPartition is one partition of the image.
type ContractPartition struct {
	Number     int    `json:"number"`
	Label      string `json:"label"`                // PARTLABEL
	FileSystem string `json:"filesystem,omitempty"` // "vfat", "ext4" or none
	GUID       string `json:"guid"`                 // PARTUUID in the image; every written disk gets its own
}
