package store

import (
	"context"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/inventory"
)

// reports are what each source saw of a machine last.
type reports = map[inventory.Source]inventory.Document

// documents are the reports of machines.
type documents map[uuid.UUID]reports

func (d documents) add(machine uuid.UUID, doc inventory.Document) {
	if d[machine] == nil {
		d[machine] = reports{}
	}
	d[machine][doc.Source] = doc
}

// merge is the one view of each machine over its documents, on all processors.
func (d documents) merge() map[uuid.UUID]inventory.Facts {
	out := make(map[uuid.UUID]inventory.Facts, len(d))
	if len(d) == 1 {
		for id, docs := range d {
			out[id] = merge(docs)
		}
		return out
	}
	work := make(chan uuid.UUID)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for id := range work {
				f := merge(d[id])
				mu.Lock()
				out[id] = f
				mu.Unlock()
			}
		})
	}
	for id := range d {
		work <- id
	}
	close(work)
	wg.Wait()
	return out
}

// projecting replaces the projection of a machine with what its documents say together.
type projecting func(machine uuid.UUID, docs reports) error

// projectNow is the projecting that does it at once.
func (s *Store) projectNow(ctx context.Context, tx *ent.Tx) projecting {
	return func(machine uuid.UUID, docs reports) error {
		return s.project(ctx, tx, []uuid.UUID{machine}, documents{machine: docs})
	}
}

// projectAll is project for all machines that have documents, in few statements.
func (s *Store) projectAll(ctx context.Context, tx *ent.Tx, of documents) error {
	if len(of) == 0 {
		return nil
	}
	if err := s.byIndex(ctx, tx); err != nil {
		return err
	}
	return inBatches(slices.SortedFunc(maps.Keys(of), compareIDs), func(part []uuid.UUID) error {
		docs := make(documents, len(part))
		for _, id := range part {
			docs[id] = of[id]
		}
		return s.project(ctx, tx, part, docs)
	})
}

// project replaces the projection of machines with what their documents say together.
// Of a machine without documents nothing is left in it.
func (s *Store) project(ctx context.Context, tx *ent.Tx, machines []uuid.UUID, of documents) error {
	merged := of.merge()
	for _, t := range tables {
		wanted := make(map[uuid.UUID][]tuple, len(merged))
		for id, f := range merged {
			wanted[id] = t.rows(f)
		}
		if err := s.replace(ctx, tx, t.table, machines, wanted); err != nil {
			return err
		}
	}
	return nil
}

// some is nil for the zero value: absent is NULL, not zero.
func some[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}

// projectBatch bounds what one statement names or inserts: SQLite takes 32,766
// arguments.
const projectBatch = 500

func inBatches[T any](list []T, insert func([]T) error) error {
	for len(list) > 0 {
		n := min(projectBatch, len(list))
		if err := insert(list[:n]); err != nil {
			return err
		}
		list = list[n:]
	}
	return nil
}
