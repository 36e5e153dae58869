package rack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"
)

// pollInterval is how often files that QEMU writes are looked at.
const pollInterval = 50 * time.Millisecond

// consoleWindow bounds what a Console keeps to match against, in bytes.
const consoleWindow = 1 << 20

// Console reads a machine's serial console. It remembers how far it has
// matched, so that successive waits follow the machine through its boots. It is
// for one goroutine.
type Console struct {
	path   string
	file   *os.File
	window []byte
	// stale is the content at creation that is to be skipped.
	skip int64
}

// Console returns a reader of the machine's console that begins with the first
// byte since the machine was last switched on; with onlyNew, with what comes
// from now on. Close it after use.
func (r *Rack) Console(machine string, onlyNew bool) *Console {
	c := &Console{path: r.SerialPath(machine)}
	if onlyNew {
		if fi, err := os.Stat(c.path); err == nil {
			c.skip = fi.Size()
			c.file, _ = os.Open(c.path)
		}
	}
	return c
}

// Wait waits until the machine has written something that re matches, behind
// the last match, and returns the match. Bound it by ctx; an error carries the
// last lines.
func (c *Console) Wait(ctx context.Context, re *regexp.Regexp) ([]byte, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		if err := c.read(); err != nil {
			return nil, err
		}
		if at := re.FindIndex(c.window); at != nil {
			match := bytes.Clone(c.window[at[0]:at[1]])
			c.window = c.window[at[1]:]
			return match, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for %q on serial console %s: %w; its last lines are:\n%s", re, c.path, ctx.Err(), readable(c.window))
		}
	}
}

// Close releases the log.
func (c *Console) Close() error {
	if c.file == nil {
		return nil
	}
	return c.file.Close()
}

// read appends what is new. When the machine was switched on anew, it goes on
// with the new log after the end of the old one.
func (c *Console) read() error {
	current, err := os.Stat(c.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("reading serial console: %w", err)
	}
	if c.file != nil {
		if err := c.fill(); err != nil {
			return err
		}
		ours, err := c.file.Stat()
		if err != nil {
			return fmt.Errorf("reading serial console: %w", err)
		}
		if current == nil || os.SameFile(ours, current) {
			return nil
		}
		if err := c.file.Close(); err != nil {
			return fmt.Errorf("reading serial console: %w", err)
		}
		c.file, c.skip = nil, 0
	}
	if current == nil {
		return nil
	}
	if c.file, err = os.Open(c.path); errors.Is(err, os.ErrNotExist) {
		c.file = nil
		return nil
	} else if err != nil {
		return fmt.Errorf("reading serial console: %w", err)
	}
	return c.fill()
}

func (c *Console) fill() error {
	if c.skip > 0 {
		if _, err := c.file.Seek(c.skip, io.SeekStart); err != nil {
			return fmt.Errorf("reading serial console: %w", err)
		}
		c.skip = 0
	}
	b, err := io.ReadAll(io.LimitReader(c.file, consoleWindow))
	if err != nil {
		return fmt.Errorf("reading serial console: %w", err)
	}
	c.window = append(c.window, b...)
	if over := len(c.window) - consoleWindow; over > 0 {
		c.window = bytes.Clone(c.window[over:])
	}
	return nil
}

// WaitSerial waits until what the machine wrote to its serial console since it
// was last switched on matches re, and returns the match. An error carries
// the console's last lines. Bound it by ctx.
func (r *Rack) WaitSerial(ctx context.Context, machine string, re *regexp.Regexp) (match []byte, err error) {
	c := r.Console(machine, false)
	defer func() { err = errors.Join(err, c.Close()) }()
	return c.Wait(ctx, re)
}

// terminalControl matches the terminal's control sequences (ECMA-48) and the
// control characters that a log should not repeat.
var terminalControl = regexp.MustCompile(`\x1b\[[0-?]*[ -/]*[@-~]|\x1b.|[\x00-\x08\x0b-\x1f]`)

// readable is the end of console output as plain text.
func readable(b []byte) string {
	if len(b) > 4096 {
		b = b[len(b)-4096:]
	}
	lines := strings.Split(terminalControl.ReplaceAllString(string(b), ""), "\n")
	if len(lines) > 15 {
		lines = lines[len(lines)-15:]
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

// tail returns at most n bytes from the end of a file.
func tail(path string, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	start := max(fi.Size()-n, 0)
	return io.ReadAll(io.NewSectionReader(f, start, n))
}
