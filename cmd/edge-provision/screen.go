package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// display shows a run while it goes on. Its methods may be called from several
// goroutines.
type display interface {
	// Plan shows a plan to a program; a person's is printed apart.
	Plan(p workflows.Plan) error
	// Begin and End bound one run; End shows how it ended and names it.
	Begin(run uuid.UUID, nodes []workflows.Node)
	End(endings []workflows.Ending) (outcome string)
	Tell(p steps.Progress)
	Change(c workflows.Change)
	Close()
}

// display chooses how progress is shown: NDJSON on request, live on a
// terminal, lines in a pipe.
func (a *app) display(asJSON bool) display {
	if a.run != nil {
		return &sessionDisplay{session: a.run.session, app: a}
	}
	if asJSON {
		return &jsonDisplay{out: a.stdout, now: time.Now}
	}
	_, color := a.terminal(a.stderr)
	lines := &lineDisplay{out: a.stderr, color: color, now: time.Now, last: map[string]lastLine{}}
	if live, ok := newLiveDisplay(a.stderr, lines); ok {
		return live
	}
	return lines
}

// lineDisplay writes a line for each thing that happens, and while bytes move
// one every few seconds.
type lineDisplay struct {
	out   io.Writer
	color bool
	now   func() time.Time

	mu    sync.Mutex
	began time.Time
	last  map[string]lastLine
}

// lastLine is what was said last of an address, so that it is not said twice.
type lastLine struct {
	phase, message string
	at             time.Time
	bytes          int64
}

// byteInterval is the pause between two lines of one transfer.
const byteInterval = 5 * time.Second

func (d *lineDisplay) Plan(workflows.Plan) error { return nil }

func (d *lineDisplay) Begin(run uuid.UUID, _ []workflows.Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.began = d.now()
	fmt.Fprintf(d.out, "Run %s\n", run)
}

func (d *lineDisplay) Tell(p steps.Progress) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.now()
	last := d.last[p.Address]
	if last.phase == p.Phase && last.message == p.Message && (p.Total == 0 || now.Sub(last.at) < byteInterval) {
		return
	}
	text := p.Message
	if p.Total > 0 {
		text = strings.TrimSpace(text + " " + transfer(p, last, now))
	}
	d.last[p.Address] = lastLine{phase: p.Phase, message: p.Message, at: now, bytes: p.Bytes}
	d.line(p.Address, p.Phase, text)
}

// transfer says how far a transfer is, how fast it goes and how long it takes.
func transfer(p steps.Progress, last lastLine, now time.Time) string {
	text := fmt.Sprintf("%s of %s (%d %%)", workflows.FormatBytes(p.Bytes), workflows.FormatBytes(p.Total), 100*p.Bytes/p.Total)
	seconds := now.Sub(last.at).Seconds()
	if last.phase != p.Phase || p.Bytes <= last.bytes || seconds <= 0 {
		return text
	}
	rate := float64(p.Bytes-last.bytes) / seconds
	left := time.Duration(float64(p.Total-p.Bytes) / rate * float64(time.Second))
	return fmt.Sprintf("%s, %s/s, %s left", text, workflows.FormatBytes(int64(rate)), left.Round(time.Second))
}

// line writes one line with the time since the run began.
func (d *lineDisplay) line(address, phase, text string) {
	since := time.Duration(0)
	if !d.began.IsZero() {
		since = d.now().Sub(d.began)
	}
	fmt.Fprintf(d.out, "%7s  %-22s %-10s %s\n", fmt.Sprintf("%.1fs", since.Seconds()), address, phase, text)
}

func (d *lineDisplay) Change(c workflows.Change) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case c.Ended == nil && c.Attempt > 1:
		d.line(c.Address, "start", fmt.Sprintf("attempt %d", c.Attempt))
	case c.Ended == nil:
		d.line(c.Address, "start", "")
	default:
		d.line(c.Address, string(c.Ended.Outcome), endingText(*c.Ended))
	}
}

// endingText says in one line how a node ended.
func endingText(e workflows.Ending) string {
	switch e.Outcome {
	case workflows.OutcomeOK:
		return "in " + e.Duration.Round(100*time.Millisecond).String()
	case workflows.OutcomeBlocked:
		return "by " + e.Cause
	case workflows.OutcomeFailed:
		first, _, _ := strings.Cut(e.Err.Error(), "\n")
		return first
	}
	return ""
}

func (d *lineDisplay) End(endings []workflows.Ending) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range endings {
		if e.Outcome == workflows.OutcomeFailed {
			mark := "Error:"
			if d.color {
				mark = "\x1b[31m" + mark + "\x1b[0m"
			}
			fmt.Fprintf(d.out, "\n%s %s failed:\n  %s\n", mark, e.Address, strings.ReplaceAll(e.Err.Error(), "\n", "\n  "))
		}
	}
	return outcomeOf(endings)
}

func (d *lineDisplay) Close() {}

// outcomeOf names how a run ended.
func outcomeOf(endings []workflows.Ending) string {
	outcome := outcomeOK
	for _, e := range endings {
		switch e.Outcome {
		case workflows.OutcomeCancelled:
			if outcome == outcomeOK {
				outcome = outcomeStopped
			}
		case workflows.OutcomeOK:
		default:
			outcome = outcomeFailed
		}
	}
	return outcome
}

// jsonDisplay writes one JSON object a line. docs/commands.md lists the
// types; a new field may be added at any time.
type jsonDisplay struct {
	out io.Writer
	now func() time.Time
	mu  sync.Mutex
	err error
}

// jsonLine is one line of format_version 1.
type jsonLine struct {
	FormatVersion int             `json:"format_version"`
	Time          time.Time       `json:"time"`
	Type          string          `json:"type"` // plan, run, progress, start, end, result
	Run           string          `json:"run,omitempty"`
	Address       string          `json:"address,omitempty"`
	Phase         string          `json:"phase,omitempty"`
	Message       string          `json:"message,omitempty"`
	Bytes         int64           `json:"bytes,omitempty"`
	Total         int64           `json:"total,omitempty"`
	Attempt       int             `json:"attempt,omitempty"`
	Outcome       string          `json:"outcome,omitempty"`
	Error         string          `json:"error,omitempty"`
	Seconds       float64         `json:"seconds,omitempty"`
	Plan          *workflows.Plan `json:"plan,omitempty"`
}

func (d *jsonDisplay) write(l jsonLine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.FormatVersion, l.Time = 1, d.now().UTC()
	b, err := json.Marshal(l)
	if err == nil {
		_, err = d.out.Write(append(b, '\n'))
	}
	d.err = errors.Join(d.err, err)
}

func (d *jsonDisplay) Plan(p workflows.Plan) error {
	d.write(jsonLine{Type: "plan", Plan: &p})
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err // of any line so far: nothing is carried out that nobody can follow
}

func (d *jsonDisplay) Begin(run uuid.UUID, _ []workflows.Node) {
	d.write(jsonLine{Type: "run", Run: run.String()})
}

func (d *jsonDisplay) Tell(p steps.Progress) {
	d.write(jsonLine{Type: "progress", Address: p.Address, Phase: p.Phase, Message: p.Message, Bytes: p.Bytes, Total: p.Total})
}

func (d *jsonDisplay) Change(c workflows.Change) {
	if c.Ended == nil {
		d.write(jsonLine{Type: "start", Address: c.Address, Attempt: c.Attempt})
		return
	}
	l := jsonLine{Type: "end", Address: c.Address, Outcome: string(c.Ended.Outcome), Seconds: c.Ended.Duration.Seconds()}
	if c.Ended.Err != nil {
		l.Error = c.Ended.Err.Error()
	}
	d.write(l)
}

func (d *jsonDisplay) End(endings []workflows.Ending) string {
	outcome := outcomeOf(endings)
	d.write(jsonLine{Type: "result", Outcome: outcome})
	return outcome
}

func (d *jsonDisplay) Close() {}
