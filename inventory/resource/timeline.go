package resource

import (
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory/timeline"
)

// MachineTimeline is what happened to a machine, attempt by attempt.
type MachineTimeline struct {
	Machine uuid.UUID `json:"machine"`
	timeline.Timeline
	// Earlier is how many attempts came before those that are sent.
	Earlier int `json:"earlier_attempts"`
	// Findings say where the machine stands in its latest attempt. They rest on
	// events alone: `edge-provision why` asks site.hcl too.
	Findings []timeline.Finding `json:"findings"`
}
