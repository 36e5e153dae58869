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
