package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/control"
)

// serving is `serve` of a plant, in a process of its own.
type serving struct {
	*plant
	cmd *exec.Cmd
	out *transcript
}

// serve starts the daemon of the site that was declared and waits until it serves.
func (p *plant) serve(env []string, args ...string) *serving {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Minute) // several commands long
	cmd, out := p.command(ctx, "", env, append([]string{"serve", "-listen=off", p.site()}, args...)...)
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	s := &serving{plant: p, cmd: cmd, out: out}
	p.t.Cleanup(func() {
		cancel()
		if cmd.ProcessState == nil {
			_ = cmd.Wait() // it was killed
		}
	})
	s.says("Serving site plant.")
	return s
}

// says waits until the daemon has said something.
func (s *serving) says(text string) {
	s.t.Helper()
	defer func() {
		if s.t.Failed() {
			s.t.Logf("serve said:\n%s", s.out)
		}
	}()
	s.await(fmt.Sprintf("%q", text), func() bool { return strings.Contains(s.out.String(), text) })
}

func (s *serving) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// ends waits for the daemon's end.
func (s *serving) ends(want int) {
	s.t.Helper()
	if err := s.cmd.Wait(); s.cmd.ProcessState.ExitCode() != want {
		s.t.Errorf("serve exits with %v; want %d\n%s", err, want, s.out)
	}
}

// start runs a command in the background.
func (p *plant) start(answers io.Reader, args ...string) (*exec.Cmd, *transcript) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), commandBound)
	p.t.Cleanup(cancel)
	cmd, out := p.command(ctx, "", nil, args...)
	if answers != nil {
		cmd.Stdin = answers
	}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	return cmd, out
}

// let lets the slow step finish.
func (p *plant) let() {
	p.t.Helper()
	if err := os.WriteFile(filepath.Join(p.dir, "go"), nil, 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) awaitFile(name string) {
	p.t.Helper()
	p.await(name, func() bool { return p.file(name) != "(none)" })
}

// askedToStop is what a run says once it begins nothing new any more. What the
// client and serve say when they ask for it may come before.
const askedToStop = "The run was asked to stop"

// quick is a step whose process tells in which it ran, by its parent's parent: the
// SSH server of the test. It is enough that it was done.
const quick = `
  step "file" "motd" {
    hosts   = machine.m
    path    = "DIR/motd"
    content = "welcome\n"
    OWNED
  }`

func TestCommandsWorkThroughTheDaemon(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := p.serve(nil)
	// A person looks, answers, and the run is the daemon's.
	p.wants(p.must(exitOK, "", "plan", p.site()), "workflow.w.step.file.motd", "1 step to run")
	p.must(exitDifferent, "", "plan", "-detailed-exitcode", p.site())
	p.wants(p.must(exitError, "no\n", "apply", p.site()), "Do you want to carry this out?", "Not approved")
	if got := p.file("motd"); got != "(none)" {
		t.Errorf("motd = %q; want nothing done without approval", got)
	}
	out := p.must(exitOK, "yes\n", "apply", p.site())
	p.wants(out, "workflow.w.step.file.motd", "Site plant is as declared", "Run ")
	if got := p.file("motd"); got != "welcome\n" {
		t.Errorf("motd = %q; want it written", got)
	}
	p.wants(p.must(exitOK, "", "apply", "-auto-approve", p.site()), "No changes.")
	p.wants(p.must(exitOK, "", "plan", "-json", p.site()), `"format_version": 1`)
	// A plan that is saved by the client, and applied; then it is stale.
	saved := filepath.Join(filepath.Dir(p.site()), "saved.plan")
	p.declare(strings.ReplaceAll(quick, "welcome", "changed"))
	p.wants(p.must(exitOK, "", "plan", "-out", saved, p.site()), "Saved to "+saved)
	p.must(exitOK, "", "apply", saved)
	p.wants(p.must(exitError, "", "apply", saved), "stale")
	if got := p.file("motd"); got != "changed\n" {
		t.Errorf("motd = %q; want that of the saved plan", got)
	}
	// Progress for programs, and what was begun is taken away again.
	p.declare(strings.ReplaceAll(quick, "welcome", "third"))
	ndjson := p.must(exitOK, "", "apply", "-auto-approve", "-json", p.site())
	p.wants(ndjson, `"type":"plan"`, `"type":"start"`, `"type":"result"`, `"outcome":"ok"`)
	p.wants(p.must(exitOK, "plant\n", "destroy", p.site()), "Type the name of the site", "Taken away")
	if got := p.file("motd"); got != "(none)" {
		t.Errorf("motd = %q; want it taken away", got)
	}
	p.wants(p.must(exitOK, "", "runs", "list"), "destroy", "apply", "ok")
	d.signal(syscall.SIGTERM)
	d.ends(exitOK)
	p.wants(p.must(exitOK, "", "apply", "-auto-approve", p.site()), "is as declared") // by itself again
}

func TestAnotherFileOfTheSiteIsNotTakenForIt(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	p.serve(nil)
	text, err := os.ReadFile(p.site())
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "site.hcl")
	if err := os.WriteFile(other, text, 0o600); err != nil {
		t.Fatal(err)
	}
	p.wants(p.must(exitError, "", "apply", "-auto-approve", other), "is another file", p.site())
	link := filepath.Join(t.TempDir(), "link.hcl")
	if err := os.Symlink(p.site(), link); err != nil {
		t.Fatal(err)
	}
	p.must(exitOK, "", "apply", "-auto-approve", link)
}

func TestOneRunAtATimeAndTheSecondIsToldWhich(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	p.serve(nil)
	first, out := p.start(nil, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	run := p.runs()[0].ID.String()
	p.wants(p.must(exitError, "", "apply", "-auto-approve", p.site()), run, "one run at a time", "runs attach")
	p.wants(p.must(exitError, "", "destroy", "-auto-approve", p.site()), run)
	p.must(exitOK, "", "plan", p.site()) // looks beside it
	// Whoever follows later sees the beginning too.
	second, followed := p.start(nil, "runs", "attach", "plant")
	p.await("the beginning, followed", func() bool { return strings.Contains(followed.String(), "Run "+run) })
	p.let()
	for name, c := range map[string]*exec.Cmd{"apply": first, "attach": second} {
		if err := c.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	p.wants(followed.String(), "workflow.w.step.ssh.slow", "workflow.w.step.ssh.later", "is as declared")
	p.wants(out.String(), "is as declared")
	p.wants(p.must(exitError, "", "runs", "attach", run), "ended as ok")
}

func TestARunGoesOnWhenItsClientIsKilled(t *testing.T) {
	for _, by := range []struct {
		signal syscall.Signal
		code   int // -1: of the signal itself
		says   string
	}{
		{syscall.SIGKILL, -1, ""},
		{syscall.SIGHUP, -1, ""}, // its terminal is closed
		{syscall.SIGTERM, exitError, "Detached; serve goes on"},
	} {
		t.Run(by.signal.String(), func(t *testing.T) {
			p := newPlant(t)
			p.declare(slow)
			p.serve(nil)
			client, out := p.start(nil, "apply", "-auto-approve", p.site())
			p.awaitFile("begun")
			p.await("the run, seen by the client", func() bool { return strings.Contains(out.String(), "Run ") })
			if err := client.Process.Signal(by.signal); err != nil {
				t.Fatal(err)
			}
			if err := client.Wait(); client.ProcessState.ExitCode() != by.code {
				t.Errorf("apply ends with %v; want %d\n%s", err, by.code, out)
			}
			p.wants(out.String(), by.says)
			p.let()
			p.awaitFile("later")
			p.await("the end of the run", func() bool { return p.runs()[0].State == outcomeOK })
			if strings.Contains(out.String(), "is as declared") {
				t.Errorf("the client saw the end:\n%s", out)
			}
		})
	}
}

func TestAQuestionThatNobodyIsThereToAnswerIsNo(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	p.serve(nil)
	silent, typing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer typing.Close()
	client, out := p.start(silent, "apply", p.site())
	silent.Close()
	p.await("the question", func() bool { return strings.Contains(out.String(), "Do you want") })
	p.wants(p.must(exitError, "", "apply", "-auto-approve", p.site()), "waits for an answer", fmt.Sprintf("process %d:", client.Process.Pid), "10 minutes")
	if err := client.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = client.Wait() // it was killed
	// The place is free again for somebody who answers.
	p.await("the next one's turn", func() bool {
		code, _ := p.run("yes\n", nil, "apply", p.site())
		return code == exitOK
	})
	if n := len(p.runs()); n != 1 {
		t.Errorf("%d runs; want one: nothing was begun for the one that left", n)
	}
}

func TestCtrlCInAPipeCancelsTheDaemonsRun(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	p.serve(nil)
	client, out := p.start(nil, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	if err := client.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.await("the answer", func() bool { return strings.Contains(out.String(), askedToStop) })
	p.wants(out.String(), "Stopping.")
	p.let()
	if err := client.Wait(); err == nil || client.ProcessState.ExitCode() != exitError {
		t.Errorf("apply exits with %v; want 1\n%s", err, out)
	}
	p.wants(out.String(), "Stopped before the end")
	if p.file("slow") == "(none)" || p.file("later") != "(none)" {
		t.Errorf("slow = %q, later = %q; want the one finished and the other not begun", p.file("slow"), p.file("later"))
	}
	// And by `runs cancel`, which looks into the catalog, then resumed in the daemon.
	p.wants(p.must(exitError, "", "runs", "cancel", "plant"), "ended as \"stopped\"")
	p.wants(p.must(exitOK, "", "runs", "resume", "plant"), "Continuing run", "is as declared")
	if p.file("later") == "(none)" {
		t.Error("later was not done by the resumed run")
	}
}

func TestStoppingServeAnswersAQuestionWithNo(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := p.serve(nil)
	silent, typing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer typing.Close()
	client, out := p.start(silent, "apply", p.site())
	silent.Close()
	p.await("the question", func() bool { return strings.Contains(out.String(), "Do you want") })
	d.signal(syscall.SIGTERM)
	if err := client.Wait(); err == nil || client.ProcessState.ExitCode() != exitError {
		t.Errorf("apply exits with %v; want 1", err)
	}
	p.wants(out.String(), "Not approved")
	d.ends(exitOK)
	if n := len(p.runs()); n != 0 {
		t.Errorf("%d runs; want none", n)
	}
}

func TestRunsCancelStopsTheDaemonsRun(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	p.serve(nil)
	client, out := p.start(nil, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	p.wants(p.must(exitOK, "", "runs", "cancel", "plant"), "was asked to stop")
	p.await("the run's answer", func() bool { return strings.Contains(out.String(), "Cancelled by") })
	p.let()
	if err := client.Wait(); err == nil {
		t.Error("apply exits with 0; want 1")
	}
	if p.file("later") != "(none)" {
		t.Error("later was begun by a run that was cancelled")
	}
}

func TestStoppingServeLetsFinishWhatRuns(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	d := p.serve(nil)
	client, out := p.start(nil, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	d.signal(syscall.SIGTERM)
	d.says("Waiting for the apply")
	p.wants(p.must(exitError, "", "apply", "-auto-approve", p.site()), "is stopping")
	p.await("the answer", func() bool { return strings.Contains(out.String(), askedToStop) })
	p.let()
	if err := client.Wait(); err == nil || client.ProcessState.ExitCode() != exitError {
		t.Errorf("apply exits with %v; want 1\n%s", err, out)
	}
	d.ends(exitOK)
	p.wants(out.String(), "Stopped before the end")
	if p.file("slow") == "(none)" || p.file("later") != "(none)" {
		t.Errorf("slow = %q, later = %q; want the one finished and the other not begun", p.file("slow"), p.file("later"))
	}
	p.apply() // takes the site over by itself
}

// A person cancelled, and then the machine is shut down.
func TestStoppingServeCutsNothingOffThatAClientHasCancelled(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	d := p.serve(nil)
	client, out := p.start(nil, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	if err := client.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	p.await("the answer", func() bool { return strings.Contains(out.String(), askedToStop) })
	d.signal(syscall.SIGTERM)
	d.says("Waiting for the apply")
	p.let()
	if err := client.Wait(); err == nil || client.ProcessState.ExitCode() != exitError {
		t.Errorf("apply exits with %v; want 1\n%s", err, out)
	}
	d.ends(exitOK)
	p.wants(out.String(), "Stopped before the end")
	if run := p.runs()[0]; run.State != outcomeStopped || p.file("slow") == "(none)" {
		t.Errorf("the run is %q, slow = %q; want it stopped after what ran had finished", run.State, p.file("slow"))
	}
}

func TestAKilledDaemonsRunIsContinued(t *testing.T) {
	p := newPlant(t)
	p.declare(crashSteps)
	d := p.serve([]string{failPointVariable + "=workflow.w.step.ssh.made@after-do"})
	code, out := p.run("", nil, "apply", "-auto-approve", p.site())
	if code != exitError {
		t.Errorf("apply of a daemon that is killed exits with %d; want 1", code)
	}
	p.wants(out, "serve ended before the command did")
	d.ends(-1)
	// A new daemon takes its place and its socket, and says what was left.
	d = p.serve(nil)
	d.says("was cut off; apply, or runs resume, continues it")
	p.apply()
	p.wants(p.apply(), "No changes.")
	if got := p.file("made.log"); got != "ran\n" {
		t.Errorf("made.log = %q; want one run: the machine tells that it was done", got)
	}
}

func TestAKilledDaemonHoldsNothingUp(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := p.serve(nil)
	d.signal(syscall.SIGKILL)
	d.ends(-1)
	if _, err := os.Lstat(control.Path(p.data, "plant")); err != nil {
		t.Errorf("a killed daemon leaves no socket behind (%v): this test looks at nothing", err)
	}
	p.apply()
}

func TestReloadTakesUpASiteAndRefusesABrokenOne(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := p.serve(nil)
	p.apply()
	p.write("site \"plant\" {\n")
	d.signal(syscall.SIGHUP)
	d.says("it is served as it was before")
	p.wants(d.out.String(), "site.hcl", "line 1")
	if out := d.out.String(); strings.Contains(out, "exit code") || strings.Contains(out, "Error: site.hcl") {
		t.Errorf("what was shown with its lines is shown once more:\n%s", out)
	}
	p.write("site \"other\" {}\n" + plantMachine)
	d.signal(syscall.SIGHUP)
	d.says(`is called "other" now`)
	p.write("site \"plant\" {}\n" + plantMachine + "network \"edge\" {\n interface = \"lo\"\n cidr = \"172.22.0.0/24\"\n dhcp { \n mode = \"off\" \n }\n}\n")
	d.signal(syscall.SIGHUP)
	d.says("network.edge: it is new")
	p.wants(p.must(exitError, "", "apply", "-auto-approve", p.site()), "network.edge: it is new", "start it again")
	p.declare(strings.ReplaceAll(quick, "welcome", "changed"))
	d.signal(syscall.SIGHUP)
	d.says("as it is now in")
	p.apply()
	if got := p.file("motd"); got != "changed\n" {
		t.Errorf("motd = %q; want that of the new site", got)
	}
}

// A service manager may ask for it as soon as serve is there.
func TestReloadCanComeAtOnce(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := p.serve(nil)
	d.signal(syscall.SIGHUP)
	d.says("as it is now in")
	d.signal(syscall.SIGTERM)
	d.ends(exitOK)
}

func TestReloadWaitsForTheRunThatIsUnderWay(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	d := p.serve(nil)
	client, out := p.start(nil, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	p.declare(slow + quick)
	d.signal(syscall.SIGHUP)
	d.says("taken up when the apply that is under way has ended")
	p.let()
	if err := client.Wait(); err != nil {
		t.Errorf("apply: %v\n%s", err, out)
	}
	d.says("as it is now in")
	if got := p.file("motd"); got != "(none)" {
		t.Errorf("motd = %q; want the run to keep the site that it began with", got)
	}
}

// TestAClientOnATerminalIsAskedWhatCtrlCMeans types at a pseudo terminal.
func TestAClientOnATerminalIsAskedWhatCtrlCMeans(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	p.serve(nil)
	ctx, cancel := context.WithTimeout(t.Context(), commandBound)
	defer cancel()
	client := newTerminal(t, ctx, p.env, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	client.types("\x03")
	p.await("the question", func() bool { return strings.Contains(client.String(), "d to detach") })
	client.types("\n")
	p.await("going on", func() bool { return strings.Contains(client.String(), "Nothing was changed.") })
	client.types("\x03")
	p.await("the question again", func() bool { return strings.Count(client.String(), "d to detach") == 2 })
	client.types("d\n")
	if code := client.wait(); code != exitError {
		t.Errorf("a client that detached exits with %d; want 1\n%s", code, client)
	}
	run := p.runs()[0]
	p.wants(client.String(), "Detached; serve goes on", "runs attach "+run.ID.String())
	if run.State != "running" {
		t.Errorf("the run is %q after its client detached; want it running", run.State)
	}
	again := newTerminal(t, ctx, p.env, "runs", "attach", run.ID.String())
	p.await("the beginning, shown again", func() bool { return strings.Contains(again.String(), "Run "+run.ID.String()) })
	again.types("\x03")
	p.await("the question", func() bool { return strings.Contains(again.String(), "d to detach") })
	again.types("c\n")
	p.await("the cancellation", func() bool { return strings.Contains(again.String(), askedToStop) })
	p.let()
	if code := again.wait(); code != exitError || !bytes.Contains([]byte(again.String()), []byte("Stopped before the end")) {
		t.Errorf("a client that cancelled exits with %d; want 1 and why\n%s", code, again)
	}
	if p.file("later") != "(none)" {
		t.Error("later was begun by a run that was cancelled")
	}
}
