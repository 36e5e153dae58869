package main

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// activated is serve with a TCP socket that a service manager has bound.
func (p *plant) activated(ctx context.Context, l *net.TCPListener, args string) (*exec.Cmd, *transcript) {
	p.t.Helper()
	cmd, out := p.command(ctx, "", nil)
	shell := exec.CommandContext(ctx, "sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec edge-provision serve `+args+` "$0"`, p.site())
	shell.Env, shell.Stdout, shell.Stderr = cmd.Env, out, out
	f, err := l.File()
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { f.Close() })
	shell.ExtraFiles = []*os.File{f}
	if err := shell.Start(); err != nil {
		p.t.Fatal(err)
	}
	return shell, out
}

func TestAnAddressBesideThatOfTheServiceManagerIsRefused(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), commandBound)
	defer cancel()
	for _, flag := range []string{"--listen=off", "--listen=127.0.0.1:1"} {
		cmd, out := p.activated(ctx, l.(*net.TCPListener), flag)
		if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != exitError {
			t.Errorf("serve %s exits with %v; want 1", flag, err)
		}
		p.wants(out.String(), "cannot be followed", l.Addr().String(), "ListenStream=")
	}
	cmd, out := p.activated(ctx, l.(*net.TCPListener), "--listen="+l.Addr().String())
	p.await("the API at the address of the service manager", func() bool {
		return strings.Contains(out.String(), "Dashboard and API: http://"+l.Addr().String()) && strings.Contains(out.String(), "Serving site plant.")
	})
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("serve exits with %v; want 0\n%s", err, out)
	}
}
