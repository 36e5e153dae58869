package store

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/observation"
	"github.com/edge-provision/edge-provision/inventory"
)

// Report is one entry of a machine's history.
type Report struct {
	// ID is what Reports goes on behind.
	ID int
	inventory.Document
	// Before is what the same source had seen before; nil for its first report.
	Before *inventory.Facts
}

// Reports returns at most limit reports of a source about a machine, the newest
// first, that are older than the one with the id before, and none when that is kept
// no more; zero begins with the newest, and an empty source means all of them.
func (s *Store) Reports(ctx context.Context, machine uuid.UUID, source inventory.Source, before, limit int) ([]Report, error) {
	op := "reading the history of machine " + machine.String()
	q := s.main.client.Observation.Query().Where(observation.MachineID(machine)).WithDocument().
		Order(ent.Desc(observation.FieldFirstSeen, observation.FieldID)).Limit(limit)
	if source != "" {
		q.Where(observation.Source(string(source)))
	}
	if before > 0 {
		row, err := s.main.client.Observation.Query().Where(observation.ID(before), observation.MachineID(machine)).Only(ctx)
		if ent.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, s.explain(op, err)
		}
		q.Where(observation.Or(observation.FirstSeenLT(row.FirstSeen), observation.And(observation.FirstSeen(row.FirstSeen), observation.IDLT(row.ID))))
	}
	rows, err := q.All(ctx)
	if err != nil {
		return nil, s.explain(op, err)
	}
	out := make([]Report, len(rows))
	newer := map[string]int{} // of each source, the last report in out
	for i, r := range rows {
		f, err := stored(r.Edges.Document)
		if err != nil {
			return nil, s.explain(op, err)
		}
		out[i] = Report{ID: r.ID, Document: documentOf(r, f)}
		if at, ok := newer[r.Source]; ok {
			out[at].Before = &out[i].Facts
		}
		newer[r.Source] = i
	}
	for _, at := range newer {
		if out[at].Before, err = s.factsBefore(ctx, machine, out[at]); err != nil {
			return nil, s.explain(op, err)
		}
	}
	return out, nil
}

// factsBefore is what the report's source had seen before it.
func (s *Store) factsBefore(ctx context.Context, machine uuid.UUID, r Report) (*inventory.Facts, error) {
	d, err := documentAt(ctx, s.main.client, machine, r.Source, r.ObservedAt.Add(-time.Microsecond))
	if err != nil || d == nil {
		return nil, err
	}
	return &d.Facts, nil
}
