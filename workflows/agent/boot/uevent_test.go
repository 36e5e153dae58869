package boot

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// While drivers are loaded nobody reads what the kernel announces, and disks appear
// after their driver was loaded.
func TestSettlingBeginsWhenTheLastDriverWasLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		u := newUevents(func() {})
		u.end() // of the first scan
		const loading = 10*settleQuiet + settleQuiet/4
		var background sync.WaitGroup
		u.during(func() { <-time.After(loading) }, &background)
		u.settle(t.Context())
		if took := time.Since(began); took < loading+settleQuiet || took > loading+2*settleQuiet {
			t.Errorf("settle() took %s; want %s of quiet after %s of loading", took, settleQuiet, loading)
		}
		background.Wait()
	})
}

// A driver that never comes back keeps nothing from being reported.
func TestSettlingHasABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		u := newUevents(func() {})
		u.settle(t.Context()) // the first scan does not end
		if took := time.Since(began); took != settleWait {
			t.Errorf("settle() took %s; want its bound, %s", took, settleWait)
		}
	})
}
