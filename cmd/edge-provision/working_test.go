package main

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/journal"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

const workedOn = `site "plant" {}
` + plantMachine + `
machine "other" {
  address = "127.0.0.2"
  ssh {
    host_key = "HOSTKEY"
    port     = PORT
    user     = "root"
  }
}
workflow "w" {
  step "file" "motd" {
    hosts   = machine.m
    path    = "DIR/motd"
    content = "welcome"
  }
  step "file" "after" {
    hosts      = machine.other
    path       = "DIR/after"
    content    = "welcome"
    depends_on = [workflow.w.step.file.motd]
  }
}
`

func TestPowerIsRefusedWhileARunWorksOnTheMachine(t *testing.T) {
	p := newPlant(t)
	p.write(workedOn)
	t.Setenv("XDG_DATA_HOME", filepath.Join(filepath.Dir(p.dir), "data"))
	t.Setenv("XDG_CACHE_HOME", filepath.Join(filepath.Dir(p.dir), "cache"))
	a := &app{stdin: strings.NewReader(""), stdout: t.Output(), stderr: t.Output()}
	w, err := a.open(t.Context(), p.site(), func(steps.Progress) {})
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	const motd, after = "workflow.w.step.file.motd", "workflow.w.step.file.after"
	record, err := json.Marshal(runRecord{Command: "apply", Path: p.site(), Plan: workflows.Plan{Actions: []workflows.Action{
		{Address: "machine.m", Kind: workflows.KindNone},
		{Address: "machine.other", Kind: workflows.KindNone},
		{Address: motd, Kind: workflows.KindRun},
		{Address: after, Kind: workflows.KindRun},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	run, err := w.journal.Begin(t.Context(), journal.Run{Site: "plant", Actions: record})
	if err != nil {
		t.Fatal(err)
	}
	refuses := func(when string, m, other bool) {
		t.Helper()
		for address, want := range map[string]bool{"machine.m": m, "machine.other": other} {
			err := w.undisturbed(t.Context(), address)
			var working *workingError
			if errors.As(err, &working) != want || want && (working.Run != run.ID || !strings.Contains(err.Error(), "--force")) {
				t.Errorf("%s: the power of %s: %v; want it refused: %v", when, address, err, want)
			}
		}
	}
	refuses("nobody holds the site, so that the run was cut off", false, false)
	_, _, unlock, err := w.lock(t.Context(), "apply")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	refuses("nothing is done yet", true, true)
	finish := func(address string) {
		t.Helper()
		err := w.journal.Started(t.Context(), run.ID, address, 1, "sha256:1")
		if err == nil {
			err = w.journal.Finished(t.Context(), run.ID, address, 1, outcomeOK, "", nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	finish(motd)
	// The step on the other machine waits for one that was on this machine.
	refuses("one step is left", true, true)
	finish(after)
	refuses("all is done", false, false)
	// In a daemon a machine may be held before a run has begun.
	held := inventory.Machine{ID: uuid.New(), Site: "plant", Address: "machine.m"}
	w.wanted.Set(held.ID, true)
	if got, err := (powerer{func() *world { return w }}).Working(t.Context(), held); err != nil || got == nil || got.ID != uuid.Nil {
		t.Errorf("Working(held in the installer) = %+v, %v; want a run that has not begun", got, err)
	}
	w.wanted.Set(held.ID, false)
	if got, err := (powerer{func() *world { return w }}).Working(t.Context(), held); err != nil || got != nil {
		t.Errorf("Working(nobody) = %+v, %v; want none", got, err)
	}
}

// TestPowerIsNotSwitchedForAnotherMachineAtTheAddress has the catalog be ahead of
// the version that is served, as while another takes its place: the served one
// knows the BMC of the machine that was at the address before.
func TestPowerIsNotSwitchedForAnotherMachineAtTheAddress(t *testing.T) {
	block, _ := redfishWith(t, "right-password", sim.Sensor{Name: "CPU Temp", Unit: sim.Celsius, Value: 45})
	f := newFlight(t, block, 0)
	f.run("bmc", "--site", f.path, "power", "machine.till", "on")
	other, err := f.world.catalog.Declare(t.Context(), "shop", "machine.till", inventory.MAC{0x52, 0x54, 0, 0x99, 0, 9})
	if err != nil {
		t.Fatal(err)
	}
	p := powerer{func() *world { return f.world }}
	if state, err := p.SetPower(t.Context(), other, "off"); err == nil || !strings.Contains(err.Error(), "declares no machine") {
		t.Errorf("SetPower(%s) = %q, %v; want the BMC of another machine left alone", other.ID, state, err)
	}
}
