package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// daemonHere is a daemon in this process, with its services bound and not served:
// what runs in it needs no machine to boot.
func daemonHere(t *testing.T, dir, path string) *daemon {
	t.Helper()
	// Of a network only the agents' port is bound, on a loopback address that nobody
	// else has.
	return daemonOn(t, dir, path, func(*site.Network) (*pxe.Sockets, netip.Addr) {
		return &pxe.Sockets{}, netip.AddrFrom4([4]byte{127, 27, byte(os.Getpid()), byte(network.Add(1))})
	})
}

// daemonOn is daemonHere on sockets of its own.
func daemonOn(t *testing.T, dir, path string, sockets func(*site.Network) (*pxe.Sockets, netip.Addr)) *daemon {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	a := &app{stop: make(chan struct{}), stdin: strings.NewReader(""), stdout: io.Discard, stderr: t.Output()}
	w, err := a.open(t.Context(), path, func(steps.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	w.borrowed = true
	d := &daemon{app: a, catalog: w.catalog, wanted: w.wanted, world: w, ctx: t.Context()}
	if d.path, err = samePath(path); err != nil {
		t.Fatal(err)
	}
	_, fence, unlock, err := w.lock(t.Context(), purposeServe)
	if err != nil {
		t.Fatal(err)
	}
	d.fence = fence
	if err := w.recordSite(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.service, err = steps.Listen(t.Context(), steps.ServiceConfig{
		Site: w.site, Catalog: w.catalog, Authority: w.ca, Wanted: w.wanted, Now: time.Now, Sockets: sockets,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.close()
		d.runs.Wait()
		unlock()
		closed := d.service.Close()
		if errors.Is(closed, net.ErrClosed) {
			closed = nil // it was served, and that ended first
		}
		if err := errors.Join(closed, d.closeWorlds(), d.catalog.Close()); err != nil {
			t.Error(err)
		}
	})
	return d
}

func ended(t *testing.T, run *daemonRun, err error) *daemonRun {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	<-run.Done()
	return run
}

func TestARunOfTheDaemonItselfAsksNobody(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	refusal := errors.New("not this one")
	var seen workflows.Plan
	run, err := d.Start(t.Context(), runRequest{Why: `class "till"`, Approve: func(stage workflows.Plan) error {
		seen = stage
		return refusal
	}})
	if run = ended(t, run, err); !errors.Is(run.Err(), refusal) || len(seen.Actions) != 2 || p.file("motd") != "(none)" {
		t.Errorf("a run that was not approved ends with %v after %+v, motd = %q; want nothing done", run.Err(), seen.Actions, p.file("motd"))
	}
	if run.ID() != uuid.Nil || len(run.Plan().Actions) != 2 {
		t.Errorf("ID, Plan = %s, %+v; want no run, and the plan that was refused", run.ID(), run.Plan())
	}
	// It works on the site as it is served, not on what stands in the file by now.
	p.declare(strings.ReplaceAll(quick, "welcome", "changed"))
	run, err = d.Start(t.Context(), runRequest{Why: `class "till"`})
	if run = ended(t, run, err); run.Err() != nil || p.file("motd") != "welcome\n" || run.ID() == uuid.Nil {
		t.Errorf("run %s ends with %v, motd = %q; want the site as it is served", run.ID(), run.Err(), p.file("motd"))
	}
	d.reload(t.Context())
	run, err = d.Start(t.Context(), runRequest{Why: "a reload"})
	if run = ended(t, run, err); run.Err() != nil || p.file("motd") != "changed\n" {
		t.Errorf("after a reload the run ends with %v, motd = %q; want the site as it is now", run.Err(), p.file("motd"))
	}
	run, err = d.Start(t.Context(), runRequest{Why: "nobody", Target: []string{"machine.nobody"}})
	if run = ended(t, run, err); run.Err() == nil || !strings.Contains(run.Err().Error(), "machine.nobody") {
		t.Errorf("a run with a target that there is not ends with %v; want it named", run.Err())
	}
}

func TestAStoppedRunWasCancelled(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	run, err := d.Start(t.Context(), runRequest{Why: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	p.awaitFile("begun")
	var busy *busyError
	if _, err := d.Start(t.Context(), runRequest{Why: "another"}); !errors.As(err, &busy) || busy.Run != run.ID() {
		t.Errorf("a second run = %v; want *busyError with run %s", err, run.ID())
	}
	cancelled := make(chan string, 1)
	go func() {
		result, err := runner{d}.CancelRun(t.Context(), run.ID())
		if err != nil {
			result = err.Error()
		}
		cancelled <- result
	}()
	p.await("the request to cancel", func() bool {
		asked, err := d.current().journal.CancelRequested(t.Context(), run.ID())
		return err == nil && asked
	})
	run.Stop()
	p.let()
	<-run.Done()
	if !errors.Is(run.Err(), context.Canceled) || p.file("later") != "(none)" {
		t.Errorf("a stopped run ends with %v, later = %q; want it cancelled, with nothing new begun", run.Err(), p.file("later"))
	}
	if got := <-cancelled; got != "The run ended as stopped." {
		t.Errorf("CancelRun = %q; want how the run ended", got)
	}
	if result, err := (runner{d}).CancelRun(t.Context(), run.ID()); err == nil {
		t.Errorf("CancelRun of a run that ended = %q; want an error", result)
	}
	d.close()
	if _, err := d.Start(t.Context(), runRequest{Why: "too late"}); !errors.Is(err, errDaemonStops) {
		t.Errorf("a run of a daemon that stops = %v; want errDaemonStops", err)
	}
}

// TestReprovisioningIsRefusedBeforeAnythingIsDone names each reason. That it
// installs is for machines to show.
func TestReprovisioningIsRefusedBeforeAnythingIsDone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "site.hcl")
	text := `site "shop" {}
image "os" {
  source = "os.raw"
  digest = "sha256:` + strings.Repeat("0", 64) + `"
}
machine "m" {
  address = "127.0.0.1"
  ssh {
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKgT2R1VO1kT4f7UWn0+k5RVYjZfv6Q1Fh6yW3g6cQ7T"
  }
}
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d := daemonHere(t, dir, path)
	seen, _, err := d.catalog.Observe(t.Context(), "shop", store.Observation{
		MACs: []inventory.MAC{{2, 0, 0, 0, 0, 1}}, Source: inventory.SourceAgent, Facts: &inventory.Facts{System: &inventory.System{Serial: "SN-1"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	adopted := seen
	adopted.Address = "machine.m"
	for _, c := range []struct {
		m    inventory.Machine
		want string
	}{{seen, "declares no machine"}, {adopted, "declares no image"}} {
		if result, err := (runner{d}).Reprovision(t.Context(), c.m, "SN-1", "a test"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Reprovision = %q, %v; want an error with %q", result, err, c.want)
		}
	}
	if run := d.underway(); run != nil {
		t.Error("a refused request began a run")
	}
}

// shopWithRouter has a till that refers to a router, which was never installed.
const shopWithRouter = `site "shop" {}
network "floor" {
  interface = "lo"
  cidr      = "172.26.1.0/24"
  dhcp {
    range = "172.26.1.100-172.26.1.199"
  }
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
image "router" { # of its own, which is not built before it is inspected
  distribution = "debian"
  release      = "bookworm"
}
machine "router" {
  mac     = "52:54:00:27:00:01"
  network = network.floor
  address = "172.26.1.1"
  image   = image.router
}
machine "till" {
  mac     = "52:54:00:27:00:02"
  network = network.floor
  address = "172.26.1.2"
  image   = image.os
  labels  = { uplink = machine.router.hostname }
}
`

// openShop is a daemon that holds the shop, whose till reported what it is.
func openShop(t *testing.T) (d *daemon, till inventory.Machine) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "site.hcl")
	if err := os.WriteFile(path, []byte(shopWithRouter), 0o600); err != nil {
		t.Fatal(err)
	}
	d = daemonHere(t, dir, path)
	till, _, err := d.catalog.Observe(t.Context(), "shop", store.Observation{
		MACs: []inventory.MAC{{0x52, 0x54, 0, 0x27, 0, 2}}, Source: inventory.SourceAgent, Facts: &inventory.Facts{
			System: &inventory.System{Serial: "SN-2"}, NICs: []inventory.NIC{{Name: "eth0", MAC: inventory.MAC{0x52, 0x54, 0, 0x27, 0, 2}}},
			Disks: []inventory.Disk{{Name: "sda", Serial: "D1", Bytes: 64 << 30, Signatures: []string{"ntfs"}}},
		},
	})
	if err == nil {
		till, err = d.catalog.Machine(t.Context(), till.ID)
	}
	if err != nil || till.Address != "machine.till" {
		t.Fatalf("the till = %+v, %v; want it under its address", till, err)
	}
	return d, till
}

func TestReprovisioningOneMachineTouchesNoOther(t *testing.T) {
	d, till := openShop(t)
	result, err := runner{d}.Reprovision(t.Context(), till, "SN-2", "a test")
	if err == nil || !strings.Contains(err.Error(), "machine.router comes before machine.till (inspect: ") || !strings.Contains(err.Error(), "apply -target='machine.router'") {
		t.Errorf("Reprovision = %q, %v; want it refused for the router, with what to do", result, err)
	}
	if journaled, err := d.current().journal.List(t.Context(), "shop", 0); err != nil || len(journaled) != 0 {
		t.Errorf("runs = %+v, %v; want that none began", journaled, err)
	}
	approve := runner{d}.only(till)
	own := workflows.Action{Address: "machine.till", Kind: workflows.KindInstall, Erase: &workflows.Erase{Consent: workflows.ConsentNeeded}}
	for _, c := range []struct {
		beside workflows.Action
		want   bool
	}{
		{workflows.Action{Address: "image.os", Kind: workflows.KindBuild}, true},
		{workflows.Action{Address: "machine.router", Kind: workflows.KindNone}, true},
		{workflows.Action{Address: "machine.router", Kind: workflows.KindInspect}, false},
		{workflows.Action{Address: "machine.router", Kind: workflows.KindInstall}, false},
		{workflows.Action{Address: "machine.router", Kind: workflows.KindBoot}, false},
		{workflows.Action{Address: "machine.router", Kind: workflows.KindPowerOn}, false},
		{workflows.Action{Address: "workflow.w.step.ssh.s", Kind: workflows.KindRun}, false},
	} {
		if err := approve(workflows.Plan{Actions: []workflows.Action{own, c.beside}}); (err == nil) != c.want {
			t.Errorf("approve(install of the till, %s of %s) = %v; want approved: %v", c.beside.Kind, c.beside.Address, err, c.want)
		}
	}
}

// A version of the site in which an address means another machine may be taken up
// between a request and its run.
func TestReprovisioningErasesNoMachineThatCameToTheAddress(t *testing.T) {
	d, till := openShop(t)
	approve := runner{d}.only(till)
	stage := workflows.Plan{Actions: []workflows.Action{{Address: "machine.till", Kind: workflows.KindInstall, Erase: &workflows.Erase{Consent: workflows.ConsentDeclared}}}}
	if err := approve(stage); err != nil {
		t.Fatal(err)
	}
	if _, err := d.catalog.Declare(t.Context(), "shop", "machine.till", inventory.MAC{0x52, 0x54, 0, 0x27, 0, 3}); err != nil {
		t.Fatal(err)
	}
	if err := approve(stage); !errors.Is(err, steps.ErrOtherMachine) {
		t.Errorf("approve() of the machine that is at the address now = %v; want it refused", err)
	}
}

func TestARunThatIsCutOffLeavesNoMachineToTheInstaller(t *testing.T) {
	d, _ := openShop(t)
	router, err := d.catalog.MachineByAddress(t.Context(), "shop", "machine.router")
	if err != nil {
		t.Fatal(err)
	}
	run, err := d.Start(t.Context(), runRequest{Why: "a test", Target: []string{"machine.router"}})
	if err != nil {
		t.Fatal(err)
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(awaitBound)
	for !d.wanted.Has(router.ID) {
		select {
		case <-deadline:
			t.Fatalf("the run did not want its machine within %s", awaitBound)
		case <-ticker.C:
		case <-run.Done():
			t.Fatalf("the run ended with %v before it wanted its machine", run.Err())
		}
	}
	cancel := run.stopper()
	cancel()
	cancel()
	<-run.Done()
	if d.wanted.Has(router.ID) {
		t.Errorf("the run ended with %v, and its machine is still wanted in the installer", run.Err())
	}
	if err := run.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("the run ended with %v; want that it was cancelled", err)
	}
}

func TestOnlyOneClientThatAsksTwiceCutsARunOff(t *testing.T) {
	p := newPlant(t)
	p.declare(slow)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	run, err := d.Start(t.Context(), runRequest{Why: "a test"})
	if err != nil {
		t.Fatal(err)
	}
	p.awaitFile("begun")
	cut := make(chan error, 4)
	cancel := run.cancel
	run.cancel = func(cause error) {
		cut <- cause
		cancel(cause)
	}
	one, other := run.stopper(), run.stopper()
	one()
	other()
	run.Stop() // as serve does when it is stopped
	run.Stop()
	if len(cut) > 0 {
		t.Errorf("what ran was cut off: %v; want that all may stop a run once", <-cut)
	}
	other()
	if len(cut) != 1 {
		t.Error("a client that asked twice did not cut off what ran")
	}
	p.let()
	<-run.Done()
}

func TestARunSaysInALineWhyItFailed(t *testing.T) {
	p := newPlant(t)
	p.declare(`
  step "ssh" "broken" {
    hosts   = machine.m
    command = "echo one >&2; echo two >&2; exit 3"
    creates = "DIR/never"
  }`)
	d := daemonHere(t, filepath.Dir(p.dir), p.site())
	run, err := d.Start(t.Context(), runRequest{Why: `class "till"`})
	run = ended(t, run, err)
	err = run.Err()
	if err == nil || !strings.HasPrefix(err.Error(), "run "+run.ID().String()+": workflow.w.step.ssh.broken: ") {
		t.Fatalf("the run ends with %v; want its id and what failed", err)
	}
	for _, unwanted := range []string{"\n", "exit code 1", "A run for"} {
		if strings.Contains(err.Error(), unwanted) {
			t.Errorf("the run ends with %q; want it without %q", err, unwanted)
		}
	}
	t.Log(err)
}

func TestTheReasonsOfARunAreBounded(t *testing.T) {
	r := &daemonRun{}
	for i := range maxReasons + 2 {
		r.fails(fmt.Sprintf("machine.a%d", i), strings.Repeat("é", maxReasonBytes)+"\nsecond line")
	}
	text := r.explain(exitCode(exitError)).Error()
	if len(text) > (maxReasons+1)*(maxReasonBytes+8) || !strings.HasSuffix(text, "; and 2 more") || strings.Contains(text, "second") {
		t.Errorf("explain = %d bytes, %q; want five lines that are cut, and how many there are more", len(text), text)
	}
	r = &daemonRun{plan: workflows.Plan{Actions: []workflows.Action{
		{Address: "machine.a", Kind: workflows.KindUnreachable, Reason: "its BMC does not answer"}, {Address: "machine.b", Kind: workflows.KindNone},
	}}}
	if got, want := r.explain(exitCode(exitError)).Error(), "machine.a: unreachable: its BMC does not answer"; got != want {
		t.Errorf("explain = %q; want %q", got, want)
	}
	if err := r.explain(nil); err != nil {
		t.Errorf("explain(nil) = %v; want nil", err)
	}
}
