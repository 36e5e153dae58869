package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/control"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// clientOf is a client's apply as far as its site is opened, and what it approves
// is served.
func clientOf(t *testing.T, d *daemon, r request) (run *daemonRun, w *world) {
	t.Helper()
	opened := make(chan *world)
	end := make(chan struct{})
	run, err := d.begin(t.Context(), "apply", caller{request: &r}, func(ctx context.Context, b *app) error {
		w, err := b.openFree(ctx, d.path, func(steps.Progress) {})
		if err != nil {
			t.Error(err)
			close(opened)
			return err
		}
		opened <- w
		<-end
		return w.close()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(end)
		<-run.Done()
	})
	if w = <-opened; w == nil {
		t.FailNow()
	}
	return run, w
}

func TestWhatAClientApprovesIsServedAtOnceAndStays(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	var said strings.Builder
	d.app.stderr = &said
	p.sorted(quick)
	_, w := clientOf(t, d, request{})
	if err := w.foresee(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(d.current().site.Classes); n != 0 {
		t.Errorf("before the approval serve goes by %d classes; want the site as it was", n)
	}
	if err := d.serveFor(t.Context(), w); err != nil {
		t.Fatal(err)
	}
	if n := len(d.current().site.Classes); n != 1 || d.current() == w {
		t.Errorf("while the run works serve goes by %d classes; want the version that is applied, opened for itself", n)
	}
	if other, err := d.Start(t.Context(), runRequest{Why: "another"}); !errors.As(err, new(*busyError)) {
		t.Errorf("another run = %v, %v; want it refused while this one works", other, err)
	}
	if !strings.Contains(said.String(), "Serving site plant in the version that is applied.") {
		t.Errorf("serve says %q; want which version it goes by", said.String())
	}
	// A no to what comes after the inspections: classes do nothing of it either.
	ap := &applying{recorded: true, running: running{world: w}}
	ap.withhold()
	if !d.withholds() {
		t.Error("somebody said no, and classes may start what was not approved")
	}
	if err := d.serveFor(t.Context(), w); err != nil || d.withholds() {
		t.Errorf("serveFor() = %v, withheld %v; want it to go on with what is approved", err, d.withholds())
	}
	said.Reset()
	if err := os.WriteFile(d.path, []byte("site \"plant\" {\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.reload(t.Context())
	if !strings.Contains(said.String(), errReloadFailed.Error()) || len(d.current().site.Classes) != 1 {
		t.Errorf("a reload that fails says\n%s\nwant that all stays as it was applied", said.String())
	}
}

// Between the end of a run and a reload that was put off no other run begins, which
// would work on the site as it was before.
func TestAReloadThatWasPutOffComesBeforeTheNextRun(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	run := &daemonRun{command: "apply"}
	d.mu.Lock()
	d.running = run
	d.mu.Unlock()
	p.declare(strings.ReplaceAll(quick, "welcome", "changed"))
	was := d.current()
	d.reload(t.Context())
	if d.current() != was {
		t.Error("the site was taken up in the middle of a run")
	}
	if !d.holds(run) || d.underway() != run {
		t.Error("the next run may begin before the site was read again")
	}
	d.reloadAfter(t.Context(), run)
	if d.current() == was || d.underway() != run {
		t.Error("the site was not read again in the run's own place")
	}
	if d.holds(run) || d.underway() != nil {
		t.Error("the run holds its place for ever")
	}
}

// What a reload has read is older than what was approved while it was made ready.
func TestAVersionThatWasReadBeforeTheOneServedIsNotTakenUp(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	served, b := d.current(), d.server(d.app)
	text, err := b.load(d.path)
	if err != nil {
		t.Fatal(err)
	}
	older, err := b.openSite(t.Context(), text, d.path, served.tell)
	if err != nil {
		t.Fatal(err)
	}
	older.agent = d.agent
	p.declare(strings.ReplaceAll(quick, "welcome", "changed"))
	d.reload(t.Context())
	newer := d.current()
	if newer == served {
		t.Fatal("the site was not taken up as it is now")
	}
	if err := d.adopt(t.Context(), older, served, nil); !errors.Is(err, errSuperseded) || d.current() != newer {
		t.Errorf("adopt() = %v, and the newer version is served: %t; want it superseded", err, d.current() == newer)
	}
}

func TestMachinesAreClassifiedByWhatAClientApplies(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	p.report(4 << 30)
	d := p.serve(nil)
	p.sorted(slow)
	// A plan shows what would be, and changes nothing of what is.
	p.wants(p.must(exitOK, "", "plan", p.site()), "class grown: 1 machine")
	p.wants(p.must(exitError, "no\n", "apply", p.site()), "class grown: 1 machine", "Not approved")
	p.reclassed()
	client, out := p.start(nil, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	d.says("Serving site plant in the version that is applied.")
	p.reclassed("grown")
	p.let()
	if err := client.Wait(); err != nil {
		t.Errorf("apply: %v\n%s", err, out)
	}
	p.reacted(inventory.ReactionDone) // in a run of its own, which finds nothing to do
	// Nobody is asked about what changes nothing: it is not taken up by itself.
	p.declare(slow)
	p.wants(p.must(exitOK, "", "apply", "-auto-approve", p.site()), "No changes.", "send it SIGHUP to take up what was edited")
	p.reclassed("grown")
	d.signal(syscall.SIGTERM)
	d.ends(exitOK)
}

// A command comes while a class has something looked at that needs nothing, and
// while the site is read again after a run.
func TestACommandWaitsForARunThatMakesRoomByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct {
			what  string
			own   bool
			acts  func(r *daemonRun)
			room  bool
			after time.Duration
		}{
			{"a run of serve's own that finds nothing to do", true, func(r *daemonRun) { close(r.over); close(r.done) }, true, time.Second},
			{"a run of serve's own that begins something", true, func(r *daemonRun) { r.began(uuid.New()) }, false, time.Second},
			{"a run of serve's own that goes on looking", true, func(*daemonRun) {}, false, patience},
			{"a client's run", false, func(*daemonRun) {}, false, 0},
		} {
			r := &daemonRun{command: "apply", own: c.own, begun: make(chan struct{}), over: make(chan struct{}), done: make(chan struct{})}
			since := time.Now()
			time.AfterFunc(time.Second, func() { c.acts(r) })
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if room := r.leaves(ctx); room != c.room || time.Since(since) != c.after {
				t.Errorf("%s: leaves() = %v after %s; want %v after %s", c.what, room, time.Since(since), c.room, c.after)
			}
		}
		r := &daemonRun{command: "apply", over: make(chan struct{}), done: make(chan struct{})}
		close(r.over)
		time.AfterFunc(time.Second, func() { close(r.done) })
		if !r.leaves(t.Context()) {
			t.Error("a client's run that has ended, with the site being read again: leaves() = false; want it awaited")
		}
	})
}

func TestACommandRightAfterARunIsNotRefused(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	looking, seen := make(chan struct{}), make(chan struct{})
	own, err := d.begin(t.Context(), "apply", caller{}, func(context.Context, *app) error {
		close(looking)
		<-seen
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	<-looking
	time.AfterFunc(10*time.Millisecond, func() { close(seen) })
	next, err := d.begin(t.Context(), "apply", caller{request: &request{}}, func(context.Context, *app) error { return nil })
	if err != nil {
		t.Fatalf("a command while serve looks at what a class started: %v; want it carried out after that", err)
	}
	<-own.Done()
	<-next.Done()
}

// dialled is connected to a socket of its own, whose conversations handle has.
func dialled(t *testing.T, handle func(context.Context, *control.Conn, control.Message)) *control.Conn {
	t.Helper()
	path := filepath.Join(shortDir(t), "serve.sock")
	l, err := control.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() {
		served <- control.Serve(ctx, l, control.Hello{Version: control.Version}, handle, func(err error) { t.Error(err) })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	conn, _, err := control.Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// A command that asks before its conversation has come to telling its client anything
// took nobody's answer for a no.
func TestWhatARunAsksFirstIsAskedOfTheClientThatBeganIt(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	answers := make(chan string, 1)
	conn := dialled(t, func(ctx context.Context, c *control.Conn, _ control.Message) {
		run, err := d.begin(ctx, "apply", caller{&request{}, c}, func(ctx context.Context, b *app) error {
			answer, ok := b.run.ask(ctx, "sure?")
			answers <- fmt.Sprint(answer, " ", ok)
			return nil
		})
		if err != nil {
			t.Error(err)
			answers <- "none"
			return
		}
		m, err := run.client.Next(ctx)
		if err != nil || m.Kind != control.KindAsk {
			t.Errorf("the client sees %s, %v; want the question", m.Kind, err)
		}
		run.session.Answer(control.Answer{ID: 1, Text: "yes"})
		<-run.Done()
	})
	if err := conn.Send(control.KindRequest, request{}); err != nil {
		t.Fatal(err)
	}
	if got := <-answers; got != "yes true" {
		t.Errorf("answer, answered = %s; want the client's yes", got)
	}
}

// A client that is killed while its command waits has consented to nothing that would
// begin behind its back.
func TestACommandWhoseClientLeftBeforeItBeganIsNotBegun(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	looking, seen := make(chan struct{}), make(chan struct{})
	own, err := d.begin(t.Context(), "apply", caller{}, func(context.Context, *app) error {
		close(looking)
		<-seen
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	<-looking
	answered := make(chan error, 1)
	conn := dialled(t, func(ctx context.Context, c *control.Conn, m control.Message) {
		var r request
		err := m.Into(&r)
		if err == nil {
			_, err = d.carrying(ctx, caller{&r, c})
		}
		answered <- err
	})
	if err := errors.Join(conn.Send(control.KindRequest, request{Command: "apply", Path: p.site(), AutoApprove: true, Parallelism: 1}), conn.Close()); err != nil {
		t.Fatal(err)
	}
	close(seen)
	<-own.Done()
	if err := <-answered; !errors.Is(err, errClientLeft) {
		t.Errorf("a command whose client was killed: %v; want %v", err, errClientLeft)
	}
	d.close()
	d.runs.Wait()
	if runs, err := d.current().journal.List(t.Context(), "plant", 0); err != nil || len(runs) > 0 || p.file("motd") != "(none)" {
		t.Errorf("%d runs, %v, motd = %q; want that nothing was begun", len(runs), err, p.file("motd"))
	}
}

func TestAPlanOfAnEditedSiteLeavesTheCatalogAsItIs(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	p.report(4 << 30)
	p.apply()
	before := p.known()
	p.write("site \"plant\" {}\n" + strings.Replace(plantMachine, "machine \"m\"", "machine \"renamed\"", 1) + `
class "grown" {
  match = facts.memory.bytes >= GiB(2)
}
moved {
  from = machine.m
  to   = machine.renamed
}
moved {
  from = workflow.w.step.file.motd
  to   = workflow.w.step.file.other
}
workflow "w" {
` + strings.NewReplacer("machine.m", "machine.renamed", "\"motd\"", "\"other\"").Replace(quick) + `
}
`)
	// What is renamed is as it was, and not something else.
	p.wants(p.must(exitOK, "", "plan", "-all", "-refresh=false", p.site()), "No changes.", "class grown: 1 machine")
	p.must(exitOK, "", "why", "--site", p.site(), "machine.renamed")
	if now := p.known(); !slices.Equal(now, before) {
		t.Errorf("after plan the catalog has %q; want it as it was: %q", now, before)
	}
	p.apply()
	want := []string{"machine.renamed [grown]", "workflow.w.step.file.other"}
	if now := p.known(); !slices.Equal(now, want) {
		t.Errorf("after apply the catalog has %q; want %q", now, want)
	}
}

// known are the addresses of machines, with their classes, and of what was applied.
func (p *plant) known() (out []string) {
	p.t.Helper()
	p.catalog(func(s *store.Store) {
		machines, err := s.Machines(p.t.Context(), store.MachineFilter{Site: "plant"})
		if err != nil {
			p.t.Fatal(err)
		}
		for _, m := range machines {
			out = append(out, m.Address+" ["+strings.Join(m.Classes, " ")+"]")
		}
		applied, err := s.AppliedAll(p.t.Context(), "plant")
		if err != nil {
			p.t.Fatal(err)
		}
		for _, a := range applied {
			out = append(out, a.Address)
		}
	})
	return out
}

func TestADestroyThatNobodyApprovesRenamesNothing(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	p.apply()
	before := p.known()
	p.declare(strings.Replace(quick, "\"motd\"", "\"other\"", 1))
	text, err := os.ReadFile(p.site())
	if err != nil {
		t.Fatal(err)
	}
	p.write(string(text) + "moved {\n from = workflow.w.step.file.motd\n to = workflow.w.step.file.other\n}\n")
	p.wants(p.must(exitError, "no\n", "destroy", p.site()), "workflow.w.step.file.other", "Not approved")
	if now := p.known(); !slices.Equal(now, before) || p.file("motd") == "(none)" {
		t.Errorf("after a destroy that was not approved the catalog has %q; want it as it was: %q", now, before)
	}
	p.wants(p.must(exitOK, "plant\n", "destroy", p.site()), "Taken away, or forgotten: 1.")
	if now := p.known(); slices.ContainsFunc(now, func(a string) bool { return strings.HasPrefix(a, "workflow") }) || p.file("motd") != "(none)" {
		t.Errorf("after destroy the catalog has %q, motd = %q; want neither", now, p.file("motd"))
	}
}

// While the question stood, the machine that was shown went away and another came.
func TestAnApprovalIsForTheMachineThatWasShown(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	path := filepath.Join(dir, "site.hcl")
	if err := os.WriteFile(path, []byte(counterOfClasses), 0o600); err != nil {
		t.Fatal(err)
	}
	w, err := (&app{stdout: t.Output(), stderr: t.Output()}).open(t.Context(), path, func(steps.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	see := func(last byte) inventory.Machine {
		m, _, err := w.catalog.Observe(t.Context(), "counter", store.Observation{Source: inventory.SourceAgent, Facts: &inventory.Facts{
			Memory: &inventory.Memory{Bytes: 4 << 30}, NICs: []inventory.NIC{{Name: "eth0", MAC: inventory.MAC{0x52, 0x54, 0, 0x26, 0, last}}},
			Disks: []inventory.Disk{{Name: "sda", Serial: "D1", Bytes: 64 << 30, Signatures: []string{}}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	shown, other := see(1), see(2)
	ap := &applying{running: running{world: w}}
	if err := ap.foresee(t.Context()); err != nil {
		t.Fatal(err)
	}
	plan, _, err := w.plan(t.Context(), nil, workflows.BuildOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if a, _ := plan.Find("machine.till"); a.Machine != shown.ID {
		t.Fatalf("the plan is about machine %s; want %s, which came first", a.Machine, shown.ID)
	}
	if err := w.catalog.Forget(t.Context(), shown.ID); err != nil {
		t.Fatal(err)
	}
	if err := ap.approved(t.Context(), plan); !errors.Is(err, steps.ErrOtherMachine) {
		t.Errorf("approved() = %v; want it refused: the machine that was shown is not there", err)
	}
	if now, err := w.catalog.Machine(t.Context(), other.ID); err != nil || now.Address != "" {
		t.Errorf("the other machine is %q, %v; want nothing made of it", now.Address, err)
	}
	if plan, _, err = w.plan(t.Context(), nil, workflows.BuildOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := ap.approved(t.Context(), plan); err != nil {
		t.Errorf("approved() of a new plan = %v", err)
	}
	if now, err := w.catalog.Machine(t.Context(), other.ID); err != nil || now.Address != "machine.till" {
		t.Errorf("the other machine is %q, %v; want what the new plan says", now.Address, err)
	}
}
