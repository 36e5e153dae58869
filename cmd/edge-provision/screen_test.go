package main

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// clock is a time that the test moves.
type clock struct{ at time.Time }

func (c *clock) now() time.Time       { return c.at }
func (c *clock) tick(d time.Duration) { c.at = c.at.Add(d) }

const runID = "0198c0de-0000-7000-8000-000000000001"

// show plays one run to a display.
func show(d display, c *clock) string {
	d.Begin(uuid.MustParse(runID), nil)
	d.Change(workflows.Change{Address: "machine.a", Attempt: 1})
	c.tick(time.Second)
	write := steps.Progress{Address: "machine.a", Phase: "write", Total: 100 << 20}
	d.Tell(write)
	c.tick(time.Second) // too soon for another line of the same transfer
	write.Bytes = 10 << 20
	d.Tell(write)
	c.tick(9 * time.Second)
	write.Bytes = 50 << 20
	d.Tell(write)
	end := workflows.Ending{Address: "machine.a", Outcome: workflows.OutcomeFailed, Err: errors.New("no disk\nrun plan again"), Duration: 11 * time.Second}
	blocked := workflows.Ending{Address: "step.s", Outcome: workflows.OutcomeBlocked, Cause: "machine.a"}
	d.Change(workflows.Change{Address: "machine.a", Ended: &end})
	d.Change(workflows.Change{Address: "step.s", Ended: &blocked})
	return d.End([]workflows.Ending{end, blocked})
}

func TestLinesSayPhaseBytesRateAndTimeLeft(t *testing.T) {
	var out strings.Builder
	c := &clock{at: time.Unix(1000, 0)}
	outcome := show(&lineDisplay{out: &out, now: c.now, last: map[string]lastLine{}}, c)
	want := `Run ` + runID + `
   0.0s  machine.a              start      
   1.0s  machine.a              write      0 B of 100 MiB (0 %)
  11.0s  machine.a              write      50 MiB of 100 MiB (50 %), 5 MiB/s, 10s left
  11.0s  machine.a              failed     no disk
  11.0s  step.s                 blocked    by machine.a

Error: machine.a failed:
  no disk
  run plan again
`
	if out.String() != want {
		t.Errorf("the display wrote\n%s\nwant\n%s", out.String(), want)
	}
	if outcome != outcomeFailed {
		t.Errorf("End() = %s; want %s", outcome, outcomeFailed)
	}
}

func TestJSONIsOneVersionedObjectALine(t *testing.T) {
	var out strings.Builder
	c := &clock{at: time.Unix(1000, 0)}
	show(&jsonDisplay{out: &out, now: c.now}, c)
	var kinds []string
	for _, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var l jsonLine
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		if l.FormatVersion != 1 || l.Time.IsZero() {
			t.Errorf("%s has no version or no time", line)
		}
		kinds = append(kinds, l.Type)
	}
	if got, want := strings.Join(kinds, " "), "run start progress progress progress end end result"; got != want {
		t.Errorf("types = %s; want %s", got, want)
	}
}

func TestOutcomeOfARunIsItsWorst(t *testing.T) {
	for in, want := range map[string]string{
		"":                   outcomeOK,
		"ok ok":              outcomeOK,
		"ok cancelled":       outcomeStopped,
		"cancelled failed":   outcomeFailed,
		"failed cancelled":   outcomeFailed,
		"ok blocked":         outcomeFailed,
		"ok cancelled ok ok": outcomeStopped,
	} {
		var endings []workflows.Ending
		for _, o := range strings.Fields(in) {
			endings = append(endings, workflows.Ending{Outcome: workflows.Outcome(o)})
		}
		if got := outcomeOf(endings); got != want {
			t.Errorf("outcomeOf(%s) = %s; want %s", in, got, want)
		}
	}
}

func TestLiveRowsFitTheTerminal(t *testing.T) {
	c := &clock{at: time.Unix(1000, 0)}
	r := liveRow{Progress: steps.Progress{Address: "machine.a", Phase: "write", Bytes: 50, Total: 100}, phaseBegan: c.at}
	c.tick(10 * time.Second)
	if got := r.text(c.now()); !strings.Contains(got, "[██████████··········] 50 B of 100 B (50 %), 5 B/s, 10s left") {
		t.Errorf("text() = %q; want half a bar, rate and time left", got)
	}
	if got := clipColumns("a\x1b[2Jbcdefgh", 6); strings.Contains(got, "\x1b") || len([]rune(got)) != 6 {
		t.Errorf("clipColumns() = %q; want six columns without control characters", got)
	}
}
