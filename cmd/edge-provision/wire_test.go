package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/control"
)

func TestProjectingIsToldAndEndsWhenItIsAskedTo(t *testing.T) {
	var said bytes.Buffer
	stop := make(chan struct{})
	a := &app{stop: stop, stderr: &said}
	ctx, cancel := context.WithCancelCause(t.Context())
	p := &projecting{app: a, cancel: cancel}
	p.tell(500, 999)
	p.tell(12_000, 100_000)
	if ctx.Err() != nil {
		t.Errorf("before anybody asks for it: %v; want that it goes on", ctx.Err())
	}
	close(stop)
	p.tell(1_012_500, 2_000_000)
	if err := context.Cause(ctx); !errors.Is(err, errInterrupted) {
		t.Errorf("cause after the command was asked to stop = %v; want %v", err, errInterrupted)
	}
	want := "Projecting facts: 500 of 999 machines.\nProjecting facts: 12,000 of 100,000 machines.\nProjecting facts: 1,012,500 of 2,000,000 machines.\n"
	if said.String() != want {
		t.Errorf("said %q; want %q", said.String(), want)
	}
}

// What waits for serve to start waits longer while a catalog is projected anew, for as
// long as that goes on, and then for the rest.
func TestTheServiceManagerWaitsForACatalogThatIsProjectedAnew(t *testing.T) {
	manager, lookup := serviceManager(t)
	supervisor, err := control.NewSupervisor(lookup)
	if err != nil {
		t.Fatal(err)
	}
	p := &projecting{app: &app{manager: supervisor, stderr: io.Discard}}
	p.ends() // of a catalog that is as it should be, or small: nothing is told
	p.tell(500, 999)
	manager.hears("EXTEND_TIMEOUT_USEC=60000000\nSTATUS=Projecting facts: 500 of 999 machines")
	p.tell(12_000, 100_000)
	manager.hears("EXTEND_TIMEOUT_USEC=60000000\nSTATUS=Projecting facts: 12,000 of 100,000 machines")
	p.ends()
	manager.hears("EXTEND_TIMEOUT_USEC=900000000\nSTATUS=Starting")
}

func TestTheServiceManagerHearsOfServe(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	manager, lookup := serviceManager(t)
	path, _ := lookup("NOTIFY_SOCKET")
	s := p.serve([]string{"NOTIFY_SOCKET=" + path})
	manager.hears("READY=1\nSTATUS=Serving site plant")
	reload := func(status string) {
		t.Helper()
		s.signal(syscall.SIGHUP)
		manager.hearsOf("RELOADING=1\n")
		manager.hears("READY=1\nSTATUS=" + status)
	}
	const refused = "Serving site plant; the last reload was refused: "
	p.write("site \"plant\" {\n")
	reload(refused + "site.hcl line 1: Unclosed configuration block")
	p.write("site \"other\" {}\n" + plantMachine)
	reload(refused + "the site in " + p.site() + ` is called "other" now, and serve holds "plant": stop serve and start it again`)
	p.declare(quick)
	reload("Serving site plant")
	s.signal(syscall.SIGTERM)
	manager.hears("STOPPING=1\nSTATUS=Waiting for what runs to finish")
	s.ends(exitOK)
}

// notified is a socket such as that of systemd.
type notified struct {
	*testing.T
	conn *net.UnixConn
}

// serviceManager is a socket and the environment that names it.
func serviceManager(t *testing.T) (notified, func(string) (string, bool)) {
	t.Helper()
	path := filepath.Join(shortDir(t), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return notified{t, l}, func(name string) (string, bool) { return path, name == "NOTIFY_SOCKET" }
}

// hears wants the next message.
func (n notified) hears(want string) {
	n.Helper()
	if got := n.next(); got != want {
		n.Errorf("the service manager was told %q; want %q", got, want)
	}
}

// hearsOf wants the next message to begin so.
func (n notified) hearsOf(want string) {
	n.Helper()
	if got := n.next(); !strings.HasPrefix(got, want) {
		n.Errorf("the service manager was told %q; want %q first", got, want)
	}
}

func (n notified) next() string {
	n.Helper()
	if err := n.conn.SetReadDeadline(time.Now().Add(awaitBound)); err != nil {
		n.Fatal(err)
	}
	b := make([]byte, 4096)
	got, err := n.conn.Read(b)
	if err != nil {
		n.Fatal(err)
	}
	return string(b[:got])
}
