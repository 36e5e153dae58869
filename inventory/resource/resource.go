// Package resource is what the HTTP API sends and takes: the JSON forms that
// inventory/api writes and inventory/client reads. It is a leaf beside
// inventory, so that a client needs no database.
//
// Fields may be added within /v1; ignore what you do not know. A field that has
// no value is left out: absent is not zero.
package resource

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Page is one page of a list.
type Page[T any] struct {
	// Items are the resources, in the order that was asked for.
	Items []T `json:"items"`
	// Next is the cursor of the next page; absent on the last.
	Next string `json:"next,omitempty"`
	// Examined is how many rows of the catalog were looked at for this page;
	// absent where that is not counted.
	Examined int64 `json:"rows_examined,omitempty"`
	// Partial says that the budget of rows or time ended the page before it was
	// full; Next leads on.
	Partial bool `json:"partial,omitempty"`
}

// Machine is one machine, with its merged facts where they were asked for.
type Machine struct {
	inventory.Machine
	// Facts is the merged view over all sources; present only when fields
	// names it, or a part of it.
	Facts *inventory.Facts `json:"facts,omitempty"`
}

// TagChange writes tags on a machine and takes others off.
type TagChange struct {
	Set    map[string]string `json:"set,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// FactEdit changes what people wrote of a machine's facts.
type FactEdit struct {
	// Set are the facts to write, by path, such as system.serial: strings,
	// numbers in the unit of the fact, conditions, or whole lists.
	Set map[string]json.RawMessage `json:"set,omitempty"`
	// Remove are the paths of facts to take away, with all below them.
	Remove []string `json:"remove,omitempty"`
}

// MachineFacts are the current facts of a machine.
type MachineFacts struct {
	Machine uuid.UUID `json:"machine"`
	// Facts is the merged view over all sources.
	Facts inventory.Facts `json:"facts"`
	// Sources are the documents that it was merged from, by their source.
	Sources map[inventory.Source]inventory.Document `json:"sources"`
}

// MachineCounts is how many machines there are.
type MachineCounts struct {
	Machines int `json:"machines"`
	// States has those in each state; a state that none is in is absent.
	States map[inventory.State]int `json:"states"`
	// Drift has those in each state of drift; machines without a snapshot are in none.
	Drift map[inventory.DriftState]int `json:"drift"`
}

// Report is one entry of a machine's history: what a source saw, and what
// changed against its report before.
type Report struct {
	inventory.Document
	// Changes is absent in the first report of a source.
	Changes []inventory.Change `json:"changes,omitempty"`
}

// Image is a bootable disk in the controller's store.
type Image struct {
	// Digest is "sha256:" and hex over the image's canonical manifest.
	Digest       string    `json:"digest"`
	Name         string    `json:"name"`
	Architecture string    `json:"architecture,omitempty"`
	SpecDigest   string    `json:"spec_digest,omitempty"`
	RawBytes     int64     `json:"raw_bytes"`
	StoredBytes  int64     `json:"stored_bytes"`
	CreatedAt    time.Time `json:"created_at"`
}

// Run is one execution of a plan.
type Run struct {
	ID         uuid.UUID `json:"id"`
	Site       string    `json:"site"`
	Command    string    `json:"command,omitempty"` // apply or destroy
	PlanDigest string    `json:"plan_digest"`
	// State is "running", or how the run ended: ok, failed, stopped,
	// interrupted or superseded.
	State           string     `json:"state"`
	Error           string     `json:"error,omitempty"`
	StartedAt       time.Time  `json:"started_at"`
	FinishedAt      *time.Time `json:"finished_at,omitempty"`
	CancelRequested *time.Time `json:"cancel_requested_at,omitempty"`
	// Actions are what its plan does, in the plan's order; present only where
	// one run is shown, and absent for a run that an older program began.
	Actions []Action `json:"actions,omitempty"`
}

// Action is what a run's plan does about one address.
type Action struct {
	Address string `json:"address"`
	// Kind is install, run, none and so on (docs/architecture.md).
	Kind   string `json:"kind"`
	Reason string `json:"reason,omitempty"`
	// DependsOn are the addresses that come first.
	DependsOn []string `json:"depends_on,omitempty"`
}

// Step is one attempt at one address within a run.
type Step struct {
	Run     uuid.UUID `json:"run"`
	Address string    `json:"address"`
	// Attempt counts from 1; 0 is taking the others back.
	Attempt    int        `json:"attempt"`
	State      string     `json:"state"`
	Error      string     `json:"error,omitempty"`
	StartedAt  time.Time  `json:"started_at"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
}

// Removed says that a machine left a watch: it was forgotten, or the filter is
// not true for it any more.
type Removed struct {
	ID uuid.UUID `json:"id"`
}

// Reset says that a watch could not go on where its client had stopped. What
// follows is everything that there is now.
type Reset struct {
	// Reason is "retention" (older events were removed) or "unknown" (the
	// catalog has not come as far as the id that was given).
	Reason string `json:"reason"`
}

// Synced says that a watch has sent all that there was when it began.
type Synced struct {
	// Machines is how many were sent.
	Machines int `json:"machines"`
}

// Target is one group of Prometheus's HTTP service discovery.
type Target struct {
	Targets []string          `json:"targets"`
	Labels  map[string]string `json:"labels"`
}

// Health is the answer of the readiness check.
type Health struct {
	Status string `json:"status"` // "ok" or "unavailable"
	// Catalog says why the catalog cannot be asked.
	Catalog string `json:"catalog,omitempty"`
}

// Document is a JSON document whose shape another standard defines.
type Document = json.RawMessage
