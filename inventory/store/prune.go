package store

import (
	"context"
	"slices"
	"time"

	"entgo.io/ent/dialect/sql"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/event"
	"github.com/edge-provision/edge-provision/ent/lease"
	"github.com/edge-provision/edge-provision/ent/observation"
	"github.com/edge-provision/edge-provision/ent/run"
	"github.com/edge-provision/edge-provision/inventory"
)

// Pruned is what Prune removed.
type Pruned struct {
	Events, Runs, Observations, Leases, Audits, Operations int
}

// Bounds of one transaction of Prune, in rows: writers in between must not wait for
// long. With a run go its steps and notes, which may be hundreds.
const (
	pruneBatch = 2_000
	runBatch   = 20
)

// leaseMemory is how long a lease that ended is remembered, so that a machine
// that comes back gets its old address.
const leaseMemory = 30 * 24 * time.Hour

// Prune removes the past beyond the bounds of Config: old and surplus events,
// surplus finished runs with their steps, superseded facts of machines that
// change without end, and what of leases, audits and operations is long over.
// Applied records, current facts and unfinished runs always stay. It returns when all
// of that is gone, in small transactions that let everybody else write in between. It is
// safe to call at any time; call it at start, and again and again while a program runs.
func (s *Store) Prune(ctx context.Context) (Pruned, error) {
	var p Pruned
	surplus, err := s.surplusEvents(ctx)
	if err != nil {
		return p, s.explain("removing old events", err)
	}
	for _, part := range []struct {
		op    string
		count *int
		step  func(context.Context, *ent.Tx) (int, error)
	}{
		{"removing old events", &p.Events, s.pruneEvents},
		{"removing surplus events", &p.Events, func(ctx context.Context, tx *ent.Tx) (int, error) { return s.pruneEventsTo(ctx, tx, surplus) }},
		{"removing old runs", &p.Runs, s.pruneRuns},
		{"removing old leases", &p.Leases, s.pruneLeases},
		{"removing old audit records", &p.Audits, s.pruneAudit},
		{"removing old operations", &p.Operations, s.pruneOperations},
	} {
		if err := s.pruneAll(ctx, part.op, part.count, part.step); err != nil {
			return p, err
		}
	}
	ids, err := s.surplusFacts(ctx)
	if err != nil {
		return p, s.explain("removing old facts", err)
	}
	for _, id := range ids {
		err := s.pruneAll(ctx, "removing old facts", &p.Observations, func(ctx context.Context, tx *ent.Tx) (int, error) {
			return s.pruneFacts(ctx, tx, id)
		})
		if err != nil {
			return p, err
		}
	}
	return p, nil
}

// pruneAll repeats step in transactions of their own until it finds no more.
func (s *Store) pruneAll(ctx context.Context, op string, count *int, step func(context.Context, *ent.Tx) (int, error)) error {
	for {
		var n int
		err := s.writeOn(ctx, s.main, idle, op, func(tx *ent.Tx) error {
			var err error
			n, err = step(ctx, tx)
			return err
		})
		if err != nil {
			return err
		}
		*count += n
		if n == 0 {
			return nil
		}
	}
}

func (s *Store) pruneEvents(ctx context.Context, tx *ent.Tx) (int, error) {
	if s.cfg.EventRetention < 0 {
		return 0, nil
	}
	old, err := tx.Event.Query().Where(event.TimeLT(s.now().Add(-s.cfg.EventRetention))).
		Order(ent.Asc(event.FieldTime)).Limit(pruneBatch).IDs(ctx)
	if err != nil {
		return 0, err
	}
	return s.dropEvents(ctx, tx, old)
}

// surplusEvents is the id of the newest event that is more than are kept; zero: there
// are not so many. To count as many as that takes some tenths of a second, which it
// does outside of the transactions that remove them: a lease would wait for it.
func (s *Store) surplusEvents(ctx context.Context) (int64, error) {
	ids, err := s.main.client.Event.Query().Order(ent.Desc(event.FieldID)).Offset(s.cfg.EventLimit).Limit(1).IDs(ctx)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	return ids[0], nil
}

// pruneEventsTo removes events up to an id.
func (s *Store) pruneEventsTo(ctx context.Context, tx *ent.Tx, last int64) (int, error) {
	ids, err := tx.Event.Query().Where(event.IDLTE(last)).Order(ent.Asc(event.FieldID)).Limit(pruneBatch).IDs(ctx)
	if err != nil {
		return 0, err
	}
	return s.dropEvents(ctx, tx, ids)
}

func (s *Store) pruneRuns(ctx context.Context, tx *ent.Tx) (int, error) {
	ids, err := tx.Run.Query().Where(run.FinishedAtNotNil()).
		Order(ent.Desc(run.FieldStartedAt, run.FieldID)).Offset(s.cfg.RunLimit).Limit(runBatch).IDs(ctx)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	return tx.Run.Delete().Where(run.IDIn(ids...)).Exec(ctx)
}

func (s *Store) pruneLeases(ctx context.Context, tx *ent.Tx) (int, error) {
	now := s.now()
	ids, err := tx.Lease.Query().Where(lease.Or(
		lease.ExpiresLT(now.Add(-leaseMemory)),
		lease.And(lease.State(string(inventory.LeaseDeclined)), lease.ExpiresLT(now)),
	)).Limit(pruneBatch).IDs(ctx)
	if err != nil || len(ids) == 0 {
		return 0, err
	}
	return tx.Lease.Delete().Where(lease.IDIn(ids...)).Exec(ctx)
}

// surplusFacts finds the machines of which a source has more observations than are
// kept: nearly always none, and to look at each of many takes minutes.
func (s *Store) surplusFacts(ctx context.Context) ([]uuid.UUID, error) {
	var ids []uuid.UUID
	err := s.main.client.Observation.Query().Where(func(q *sql.Selector) {
		q.GroupBy(observation.FieldMachineID, observation.FieldSource).Having(sql.GT(sql.Count("*"), s.cfg.FactsLimit))
	}).Select(observation.FieldMachineID).Scan(ctx, &ids)
	slices.SortFunc(ids, compareIDs)
	return slices.Compact(ids), err
}

func (s *Store) pruneFacts(ctx context.Context, tx *ent.Tx, id uuid.UUID) (int, error) {
	if err := s.lockMachines(ctx, tx, id); err != nil { // its changes are made anew
		return 0, err
	}
	names, err := tx.Observation.Query().Where(observation.MachineID(id)).Unique(true).Select(observation.FieldSource).Strings(ctx)
	if err != nil {
		return 0, err
	}
	total := 0
	for _, name := range names {
		surplus, err := tx.Observation.Query().Where(observation.MachineID(id), observation.Source(name)).
			Order(ent.Desc(observation.FieldFirstSeen, observation.FieldID)).Offset(s.cfg.FactsLimit).Limit(pruneBatch).IDs(ctx)
		if err != nil {
			return total, err
		}
		for part := range slices.Chunk(surplus, projectBatch) {
			n, err := tx.Observation.Delete().Where(observation.IDIn(part...)).Exec(ctx)
			if err != nil {
				return total, err
			}
			total += n
		}
	}
	if total == 0 {
		return 0, nil
	}
	if err := s.rebuildChanges(ctx, tx, id); err != nil {
		return total, err
	}
	return total, dropOrphans(ctx, tx)
}
