package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// terminal is the program at a pseudo terminal of its own (pts(4)).
type terminal struct {
	*transcript
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	copied chan struct{}
}

func newTerminal(t *testing.T, ctx context.Context, env []string, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	raw, err := master.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number int
	var ptsErr error
	err = raw.Control(func(fd uintptr) {
		if ptsErr = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); ptsErr == nil {
			number, ptsErr = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	if err != nil || ptsErr != nil {
		t.Fatal(err, ptsErr)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	defer slave.Close()
	x := &terminal{transcript: &transcript{}, t: t, master: master, copied: make(chan struct{})}
	x.cmd = exec.CommandContext(ctx, "edge-provision", args...)
	x.cmd.Env = append(env, "TERM=xterm")
	x.cmd.Stdin, x.cmd.Stdout, x.cmd.Stderr = slave, slave, slave
	x.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(x.copied)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b) // EIO when the program has ended
			if _, writeErr := x.Write(b[:n]); err != nil || writeErr != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		master.Close()
		<-x.copied
	})
	return x
}

func (x *terminal) types(keys string) {
	x.t.Helper()
	if _, err := x.master.WriteString(keys); err != nil {
		x.t.Fatal(err)
	}
}

// wait waits for the program's end and returns its exit code.
func (x *terminal) wait() int {
	x.t.Helper()
	err := x.cmd.Wait()
	<-x.copied
	if x.cmd.ProcessState == nil {
		x.t.Fatal(err)
	}
	return x.cmd.ProcessState.ExitCode()
}
