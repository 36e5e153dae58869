package inventory

import (
	"time"

	"github.com/google/uuid"
)

// Event is one thing that happened to a machine. Events are joined to a
// machine by MAC, because the first of them come before anything else is known.
type Event struct {
	// ID orders events by commit; zero until the catalog assigned it.
	ID   int64     `json:"id"`
	Time time.Time `json:"time"`
	Site string    `json:"site,omitempty"`
	// MAC is the Ethernet address that the event is about; zero for an
	// event of the run as a whole.
	MAC MAC `json:"mac,omitzero"`
	// Machine is the catalog's machine, zero while it is unknown.
	Machine uuid.UUID `json:"machine,omitzero"`
	Kind    EventKind `json:"kind"`
	// Run and Step (an address) are set for what a run did.
	Run  string `json:"run,omitempty"`
	Step string `json:"step,omitempty"`
	// Boot identifies one boot of the installer.
	Boot string `json:"boot,omitempty"`
	// Message is one sentence for a person, without secrets.
	Message string `json:"message,omitempty"`
	// Attrs are the event's details; keys are listed at each kind.
	Attrs map[string]string `json:"attrs,omitempty"`
}

// EventKind names what happened.
type EventKind string

// Kinds of events, with the Attrs they carry. Sizes are in bytes, durations in
// Go's time.Duration form.
const (
	// DHCP: xid, arch (number of RFC 4578), vendor_class, user_class,
	// firmware (bios|uefi|httpboot|ipxe|ours|agent|os), address, server (dotted quads).
	EventDHCPDiscover EventKind = "dhcp.discover"
	EventDHCPOffer    EventKind = "dhcp.offer" // also boot_file, next_server
	EventDHCPRequest  EventKind = "dhcp.request"
	EventDHCPAck      EventKind = "dhcp.ack"     // also boot_file, next_server
	EventDHCPNak      EventKind = "dhcp.nak"     // also reason; sent=false when nothing could be given and no NAK was sent
	EventDHCPDecline  EventKind = "dhcp.decline" // by=arp when an ARP probe found the address in use, not a client
	EventDHCPRelease  EventKind = "dhcp.release"
	EventDHCPInform   EventKind = "dhcp.inform"
	// EventDHCPForeign: another DHCP server answered or was chosen; server,
	// expected=true in proxy mode.
	EventDHCPForeign EventKind = "dhcp.foreign"
	// EventBootLoop: a machine loaded the boot program again without having
	// asked for its script in between; file, count.
	EventBootLoop EventKind = "boot.loop"
	// EventDHCPIgnored: a client that this site does not admit; reason.
	EventDHCPIgnored EventKind = "dhcp.ignored"

	// TFTP: file, client; at the end also bytes, size, duration; error;
	// size_only=true when the client asked for the size alone.
	EventTFTPStart EventKind = "tftp.start"
	EventTFTPEnd   EventKind = "tftp.end"
	EventTFTPError EventKind = "tftp.error"

	// HTTP: path, client, asset (script|kernel|initramfs|bootfile|image);
	// at the end also status, bytes, size, duration.
	EventHTTPStart EventKind = "http.start"
	EventHTTPEnd   EventKind = "http.end"

	// BMC: driver, address; power also action and state; boot also device,
	// efi, once; media also action (inserted|ejected), image (a URL) and
	// ejected (what was in the drives before, "a, b").
	EventBMCPower       EventKind = "bmc.power"
	EventBMCBoot        EventKind = "bmc.boot"
	EventBMCMedia       EventKind = "bmc.media"
	EventBMCRefused     EventKind = "bmc.refused"     // credential refused; error
	EventBMCUnreachable EventKind = "bmc.unreachable" // error
	EventBMCError       EventKind = "bmc.error"       // error

	// Agent: boot is the Event's Boot. session: address, version; task and
	// result: task, kind, attempt; result also outcome (ok|failed) and
	// error; progress: task, phase, bytes, total.
	EventAgentSession  EventKind = "agent.session"
	EventAgentRefused  EventKind = "agent.refused" // reason
	EventAgentFacts    EventKind = "agent.facts"   // digest, changed
	EventAgentTask     EventKind = "agent.task"
	EventAgentProgress EventKind = "agent.progress"
	EventAgentResult   EventKind = "agent.result"
	EventAgentLog      EventKind = "agent.log"

	// EventSSHUp: the installed system answered over SSH as itself; duration
	// since it was last known to be in the installer or off.
	EventSSHUp EventKind = "ssh.up"

	// Steps: attempt; finished also outcome (ok|failed|blocked|skipped|
	// cancelled), error, duration.
	EventStepStarted  EventKind = "step.started"
	EventStepFinished EventKind = "step.finished"

	// Runs: finished also outcome.
	EventRunStarted  EventKind = "run.started"
	EventRunFinished EventKind = "run.finished"

	// EventMachineState: from, to.
	EventMachineState EventKind = "machine.state"
	// EventMachineChanged: what the catalog knows of the machine changed; what
	// (parts, comma-separated). Unlike all others it is written in the
	// transaction of the change, so none is ever lost.
	EventMachineChanged EventKind = "machine.changed"
	// EventMachineRemoved: the catalog forgot the machine; written like
	// EventMachineChanged.
	EventMachineRemoved EventKind = "machine.removed"
	// EventFactsDisagree: sources report a fact differently, and did not before,
	// or not so; path (of the fact), and for each source what it says.
	EventFactsDisagree EventKind = "facts.disagree"
	// EventMachineTags: set.KEY is the new value of each tag that was set;
	// removed is the list of the keys that were removed, "a, b".
	EventMachineTags EventKind = "machine.tags"
	// EventMachineClass: the machine entered a class, or left it; class, change
	// (entered|left). Written like EventMachineChanged.
	EventMachineClass EventKind = "machine.class"
	// EventMachineReaction: what a class starts for the machine; reaction (its id),
	// class, state (a ReactionState), address (in site.hcl), reason. Written like
	// EventMachineChanged.
	EventMachineReaction EventKind = "machine.reaction"
	// EventMachineDrift: the hardware differs from the machine's snapshot, and did
	// not before, or not so; state (a DriftState), count, changes (the first of
	// them, "a; b"), digest (of the difference). EventMachineDriftEnd: it does not
	// differ any more; how (repaired|accepted), by. Both are written like
	// EventMachineChanged.
	EventMachineDrift    EventKind = "machine.drift"
	EventMachineDriftEnd EventKind = "machine.drift.end"
	// EventIdentityConflict: what was seen points at two machines; a, b,
	// by (mac|serial|uuid).
	EventIdentityConflict EventKind = "identity.conflict"
	// EventHostFirewall: traffic of the provisioning network is blocked by
	// this host's own packet filter; port, rule.
	EventHostFirewall EventKind = "host.firewall"
	// EventDiskNoMatch: root_disk matched no disk, or several; matched, of.
	EventDiskNoMatch EventKind = "disk.nomatch"
)

// EventKinds are all kinds, in the order of their constants.
func EventKinds() []EventKind {
	return []EventKind{
		EventDHCPDiscover, EventDHCPOffer, EventDHCPRequest, EventDHCPAck, EventDHCPNak, EventDHCPDecline,
		EventDHCPRelease, EventDHCPInform, EventDHCPForeign, EventBootLoop, EventDHCPIgnored,
		EventTFTPStart, EventTFTPEnd, EventTFTPError,
		EventHTTPStart, EventHTTPEnd,
		EventBMCPower, EventBMCBoot, EventBMCMedia, EventBMCRefused, EventBMCUnreachable, EventBMCError,
		EventAgentSession, EventAgentRefused, EventAgentFacts, EventAgentTask, EventAgentProgress, EventAgentResult,
		EventAgentLog,
		EventSSHUp,
		EventStepStarted, EventStepFinished,
		EventRunStarted, EventRunFinished,
		EventMachineState, EventMachineChanged, EventMachineRemoved, EventFactsDisagree, EventMachineTags,
		EventMachineClass, EventMachineReaction, EventMachineDrift, EventMachineDriftEnd,
		EventIdentityConflict, EventHostFirewall, EventDiskNoMatch,
	}
}
