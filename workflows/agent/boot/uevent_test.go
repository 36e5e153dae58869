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
		u.endScan() // the first one
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

// A SAS controller may tell of its first disk after minutes. Whoever knows the others
// only may choose the wrong one.
func TestSettlingWaitsForASlowDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		u := newUevents(func() {})
		told := 0
		u.waiting = func(time.Duration) { told++ }
		const scanning = 2*time.Minute + settleQuiet/4
		go func() {
			<-time.After(scanning)
			u.endScan()
		}()
		known := u.settle(t.Context())
		if took := time.Since(began); !known || took < scanning+settleQuiet || took > scanning+2*settleQuiet {
			t.Errorf("settle() = %v after %s; want the disks known %s after the driver was done", known, took, settleQuiet)
		}
		// The controller takes a machine that says nothing for a minute for gone.
		if want := int(scanning / settleWait); told < want-1 || told > want {
			t.Errorf("said %d times that it waits; want every %s", told, settleWait)
		}
	})
}

// A driver that never comes back keeps nothing from being reported, but the disks.
func TestSettlingHasABound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		u := newUevents(func() {})
		var left []time.Duration
		u.waiting = func(l time.Duration) { left = append(left, l) }
		known := u.settle(t.Context()) // the first scan does not end
		if took := time.Since(began); known || took != driverWait || len(left) == 0 || left[len(left)-1] != 0 {
			t.Errorf("settle() = %v after %s, said that %s are left; want its bound, %s, the disks not known, and the end said", known, took, left, driverWait)
		}
	})
}

// What brings no disks, such as the BMC's device, and a kernel that has always
// something to announce, hold up the disks for a while only.
func TestSettlingDoesNotWaitLongForWhatBringsNoDisks(t *testing.T) {
	for name, disturb := range map[string]func(u *uevents, stop <-chan struct{}){
		"extra module": func(u *uevents, stop <-chan struct{}) {
			u.begin()
			<-stop
			u.end()
		},
		"announcements": func(u *uevents, stop <-chan struct{}) {
			for {
				select {
				case <-time.After(settleQuiet / 2):
					u.scan()
				case <-stop:
					return
				}
			}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			u := newUevents(func() { <-time.After(settleQuiet / 8) })
			u.endScan()
			stop := make(chan struct{})
			go disturb(u, stop)
			known := u.settle(t.Context())
			if took := time.Since(began); !known || took < settleWait || took > settleWait+settleQuiet {
				t.Errorf("%s: settle() = %v after %s; want the disks known after %s", name, known, took, settleWait)
			}
			close(stop)
		})
	}
}
