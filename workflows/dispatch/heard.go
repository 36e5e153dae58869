package dispatch

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// heardInterval is how often a machine's sign of life is written down. A report
// of progress comes every second or so, and is kept as an event only when a new
// phase begins.
const heardInterval = 30 * time.Second

// heardKey is the Store's key of a machine's last sign of life.
func heardKey(machine uuid.UUID) string { return "heard/" + machine.String() }

// Heard is when a machine last reported progress of a task, to this process or
// to another one with the same Store, at most half a minute too early; the zero
// time when it never did.
func Heard(ctx context.Context, store Store, machine uuid.UUID) (time.Time, error) {
	var at time.Time
	raw, err := store.Get(ctx, heardKey(machine))
	if isNotExist(err) {
		return at, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &at)
	}
	if err != nil {
		return at, fmt.Errorf("reading when machine %s was last heard: %w", machine, err)
	}
	return at, nil
}

// heard keeps a sign of life. One that cannot be kept is no reason to refuse the
// report that it came with.
func (s *Server) heard(ctx context.Context, m *machine) {
	now := s.now()
	m.mu.Lock()
	due := now.Sub(m.heard) >= heardInterval
	if due {
		m.heard = now
	}
	m.mu.Unlock()
	if !due {
		return
	}
	raw, err := json.Marshal(now)
	if err == nil {
		err = s.cfg.Store.Put(ctx, heardKey(m.id), raw)
	}
	if err != nil {
		s.log.WarnContext(ctx, "keeping when a machine was heard", "machine", m.id, "error", err)
	}
}
