package resource

import (
	"time"

	"github.com/google/uuid"
)

// Operation is work that an action started and that goes on after the answer.
type Operation struct {
	ID uuid.UUID `json:"id"`
	// Kind is the action, such as "power".
	Kind    string    `json:"kind"`
	Machine uuid.UUID `json:"machine,omitzero"`
	Site    string    `json:"site,omitempty"`
	// Actor is the id of the token that asked for it.
	Actor string `json:"actor"`
	// State is running, succeeded, failed, or interrupted (the controller ended
	// before it did; whether it was done is not known).
	State string `json:"state"`
	// Result is one sentence about what came of it.
	Result     string     `json:"result,omitempty"`
	Error      string     `json:"error,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
}

// States of an operation.
const (
	OperationRunning     = "running"
	OperationSucceeded   = "succeeded"
	OperationFailed      = "failed"
	OperationInterrupted = "interrupted"
)

// PowerRequest asks for a change of a machine's power.
type PowerRequest struct {
	// Action is on, off, soft, cycle or reset.
	Action string `json:"action"`
}
