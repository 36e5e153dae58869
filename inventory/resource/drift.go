package resource

import (
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/drift"
)

// Drift is how the hardware of a machine stands against its snapshot.
type Drift struct {
	Machine uuid.UUID `json:"machine"`
	// State is absent while there is no snapshot.
	State inventory.DriftState `json:"state,omitempty"`
	// Digest names the difference; acceptance names it back.
	Digest string `json:"digest,omitempty"`
	// Since is when the difference was first told.
	Since *time.Time `json:"since,omitempty"`
	// LookedAt is when edge-agent last looked at the machine; absent: never. What
	// was not looked at for long can have changed since.
	LookedAt *time.Time `json:"looked_at,omitempty"`
	// Snapshot is what is compared with.
	Snapshot *Snapshot `json:"snapshot,omitempty"`
	// Changes is what differs, by path.
	Changes []DriftChange `json:"changes"`
	// History are all snapshots, the newest first.
	History []Snapshot `json:"history,omitempty"`
}

// DriftChange is one thing that differs.
type DriftChange struct {
	inventory.Change
	// Text says it in words.
	Text string `json:"text"`
}

// Snapshot is the hardware of a machine as it was frozen, without its facts.
type Snapshot struct {
	Number  int       `json:"number"`
	Digest  string    `json:"digest"`
	TakenAt time.Time `json:"taken_at"`
	// Run is the run that commissioned the machine.
	Run string `json:"run,omitempty"`
	// AcceptedBy is who accepted the difference from the one before.
	AcceptedBy string `json:"accepted_by,omitempty"`
	// Forged says that it is not one that this catalog signed.
	Forged bool `json:"forged,omitempty"`
}

// AcceptDrift accepts the hardware as it is now.
type AcceptDrift struct {
	// Digest is that of the difference that is accepted; empty where there is no
	// snapshot, or a forged one.
	Digest string `json:"digest"`
}

// DriftOf is a report as the API sends it, without history.
func DriftOf(machine uuid.UUID, r drift.Report) Drift {
	out := Drift{Machine: machine, State: r.State, Digest: r.Digest, Since: momentOf(r.Since), LookedAt: momentOf(r.LookedAt), Changes: []DriftChange{}}
	if r.Snapshot != nil {
		s := SnapshotOf(*r.Snapshot, r.State == inventory.DriftForged)
		out.Snapshot = &s
	}
	for _, c := range r.Changes {
		out.Changes = append(out.Changes, DriftChange{Change: c, Text: drift.Describe(c)})
	}
	return out
}

// SnapshotOf is a snapshot as the API sends it.
func SnapshotOf(s drift.Snapshot, forged bool) Snapshot {
	return Snapshot{Number: s.Number, Digest: s.Digest, TakenAt: s.TakenAt, Run: s.Run, AcceptedBy: s.AcceptedBy, Forged: forged}
}

func momentOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
