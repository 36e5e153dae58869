package inventory

import (
	"time"

	"github.com/google/uuid"
)

// Reaction is work that starts because a machine is in a class. There is one for
// each machine, class and definition of the class, and it is kept before the
// work starts.
type Reaction struct {
	ID      int64     `json:"id"` // ascends in the order of arrival
	Site    string    `json:"site"`
	Machine uuid.UUID `json:"machine"`
	Class   string    `json:"class"`
	// Digest names the class's rule and what it starts.
	Digest string        `json:"digest"`
	State  ReactionState `json:"state"`
	// Address is what the machine was in site.hcl when the work started.
	Address string `json:"address,omitempty"`
	// Reason says why it waits, or how it ended.
	Reason string `json:"reason,omitempty"`
	// Attempts counts how often its work began, and not how often it waited: more
	// than once after the controller was killed.
	Attempts   int       `json:"attempts"`
	QueuedAt   time.Time `json:"queued_at"`
	StartedAt  time.Time `json:"started_at,omitzero"` // of the newest attempt
	FinishedAt time.Time `json:"finished_at,omitzero"`
}

// ReactionState is how far a reaction has come.
type ReactionState string

// States of a reaction. The last four are final.
const (
	ReactionQueued  ReactionState = "queued"  // waits for its turn, or for what Reason says
	ReactionStarted ReactionState = "started" // under way, or cut off with its controller
	ReactionDone    ReactionState = "done"
	ReactionFailed  ReactionState = "failed"
	ReactionRefused ReactionState = "refused" // it would do what only a person may start
	ReactionDropped ReactionState = "dropped" // before it started the machine left the class, or the class changed
)

// ReactionStates are all states, in the order in which they come.
func ReactionStates() []ReactionState {
	return []ReactionState{ReactionQueued, ReactionStarted, ReactionDone, ReactionFailed, ReactionRefused, ReactionDropped}
}

// Final reports whether nothing comes after the state.
func (s ReactionState) Final() bool { return s != ReactionQueued && s != ReactionStarted }
