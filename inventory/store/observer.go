package store

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/observation"
	"github.com/edge-provision/edge-provision/inventory"
)

// observer keeps what is seen of machines of one site in one transaction, which holds
// the lock of identities. What nothing asks for before the transaction ends is written
// by finish, for all machines together.
type observer struct {
	s    *Store
	tx   *ent.Tx
	site string
	// project makes the projection of a machine, or leaves it to finish.
	project projecting
	// due are the machines whose projection is left to finish.
	due documents
	// settled says that the site is in the catalog.
	settled bool
	// firsts are reports that are to be written, of machines that this transaction made.
	firsts []firstReport
	// inserted are the machines that have reports between others of their history, so
	// that finish finds anew which facts changed when.
	inserted map[uuid.UUID]bool
	// disputed is set when a proven machine has what another one is known by.
	disputed *ConflictError
}

// firstReport is the first thing that was ever reported of a machine.
type firstReport struct {
	machine uuid.UUID
	content []byte
	inventory.Document
}

// first keeps the first report of a machine that this transaction has made. Nobody
// else sees the machine, and there is nothing that the report could have changed from,
// disagree with or differ from.
func (in *observer) first(ctx context.Context, id uuid.UUID, source inventory.Source, f inventory.Facts, at time.Time) error {
	if source == "" {
		return errNoSource
	}
	content, digest, err := f.Canonical()
	if err != nil {
		return err
	}
	// What is projected is the document, whose lists are in order.
	if f, err = stored(&ent.Document{ID: digest, Content: content}); err != nil {
		return err
	}
	doc := inventory.Document{Source: source, ObservedAt: at, LastSeen: at, Digest: digest, Facts: f}
	in.firsts = append(in.firsts, firstReport{id, content, doc})
	if len(in.firsts) == projectBatch {
		if err := in.write(ctx); err != nil {
			return err
		}
	}
	return in.project(id, reports{source: doc})
}

// another keeps a report of a machine, of which there may be others.
func (in *observer) another(ctx context.Context, id uuid.UUID, source inventory.Source, f inventory.Facts, at time.Time) (newer bool, err error) {
	if err := in.writeOf(ctx, id); err != nil {
		return false, err
	}
	_, newer, err = in.s.putFacts(ctx, in.tx, id, keeping{source: source, facts: f, at: at, project: in.project})
	return newer, err
}

// later is the projecting that leaves it to finish.
func (in *observer) later(machine uuid.UUID, docs reports) error {
	in.due[machine] = docs
	return nil
}

// observations keeps which document a source reported of a machine, and when.
var observations = table{observation.Table, []string{
	observation.FieldSource, observation.FieldDigest, observation.FieldFirstSeen, observation.FieldLastSeen,
}}

// write writes the first reports that wait.
func (in *observer) write(ctx context.Context) error {
	if len(in.firsts) == 0 {
		return nil
	}
	var digests []string
	var contents [][]byte
	var rows []tuple
	for _, r := range in.firsts {
		digests, contents = append(digests, r.Digest), append(contents, r.content)
		rows = append(rows, tuple{r.machine, string(r.Source), r.Digest, r.ObservedAt, r.LastSeen})
	}
	in.firsts = nil
	if err := in.s.insertDocuments(ctx, in.tx, digests, contents); err != nil {
		return err
	}
	return in.s.insert(ctx, in.tx, observations, rows)
}

// writeOf writes the first reports that wait if one of them is of a machine.
func (in *observer) writeOf(ctx context.Context, machine uuid.UUID) error {
	if slices.ContainsFunc(in.firsts, func(r firstReport) bool { return r.machine == machine }) {
		return in.write(ctx)
	}
	return nil
}

// finish writes all that waits.
func (in *observer) finish(ctx context.Context) error {
	if err := in.write(ctx); err != nil {
		return err
	}
	for _, id := range slices.SortedFunc(maps.Keys(in.inserted), compareIDs) {
		if err := in.s.rebuildChanges(ctx, in.tx, id); err != nil {
			return fmt.Errorf("recording what changed: %w", err)
		}
	}
	if err := in.s.projectAll(ctx, in.tx, in.due); err != nil {
		return fmt.Errorf("projecting the facts: %w", err)
	}
	return nil
}
