package timeline

import (
	"fmt"
	"slices"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// Input is what is known about a machine when somebody asks why.
type Input struct {
	// Events are the machine's, in any order; those of the network as a whole
	// (host.firewall has no MAC) may be among them.
	Events []inventory.Event
	// Now is the time of asking; waiting is measured up to it.
	Now time.Time
	// Heard is when the machine last showed a sign of life that is not kept as
	// an event, such as the agent's reports of progress; zero when unknown.
	Heard time.Time
	// GaveUp says that who asks has waited as long as it will: nothing is in
	// progress any more, however short the wait was.
	GaveUp bool
	// Declared says that the machine is in site.hcl.
	Declared bool
	// State is the machine's state in the catalog; empty when unknown.
	State inventory.State
	// BMC is the driver that site.hcl gives the machine: redfish, ipmi and so
	// on; empty or "none" when somebody must switch it on.
	BMC string
	// BMCAddress is where the BMC is said to be; it is only shown.
	BMCAddress string
	// Mode is the network's dhcp mode: server, proxy or off.
	Mode string
	// Interface is where the controller serves; it is only shown.
	Interface string
}

// Level says how bad a finding is.
type Level string

// Levels of findings.
const (
	Problem  Level = "problem"  // somebody should act
	Progress Level = "progress" // on its way, nothing is overdue
	Well     Level = "well"     // nothing is missing
)

// Hop is a place on the way from power to node where a machine can be stuck.
type Hop string

// Hops, in the order in which a machine passes them.
const (
	HopSite      Hop = "site"      // the declaration, the identity
	HopBMC       Hop = "bmc"       // the controller that switches it on
	HopFirmware  Hop = "firmware"  // from power to the first DISCOVER
	HopDHCP      Hop = "dhcp"      // an address and a boot file's name
	HopBootFile  Hop = "boot file" // iPXE, by TFTP or HTTP
	HopIPXE      Hop = "ipxe"      // iPXE runs and fetches its script
	HopKernel    Hop = "kernel"    // kernel and initramfs
	HopAgent     Hop = "agent"     // the installer opens its session
	HopFacts     Hop = "facts"     // the machine is described
	HopDecision  Hop = "decision"  // the run, or a person, decides
	HopDisk      Hop = "disk"      // the disk is chosen and written
	HopConfigure Hop = "configure" // the image gets the machine's identity
	HopReboot    Hop = "reboot"    // the installed system starts
	HopSSH       Hop = "ssh"       // and answers
	HopStep      Hop = "step"      // a step of the workflow
)

// Finding is one answer to "why".
type Finding struct {
	Hop   Hop   `json:"hop"`
	Level Level `json:"level"`
	// Summary is one sentence: what is missing, or what is going on.
	Summary string `json:"summary"`
	// Evidence are the events that the finding rests on, at most five.
	Evidence []inventory.Event `json:"evidence"`
	// Try is what to do, the likeliest first.
	Try []string `json:"try"`
}

// Diagnose names the hop at which the machine's latest attempt is stuck and what
// to try. The first finding is the one to act on; there is always at least one.
func Diagnose(in Input) []Finding {
	v := newView(in)
	var out []Finding
	for _, detect := range detectors {
		if f := detect(v); f != nil {
			out = append(out, *f)
		}
	}
	if len(out) == 0 {
		out = append(out, *v.waiting())
	}
	// A step that failed because of what was found is no second finding.
	if n := len(out); n > 1 && out[n-1].Hop == HopStep {
		out = out[:n-1]
	}
	for i := range out {
		if n := len(out[i].Evidence); n > 5 {
			out[i].Evidence = out[i].Evidence[n-5:]
		}
		if out[i].Evidence == nil {
			out[i].Evidence = []inventory.Event{}
		}
		if out[i].Try == nil {
			out[i].Try = []string{}
		}
	}
	return out
}

// view is the latest attempt, with the questions that detectors ask of it.
type view struct {
	Input
	events []inventory.Event
}

func newView(in Input) *view {
	v := &view{Input: in}
	if all := attempts(in.Events); len(all) > 0 {
		v.events = all[len(all)-1]
	}
	return v
}

type test func(inventory.Event) bool

func kinds(kinds ...inventory.EventKind) test {
	return func(e inventory.Event) bool { return slices.Contains(kinds, e.Kind) }
}

func (t test) and(others ...test) test {
	return func(e inventory.Event) bool {
		for _, o := range others {
			if !o(e) {
				return false
			}
		}
		return t(e)
	}
}

func having(key, value string) test {
	return func(e inventory.Event) bool { return e.Attrs[key] == value }
}

func lacking(key, value string) test {
	return func(e inventory.Event) bool { return e.Attrs[key] != value }
}

// Questions that several detectors ask.
var (
	switchedOn   = kinds(inventory.EventBMCPower).and(switchesOn)
	discovered   = kinds(inventory.EventDHCPDiscover).and(byFirmware)
	requested    = kinds(inventory.EventDHCPRequest).and(byFirmware)
	acknowledged = test(givenAddress)
	offered      = kinds(inventory.EventDHCPOffer)
	fileStarted  = test(func(e inventory.Event) bool {
		return e.Kind == inventory.EventTFTPStart || (e.Kind == inventory.EventHTTPStart && isAsset(e, "bootfile"))
	})
	fileBroken = test(func(e inventory.Event) bool {
		return e.Kind == inventory.EventTFTPError || (e.Kind == inventory.EventHTTPEnd && isAsset(e, "bootfile") && !whole(e))
	})
	fileFetched    = test(isBootFile)
	ipxeRuns       = kinds(inventory.EventDHCPDiscover, inventory.EventDHCPRequest).and(having("firmware", "ours"))
	scriptAsked    = kinds(inventory.EventHTTPStart, inventory.EventHTTPEnd).and(having("asset", "script"))
	scriptFetched  = kinds(inventory.EventHTTPEnd).and(having("asset", "script"), whole)
	kernelAsked    = kinds(inventory.EventHTTPStart, inventory.EventHTTPEnd).and(func(e inventory.Event) bool { return isAsset(e, "kernel", "initramfs") })
	kernelFetched  = kinds(inventory.EventHTTPEnd).and(having("asset", "kernel"), whole)
	initramfs      = kinds(inventory.EventHTTPEnd).and(having("asset", "initramfs"), whole)
	agentDHCP      = kinds(inventory.EventDHCPDiscover, inventory.EventDHCPRequest).and(having("firmware", "agent"))
	agentAddressed = kinds(inventory.EventDHCPAck).and(having("firmware", "agent"))
	session        = kinds(inventory.EventAgentSession)
	factsReported  = kinds(inventory.EventAgentFacts)
	diskTask       = kinds(inventory.EventAgentTask).and(func(e inventory.Event) bool {
		return slices.Contains([]string{"wipe", "write", "configure"}, e.Attrs["kind"])
	})
	written       = kinds(inventory.EventAgentResult).and(having("kind", "write"), having("outcome", "ok"))
	configured    = kinds(inventory.EventAgentResult).and(having("kind", "configure"), having("outcome", "ok"))
	installed     = kinds(inventory.EventMachineState).and(having("to", string(inventory.StateInstalled)))
	rebooted      = kinds(inventory.EventAgentTask, inventory.EventAgentResult).and(having("kind", "reboot"))
	sshUp         = kinds(inventory.EventSSHUp)
	failedSteps   = kinds(inventory.EventStepFinished).and(having("outcome", "failed"))
	foreignServer = kinds(inventory.EventDHCPForeign).and(lacking("expected", "true"))
)

// last is the last event that passes, with its place; -1 when there is none.
func (v *view) last(t test) int {
	for i := len(v.events) - 1; i >= 0; i-- {
		if t(v.events[i]) {
			return i
		}
	}
	return -1
}

func (v *view) has(t test) bool { return v.last(t) >= 0 }

// hasAfter says whether an event after the i-th passes.
func (v *view) hasAfter(i int, t test) bool { return v.last(t) > i }

func (v *view) all(t test) []inventory.Event {
	var out []inventory.Event
	for _, e := range v.events {
		if t(e) {
			out = append(out, e)
		}
	}
	return out
}

// evidence are the last events that pass each test, in order of time.
func (v *view) evidence(tests ...test) []inventory.Event {
	var places []int
	for _, t := range tests {
		if i := v.last(t); i >= 0 && !slices.Contains(places, i) {
			places = append(places, i)
		}
	}
	slices.Sort(places)
	var out []inventory.Event
	for _, i := range places {
		out = append(out, v.events[i])
	}
	return out
}

// since is how long ago an event was.
func (v *view) since(e inventory.Event) time.Duration { return max(0, v.Now.Sub(e.Time)) }

// silent is how long ago the machine was last heard; what the controller did
// meanwhile does not count.
func (v *view) silent() time.Duration {
	out := v.since(v.events[0])
	if i := v.last(ofMachine); i >= 0 {
		out = v.since(v.events[i])
	}
	if !v.Heard.IsZero() {
		out = min(out, max(0, v.Now.Sub(v.Heard)))
	}
	return out
}

// ofMachine tells events of the machine from those of the controller's work.
func ofMachine(e inventory.Event) bool {
	switch e.Kind {
	case inventory.EventStepStarted, inventory.EventStepFinished, inventory.EventRunStarted,
		inventory.EventRunFinished, inventory.EventHostFirewall, inventory.EventMachineClass, inventory.EventMachineReaction:
		return false
	}
	return true
}

// gaveUp says whether who asks, or a step, waited for the machine until its own limit.
func (v *view) gaveUp() bool {
	if v.GaveUp {
		return true
	}
	i := v.last(failedSteps)
	return i > v.last(ofMachine) && !v.hasAfter(i, kinds(inventory.EventStepStarted))
}

// overdue makes a finding of a wait: progress while it is within patience, a
// problem with advice after that.
func (v *view) overdue(hop Hop, patience time.Duration, going, stuck string, evidence []inventory.Event, try ...string) *Finding {
	if s := v.silent(); s <= patience && !v.gaveUp() {
		return &Finding{
			Hop: hop, Level: Progress, Evidence: evidence,
			Summary: fmt.Sprintf("In progress: %s, for %s (up to %s is usual).", going, span(s), span(patience)),
		}
	}
	return &Finding{
		Hop: hop, Level: Problem, Evidence: evidence, Try: try,
		Summary: fmt.Sprintf("%s Nothing was heard for %s.", stuck, span(v.silent())),
	}
}

func problem(hop Hop, evidence []inventory.Event, summary string, try ...string) *Finding {
	return &Finding{Hop: hop, Level: Problem, Summary: summary, Evidence: evidence, Try: try}
}

// onInterface is " on eth1", where the interface is known.
func (v *view) onInterface() string {
	if v.Interface == "" {
		return ""
	}
	return " on " + plain(v.Interface)
}

func (v *view) bmc() string {
	if v.BMCAddress == "" {
		return "the BMC"
	}
	return "the BMC at " + plain(v.BMCAddress)
}

func (v *view) hasBMC() bool { return v.BMC != "" && v.BMC != "none" }
