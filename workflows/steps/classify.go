package steps

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/class"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// classified says how far the catalog's changes were looked at, and with which
// rules.
type classified struct {
	Digest string `json:"digest"`
	After  int64  `json:"after"` // id of an event
}

func classifiedKey(site string) string { return "classified/" + site }

// classifyBatch is how many machines, or events, are looked at in one go.
const classifyBatch = 500

// classifyLag is how many events of other kinds may lie behind the newest change
// before that is written down.
const classifyLag = 5_000

// Classify records in which classes of the site the machines of the catalog are.
// It looks at those that changed since the last time, and at all when the rules
// did, or when changes were forgotten by retention.
func Classify(ctx context.Context, s *site.Site, catalog *store.Store) error {
	settings := catalog.Settings()
	var last classified
	b, err := settings.Get(ctx, classifiedKey(s.Name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if len(s.Classes) == 0 {
			return nil // there never was one
		}
	case err != nil:
		return err
	default:
		if err := json.Unmarshal(b, &last); err != nil {
			return fmt.Errorf("reading how far the machines of %s were classified: the catalog's record is damaged: %w", s.Name, err)
		}
	}
	span, err := catalog.EventSpan(ctx)
	if err != nil {
		return err
	}
	now := classified{Digest: class.Digest(s.Classes), After: last.After}
	if last.Digest != now.Digest || last.After < span.Pruned || last.After > span.Newest {
		now.After = span.Newest
		machines, err := catalog.Machines(ctx, store.MachineFilter{Site: s.Name})
		if err != nil {
			return err
		}
		if err := classify(ctx, s, catalog, machines); err != nil {
			return err
		}
	} else if now.After, err = classifyChanged(ctx, s, catalog, last.After); err != nil {
		return err
	}
	// Events of other kinds are not read again and again.
	if span.Newest-now.After > classifyLag {
		now.After = span.Newest
	}
	if now == last {
		return nil
	}
	if b, err = json.Marshal(now); err != nil {
		return err
	}
	return settings.Put(ctx, classifiedKey(s.Name), b)
}

// classifyChanged looks at the machines that changed after an event, and returns
// the newest event that it looked at.
func classifyChanged(ctx context.Context, s *site.Site, catalog *store.Store, after int64) (int64, error) {
	for {
		events, err := catalog.EventsAfter(ctx, after, classifyBatch, inventory.EventMachineChanged)
		if err != nil || len(events) == 0 {
			return after, err
		}
		var machines []inventory.Machine
		seen := map[uuid.UUID]bool{}
		for _, e := range events {
			if e.Site != s.Name || seen[e.Machine] {
				continue
			}
			seen[e.Machine] = true
			m, err := catalog.Machine(ctx, e.Machine)
			if errors.Is(err, fs.ErrNotExist) {
				continue // forgotten since
			}
			if err != nil {
				return after, err
			}
			machines = append(machines, m)
		}
		if err := classify(ctx, s, catalog, machines); err != nil {
			return after, err
		}
		after = events[len(events)-1].ID
	}
}

// classify looks at machines, and records the classes of those that changed them.
func classify(ctx context.Context, s *site.Site, catalog *store.Store, machines []inventory.Machine) error {
	for part := range slices.Chunk(machines, classifyBatch) {
		ids := make([]uuid.UUID, len(part))
		for i, m := range part {
			ids[i] = m.ID
		}
		facts, err := catalog.FactsOf(ctx, ids...)
		if err != nil {
			return err
		}
		for _, m := range part {
			var known *inventory.Facts
			if f, ok := facts[m.ID]; ok {
				known = &f
			}
			classes, err := class.Of(s.Classes, m, known)
			if err != nil {
				return err
			}
			if slices.Equal(classes, m.Classes) {
				continue
			}
			if _, err := catalog.SetClasses(ctx, m.ID, classes); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
