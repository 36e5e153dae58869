package boot

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// uevents listens to the kernel's announcements of devices. Each one only wakes
// a scan of everything: a lost announcement then costs nothing but time.
type uevents struct {
	rescan func()
	// waiting is told, from time to time, that what wants to know the machine's disks
	// waits for drivers, and at last, when nothing is left to wait, that it does no
	// longer; nil tells nobody.
	waiting func(left time.Duration)

	mu    sync.Mutex
	last  time.Time // of an announcement that was read, or the end of a scan
	busy  int       // scans under way, and what else loads drivers
	scans int       // scans under way
	since time.Time // when the first of these scans began
}

// newUevents returns a listener; the first scan counts as under way already.
func newUevents(rescan func()) *uevents {
	u := &uevents{rescan: rescan, last: time.Now()}
	u.beginScan()
	return u
}

// during runs do in the background; until it ends, nothing settles.
func (u *uevents) during(do func(), background *sync.WaitGroup) {
	u.begin()
	background.Go(func() {
		defer u.end()
		do()
	})
}

// scan looks for devices now.
func (u *uevents) scan() {
	u.beginScan()
	defer u.endScan()
	u.rescan()
}

func (u *uevents) beginScan() {
	u.begin()
	u.mu.Lock()
	if u.scans++; u.scans == 1 {
		u.since = time.Now()
	}
	u.mu.Unlock()
}

func (u *uevents) endScan() {
	u.mu.Lock()
	u.scans--
	u.mu.Unlock()
	u.end()
}

func (u *uevents) begin() {
	u.mu.Lock()
	u.busy++
	u.mu.Unlock()
}

func (u *uevents) end() {
	u.mu.Lock()
	u.busy--
	// What was announced meanwhile was not read yet, and drivers look for their
	// devices after they were loaded.
	u.last = time.Now()
	u.mu.Unlock()
}

// rescanInterval is how often devices are looked for without an announcement.
const rescanInterval = 2 * time.Second

// run listens until ctx ends.
func (u *uevents) run(ctx context.Context) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err == nil {
		defer unix.Close(fd)
		// Without the socket, the interval alone wakes the scan.
		_ = unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1})
	}
	buffer := make([]byte, 16<<10)
	u.rescan()
	u.endScan()
	lastScan := time.Now()
	for ctx.Err() == nil {
		heard := false
		if err == nil {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, pollErr := unix.Poll(poll, int((100 * time.Millisecond).Milliseconds()))
			for n > 0 && pollErr == nil {
				if _, _, err := unix.Recvfrom(fd, buffer, 0); err != nil {
					break
				}
				heard = true
			}
		} else {
			select {
			case <-time.After(rescanInterval):
			case <-ctx.Done():
				return
			}
		}
		if heard {
			u.mu.Lock()
			u.last = time.Now()
			u.mu.Unlock()
		}
		if heard || time.Since(lastScan) > rescanInterval {
			u.scan()
			lastScan = time.Now()
		}
	}
}

// settle waits until the kernel has been silent for settleQuiet, and nothing was
// loaded as long. It does not wait for ever: for announcements that do not end, up to
// settleWait, and for a driver that looks for its devices, up to driverWait. known is
// false after the latter, when disks may be there that nobody has seen yet.
func (u *uevents) settle(ctx context.Context) (known bool) {
	began := time.Now()
	calm, told := began, began
	for ctx.Err() == nil {
		now := time.Now()
		u.mu.Lock()
		quiet := now.Sub(u.last)
		if u.busy > 0 {
			quiet = 0
		}
		scanning := u.scans > 0
		slow := scanning && now.Sub(u.since) >= settleQuiet
		u.mu.Unlock()
		if slow {
			calm = now
		}
		left := driverWait - now.Sub(began)
		switch {
		case quiet >= settleQuiet:
			return true
		case left <= 0:
			if scanning {
				u.tell(0)
			}
			return !scanning
		case now.Sub(calm) >= settleWait:
			return true
		case slow && now.Sub(told) >= settleWait:
			told = now
			u.tell(left)
		}
		select {
		case <-time.After(settleQuiet - quiet):
		case <-ctx.Done():
		}
	}
	return false
}

func (u *uevents) tell(left time.Duration) {
	if u.waiting != nil {
		u.waiting(left)
	}
}
