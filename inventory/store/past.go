package store

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/observation"
	"github.com/edge-provision/edge-provision/inventory"
)

// PastError says that a report of the past is left out: the history of its source
// has another one for that time, and nothing in it is replaced.
type PastError struct {
	Source inventory.Source
	// At is when the report that is left out was made.
	At time.Time
	// From and Until are the times between which the other one was seen.
	From, Until time.Time
}

// Error implements error.
func (e *PastError) Error() string {
	return fmt.Sprintf("the report of source %s of %s does not fit into the history, which has another one of that source from %s to %s",
		e.Source, e.At.Format(time.RFC3339), e.From.Format(time.RFC3339), e.Until.Format(time.RFC3339))
}

// past keeps a report that was made at another time and written down since, as in
// another catalog. Where its source is known to have reported later, it has its place
// in the history, and what is known now stays. What the history has already is not
// written again.
func (in *observer) past(ctx context.Context, id uuid.UUID, source inventory.Source, f inventory.Facts, at time.Time) (newer bool, err error) {
	if err := in.writeOf(ctx, id); err != nil {
		return false, err
	}
	// As putFacts does: nobody may report while it is decided what was reported when.
	if err := in.s.lockMachines(ctx, in.tx, id); err != nil {
		return false, err
	}
	last, err := latest(ctx, in.tx.Client(), id, source, time.Time{})
	if err != nil {
		return false, err
	}
	if last == nil || at.After(last.LastSeen) {
		return in.another(ctx, id, source, f, at)
	}
	return in.between(ctx, id, source, f, at)
}

// between keeps a report that was made before the last one of its source.
func (in *observer) between(ctx context.Context, id uuid.UUID, source inventory.Source, f inventory.Facts, at time.Time) (newer bool, err error) {
	content, digest, err := f.Canonical()
	if err != nil {
		return false, err
	}
	if err := looked(ctx, in.tx, id, source, at); err != nil {
		return false, err
	}
	held, err := latest(ctx, in.tx.Client(), id, source, at)
	switch {
	case err != nil:
		return false, err
	case held != nil && held.Digest == digest:
		if at.After(held.LastSeen) {
			err = in.tx.Observation.UpdateOne(held).SetLastSeen(at).Exec(ctx)
		}
		return false, err
	case held != nil && !at.After(held.LastSeen):
		return false, &PastError{Source: source, At: at, From: held.FirstSeen.UTC(), Until: held.LastSeen.UTC()}
	}
	in.inserted[id] = true
	next, err := in.tx.Observation.Query().
		Where(observation.MachineID(id), observation.Source(string(source)), observation.FirstSeenGT(at)).
		Order(ent.Asc(observation.FieldFirstSeen, observation.FieldID)).First(ctx)
	if err == nil && next.Digest == digest {
		return false, in.tx.Observation.UpdateOne(next).SetFirstSeen(at).Exec(ctx)
	}
	if err != nil && !ent.IsNotFound(err) {
		return false, err
	}
	if err := in.s.insertDocuments(ctx, in.tx, []string{digest}, [][]byte{content}); err != nil {
		return false, err
	}
	return true, in.tx.Observation.Create().SetMachineID(id).SetSource(string(source)).SetDigest(digest).
		SetFirstSeen(at).SetLastSeen(at).Exec(ctx)
}
