package workflows_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
)

var states = []inventory.State{
	inventory.StateDeclared, inventory.StateDiscovered, inventory.StateInspecting, inventory.StateHeld,
	inventory.StateInstalling, inventory.StateInstalled, inventory.StateFailed,
}

// allowed is the life of a machine as a picture: a row is where it is, an x is
// where it may go, in the order of states.
var allowed = map[inventory.State]string{
	//                          dec dis ins hel ing ied fai
	inventory.StateDeclared:   "..x....",
	inventory.StateDiscovered: "x.x....",
	inventory.StateInspecting: "...x..x",
	inventory.StateHeld:       "xxx.xxx",
	inventory.StateInstalling: "..x..xx",
	inventory.StateInstalled:  "x.x....",
	inventory.StateFailed:     "x.x.x..",
}

func TestTransitionsArePairByPair(t *testing.T) {
	for _, from := range states {
		for i, to := range states {
			want := from == to || allowed[from][i] == 'x'
			got, err := workflows.Transition(from, to)
			if (err == nil) != want {
				t.Errorf("Transition(%s, %s) = %v; want allowed %t", from, to, err, want)
			}
			if err == nil && got != to || err != nil && got != from {
				t.Errorf("Transition(%s, %s) = %s; a refusal stays, anything else moves", from, to, got)
			}
		}
	}
}

// TestNoStateIsADeadEnd holds that a machine can be installed from every state:
// no history may make it unusable.
func TestNoStateIsADeadEnd(t *testing.T) {
	for _, start := range states {
		reached := map[inventory.State]bool{start: true}
		for grown := true; grown; {
			grown = false
			for from := range reached {
				for _, to := range states {
					if _, err := workflows.Transition(from, to); err == nil && !reached[to] {
						reached[to], grown = true, true
					}
				}
			}
		}
		if !reached[inventory.StateInstalled] {
			t.Errorf("a machine that is %s can never become installed", start)
		}
	}
}

// TestDocumentedTransitionsAreTheTable compares the table of
// docs/architecture.md, whose rows are "| `from` | meaning | `to`, `to` |".
func TestDocumentedTransitionsAreTheTable(t *testing.T) {
	const page = "../docs/architecture.md"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range states {
		prefix := fmt.Sprintf("| `%s` |", from)
		var row string
		for _, line := range strings.Split(string(text), "\n") {
			if cells := strings.Split(line, "|"); row == "" && strings.HasPrefix(line, prefix) && len(cells) == 5 {
				row = cells[3]
			}
		}
		if row == "" {
			t.Errorf("%s has no row %q", page, prefix)
			continue
		}
		for i, to := range states {
			documented := strings.Contains(row, fmt.Sprintf("`%s`", to))
			if want := allowed[from][i] == 'x'; documented != want {
				t.Errorf("%s says that %s → %s is %t; it is %t", page, from, to, documented, want)
			}
		}
	}
}
