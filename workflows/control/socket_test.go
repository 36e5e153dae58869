package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/control"
)

// socketPath is short enough for a socket, whatever the test is called.
func socketPath(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "control")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return control.Path(dir, "shop")
}

// daemon serves sessions in which whoever comes is told a text and asked.
type daemon struct {
	*testing.T
	path string

	mu      sync.Mutex
	refused []error
}

var hello = control.Hello{Version: control.Version, Program: "1.0", Site: "shop", PID: os.Getpid()}

func serve(t *testing.T, h control.Hello, handle func(context.Context, *control.Conn, control.Message)) *daemon {
	t.Helper()
	d := &daemon{T: t, path: socketPath(t)}
	l, err := control.Listen(d.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- control.Serve(ctx, l, h, handle, func(err error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			d.refused = append(d.refused, err)
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(d.path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after Serve the socket is still there: %v", err)
		}
	})
	return d
}

func dial(t *testing.T, path string) *control.Conn {
	t.Helper()
	c, _, err := control.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestACommandIsCarriedOutOverTheSocket(t *testing.T) {
	s := control.NewSession()
	stops := make(chan struct{}, 2)
	d := serve(t, hello, func(ctx context.Context, c *control.Conn, m control.Message) {
		var command string
		if err := m.Into(&command); err != nil || command != "apply" {
			t.Errorf("request = %s, %v; want apply", m.Data, err)
		}
		client := s.Follow()
		go func() {
			answer, ok := s.Ask(ctx, "sure? ")
			say(t, s, answer)
			if !ok {
				t.Error("the question was not answered")
			}
			<-stops
			s.End(2)
		}()
		if err := control.Relay(ctx, c, client, func() { stops <- struct{}{} }); err != nil {
			t.Errorf("Relay = %v; want no error", err)
		}
	})
	info, err := os.Stat(d.path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v, %v; want 0600", info.Mode(), err)
	}
	c := dial(t, d.path)
	if err := c.Send(control.KindRequest, "apply"); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := c.Receive()
		if err != nil {
			t.Fatal(err)
		}
		switch m.Kind {
		case control.KindAsk:
			err = c.Send(control.KindAnswer, control.Answer{ID: 1, Text: "yes"})
		case control.KindText:
			if !strings.Contains(string(m.Data), "yes") {
				t.Errorf("text = %s; want the answer", m.Data)
			}
			err = c.Send(control.KindStop, nil)
		case control.KindExit:
			if string(m.Data) != `{"code":2}` {
				t.Errorf("exit = %s; want code 2", m.Data)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// A deadline that has passed makes each accept fail, as having no file descriptor
// left does.
func TestAnAcceptThatFailsIsTriedAgain(t *testing.T) {
	l, err := control.Listen(socketPath(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.SetDeadline(time.Now().Add(-time.Second)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	refused, done := make(chan error, 100), make(chan error, 1)
	go func() {
		done <- control.Serve(ctx, l, hello, func(context.Context, *control.Conn, control.Message) {}, func(err error) { refused <- err })
	}()
	for range 3 {
		select {
		case err := <-refused:
			if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.Contains(err.Error(), "tried again in") {
				t.Errorf("refused(%v); want why none is accepted", err)
			}
		case err := <-done:
			t.Fatalf("Serve = %v; want it to try again", err)
		}
	}
	if err := l.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	dial(t, l.Addr().String()) // and is greeted
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Serve = %v; want nil after its context ended", err)
	}
}

func TestAClientThatVanishesLeavesTheSessionToItself(t *testing.T) {
	s := control.NewSession()
	left := make(chan error, 1)
	d := serve(t, hello, func(ctx context.Context, c *control.Conn, _ control.Message) {
		left <- control.Relay(ctx, c, s.Follow(), func() { t.Error("a vanished client stopped the session") })
	})
	c := dial(t, d.path)
	if err := c.Send(control.KindRequest, nil); err != nil {
		t.Fatal(err)
	}
	say(t, s, "hello")
	if m, err := c.Receive(); err != nil || m.Kind != control.KindText {
		t.Fatalf("Receive = %s, %v; want text", m.Kind, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-left:
		if err == nil {
			t.Error("Relay = nil; want that the client left")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Relay did not notice in 10 s that its client vanished")
	}
	say(t, s, "it goes on")
	s.End(0)
	if got := seen(t, s.Follow()); len(got) != 3 {
		t.Errorf("the session has %q; want it whole", got)
	}
}

// What it has said before is there all the same.
func TestASideThatHasClosedIsGone(t *testing.T) {
	closed := make(chan struct{})
	gone := make(chan []any, 2)
	d := serve(t, hello, func(_ context.Context, c *control.Conn, _ control.Message) {
		is, err := c.Gone()
		gone <- []any{is, err}
		<-closed
		is, err = c.Gone()
		m, received := c.Receive()
		gone <- []any{is, errors.Join(err, received), m.Kind}
	})
	c := dial(t, d.path)
	if err := c.Send(control.KindRequest, nil); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(<-gone); got != "[false <nil>]" {
		t.Errorf("of a client that is there: gone, error = %s; want false and none", got)
	}
	if err := errors.Join(c.Send(control.KindStop, nil), c.Close()); err != nil {
		t.Fatal(err)
	}
	close(closed)
	if got, want := fmt.Sprint(<-gone), fmt.Sprintf("[true <nil> %s]", control.KindStop); got != want {
		t.Errorf("of a client that has closed: gone, error, what it said = %s; want %s", got, want)
	}
}

func TestGarbageIsRefusedAndHurtsNobody(t *testing.T) {
	d := serve(t, hello, func(ctx context.Context, c *control.Conn, m control.Message) {
		s := control.NewSession()
		s.End(0)
		if err := control.Relay(ctx, c, s.Follow(), func() {}); err != nil {
			t.Errorf("Relay = %v", err)
		}
	})
	for _, garbage := range []string{"GET / HTTP/1.1\r\n\r\n", "\x00\x00\x00\x02{}", "\x00\x00\x00\x10{\"kind\":\"stop\"}\n"} {
		raw, err := net.Dial("unix", d.path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := raw.Write([]byte(garbage)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, raw); err != nil && !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("after %q: %v; want the connection closed", garbage, err)
		}
		raw.Close()
	}
	c := dial(t, d.path)
	if err := c.Send(control.KindRequest, nil); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Receive(); err != nil || m.Kind != control.KindExit {
		t.Errorf("after garbage a client gets %s, %v; want to be served", m.Kind, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.refused) != 3 {
		t.Errorf("refused = %v; want three", d.refused)
	}
}

func TestASocketIsReplacedOnlyWhenNobodyListens(t *testing.T) {
	path := socketPath(t)
	first, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	var served *control.ServedError
	if _, err := control.Listen(path); !errors.As(err, &served) {
		t.Errorf("Listen where one listens = %v; want *ServedError", err)
	}
	first.SetUnlinkOnClose(false) // as a process that is killed leaves it
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := control.Dial(t.Context(), path); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Dial of a stale socket = %v; want ECONNREFUSED", err)
	}
	second, err := control.Listen(path)
	if err != nil {
		t.Fatalf("Listen over a stale socket = %v; want it replaced", err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := control.Listen(path); err == nil {
		t.Error("Listen over a file = nil; want it refused")
	}
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the file in the way holds %q, %v; want it untouched", b, err)
	}
	if _, err := control.Listen(control.Path(filepath.Dir(path), strings.Repeat("s", 100))); err == nil || !strings.Contains(err.Error(), "at most 107 bytes") {
		t.Errorf("Listen at a long path = %v; want the bound named", err)
	}
}

func TestAnotherVersionIsToldApart(t *testing.T) {
	other := hello
	other.Version, other.Program = control.Version+1, "9.9"
	d := serve(t, other, func(context.Context, *control.Conn, control.Message) {
		t.Error("a client of another version was served")
	})
	_, _, err := control.Dial(t.Context(), d.path)
	if err == nil || !strings.Contains(err.Error(), "9.9") || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("Dial = %v; want both versions named", err)
	}
}

// TestAnotherUserIsRefused connects as nobody, who can reach the socket because
// its directory is opened for the test.
func TestAnotherUserIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("becoming another user needs root")
	}
	d := serve(t, hello, func(context.Context, *control.Conn, control.Message) { t.Error("another user was served") })
	for path, mode := range map[string]fs.FileMode{filepath.Dir(d.path): 0o755, d.path: 0o666} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	const nobody = 65534
	cmd := exec.CommandContext(t.Context(), "perl", "-MIO::Socket::UNIX", "-e",
		`my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die "connect: $!"; print "connected\n"; local $/; print <$s>`, d.path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil || string(out) != "connected\n" {
		t.Fatalf("as nobody: %q, %v %s; want a connection that says nothing", out, err, errs.String())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.refused) != 1 || !strings.Contains(d.refused[0].Error(), "user 65534") {
		t.Errorf("refused = %v; want the user named", d.refused)
	}
}
