package workflows

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/drift"
)

// Hardware is how the hardware of a machine stands against its snapshot.
type Hardware struct {
	Address string               `json:"address"`
	State   inventory.DriftState `json:"state"`
	// FrozenAt is when the snapshot was taken.
	FrozenAt time.Time `json:"frozen_at"`
	// Since is when the present difference was first told; zero without one.
	Since time.Time `json:"since,omitzero"`
	// LookedAt is when a program last looked at the hardware, and Looked says that
	// it was for this plan.
	LookedAt time.Time `json:"looked_at,omitzero"`
	Looked   bool      `json:"looked"`
	// Note says why the look failed or was incomplete; empty when it was not, and
	// when none was asked for.
	Note    string             `json:"note,omitempty"`
	Changes []inventory.Change `json:"changes,omitempty"`
}

// Drifted reports whether the hardware of a machine is not what it was, or cannot
// be compared.
func (p Plan) Drifted() bool {
	return slices.ContainsFunc(p.Hardware, func(h Hardware) bool { return h.State != inventory.DriftNone })
}

// hardware writes what differs, what was not looked at now, and counts the rest.
func (pr *printer) hardware(all []Hardware, now time.Time) {
	var changed, stale []Hardware
	for _, h := range all {
		switch {
		case h.State != inventory.DriftNone:
			changed = append(changed, h)
		case !h.Looked || h.Note != "":
			stale = append(stale, h)
		}
	}
	if len(changed) > 0 {
		pr.line("", pr.bold("Hardware has changed:"))
	}
	for _, h := range changed {
		pr.line("  ", pr.yellow("!")+" "+pr.bold(h.Address)+" "+pr.red(h.summary()))
		for _, c := range h.Changes {
			pr.detail("", drift.Describe(c))
		}
		pr.detail("", h.look(now))
		pr.detail("accept", "edge-provision inventory accept '"+h.Address+"'")
		pr.line("", "")
	}
	for _, h := range stale {
		pr.line("", fmt.Sprintf("Hardware of %s: no change known; %s.", h.Address, h.look(now)))
	}
	if n := len(all) - len(changed) - len(stale); n > 0 {
		pr.line("", fmt.Sprintf("Hardware of %s: looked at now, no change.", plural(n, "machine")))
	}
}

func (h Hardware) summary() string {
	if h.State == inventory.DriftForged {
		return "has a snapshot that this catalog did not sign: nothing can be compared with it"
	}
	return "is not as it was frozen on " + minute(h.FrozenAt)
}

// look says when the hardware was last looked at, and why not now.
func (h Hardware) look(now time.Time) string {
	var text string
	switch {
	case h.Looked:
		text = "looked at now"
	case h.LookedAt.IsZero():
		text = "never looked at"
	default:
		text = "not looked at since " + minute(h.LookedAt)
		if !now.IsZero() {
			text += " (" + age(now.Sub(h.LookedAt)) + ")"
		}
	}
	if h.Note != "" {
		text += ": " + strings.TrimPrefix(h.Note, h.Address+": ")
	}
	return text
}

// minute is a time for a person, in UTC, which all controllers of a site share.
func minute(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// age is a duration in its greatest unit.
func age(d time.Duration) string {
	switch {
	case d < time.Minute:
		return "less than a minute ago"
	case d < time.Hour:
		return plural(int(d.Minutes()), "minute") + " ago"
	case d < 48*time.Hour:
		return plural(int(d.Hours()), "hour") + " ago"
	}
	return plural(int(d.Hours()/24), "day") + " ago"
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}
