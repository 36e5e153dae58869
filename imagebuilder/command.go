package imagebuilder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// tool is a program that a build needs and the Debian package that has it.
type tool struct{ program, pkg string }

// requireTools names every missing program at once, with what to install.
func requireTools(tools []tool) error {
	var programs, packages []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			programs, packages = append(programs, t.program), append(packages, t.pkg)
		}
	}
	if len(programs) > 0 {
		return fmt.Errorf("building needs %s, which this machine lacks: install the packages %s", strings.Join(programs, ", "), strings.Join(packages, ", "))
	}
	return nil
}

// command runs a program with a fixed environment: neither locale, time zone nor umask of the caller reaches the
// result.
type command struct {
	dir     string
	env     []string // added to the fixed ones
	private bool     // in a mount namespace of its own: what it mounts is gone when it ends, however it ends
	output  io.Writer
}

// commandGrace is how long a program that was asked to end may clean up before it is killed.
const commandGrace = 15 * time.Second

// run returns the standard output. The error holds the last lines of standard error.
func (c command) run(ctx context.Context, name string, args ...string) ([]byte, error) {
	// The shell sets the umask; os/exec cannot.
	cmd := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", `umask 022; exec "$@"`, "sh", name}, args...)...)
	cmd.Dir = c.dir
	cmd.Env = append([]string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/nonexistent", "LC_ALL=C.UTF-8", "TZ=UTC",
		"DEBIAN_FRONTEND=noninteractive",
	}, c.env...)
	if dir := os.Getenv("TMPDIR"); dir != "" {
		cmd.Env = append(cmd.Env, "TMPDIR="+dir)
	}
	var stdout bytes.Buffer
	last := &tail{limit: 4096}
	cmd.Stdout, cmd.Stderr = &stdout, last
	if c.output != nil {
		cmd.Stderr = io.MultiWriter(last, c.output)
	}
	// A group of its own keeps the terminal's Ctrl-C from it: ctx decides, and reaches its children too.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if c.private {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = commandGrace
	err := cmd.Run()
	if ctx.Err() != nil {
		// The group may outlive its leader; nothing of it may still write when the work directory goes.
		if kill := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); kill != nil && !errors.Is(kill, syscall.ESRCH) {
			return nil, fmt.Errorf("ending %s: %w", name, kill)
		}
		return nil, fmt.Errorf("running %s: %w", name, context.Cause(ctx))
	}
	if err != nil {
		return nil, fmt.Errorf("running %s: %w: %s", name, err, strings.TrimSpace(last.String()))
	}
	return stdout.Bytes(), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	limit int
	kept  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if len(t.kept) > t.limit {
		t.kept = append(t.kept[:0], t.kept[len(t.kept)-t.limit:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return string(t.kept) }
