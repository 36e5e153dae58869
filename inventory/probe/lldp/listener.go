package lldp

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// Config configures a Listener.
type Config struct {
	// Ports names the ports to listen on: those that have a link now. It is asked
	// again every second. Required.
	Ports func() []string
	// Open opens a port; each Read returns one frame, and Close ends a Read that
	// waits. Nil opens a socket, for which a program needs CAP_NET_RAW.
	Open func(port string) (io.ReadCloser, error)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

const (
	// rescan is how often ports are looked for.
	rescan = time.Second
	// newsInterval is the least time between the first two signals of News; it
	// doubles up to maxNewsInterval: a stranger on the wire may send as much as it
	// likes, and each signal becomes a document.
	newsInterval    = 10 * time.Second
	maxNewsInterval = 10 * time.Minute
	// maxNeighbors bounds what is kept of one port. Behind a hub, or a switch that
	// forwards the frames, are several.
	maxNeighbors = 16
	// maxFrameBytes is more than an Ethernet frame with two tags has.
	maxFrameBytes = 2048
)

// Listener keeps what is heard on ports for as long as it is true.
type Listener struct {
	cfg  Config
	news chan struct{}

	mu      sync.Mutex
	ports   map[string]*port
	scanned bool
	changed chan struct{} // closed and made anew whenever something above changes
	fresh   bool          // somebody was heard whom News has not told
	told    time.Time
	pause   time.Duration // until News may be signalled again
}

// port is one that is listened on, or that could not be.
type port struct {
	conn  io.ReadCloser
	err   error
	heard []neighbor
}

type neighbor struct {
	inventory.Neighbor
	until time.Time
}

// NewListener returns a Listener; Run makes it listen.
func NewListener(cfg Config) *Listener {
	if cfg.Open == nil {
		cfg.Open = openSocket
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Listener{cfg: cfg, news: make(chan struct{}, 1), ports: map[string]*port{}, changed: make(chan struct{})}
}

// Run listens until ctx ends; nothing of it runs when it has returned.
func (l *Listener) Run(ctx context.Context) {
	var reading sync.WaitGroup
	defer reading.Wait()
	defer l.keep(nil)
	tick := time.NewTicker(rescan)
	defer tick.Stop()
	for {
		names := l.cfg.Ports()
		l.keep(names)
		for _, name := range names {
			if p := l.open(name); p != nil {
				reading.Go(func() { l.read(name, p) })
			}
		}
		l.tell()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// keep lets go of the ports that are not among names: whose cable was pulled is
// connected to something else next time.
func (l *Listener) keep(names []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name, p := range l.ports {
		if slices.Contains(names, name) && p.err == nil {
			continue
		}
		if p.conn != nil {
			p.conn.Close()
		}
		delete(l.ports, name)
		l.wake()
	}
}

// open begins to listen on a port; nil when that goes on already, or cannot be.
func (l *Listener) open(name string) *port {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ports[name] != nil {
		return nil
	}
	conn, err := l.cfg.Open(name)
	p := &port{conn: conn, err: err}
	l.ports[name] = p
	if err != nil {
		p.conn = nil
		return nil
	}
	return p
}

// wake tells who waits that something changed. l.mu is held.
func (l *Listener) wake() {
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Listener) read(name string, p *port) {
	frame := make([]byte, maxFrameBytes)
	for {
		n, err := p.conn.Read(frame)
		if err != nil {
			// The port was switched off or taken out, or Run ends. If it is still
			// there, the next scan opens it again.
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.ports[name] == p {
				p.conn.Close()
				delete(l.ports, name)
			}
			return
		}
		if a, err := Parse(frame[:n]); err == nil {
			l.hear(p, a)
		}
	}
}

func (l *Listener) hear(p *port, a Announcement) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	p.heard = slices.DeleteFunc(p.heard, func(n neighbor) bool { return !now.Before(n.until) })
	i := slices.IndexFunc(p.heard, func(n neighbor) bool { return n.Chassis == a.Chassis && n.Port == a.Port })
	switch {
	case a.Lifetime == 0:
		if i >= 0 {
			p.heard = slices.Delete(p.heard, i, i+1)
		}
	case i >= 0:
		p.heard[i] = neighbor{a.Neighbor, now.Add(a.Lifetime)}
	case len(p.heard) < maxNeighbors:
		l.fresh = true
		p.heard = append(p.heard, neighbor{a.Neighbor, now.Add(a.Lifetime)})
	}
}

// tell signals that all ports were looked at, and News, unless that was done a
// moment ago.
func (l *Listener) tell() {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.scanned {
		l.scanned = true
		l.wake()
	}
	if !l.fresh || now.Sub(l.told) < l.pause {
		return
	}
	l.fresh, l.told, l.pause = false, now, min(max(newsInterval, 2*l.pause), maxNewsInterval)
	select {
	case l.news <- struct{}{}:
	default:
	}
}

// News is signalled when a chassis or port was heard that was not known, at once, and
// then more and more seldom.
func (l *Listener) News() <-chan struct{} { return l.news }

// Heard is what a port is connected to, as far as it was heard and is still true.
// The error says why the port cannot be listened on.
func (l *Listener) Heard(name string) ([]inventory.Neighbor, error) {
	now := l.cfg.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.ports[name]
	if p == nil {
		return nil, nil // it has no link
	}
	if p.err != nil {
		return nil, fmt.Errorf("listening for LLDP on port %s: %w", name, p.err)
	}
	var out []inventory.Neighbor
	for _, n := range p.heard {
		if now.Before(n.until) {
			out = append(out, n.Neighbor)
		}
	}
	slices.SortFunc(out, func(a, b inventory.Neighbor) int {
		return cmp.Or(cmp.Compare(a.Chassis, b.Chassis), cmp.Compare(a.Port, b.Port))
	})
	return out, nil
}

// Wait returns when ctx ends, or before when there is no port to listen on that known
// does not say it need not be waited for. That a port was heard ends no wait: behind
// it may be others, who speak at other times.
func (l *Listener) Wait(ctx context.Context, known func(port string) bool) {
	for {
		l.mu.Lock()
		done, changed := l.scanned, l.changed
		for name, p := range l.ports {
			done = done && (p.err != nil || known(name))
		}
		l.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
