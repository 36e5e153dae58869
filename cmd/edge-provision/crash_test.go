package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
)

// crashSteps are of each kind that matters to a crash: a state that is compared,
// an action that tells whether it was done, and one that only the journal knows.
const crashSteps = `
  step "file" "conf" {
    hosts   = machine.m
    path    = "DIR/conf"
    content = "declared\n"
    OWNED
  }
  step "ssh" "made" {
    hosts      = machine.m
    command    = "echo ran >> DIR/made.log; touch DIR/made"
    creates    = "DIR/made"
    remove     = "rm -f DIR/made; echo removed >> DIR/made.log"
    depends_on = [step.file.conf]
  }
  step "ssh" "act" {
    hosts      = machine.m
    command    = "echo ran >> DIR/act.log"
    depends_on = [step.ssh.made]
  }`

var failpoint = regexp.MustCompile(`(?m)^failpoint (\S+)$`)

// passed lists the boundaries that a command passes.
func passed(t *testing.T, args ...string) []string {
	t.Helper()
	p := newPlant(t)
	p.declare(crashSteps)
	if args[0] == "destroy" {
		p.apply()
	}
	code, out := p.run("", []string{failPointVariable + "=list"}, append(args, p.site())...)
	if code != exitOK {
		t.Fatalf("edge-provision %q exits with %d; want 0\n%s", args, code, out)
	}
	var all []string
	for _, m := range failpoint.FindAllStringSubmatch(out, -1) {
		all = append(all, m[1])
	}
	if want := 3 * len(workflows.Boundaries()); len(all) != want {
		t.Fatalf("%q passes %d boundaries; want %d: %q", args, len(all), want, all)
	}
	return all
}

// TestKillAtEveryBoundaryThenApply kills apply at every boundary of every step,
// as the engine enumerates them, and applies again.
func TestKillAtEveryBoundaryThenApply(t *testing.T) {
	for _, at := range passed(t, "apply", "-auto-approve") {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.declare(crashSteps)
			if code, out := p.run("", []string{failPointVariable + "=" + at}, "apply", "-auto-approve", p.site()); code != -1 {
				t.Fatalf("apply exits with %d; want it killed\n%s", code, out)
			}
			runs := p.runs()
			if len(runs) != 1 || !runs[0].Finished.IsZero() {
				t.Fatalf("runs = %+v; want one without an end", runs)
			}
			p.wants(p.apply(), "was cut off; this one continues")
			p.wants(p.apply(), "No changes.")
			if got := p.file("conf"); got != "declared\n" {
				t.Errorf("conf = %q; want it as declared", got)
			}
			if got := p.file("made.log"); got != "ran\n" {
				t.Errorf("made.log = %q; want one run: the machine tells that it was done", got)
			}
			// An action whose end nobody wrote down may have run, and runs again.
			want := "ran\n"
			if at == "workflow.w.step.ssh.act@after-do" {
				want = "ran\nran\n"
			}
			if got := p.file("act.log"); got != want {
				t.Errorf("act.log = %q; want %q", got, want)
			}
			for _, r := range p.runs() {
				if r.Finished.IsZero() {
					t.Errorf("run %s is still open", r.ID)
				}
			}
		})
	}
}

func TestKillAtEveryBoundaryThenDestroy(t *testing.T) {
	for _, at := range passed(t, "destroy", "-auto-approve") {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.declare(crashSteps)
			p.apply()
			if code, out := p.run("", []string{failPointVariable + "=" + at}, "destroy", "-auto-approve", p.site()); code != -1 {
				t.Fatalf("destroy exits with %d; want it killed\n%s", code, out)
			}
			// Whatever stands, a plan says so and breaks nothing.
			p.must(exitOK, "", "plan", p.site())
			p.must(exitOK, "", "destroy", "-auto-approve", p.site())
			p.catalog(func(s *store.Store) {
				if left, err := s.AppliedAll(t.Context(), "plant"); err != nil || len(left) > 0 {
					t.Errorf("AppliedAll() = %+v, %v; want nothing left", left, err)
				}
			})
			if got := p.file("conf") + p.file("made"); got != "(none)(none)" {
				t.Errorf("conf and made = %q; want both gone", got)
			}
			p.wants(p.must(exitDifferent, "", "plan", "-detailed-exitcode", p.site()), "3 steps to run")
		})
	}
}

func TestFailPointThatIsNoneIsRefused(t *testing.T) {
	p := newPlant(t)
	p.declare(crashSteps)
	code, out := p.run("", []string{failPointVariable + "=workflow.w.step.ssh.act@sometimes"}, "apply", "-auto-approve", p.site())
	if code != exitError || !strings.Contains(out, "after-do") || p.file("conf") != "(none)" {
		t.Errorf("apply exits with %d; want 1, the boundaries named and nothing done\n%s", code, out)
	}
}

// TestResumeAsksNothingThatWasApproved continues a run that was killed.
func TestResumeAsksNothingThatWasApproved(t *testing.T) {
	p := newPlant(t)
	values := filepath.Join(p.dir, "values")
	if err := os.WriteFile(values, []byte("text = \"of the file\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.declare(strings.ReplaceAll(crashSteps, `"echo ran >> DIR/act.log"`, `"echo ${var.text} >> DIR/act.log"`) + "\n}\nvariable \"text\" {\n type = string\n")
	at := []string{failPointVariable + "=workflow.w.step.ssh.made@after-intent"}
	if code, out := p.run("yes\n", at, "apply", "-var-file="+values, p.site()); code != -1 {
		t.Fatalf("apply exits with %d; want it killed\n%s", code, out)
	}
	killed := p.runs()[0].ID.String()
	p.wants(p.must(exitOK, "", "runs", "resume", killed), "Continuing run "+killed)
	if got := p.file("act.log"); got != "of the file\n" {
		t.Errorf("act.log = %q; want the resumed run to complete, with the file of variables that it was begun with", got)
	}
	p.wants(p.must(exitError, "", "runs", "resume", "plant"), "nothing to resume")
	states := []string{}
	for _, r := range p.runs() {
		states = append(states, r.State)
	}
	if want := []string{outcomeOK, outcomeInterrupted}; !slices.Equal(states, want) {
		t.Errorf("states of the runs = %q; want %q", states, want)
	}

	if code, out := p.run("plant\n", []string{failPointVariable + "=workflow.w.step.ssh.act@after-result"}, "destroy", "-var-file="+values, p.site()); code != -1 {
		t.Fatalf("destroy exits with %d; want it killed\n%s", code, out)
	}
	p.must(exitOK, "", "runs", "resume", "plant")
	if got := p.file("conf"); got != "(none)" {
		t.Errorf("conf = %q; want it gone after the resumed destroy", got)
	}
}

// TestResumeAsksAgainWhenThePlanHasGrown changes the site between a kill and the
// resumption.
func TestResumeAsksAgainWhenThePlanHasGrown(t *testing.T) {
	p := newPlant(t)
	p.declare(crashSteps)
	if code, _ := p.run("yes\n", []string{failPointVariable + "=workflow.w.step.ssh.act@before-intent"}, "apply", p.site()); code != -1 {
		t.Fatalf("apply exits with %d; want it killed", code)
	}
	p.declare(crashSteps + "\nstep \"ssh\" \"more\" {\n hosts = machine.m\n command = \"touch DIR/more\"\n}")
	p.wants(p.must(exitError, "", "runs", "resume", "plant"), "Only 'yes' is taken as yes", "Not approved")
	if p.file("more") != "(none)" || p.file("act.log") != "(none)" {
		t.Error("something was done that nobody approved")
	}
}

// TestActionThatWasDueIsNotLost changes what an action waits for, and kills apply
// when that has changed and the action has not run; then lets it fail.
func TestActionThatWasDueIsNotLost(t *testing.T) {
	const restart = `
  step "file" "conf" {
    hosts   = machine.m
    path    = "DIR/conf"
    content = "VERSION"
    OWNED
  }
  step "ssh" "restart" {
    hosts      = machine.m
    command    = "cat DIR/conf >> DIR/log; ! test -e DIR/broken"
    depends_on = [step.file.conf]
  }`
	for _, at := range []string{"step.file.conf@after-do", "step.file.conf@before-result", "step.file.conf@after-result", "step.ssh.restart@before-intent", "step.ssh.restart@after-intent"} {
		t.Run(at, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.declare(strings.ReplaceAll(restart, "VERSION", "1"))
			p.apply()
			p.wants(p.apply(), "No changes.")
			p.declare(strings.ReplaceAll(restart, "VERSION", "2"))
			if code, out := p.run("", []string{failPointVariable + "=workflow.w." + at}, "apply", "-auto-approve", p.site()); code != -1 {
				t.Fatalf("apply exits with %d; want it killed\n%s", code, out)
			}
			p.wants(p.must(exitDifferent, "", "plan", "-detailed-exitcode", p.site()), "workflow.w.step.ssh.restart will run")
			p.apply()
			if got := p.file("log"); got != "12" {
				t.Errorf("log = %q; want the action run for each version", got)
			}
			p.wants(p.apply(), "No changes.")
			// An action that fails stays due, though its inputs are the old ones.
			if err := os.WriteFile(filepath.Join(p.dir, "broken"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			p.declare(strings.ReplaceAll(restart, "VERSION", "3"))
			p.must(exitError, "", "apply", "-auto-approve", p.site())
			if err := os.Remove(filepath.Join(p.dir, "broken")); err != nil {
				t.Fatal(err)
			}
			p.apply()
			if got := p.file("log"); got != "1233" {
				t.Errorf("log = %q; want the failed action repeated", got)
			}
		})
	}
}
