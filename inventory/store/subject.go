package store

import (
	"context"
	"time"

	"entgo.io/ent/dialect/sql"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/factchange"
	"github.com/edge-provision/edge-provision/ent/lease"
	"github.com/edge-provision/edge-provision/ent/observation"
	"github.com/edge-provision/edge-provision/inventory"
)

// Subject returns a machine with everything that an expression may ask of it, or
// ErrNotFound.
func (s *Store) Subject(ctx context.Context, id uuid.UUID) (inventory.Subject, error) {
	m, err := s.Machine(ctx, id)
	if err != nil {
		return inventory.Subject{}, err
	}
	out := inventory.Subject{Machine: m}
	facts, err := s.FactsOf(ctx, id)
	if err != nil {
		return inventory.Subject{}, err
	}
	if f, ok := facts[id]; ok {
		out.Facts = &f
	}
	op := "reading what is known of machine " + id.String()
	owned := make([]string, len(m.MACs))
	for i, a := range m.MACs {
		owned[i] = a.String()
	}
	leases, err := s.main.client.Lease.Query().Where(lease.MACIn(owned...)).Order(ent.Asc(lease.FieldID)).All(ctx)
	if err == nil {
		out.Leases, err = leasesOf(leases)
	}
	if err != nil {
		return inventory.Subject{}, s.explain(op, err)
	}
	changes, err := s.main.client.FactChange.Query().Where(factchange.MachineID(id)).
		Order(ent.Asc(factchange.FieldAt, factchange.FieldID)).All(ctx)
	if err != nil {
		return inventory.Subject{}, s.explain(op, err)
	}
	for _, c := range changes {
		out.Changes = append(out.Changes, inventory.FactChange{Path: c.Path, At: c.At.UTC()})
	}
	return out, nil
}

// FactsOf returns the merged current facts of machines, in few statements for
// many. A machine that was never inspected has no entry.
func (s *Store) FactsOf(ctx context.Context, machines ...uuid.UUID) (map[uuid.UUID]inventory.Facts, error) {
	documents, err := s.documentsOf(ctx, machines)
	if err != nil {
		return nil, err
	}
	out := make(map[uuid.UUID]inventory.Facts, len(documents))
	for id, docs := range documents {
		out[id] = merge(docs)
	}
	return out, nil
}

// OwnFactsOf is FactsOf without what BMCs say; see inventory.OwnFacts.
func (s *Store) OwnFactsOf(ctx context.Context, machines ...uuid.UUID) (map[uuid.UUID]inventory.Facts, error) {
	documents, err := s.documentsOf(ctx, machines)
	if err != nil {
		return nil, err
	}
	out := make(map[uuid.UUID]inventory.Facts, len(documents))
	for id, docs := range documents {
		if own, known := inventory.OwnFacts(docs); known {
			out[id] = own
		}
	}
	return out, nil
}

// documentsOf reads what each source said of machines last.
func (s *Store) documentsOf(ctx context.Context, machines []uuid.UUID) (map[uuid.UUID]map[inventory.Source]inventory.Document, error) {
	documents := map[uuid.UUID]map[inventory.Source]inventory.Document{}
	err := inBatches(machines, func(part []uuid.UUID) error {
		rows, err := s.main.client.Observation.Query().Where(observation.MachineIDIn(part...), latestOnly).WithDocument().All(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			f, err := stored(r.Edges.Document)
			if err != nil {
				return err
			}
			if documents[r.MachineID] == nil {
				documents[r.MachineID] = map[inventory.Source]inventory.Document{}
			}
			documents[r.MachineID][inventory.Source(r.Source)] = documentOf(r, f)
		}
		return nil
	})
	return documents, s.explain("reading the facts of machines", err)
}

// latestOnly selects the newest observation of each machine and source.
func latestOnly(s *sql.Selector) {
	newer := sql.Table(observation.Table).As("newer")
	s.Where(sql.NotExists(sql.Select().From(newer).Where(sql.And(
		sql.ColumnsEQ(newer.C(observation.FieldMachineID), s.C(observation.FieldMachineID)),
		sql.ColumnsEQ(newer.C(observation.FieldSource), s.C(observation.FieldSource)),
		sql.ColumnsGT(newer.C(observation.FieldFirstSeen), s.C(observation.FieldFirstSeen)),
	))))
}

// insertChanges keeps which facts a source reports differently from a time on.
func insertChanges(ctx context.Context, tx *ent.Tx, id uuid.UUID, paths []string, at time.Time) error {
	return inBatches(paths, func(part []string) error {
		return tx.FactChange.MapCreateBulk(part, func(row *ent.FactChangeCreate, i int) {
			row.SetMachineID(id).SetPath(part[i]).SetAt(at)
		}).Exec(ctx)
	})
}

// rebuildChanges makes the changes of a machine anew from its documents.
func rebuildChanges(ctx context.Context, tx *ent.Tx, id uuid.UUID) error {
	if _, err := tx.FactChange.Delete().Where(factchange.MachineID(id)).Exec(ctx); err != nil {
		return err
	}
	rows, err := tx.Observation.Query().Where(observation.MachineID(id)).WithDocument().
		Order(ent.Asc(observation.FieldFirstSeen, observation.FieldID)).All(ctx)
	if err != nil {
		return err
	}
	last := map[string]inventory.Facts{}
	for _, r := range rows {
		f, err := stored(r.Edges.Document)
		if err != nil {
			return err
		}
		if before, ok := last[r.Source]; ok {
			if err := insertChanges(ctx, tx, id, inventory.ChangedPaths(before, f), r.FirstSeen); err != nil {
				return err
			}
		}
		last[r.Source] = f
	}
	return nil
}
