package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// grown is a class of machines with memory, for which a workflow of STEPS runs.
const grown = `
class "grown" {
  match = facts.memory.bytes >= GiB(2)
  react {
    workflow = workflow.w
  }
}
workflow "w" {
STEPS
}
`

// sorted declares that class.
func (p *plant) sorted(steps string) {
	p.t.Helper()
	p.write("site \"plant\" {}\n" + plantMachine + strings.Replace(grown, "STEPS", steps, 1))
}

// report is what a machine tells of itself, as the agent would.
func (p *plant) report(bytes int64) {
	p.t.Helper()
	p.catalog(func(s *store.Store) {
		m, _, err := s.Observe(p.t.Context(), "plant", store.Observation{
			MACs: []inventory.MAC{{0x52, 0x54, 0, 1, 2, 3}}, Source: inventory.SourceAgent, Facts: &inventory.Facts{Memory: &inventory.Memory{Bytes: bytes}},
		})
		if err == nil {
			_, err = s.Bind(p.t.Context(), "plant", "machine.m", m.ID)
		}
		if err != nil {
			p.t.Fatal(err)
		}
	})
}

// reacted waits until the only reaction is in a state.
func (p *plant) reacted(state inventory.ReactionState) inventory.Reaction {
	p.t.Helper()
	var last inventory.Reaction
	p.catalog(func(s *store.Store) {
		p.await("a reaction that is "+string(state), func() bool {
			rows, err := s.Reactions(p.t.Context(), store.ReactionFilter{Site: "plant"})
			if err != nil {
				p.t.Fatal(err)
			}
			if len(rows) == 1 {
				last = rows[0]
			}
			return last.State == state
		})
	})
	return last
}

// reclassed waits until the machine is in these classes.
func (p *plant) reclassed(want ...string) {
	p.t.Helper()
	p.catalog(func(s *store.Store) {
		p.await(fmt.Sprintf("the machine in classes %q", want), func() bool {
			m, err := s.MachineByAddress(p.t.Context(), "plant", "machine.m")
			if err != nil {
				p.t.Fatal(err)
			}
			return slices.Equal(m.Classes, want)
		})
	})
}

func TestAMachineThatEntersAClassIsWorkedOn(t *testing.T) {
	p := newPlant(t)
	p.sorted(quick)
	p.report(1 << 30)
	d := p.serve(nil)
	p.wants(p.must(exitOK, "", "plan", p.site()), "class grown: 0 machines")
	p.report(4 << 30)
	p.reacted(inventory.ReactionDone)
	if got := p.file("motd"); got != "welcome\n" {
		t.Errorf("motd = %q; want it written", got)
	}
	d.says("class grown: ")
	p.wants(p.must(exitOK, "", "plan", p.site()), "class grown: 1 machine\n")
	p.wants(p.must(exitOK, "", "inventory", "query", `contains(machine.classes, "grown")`, "-o", "json"), `"grown"`)
	// It leaves and comes back, which is nothing new.
	p.report(1 << 30)
	p.reclassed()
	p.report(4 << 30)
	p.reclassed("grown")
	p.wants(p.must(exitOK, "", "trace", "machine.m"), "entered class grown", "left class grown")
	d.signal(syscall.SIGTERM)
	d.ends(exitOK)
	if n := len(p.runs()); n != 1 {
		t.Errorf("%d runs; want one", n)
	}
}

// twinSite is the plant's with a machine that two fit, and DHCP off on its network.
const twinSite = `
site "plant" {}
network "floor" {
  interface = "lo"
  cidr      = "172.29.0.0/24"
  dhcp {
    mode = "off"
  }
}
machine "db" {
  match   = facts.memory.bytes == GiB(64)
  network = network.floor
}
`

// twin are two machines on the net that are alike.
func (p *plant) twin() {
	p.t.Helper()
	p.catalog(func(s *store.Store) {
		for n := range byte(2) {
			_, _, err := s.Observe(p.t.Context(), "plant", store.Observation{
				MACs: []inventory.MAC{{0x52, 0x54, 0, 9, 9, n}}, Source: inventory.SourceAgent, Facts: &inventory.Facts{Memory: &inventory.Memory{Bytes: 64 << 30}},
			})
			if err != nil {
				p.t.Fatal(err)
			}
		}
	})
}

func TestTwinsAreOneMachinesFailure(t *testing.T) {
	p := newPlant(t)
	p.write(twinSite + plantMachine + "workflow \"w\" {\n" + quick + "\n}\n")
	p.twin()
	named := []string{"machine.db", "site.hcl line 11", "its match fits 2 machines and must fit one", "52:54:00:09:09:00", "52:54:00:09:09:01", "name the machine by mac"}
	p.wants(p.must(exitError, "", "plan", p.site()), append(named, "1 step to run", "1 refused")...)
	p.wants(p.must(exitError, "", "apply", "-auto-approve", p.site()), named...)
	if got := p.file("motd"); got != "welcome\n" {
		t.Errorf("motd = %q; want the step of the other machine carried out", got)
	}
	// Whoever asks for the other machine alone has all that was asked for.
	p.must(exitOK, "", "apply", "-auto-approve", "-target=workflow.w", p.site())
}

func TestTwinsHoldUpNoReload(t *testing.T) {
	p := newPlant(t)
	p.write(twinSite + plantMachine)
	p.twin()
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	was := d.current()
	p.write(twinSite + plantMachine + "workflow \"w\" {\n" + quick + "\n}\n")
	d.reload(t.Context())
	if d.current() == was || len(d.current().site.Workflows) != 1 {
		t.Error("the site was not taken up as it is now")
	}
	if unbound := d.current().unbound; len(unbound) != 1 || unbound["machine.db"] == nil {
		t.Errorf("unbound = %v; want machine.db", unbound)
	}
}

func TestAReactionSurvivesTheDeathOfTheDaemon(t *testing.T) {
	p := newPlant(t)
	p.sorted(slow)
	p.report(4 << 30)
	first := p.serve(nil)
	p.awaitFile("begun")
	if err := first.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.cmd.Wait() // it was killed
	if r := p.reacted(inventory.ReactionStarted); r.Attempts != 1 {
		t.Errorf("reaction = %+v; want its first attempt kept as started", r)
	}
	p.wants(p.must(exitOK, "", "plan", p.site()), "machine.m: started; runs workflow.w on machine.m")
	p.let()
	second := p.serve(nil)
	if r := p.reacted(inventory.ReactionDone); r.Attempts != 2 || p.file("later") == "(none)" {
		t.Errorf("reaction = %+v, later = %s; want it done at the second attempt", r, p.file("later"))
	}
	second.signal(syscall.SIGTERM)
	second.ends(exitOK)
}

func TestAReactionWaitsForTheRunUnderWay(t *testing.T) {
	p := newPlant(t)
	p.sorted(slow)
	p.report(1 << 30)
	d := p.serve(nil)
	client, out := p.start(nil, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	p.report(4 << 30)
	p.reacted(inventory.ReactionStarted)
	p.let()
	if err := client.Wait(); err != nil {
		t.Errorf("apply: %v\n%s", err, out)
	}
	p.reacted(inventory.ReactionDone) // nothing was left to do
	d.signal(syscall.SIGTERM)
	d.ends(exitOK)
}

// The react block is taken out while the reaction waits for a person's apply.
func TestAReactionThatWaitsIsDroppedWithItsClass(t *testing.T) {
	p := newPlant(t)
	p.sorted(slow)
	p.report(1 << 30)
	d := p.serve(nil)
	client, out := p.start(nil, "apply", "-auto-approve", p.site())
	p.awaitFile("begun")
	p.report(4 << 30)
	p.reacted(inventory.ReactionStarted)
	p.declare(slow)
	d.signal(syscall.SIGHUP)
	d.says("taken up when the apply that is under way has ended")
	p.let()
	if err := client.Wait(); err != nil {
		t.Errorf("apply: %v\n%s", err, out)
	}
	if r := p.reacted(inventory.ReactionDropped); r.Attempts != 0 || !strings.Contains(r.Reason, "the class starts nothing any more") {
		t.Errorf("reaction = %+v; want it dropped with its class, and never begun", r)
	}
	d.signal(syscall.SIGTERM)
	d.ends(exitOK)
	if n := len(p.runs()); n != 1 {
		t.Errorf("%d runs; want the person's alone", n)
	}
}

func TestAReactionThatServeIsStoppedInGoesOnNextTime(t *testing.T) {
	p := newPlant(t)
	p.sorted(slow)
	p.report(4 << 30)
	d := p.serve(nil)
	p.awaitFile("begun")
	run := p.runs()[0].ID.String()
	follower, out := p.start(nil, "runs", "attach", run)
	p.await("the beginning", func() bool { return strings.Contains(out.String(), "Run "+run) })
	d.signal(syscall.SIGTERM)
	d.says("Waiting for the apply that is under way")
	p.await("the run's answer", func() bool { return strings.Contains(out.String(), askedToStop) })
	p.let()
	if err := follower.Wait(); err == nil {
		t.Error("who follows a run that is stopped exits with 0; want 1")
	}
	d.ends(exitOK)
	if r := p.reacted(inventory.ReactionStarted); r.Attempts != 1 {
		t.Errorf("reaction = %+v; want it kept as started", r)
	}
	if got := p.file("later"); got != "(none)" {
		t.Errorf("later = %q; want no further step started", got)
	}
	again := p.serve(nil)
	p.reacted(inventory.ReactionDone)
	again.signal(syscall.SIGTERM)
	again.ends(exitOK)
}

const counterOfClasses = `site "counter" {}
network "floor" {
  interface = "lo"
  cidr      = "172.26.0.0/24"
  dhcp {
    range = "172.26.0.100-172.26.0.199"
  }
}
image "till" {
  distribution = "debian"
  release      = "bookworm"
}
class "till" {
  match = facts.memory.bytes >= GiB(2)
  react {
    provision = machine.till
  }
}
machine "till" {
  match   = class.till
  network = network.floor
  image   = image.till
}
`

// A machine that was discovered, with a disk that carries something, through the
// runner of the daemon: it is bound, planned, refused, and left as it is.
func TestADiscoveredMachineWithAFullDiskIsNotErased(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	path := filepath.Join(dir, "site.hcl")
	if err := os.WriteFile(path, []byte(counterOfClasses), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), commandBound)
	defer cancel()
	a := &app{stdout: io.Discard, stderr: t.Output()}
	w, err := a.open(ctx, path, func(steps.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	// Nothing is sent on a network; the agents' port is on a loopback address that
	// nobody else has.
	service, err := steps.Listen(ctx, steps.ServiceConfig{
		Site: w.site, Catalog: w.catalog, Authority: w.ca, Wanted: w.wanted, Now: time.Now,
		Sockets: func(*site.Network) (*pxe.Sockets, netip.Addr) {
			return &pxe.Sockets{}, netip.AddrFrom4([4]byte{127, 26, byte(os.Getpid()), byte(network.Add(1))})
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d := &daemon{app: a, path: path, catalog: w.catalog, wanted: w.wanted, service: service, world: w, ctx: ctx}
	t.Cleanup(func() {
		if err := errors.Join(service.Close(), d.closeWorlds()); err != nil {
			t.Error(err)
		}
	})
	m, _, err := w.catalog.Observe(ctx, "counter", store.Observation{Source: inventory.SourceAgent, Facts: &inventory.Facts{
		System: &inventory.System{Serial: "7XK2Q93"}, Memory: &inventory.Memory{Bytes: 4 << 30},
		NICs:  []inventory.NIC{{Name: "eth0", MAC: inventory.MAC{0x52, 0x54, 0, 0x26, 0, 1}}},
		Disks: []inventory.Disk{{Name: "sda", Serial: "D1", Bytes: 64 << 30, Signatures: []string{"ntfs"}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := &steps.Reactor{
		Site: func() *site.Site { return d.current().site }, Catalog: d.catalog, Keys: w.keys, Carrier: carrier{starter: d, stops: d.ends, edited: d.edited, served: d.current, hinders: d.hinders},
		Tell: func(p steps.Progress) { t.Log(p.Address, p.Phase, p.Message) },
	}
	for range 2 {
		if err := r.Pass(ctx); err != nil {
			t.Fatal(err)
		}
		r.Wait()
	}
	rows, err := w.catalog.Reactions(ctx, store.ReactionFilter{Machine: m.ID})
	if err != nil || len(rows) != 1 || rows[0].State != inventory.ReactionRefused || rows[0].Address != "machine.till" || !strings.Contains(rows[0].Reason, "ntfs") || !strings.Contains(rows[0].Reason, "wipe = true") {
		t.Errorf("reactions = %+v, %v; want one that is refused, with what to do", rows, err)
	}
	journaled, err := w.journal.List(ctx, "counter", 0)
	if err != nil || len(journaled) != 0 {
		t.Errorf("runs = %+v, %v; want that none began", journaled, err)
	}
	if now, err := w.catalog.Machine(ctx, m.ID); err != nil || now.State != inventory.StateDiscovered || now.Address != "machine.till" {
		t.Errorf("machine = %+v, %v; want it bound and otherwise as it was", now, err)
	}
	text, _ := cli(t, exitOK, "why", "--site", path, "machine.till")
	if !strings.Contains(text, "Class till was to start work for it, and that needs a person") {
		t.Errorf("why =\n%s\nwant the refusal", text)
	}
	if text, _ = cli(t, exitOK, "plan", path); !strings.Contains(text, "class till: 1 machine") || !strings.Contains(text, "machine.till: refused; ") {
		t.Errorf("plan =\n%s\nwant the refusal under its class", text)
	}
}

// A site that cannot be opened is tried again, ever more rarely, and at once when
// another version is served.
func TestWhatAClassStartsOutlivesASiteThatCannotBeOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		unopened := func(runRequest, *daemonRun) error {
			at = append(at, time.Since(began))
			return &unopenedError{errors.New("the stick is gone")}
		}
		var version atomic.Pointer[world]
		e := &shortRuns{runs: []func(runRequest, *daemonRun) error{
			unopened, unopened, unopened, unopened, unopened, unopened, unopened, unopened,
			func(r runRequest, _ *daemonRun) error {
				at = append(at, time.Since(began))
				return r.Approve(workflows.Plan{})
			},
		}}
		var told []error
		var waited []string
		carry := carrierOf(e)
		carry.served = version.Load
		carry.hinders = func(why error) { told = append(told, why) }
		time.AfterFunc(17*time.Minute, func() { version.Store(&world{}) })
		approve := func(workflows.Plan) error {
			if n := len(waited); n != len(at) || waited[n-1] != "" {
				t.Errorf("waited for %q when it goes on; want nothing any more", waited)
			}
			return nil
		}
		if _, err := carry.Carry(t.Context(), steps.Work{Approve: approve, Waits: func(reason string) { waited = append(waited, reason) }}); err != nil {
			t.Errorf("Carry() = %v; want it carried out in the end", err)
		}
		want := []time.Duration{
			0, 10 * time.Second, 30 * time.Second, 70 * time.Second, 150 * time.Second, 310 * time.Second, 610 * time.Second, 910 * time.Second, 17*time.Minute + busyInterval,
		}
		if !slices.EqualFunc(at, want, func(a, b time.Duration) bool { return (a - b).Abs() <= busyInterval }) {
			t.Errorf("it was tried after %v; want %v", at, want)
		}
		if n := len(told); n != len(at) || told[0] == nil || told[n-1] != nil {
			t.Errorf("told %v; want why each time, and nothing at the end", told)
		}
		if n := len(waited); n != len(at) || !strings.HasSuffix(waited[0], "tried again: the stick is gone") {
			t.Errorf("waited for %q; want why each time, and nothing at the end", waited)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		e := &shortRuns{runs: []func(runRequest, *daemonRun) error{func(runRequest, *daemonRun) error { return &unopenedError{errors.New("the stick is gone")} }}}
		carry := carrierOf(e)
		var ends atomic.Bool
		carry.stops = ends.Load
		time.AfterFunc(5*time.Second, func() { ends.Store(true) })
		if _, err := carry.Carry(t.Context(), steps.Work{Waits: func(string) {}}); !errors.Is(err, context.Canceled) {
			t.Errorf("Carry() = %v while serve stops; want context.Canceled, so that the reaction goes on next time", err)
		}
	})
}

// Neither a cache that cannot be used for a while, nor what lies in the place of the
// bundle that is served, ends what a class starts.
func TestWhatAClassStartsGoesByTheBundleThatIsServed(t *testing.T) {
	b := newBundled(t)
	b.build("pear")
	b.report(1 << 30)
	d := b.serve(nil, "-bundle", b.file)
	text, err := os.ReadFile(b.site())
	if err != nil {
		t.Fatal(err)
	}
	take := func(class string) {
		t.Helper()
		said := strings.Count(d.out.String(), "as it is now in")
		b.write(string(text) + class)
		d.signal(syscall.SIGHUP)
		b.await("the site taken up", func() bool { return strings.Count(d.out.String(), "as it is now in") > said })
	}
	class := strings.Replace(grown, "STEPS", quick, 1)
	take(class)
	cache := b.beside("cache/edge-provision")
	if err := errors.Join(os.Rename(cache, cache+".away"), os.WriteFile(cache, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	b.report(4 << 30)
	d.says("What classes start waits, because the site could not be opened for it")
	if r := b.reacted(inventory.ReactionStarted); r.Attempts != 0 {
		t.Errorf("reaction = %+v; want no attempt made", r)
	}
	b.await("what it waits for", func() bool {
		return strings.Contains(b.must(exitOK, "", "inventory", "reactions", "--site", "plant"), "the site could not be opened, which is tried again")
	})
	if err := errors.Join(os.Remove(cache), os.Rename(cache+".away", cache)); err != nil {
		t.Fatal(err)
	}
	take(class)
	b.reacted(inventory.ReactionDone)
	if got := b.plant.file("motd"); got != "welcome\n" {
		t.Errorf("motd = %q; want it written", got)
	}
	if n := strings.Count(d.out.String(), "could not be opened"); n != 1 {
		t.Errorf("serve says %d times that the site could not be opened; want once:\n%s", n, d.out)
	}

	b.report(1 << 30)
	b.reclassed()
	take(strings.NewReplacer("GiB(2)", "GiB(3)", "welcome", "changed").Replace(class))
	if err := errors.Join(os.Remove(b.file), os.WriteFile(b.file, []byte("half of the next one"), 0o600), os.WriteFile(b.beside("site.lock.hcl"), []byte("{"), 0o600)); err != nil {
		t.Fatal(err)
	}
	b.report(4 << 30)
	b.await("the changed file", func() bool { return b.plant.file("motd") == "changed\n" })
	b.must(exitError, "", "plan", b.site()) // a client has the file there opened
	d.signal(syscall.SIGTERM)
	d.ends(exitOK)
}

func TestAPersonStopsWhatAClassStarted(t *testing.T) {
	p := newPlant(t)
	p.sorted(slow)
	p.report(4 << 30)
	d := p.serve(nil)
	p.awaitFile("begun")
	ctx, cancel := context.WithTimeout(t.Context(), commandBound)
	defer cancel()
	person := newTerminal(t, ctx, p.env, "runs", "attach", p.runs()[0].ID.String())
	p.await("the beginning", func() bool { return strings.Contains(person.String(), "Run "+p.runs()[0].ID.String()) })
	person.types("\x03")
	p.await("the question", func() bool { return strings.Contains(person.String(), "d to detach") })
	person.types("c\n")
	p.await("the cancellation", func() bool { return strings.Contains(person.String(), askedToStop) })
	p.let()
	if code := person.wait(); code != exitError {
		t.Errorf("a client that cancelled exits with %d; want %d\n%s", code, exitError, person)
	}
	if r := p.reacted(inventory.ReactionFailed); !strings.Contains(r.Reason, "somebody stopped it") {
		t.Errorf("reaction = %+v; want it failed, because somebody stopped it", r)
	}
	d.signal(syscall.SIGTERM)
	d.ends(exitOK)
	if n := len(p.runs()); n != 1 || p.file("later") != "(none)" {
		t.Errorf("%d runs, later = %s; want one that went no further", n, p.file("later"))
	}
}
