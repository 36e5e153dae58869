package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Move gives what the catalog knows under the old address of each moved block
// to the new one: the machine, what was applied, and how far its installation
// came. A block whose old address is unknown has been carried out before.
func Move(ctx context.Context, s *site.Site, catalog *store.Store, keys Sealer) error {
	for _, m := range s.Moved {
		var err error
		if s.StepByAddress(m.To) != nil {
			err = moveStep(ctx, s.Name, m, catalog, keys)
		} else {
			err = moveMachine(ctx, s.Name, m, catalog)
		}
		if err != nil {
			return fmt.Errorf("moving %s to %s (%s): %w", m.From, m.To, m.DeclRange, err)
		}
	}
	return nil
}

// moveStep seals the step's inputs and outputs under its new name, so that an action that
// ran is not run again because it was renamed.
func moveStep(ctx context.Context, siteName string, m site.Moved, catalog *store.Store, keys Sealer) error {
	a, err := catalog.Applied(ctx, siteName, m.From)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, sealed := range []struct {
		value *[]byte
		name  func(string) string
	}{{&a.Outputs, sealName}, {&a.Inputs, inputsName}, {&a.Attempt, inputsName}} {
		if len(*sealed.value) == 0 {
			continue
		}
		plain, err := keys.Unseal(sealed.name(m.From), *sealed.value)
		if err != nil {
			return err
		}
		if *sealed.value, err = keys.Seal(sealed.name(m.To), plain); err != nil {
			return err
		}
	}
	a.Address = m.To
	if err := catalog.PutApplied(ctx, a); err != nil {
		return err
	}
	return catalog.DeleteApplied(ctx, siteName, m.From)
}

// moveMachine is repeatable at every point: the applied record, by which plan
// tells what is installed, goes last.
func moveMachine(ctx context.Context, siteName string, m site.Moved, catalog *store.Store) error {
	if _, err := catalog.Applied(ctx, siteName, m.From); errors.Is(err, fs.ErrNotExist) {
		return moveRow(ctx, siteName, m, catalog)
	} else if err != nil {
		return err
	}
	row, err := catalog.MachineByAddress(ctx, siteName, m.From)
	switch {
	case errors.Is(err, fs.ErrNotExist): // bound already
	case err != nil:
		return err
	default:
		if _, err := catalog.Bind(ctx, siteName, m.To, row.ID); err != nil {
			return err
		}
	}
	last, err := loadInstallation(ctx, catalog.Settings(), siteName, m.From)
	if err != nil {
		return err
	}
	if last != nil {
		if err := last.save(ctx, catalog.Settings(), siteName, m.To); err != nil {
			return err
		}
	}
	return catalog.MoveApplied(ctx, siteName, m.From, m.To)
}

// moveRow renames a machine that was never installed: one that is adopted, or
// only known.
func moveRow(ctx context.Context, siteName string, m site.Moved, catalog *store.Store) error {
	row, err := catalog.MachineByAddress(ctx, siteName, m.From)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = catalog.MachineByAddress(ctx, siteName, m.To)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = catalog.Bind(ctx, siteName, m.To, row.ID)
	}
	return err
}
