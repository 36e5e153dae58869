package store

import (
	"context"
	"slices"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/membership"
	"github.com/edge-provision/edge-provision/inventory"
)

// SetClasses records which classes a machine is in. For each that it enters or
// leaves an event of kind machine.class is written in the same transaction, so
// that each change is told once, whoever finds it and whatever is killed when.
func (s *Store) SetClasses(ctx context.Context, id uuid.UUID, classes []string) (changed bool, err error) {
	err = s.write(ctx, "recording the classes of machine "+id.String(), func(tx *ent.Tx) error {
		m, err := s.locked(ctx, tx, id)
		if err != nil {
			return err
		}
		entered := without(classes, m.Classes)
		left := without(m.Classes, classes)
		if changed = len(entered)+len(left) > 0; !changed {
			return nil
		}
		if _, err := tx.Membership.Delete().Where(membership.MachineID(id), membership.ClassIn(left...)).Exec(ctx); err != nil {
			return err
		}
		err = tx.Membership.MapCreateBulk(entered, func(row *ent.MembershipCreate, i int) {
			row.SetMachineID(id).SetClass(entered[i]).SetEnteredAt(s.now())
		}).Exec(ctx)
		if err != nil {
			return err
		}
		if err := s.changed(ctx, tx, "classes", id); err != nil {
			return err
		}
		all := slices.Concat(left, entered)
		return tx.Event.MapCreateBulk(all, func(row *ent.EventCreate, i int) {
			change := "left"
			if i >= len(left) {
				change = "entered"
			}
			row.SetTime(s.now()).SetKind(string(inventory.EventMachineClass)).SetSite(m.Site).SetMachineID(id).
				SetAttrs(map[string]string{"class": all[i], "change": change})
		}).Exec(ctx)
	})
	return changed, err
}

// without are the members of a that b lacks, sorted, each once.
func without(a, b []string) []string {
	var out []string
	for _, x := range a {
		if !slices.Contains(b, x) {
			out = append(out, x)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
