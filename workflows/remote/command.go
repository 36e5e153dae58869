package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// Command is one command line for the user's login shell.
type Command struct {
	Line  string
	Stdin io.Reader
	// Stdout, when not nil, gets all that the command prints there, instead
	// of the Result. It bounds what it keeps itself; an error of it ends the
	// command's output, not the command.
	Stdout io.Writer
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
	session, err := within(ctx, h.client.NewSession)
	if err != nil {
		return Result{}, h.unreachable(err)
	}
	defer session.Close()
	var stdout, stderr tail
	session.Stdout, session.Stderr = &stdout, &stderr
	if c.Stdout != nil {
		session.Stdout = c.Stdout
	}
	if c.Stdin != nil {
		in, err := session.StdinPipe()
		if err != nil {
			return Result{}, h.unreachable(err)
		}
		// Not session.Stdin, with which a command that ends before it has
		// read all of its input would look like a broken connection.
		go func() {
			_, _ = io.Copy(in, c.Stdin)
			in.Close()
		}()
	}
	done := make(chan error, 1)
	go func() { done <- session.Run(h.elevated(c.Line)) }()
	ended := false
	select {
	case err = <-done:
	case <-ctx.Done():
		ended = true
		err = h.interrupt(session, done)
	}
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
		return result, h.unreachable(err)
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

// elevated is the command line with which sudo runs line as root, where the host
// is reached as a user who may do that. -n: a password cannot be asked for.
func (h *Host) elevated(line string) string {
	if !h.sudo {
		return line
	}
	return "sudo -n -- sh -c " + Quote(line)
}

// patience is how long a command that was told to end may take to do so.
const patience = 2 * time.Second

// interrupt ends a command whose time is over. A server that ignores the signal,
// or a machine whose power was cut, never confirms; it is not waited for, and
// what is left of the session ends with the connection.
func (h *Host) interrupt(session *ssh.Session, done <-chan error) error {
	go func() {
		_ = session.Signal(ssh.SIGTERM)
		session.Close()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
	return errInterrupted
}

// errInterrupted stands for the end of a command that was cut off.
var errInterrupted = errors.New("interrupted")

// within calls open, which may wait for a machine that has gone silent, and stops
// waiting for it when ctx ends. What it opens too late is closed.
func within[T io.Closer](ctx context.Context, open func() (T, error)) (T, error) {
	type opened struct {
		value T
		err   error
	}
	done := make(chan opened, 1)
	go func() {
		v, err := open()
		done <- opened{v, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		go func() {
			if o := <-done; o.err == nil {
				o.value.Close()
			}
		}()
		var none T
		return none, context.Cause(ctx)
	}
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
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

const tailBytes = 64 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
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

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// Quote makes s one word of a POSIX shell.
func Quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
