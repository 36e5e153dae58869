package store

import (
	"context"

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
	documents, err := documentsOf(ctx, s.main.client, machines)
	if err != nil {
		return nil, s.explain("reading the facts of machines", err)
	}
	out := make(map[uuid.UUID]inventory.Facts, len(documents))
	for id, docs := range documents {
		out[id] = merge(docs)
	}
	return out, nil
}

// OwnFactsOf is FactsOf without what BMCs say; see inventory.OwnFacts.
func (s *Store) OwnFactsOf(ctx context.Context, machines ...uuid.UUID) (map[uuid.UUID]inventory.Facts, error) {
	documents, err := documentsOf(ctx, s.main.client, machines)
	if err != nil {
		return nil, s.explain("reading the facts of machines", err)
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
func documentsOf(ctx context.Context, c *ent.Client, machines []uuid.UUID) (documents, error) {
	out := documents{}
	err := inBatches(machines, func(part []uuid.UUID) error {
		rows, err := c.Observation.Query().Where(observation.MachineIDIn(part...), latestOnly).WithDocument().All(ctx)
		if err != nil {
			return err
		}
		for _, r := range rows {
			f, err := stored(r.Edges.Document)
			if err != nil {
				return err
			}
			out.add(r.MachineID, documentOf(r, f))
		}
		return nil
	})
	return out, err
}

// latestOnly selects the newest observation of each machine and source, in the order
// of latest: of two of one time the one that was recorded last.
func latestOnly(s *sql.Selector) {
	newer := sql.Table(observation.Table).As("newer")
	s.Where(sql.NotExists(sql.Select().From(newer).Where(sql.And(
		sql.ColumnsEQ(newer.C(observation.FieldMachineID), s.C(observation.FieldMachineID)),
		sql.ColumnsEQ(newer.C(observation.FieldSource), s.C(observation.FieldSource)),
		sql.ColumnsGTE(newer.C(observation.FieldFirstSeen), s.C(observation.FieldFirstSeen)), // which an index answers
		sql.Or(
			sql.ColumnsGT(newer.C(observation.FieldFirstSeen), s.C(observation.FieldFirstSeen)),
			sql.ColumnsGT(newer.C(observation.FieldID), s.C(observation.FieldID)),
		),
	))))
}
