package store

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/factchange"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/drift"
)

// changeTable keeps which facts a source reports differently from a time on.
var changeTable = table{factchange.Table, []string{factchange.FieldPath, factchange.FieldAt}}

// insertChanges keeps which facts a source reports differently from a time on.
func (s *Store) insertChanges(ctx context.Context, tx *ent.Tx, id uuid.UUID, paths []string, at time.Time) error {
	rows := make([]tuple, len(paths))
	for i, path := range paths {
		rows[i] = tuple{id, path, at}
	}
	return s.insert(ctx, tx, changeTable, rows)
}

// rebuildChanges makes the changes of a machine anew from its documents.
func (s *Store) rebuildChanges(ctx context.Context, tx *ent.Tx, id uuid.UUID) error {
	ids, _, changes, err := s.replay(ctx, tx, []uuid.UUID{id}, 0)
	if err != nil {
		return err
	}
	return s.replace(ctx, tx, changeTable, ids, changes)
}

// replay reads the documents of all machines from the first to the last of ids, which
// are in order and leave none out, in the order in which they were reported: what each
// source said last, and the rows of changeTable. It ends before a machine, and returns
// the ids before that, when it has read more than limit bytes of documents. Of those it
// holds two of each source at a time.
func (s *Store) replay(ctx context.Context, tx *ent.Tx, ids []uuid.UUID, limit int) (done []uuid.UUID, last documents, changes map[uuid.UUID][]tuple, err error) {
	last, changes = documents{}, map[uuid.UUID][]tuple{}
	rows, err := tx.QueryContext(ctx, fmt.Sprintf(`SELECT o.machine_id, o.source, o.digest, o.first_seen, o.last_seen, d.content
		FROM observations o JOIN documents d ON d.id = o.digest WHERE o.machine_id >= %s AND o.machine_id <= %s
		ORDER BY o.machine_id, o.source, o.first_seen, o.id`, s.placeholder(1), s.placeholder(2)), ids[0], ids[len(ids)-1])
	if err != nil {
		return nil, nil, nil, err
	}
	defer rows.Close()
	var (
		r       ent.Observation
		content sql.RawBytes
		current uuid.UUID
		read    int
	)
	for rows.Next() {
		if err := rows.Scan(&r.MachineID, &r.Source, &r.Digest, &r.FirstSeen, &r.LastSeen, &content); err != nil {
			return nil, nil, nil, err
		}
		if r.MachineID != current && read > limit {
			at, _ := slices.BinarySearchFunc(ids, r.MachineID, compareIDs)
			ids = ids[:at]
			break
		}
		current = r.MachineID
		read += len(content)
		f, err := stored(&ent.Document{ID: r.Digest, Content: content})
		if err != nil {
			return nil, nil, nil, err
		}
		if before, ok := last[current][inventory.Source(r.Source)]; ok {
			for _, path := range drift.ChangedPaths(before.Facts, f) {
				changes[current] = append(changes[current], tuple{path, r.FirstSeen.UTC()})
			}
		}
		last.add(current, documentOf(&r, f))
	}
	for _, list := range changes {
		slices.SortStableFunc(list, func(a, b tuple) int { return a[1].(time.Time).Compare(b[1].(time.Time)) })
	}
	return ids, last, changes, rows.Err()
}

func compareIDs(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }
