package pxe

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// mustMAC parses a MAC of a test.
func mustMAC(s string) inventory.MAC {
	m, err := inventory.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// bootFunc is a Booter made of a function.
type bootFunc func(Client) (Answer, error)

func (f bootFunc) Boot(_ context.Context, c Client) (Answer, error) { return f(c) }

// always gives every client one answer.
func always(a Answer) Booter { return bootFunc(func(Client) (Answer, error) { return a, nil }) }

// memoryLeases keeps leases in memory, in the order in which they were
// committed, and fails on demand.
type memoryLeases struct {
	mu       sync.Mutex
	reserved []Reservation
	kept     map[inventory.MAC]inventory.Lease
	commits  []inventory.Lease
	fail     error
	onCommit func(inventory.Lease)
}

func (l *memoryLeases) Reservations(context.Context) ([]Reservation, error) { return l.reserved, nil }

func (l *memoryLeases) Leases(context.Context, string) ([]inventory.Lease, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Values(l.kept)), nil
}

func (l *memoryLeases) Commit(_ context.Context, lease inventory.Lease) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.onCommit != nil {
		l.onCommit(lease)
	}
	if l.fail != nil {
		return l.fail
	}
	if l.kept == nil {
		l.kept = map[inventory.MAC]inventory.Lease{}
	}
	l.kept[lease.MAC] = lease
	l.commits = append(l.commits, lease)
	return nil
}

// eventLog keeps events and lets a test wait for one.
type eventLog struct {
	mu     sync.Mutex
	events []inventory.Event
	more   chan struct{}
}

func newEventLog() *eventLog { return &eventLog{more: make(chan struct{}, 1)} }

func (l *eventLog) Record(e inventory.Event) {
	l.mu.Lock()
	l.events = append(l.events, e)
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *eventLog) all() []inventory.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.events)
}

func (l *eventLog) kinds() (kinds []inventory.EventKind) {
	for _, e := range l.all() {
		kinds = append(kinds, e.Kind)
	}
	return kinds
}

func (l *eventLog) find(match func(inventory.Event) bool) (inventory.Event, bool) {
	for _, e := range l.all() {
		if match(e) {
			return e, true
		}
	}
	return inventory.Event{}, false
}

// eventBound ends a wait for what was to come; a busy machine needs far less.
const eventBound = 30 * time.Second

// await waits until an event matches.
func (l *eventLog) await(t *testing.T, limit time.Duration, what string, match func(inventory.Event) bool) inventory.Event {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for {
		if e, ok := l.find(match); ok {
			return e
		}
		select {
		case <-l.more:
		case <-deadline.C:
			t.Fatalf("no event %q within %s; got %v", what, limit, l.kinds())
		}
	}
}

func ofKind(k inventory.EventKind) func(inventory.Event) bool {
	return func(e inventory.Event) bool { return e.Kind == k }
}

var (
	testPrefix = netip.MustParsePrefix("172.22.77.0/24")
	testServer = netip.MustParseAddr("172.22.77.1")
)

// eventOf matches a kind with one attribute.
func eventOf(kind inventory.EventKind, attr, value string) func(inventory.Event) bool {
	return func(e inventory.Event) bool { return e.Kind == kind && e.Attrs[attr] == value }
}
