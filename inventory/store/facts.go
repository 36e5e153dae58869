package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"entgo.io/ent/dialect"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/document"
	"github.com/edge-provision/edge-provision/ent/observation"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/drift"
)

// PutFacts keeps what a source saw of a machine. An identical report only moves
// the time it was last seen; changed is false then. The projection of the
// machine's current facts changes in the same transaction.
func (s *Store) PutFacts(ctx context.Context, machine uuid.UUID, source inventory.Source, f inventory.Facts, at time.Time) (d inventory.Document, changed bool, err error) {
	if at.IsZero() {
		at = s.now()
	}
	err = s.write(ctx, fmt.Sprintf("keeping the %s facts of machine %s", source, machine), func(tx *ent.Tx) error {
		if _, err := tx.Machine.Get(ctx, machine); err != nil {
			return err
		}
		var err error
		d, changed, err = s.putFacts(ctx, tx, machine, keeping{source: source, facts: f, at: stamp(at), project: s.projectNow(ctx, tx)})
		if err != nil || !changed {
			return err
		}
		return s.changed(ctx, tx, "facts", machine)
	})
	return d, changed, err
}

var errNoSource = errors.New("facts need a source")

// keeping is a report that is to be kept.
type keeping struct {
	source  inventory.Source
	facts   inventory.Facts
	at      time.Time
	project projecting
}

func (s *Store) putFacts(ctx context.Context, tx *ent.Tx, id uuid.UUID, k keeping) (inventory.Document, bool, error) {
	var none inventory.Document
	source, f, at := k.source, k.facts, k.at
	if source == "" {
		return none, false, errNoSource
	}
	content, digest, err := f.Canonical()
	if err != nil {
		return none, false, err
	}
	// What is compared with, and what is projected, are the reports of all sources: none
	// may come in between. This goes before the row that refers to the machine, because
	// that keeps it from others who would then wait for each other.
	if err := s.lockMachines(ctx, tx, id); err != nil {
		return none, false, err
	}
	if err := looked(ctx, tx, id, source, at); err != nil {
		return none, false, err
	}
	last, err := latest(ctx, tx.Client(), id, source, time.Time{})
	if err != nil {
		return none, false, err
	}
	if last != nil && last.Digest == digest {
		if at.After(last.LastSeen) {
			if last, err = tx.Observation.UpdateOne(last).SetLastSeen(at).Save(ctx); err != nil {
				return none, false, err
			}
		}
		if err := s.mendProjection(ctx, tx, id, f); err != nil {
			return none, false, fmt.Errorf("projecting the facts: %w", err)
		}
		return documentOf(last, f), false, nil
	}
	if last != nil && !at.After(last.FirstSeen) {
		// A clock went back, or a report was late. History is ordered by
		// time, so the newest content must also be the latest.
		at = last.LastSeen.Add(time.Microsecond)
	}
	if err := s.insertDocuments(ctx, tx, []string{digest}, [][]byte{content}); err != nil {
		return none, false, err
	}
	row, err := tx.Observation.Create().SetMachineID(id).SetSource(string(source)).SetDigest(digest).
		SetFirstSeen(at).SetLastSeen(at).Save(ctx)
	if err != nil {
		return none, false, err
	}
	var before *inventory.Facts
	if last != nil {
		old, err := tx.Document.Get(ctx, last.Digest)
		if err != nil {
			return none, false, err
		}
		content, err := stored(old)
		if err != nil {
			return none, false, err
		}
		before = &content
		if err := s.insertChanges(ctx, tx, id, drift.ChangedPaths(content, f), at); err != nil {
			return none, false, fmt.Errorf("recording what changed: %w", err)
		}
	}
	of, err := documentsOf(ctx, tx.Client(), []uuid.UUID{id})
	docs := of[id]
	if err == nil {
		err = k.project(id, docs)
	}
	if err == nil {
		err = s.recordDisagreements(ctx, tx, id, source, before, docs)
	}
	if err != nil {
		return none, false, fmt.Errorf("projecting the facts: %w", err)
	}
	if _, err := s.judge(ctx, tx, id, docs); err != nil {
		return none, false, fmt.Errorf("comparing with the snapshot: %w", err)
	}
	return documentOf(row, f), true, nil
}

// insertDocuments keeps the content of reports, of which the catalog may have any
// already, by its digest.
func (s *Store) insertDocuments(ctx context.Context, tx *ent.Tx, digests []string, contents [][]byte) error {
	query, args := "SELECT * FROM unnest(CAST($1 AS text[]), CAST($2 AS bytea[]))", []any{digests, contents}
	if s.dialect != dialect.Postgres {
		query, args = "VALUES "+strings.TrimSuffix(strings.Repeat("(?, ?), ", len(digests)), ", "), nil
		for i := range digests {
			args = append(args, digests[i], contents[i])
		}
	}
	_, err := tx.ExecContext(ctx, "INSERT INTO documents (id, content) "+query+" ON CONFLICT (id) DO NOTHING", args...)
	return err
}

// documentAt is what a source had last seen of a machine at a time, or now when at
// is zero; nil when there is none.
func documentAt(ctx context.Context, c *ent.Client, id uuid.UUID, source inventory.Source, at time.Time) (*inventory.Document, error) {
	row, err := latest(ctx, c, id, source, at)
	if err != nil || row == nil {
		return nil, err
	}
	content, err := c.Document.Get(ctx, row.Digest)
	if err != nil {
		return nil, err
	}
	f, err := stored(content)
	if err != nil {
		return nil, err
	}
	d := documentOf(row, f)
	return &d, nil
}

// latest is the observation of a source in force at a time, or now when at is
// zero; nil when there is none.
func latest(ctx context.Context, c *ent.Client, id uuid.UUID, source inventory.Source, at time.Time) (*ent.Observation, error) {
	q := c.Observation.Query().Where(observation.MachineID(id), observation.Source(string(source)))
	if !at.IsZero() {
		q.Where(observation.FirstSeenLTE(stamp(at)))
	}
	row, err := q.Order(ent.Desc(observation.FieldFirstSeen, observation.FieldID)).First(ctx)
	if ent.IsNotFound(err) {
		return nil, nil
	}
	return row, err
}

// Facts returns what each source saw of a machine last. The map is empty when
// nothing was seen.
func (s *Store) Facts(ctx context.Context, machine uuid.UUID) (map[inventory.Source]inventory.Document, error) {
	return s.FactsAt(ctx, machine, time.Time{})
}

// FactsAt returns what each source had last seen of a machine at a time; a zero
// time is now.
func (s *Store) FactsAt(ctx context.Context, machine uuid.UUID, at time.Time) (map[inventory.Source]inventory.Document, error) {
	out, err := factsAt(ctx, s.main.client, machine, at)
	return out, s.explain("reading the facts of machine "+machine.String(), err)
}

func factsAt(ctx context.Context, c *ent.Client, machine uuid.UUID, at time.Time) (map[inventory.Source]inventory.Document, error) {
	names, err := c.Observation.Query().Where(observation.MachineID(machine)).
		Unique(true).Select(observation.FieldSource).Strings(ctx)
	if err != nil {
		return nil, err
	}
	out := map[inventory.Source]inventory.Document{}
	for _, name := range names {
		source := inventory.Source(name)
		d, err := documentAt(ctx, c, machine, source, at)
		if err != nil {
			return nil, err
		}
		if d != nil { // it was seen by then
			out[source] = *d
		}
	}
	return out, nil
}

// MergedFacts is the one view of a machine over all sources; see
// inventory.Merge. It returns ErrNotFound when nothing was seen of it.
func (s *Store) MergedFacts(ctx context.Context, machine uuid.UUID) (inventory.Facts, error) {
	docs, err := s.Facts(ctx, machine)
	if err != nil {
		return inventory.Facts{}, err
	}
	if len(docs) == 0 {
		return inventory.Facts{}, s.explain("reading the facts of machine "+machine.String(), ErrNotFound)
	}
	return merge(docs), nil
}

func merge(docs map[inventory.Source]inventory.Document) inventory.Facts {
	return inventory.Merge(contents(docs))
}

func contents(docs map[inventory.Source]inventory.Document) map[inventory.Source]inventory.Facts {
	bySource := make(map[inventory.Source]inventory.Facts, len(docs))
	for s, d := range docs {
		bySource[s] = d.Facts
	}
	return bySource
}

// recordDisagreements writes which facts the sources of a machine report
// differently since one of them, which reported before until now, has a new
// report.
func (s *Store) recordDisagreements(ctx context.Context, tx *ent.Tx, id uuid.UUID, source inventory.Source, before *inventory.Facts, docs map[inventory.Source]inventory.Document) error {
	if len(docs) < 2 {
		return nil
	}
	bySource := contents(docs)
	now := inventory.Disagreements(bySource)
	delete(bySource, source)
	if before != nil {
		bySource[source] = *before
	}
	known := map[string]map[inventory.Source]string{}
	for _, d := range inventory.Disagreements(bySource) {
		known[d.Path] = d.Values
	}
	now = slices.DeleteFunc(now, func(d inventory.Disagreement) bool { return maps.Equal(known[d.Path], d.Values) })
	if len(now) == 0 {
		return nil
	}
	m, err := tx.Machine.Get(ctx, id)
	if err != nil {
		return err
	}
	if err := s.orderEvents(ctx, tx); err != nil {
		return err
	}
	return inBatches(now, func(part []inventory.Disagreement) error {
		return tx.Event.MapCreateBulk(part, func(row *ent.EventCreate, i int) {
			attrs := map[string]string{"path": part[i].Path}
			for who, value := range part[i].Values {
				attrs[clean(string(who))] = clean(value)
			}
			row.SetTime(s.now()).SetKind(string(inventory.EventFactsDisagree)).SetSite(m.Site).SetMachineID(id).SetAttrs(attrs)
		}).Exec(ctx)
	})
}

// FactsHistory returns every document that a source saw of a machine, the oldest
// first; of all sources when source is empty.
func (s *Store) FactsHistory(ctx context.Context, machine uuid.UUID, source inventory.Source) ([]inventory.Document, error) {
	op := "reading the history of machine " + machine.String()
	q := s.main.client.Observation.Query().Where(observation.MachineID(machine))
	if source != "" {
		q.Where(observation.Source(string(source)))
	}
	rows, err := q.WithDocument().Order(ent.Asc(observation.FieldFirstSeen, observation.FieldID)).All(ctx)
	if err != nil {
		return nil, s.explain(op, err)
	}
	out := make([]inventory.Document, len(rows))
	for i, r := range rows {
		f, err := stored(r.Edges.Document)
		if err != nil {
			return nil, s.explain(op, err)
		}
		out[i] = documentOf(r, f)
	}
	return out, nil
}

// stored reads a document that this catalog wrote, and so checked, before.
func stored(d *ent.Document) (inventory.Facts, error) {
	var f inventory.Facts
	if err := json.Unmarshal(d.Content, &f); err != nil {
		return f, fmt.Errorf("facts document %s: %w", d.ID, err)
	}
	if f.SchemaVersion > inventory.SchemaVersion {
		return f, fmt.Errorf("facts document %s has schema version %d, which is newer than this program's %d", d.ID, f.SchemaVersion, inventory.SchemaVersion)
	}
	return f, nil
}

func documentOf(r *ent.Observation, f inventory.Facts) inventory.Document {
	return inventory.Document{
		Source: inventory.Source(r.Source), ObservedAt: r.FirstSeen.UTC(), LastSeen: r.LastSeen.UTC(),
		Digest: r.Digest, Facts: f,
	}
}

// dropOrphans removes documents that no observation names any more.
func dropOrphans(ctx context.Context, tx *ent.Tx) error {
	_, err := tx.Document.Delete().Where(document.Not(document.HasObservations())).Exec(ctx)
	return err
}
