package store

import (
	"context"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/inventory"
)

// Adopt makes sure that there is a machine at an address of site.hcl that is
// reached there and may have no MAC that is known: the one that is bound to the
// address, or a new one in state declared. With MACs it is Declare.
func (s *Store) Adopt(ctx context.Context, site, address string, macs ...inventory.MAC) (inventory.Machine, error) {
	if len(macs) > 0 {
		return s.Declare(ctx, site, address, macs...)
	}
	var id uuid.UUID
	err := s.write(ctx, "adopting "+address, func(tx *ent.Tx) error {
		if err := s.lockIdentities(ctx, tx); err != nil {
			return err
		}
		row, err := tx.Machine.Query().Where(machine.Site(site), machine.Address(address)).Only(ctx)
		if err == nil {
			id = row.ID
			return nil
		}
		if !ent.IsNotFound(err) {
			return err
		}
		if id, err = s.newMachine(ctx, tx, site, inventory.StateDeclared); err != nil {
			return err
		}
		touched, err := bind(ctx, tx, site, address, id)
		if err != nil {
			return err
		}
		return s.changed(ctx, tx, "declared", touched...)
	})
	if err != nil {
		return inventory.Machine{}, err
	}
	return s.Machine(ctx, id)
}
