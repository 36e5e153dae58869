package bmc_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
)

// serialPort is a machine's serial port. The machine says again and again what was
// typed last: real ones are slow, and ipmitool loses what arrives in the same
// packet as the acknowledgement of a key.
func serialPort(t *testing.T) (address netip.AddrPort) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go login(conn)
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func login(conn net.Conn) {
	defer conn.Close()
	typed := make(chan string)
	go func() {
		defer close(typed)
		for lines := bufio.NewReader(conn); ; {
			line, err := lines.ReadString('\r')
			if err != nil {
				return
			}
			typed <- strings.TrimSpace(line)
		}
	}()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	name := ""
	for open := true; open; {
		select {
		case name, open = <-typed:
		case <-again.C:
			if _, err := io.WriteString(conn, "till login: "+name+"\r\n"); err != nil {
				_ = conn.Close()
			}
		}
	}
}

// screen lets a test wait for text, and never holds up who writes it.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func newScreen() *screen { return &screen{more: make(chan struct{}, 1)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
	return s.text.Write(p)
}

func (s *screen) shown() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) await(t *testing.T, want string) {
	t.Helper()
	for limit := time.After(time.Minute); !strings.Contains(s.shown(), want); {
		select {
		case <-s.more:
		case <-limit:
			t.Fatalf("the console showed %q in a minute; want %q", s.shown(), want)
		}
	}
}

func TestConsoleJoinsTheSerialPortOverIPMI(t *testing.T) {
	t.Parallel()
	_, config := ipmiRig(t, "secret", func(c *sim.IPMIConfig) { c.Console = serialPort(t) })
	c := openIPMI(t, config, bmc.Deps{})
	for range 2 { // a console that was left can be opened again
		in, keys := io.Pipe()
		shown := newScreen()
		done := make(chan error, 1)
		go func() { done <- c.Console(t.Context(), in, shown) }()
		if _, err := io.WriteString(keys, "root\r"); err != nil {
			t.Fatal(err)
		}
		shown.await(t, "till login: root")
		if err := keys.Close(); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Errorf("Console() = %v; want none after its input ended", err)
		}
	}
}

func TestCancelledConsoleIsGivenBack(t *testing.T) {
	t.Parallel()
	_, config := ipmiRig(t, "secret", func(c *sim.IPMIConfig) { c.Console = serialPort(t) })
	c := openIPMI(t, config, bmc.Deps{})
	ctx, cancel := context.WithCancel(t.Context())
	in, keys := io.Pipe()
	shown := newScreen()
	done := make(chan error, 1)
	go func() { done <- c.Console(ctx, in, shown) }()
	if _, err := io.WriteString(keys, "root\r"); err != nil {
		t.Fatal(err)
	}
	shown.await(t, "till login: root")
	cancel()
	_ = keys.Close()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Console() = %v; want canceled", err)
	}
	again := newScreen()
	in, keys = io.Pipe()
	go func() { done <- c.Console(t.Context(), in, again) }()
	if _, err := io.WriteString(keys, "root\r"); err != nil {
		t.Fatal(err)
	}
	again.await(t, "till login: root")
	_ = keys.Close()
	if err := <-done; err != nil {
		t.Errorf("Console() after a cancelled one = %v; want none", err)
	}
}

func TestConsoleWithAWrongPasswordIsRefusedLikeAnyCall(t *testing.T) {
	t.Parallel()
	_, config := ipmiRig(t, "secret")
	config.Password = "wrong"
	err := openIPMI(t, config, bmc.Deps{}).Console(t.Context(), strings.NewReader(""), t.Output())
	if _, ok := errors.AsType[*bmc.CredentialError](err); !ok {
		t.Errorf("Console() = %v; want a refused credential", err)
	}
}
