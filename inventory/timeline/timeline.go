// Package timeline is the reading side of the flight recorder: from the events
// of one machine it tells what happened and how long each phase took (Trace),
// and where the machine is stuck and what to try (Diagnose).
//
// Everything here is a pure function of its arguments. Attributes of events come
// partly from strangers (a DHCP client's vendor class, an agent's log), so no
// attribute is ever printed without being made harmless first.
package timeline

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// Timeline is what happened to one machine, in attempts to bring it up.
type Timeline struct {
	SchemaVersion int       `json:"schema_version"`
	Attempts      []Attempt `json:"attempts"`
}

// Attempt is one try to bring the machine up. It begins when the machine is
// powered on, cycled or reset through its BMC, or when its firmware asks for an
// address although it had come further before, had finished, had been powered
// off, or had been silent for ten minutes. A restart after the image was written
// belongs to the attempt that wrote it.
type Attempt struct {
	Began  time.Time `json:"began"`
	Ended  time.Time `json:"ended"` // time of its last event
	Phases []Phase   `json:"phases"`
	// Entries are its events, repetitions folded.
	Entries []Entry `json:"events"`
}

// Phase is one stage of an attempt that was reached.
type Phase struct {
	Name Name `json:"name"`
	// Began is the end of the phase before it.
	Began time.Time `json:"began"`
	Ended time.Time `json:"ended"`
	// Milliseconds is the time the phase took.
	Milliseconds int64 `json:"duration_ms"`
	// Running says that the phase has begun and its end was not seen.
	Running bool `json:"running,omitempty"`
}

// Duration is the time the phase took; for a running one, until its last event.
func (p Phase) Duration() time.Duration { return p.Ended.Sub(p.Began) }

// Name names a phase; the phases come in the order of the constants.
type Name string

// Phases, each with what ends it.
const (
	PhasePower     Name = "power"     // the BMC confirms that the machine is on
	PhaseFirmware  Name = "firmware"  // the firmware's first DISCOVER
	PhaseDHCP      Name = "dhcp"      // the ACK that the firmware gets
	PhaseBootFile  Name = "boot file" // iPXE is fetched whole
	PhaseScript    Name = "ipxe"      // iPXE has fetched its script
	PhaseKernel    Name = "kernel"    // kernel and initramfs are fetched
	PhaseAgent     Name = "agent"     // the agent opens its session
	PhaseFacts     Name = "facts"     // the agent reports what the machine is
	PhaseDecision  Name = "decision"  // the agent is given its first task on a disk
	PhaseWipe      Name = "wipe"      // old signatures are erased
	PhaseWrite     Name = "write"     // the image is written
	PhaseConfigure Name = "configure" // the machine's identity is in the image
	PhaseReboot    Name = "reboot"    // the agent restarts the machine
	PhaseSSH       Name = "ssh"       // the installed system answers
)

// Entry is an event, or several in a row that say the same.
type Entry struct {
	Event inventory.Event `json:"event"`
	// Text is the event in one line for a person, with what came from strangers
	// made harmless and clipped.
	Text string `json:"text"`
	// Level is Problem or Well where the event says so itself.
	Level Level     `json:"level,omitempty"`
	Count int       `json:"count"`
	Last  time.Time `json:"last"` // of the last repetition
}

// silence is how long after the last event a firmware's DISCOVER is no longer
// a repetition.
const silence = 10 * time.Minute

// Trace orders the events of one machine by time and tells its attempts apart.
// It does not keep or change events.
func Trace(events []inventory.Event) Timeline {
	t := Timeline{SchemaVersion: 1, Attempts: []Attempt{}}
	for _, events := range attempts(events) {
		t.Attempts = append(t.Attempts, Attempt{
			Began:   events[0].Time,
			Ended:   events[len(events)-1].Time,
			Phases:  phases(events),
			Entries: fold(events),
		})
	}
	return t
}

// attempts splits events, once sorted, where an attempt begins.
func attempts(events []inventory.Event) [][]inventory.Event {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b inventory.Event) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.ID, b.ID))
	})
	var out [][]inventory.Event
	start := 0
	var at progress
	for i, e := range events {
		if i > start && at.endsBefore(e, events[i-1]) {
			// Setting the boot device comes just before switching on.
			from := i
			for e.Kind == inventory.EventBMCPower && from > start+1 && preparesPower(events[from-1], e) {
				from--
			}
			out = append(out, events[start:from:from])
			start, at = from, progress{}
		}
		at.note(e)
	}
	if start < len(events) {
		out = append(out, events[start:])
	}
	return out
}

// preparesPower says whether e is a call to the BMC that belongs to the power
// action after it.
func preparesPower(e, power inventory.Event) bool {
	switch e.Kind {
	case inventory.EventBMCBoot, inventory.EventBMCPower, inventory.EventStepStarted, inventory.EventRunStarted, inventory.EventHostFirewall:
		return power.Time.Sub(e.Time) < silence && !(e.Kind == inventory.EventBMCPower && switchesOn(e))
	}
	return false
}

// progress is how far an attempt has come, as far as its end depends on it.
type progress struct{ kernel, written, finished, off, on bool }

func (p *progress) note(e inventory.Event) {
	switch {
	case e.Kind == inventory.EventBMCPower:
		p.on = p.on || switchesOn(e)
		p.off = e.Attrs["action"] == "off" || e.Attrs["action"] == "soft"
	case e.Kind == inventory.EventHTTPEnd && e.Attrs["asset"] == "kernel", e.Kind == inventory.EventAgentSession:
		p.kernel = true
	case e.Kind == inventory.EventMachineState && e.Attrs["to"] == string(inventory.StateInstalled), isResult(e, "write", "ok"):
		p.written = true
	case e.Kind == inventory.EventSSHUp:
		p.finished = true
	}
}

// endsBefore says whether e begins another attempt.
func (p *progress) endsBefore(e, last inventory.Event) bool {
	idle := e.Time.Sub(last.Time) > silence
	switch e.Kind {
	case inventory.EventBMCPower:
		return switchesOn(e) && (p.finished || !p.written) && (p.on || p.kernel || p.finished || idle)
	case inventory.EventBMCBoot, inventory.EventBMCRefused, inventory.EventBMCUnreachable, inventory.EventBMCError:
		return idle && (p.finished || !p.written)
	case inventory.EventDHCPDiscover:
		if !byFirmware(e) {
			return false
		}
		return p.finished || (!p.written && (p.kernel || p.off || idle))
	}
	return false
}

func switchesOn(e inventory.Event) bool {
	switch e.Attrs["action"] {
	case "on", "cycle", "reset":
		return true
	}
	return false
}

// byFirmware tells the firmware (or an iPXE in its ROM) from our iPXE, the agent
// and an operating system, by what a DHCP message says of its sender.
func byFirmware(e inventory.Event) bool {
	switch e.Attrs["firmware"] {
	case "bios", "uefi", "httpboot", "ipxe":
		return true
	}
	return false
}

func isResult(e inventory.Event, kind, outcome string) bool {
	return e.Kind == inventory.EventAgentResult && e.Attrs["kind"] == kind && e.Attrs["outcome"] == outcome
}

// whole says whether e is the end of a complete transfer.
func whole(e inventory.Event) bool {
	if e.Attrs["error"] != "" || e.Attrs["size_only"] != "" || (e.Attrs["size"] != "" && e.Attrs["bytes"] != e.Attrs["size"]) {
		return false
	}
	status := e.Attrs["status"]
	return status == "" || status[0] == '2'
}

func isAsset(e inventory.Event, assets ...string) bool {
	return slices.Contains(assets, e.Attrs["asset"])
}

// givenAddress is the end of DHCP for the firmware: our ACK, or in proxy mode its
// REQUEST to the server that gives addresses.
func givenAddress(e inventory.Event) bool {
	return (e.Kind == inventory.EventDHCPAck && byFirmware(e)) ||
		(e.Kind == inventory.EventDHCPForeign && e.Attrs["expected"] == "true")
}

// isBootFile says whether e is the complete fetch of iPXE.
func isBootFile(e inventory.Event) bool {
	return (e.Kind == inventory.EventTFTPEnd || (e.Kind == inventory.EventHTTPEnd && isAsset(e, "bootfile"))) && whole(e)
}

// ends are the phases with the event that ends each.
var ends = []struct {
	name Name
	by   func(inventory.Event) bool
	last bool // the last such event counts, not the first
}{
	{name: PhasePower, by: func(e inventory.Event) bool { return e.Kind == inventory.EventBMCPower && switchesOn(e) }},
	{name: PhaseFirmware, by: func(e inventory.Event) bool { return e.Kind == inventory.EventDHCPDiscover && byFirmware(e) }},
	{name: PhaseDHCP, by: givenAddress},
	{name: PhaseBootFile, by: isBootFile},
	{name: PhaseScript, by: func(e inventory.Event) bool {
		return e.Kind == inventory.EventHTTPEnd && isAsset(e, "script") && whole(e)
	}},
	{name: PhaseKernel, last: true, by: func(e inventory.Event) bool {
		return e.Kind == inventory.EventHTTPEnd && isAsset(e, "kernel", "initramfs") && whole(e)
	}},
	{name: PhaseAgent, by: func(e inventory.Event) bool { return e.Kind == inventory.EventAgentSession }},
	{name: PhaseFacts, by: func(e inventory.Event) bool { return e.Kind == inventory.EventAgentFacts }},
	{name: PhaseDecision, by: func(e inventory.Event) bool {
		return e.Kind == inventory.EventAgentTask && slices.Contains([]string{"wipe", "write", "configure"}, e.Attrs["kind"])
	}},
	{name: PhaseWipe, last: true, by: func(e inventory.Event) bool { return isResult(e, "wipe", "ok") }},
	{name: PhaseWrite, last: true, by: func(e inventory.Event) bool { return isResult(e, "write", "ok") }},
	{name: PhaseConfigure, last: true, by: func(e inventory.Event) bool { return isResult(e, "configure", "ok") }},
	{name: PhaseReboot, by: func(e inventory.Event) bool {
		return (e.Kind == inventory.EventAgentTask || e.Kind == inventory.EventAgentResult) && e.Attrs["kind"] == "reboot"
	}},
	{name: PhaseSSH, by: func(e inventory.Event) bool { return e.Kind == inventory.EventSSHUp }},
}

// phases are the phases whose ends were seen, each from the end before it, and
// the one that is running. A phase that another boot path leaves out is left out.
func phases(events []inventory.Event) []Phase {
	out := []Phase{}
	began := events[0].Time
	next := 0 // events before it belong to phases that ended
	done := -1
	for at, end := range ends {
		found := -1
		for i := next; i < len(events); i++ {
			if end.by(events[i]) {
				if found = i; !end.last {
					break
				}
			}
		}
		if found < 0 {
			continue
		}
		done = at
		// The event that the attempt begins with ends no phase that was seen.
		if found > 0 {
			out = append(out, newPhase(end.name, began, events[found].Time))
		}
		began, next = events[found].Time, found+1
	}
	if done < 0 && !strings.HasPrefix(string(events[0].Kind), "bmc.") {
		return out
	}
	if last := events[len(events)-1].Time; last.After(began) && done+1 < len(ends) {
		at := done + 1
		// Few machines are wiped before they are written.
		if ends[at].name == PhaseWipe {
			at++
		}
		p := newPhase(ends[at].name, began, last)
		p.Running = true
		out = append(out, p)
	}
	return out
}

func newPhase(name Name, began, ended time.Time) Phase {
	return Phase{Name: name, Began: began, Ended: ended, Milliseconds: ended.Sub(began).Milliseconds()}
}

// fold joins neighbours that a reader could not tell apart.
func fold(events []inventory.Event) []Entry {
	out := []Entry{}
	for _, e := range events {
		text := describe(e)
		if n := len(out); n > 0 && out[n-1].Text == text {
			out[n-1].Count++
			out[n-1].Last = e.Time
			continue
		}
		out = append(out, Entry{Event: e, Text: text, Level: level(e), Count: 1, Last: e.Time})
	}
	return out
}
