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
func Classify(ctx context.Context, s *site.Site, catalog *store.Store, keys class.Digester) error {
	u, err := unclassify(ctx, s, catalog, keys)
	if err != nil || u.never {
		return err
	}
	machines, err := u.machines(ctx, s, catalog)
	if err != nil {
		return err
	}
	err = classify(ctx, s, catalog, machines, func(id uuid.UUID, classes []string) error {
		if _, err := catalog.SetClasses(ctx, id, classes); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
	if err != nil || u.now == u.last {
		return err
	}
	b, err := json.Marshal(u.now)
	if err != nil {
		return err
	}
	return catalog.Settings().Put(ctx, classifiedKey(s.Name), b)
}

// unclassified are the machines whose classes are to be looked at.
type unclassified struct {
	never     bool // the site has no classes, and never had
	all       bool
	ids       []uuid.UUID // where it is not all of them
	last, now classified  // as recorded, and once they were looked at
}

// unclassify finds out which machines are to be looked at.
func unclassify(ctx context.Context, s *site.Site, catalog *store.Store, keys class.Digester) (u unclassified, err error) {
	b, err := catalog.Settings().Get(ctx, classifiedKey(s.Name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if len(s.Classes) == 0 {
			return unclassified{never: true}, nil
		}
	case err != nil:
		return u, err
	default:
		if err := json.Unmarshal(b, &u.last); err != nil {
			return u, fmt.Errorf("reading how far the machines of %s were classified: the catalog's record is damaged: %w", s.Name, err)
		}
	}
	span, err := catalog.EventSpan(ctx)
	if err != nil {
		return u, err
	}
	u.now = classified{Digest: class.Digest(s.Classes, keys), After: span.Newest}
	if u.last.Digest != u.now.Digest || u.last.After < span.Pruned || u.last.After > span.Newest {
		u.all = true
		return u, nil
	}
	if u.ids, u.now.After, err = changedAfter(ctx, s, catalog, u.last.After); err != nil {
		return u, err
	}
	// Events of other kinds are not read again and again.
	if span.Newest-u.now.After > classifyLag {
		u.now.After = span.Newest
	}
	return u, nil
}

// changedAfter are the machines that changed after an event, and the newest event
// that was read.
func changedAfter(ctx context.Context, s *site.Site, catalog *store.Store, after int64) (ids []uuid.UUID, newest int64, err error) {
	seen := map[uuid.UUID]bool{}
	for {
		events, err := catalog.EventsAfter(ctx, after, classifyBatch, inventory.EventMachineChanged)
		if err != nil || len(events) == 0 {
			return ids, after, err
		}
		for _, e := range events {
			if e.Site == s.Name && !seen[e.Machine] {
				seen[e.Machine] = true
				ids = append(ids, e.Machine)
			}
		}
		after = events[len(events)-1].ID
	}
}

// machines reads them.
func (u unclassified) machines(ctx context.Context, s *site.Site, catalog *store.Store) ([]inventory.Machine, error) {
	if u.all {
		return catalog.Machines(ctx, store.MachineFilter{Site: s.Name})
	}
	var out []inventory.Machine
	for _, id := range u.ids {
		m, err := catalog.Machine(ctx, id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // forgotten since
		}
		if err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, nil
}

// classify looks at machines, and sets the classes of those that changed them.
func classify(ctx context.Context, s *site.Site, catalog *store.Store, machines []inventory.Machine, set func(uuid.UUID, []string) error) error {
	for part := range slices.Chunk(machines, classifyBatch) {
		ids := make([]uuid.UUID, len(part))
		for i, m := range part {
			ids[i] = m.ID
		}
		facts, err := catalog.OwnFactsOf(ctx, ids...)
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
			if err := set(m.ID, classes); err != nil {
				return err
			}
		}
	}
	return nil
}
