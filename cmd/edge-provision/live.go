package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/term"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// liveDisplay keeps one line for each address that is being worked on at the
// bottom of a terminal, and writes above them what is worth keeping.
type liveDisplay struct {
	lines *lineDisplay
	out   *os.File

	mu     sync.Mutex
	active []string // addresses, in the order in which they started
	rows   map[string]*liveRow
	drawn  int // lines of the picture that stands on the terminal
	held   bool
	quit   chan struct{}
	done   chan struct{}
}

// liveRow is what one line shows.
type liveRow struct {
	steps.Progress
	phaseBegan time.Time
	phaseBytes int64 // when the phase began
}

// redraw is the pause between two pictures: often enough to be read as motion.
const redraw = 200 * time.Millisecond

// newLiveDisplay returns the display for a terminal; ok is false for anything
// else.
func newLiveDisplay(out io.Writer, lines *lineDisplay) (display, bool) {
	f, ok := out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" {
		return nil, false
	}
	d := &liveDisplay{out: f, rows: map[string]*liveRow{}, quit: make(chan struct{}), done: make(chan struct{})}
	// What the lines say goes above the picture.
	lines.out = above{d}
	d.lines = lines
	go d.animate()
	return d, true
}

// animate redraws until Close.
func (d *liveDisplay) animate() {
	defer close(d.done)
	ticker := time.NewTicker(redraw)
	defer ticker.Stop()
	for {
		select {
		case <-d.quit:
			return
		case <-ticker.C:
			d.mu.Lock()
			d.draw()
			d.mu.Unlock()
		}
	}
}

// above writes text over the picture, which is drawn again below it.
type above struct{ d *liveDisplay }

func (w above) Write(p []byte) (int, error) {
	w.d.mu.Lock()
	defer w.d.mu.Unlock()
	w.d.erase()
	n, err := w.d.out.Write(p)
	w.d.draw()
	return n, err
}

// erase takes the picture away; d.mu is held.
func (d *liveDisplay) erase() {
	if d.drawn > 0 {
		fmt.Fprintf(d.out, "\x1b[%dA\x1b[J", d.drawn)
		d.drawn = 0
	}
}

// draw puts the picture where the cursor is; d.mu is held.
func (d *liveDisplay) draw() {
	width, height, err := term.GetSize(int(d.out.Fd()))
	if err != nil || width < 20 {
		width, height = 80, 24
	}
	var b strings.Builder
	drawn := 0
	for _, address := range d.active {
		if d.held || drawn == height-2 {
			break // a picture taller than the terminal cannot be taken away again
		}
		b.WriteString(clipColumns(d.rows[address].text(d.lines.now()), width-1) + "\n")
		drawn++
	}
	d.erase()
	io.WriteString(d.out, b.String())
	d.drawn = drawn
}

// hold takes the picture away, so that something can be typed, or lets it come
// back.
func (d *liveDisplay) hold(held bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = held
	d.draw()
}

// text is the row as it stands now.
func (r *liveRow) text(now time.Time) string {
	since := now.Sub(r.phaseBegan).Round(time.Second)
	if r.Total <= 0 {
		return fmt.Sprintf("  %-22s %-10s %s (%s)", r.Address, r.Phase, r.Message, since)
	}
	const cells = 20
	full := int(cells * r.Bytes / r.Total)
	last := lastLine{phase: r.Phase, at: r.phaseBegan, bytes: r.phaseBytes}
	return fmt.Sprintf("  %-22s %-10s [%s%s] %s", r.Address, r.Phase,
		strings.Repeat("█", full), strings.Repeat("·", cells-full), transfer(r.Progress, last, now))
}

// clipColumns keeps a line from wrapping.
func clipColumns(s string, columns int) string {
	runes := []rune(printable(s))
	if len(runes) > columns {
		return string(runes[:columns-1]) + "…"
	}
	return string(runes)
}

func (d *liveDisplay) Plan(workflows.Plan) error { return nil }

func (d *liveDisplay) Begin(run uuid.UUID, nodes []workflows.Node) { d.lines.Begin(run, nodes) }

// Tell moves the address's line; a message worth keeping is not lost, because
// the end of each address is written above.
func (d *liveDisplay) Tell(p steps.Progress) {
	d.mu.Lock()
	defer d.mu.Unlock()
	row, ok := d.rows[p.Address]
	if !ok {
		row = &liveRow{}
		d.rows[p.Address] = row
		d.active = append(d.active, p.Address)
	}
	if row.Phase != p.Phase {
		row.phaseBegan, row.phaseBytes = d.lines.now(), p.Bytes
	}
	row.Progress = p
}

func (d *liveDisplay) Change(c workflows.Change) {
	if c.Ended == nil {
		d.Tell(steps.Progress{Address: c.Address, Phase: "start"})
		return
	}
	d.drop(c.Address)
	d.lines.Change(c)
}

// drop takes an address's line away.
func (d *liveDisplay) drop(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.rows, address)
	for i, a := range d.active {
		if a == address {
			d.active = append(d.active[:i], d.active[i+1:]...)
			return
		}
	}
}

func (d *liveDisplay) End(endings []workflows.Ending) string {
	d.mu.Lock()
	d.erase()
	d.active, d.rows = nil, map[string]*liveRow{}
	d.mu.Unlock()
	return d.lines.End(endings)
}

func (d *liveDisplay) Close() {
	close(d.quit)
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	d.erase()
}
