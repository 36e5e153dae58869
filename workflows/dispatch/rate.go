package dispatch

import (
	"sync"
	"time"
)

// bucket is a token bucket: perSecond on average, burst at once.
type bucket struct {
	perSecond, burst float64
	now              func() time.Time

	mu    sync.Mutex
	level float64
	last  time.Time
}

func newBucket(perSecond, burst float64, now func() time.Time) *bucket {
	return &bucket{perSecond: perSecond, burst: burst, now: now, level: burst, last: now()}
}

// take reports whether one more may pass now.
func (b *bucket) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.now()
	if passed := now.Sub(b.last).Seconds(); passed > 0 {
		b.level = min(b.burst, b.level+passed*b.perSecond)
	}
	b.last = now
	if b.level < 1 {
		return false
	}
	b.level--
	return true
}
