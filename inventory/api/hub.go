package api

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// hub follows the catalog's events once for all watchers, whoever wrote them: the
// order of their ids is the order of their commits, so asking for what came after
// the last one misses nothing, also of other programs on the same catalog. While
// nobody watches it asks for nothing.
type hub struct {
	cfg Config
	// wake is signalled when the first watcher comes.
	wake chan struct{}
	cut  atomic.Uint64 // watchers that were cut off

	mu       sync.Mutex
	stopped  bool
	at       int64 // id of the last event that was handed out
	watchers map[*watcher]struct{}
	places   int // watches that were admitted
}

// news is one event on its way to all watchers.
type news struct {
	inventory.Event
	json    func() ([]byte, error)
	subject func(context.Context) (subject, error) // the machine as it is now
}

// hubPage is how many events are read from the catalog at a time.
const hubPage = 500

func newHub(cfg Config) *hub {
	return &hub{cfg: cfg, wake: make(chan struct{}, 1), watchers: map[*watcher]struct{}{}}
}

// run hands events out until ctx ends; then every watcher is told to end.
func (h *hub) run(ctx context.Context) {
	defer h.stop()
	ticker := time.NewTicker(h.cfg.WatchInterval)
	defer ticker.Stop()
	for {
		if !h.watched() {
			select {
			case <-ctx.Done():
				return
			case <-h.wake:
			}
		}
		if err := h.follow(ctx); err != nil && ctx.Err() == nil {
			h.cfg.Log.Warn("following events for watchers", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (h *hub) watched() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.watchers) > 0
}

func (h *hub) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.stopped = true
	for w := range h.watchers {
		w.end()
	}
	clear(h.watchers)
}

// follow hands out what was committed since the last time.
func (h *hub) follow(ctx context.Context) error {
	for {
		h.mu.Lock()
		after := h.at
		h.mu.Unlock()
		events, err := h.cfg.Catalog.EventsAfter(ctx, after, hubPage)
		if err != nil || len(events) == 0 {
			return err
		}
		batch := make([]news, len(events))
		for i, e := range events {
			batch[i] = h.newsOf(e)
		}
		h.hand(batch)
		if len(events) < hubPage {
			return nil
		}
	}
}

// newsOf prepares an event so that its JSON is made, and its machine is read, at
// most once for all watchers.
func (h *hub) newsOf(e inventory.Event) news {
	read := make(chan struct{}, 1) // held while one watcher reads for all
	var machine subject
	var done bool
	return news{
		Event: e,
		json:  sync.OnceValues(func() ([]byte, error) { return encode(e) }),
		subject: func(ctx context.Context) (subject, error) {
			select {
			case read <- struct{}{}:
				defer func() { <-read }()
			case <-ctx.Done():
				return subject{}, ctx.Err()
			}
			var err error
			if !done {
				if machine, err = readSubject(ctx, h.cfg, e.Machine); err == nil {
					done = true
				}
			}
			return machine, err
		},
	}
}

// hand gives a batch to every watcher, and ends those that have not taken what
// waits for them.
func (h *hub) hand(batch []news) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.at = batch[len(batch)-1].ID
	for w := range h.watchers {
		if !w.offer(batch, h.cfg.WatchQueue) {
			w.end()
			delete(h.watchers, w)
			h.cut.Add(1)
		}
	}
}

// admit counts a watch in; false when there are as many as there may be, or
// nobody follows the events any more. One that comes before run is told of what
// happens when run begins.
func (h *hub) admit() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped || h.places >= h.cfg.Watchers {
		return false
	}
	h.places++
	return true
}

// depart undoes admit.
func (h *hub) depart() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.places--
}

// size is the number of watches.
func (h *hub) size() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.places
}

// join makes a watcher that gets every event with an id greater than from.
func (h *hub) join(ctx context.Context) (w *watcher, from int64, err error) {
	h.mu.Lock()
	idle := len(h.watchers) == 0
	h.mu.Unlock()
	if idle { // nobody has followed for a while: begin with what comes next
		span, err := h.cfg.Catalog.EventSpan(ctx)
		if err != nil {
			return nil, 0, err
		}
		h.mu.Lock()
		if len(h.watchers) == 0 {
			h.at = max(h.at, span.Newest)
		}
		h.mu.Unlock()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	w = &watcher{ready: make(chan struct{}, 1), ended: make(chan struct{})}
	if h.stopped {
		w.end()
		return w, h.at, nil
	}
	h.watchers[w] = struct{}{}
	select {
	case h.wake <- struct{}{}:
	default:
	}
	return w, h.at, nil
}

func (h *hub) leave(w *watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.watchers, w)
}

// watcher is the queue of one watch.
type watcher struct {
	ready chan struct{} // something waits
	ended chan struct{} // closed: nothing more comes
	once  sync.Once

	mu      sync.Mutex
	batches [][]news
	waiting int // events in batches
}

func (w *watcher) end() { w.once.Do(func() { close(w.ended) }) }

// offer appends a batch; false when more than most events would wait.
func (w *watcher) offer(batch []news, most int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting > 0 && w.waiting+len(batch) > most {
		return false
	}
	w.batches = append(w.batches, batch)
	w.waiting += len(batch)
	select {
	case w.ready <- struct{}{}:
	default:
	}
	return true
}

// take empties the queue.
func (w *watcher) take() [][]news {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.batches
	w.batches, w.waiting = nil, 0
	return out
}

// machineEvent reports whether an event says that a machine changed or went.
func machineEvent(e inventory.Event) bool {
	return (e.Kind == inventory.EventMachineChanged || e.Kind == inventory.EventMachineRemoved) && e.Machine != uuid.Nil
}
