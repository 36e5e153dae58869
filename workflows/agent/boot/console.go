package boot

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Console shows lines to whoever stands at the machine, on every console it
// has. A console that takes nothing (a serial port with flow control and nobody
// behind it) loses lines; it never holds up the work.
type Console struct {
	screens []chan string
	started time.Time
}

// consoleBacklog is how many lines wait for a slow console.
const consoleBacklog = 200

// OpenConsoles opens the kernel's consoles (/sys/class/tty/console/active)
// and, beside them, the first serial port and the screen.
func OpenConsoles(started time.Time) *Console {
	names := []string{"ttyS0", "tty0"}
	if active, err := os.ReadFile("/sys/class/tty/console/active"); err == nil {
		names = append(strings.Fields(string(active)), names...)
	}
	c := &Console{started: started}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			continue
		}
		f, err := os.OpenFile(filepath.Join("/dev", name), os.O_WRONLY, 0)
		if err != nil {
			continue
		}
		c.Add(f)
	}
	return c
}

// Add shows lines on w too, for the rest of the program's life.
func (c *Console) Add(w io.Writer) {
	lines := make(chan string, consoleBacklog)
	c.screens = append(c.screens, lines)
	go func() {
		for line := range lines {
			// A console that fails is no reason to do anything else.
			_, _ = io.WriteString(w, line)
		}
	}()
}

// Say shows one line.
func (c *Console) Say(line string) {
	text := fmt.Sprintf("[%7.1fs] edge-agent: %s\r\n", time.Since(c.started).Seconds(), strings.TrimSpace(line))
	for _, s := range c.screens {
		select {
		case s <- text:
		default:
		}
	}
}

// Sayf is Say with a format.
func (c *Console) Sayf(format string, args ...any) { c.Say(fmt.Sprintf(format, args...)) }

// Write implements io.Writer, for a log.
func (c *Console) Write(p []byte) (int, error) {
	c.Say(string(p))
	return len(p), nil
}
