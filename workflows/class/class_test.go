package class

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/site"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func load(t *testing.T, text string) *site.Site {
	t.Helper()
	path := filepath.Join(t.TempDir(), "site.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, diags := site.Load(path, site.Options{StepTypes: map[string]site.StepType{"touch": {}}})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return s
}

func TestAMachineIsInEachClassWhoseRuleIsTrue(t *testing.T) {
	s := load(t, `
site "shop" {}
class "small" {
  match = facts.memory.bytes < GiB(4)
}
class "big" {
  match = facts.memory.bytes >= GiB(4)
}
class "any" {
  match = !missing(facts)
}
class "unseen" {
  match = machine.state == "declared"
}
`)
	for _, c := range []struct {
		facts *inventory.Facts
		state inventory.State
		want  string
	}{
		{&inventory.Facts{Memory: &inventory.Memory{Bytes: 2 << 30}}, inventory.StateHeld, "any small"},
		{&inventory.Facts{Memory: &inventory.Memory{Bytes: 8 << 30}}, inventory.StateDeclared, "any big unseen"},
		{nil, inventory.StateDeclared, "unseen"},
		// A rule over what was not observed is not true, and its opposite neither.
		{&inventory.Facts{CPU: &inventory.CPU{Cores: 1}}, inventory.StateHeld, "any"},
	} {
		got, err := Of(s.Classes, inventory.Machine{State: c.state}, c.facts)
		if text := strings.Join(got, " "); err != nil || text != c.want {
			t.Errorf("Of(%+v, %s) = %q, %v; want %q", c.facts, c.state, text, err, c.want)
		}
	}
}

// yard is a site's rules and what there is, by short names.
type yard struct {
	rules   []Rule
	members []Member
	kept    []inventory.Reaction
	running map[int64]bool
	now     time.Time
}

var tills = []string{`machine.till["a"]`, `machine.till["b"]`, `machine.till["c"]`}

func newYard(atOnce, perHour int) *yard {
	return &yard{now: noon, rules: []Rule{{Class: "till", Digest: "d1", Machines: "machine.till", Provision: tills, AtOnce: atOnce, PerHour: perHour}}, running: map[int64]bool{}}
}

func id(n int) uuid.UUID { return uuid.UUID{15: byte(n)} }

// come puts a machine into the class, as one of the tills or as none.
func (y *yard) come(n int, address string) {
	y.members = append(y.members, Member{Machine: id(n), Classes: []string{"till"}, Address: address})
}

// pass does what a pass of the daemon does, and says it in a line.
func (y *yard) pass() string {
	for _, r := range Due("shop", y.rules, y.members, y.kept) {
		r.ID, r.QueuedAt = int64(len(y.kept)+1), y.now
		y.kept = append(y.kept, r)
	}
	var said []string
	for _, m := range Decide(y.now, y.rules, y.members, y.kept, y.running) {
		r := &y.kept[m.Reaction.ID-1]
		text := fmt.Sprintf("%d %s", m.Reaction.Machine[15], m.To)
		switch m.To {
		case inventory.ReactionStarted:
			r.Attempts++
			r.StartedAt, r.Address, y.running[r.ID] = y.now, m.Address, true
			text += " " + m.Address
		case inventory.ReactionQueued:
			text += ": " + m.Reason
		default:
			text += ": " + m.Reason
		}
		r.State, r.Reason = m.To, m.Reason
		said = append(said, text)
	}
	return strings.Join(said, "\n")
}

func (y *yard) end(n int, state inventory.ReactionState) {
	for i := range y.kept {
		if y.kept[i].Machine == id(n) && y.kept[i].State == inventory.ReactionStarted {
			y.kept[i].State = state
			delete(y.running, y.kept[i].ID)
		}
	}
}

func (y *yard) want(t *testing.T, lines ...string) {
	t.Helper()
	if got := y.pass(); got != strings.Join(lines, "\n") {
		t.Errorf("pass() =\n%s\nwant\n%s", got, strings.Join(lines, "\n"))
	}
}

func TestSoManyAtATimeInOrderOfArrival(t *testing.T) {
	y := newYard(2, 100)
	for n, address := range tills {
		y.come(n+1, address)
	}
	y.want(t, `1 started machine.till["a"]`, `2 started machine.till["b"]`)
	y.want(t)
	y.end(2, inventory.ReactionDone)
	y.want(t, `3 started machine.till["c"]`)
	y.end(1, inventory.ReactionFailed)
	y.end(3, inventory.ReactionDone)
	y.want(t) // what failed is not tried again
}

func TestSoManyWithinAnHour(t *testing.T) {
	y := newYard(10, 2)
	for n, address := range tills {
		y.come(n+1, address)
	}
	y.want(t, `1 started machine.till["a"]`, `2 started machine.till["b"]`)
	y.end(1, inventory.ReactionDone)
	y.end(2, inventory.ReactionFailed)
	y.now = y.now.Add(59 * time.Minute)
	y.want(t)
	y.now = y.now.Add(time.Minute)
	y.want(t, `3 started machine.till["c"]`)
}

func TestAMachineWithoutAFreePlaceWaitsAndHoldsUpNobody(t *testing.T) {
	y := newYard(1, 100)
	y.come(1, "")
	y.come(2, tills[1])
	y.want(t, "1 queued: machine.till has 3 places, and other machines have taken them; declare one more", `2 started machine.till["b"]`)
	y.end(2, inventory.ReactionDone)
	y.members[0].Address = "machine.till[\"d\"]"
	y.rules[0].Provision = append(slices.Clone(tills), y.members[0].Address)
	y.want(t, `1 started machine.till["d"]`)
}

func TestWhatIsDeclaredAsSomethingElseIsLeftAlone(t *testing.T) {
	y := newYard(1, 100)
	y.come(1, "machine.router")
	y.want(t)
	if len(y.kept) != 0 {
		t.Errorf("kept = %+v; want nothing about a machine that is declared elsewhere", y.kept)
	}
}

func TestWhatIsInstalledAlreadyTakesNoTurn(t *testing.T) {
	y := newYard(1, 1)
	y.come(1, tills[0])
	y.members[0].Installed = true
	y.come(2, tills[1])
	y.want(t, `2 started machine.till["b"]`)
	if y.kept[0].State != inventory.ReactionDone {
		t.Errorf("reaction of the installed machine = %+v; want it done", y.kept[0])
	}
}

func TestOnceForEachDefinitionOfTheClass(t *testing.T) {
	y := newYard(1, 100)
	y.come(1, tills[0])
	y.want(t, `1 started machine.till["a"]`)
	y.end(1, inventory.ReactionDone)
	// It leaves and comes back.
	y.members[0].Classes = nil
	y.want(t)
	y.members[0].Classes = []string{"till"}
	y.want(t)
	y.rules[0].Digest = "d2"
	y.want(t, `1 started machine.till["a"]`)
}

func TestWhatWaitsIsDroppedWhenItsReasonIsGone(t *testing.T) {
	for name, change := range map[string]func(*yard){
		"the class starts nothing any more": func(y *yard) { y.rules = nil },
		"the machine left the class":        func(y *yard) { y.members[1].Classes = nil },
	} {
		y := newYard(1, 100)
		y.come(1, tills[0])
		y.come(2, tills[1])
		y.pass()
		change(y)
		y.want(t, "2 dropped: "+name)
	}
	y := newYard(1, 100)
	y.come(1, tills[0])
	y.come(2, tills[1])
	y.pass()
	y.rules[0].Digest = "d2"
	y.want(t, "2 dropped: the class has been changed since")
}

// A controller that is killed anywhere loses nothing and starts nothing twice at
// a time.
func TestWhatWasCutOffGoesOnFirst(t *testing.T) {
	y := newYard(1, 1)
	y.come(1, tills[0])
	y.come(2, tills[1])
	y.want(t, `1 started machine.till["a"]`)
	y.running = map[int64]bool{} // killed, and started again
	y.want(t, `1 started machine.till["a"]`)
	y.running = map[int64]bool{}
	y.want(t, `1 started machine.till["a"]`)
	y.running = map[int64]bool{}
	y.now = y.now.Add(2 * time.Hour)
	y.want(t, "1 failed: the controller ended 3 times while it was under way; `edge-provision apply` continues it", `2 started machine.till["b"]`)
}

func TestWhatWasCutOffOfAnotherDefinitionIsDropped(t *testing.T) {
	y := newYard(1, 100)
	y.come(1, tills[0])
	y.pass()
	y.running = map[int64]bool{}
	y.rules[0].Digest = "d2"
	y.want(t, "1 dropped: it was cut off, and the class has been changed since", `1 started machine.till["a"]`)
}

func TestWhatWasCutOffGoesOnAsWhatTheMachineIsNow(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*yard)
		want   string
	}{
		"another place":       {func(y *yard) { y.members[0].Address = tills[1] }, `1 started machine.till["b"]`},
		"out of the class":    {func(y *yard) { y.members[0].Classes = nil }, "1 dropped: it was cut off, and the machine left the class"},
		"forgotten":           {func(y *yard) { y.members = nil }, "1 dropped: it was cut off, and the machine left the class"},
		"no rule any more":    {func(y *yard) { y.rules = nil }, "1 dropped: it was cut off, and the class starts nothing any more"},
		"no place any more":   {func(y *yard) { y.members[0].Address = "" }, "1 dropped: it was cut off, and machine.till has 3 places, and other machines have taken them; declare one more"},
		"a place of no class": {func(y *yard) { y.members[0].Address = "machine.router" }, "1 dropped: it was cut off, and machine.router is not installed yet, and the class does not provision it"},
		"its own record":      {func(y *yard) { y.members[0].Taken = true }, `1 started machine.till["a"]`},
		"another's record": {
			func(y *yard) { y.members[0].Address, y.members[0].Taken = tills[1], true },
			`1 refused: the catalog holds an installation of machine.till["b"] that is not this machine's: ` +
				"`edge-provision destroy --forget --target 'machine.till[\"b\"]'` forgets it; then `edge-provision apply` installs this one",
		},
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(1, 100)
			y.come(1, tills[0])
			y.pass()
			y.running = map[int64]bool{}
			c.change(y)
			y.want(t, c.want)
		})
	}
}

func TestAnotherMachinesInstallationIsLeftToAPerson(t *testing.T) {
	y := newYard(1, 1)
	y.come(1, tills[0])
	y.members[0].Taken = true
	y.come(2, tills[1])
	got := y.pass()
	if !strings.HasPrefix(got, "1 refused: ") || !strings.Contains(got, `destroy --forget --target 'machine.till["a"]'`) || !strings.HasSuffix(got, "\n"+`2 started machine.till["b"]`) {
		t.Errorf("pass() = %s; want the first refused, with what to do, and no turn taken by it", got)
	}
	y.want(t) // once
	// Where nothing is installed, it waits until that is cleared up.
	y = newYard(1, 100)
	y.rules[0].Machines, y.rules[0].Provision, y.rules[0].Workflow = "", nil, "workflow.burn_in"
	y.come(1, tills[0])
	y.members[0].Taken = true
	y.want(t, `1 queued: the catalog holds an installation of machine.till["a"] that is not this machine's, and the class does not provision it`)
	y.members[0].Taken, y.members[0].Installed = false, true
	y.want(t, `1 started machine.till["a"]`)
}

func TestWhatWasStartedLapsesWithItsReason(t *testing.T) {
	y := newYard(1, 100)
	y.come(1, tills[0])
	move := Move{
		Reaction: inventory.Reaction{Machine: id(1), Class: "till", Digest: "d1", State: inventory.ReactionStarted, Address: tills[0]},
		Address:  tills[0], Rule: y.rules[0],
	}
	if got := move.Lapsed(y.rules, y.members[0]); got != "" {
		t.Errorf("Lapsed() = %q; want that it goes on", got)
	}
	for want, change := range map[string]func(*Rule, *Member){
		"the class has been changed since":                                         func(r *Rule, _ *Member) { r.Digest = "d2" },
		"the class starts nothing any more":                                        func(r *Rule, _ *Member) { r.Class = "other" },
		"the machine left the class":                                               func(_ *Rule, m *Member) { m.Classes = nil },
		`the machine is not machine.till["a"] any more`:                            func(_ *Rule, m *Member) { m.Address = "" },
		`the machine is machine.till["b"] now, and not machine.till["a"] any more`: func(_ *Rule, m *Member) { m.Address = tills[1] },
		`the class does not provision machine.till["a"] any more`:                  func(r *Rule, _ *Member) { r.Provision = tills[1:] },
	} {
		rule, now := y.rules[0], y.members[0]
		change(&rule, &now)
		if got := move.Lapsed([]Rule{rule}, now); got != want {
			t.Errorf("Lapsed() = %q; want %q", got, want)
		}
	}
}

func TestAWorkflowAloneInstallsNothing(t *testing.T) {
	y := newYard(1, 100)
	y.rules[0].Machines, y.rules[0].Provision, y.rules[0].Workflow = "", nil, "workflow.burn_in"
	y.come(1, "machine.node")
	y.come(2, "")
	y.want(t, "1 queued: machine.node is not installed yet, and the class does not provision it", "2 queued: it is no machine of site.hcl, so that no step works on it")
	y.members[0].Installed = true
	if got := strings.Split(y.pass(), "\n")[0]; got != "1 started machine.node" {
		t.Errorf("pass() = %q; want the installed machine started", got)
	}
}

const depot = `
site "depot" {}
network "floor" {
  interface = "eth1"
  cidr      = "172.26.0.0/24"
  dhcp {
    range = "172.26.0.100-172.26.0.199"
  }
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
class "till" {
  match = facts.cpu.cores >= LEAST
  react {
    provision = machine.till
    workflow  = workflow.w
    at_once   = AT_ONCE
  }
}
machine "till" {
  for_each = toset([KEYS])
  match    = class.till
  network  = network.floor
  image    = image.os
}
workflow "w" {
  step "touch" "own" {
    for_each   = machine.till
    depends_on = [machine.till]
  }
  step "touch" "first" {
    depends_on = [machine.till["a"]]
  }
  step "touch" "second" {
    depends_on = [step.touch.first]
  }
  step "touch" "other" {
    depends_on = [machine.till["b"]]
  }
  step "touch" "none" {
  }
}
`

func depotWith(t *testing.T, least, atOnce, keys string) *site.Site {
	return load(t, strings.NewReplacer("LEAST", least, "AT_ONCE", atOnce, "KEYS", keys).Replace(depot))
}

func TestADefinitionIsWhatIsStartedAndWhen(t *testing.T) {
	digest := func(s *site.Site) string { return Rules(s.Classes)[0].Digest }
	was := digest(depotWith(t, "2", "1", `"a", "b"`))
	for _, s := range []*site.Site{depotWith(t, "2", "5", `"a", "b"`), depotWith(t, "2", "1", `"a", "b", "c"`)} {
		if got := digest(s); got != was {
			t.Errorf("digest with another limit or one more machine = %s; want %s as before", got, was)
		}
	}
	if digest(depotWith(t, "3", "1", `"a", "b"`)) == was {
		t.Error("digest with another rule is the same; want another")
	}
}

func TestStepsRunWhenAllTheirMachinesAreThere(t *testing.T) {
	s := depotWith(t, "2", "1", `"a", "b"`)
	a, b := `machine.till["a"]`, `machine.till["b"]`
	for _, c := range []struct {
		installed []string
		want      string
	}{
		{[]string{a}, "workflow.w.step.touch.first workflow.w.step.touch.second"},
		{[]string{a, b}, `workflow.w.step.touch.own["a"] workflow.w.step.touch.own["b"] workflow.w.step.touch.first workflow.w.step.touch.second`},
		{nil, ""},
	} {
		got := strings.Join(Steps(s, "workflow.w", a, func(address string) bool { return slices.Contains(c.installed, address) }), " ")
		if got != c.want {
			t.Errorf("Steps(a) with %q installed = %s; want %s", c.installed, got, c.want)
		}
	}
	if got := Steps(s, "workflow.v", a, func(string) bool { return true }); got != nil {
		t.Errorf("Steps(unknown workflow) = %q; want none", got)
	}
}

func TestAPreviewSaysWhatServingWouldDo(t *testing.T) {
	y := newYard(1, 100)
	y.rules[0].Workflow = "workflow.burn_in"
	y.come(1, tills[0])
	y.come(2, tills[1])
	y.come(3, "")
	text := func() string {
		var lines []string
		for _, p := range Previews(y.now, "shop", y.rules, y.members, y.kept) {
			lines = append(lines, fmt.Sprintf("%d %s: %s", p.Machine[15], p.State, p.Text))
		}
		return strings.Join(lines, "\n")
	}
	const noPlace = "3 : machine.till has 3 places, and other machines have taken them; declare one more"
	want := "1 : provisions machine.till[\"a\"] and runs workflow.burn_in on machine.till[\"a\"]\n2 : waits for its turn\n" + noPlace
	if got := text(); got != want {
		t.Errorf("Previews() =\n%s\nwant\n%s", got, want)
	}
	y.pass()
	y.kept[0].Reason = "the stick is gone"
	want = "1 started: the stick is gone\n"
	if got := text(); !strings.HasPrefix(got, want) {
		t.Errorf("Previews() while one waits =\n%s\nwant the beginning\n%s", got, want)
	}
	y.end(1, inventory.ReactionDone)
	y.pass()
	y.end(2, inventory.ReactionRefused)
	y.kept[1].Reason = "a person is needed"
	want = "2 refused: a person is needed\n" + strings.Replace(noPlace, "3 :", "3 queued:", 1)
	if got := text(); got != want {
		t.Errorf("Previews() later =\n%s\nwant\n%s", got, want)
	}
}
