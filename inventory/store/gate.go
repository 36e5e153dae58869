package store

import (
	"context"
	"sync"
)

// priority is a writer's place in the queue for SQLite's one write lock.
type priority int

const (
	urgent priority = iota // leases: a machine waits for its address
	normal                 // everything else that a caller waits for
	idle                   // events: nobody waits
)

// gate admits one writer at a time, the most urgent first and in order of
// arrival among equals. SQLite's own lock is polled and knows no order: without
// the gate a busy writer of events could starve a lease.
type gate struct {
	mu      sync.Mutex
	busy    bool
	waiting [idle + 1][]chan struct{}
}

// enter waits until the caller may write, or ctx ends.
func (g *gate) enter(ctx context.Context, p priority) (release func(), err error) {
	g.mu.Lock()
	if !g.busy {
		g.busy = true
		g.mu.Unlock()
		return g.leave, nil
	}
	turn := make(chan struct{})
	g.waiting[p] = append(g.waiting[p], turn)
	g.mu.Unlock()

	select {
	case <-turn:
		return g.leave, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	for i, w := range g.waiting[p] {
		if w == turn {
			g.waiting[p] = append(g.waiting[p][:i], g.waiting[p][i+1:]...)
			g.mu.Unlock()
			return nil, ctx.Err()
		}
	}
	g.mu.Unlock()
	g.leave() // the turn came at the same moment: pass it on
	return nil, ctx.Err()
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range g.waiting {
		if len(g.waiting[p]) > 0 {
			turn := g.waiting[p][0]
			g.waiting[p] = g.waiting[p][1:]
			close(turn)
			return
		}
	}
	g.busy = false
}
