package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/event"
	"github.com/edge-provision/edge-provision/ent/mac"
	"github.com/edge-provision/edge-provision/ent/predicate"
	"github.com/edge-provision/edge-provision/inventory"
)

// EventFilter selects events; zero fields select everything.
type EventFilter struct {
	// Machine selects the events of a machine, also those that came by one
	// of its MACs before the machine was known.
	Machine uuid.UUID
	MAC     inventory.MAC
	Site    string
	Run     string
	Boot    string
	// Kinds selects these kinds; none selects all but machine.changed and
	// machine.removed.
	Kinds []inventory.EventKind
	// Since and Until bound the time, both inclusive.
	Since, Until time.Time
	// After selects events with a greater ID, for a reader that follows.
	After int64
	// Limit is the greatest number of events, the latest of those selected;
	// 10,000 when zero.
	Limit int
}

// Record hands an event to the writer and returns at once. When the queue is
// full the oldest event that waits is dropped and counted; see EventsDropped.
func (s *Store) Record(e inventory.Event) { s.events.record(e) }

// EventsDropped is how many events were lost since Open, because the queue was
// full or the catalog could not be written.
func (s *Store) EventsDropped() uint64 {
	s.events.mu.Lock()
	defer s.events.mu.Unlock()
	return s.events.dropped
}

// Flush returns when every event recorded before the call is in the catalog or
// was dropped, or when ctx ends.
func (s *Store) Flush(ctx context.Context) error { return s.events.flush(ctx) }

// Events returns the events that f selects, oldest first. Those recorded before
// the call are in it.
func (s *Store) Events(ctx context.Context, f EventFilter) ([]inventory.Event, error) {
	const op = "reading events"
	if err := s.Flush(ctx); err != nil {
		return nil, s.explain(op, err)
	}
	where, err := s.eventWhere(ctx, f)
	if err != nil {
		return nil, s.explain(op, err)
	}
	limit := f.Limit
	defaultTo(&limit, 10_000)
	order := ent.Desc(event.FieldTime, event.FieldID)
	if f.After > 0 {
		order = ent.Asc(event.FieldID) // a follower must not skip
	}
	rows, err := s.main.client.Event.Query().Where(where...).Order(order).Limit(limit).All(ctx)
	if err != nil {
		return nil, s.explain(op, err)
	}
	out := make([]inventory.Event, len(rows))
	for i, r := range rows {
		at := len(rows) - 1 - i
		if f.After > 0 {
			at = i
		}
		if out[at], err = eventOf(r); err != nil {
			return nil, s.explain(op, err)
		}
	}
	return out, nil
}

func (s *Store) eventWhere(ctx context.Context, f EventFilter) ([]predicate.Event, error) {
	var where []predicate.Event
	add := func(set bool, p predicate.Event) {
		if set {
			where = append(where, p)
		}
	}
	if f.Machine != uuid.Nil {
		macs, err := s.main.client.MAC.Query().Where(mac.MachineID(f.Machine)).Select(mac.FieldMAC).Strings(ctx)
		if err != nil {
			return nil, err
		}
		where = append(where, event.Or(event.MachineID(f.Machine), event.MACIn(macs...)))
	}
	kinds := make([]string, len(f.Kinds))
	for i, k := range f.Kinds {
		kinds[i] = string(k)
	}
	add(!f.MAC.IsZero(), event.MAC(f.MAC.String()))
	add(f.Site != "", event.Site(f.Site))
	add(f.Run != "", event.Run(f.Run))
	add(f.Boot != "", event.Boot(f.Boot))
	add(len(kinds) > 0, event.KindIn(kinds...))
	// Those are for followers of the catalog, who ask for them.
	add(len(kinds) == 0, event.KindNotIn(string(inventory.EventMachineChanged), string(inventory.EventMachineRemoved)))
	add(!f.Since.IsZero(), event.TimeGTE(stamp(f.Since)))
	add(!f.Until.IsZero(), event.TimeLTE(stamp(f.Until)))
	add(f.After > 0, event.IDGT(f.After))
	return where, nil
}

func eventOf(r *ent.Event) (inventory.Event, error) {
	e := inventory.Event{
		ID: r.ID, Time: r.Time.UTC(), Site: r.Site, Kind: inventory.EventKind(r.Kind),
		Step: r.Step, Boot: r.Boot, Message: r.Message, Attrs: r.Attrs,
	}
	if r.MachineID != nil {
		e.Machine = *r.MachineID
	}
	if r.Run != nil {
		e.Run = *r.Run
	}
	if r.MAC == nil {
		return e, nil
	}
	var err error
	e.MAC, err = inventory.ParseMAC(*r.MAC)
	return e, err
}

// Bounds of one event: parts of it are a stranger's words.
const (
	maxEventTextBytes = 4 << 10
	maxEventAttrs     = 64
)

// clean makes a stranger's text fit to be kept: valid UTF-8 without NUL, which
// PostgreSQL refuses, and of bounded length.
func clean(text string) string {
	if len(text) > maxEventTextBytes {
		text = text[:maxEventTextBytes]
	}
	return strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
}

// recorder writes events behind their recording, in batches.
type recorder struct {
	store *Store
	wake  chan struct{} // something waits
	hurry chan struct{} // and somebody waits for it
	done  chan struct{} // closed when run has returned
	end   context.CancelFunc

	mu      sync.Mutex
	queue   []inventory.Event
	taken   uint64 // events ever accepted
	settled uint64 // of those, written or dropped
	dropped uint64
	waiting []flusher
	closed  bool
}

// flusher waits until settled reaches upTo.
type flusher struct {
	upTo uint64
	done chan struct{}
}

const (
	eventBatch = 256
	// eventDelay lets events gather, so that a boot costs a few transactions
	// and not hundreds.
	eventDelay = 200 * time.Millisecond
	// eventTries and eventPause bound how long a batch is kept while the
	// catalog cannot be written.
	eventTries = 5
	eventPause = time.Second
)

func newRecorder(s *Store) *recorder {
	ctx, cancel := context.WithCancel(context.Background())
	r := &recorder{store: s, wake: make(chan struct{}, 1), hurry: make(chan struct{}, 1), done: make(chan struct{}), end: cancel}
	go r.run(ctx)
	return r
}

func (r *recorder) record(e inventory.Event) {
	if e.Time.IsZero() {
		e.Time = r.store.now()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken++
	if r.closed {
		r.drop(1)
		return
	}
	if len(r.queue) >= r.store.cfg.EventQueue {
		r.queue = r.queue[1:]
		r.drop(1)
	}
	r.queue = append(r.queue, e)
	signal(r.wake)
}

// signal leaves a token in c unless there is one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// drop counts n lost events; r.mu is held.
func (r *recorder) drop(n int) {
	r.dropped += uint64(n)
	r.settle(n)
}

// settle counts n events as dealt with; r.mu is held.
func (r *recorder) settle(n int) {
	r.settled += uint64(n)
	kept := r.waiting[:0]
	for _, f := range r.waiting {
		if f.upTo <= r.settled {
			close(f.done)
		} else {
			kept = append(kept, f)
		}
	}
	r.waiting = kept
}

func (r *recorder) flush(ctx context.Context) error {
	r.mu.Lock()
	f := flusher{upTo: r.taken, done: make(chan struct{})}
	if r.settled >= f.upTo {
		r.mu.Unlock()
		return nil
	}
	r.waiting = append(r.waiting, f)
	signal(r.hurry)
	r.mu.Unlock()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop writes what waits and ends the writer.
func (r *recorder) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), r.store.cfg.BusyTimeout)
	defer cancel()
	err := r.flush(ctx)
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.end()
	<-r.done
	if err != nil {
		return fmt.Errorf("writing the last events: %w", err)
	}
	return nil
}

func (r *recorder) run(ctx context.Context) {
	defer close(r.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.hurry:
		case <-r.wake:
			r.gather(ctx)
		}
		for {
			batch := r.take()
			if len(batch) == 0 {
				break
			}
			r.keep(ctx, batch)
		}
	}
}

// gather waits for more events, unless somebody waits for those there are.
func (r *recorder) gather(ctx context.Context) {
	t := time.NewTimer(eventDelay)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-r.hurry:
	case <-t.C:
	}
}

func (r *recorder) take() []inventory.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(eventBatch, len(r.queue))
	batch := make([]inventory.Event, n)
	copy(batch, r.queue)
	r.queue = r.queue[n:]
	return batch
}

// awaited reports whether somebody waits for the events.
func (r *recorder) awaited() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting) > 0
}

// keep writes a batch, or drops it when the catalog cannot be written for long.
func (r *recorder) keep(ctx context.Context, batch []inventory.Event) {
	var err error
	for try := range eventTries {
		if try > 0 {
			t := time.NewTimer(eventPause)
			select {
			case <-ctx.Done():
			case <-t.C:
			}
			t.Stop()
		}
		if err = r.insert(ctx, batch); err == nil || ctx.Err() != nil {
			break
		}
		// Room does not come back while a command waits to tell that there is
		// none.
		if _, full := errors.AsType[*FullError](err); full && r.awaited() {
			break
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.store.cfg.Log.Error("events were lost", "events", len(batch), "err", err)
		r.drop(len(batch))
		return
	}
	r.settle(len(batch))
}

func (r *recorder) insert(ctx context.Context, batch []inventory.Event) error {
	s := r.store
	return s.writeOn(ctx, s.event, idle, "writing events", func(tx *ent.Tx) error {
		machines, err := machinesOf(ctx, tx, batch)
		if err != nil {
			return err
		}
		rows := make([]*ent.EventCreate, len(batch))
		for i, e := range batch {
			row := tx.Event.Create().SetTime(stamp(e.Time)).SetKind(clean(string(e.Kind))).SetSite(clean(e.Site)).
				SetStep(clean(e.Step)).SetBoot(clean(e.Boot)).SetMessage(clean(e.Message))
			if !e.MAC.IsZero() {
				row.SetMAC(e.MAC.String())
			}
			if e.Run != "" {
				row.SetRun(clean(e.Run))
			}
			if e.Machine == uuid.Nil {
				e.Machine = machines[e.MAC.String()]
			}
			if e.Machine != uuid.Nil {
				row.SetMachineID(e.Machine)
			}
			if attrs := cleanAttrs(e.Attrs); attrs != nil {
				row.SetAttrs(attrs)
			}
			rows[i] = row
		}
		if err := s.orderEvents(ctx, tx); err != nil {
			return err
		}
		return tx.Event.CreateBulk(rows...).Exec(ctx)
	})
}

func cleanAttrs(attrs map[string]string) map[string]string {
	if len(attrs) == 0 {
		return nil
	}
	out := make(map[string]string, len(attrs))
	for k, v := range attrs {
		if len(out) == maxEventAttrs {
			break
		}
		out[clean(k)] = clean(v)
	}
	return out
}

// machinesOf finds the machines of the batch's MACs.
func machinesOf(ctx context.Context, tx *ent.Tx, batch []inventory.Event) (map[string]uuid.UUID, error) {
	found := map[string]uuid.UUID{}
	var seen []string
	for _, e := range batch {
		if e.Machine == uuid.Nil && !e.MAC.IsZero() {
			seen = append(seen, e.MAC.String())
		}
	}
	if len(seen) == 0 {
		return found, nil
	}
	rows, err := tx.MAC.Query().Where(mac.MACIn(seen...)).All(ctx)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		found[r.MAC] = r.MachineID
	}
	return found, nil
}
