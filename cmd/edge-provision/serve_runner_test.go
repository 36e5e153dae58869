package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/control"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// daemonHere is a daemon in this process, with its services bound and not served:
// what runs in it needs no machine to boot.
func daemonHere(t *testing.T, dir, path string) *daemon {
	t.Helper()
	t.Setenv("XDG_DATA_HOME", filepath.Join(dir, "data"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(dir, "cache"))
	a := &app{stop: make(chan struct{}), stdin: strings.NewReader(""), stdout: io.Discard, stderr: t.Output()}
	w, err := a.open(t.Context(), path, func(steps.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	w.borrowed = true
	d := &daemon{app: a, catalog: w.catalog, wanted: w.wanted, manager: control.Supervisor{}, world: w, ctx: t.Context()}
	if d.path, err = samePath(path); err != nil {
		t.Fatal(err)
	}
	fence, unlock, err := w.lock(t.Context(), purposeServe)
	if err != nil {
		t.Fatal(err)
	}
	d.fence = fence
	d.service, err = steps.Listen(t.Context(), steps.ServiceConfig{Site: w.site, Catalog: w.catalog, Authority: w.ca, Wanted: w.wanted, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.close()
		d.runs.Wait()
		unlock()
		if err := errors.Join(d.service.Close(), d.closeWorlds(), d.catalog.Close()); err != nil {
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
