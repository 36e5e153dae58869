package pxe

import (
	"net"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// limiter admits a bounded number of things per key and in all, in windows of
// fixed length. Its memory is bounded by total.
type limiter[K comparable] struct {
	each, total int
	window      time.Duration

	mu    sync.Mutex
	began time.Time
	sum   int
	count map[K]int
}

func newLimiter[K comparable](each, total int, window time.Duration) *limiter[K] {
	return &limiter[K]{each: each, total: total, window: window, count: map[K]int{}}
}

// allow reports whether one more is admitted now.
func (l *limiter[K]) allow(k K, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if d := now.Sub(l.began); d < 0 || d >= l.window {
		l.began, l.sum = now, 0
		clear(l.count)
	}
	if l.sum >= l.total || l.count[k] >= l.each {
		return false
	}
	l.sum++
	l.count[k]++
	return true
}

// Limits of DHCP. A machine's whole boot is some twenty packets; a rack of
// hundreds that is switched on at once stays far below the total.
const (
	packetsPerClient = 20
	packetsInAll     = 2000
	packetWindow     = time.Second
	// A stranger is recorded once a minute, and 500 strangers at most.
	strangerWindow = time.Minute
	strangersInAll = 500
)

func newPacketLimiter() *limiter[inventory.MAC] {
	return newLimiter[inventory.MAC](packetsPerClient, packetsInAll, packetWindow)
}

// gauge counts what is under way, per key and in all.
type gauge[K comparable] struct {
	each, total int

	mu    sync.Mutex
	sum   int
	count map[K]int
}

func newGauge[K comparable](each, total int) *gauge[K] {
	return &gauge[K]{each: each, total: total, count: map[K]int{}}
}

// enter reports whether one more may be under way; if so, leave must follow.
func (g *gauge[K]) enter(k K) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sum >= g.total || g.count[k] >= g.each {
		return false
	}
	g.sum++
	g.count[k]++
	return true
}

func (g *gauge[K]) leave(k K) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sum--
	if g.count[k]--; g.count[k] == 0 {
		delete(g.count, k)
	}
}

// Limits of TCP connections: a client fetches chunks over a handful at once.
const (
	connsPerClient = 64
	connsInAll     = 2048
)

// limitListener closes connections above the limits at once, so that one
// client cannot keep the others out.
type limitListener struct {
	net.Listener
	open *gauge[string]
}

func (l limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		if l.open.enter(host) {
			return &limitConn{TCPConn: c.(*net.TCPConn), leave: func() { l.open.leave(host) }}, nil
		}
		c.Close()
	}
}

// limitConn stays a *net.TCPConn inside, so that files still go out by sendfile.
type limitConn struct {
	*net.TCPConn
	once  sync.Once
	leave func()
}

func (c *limitConn) Close() error {
	c.once.Do(c.leave)
	return c.TCPConn.Close()
}
