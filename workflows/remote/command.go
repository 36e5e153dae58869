package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Command is one command line for the user's login shell.
type Command struct {
	Line  string
	Stdin io.Reader
	// Sensitive keeps Line out of errors.
	Sensitive bool
}

// Result is what a command left behind. Each stream keeps its last 64 KiB.
type Result struct {
	Stdout, Stderr string
	ExitCode       int
}

// ExitError is a command that ran and did not succeed.
type ExitError struct {
	Host, Command string
	Code          int    // exit status; -1 when a signal ended it
	Signal        string // such as KILL, without SIG
	Tail          string // last lines of stderr, or of stdout when that is empty
}

func (e *ExitError) Error() string {
	how := fmt.Sprintf("exited with %d", e.Code)
	if e.Signal != "" {
		how = "was ended by signal " + e.Signal
	}
	if e.Tail == "" {
		return fmt.Sprintf("%s: %q %s and printed nothing", e.Host, e.Command, how)
	}
	return fmt.Sprintf("%s: %q %s:\n%s", e.Host, e.Command, how, e.Tail)
}

// Run executes c and waits for its end or for ctx, whichever is first; when
// ctx ends first, the command is sent SIGTERM and the session is closed. A
// non-zero exit is an *ExitError beside the Result; a connection that broke is
// an *UnreachableError, and then nobody knows whether the command ran.
func (h *Host) Run(ctx context.Context, c Command) (Result, error) {
	session, err := h.client.NewSession()
	if err != nil {
		return Result{}, &UnreachableError{Host: h.name, Address: h.client.RemoteAddr().String(), Err: err}
	}
	defer session.Close()
	var stdout, stderr tail
	session.Stdout, session.Stderr, session.Stdin = &stdout, &stderr, c.Stdin
	stop := context.AfterFunc(ctx, func() {
		// A server may ignore the signal; closing the session ends the wait.
		_ = session.Signal(ssh.SIGTERM)
		session.Close()
	})
	err = session.Run(c.Line)
	ended := !stop()
	result := Result{Stdout: stdout.String(), Stderr: stderr.String()}
	if err == nil {
		return result, nil
	}
	shown := c.Line
	if c.Sensitive {
		shown = "(a command with a sensitive value)"
	}
	if ended {
		return result, fmt.Errorf("%s: %q did not end in time: %w", h.name, shown, context.Cause(ctx))
	}
	var exit *ssh.ExitError
	if !errors.As(err, &exit) {
		return result, &UnreachableError{Host: h.name, Address: h.client.RemoteAddr().String(), Err: err}
	}
	result.ExitCode = exit.ExitStatus()
	failed := &ExitError{Host: h.name, Command: shown, Code: exit.ExitStatus(), Signal: exit.Signal(), Tail: lastLines(stderr.String())}
	if failed.Signal != "" {
		failed.Code = -1
	}
	if failed.Tail == "" {
		failed.Tail = lastLines(stdout.String())
	}
	return result, failed
}

// lastLines keeps the ten last lines of s, indented.
func lastLines(s string) string {
	s = strings.TrimRight(s, "\n")
	if s == "" {
		return ""
	}
	lines := strings.Split(s, "\n")
	if len(lines) > 10 {
		lines = lines[len(lines)-10:]
	}
	return "  " + strings.Join(lines, "\n  ")
}

// tail keeps the last bytes written to it, so that a command that prints
// without end costs no memory.
type tail struct{ buf bytes.Buffer }

const tailBytes = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > tailBytes {
		p = p[len(p)-tailBytes:]
	}
	if over := t.buf.Len() + len(p) - tailBytes; over > 0 {
		t.buf.Next(over)
	}
	t.buf.Write(p)
	return n, nil
}

func (t *tail) String() string { return t.buf.String() }

// Quote makes s one word of a POSIX shell.
func Quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
