package workflows_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
)

// platform declares a chain of three steps on machine.a, and one beside it.
const platform = `
workflow "w" {
  step "wait" "first" {
    hosts = machine.a
  }
  step "wait" "second" {
    tcp        = "localhost:1"
    depends_on = [step.wait.first]
  }
  step "wait" "third" {
    tcp        = "localhost:1"
    depends_on = [step.wait.second]
  }
  step "wait" "beside" {
    tcp = "localhost:1"
  }
}
`

// held makes holdings from addresses, each with what it needed behind "<".
func held(lines ...string) []workflows.Holding {
	var out []workflows.Holding
	for _, l := range lines {
		address, needs, _ := strings.Cut(l, " < ")
		out = append(out, workflows.Holding{Address: address, DependsOn: strings.Fields(needs)})
	}
	return out
}

func TestRemovalSelectsDependentsFirst(t *testing.T) {
	first, second, third, beside := at("wait.first"), at("wait.second"), at("wait.third"), at("wait.beside")
	all := held("machine.a", first, second, third, beside)
	tests := map[string]struct {
		holdings []workflows.Holding
		targets  []string
		want     []string
	}{
		"everything":                      {all, nil, []string{beside, third, second, first, "machine.a"}},
		"a target and what depends on it": {all, []string{second}, []string{third, second}},
		"a machine and its steps":         {all, []string{"machine.a"}, []string{third, second, first, "machine.a"}},
		"a workflow":                      {all, []string{"workflow.w"}, []string{beside, third, second, first}},
		"what nothing was applied at":     {held(third, beside), []string{first}, []string{third}},
		"through what was never applied":  {held(first, third), []string{first}, []string{third, first}},
		"no longer declared": {
			held("workflow.old.step.ssh.b < workflow.old.step.ssh.a", "workflow.old.step.ssh.a < machine.gone"),
			[]string{"machine.gone"},
			[]string{"workflow.old.step.ssh.b", "workflow.old.step.ssh.a"},
		},
		"what is declared needs what is not": {
			held("workflow.old.step.ssh.a", first+" < workflow.old.step.ssh.a machine.a", second), nil,
			[]string{second, first, "workflow.old.step.ssh.a"},
		},
		"instances of a block": {
			held(`machine.x["1"]`, `machine.x["2"]`, "machine.xy", `workflow.old.step.ssh.a < machine.x["2"]`),
			[]string{"machine.x"},
			[]string{"workflow.old.step.ssh.a", `machine.x["2"]`, `machine.x["1"]`},
		},
		"nothing": {nil, nil, nil},
	}
	s := load(t, node("")+platform)
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got, diags := workflows.NewRemoval(s, test.holdings).Select(test.targets)
			if diags.HasErrors() {
				t.Fatal(diags)
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("Select(%q) = %q; want %q", test.targets, got, test.want)
			}
		})
	}
}

func TestRemovalRefusesATargetThatIsNothing(t *testing.T) {
	s := load(t, node("")+platform)
	for _, target := range []string{"", "machine.b", "machine", "workflow.w.step.wait.fir", `machine.a["x"]`} {
		got, diags := workflows.NewRemoval(s, held("machine.a")).Select([]string{target})
		if wrong := target != "machine"; diags.HasErrors() != wrong {
			t.Errorf("Select(%q) = %q, %v; want an error: %v", target, got, diags, wrong)
		}
	}
}

func TestRemovalLeavesAloneWhatSomethingUnreachableNeeds(t *testing.T) {
	first, second, third := at("wait.first"), at("wait.second"), at("wait.third")
	s := load(t, node("")+platform)
	r := workflows.NewRemoval(s, held("machine.a", first, second, third))
	selected, diags := r.Select(nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	plan := r.Plan(catalog, selected, map[string]workflows.Action{
		third:       {Kind: workflows.KindRemove, Loss: []string{"a pool of 3 disks"}},
		second:      {Kind: workflows.KindUnreachable, Reason: "no route to host"},
		first:       {Kind: workflows.KindRemove},
		"machine.a": {Kind: workflows.KindForget},
	})
	var got []string
	for _, a := range plan.Actions {
		got = append(got, fmt.Sprintf("%s %s", a.Address, a.Kind))
	}
	want := []string{third + " remove", second + " unreachable", first + " blocked", "machine.a blocked"}
	if !slices.Equal(got, want) {
		t.Errorf("Plan() = %q; want %q", got, want)
	}
	if a := plan.Actions[0]; a.DataConsent != workflows.ConsentNeeded || a.DestroysData() {
		t.Errorf("%s: consent %q; want it needed and the data kept", a.Address, a.DataConsent)
	}
	var out bytes.Buffer
	if err := plan.Print(&out, workflows.PrintOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{third + " will be removed", "DATA     a pool of 3 disks", "is kept, unless its address is typed back", "1 step to remove, 1 unreachable, 2 blocked"} {
		if !strings.Contains(out.String(), part) {
			t.Errorf("the plan lacks %q:\n%s", part, out.String())
		}
	}
}

func TestMoreDestructiveRemovalIsNamed(t *testing.T) {
	remove := func(loss ...string) workflows.Action {
		return workflows.Action{Address: "x", Kind: workflows.KindRemove, Loss: loss}
	}
	one, two := uuid.New(), uuid.New()
	at := func(machine uuid.UUID, kind workflows.Kind) workflows.Action {
		return workflows.Action{Address: "x", Kind: kind, Machine: machine}
	}
	tests := map[string]struct {
		now, approved workflows.Action
		want          bool
	}{
		"the same":           {remove("a"), remove("a"), false},
		"less data":          {remove(), remove("a"), false},
		"more data":          {remove("a", "b"), remove("a"), true},
		"another machine":    {at(two, workflows.KindInstall), at(one, workflows.KindInstall), true},
		"idle at another":    {at(two, workflows.KindNone), at(one, workflows.KindInstall), false},
		"now discovered":     {at(two, workflows.KindInstall), at(uuid.Nil, workflows.KindInspect), false},
		"a removal":          {remove(), workflows.Action{Address: "x", Kind: workflows.KindForget}, true},
		"a machine goes off": {workflows.Action{Address: "x", Kind: workflows.KindForget, Power: workflows.PowerDown}, workflows.Action{Address: "x", Kind: workflows.KindForget}, true},
	}
	for name, test := range tests {
		now, approved := workflows.Plan{Actions: []workflows.Action{test.now}}, workflows.Plan{Actions: []workflows.Action{test.approved}}
		if got := now.MoreDestructive(approved); (len(got) > 0) != test.want {
			t.Errorf("%s: MoreDestructive() = %q; want something: %v", name, got, test.want)
		}
	}
}

// TestReleasedMachineIsNotErasedBySurprise is about a machine that destroy gave
// up and that is still declared, with wipe = true.
func TestReleasedMachineIsNotErasedBySurprise(t *testing.T) {
	ours := disk("sda", "D1", 100, "gpt", "ext4")
	ours.Owner = &inventory.Owner{Catalog: catalog, Site: "store", Address: "machine.a"}
	others := ours
	others.Owner = &inventory.Owner{Catalog: "another", Site: "store", Address: "machine.a"}
	released := func(d inventory.Disk, inInstaller bool) workflows.MachineView {
		v := known(d)
		v.Released, v.InInstaller = true, inInstaller
		return v
	}
	replace := workflows.BuildOptions{Replace: []string{"machine.a"}}
	tests := map[string]struct {
		view    workflows.MachineView
		opts    workflows.BuildOptions
		kind    workflows.Kind
		consent workflows.Consent
	}{
		"looked at first":          {released(ours, false), workflows.BuildOptions{}, workflows.KindInspect, ""},
		"wipe = true is no word":   {released(ours, true), workflows.BuildOptions{}, workflows.KindInstall, workflows.ConsentNeeded},
		"-replace is":              {released(ours, true), replace, workflows.KindInstall, workflows.ConsentDeclared},
		"another catalog's system": {released(others, true), workflows.BuildOptions{}, workflows.KindRefused, ""},
		"blank":                    {released(disk("sda", "D1", 100), true), workflows.BuildOptions{}, workflows.KindInstall, workflows.ConsentBlank},
	}
	s := load(t, node("  wipe = true"))
	for name, test := range tests {
		plan, _ := workflows.Build(s, one(test.view)(s), test.opts)
		a, _ := plan.Find("machine.a")
		consent := workflows.Consent("")
		if a.Erase != nil {
			consent = a.Erase.Consent
		}
		if a.Kind != test.kind || consent != test.consent {
			t.Errorf("%s: Build() = %s with consent %q; want %s with %q", name, a.Kind, consent, test.kind, test.consent)
		}
	}
}

// TestEngineEnumeratesItsBoundaries wants each boundary told between the journal's lines
// that it is named after.
func TestEngineEnumeratesItsBoundaries(t *testing.T) {
	j := &memoryJournal{}
	point := workflows.FailPoint(func(address string, at workflows.Boundary) {
		if err := j.add(fmt.Sprintf("%s %s", address, at)); err != nil {
			t.Error(err)
		}
	})
	_, err := run(t, &workflows.Engine{Journal: j, FailPoint: point}, []workflows.Node{
		{Address: "a", Do: does(nil), Inputs: "i"},
		{Address: "b", DependsOn: []string{"a"}, Do: does(errors.New("boom")), Inputs: "i"},
	}, nil)
	want := []string{
		"a before-intent", "start a 1 i", "a after-intent", "a before-result", "end a 1 ok", "a after-result",
		"b before-intent", "start b 1 i", "b after-intent", "b before-result", "end b 1 failed boom", "b after-result",
	}
	if err != nil || !slices.Equal(j.lines, want) {
		t.Errorf("the run passes %q, %v; want %q", j.lines, err, want)
	}
	workflows.FailPoint(nil).Pass("a", workflows.AfterDo) // nil is no fail point
}
