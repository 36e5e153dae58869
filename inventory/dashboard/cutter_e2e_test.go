//go:build e2e

package dashboard_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// cutter stands between a browser and a server, and can cut the line.
type cutter struct {
	base, to string
	wait     sync.WaitGroup

	mu    sync.Mutex
	dead  bool
	conns map[net.Conn]struct{}
}

func newCutter(t *testing.T, base string) *cutter {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{base: "http://" + l.Addr().String(), to: strings.TrimPrefix(base, "http://"), conns: map[net.Conn]struct{}{}}
	c.wait.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			c.wait.Go(func() { c.join(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.off()
		c.wait.Wait()
	})
	return c
}

// keep remembers a connection; false when the line is cut.
func (c *cutter) keep(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		conn.Close()
		return false
	}
	c.conns[conn] = struct{}{}
	return true
}

func (c *cutter) join(a net.Conn) {
	defer a.Close()
	if !c.keep(a) {
		return
	}
	b, err := net.Dial("tcp", c.to)
	if err != nil {
		return
	}
	defer b.Close()
	if !c.keep(b) {
		return
	}
	done := make(chan error, 2) // a cut line is an end like any other
	for _, pair := range [][2]net.Conn{{a, b}, {b, a}} {
		go func() {
			_, err := io.Copy(pair[0], pair[1])
			pair[0].Close()
			done <- err
		}()
	}
	<-done
	<-done
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.conns, a)
	delete(c.conns, b)
}

func (c *cutter) off() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	for conn := range c.conns {
		conn.Close()
	}
}

func (c *cutter) on() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = false
}
