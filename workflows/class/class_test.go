package class

import (
	"fmt"
	"maps"
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
	digest := func(s *site.Site) string { return Rules(s.Classes, nil)[0].Digest }
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

// hashKey makes digests as a keyring does.
type hashKey string

// Digest implements Digester.
func (k hashKey) Digest(name string, value []byte) string {
	return digest(string(k), name, string(value))
}

const ruled = `
site "shop" {}
variable "secret" {
  type      = string
  default   = "SECRET"
  sensitive = true
}
class "till" {
  match = RULE
  react {
    workflow = workflow.w
  }
}
workflow "w" {
  step "touch" "t" {
  }
}
`

func classesOf(t *testing.T, rule, secret string) []*site.Class {
	return load(t, strings.NewReplacer("RULE", rule, "SECRET", secret).Replace(ruled)).Classes
}

func TestEveryChangeOfARuleIsAnotherDefinition(t *testing.T) {
	key := hashKey("of this catalog")
	long := strings.Repeat("x", 90)
	for name, change := range map[string][2][]*site.Class{
		"what comes late in a pattern": {
			classesOf(t, `regex("^(`+long+`|ZZ1)$", facts.system.serial)`, ""), classesOf(t, `regex("^(`+long+`|SERIALB)$", facts.system.serial)`, ""),
		},
		"a sensitive value": {classesOf(t, `facts.system.serial == var.secret`, "7XK2Q93"), classesOf(t, `facts.system.serial == var.secret`, "8XK2Q93")},
	} {
		if Digest(change[0], key) == Digest(change[1], key) {
			t.Errorf("Digest() is the same after a change of %s; want another, so that machines are looked at again", name)
		}
		if Rules(change[0], key)[0].Digest == Rules(change[1], key)[0].Digest {
			t.Errorf("a rule's digest is the same after a change of %s; want another, so that machines are reacted to again", name)
		}
	}
	secret := classesOf(t, `facts.system.serial == var.secret`, "7XK2Q93")
	if Digest(secret, key) == Digest(secret, hashKey("of another")) {
		t.Error("Digest() of a rule with a sensitive value is the same with another key; want it made with the key, so that nobody tries values out")
	}
}

// A machine that was reacted to is reacted to again under another digest: these
// are in catalogs, and what they name must not start once more.
func TestDigestsInCatalogsAreRecognized(t *testing.T) {
	for rule, want := range map[string][2]string{
		`facts.memory.bytes >= GiB(2) && length(facts.disks) == 1`: {
			"sha256:76b0e5e73bc0ccdb3c99629eda4371321cc51e05c28d56f00821a3f1f9390de0", "sha256:0785a67ce71cbc59cff7aaaa25510ae3a4014a66a658931d5c32b4414e0d5cfc",
		},
		`regex("^(` + strings.Repeat("x", 90) + `|ZZ1)$", facts.system.serial)`: {
			"sha256:5657abc8fa0b616232ccab8745de393ee5a3f6787b683a9b1cf2b69dca89c8bb", "sha256:e9118a41519f65bccb400e725bd8fed5787be3742f98cfad4a79425c236a17cd",
		},
		`facts.system.serial == var.secret`: {
			"sha256:62c9d145b8e84c4804500aa34c49a8803b8b7db00a344ac0021201773b6d73db", "sha256:1cc1ce98d250acdea1f0444befce850ca44b8436a30ead52cc1d1d7e867db2ec",
		},
		`any([for d in facts.disks : !d.rotational && d.bytes >= TiB(1) if d.bus == "nvme"])`: {
			"sha256:3d00732294828ce98643f7c113637cac84df1b9fb40ae14e141b4ef5630a8ebe", "sha256:c56d74375f81a3fc454a06f1bb36f140b01e2960533f27eb5de4dd9d1f169df2",
		},
		`contains(facts.nics[*].driver, "igc") || machine.tags["asset no"] != "0042"`: {
			"sha256:d4a19db3283dc50b53f17caa92fb49877f87d675fcd0673f0c9de8b7143dfb91", "sha256:87b032b0bf2554197b01fa3b39da11f91a2480ddbbda6f59a86629216a92b6a4",
		},
		`!missing(facts.tpm) && glob("Edge-*", facts.system.product)`: {
			"sha256:c451541b7713a24e87e45d1f407757cc56e24b68ba133c4ecf604c3c119584d3", "sha256:e45257c26f31e604c7e39e901db7349bd437635e6bcd057a3e9a739ec3e349be",
		},
		`machine.state == "held"`: {
			"sha256:17529f23b5eb15993b91e5ed04e3792e1a38f741f02d65c2075300c22adfe3ac", "sha256:5ff3527f7e9552bb1ea32fa7e4eae14f396754b6d9b1341806f5d1824e7f6d99",
		},
		`(facts.firmware.secure_boot ? facts.cpu.cores * 2 : -facts.cpu.threads) % 3 > 0.5`: {
			"sha256:4fca04d927e2c8ab5fe1e49f23c4070802e45f85c703161906e3bae253542371", "sha256:fd0ba996d0c49716568865e77d7c6c07886ac8c4d7feda89959e42c97c73b2da",
		},
		`GiB(facts.cpu.cores) / 3 < facts.memory.bytes == (facts.system.serial < "M")`: {
			"sha256:69de8eba6d528846cb7e4369e422ee0190ce08f1dd9da560c22ba402eb48f2df", "sha256:2b699770589e26ec1af63c4796658274a451504ab8a79b6a90a5be39b444b767",
		},
		`all([for m in machine.macs : m != "52-54-00-00-00-01"])`: {
			"sha256:939476c88d454ef9684e51ce29dd6fc852a577509cd9321a641e12c63de9e2ea", "sha256:f023529eee2b377944e8b7d1c766621ecae8ab80b91aade1dc5672c6c780c30c",
		},
	} {
		got := Rules(classesOf(t, rule, "7XK2Q93"), hashKey("k"))[0]
		if got.Former != want[0] {
			t.Errorf("%s: former digest %s; want %s", rule, got.Former, want[0])
		}
		if got.Digest != want[1] {
			t.Errorf("%s: digest %s; want %s", rule, got.Digest, want[1])
		}
	}
}

func TestReactionsUnderAFormerDigestAreRenewed(t *testing.T) {
	y := newYard(1, 100)
	y.rules[0].Former = "d0"
	for n, digest := range map[int]string{1: "d0", 2: "d1", 3: "older"} {
		y.come(n, "")
		y.kept = append(y.kept, inventory.Reaction{ID: int64(n), Machine: id(n), Class: "till", Digest: digest, State: inventory.ReactionDone})
	}
	// A program from before came between, and kept the second machine once more.
	y.kept = append(y.kept, inventory.Reaction{ID: 4, Machine: id(2), Class: "till", Digest: "d0", State: inventory.ReactionQueued})
	out, renewed := Renew(y.rules, y.kept)
	got := map[int64]string{}
	for _, r := range out {
		got[r.ID] = r.Digest
	}
	if want := (map[int64]string{1: "d1", 2: "d1", 3: "older", 4: "d0"}); !maps.Equal(got, want) || len(renewed) != 1 {
		t.Errorf("Renew() = %v, %d rules; want %v, one rule", got, len(renewed), want)
	}
	if _, again := Renew(y.rules, out); len(again) != 0 {
		t.Errorf("Renew() of what was renewed = %v; want nothing to do", again)
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
