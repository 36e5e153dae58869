package workflows

import (
	"fmt"

	"github.com/edge-provision/edge-provision/inventory"
)

// transitions is the whole life of a machine: for each state the states that
// may follow it. docs/architecture.md prints this table and a test walks every
// pair.
var transitions = map[inventory.State][]inventory.State{
	// A declared machine is first seen when it boots the installer.
	inventory.StateDeclared: {inventory.StateInspecting},
	// A discovered machine may be declared later, or be inspected as it is.
	inventory.StateDiscovered: {inventory.StateDeclared, inventory.StateInspecting},
	// Inspection ends in the installer's waiting room, or not at all.
	inventory.StateInspecting: {inventory.StateHeld, inventory.StateFailed},
	// Held machines are installed, inspected again after a power cut, or let
	// go when the person says no.
	inventory.StateHeld: {
		inventory.StateInstalling, inventory.StateInspecting, inventory.StateDiscovered, inventory.StateDeclared,
		inventory.StateInstalled, inventory.StateFailed,
	},
	// A write ends well, ends badly, or is cut off and its machine comes back.
	inventory.StateInstalling: {inventory.StateInstalled, inventory.StateFailed, inventory.StateInspecting},
	// Only an approved replacement leads out of installed, or destroy.
	inventory.StateInstalled: {inventory.StateInspecting, inventory.StateDeclared},
	// The next run tries again; a fence may find the write still going.
	inventory.StateFailed: {inventory.StateInspecting, inventory.StateInstalling, inventory.StateDeclared},
}

// Transition returns to when a machine in state from may enter it. Staying
// where it is is always allowed, so that a resumed run can repeat itself.
func Transition(from, to inventory.State) (inventory.State, error) {
	if from == to {
		return to, nil
	}
	for _, s := range transitions[from] {
		if s == to {
			return to, nil
		}
	}
	return from, fmt.Errorf("a machine that is %s cannot become %s", from, to)
}
