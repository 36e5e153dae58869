package main

import (
	"testing"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/control"
)

// TestASerialThatWasTypedBeforeConsentsToItsMachineAlone is what the API's
// reprovisioning rests on: nobody is there to be asked.
func TestASerialThatWasTypedBeforeConsentsToItsMachineAlone(t *testing.T) {
	erase := func(address, serial string) workflows.Action {
		return workflows.Action{Address: address, Kind: workflows.KindInstall, Erase: &workflows.Erase{
			Disk: workflows.DiskName{Name: "sda", Bytes: 1 << 30}, Signatures: []string{"ext4"}, Consent: workflows.ConsentNeeded, Serial: serial,
		}}
	}
	plan := workflows.Plan{Actions: []workflows.Action{
		erase("machine.typed", "SN-1"), erase("machine.other", "SN-1"), erase("machine.wrong", "SN-3"), erase("machine.nameless", ""),
	}}
	run := &daemonRun{session: control.NewSession(), stop: make(chan struct{})}
	ap := &applying{
		running: running{world: &world{app: &app{run: run, daemon: &daemon{ctx: t.Context()}, stderr: t.Output()}}},
		flags: applyFlags{consented: map[string]string{
			"machine.typed": "SN-1", "machine.wrong": "SN-2", "machine.nameless": "",
		}},
	}
	got, missing := ap.consent(plan)
	want := []workflows.Kind{workflows.KindInstall, workflows.KindRefused, workflows.KindRefused, workflows.KindRefused}
	for i, a := range got.Actions {
		if a.Kind != want[i] {
			t.Errorf("%s becomes %s; want %s", a.Address, a.Kind, want[i])
		}
	}
	if !missing || got.Actions[0].Erase.Consent != workflows.ConsentTyped {
		t.Errorf("missing = %t, consent = %+v; want the first typed and the rest missing", missing, got.Actions[0].Erase)
	}
}
