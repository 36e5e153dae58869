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

	mu   sync.Mutex
	last time.Time // of an announcement that was read, or the end of a scan
	busy int       // scans under way
}

// newUevents returns a listener; the first scan counts as under way already.
func newUevents(rescan func()) *uevents { return &uevents{rescan: rescan, last: time.Now(), busy: 1} }

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
	u.begin()
	defer u.end()
	u.rescan()
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
	u.end()
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
// loaded as long.
func (u *uevents) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, settleWait)
	defer cancel()
	for {
		u.mu.Lock()
		quiet := time.Since(u.last)
		if u.busy > 0 {
			// A driver is looking at its hardware.
			quiet = 0
		}
		u.mu.Unlock()
		if quiet >= settleQuiet {
			return
		}
		select {
		case <-time.After(settleQuiet - quiet):
		case <-ctx.Done():
			return
		}
	}
}
