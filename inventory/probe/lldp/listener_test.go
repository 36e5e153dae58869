package lldp

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wire is a port that frames can be put on.
type wire struct {
	frames chan []byte
	closed chan struct{}
	once   sync.Once
}

func newWire() *wire { return &wire{frames: make(chan []byte), closed: make(chan struct{})} }

func (w *wire) Read(p []byte) (int, error) {
	select {
	case f := <-w.frames:
		return copy(p, f), nil
	case <-w.closed:
		return 0, io.ErrClosedPipe
	}
}

func (w *wire) Close() error {
	w.once.Do(func() { close(w.closed) })
	return nil
}

// rig is a listener with ports that have a link or not.
type rig struct {
	*Listener
	mu     sync.Mutex
	linked []string
	wires  map[string]*wire
}

// listen runs a listener in the bubble of a test.
func listen(t *testing.T, linked ...string) *rig {
	t.Helper()
	r := &rig{linked: linked, wires: map[string]*wire{}}
	r.Listener = NewListener(Config{
		Ports: func() []string {
			r.mu.Lock()
			defer r.mu.Unlock()
			return r.linked
		},
		Open: func(port string) (io.ReadCloser, error) {
			if port == "forbidden" {
				return nil, errors.New("operation not permitted")
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			r.wires[port] = newWire()
			return r.wires[port], nil
		},
	})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	synctest.Wait()
	return r
}

func (r *rig) link(ports ...string) {
	r.mu.Lock()
	r.linked = ports
	r.mu.Unlock()
	time.Sleep(rescan + time.Millisecond) // in the time of the bubble
	synctest.Wait()
}

func (r *rig) send(port string, f []byte) {
	r.mu.Lock()
	w := r.wires[port]
	r.mu.Unlock()
	w.frames <- f
	synctest.Wait()
}

// heard are the ends of a port's cables.
func (r *rig) heard(t *testing.T, port string) string {
	t.Helper()
	neighbors, err := r.Heard(port)
	if err != nil {
		t.Errorf("Heard(%s) = %v; want no error", port, err)
	}
	var out []string
	for _, n := range neighbors {
		out = append(out, n.Chassis+" "+n.Port)
	}
	return strings.Join(out, ", ")
}

func said(chassis, port, lifetime string) []byte {
	return frame(1, "\x07"+chassis, 2, "\x07"+port, 3, lifetime)
}

func TestWhatIsHeardIsKeptWhileItIsTrue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listen(t, "eth0", "eth1")
		want := func(when, want string) {
			t.Helper()
			if got := r.heard(t, "eth0"); got != want {
				t.Errorf("%s: Heard(eth0) = %q; want %q", when, got, want)
			}
		}
		want("at first", "")
		r.send("eth0", []byte("no frame of LLDP at all"))
		r.send("eth0", said("sw-1", "7", "\x00\x78"))
		want("once heard", "sw-1 7")
		if got := r.heard(t, "eth1"); got != "" {
			t.Errorf("Heard(eth1) = %q; want nothing from the other port", got)
		}
		time.Sleep(119 * time.Second)
		want("before its time is over", "sw-1 7")
		time.Sleep(2 * time.Second)
		want("after it", "")
		r.send("eth0", said("sw-1", "7", "\x00\x78"))
		r.send("eth0", said("sw-0", "3", "\x00\x78"))
		want("of two behind a hub", "sw-0 3, sw-1 7")
		r.send("eth0", said("sw-1", "7", "\x00\x00"))
		want("after one said that it leaves", "sw-0 3")
		r.link("eth1")
		want("without a link", "")
		r.link("eth0", "eth1")
		want("with another cable", "")
		r.send("eth0", said("sw-2", "8", "\x00\x78"))
		want("on another switch", "sw-2 8")
	})
}

func TestStrangersFillNoMemoryAndMakeNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listen(t, "eth0")
		told := 0
		for i := range 300 {
			r.send("eth0", said("sw", strings.Repeat("x", i+1), "\xff\xff"))
			time.Sleep(100 * time.Millisecond)
			select {
			case <-r.News():
				told++
			default:
			}
		}
		if n := len(strings.Split(r.heard(t, "eth0"), ",")); n != maxNeighbors {
			t.Errorf("of 300 senders %d are kept; want %d", n, maxNeighbors)
		}
		if told < 1 || told > 3 {
			t.Errorf("in 30 seconds News was signalled %d times; want at once, and after 10 and 20 seconds", told)
		}
	})
}

func TestNewsIsWhatWasNotKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listen(t, "eth0")
		want := func(when string, want bool) {
			t.Helper()
			time.Sleep(4 * newsInterval)
			synctest.Wait()
			select {
			case <-r.News():
				if !want {
					t.Errorf("%s there are news; want none", when)
				}
			default:
				if want {
					t.Errorf("%s there are no news", when)
				}
			}
		}
		want("before anything was heard", false)
		r.send("eth0", said("sw-1", "7", "\x00\x78"))
		want("after the first frame", true)
		r.send("eth0", said("sw-1", "7", "\x00\x78"))
		want("after the same again", false)
		r.send("eth0", frame(1, "\x07sw-1", 2, "\x077", 3, "\x00\x78", 5, "core"))
		want("after it got a name, which is no other cable", false)
		r.send("eth0", said("sw-1", "8", "\x00\x78"))
		want("after another port spoke", true)
		r.send("eth0", said("sw-1", "7", "\x00\x00"))
		want("after it left", false)
	})
}

func TestWaitLastsForThoseWhoSpeakLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listen(t, "eth0", "eth1", "forbidden")
		if _, err := r.Heard("forbidden"); err == nil || !strings.Contains(err.Error(), "port forbidden: operation not permitted") {
			t.Errorf("Heard(forbidden) = %v; want why not", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 35*time.Second)
		defer cancel()
		began := time.Now()
		r.Wait(ctx, func(string) bool { return true })
		if took := time.Since(began); took != 0 {
			t.Errorf("Wait took %s; want none when all ports are known", took)
		}
		go func() {
			r.send("eth0", said("sw-1", "7", "\x00\x78"))
			time.Sleep(20 * time.Second)
			r.send("eth0", said("phone", "1", "\x00\x78"))
		}()
		r.Wait(ctx, func(port string) bool { return port == "eth1" })
		if took := time.Since(began); took != 35*time.Second || r.heard(t, "eth0") != "phone 1, sw-1 7" {
			t.Errorf("Wait took %s and heard %q; want 35 s and both", took, r.heard(t, "eth0"))
		}
	})
}

func TestWaitEndsWhenNoPortIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := listen(t, "eth0")
		began := time.Now()
		var unplugged sync.WaitGroup
		defer unplugged.Wait()
		unplugged.Go(func() { r.link() })
		r.Wait(t.Context(), func(string) bool { return false })
		if took := time.Since(began); took > 2*rescan {
			t.Errorf("Wait took %s; want it to end with the link", took)
		}
	})
}
