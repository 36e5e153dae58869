package steps_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/journal"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// destroyer removes what the catalog of a runner records.
func destroyer(r *steps.Runner) *steps.Destroyer {
	return &steps.Destroyer{Site: r.Site, Catalog: r.Catalog, Runner: r}
}

// runner makes steps on the machine of a shop.
func (s *shop) runner() *steps.Runner {
	return &steps.Runner{Site: s.site, Catalog: s.catalog, Keys: s.keys, Hosts: s.computer, Clock: hurried{}, Tell: s.said.tell}
}

// removal plans the removal of everything.
func removal(t *testing.T, d *steps.Destroyer) workflows.Plan {
	t.Helper()
	holdings, err := d.Holdings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := workflows.NewRemoval(d.Site, holdings)
	selected, diags := r.Select(nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	found, err := d.Find(t.Context(), selected)
	if err != nil {
		t.Fatal(err)
	}
	return r.Plan(d.Catalog.CatalogID().String(), selected, found)
}

// carry carries a removal out as a run.
func carry(t *testing.T, d *steps.Destroyer, plan workflows.Plan) []workflows.Ending {
	t.Helper()
	j := journal.New(d.Catalog, nil)
	run, err := j.Begin(t.Context(), journal.Run{Site: d.Site.Name})
	if err != nil {
		t.Fatal(err)
	}
	e := workflows.Engine{Journal: j, Clock: workflows.SystemClock{}}
	endings, err := e.Run(t.Context(), run.ID, d.Nodes(run.ID, plan), nil)
	if err != nil {
		t.Fatal(err)
	}
	return endings
}

func TestMachineIsGivenUpWithoutATouch(t *testing.T) {
	s := newShop(t, true)
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	tasks, actions := len(s.kinds()), len(s.computer.Actions())
	d := destroyer(s.runner())
	plan := removal(t, d)
	if len(plan.Actions) != 1 || plan.Actions[0].Kind != workflows.KindForget || plan.Actions[0].Power != workflows.PowerKept {
		t.Fatalf("plan = %+v; want the machine forgotten, its power kept", plan.Actions)
	}
	carry(t, d, plan)
	if len(s.kinds()) != tasks || len(s.computer.Actions()) != actions {
		t.Errorf("tasks %q, power %q; want the machine not touched", s.kinds(), s.computer.Actions())
	}
	m, err := s.catalog.Machine(t.Context(), s.row.ID)
	if err != nil || m.Image != "" || m.HostKey != "" || m.State != inventory.StateDeclared || s.phase() != "released" {
		t.Errorf("machine = %+v, %v, phase %s; want it declared, and released", m, err, s.phase())
	}
	if left := removal(t, d); len(left.Actions) != 0 {
		t.Errorf("left = %+v; want nothing", left.Actions)
	}
	seen, err := (&steps.Observer{
		Site: s.site, Catalog: s.catalog, Hosts: s.computer, Powers: s.computer, Runner: d.Runner,
		Images: func(context.Context, *site.Image) (string, error) { return imageDigest, nil },
	}).Observe(t.Context())
	if err != nil || !seen.Machines["machine.a"].Released {
		t.Errorf("Observe() = %+v, %v; want it seen as released", seen.Machines["machine.a"], err)
	}
	again, _ := workflows.Build(s.site, seen, workflows.BuildOptions{})
	if a, _ := again.Find("machine.a"); a.Kind != workflows.KindInspect || !strings.Contains(a.Reason, "given up by destroy") {
		t.Errorf("the next plan = %+v; want it looked at first", a)
	}
}

func TestMachineIsSwitchedOffOnlyWhenAsked(t *testing.T) {
	s := newShop(t, true)
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	d := destroyer(s.runner())
	d.Powers, d.PowerOff = s.computer, true
	plan := removal(t, d)
	if plan.Actions[0].Power != workflows.PowerDown {
		t.Fatalf("plan = %+v; want it switched off", plan.Actions)
	}
	carry(t, d, plan)
	if on, err := s.computer.Power(t.Context()); on || err != nil {
		t.Errorf("on = %v, %v; want it off", on, err)
	}
	if got := s.computer.Actions(); !slices.Equal(got, []sim.Action{sim.On, sim.Off}) {
		t.Errorf("actions = %q; want it switched off once", got)
	}
}

// TestUnfinishedInstallationIsGivenUpToo is about a machine that no run ever
// finished to install.
func TestUnfinishedInstallationIsGivenUpToo(t *testing.T) {
	s := newShop(t, true)
	s.computer.fail = []agent.Result{{Outcome: agent.OutcomeFailed, Error: &agent.Failure{Code: agent.CodeFetch, Message: "cut"}}}
	if err := s.install(); err == nil {
		t.Fatal("Install() = nil; want the write to fail")
	}
	d := destroyer(s.runner())
	plan := removal(t, d)
	if len(plan.Actions) != 1 {
		t.Fatalf("plan = %+v; want the machine", plan.Actions)
	}
	carry(t, d, plan)
	if s.phase() != "released" || len(removal(t, d).Actions) != 0 {
		t.Errorf("phase = %s; want released, and nothing left", s.phase())
	}
}

// TestRecordOfAMachineOfAnOlderProgramIsToldFromAStep has no kind.
func TestRecordOfAMachineOfAnOlderProgramIsToldFromAStep(t *testing.T) {
	s := newShop(t, true)
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	a, err := s.catalog.Applied(t.Context(), "store", "machine.a")
	if err == nil {
		a.Kind = ""
		err = s.catalog.PutApplied(t.Context(), a)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"", "site \"store\" {}\n"} {
		d := destroyer(s.runner())
		if text != "" {
			if d.Site, err = load(t, text); err != nil {
				t.Fatal(err)
			}
		}
		if got := removal(t, d).Actions; len(got) != 1 || got[0].Kind != workflows.KindForget {
			t.Errorf("plan = %+v; want the machine forgotten, declared or not", got)
		}
	}
}

// TestInputsComeBackAsTheyWere removes with inputs of every kind that are no
// longer declared: sensitive, null, references, maps.
func TestInputsComeBackAsTheyWere(t *testing.T) {
	b := newBench(t, `
  step "ssh" "s" {
    hosts       = [machine.old]
    command     = "true"
    remove      = "printf '%s %s' \"$TOKEN\" \"$PLAIN\" > DIR/removed; cat >> DIR/removed"
    environment = { TOKEN = var.token, PLAIN = "it's" }
    stdin       = " end"
    triggers    = { a = "1" }
  }`)
	b.mustDo()
	a, err := b.catalog.Applied(t.Context(), "store", b.step(0).Address)
	if err != nil || a.Kind != "ssh" || !slices.Equal(a.DependsOn, []string{"machine.old"}) || bytes.Contains(a.Inputs, []byte("hunter2")) {
		t.Fatalf("Applied() = %+v, %v; want kind, needs and sealed inputs", a, err)
	}
	gone, err := load(t, machine+"\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	b.site, b.runner.Site = gone, gone
	d := destroyer(b.runner)
	for _, e := range carry(t, d, removal(t, d)) {
		if e.Err != nil {
			t.Error(e.Err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(b.dir, "removed")); err != nil || string(got) != "hunter2-hunter2 it's end" {
		t.Errorf("removed = %q, %v; want what was declared when it was applied", got, err)
	}
}

func TestRemovalThatFailsKeepsItsRecordAndHidesItsSecrets(t *testing.T) {
	b := newBench(t, `
  step "ssh" "s" {
    hosts   = machine.old
    command = "true"
    remove  = "echo the token is ${var.token} >&2; exit 1"
  }`)
	b.mustDo()
	d := destroyer(b.runner)
	endings := carry(t, d, removal(t, d))
	if len(endings) != 1 || endings[0].Outcome != workflows.OutcomeFailed || strings.Contains(endings[0].Err.Error(), "hunter2") {
		t.Errorf("endings = %+v; want a failure without the secret", endings)
	}
	if left := removal(t, d); len(left.Actions) != 1 {
		t.Errorf("left = %+v; want what could not be removed", left.Actions)
	}
}

// TestDataThatCameAfterTheConsentStopsTheRemoval changes the file between the
// plan and its execution.
func TestDataThatCameAfterTheConsentStopsTheRemoval(t *testing.T) {
	b := newBench(t, `
  step "file" "f" {
    hosts   = machine.old
    path    = "DIR/f"
    content = "ours"
    owner   = "`+owner()+`"
    group   = "`+group()+`"
  }`)
	b.mustDo()
	d := destroyer(b.runner)
	plan := removal(t, d)
	plan.Actions[0].DataConsent = workflows.ConsentTyped
	b.write("f", "somebody's")
	if endings := carry(t, d, plan); endings[0].Outcome != workflows.OutcomeFailed || !strings.Contains(endings[0].Err.Error(), "was not shown") {
		t.Errorf("endings = %+v; want a stop: nobody consented to this loss", endings)
	}
	if got, err := os.ReadFile(filepath.Join(b.dir, "f")); err != nil || string(got) != "somebody's" {
		t.Errorf("f = %q, %v; want it kept", got, err)
	}
}

// What depends on the data goes first, so that there is less of it when its turn comes.
func TestLessThanWasConsentedToIsNoOtherLoss(t *testing.T) {
	b := newBench(t, `
  step "file" "f" {
    hosts   = machine.old
    path    = "DIR/f"
    content = "ours"
    owner   = "`+owner()+`"
    group   = "`+group()+`"
  }`)
	b.mustDo()
	d := destroyer(b.runner)
	b.write("f", "somebody's")
	plan := removal(t, d)
	if len(plan.Actions[0].Loss) != 1 {
		t.Fatalf("the plan's losses are %q; want the file", plan.Actions[0].Loss)
	}
	plan.Actions[0].Loss[0] += " (3)"
	plan.Actions[0].DataConsent = workflows.ConsentTyped
	if endings := carry(t, d, plan); endings[0].Outcome != workflows.OutcomeOK {
		t.Errorf("endings = %+v; want it removed: the amount alone is another", endings)
	}
}

// TestStepThatIsDueIsRemovedOnce has one set of inputs twice in its record.
func TestStepThatIsDueIsRemovedOnce(t *testing.T) {
	b := newBench(t, `
  step "ssh" "s" {
    hosts   = machine.old
    command = "true"
    remove  = "echo removed >> DIR/log"
  }`)
	b.mustDo()
	for range 2 {
		if err := b.runner.Due(t.Context(), b.step(0).Address); err != nil {
			t.Fatal(err)
		}
	}
	if v := b.inspect(); v.Presence != workflows.Absent {
		t.Errorf("Inspect() = %+v; want it due", v)
	}
	if err := b.runner.Due(t.Context(), "workflow.w.step.ssh.never"); err != nil {
		t.Errorf("Due(never applied) = %v; want nothing to note", err)
	}
	d := destroyer(b.runner)
	carry(t, d, removal(t, d))
	if log, _ := os.ReadFile(filepath.Join(b.dir, "log")); string(log) != "removed\n" {
		t.Errorf("log = %q; want one removal", log)
	}
}

// TestActionsAreForgottenOnly destroys what leaves nothing to take away.
func TestActionsAreForgottenOnly(t *testing.T) {
	b := newBench(t, `
  step "ssh" "s" {
    hosts   = machine.old
    command = "echo ran >> DIR/log"
  }`)
	b.mustDo()
	d := destroyer(b.runner)
	plan := removal(t, d)
	if a := plan.Actions[0]; a.Kind != workflows.KindForget || !strings.Contains(a.Reason, "nothing to take away") {
		t.Errorf("plan = %+v; want it forgotten only", plan.Actions)
	}
	carry(t, d, plan)
	if v := b.inspect(); v.Presence != workflows.Absent {
		t.Errorf("Inspect() = %+v; want it not done, as far as is known", v)
	}
}

// TestUndoPutsTheRecordBackThatWasThere rolls a change back to a step that was
// applied before.
func TestUndoPutsTheRecordBackThatWasThere(t *testing.T) {
	text := func(content string) string {
		return "step \"file\" \"f\" {\n hosts = machine.old\n path = \"DIR/f\"\n content = \"" + content + "\"\n owner = \"" + owner() + "\"\n group = \"" + group() + "\"\n}"
	}
	b := newBench(t, text("one"))
	b.mustDo()
	before, err := b.catalog.Applied(t.Context(), "store", b.step(0).Address)
	if err != nil {
		t.Fatal(err)
	}
	changed, err := load(t, machine+strings.ReplaceAll(text("two"), "DIR", b.dir)+"\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	another := &steps.Runner{
		Site: changed, Catalog: b.catalog, Keys: b.runner.Keys, Hosts: b.runner.Hosts, Clock: workflows.SystemClock{}, Tell: func(steps.Progress) {},
	}
	b.site, b.runner = changed, another
	b.mustDo()
	if err := another.Undo(t.Context(), b.step(0)); err != nil {
		t.Fatal(err)
	}
	after, err := b.catalog.Applied(t.Context(), "store", b.step(0).Address)
	if err != nil || after.Digest != before.Digest || !bytes.Equal(after.Inputs, before.Inputs) || after.Run != before.Run {
		t.Errorf("Applied() after Undo = %+v, %v; want the record of before", after, err)
	}
}
