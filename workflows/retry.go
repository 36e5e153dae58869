package workflows

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Clock is the time that the engine sees.
type Clock interface {
	Now() time.Time
	// After is time.After of this clock.
	After(d time.Duration) <-chan time.Time
}

// SystemClock is the machine's own clock.
type SystemClock struct{}

// Now implements Clock.
func (SystemClock) Now() time.Time { return time.Now() }

// After implements Clock.
func (SystemClock) After(d time.Duration) <-chan time.Time { return time.After(d) }

// giveUp marks an error that no repetition can mend.
type giveUp struct{ err error }

func (g giveUp) Error() string { return g.err.Error() }
func (g giveUp) Unwrap() error { return g.err }

// GiveUp wraps err so that no retry follows it: a refused credential, a disk
// that is not the one that was approved.
func GiveUp(err error) error {
	if err == nil {
		return nil
	}
	return giveUp{err}
}

// Final reports whether err was marked by GiveUp.
func Final(err error) bool {
	var g giveUp
	return errors.As(err, &g)
}

// Retry is a budget of attempts with growing pauses between them.
type Retry struct {
	// Attempts counts the first one too; zero means one.
	Attempts int
	// Backoff is the pause after the first failure; it doubles with each
	// further one up to MaxBackoff, and each pause is spread by ±25 % so that
	// a rack of machines does not knock at once.
	Backoff time.Duration
	// MaxBackoff is 16 × Backoff when zero.
	MaxBackoff time.Duration
	// Halt ends the tries when it is closed: the one under way is the last.
	Halt <-chan struct{}
	// Jitter returns a number in [0,1); rand.Float64 when nil.
	Jitter func() float64
}

// Do calls attempt until it succeeds, gives up, the budget is spent or ctx
// ends. The error names the number of attempts when there were several.
func (r Retry) Do(ctx context.Context, clock Clock, attempt func(ctx context.Context, n int) error) error {
	attempts := max(r.Attempts, 1)
	for n := 1; ; n++ {
		err := attempt(ctx, n)
		switch {
		case err == nil:
			return nil
		case Final(err) || n == attempts || ctx.Err() != nil:
			if n > 1 {
				return fmt.Errorf("after %d attempts: %w", n, err)
			}
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-r.Halt:
			return fmt.Errorf("stopped after %d of %d attempts: %w", n, attempts, err)
		case <-clock.After(r.pause(n)):
		}
	}
}

// pause is how long to wait after failure n.
func (r Retry) pause(n int) time.Duration {
	ceiling := r.MaxBackoff
	if ceiling == 0 {
		ceiling = 16 * r.Backoff
	}
	d := r.Backoff
	for i := 1; i < n && d < ceiling; i++ {
		d *= 2
	}
	jitter := r.Jitter
	if jitter == nil {
		jitter = rand.Float64
	}
	return time.Duration(float64(min(d, ceiling)) * (0.75 + jitter()/2))
}
