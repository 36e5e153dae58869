// Package inventory is the shared vocabulary of edge-provision: machines, the
// facts observed of them, the leases they hold and the events that happened to
// them. It is a leaf: it imports the standard library and uuid only, so that
// every other package, edge-agent included, can name a machine without pulling
// in a database, a DHCP library or HCL.
//
// What a site wants (workflows/site) never shares a struct with what was seen
// (this package), nor with what was decided (workflows).
package inventory

import (
	"time"

	"github.com/google/uuid"
)

// Machine is one physical computer as the catalog knows it.
type Machine struct {
	// ID is the catalog's own identity (UUIDv7), never taken from hardware.
	ID uuid.UUID `json:"id"`
	// Site is the name of the site that the machine belongs to.
	Site string `json:"site"`
	// Address is the machine's address in site.hcl, such as
	// machine.node["a"]; empty for a machine that was only discovered.
	Address string `json:"address,omitempty"`
	// MACs are all Ethernet addresses the machine was ever seen with,
	// sorted. Any of them finds the machine.
	MACs []MAC `json:"macs"`
	// SMBIOSUUID is the system UUID of SMBIOS type 1 in RFC 9562 text order,
	// or the zero UUID when it is absent or known junk.
	SMBIOSUUID uuid.UUID `json:"smbios_uuid,omitzero"`
	// Serial is the SMBIOS system serial, empty when absent or known junk.
	Serial string `json:"serial,omitempty"`
	// State says where the machine stands between bare metal and node.
	State State `json:"state"`
	// Image is the digest of the image whose write was last journaled as
	// finished, "sha256:" and hex; empty before the first.
	Image string `json:"image,omitempty"`
	// HostKey is the SSH host key that was made on the machine and reported
	// by the agent, in authorized_keys form.
	HostKey string `json:"host_key,omitempty"`
	// Tags are what people wrote on the machine, by key; nil when nothing.
	Tags map[string]string `json:"tags,omitempty"`
	// Classes are the names of the site's classes that the machine was last
	// found to be in, sorted; nil when it is in none.
	Classes []string `json:"classes,omitempty"`
	// FirstSeen and LastSeen bound all observations of the machine.
	FirstSeen time.Time `json:"first_seen"`
	LastSeen  time.Time `json:"last_seen"`
	// Drift says how the hardware stands against its snapshot, as of LookedAt;
	// empty while there is no snapshot.
	Drift DriftState `json:"drift,omitempty"`
	// DriftDigest names the present difference; empty without one.
	DriftDigest string `json:"drift_digest,omitempty"`
	// DriftSince is when the present difference was first told; zero without one.
	DriftSince time.Time `json:"drift_since,omitzero"`
	// LookedAt is when a program last looked at the hardware; zero: never. A
	// machine that was not looked at for long is not one without drift.
	LookedAt time.Time `json:"looked_at,omitzero"`
}

// DriftState is how a machine's hardware stands against its snapshot.
type DriftState string

// States of drift.
const (
	DriftNone    DriftState = "none"    // as in the snapshot
	DriftChanged DriftState = "changed" // something that counts is different
	DriftForged  DriftState = "forged"  // the snapshot is not one that this catalog signed
)

// State is where a machine stands. The allowed transitions are one table in
// workflows/state.go.
type State string

// States of a machine.
const (
	StateDeclared   State = "declared"   // named in site.hcl, never seen
	StateDiscovered State = "discovered" // seen on the wire, not declared
	StateInspecting State = "inspecting" // booted into the installer, facts coming
	StateHeld       State = "held"       // in the installer, facts known, waiting for a decision
	StateInstalling State = "installing" // an image is being written
	StateInstalled  State = "installed"  // write journaled as finished; any netboot gets local boot
	StateFailed     State = "failed"     // the last attempt ended in an error
)

// Lease is an address given to a MAC on a network. It is keyed by network and
// MAC; the client identifier is kept for the record only.
type Lease struct {
	Network  string    `json:"network"`
	MAC      MAC       `json:"mac"`
	Address  string    `json:"address"` // dotted quad
	ClientID string    `json:"client_id,omitempty"`
	Hostname string    `json:"hostname,omitempty"`
	Starts   time.Time `json:"starts"`
	Expires  time.Time `json:"expires"`
	// State is active, released or declined; a declined address is
	// quarantined until Expires.
	State LeaseState `json:"state"`
}

// LeaseState is the state of a lease (RFC 2131 section 4.4).
type LeaseState string

// States of a lease.
const (
	LeaseActive   LeaseState = "active"
	LeaseReleased LeaseState = "released"
	LeaseDeclined LeaseState = "declined"
)
