package control

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// What ends serve ends the session too: a follower that is told of the one first
// sees the other all the same.
func TestTheExitIsSeenThoughWhatItIsFollowedInEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSession()
		f := s.Follow()
		ctx, cancel := context.WithCancel(t.Context())
		type next struct {
			m   Message
			err error
		}
		got := make(chan next, 1)
		follow := func() {
			m, err := f.Next(ctx)
			got <- next{m, err}
		}
		go follow()
		synctest.Wait()
		exit, err := New(KindExit, Exit{Code: 1})
		if err != nil {
			t.Fatal(err)
		}
		s.mu.Lock() // the follower wakes, and waits for it
		cancel()
		s.append(exit)
		s.ended = true
		s.mu.Unlock()
		if n := <-got; n.err != nil || n.m.Kind != KindExit {
			t.Errorf("Next = %s, %v; want the exit", n.m.Kind, n.err)
		}
		s.ended = false
		if follow(); !errors.Is((<-got).err, context.Canceled) {
			t.Error("Next with nothing more to see does not end with its context")
		}
	})
}
