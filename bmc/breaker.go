package bmc

import "time"

// breaker stops calls to a BMC that does not answer, because each would cost
// its full timeout. It counts calls, not attempts.
type breaker struct {
	after    int
	coolDown time.Duration
	misses   int
	until    time.Time
	last     error
}

// open reports whether calls must fail without being tried. After the
// cool-down one call is let through; missed closes the door again at once.
func (b *breaker) open(now time.Time) bool {
	return b.misses >= b.after && now.Before(b.until)
}

// missed counts a call that found the BMC unreachable.
func (b *breaker) missed(now time.Time, err error) {
	b.misses++
	b.last = err
	b.until = now.Add(b.coolDown)
}

// reached resets the count.
func (b *breaker) reached() { b.misses, b.last = 0, nil }
