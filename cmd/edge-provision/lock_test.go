package main

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/site"
)

func TestWhoLosesTheSitesLockStops(t *testing.T) {
	s, err := store.Open(t.Context(), store.Config{Path: t.TempDir() + "/catalog.db"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	self, err := store.Self("apply")
	if err != nil {
		t.Fatal(err)
	}
	fence, err := s.Lock(t.Context(), "shop", siteLock, self)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{app: &app{stderr: t.Output()}, catalog: s, site: &site.Site{Name: "shop"}}
	held, lose := context.WithCancelCause(t.Context())
	defer lose(nil)
	ticks, done := make(chan time.Time), make(chan struct{})
	go func() {
		defer close(done)
		w.keepLock(t.Context(), ticks, fence, lose)
	}()
	ticks <- time.Time{}
	ticks <- time.Time{} // the first is done
	if err := lostLock(held); held.Err() != nil || err != nil {
		t.Fatalf("held = %v, %v; want it held", held.Err(), err)
	}
	if err := s.BreakLock(t.Context(), "shop", siteLock); err != nil {
		t.Fatal(err)
	}
	select {
	case ticks <- time.Time{}:
	case <-done: // the second tick came after the lock was broken
	}
	<-done
	var lost *store.LostLockError
	if err := lostLock(held); held.Err() == nil || !errors.As(err, &lost) {
		t.Errorf("held = %v, %v; want it to end, with a *LostLockError", held.Err(), err)
	}
}
