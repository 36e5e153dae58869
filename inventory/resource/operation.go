package resource

import (
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Operation is work that an action started and that goes on after the answer.
type Operation struct {
	ID uuid.UUID `json:"id"`
	// Kind is the action: power, reprovision, cancel or accept-drift.
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

// ReprovisionRequest asks for a machine to be installed anew.
type ReprovisionRequest struct {
	// Serial is the machine's serial, or its SMBIOS UUID where it has none, as
	// consent to the erasure of its disk.
	Serial string `json:"serial"`
}

// PowerRequest asks for a change of a machine's power.
type PowerRequest struct {
	// Action is on, off, soft, cycle or reset.
	Action string `json:"action"`
	// Force has it done also while a run works on the machine, whose disk may be
	// half written.
	Force bool `json:"force,omitempty"`
}

// Subject names a machine and what is asked of it, for the audit: "ID cycle,
// forced".
func (r PowerRequest) Subject(machine string) string {
	out := machine + " " + r.Action
	if r.Force {
		out += ", forced"
	}
	return out
}

// NewWebhook asks to be told of events.
type NewWebhook struct {
	// URL is where they are sent by POST; https, or http.
	URL string `json:"url"`
	// Kinds are the kinds of events; none: all but machine.changed and
	// machine.removed.
	Kinds []inventory.EventKind `json:"kinds,omitempty"`
}

// Webhook is somebody who is told of events.
type Webhook struct {
	ID uuid.UUID `json:"id"`
	// URL is where they are sent, with … for its path and query: who knows them can
	// send as well.
	URL       string                `json:"url"`
	Kinds     []inventory.EventKind `json:"kinds,omitempty"`
	CreatedAt time.Time             `json:"created_at"`
	CreatedBy string                `json:"created_by,omitempty"`
	// Delivered is the id of the last event that the target has acknowledged, or is
	// not told of.
	Delivered int64 `json:"delivered"`
	// Failures counts the failed deliveries since, LastError is the newest's.
	Failures  int        `json:"failures"`
	LastError string     `json:"last_error,omitempty"`
	NextTryAt *time.Time `json:"next_try_at,omitempty"`
}

// CreatedWebhook is a new webhook with its secret, which is shown this once.
type CreatedWebhook struct {
	Webhook
	// Secret is the key of the signatures: "whsec_" and base64.
	Secret string `json:"secret"`
}

// Delivery is what a webhook's target gets.
type Delivery struct {
	Webhook uuid.UUID `json:"webhook"`
	// Catalog is the id of the catalog that the events' ids belong to.
	Catalog uuid.UUID `json:"catalog"`
	// Reset says that events before these may have been removed by retention before
	// they could be delivered.
	Reset  bool              `json:"reset,omitempty"`
	Events []inventory.Event `json:"events"`
}
