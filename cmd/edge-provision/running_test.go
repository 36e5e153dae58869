package main

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// slow waits on its machine for a file, and comes before another step.
const slow = `
  step "ssh" "slow" {
    hosts   = machine.m
    command = "touch DIR/begun; while ! test -e DIR/go; do sleep 0.05; done; touch DIR/slow"
    creates = "DIR/slow"
  }
  step "ssh" "later" {
    hosts      = machine.m
    command    = "touch DIR/later"
    creates    = "DIR/later"
    depends_on = [step.ssh.slow]
  }`

// await waits until cond holds, for awaitBound at most.
func (p *plant) await(what string, cond func() bool) {
	p.t.Helper()
	deadline := time.After(awaitBound)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !cond() {
		select {
		case <-ticker.C:
		case <-deadline:
			p.t.Fatalf("%s did not come about in %s", what, awaitBound)
		}
	}
}

func TestCancelLetsFinishWhatRunsAndStartsNothingNew(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	ctx, cancel := context.WithTimeout(t.Context(), commandBound)
	defer cancel()
	c, out := p.command(ctx, "", nil, "apply", "-auto-approve", p.site())
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	p.await("the command", func() bool { return p.file("begun") != "(none)" })
	p.wants(p.must(exitError, "", "destroy", "-auto-approve", p.site()), "locked by apply")
	p.wants(p.must(exitOK, "", "runs", "cancel", "plant"), "was asked to stop")
	p.wants(p.must(exitError, "", "runs", "cancel", "-wait=10ms", "plant"), "did not end in 10ms") // asking again changes nothing
	p.await("the run's answer", func() bool { return strings.Contains(out.String(), "Cancelled by") })
	if err := os.WriteFile(filepath.Join(p.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Wait(); err == nil || c.ProcessState.ExitCode() != exitError {
		t.Errorf("apply exits with %v; want 1\n%s", err, out)
	}
	p.wants(out.String(), "Cancelled by", "Stopped before the end")
	if p.file("slow") == "(none)" || p.file("later") != "(none)" {
		t.Errorf("slow = %q, later = %q; want the one finished and the other not begun", p.file("slow"), p.file("later"))
	}
	run := p.runs()[0]
	if run.State != outcomeStopped || len(run.InFlight()) != 0 {
		t.Errorf("run = %+v; want it stopped, with nothing in flight", run)
	}
	p.wants(p.must(exitError, "", "runs", "cancel", "plant"), "ended as \"stopped\"")
	p.must(exitOK, "", "runs", "resume", "plant")
	if p.file("later") == "(none)" {
		t.Error("later was not done by the resumed run")
	}
}

func TestCancelOfARunWithoutProcessClosesIt(t *testing.T) {
	p := newPlant(t)
	p.declare(crashSteps)
	if code, out := p.run("", []string{failPointVariable + "=workflow.w.step.ssh.made@after-do"}, "apply", "-auto-approve", p.site()); code != -1 {
		t.Fatalf("apply exits with %d; want it killed\n%s", code, out)
	}
	p.wants(p.must(exitOK, "", "runs", "cancel", "plant"), "had no process any more")
	if r := p.runs()[0]; r.State != outcomeInterrupted || r.Finished.IsZero() {
		t.Errorf("run = %+v; want it interrupted", r)
	}
	p.wants(p.must(exitOK, "", "runs", "list"), "apply", outcomeInterrupted)
	p.apply()
}

// TestFailedStepSaysWhatItDid is what a person sees of a failed command.
func TestFailedStepSaysWhatItDid(t *testing.T) {
	p := newPlant(t)
	p.declare(`
  step "ssh" "s" {
    hosts   = machine.m
    command = "seq 1 30; for n in 1 2 3; do echo trouble $n >&2; done; exit 7"
  }`)
	out := p.must(exitError, "", "apply", "-auto-approve", p.site())
	p.wants(out, "workflow.w.step.ssh.s failed", "machine.m", `seq 1 30; for n in`, "exited with 7", "trouble 1", "trouble 3")
	p.wants(p.must(exitOK, "", "runs", "show", "plant"), "workflow.w.step.ssh.s  attempt 1  failed", "machine.m", "exited with 7", "      ", "trouble 3")
}

// TestSecretsStayOutOfEverything greps for a secret in all that a run leaves
// behind and shows, after success and after failure.
func TestSecretsStayOutOfEverything(t *testing.T) {
	const secret = "correct-horse-battery"
	p := newPlant(t)
	p.env = append(p.env, "EDGE_VAR_token="+secret)
	p.write(`site "plant" {}
variable "token" {
  type      = string
  sensitive = true
}
` + plantMachine + `
workflow "w" {
  step "file" "secret" {
    hosts   = machine.m
    path    = "DIR/secret"
    content = "token = ${var.token}\n"
    OWNED
  }
  step "ssh" "reads" {
    hosts      = machine.m
    command    = "cat DIR/secret"
    stdin      = var.token
    depends_on = [step.file.secret]
  }
  step "ssh" "fails" {
    hosts   = machine.m
    command = "echo $TOKEN; echo $TOKEN >&2; exit 1"
    remove  = "echo ${var.token}; false"
    environment = { TOKEN = var.token }
    on_failure = "continue"
  }
}
output "read" {
  value     = workflow.w.step.ssh.reads.stdout
  sensitive = true
}
`)
	plan := filepath.Join(filepath.Dir(p.site()), "saved.plan")
	shown := p.must(exitOK, "", "plan", "-out", plan, p.site())
	shown += p.must(exitError, "", "apply", "-auto-approve", "-json", p.site())
	shown += p.must(exitError, "", "apply", "-auto-approve", p.site())
	if err := os.WriteFile(filepath.Join(p.dir, "secret"), []byte("drift"), 0o600); err != nil {
		t.Fatal(err)
	}
	shown += p.must(exitOK, "", "plan", "-json", p.site())
	shown += p.must(exitOK, "", "runs", "show", "plant") + p.must(exitOK, "", "runs", "list")
	shown += p.must(exitError, "plant\n", "destroy", p.site()) // the command that takes it away fails
	shown += p.must(exitOK, "", "runs", "show", "plant")
	if strings.Contains(shown, secret) {
		t.Errorf("the secret was shown:\n%s", shown)
	}
	p.wants(shown, "its output is not shown")
	t.Setenv("EDGE_VAR_token", secret)
	w, err := (&app{dataDir: p.data, cacheDir: t.TempDir(), stdout: io.Discard, stderr: t.Output()}).open(t.Context(), p.site(), func(steps.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	p.wants(tellsNobody(t, w, secret), "its output is not shown", "workflow.w.step.ssh.reads")
	if err := w.close(); err != nil {
		t.Fatal(err)
	}
	p.catalog(func(s *store.Store) {
		events, err := s.Events(t.Context(), store.EventFilter{Site: "plant"})
		if err != nil || len(events) == 0 {
			t.Errorf("Events() = %d events, %v; want some, or this test looks at nothing", len(events), err)
		}
		if !hasKindOf(events, inventory.EventStepFinished) {
			t.Error("no event tells of a finished step")
		}
		// What stands in the write-ahead log must be looked at before Close
		// moves it.
		grepAll(t, p.data, secret)
	})
	grepAll(t, p.data, secret)
	grepAll(t, filepath.Dir(plan), secret, filepath.Join(p.dir, "secret"))
}

func hasKindOf(events []inventory.Event, kind inventory.EventKind) bool {
	for _, e := range events {
		if e.Kind == kind {
			return true
		}
	}
	return false
}

// grepAll looks for a secret in every file below dir but those of except.
func grepAll(t *testing.T, dir, secret string, except ...string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Join(except, "\n") == path {
			return err
		}
		files++
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte(secret)) {
			t.Errorf("%s holds the secret in clear", path)
		}
		return err
	})
	if err != nil || files == 0 {
		t.Fatalf("looked at %d files: %v", files, err)
	}
}

// TestRollbackTakesBackWhatTheRunCreated fails the last of three steps, which
// asks for a rollback.
func TestRollbackTakesBackWhatTheRunCreated(t *testing.T) {
	p := newPlant(t)
	const first = `
  step "file" "before" {
    hosts   = machine.m
    path    = "DIR/before"
    content = "kept\n"
    OWNED
  }`
	p.declare(first)
	p.apply()
	site := first + `
  step "file" "created" {
    hosts      = machine.m
    path       = "DIR/created"
    content    = "new\n"
    OWNED
    depends_on = [step.file.before]
  }
  step "file" "impossible" {
    hosts      = machine.m
    path       = "DIR/created/not-a-folder"
    content    = "x"
    OWNED
    on_failure = "rollback"
    depends_on = [step.file.created]
  }
  step "ssh" "after" {
    hosts      = machine.m
    command    = "touch DIR/after"
    depends_on = [step.file.impossible]
  }`
	p.declare(site)
	out := p.must(exitError, "", "apply", "-auto-approve", p.site())
	p.wants(out, "rolled back", "workflow.w.step.file.impossible failed")
	if p.file("created") != "(none)" || p.file("before") != "kept\n" || p.file("after") != "(none)" {
		t.Errorf("created = %q, before = %q, after = %q; want only what was there before", p.file("created"), p.file("before"), p.file("after"))
	}
	states := map[string]string{}
	run := p.runs()[0]
	for _, s := range run.Steps {
		if s.Attempt == 0 {
			states[s.Address] = s.State
		}
	}
	if len(run.InFlight()) != 0 || states["workflow.w.step.file.created"] != "rolled back" || states["workflow.w.step.file.impossible"] != "rolled back" {
		t.Errorf("taking back in the journal = %q; want both of this run, ended", states)
	}
	p.wants(p.must(exitOK, "", "runs", "show", "plant"), "taking back  rolled back")
	p.wants(p.must(exitDifferent, "", "plan", "-detailed-exitcode", p.site()), "3 steps to run")
}
