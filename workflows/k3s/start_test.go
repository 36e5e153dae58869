package k3s

import (
	"strings"
	"testing"
)

// TestMachineThatLosesPowerWhileItStartsIsWaitedFor takes the second server off
// the network when it joins, and back when the run has noticed.
func TestMachineThatLosesPowerWhileItStartsIsWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c")
	c := w.config(oldVersion, []string{"a", "b", "c"}, nil)
	say, noticed := c.Say, false
	c.Say = func(format string, args ...any) {
		say(format, args...)
		w.mu.Lock()
		said := w.says[len(w.says)-1]
		w.mu.Unlock()
		switch {
		case strings.HasPrefix(said, "machine.b: joining"):
			w.hosts["machine.b"].gone = true
		case strings.HasPrefix(said, "machine.b: waiting: machine.b: no SSH at"):
			w.hosts["machine.b"].gone, noticed = false, true
		}
	}
	mustApply(t, c)
	if !noticed {
		t.Errorf("Apply() said %q; want that it waited for the machine", w.says)
	}
	if report, err := inspect(t, c); err != nil || len(report.Changes) > 0 {
		t.Errorf("Inspect() = %+v, %v; want nothing left to do", report, err)
	}
}
