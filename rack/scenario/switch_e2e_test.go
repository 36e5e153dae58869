//go:build e2e

package scenario

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/edge-provision/edge-provision/rack"
)

// plug connects the first network port of a running rack's machine to a port of a
// switch: lldpd, the program that many switches run, speaks for it at the other end of
// the wire, every second, in the rack's namespace, and is believed for 20 seconds. What is
// returned pulls the plug, which the end of the test does at the latest.
func (l *lab) plug(address, system, port string) (unplug func()) {
	l.t.Helper()
	// Outside of the lab's directory: most of lldpd works as a user of its own.
	dir, err := os.MkdirTemp("", "edge-switch-")
	if err == nil {
		l.t.Cleanup(func() { os.RemoveAll(dir) })
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	wire := l.wire(address)
	conf := filepath.Join(dir, "lldpd.conf")
	settings := fmt.Sprintf("configure system hostname %[1]s\nconfigure system chassisid chassis-of-%[1]s\n"+
		"configure lldp tx-interval 1\nconfigure lldp tx-hold 20\nconfigure ports %[2]s lldp portidsubtype local %[3]s\n", system, wire, port)
	if err := os.WriteFile(conf, []byte(settings), 0o644); err != nil {
		l.t.Fatal(err)
	}
	cmd := exec.Command("ip", "netns", "exec", l.rack.Namespace(), "lldpd", "-d", "-u", filepath.Join(dir, "socket"), "-I", wire, "-O", conf)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		l.t.Fatalf("starting lldpd, which is in Debian's package of that name = %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	unplug = func() {
		select {
		case <-ended:
			return
		default:
		}
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
			l.t.Errorf("lldpd for %s did not end in 30 s", wire)
		}
		l.t.Logf("lldpd for %s said:\n%s", wire, said.String()[max(0, said.Len()-1000):])
	}
	l.t.Cleanup(unplug)
	return unplug
}

// wire is the host's end of a machine's first network port: the rack names them by
// the machine's place.
func (l *lab) wire(address string) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	status, err := l.rack.Status(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	i := slices.IndexFunc(status.Machines, func(m rack.MachineStatus) bool { return m.Address == address })
	if i < 0 {
		l.t.Fatalf("the rack has no %s", address)
	}
	return fmt.Sprintf("m%dn0", i)
}
