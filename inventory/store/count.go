package store

import (
	"context"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/inventory"
)

// StateCount is how many machines of a site are in a state.
type StateCount struct {
	Site     string          `json:"site"`
	State    inventory.State `json:"state"`
	Machines int             `json:"count"`
}

// CountStates counts the machines by site and state. A state that no machine is
// in has no entry.
func (s *Store) CountStates(ctx context.Context) ([]StateCount, error) {
	var out []StateCount
	err := s.main.client.Machine.Query().GroupBy(machine.FieldSite, machine.FieldState).Aggregate(ent.Count()).Scan(ctx, &out)
	return out, s.explain("counting machines", err)
}

// Counts is how many machines there are, by what they are in. What no machine is in
// has no entry.
type Counts struct {
	States map[inventory.State]int
	// Drift has no entry for machines without a snapshot.
	Drift map[inventory.DriftState]int
}

// Count counts the machines of all sites. Each of the two reads one index and no
// machine.
func (s *Store) Count(ctx context.Context) (Counts, error) {
	var states []struct {
		State    inventory.State `json:"state"`
		Machines int             `json:"count"`
	}
	err := s.main.client.Machine.Query().GroupBy(machine.FieldState).Aggregate(ent.Count()).Scan(ctx, &states)
	if err != nil {
		return Counts{}, s.explain("counting machines by state", err)
	}
	var drift []struct {
		Drift    inventory.DriftState `json:"drift"`
		Machines int                  `json:"count"`
	}
	err = s.main.client.Machine.Query().Where(machine.DriftNotNil()).GroupBy(machine.FieldDrift).Aggregate(ent.Count()).Scan(ctx, &drift)
	if err != nil {
		return Counts{}, s.explain("counting machines by drift", err)
	}
	out := Counts{States: map[inventory.State]int{}, Drift: map[inventory.DriftState]int{}}
	for _, n := range states {
		out.States[n.State] = n.Machines
	}
	for _, n := range drift {
		out.Drift[n.Drift] = n.Machines
	}
	return out, nil
}
