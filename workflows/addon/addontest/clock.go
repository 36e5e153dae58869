package addontest

import "time"

// Clock is one on which every wait is over at once, and took as long as it was to take.
// It is for one goroutine.
type Clock struct{ At time.Time }

// Now is the time after all waits.
func (c *Clock) Now() time.Time { return c.At }

// After has waited.
func (c *Clock) After(d time.Duration) <-chan time.Time {
	c.At = c.At.Add(d)
	passed := make(chan time.Time, 1)
	passed <- c.At
	return passed
}
