// Package agent is what runs on a machine inside the installer: the wire types
// of the conversation with the controller, the client that speaks it, and the
// loop that carries out its tasks.
//
// The conversation, all JSON over HTTPS pinned to the controller's public key:
//
//	agent                              controller
//	POST /agent/v1/session  token   →  session bound to machine and boot
//	POST /agent/v1/facts    facts   →  kept in the catalog
//	POST /agent/v1/neighbors        →  what was heard by LLDP since, kept too
//	POST /agent/v1/task     running →  held until there is a task, an order to
//	                                   cancel, or the poll ends
//	POST /agent/v1/progress         →  acknowledged
//	POST /agent/v1/result           →  acknowledged once it is on disk; the agent
//	                                   repeats it until then
//	POST /agent/v1/log              →  lines for the flight recorder
//
// The package is thin on purpose: it is linked into a binary that is sent to
// every machine. It imports inventory, inventory/probe, imagebuilder/chunk,
// imagebuilder/gpt and small libraries; a test holds it to that.
package agent

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// ProtocolVersion is the version of the conversation. A controller refuses an
// agent with another one.
const ProtocolVersion = 1

// Paths of the protocol, all POST.
const (
	PathSession   = "/agent/v1/session"
	PathFacts     = "/agent/v1/facts"
	PathNeighbors = "/agent/v1/neighbors"
	PathTask      = "/agent/v1/task"
	PathProgress  = "/agent/v1/progress"
	PathResult    = "/agent/v1/result"
	PathLog       = "/agent/v1/log"
)

// Limits of the bodies, in bytes, that the controller reads.
const (
	MaxSessionBytes   = 16 << 10
	MaxFactsBytes     = 4 << 20
	MaxNeighborsBytes = 1 << 20
	MaxTaskBytes      = 16 << 10
	MaxProgressBytes  = 16 << 10
	MaxResultBytes    = 64 << 10
	MaxLogBytes       = 256 << 10
	// MaxReplyBytes bounds what the agent reads from the controller.
	MaxReplyBytes = 4 << 20
)

// SessionRequest exchanges the token of the kernel command line for a session.
type SessionRequest struct {
	Version int    `json:"version"`
	Token   string `json:"token"`
	// Session is a secret of 32 random bytes, base64url, that the agent made.
	// The token is bound to the first secret that comes with it, so that a
	// reply lost on the way can be asked for again, and nobody else's request.
	Session string        `json:"session"`
	Boot    string        `json:"boot"`
	MAC     inventory.MAC `json:"mac"` // the port that the machine booted through
	Agent   string        `json:"agent"`
}

// SessionReply answers a SessionRequest. The bearer of later requests is
// Machine's text form, a dot and the SessionRequest's secret.
type SessionReply struct {
	Version int       `json:"version"`
	Machine uuid.UUID `json:"machine"`
	Site    string    `json:"site,omitempty"`
}

// Bearer is the credential of a session as sent in the Authorization header.
func Bearer(machine uuid.UUID, session string) string {
	return machine.String() + "." + session
}

// NeighborsReport is what the machine's ports are connected to.
type NeighborsReport struct {
	Neighbors []inventory.Neighbor `json:"neighbors"`
}

// PollRequest asks for work.
type PollRequest struct {
	// Running is the task that the agent is carrying out, if any.
	Running *TaskRef `json:"running,omitempty"`
	// WaitMillis is how long the controller may hold the request.
	WaitMillis int64 `json:"wait_ms"`
}

// PollReply says what to do. At most one of Task and Cancel is set; a reply
// with neither leaves whatever runs alone.
type PollReply struct {
	Task *Task `json:"task,omitempty"`
	// Cancel names the running task that is to be stopped.
	Cancel *TaskRef `json:"cancel,omitempty"`
	// Facts asks for a facts report: the controller has none of this boot.
	Facts bool `json:"facts,omitempty"`
}

// Kind names what a task does.
type Kind string

// Kinds of tasks.
const (
	KindHold      Kind = "hold"      // say Message on the console and wait for the next task
	KindFacts     Kind = "facts"     // gather and report facts again
	KindWipe      Kind = "wipe"      // erase the named disks' signatures or whole content
	KindWrite     Kind = "write"     // write an image to a disk
	KindConfigure Kind = "configure" // give the written image this machine's identity
	KindReboot    Kind = "reboot"    // restart by the firmware
	KindPoweroff  Kind = "poweroff"
)

// TaskRef names one attempt at a task.
type TaskRef struct {
	ID      string `json:"id"`
	Attempt int    `json:"attempt"`
}

// String is the form used in logs and events.
func (r TaskRef) String() string { return fmt.Sprintf("%s#%d", r.ID, r.Attempt) }

// Task is one thing for the agent to do. Exactly the field that its Kind names
// is set.
type Task struct {
	ID      string `json:"id"`  // unique among all tasks of the machine
	Run     string `json:"run"` // the run that ordered it
	Step    string `json:"step"`
	Attempt int    `json:"attempt"` // counts from 1
	// Fence grows with every owner of the machine's lock. The agent refuses
	// a task with a lower one than it has seen.
	Fence int64 `json:"fence,omitempty"`
	Kind  Kind  `json:"kind"`

	Hold      *Hold      `json:"hold,omitempty"`
	Wipe      *Wipe      `json:"wipe,omitempty"`
	Write     *Write     `json:"write,omitempty"`
	Configure *Configure `json:"configure,omitempty"`
}

// Ref is the name of this attempt.
func (t Task) Ref() TaskRef { return TaskRef{ID: t.ID, Attempt: t.Attempt} }

// Hold keeps the machine in the installer.
type Hold struct {
	Message string `json:"message,omitempty"` // shown on the console
}

// DiskRef names one disk by what does not change between boots. Bytes must
// match; WWN and Serial must match whenever they are set, and at least one of
// WWN, Serial and ByPath must be.
type DiskRef struct {
	WWN    string `json:"wwn,omitempty"`
	Serial string `json:"serial,omitempty"`
	Bytes  int64  `json:"bytes"`
	// ByPath is the bus path, for a disk that has neither WWN nor serial of its
	// own (a virtio disk without one, or 00000000); inventory.Disk.Path.
	ByPath string `json:"by_path,omitempty"`
}

// String is the form that a person reads.
func (d DiskRef) String() string {
	var parts []string
	for _, p := range []struct{ k, v string }{{"wwn", d.WWN}, {"serial", d.Serial}, {"path", d.ByPath}} {
		if p.v != "" {
			parts = append(parts, p.k+" "+p.v)
		}
	}
	return fmt.Sprintf("disk %s (%d bytes)", strings.Join(parts, ", "), d.Bytes)
}

// Ref names an observed disk.
func Ref(d inventory.Disk) DiskRef {
	r := DiskRef{WWN: d.WWN, Serial: d.Serial, Bytes: d.Bytes}
	if !inventory.Numbered(d.WWN, d.Serial) {
		r.ByPath = d.Path
	}
	return r
}

// Wipe erases disks. A disk whose signatures are not all in its Consent is
// refused, and then none is touched.
type Wipe struct {
	Disks []WipeDisk `json:"disks"`
	// Full writes zeroes over the whole disk; otherwise only signatures and
	// partition tables are erased.
	Full bool `json:"full,omitempty"`
}

// WipeDisk is one disk to erase and what may be lost on it.
type WipeDisk struct {
	Disk    DiskRef `json:"disk"`
	Consent Consent `json:"consent"`
}

// Consent is what a person agreed to lose on a disk.
type Consent struct {
	// Signatures are those that the plan showed. A disk that carries another
	// one at the moment of writing is refused. Empty consents to a blank
	// disk only.
	Signatures []string `json:"signatures,omitempty"`
}

// Write writes an image to a disk.
type Write struct {
	Disk DiskRef `json:"disk"`
	// Image is the image's name: "sha256:" and hex of its canonical
	// manifest, imagebuilder/chunk.
	Image string `json:"image"`
	// ManifestURL and FramesURL say where the bytes are; relative to the
	// controller's URL, or absolute http or https. They are not trusted:
	// the manifest must hash to Image, every chunk to what it says.
	ManifestURL string `json:"manifest_url"`
	FramesURL   string `json:"frames_url"`
	// ManifestText is "sha256:" and hex of the manifest's text, which vouches
	// for the digests of the frames too: the agent then checks those instead
	// of the raw content, which is several times as long. When it is empty,
	// or the manifest is written otherwise, the raw digests decide.
	ManifestText string  `json:"manifest_text,omitempty"`
	Consent      Consent `json:"consent"`
	// Resume says that an unfinished write of this image to this disk is in
	// the controller's journal: chunks that are on the disk already are
	// proved by hash and not fetched, and what the disk carries is not
	// asked about again.
	Resume bool `json:"resume,omitempty"`
}

// Configure gives a freshly written disk its identity.
type Configure struct {
	Disk  DiskRef `json:"disk"`
	Image string  `json:"image"` // the digest that was written

	Hostname string `json:"hostname"`
	Domain   string `json:"domain,omitempty"`
	// Hosts are more lines of /etc/hosts.
	Hosts   []HostEntry   `json:"hosts,omitempty"`
	Network NetworkConfig `json:"network"`
	NTP     []string      `json:"ntp,omitempty"`
	Users   []User        `json:"users,omitempty"`
	// RootKeys are authorized_keys lines for root; the controller's own
	// per-site key is among them.
	RootKeys []string `json:"root_keys,omitempty"`
	Identity Identity `json:"identity"`
}

// HostEntry is one line of /etc/hosts.
type HostEntry struct {
	Address string   `json:"address"` // dotted quad
	Names   []string `json:"names"`
}

// NetworkConfig is how the installed system reaches the network.
type NetworkConfig struct {
	MAC  inventory.MAC `json:"mac"`
	DHCP bool          `json:"dhcp,omitempty"`
	// Address is a prefix such as "172.22.0.11/24"; unused with DHCP.
	Address string   `json:"address,omitempty"`
	Gateway string   `json:"gateway,omitempty"`
	DNS     []string `json:"dns,omitempty"`
	Search  []string `json:"search,omitempty"`
	MTU     int      `json:"mtu,omitempty"`
}

// User is an account to be created, or to be given keys if it exists.
type User struct {
	Name  string   `json:"name"`
	Keys  []string `json:"keys,omitempty"` // authorized_keys lines
	Sudo  bool     `json:"sudo,omitempty"` // may become root without a password
	Shell string   `json:"shell,omitempty"`
}

// Identity is written to /etc/edge-provision/identity.json on the machine, so
// that another catalog can tell whose it is.
type Identity struct {
	Catalog string    `json:"catalog"` // id of the catalog that owns the machine
	Site    string    `json:"site"`
	Machine uuid.UUID `json:"machine"`
	Address string    `json:"address"` // in site.hcl, such as machine.node["a"]
	Image   string    `json:"image"`
	Run     string    `json:"run"`
}

// Progress is where a running task stands.
type Progress struct {
	Task  TaskRef `json:"task"`
	Phase Phase   `json:"phase"`
	// Bytes of Total are done; of the raw image for a write.
	Bytes int64 `json:"bytes,omitempty"`
	Total int64 `json:"total,omitempty"`
	// FetchedBytes came over the wire in this attempt.
	FetchedBytes int64  `json:"fetched_bytes,omitempty"`
	Message      string `json:"message,omitempty"`
}

// Phase is a part of a task.
type Phase string

// Phases of tasks. PhaseBegin is special: the agent reports it before the first
// byte of a disk is changed and goes on only when the controller has
// acknowledged it, so that a half-written disk is always known as one.
const (
	PhaseBegin     Phase = "begin"
	PhaseProve     Phase = "prove"
	PhaseWrite     Phase = "write"
	PhaseSync      Phase = "sync"
	PhaseWipe      Phase = "wipe"
	PhaseConfigure Phase = "configure"
)

// Outcome is how a task ended.
type Outcome string

// Outcomes of tasks.
const (
	OutcomeOK        Outcome = "ok"
	OutcomeFailed    Outcome = "failed"
	OutcomeRefused   Outcome = "refused"   // nothing was changed
	OutcomeCancelled Outcome = "cancelled" // by order, or by a newer attempt
)

// Result is how one attempt at a task ended.
type Result struct {
	Task    TaskRef  `json:"task"`
	Boot    string   `json:"boot"`
	Outcome Outcome  `json:"outcome"`
	Error   *Failure `json:"error,omitempty"`

	Duration time.Duration `json:"duration_ns,omitempty"`

	Write     *WriteResult     `json:"write,omitempty"`
	Configure *ConfigureResult `json:"configure,omitempty"`
}

// WriteResult is what a finished write did. FetchedBytes are compressed bytes
// over the wire; the others count bytes of the raw image.
type WriteResult struct {
	Bytes        int64 `json:"bytes"`
	FetchedBytes int64 `json:"fetched_bytes"`
	WrittenBytes int64 `json:"written_bytes"`       // handed to the disk as data
	ProvedBytes  int64 `json:"proved_bytes"`        // in chunks found right on the disk
	ZeroBytes    int64 `json:"zero_bytes"`          // in chunks of zeroes only
	Refetches    int   `json:"refetches,omitempty"` // chunks that arrived wrong
	Retries      int   `json:"retries,omitempty"`   // requests that were cut off or not answered
}

// ConfigureResult is what the machine now is.
type ConfigureResult struct {
	HostKey      string `json:"host_key"` // authorized_keys form
	MachineID    string `json:"machine_id"`
	DiskGUID     string `json:"disk_guid"`
	RootPartUUID string `json:"root_partuuid"`
	// BootEntry is the firmware's boot entry, such as "Boot0003"; empty where
	// none was set, and then BootEntryNote says why.
	BootEntry     string `json:"boot_entry,omitempty"`
	BootEntryNote string `json:"boot_entry_note,omitempty"`
}

// Failure is an error with a code that the controller can branch on.
type Failure struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
}

// Error implements error.
func (f *Failure) Error() string { return f.Message }

// Code classifies a Failure.
type Code string

// Codes of failures.
const (
	CodeDiskMissing   Code = "disk_missing"   // no disk of that identity
	CodeDiskAmbiguous Code = "disk_ambiguous" // several disks of that identity
	CodeDiskSize      Code = "disk_size"      // the disk's size is not the planned one, or too small for the image
	CodeSignature     Code = "disk_signature" // the disk carries something that nobody consented to lose
	CodeSectorSize    Code = "sector_size"    // the image is made for another logical block size
	CodeArchitecture  Code = "architecture"   // the image is made for another processor or firmware
	CodeManifest      Code = "manifest"       // the manifest is not the one that was named
	CodeFetch         Code = "fetch"          // bytes could not be had in time
	CodeCorrupt       Code = "corrupt"        // bytes kept arriving with a wrong digest
	CodeDisk          Code = "disk_io"        // reading or writing the disk failed
	CodeImageContract Code = "image_contract" // the image does not say how to be configured
	CodeStale         Code = "stale"          // an older attempt or fence than already seen
	CodeInvalid       Code = "invalid_task"   // the task makes no sense
	CodeCancelled     Code = "cancelled"      // stopped by order or by a newer attempt
	CodeInternal      Code = "internal"       // anything else
)

// LogRequest carries lines of the agent's log.
type LogRequest struct {
	Lines []LogLine `json:"lines"`
}

// LogLine is one line of the agent's log. Time is the machine's own clock,
// which may be wrong; the controller records when it arrived.
type LogLine struct {
	Level   string            `json:"level"` // slog's: DEBUG, INFO, WARN, ERROR
	Message string            `json:"message"`
	Attrs   map[string]string `json:"attrs,omitempty"`
}

// Refusal is the body of every answer that is not 200.
type Refusal struct {
	Reason RefusalReason `json:"reason"`
	Detail string        `json:"detail"`
}

// RefusalReason says what the agent should do about a Refusal.
type RefusalReason string

// Reasons. Superseded, Token and Version end the agent's boot: it reboots after
// a bounded wait. The others are retried.
const (
	RefusalToken      RefusalReason = "token"      // unknown, used or expired
	RefusalSession    RefusalReason = "session"    // unknown session
	RefusalSuperseded RefusalReason = "superseded" // a newer boot of this machine has a session
	RefusalVersion    RefusalReason = "version"    // another protocol version
	RefusalInvalid    RefusalReason = "invalid"    // the request makes no sense; not to be repeated
	RefusalBusy       RefusalReason = "busy"       // not now; retry
)
