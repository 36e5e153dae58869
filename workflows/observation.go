package workflows

import (
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// Observation is what was seen of a site at one moment: everything that a plan
// is made from beside the declaration itself. It is gathered by asking, and
// asking changes nothing.
type Observation struct {
	// Catalog is the id of the catalog that plans; machines carry it.
	Catalog  string
	Machines map[string]MachineView // by address
	Images   map[string]ImageView   // by address
	Steps    map[string]StepView    // by address
	// Orphans are addresses that this catalog applied and that site.hcl no
	// longer declares.
	Orphans []string
}

// Presence is one of the three answers of inspection, and a fourth for what
// was not asked.
type Presence string

// Answers of inspection.
const (
	NotAsked    Presence = ""
	Present     Presence = "present"
	Absent      Presence = "absent"
	Unreachable Presence = "unreachable"
)

// Power is a machine's power as its BMC tells it.
type Power string

// Power states. A machine without BMC is PowerUnknown.
const (
	PowerUnknown Power = ""
	PowerOn      Power = "on"
	PowerOff     Power = "off"
)

// MachineView is what was seen of one declared machine.
type MachineView struct {
	// Machine is the catalog's row; nil when the machine was never seen.
	Machine *inventory.Machine
	// Unbound says why it cannot be told which machine is meant, where the declaration
	// is of what it is; empty: it can, or none was seen yet.
	Unbound string
	// Facts is the merged view, with the disks as edge-agent saw them; nil before the
	// first inspection.
	Facts     *inventory.Facts
	FactsSeen time.Time
	// BMC is what its BMC knows of it, which may be switched off and never inspected;
	// nil: it was not asked, or told nothing. No disk is chosen by it.
	BMC *inventory.Facts
	// FactsNote says why the facts of a machine that runs are incomplete or old;
	// empty when they are not, or when it was not looked at.
	FactsNote string
	// Looked says that the facts were gathered just now.
	Looked bool
	// Hardware is how the facts stand against the machine's snapshot; nil while
	// there is none.
	Hardware *Hardware
	Power    Power
	// PowerErr says why the BMC could not be asked; empty when it could.
	PowerErr string
	// Host is whether the installed system answers as itself, HostDetail why
	// not, and HostIdentity what it says it is.
	Host         Presence
	HostDetail   string
	HostIdentity HostIdentity
	// Applied is what this catalog last installed; nil: nothing.
	Applied *InstallRecord
	// Unfinished is a write to this machine that this catalog's journal began
	// and never saw the end of.
	Unfinished *InstallRecord
	// Unanswered says that the installation was finished, but that the run was
	// cut off before the installed system answered.
	Unanswered bool
	// Released says that destroy gave the machine up: its disk was left as it
	// was, and what it carries now has to be looked at.
	Released bool
	// InInstaller says that an agent of this machine talks to us now.
	InInstaller bool
}

// renamed reports whether this catalog installed the machine, but under another
// address.
func (v MachineView) renamed() bool {
	return v.Applied == nil && v.Machine != nil && v.Machine.Image != ""
}

// HostIdentity is what /etc/edge-provision/identity.json on a machine says.
type HostIdentity struct {
	Catalog string `json:"catalog"`
	Site    string `json:"site"`
	Address string `json:"address"`
	Image   string `json:"image"`
}

// InstallRecord is what is written into the catalog about an installation:
// what it was made from, and on which disk.
type InstallRecord struct {
	Image     string   `json:"image"`      // digest
	ImageSpec string   `json:"image_spec"` // digest of the declaration it was made from
	Disk      DiskName `json:"disk"`
	Hostname  string   `json:"hostname"`
	Address   string   `json:"address,omitempty"` // of the network, dotted quad
	HostKey   string   `json:"host_key,omitempty"`
	Boot      string   `json:"boot,omitempty"`    // the installer boot that wrote it
	Users     string   `json:"users,omitempty"`   // digest of the accounts and keys
	Network   string   `json:"network,omitempty"` // digest of gateway, DNS, NTP and prefix
}

// ImageView is what is known of an image before it is needed.
type ImageView struct {
	// Digest is the image's name; empty when it has yet to be built.
	Digest string
	// Spec is the digest of its declaration.
	Spec string
	// SectorBytes is the logical sector that it is made for, and MinDiskBytes the
	// smallest disk that it fits; zero while that is not known.
	SectorBytes  int
	MinDiskBytes int64
}

// StepView is what a step's own inspection found.
type StepView struct {
	Presence Presence
	// Changes are lines of what would change; empty with Present means that
	// nothing would.
	Changes []string
	// Detail says why the answer is Unreachable, or why the step is Refused:
	// that it must not be done as declared, which no other time changes.
	Detail  string
	Refused bool
	// Inputs is the digest of the step's inputs; empty while some of them are
	// unknown, and then After names what they wait for.
	Inputs string
	After  []string
	// Unfinished says that work with the step began after its last success and
	// that its end is not on record: what is there was never verified. Unrecorded
	// says that no success of it is on record at all, so that its outputs are not
	// known.
	Unfinished, Unrecorded bool
	// Skipped says that the step's `when` is false.
	Skipped bool
}
