package store

import (
	"context"

	"entgo.io/ent/dialect"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/inventory"
)

// advisoryEvents orders PostgreSQL's writers of events.
const advisoryEvents int64 = 0x65_70_65_76

// orderEvents makes the ids of events follow the order of commits: a reader that
// has seen an id never finds a smaller one later. PostgreSQL takes numbers from
// the sequence when a row is inserted, so of two transactions the one with the
// smaller number could commit last. Under the lock, which is given back after
// the commit can be seen, they take their numbers one after the other. SQLite's
// transactions exclude each other already.
//
// Call it before the first insertion, and as late as possible: whatever follows
// in the transaction keeps other writers waiting.
func (s *Store) orderEvents(ctx context.Context, tx *ent.Tx) error {
	if s.dialect != dialect.Postgres {
		return nil
	}
	_, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", advisoryEvents)
	return err
}

// changed writes, in the transaction that changes them, that machines have
// changed: whoever follows the events misses no change, whatever is killed when.
// what names the parts (state, facts, address, image, host_key, identity, tags).
// Call it last in the transaction; see orderEvents.
func (s *Store) changed(ctx context.Context, tx *ent.Tx, what string, ids ...uuid.UUID) error {
	if len(ids) == 0 {
		return nil
	}
	rows, err := tx.Machine.Query().Where(machine.IDIn(ids...)).Select(machine.FieldID, machine.FieldSite).All(ctx)
	if err != nil {
		return err
	}
	if err := s.orderEvents(ctx, tx); err != nil {
		return err
	}
	events := make([]*ent.EventCreate, len(rows))
	for i, r := range rows {
		events[i] = tx.Event.Create().SetTime(s.now()).SetKind(string(inventory.EventMachineChanged)).
			SetSite(r.Site).SetMachineID(r.ID).SetAttrs(map[string]string{"what": what})
	}
	return tx.Event.CreateBulk(events...).Exec(ctx)
}

// removed writes that a machine has left the catalog; like changed.
func (s *Store) removed(ctx context.Context, tx *ent.Tx, site string, id uuid.UUID) error {
	if err := s.orderEvents(ctx, tx); err != nil {
		return err
	}
	return tx.Event.Create().SetTime(s.now()).SetKind(string(inventory.EventMachineRemoved)).
		SetSite(site).SetMachineID(id).Exec(ctx)
}
