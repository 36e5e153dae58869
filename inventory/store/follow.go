package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/event"
	"github.com/edge-provision/edge-provision/ent/predicate"
	"github.com/edge-provision/edge-provision/ent/setting"
	"github.com/edge-provision/edge-provision/inventory"
)

// EventSpan says which events the catalog can still tell.
type EventSpan struct {
	// Pruned is the greatest id that retention removed; a reader that stopped
	// before it may have missed events. Zero: none was removed.
	Pruned int64
	// Newest is the greatest id ever given to an event that was committed.
	Newest int64
}

// EventSpan returns which events can still be told.
func (s *Store) EventSpan(ctx context.Context) (EventSpan, error) {
	const op = "reading the span of events"
	var newest sql.NullInt64
	if err := s.main.db.QueryRowContext(ctx, "SELECT MAX(id) FROM events").Scan(&newest); err != nil {
		return EventSpan{}, s.explain(op, err)
	}
	// After the newest: one that is removed in between counts as removed.
	pruned, err := prunedEvents(ctx, s.main.client)
	if err != nil {
		return EventSpan{}, s.explain(op, err)
	}
	return EventSpan{Pruned: pruned, Newest: max(pruned, newest.Int64)}, nil
}

// EventsAfter returns at most limit events with a greater id, in the order they
// were committed, of some kinds or of all, machine.changed and machine.removed
// among them. Unlike Events it does not wait for those that were recorded but not
// written yet: whoever follows sees them later.
func (s *Store) EventsAfter(ctx context.Context, after int64, limit int, kinds ...inventory.EventKind) ([]inventory.Event, error) {
	where := []predicate.Event{event.IDGT(after)}
	if len(kinds) > 0 {
		names := make([]string, len(kinds))
		for i, k := range kinds {
			names[i] = string(k)
		}
		where = append(where, event.KindIn(names...))
	}
	return s.eventPage(ctx, limit, false, where)
}

// EventPage returns at most limit of the events that f selects, in the order they
// were committed or in the reverse one, beyond the event with the id cursor; zero
// is before the first of that order. f's After and Limit are not used.
func (s *Store) EventPage(ctx context.Context, f EventFilter, cursor int64, limit int, reverse bool) ([]inventory.Event, error) {
	f.After = 0
	var beyond predicate.Event
	switch {
	case !reverse:
		beyond = event.IDGT(cursor)
	case cursor > 0:
		beyond = event.IDLT(cursor)
	default:
		beyond = event.IDGT(0)
	}
	where, err := s.eventWhere(ctx, f)
	if err != nil {
		return nil, s.explain("reading events", err)
	}
	return s.eventPage(ctx, limit, reverse, append(where, beyond))
}

func (s *Store) eventPage(ctx context.Context, limit int, reverse bool, where []predicate.Event) ([]inventory.Event, error) {
	const op = "reading events"
	order := ent.Asc(event.FieldID)
	if reverse {
		order = ent.Desc(event.FieldID)
	}
	rows, err := s.main.client.Event.Query().Where(where...).Order(order).Limit(limit).All(ctx)
	if err != nil {
		return nil, s.explain(op, err)
	}
	out := make([]inventory.Event, len(rows))
	for i, r := range rows {
		if out[i], err = eventOf(r); err != nil {
			return nil, s.explain(op, err)
		}
	}
	return out, nil
}

// prunedKey is the setting that holds the greatest event id that retention
// removed, eight bytes in network order.
const prunedKey = "events.pruned"

func prunedEvents(ctx context.Context, c *ent.Client) (int64, error) {
	row, err := c.Setting.Get(ctx, prunedKey)
	switch {
	case ent.IsNotFound(err):
		return 0, nil
	case err != nil:
		return 0, err
	case len(row.Value) != 8:
		return 0, fmt.Errorf("setting %s has %d bytes; want 8", prunedKey, len(row.Value))
	}
	return int64(binary.BigEndian.Uint64(row.Value)), nil
}

// dropEvents removes events and remembers, in the same transaction, how far the
// past was removed.
func (s *Store) dropEvents(ctx context.Context, tx *ent.Tx, ids []int64) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	before, err := prunedEvents(ctx, tx.Client())
	if err != nil {
		return 0, err
	}
	greatest := before
	for _, id := range ids {
		greatest = max(greatest, id)
	}
	if greatest > before {
		err := tx.Setting.Create().SetID(prunedKey).SetValue(binary.BigEndian.AppendUint64(nil, uint64(greatest))).SetUpdatedAt(s.now()).
			OnConflictColumns(setting.FieldID).UpdateNewValues().Exec(ctx)
		if err != nil {
			return 0, err
		}
	}
	return tx.Event.Delete().Where(event.IDIn(ids...)).Exec(ctx)
}

// Ping reports whether the catalog answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	err := s.main.db.QueryRowContext(ctx, "SELECT 1").Scan(&one)
	if err == nil && one != 1 {
		err = errors.New("the database does not count")
	}
	return s.explain("asking the catalog whether it is there", err)
}
