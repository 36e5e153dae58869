package bmc_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
)

func TestWrongPasswordIsTriedOnceAndNeverAgainAlsoByAnotherProcess(t *testing.T) {
	r := newRig(t)
	r.config.Password = "wrong"
	key, dir := []byte(strings.Repeat("k", 32)), t.TempDir()+"/refusals"
	for i := range 3 {
		out := refusalProcess(t, r.config, dir)
		if want := fmt.Sprintf("refused, remembered: %t\n", i > 0); out != want {
			t.Fatalf("process %d says %q; want %q", i, out, want)
		}
	}
	if got := r.service.Refused(); got != 1 {
		t.Errorf("the service saw %d refused logins; want 1", got)
	}
	c := r.open(t, bmc.Deps{Refusals: bmc.RefusalDir(dir), RefusalKey: key})
	if _, err := c.PowerState(t.Context()); err == nil || strings.Contains(err.Error(), "wrong") {
		t.Errorf("PowerState() = %v; want an error that does not show the password", err)
	}
	r.config.Password = password
	if _, err := r.open(t, bmc.Deps{Refusals: bmc.RefusalDir(dir), RefusalKey: key}).PowerState(t.Context()); err != nil {
		t.Errorf("PowerState() with the corrected password = %v; want no error", err)
	}
}

func TestRefusedCredentialIsAnEvent(t *testing.T) {
	r := newRig(t)
	r.config.Password = "wrong"
	c := r.open(t, bmc.Deps{})
	for range 2 {
		var ce *bmc.CredentialError
		if _, err := c.PowerState(t.Context()); !errors.As(err, &ce) {
			t.Fatalf("PowerState() = %v; want a CredentialError", err)
		}
	}
	if got := fmt.Sprint(r.events.kinds()); got != "[bmc.refused]" {
		t.Errorf("events = %s; want [bmc.refused], once", got)
	}
}

func TestForgottenRefusalIsTriedAgain(t *testing.T) {
	r := newRig(t)
	r.service.SetPassword("changed on the BMC")
	c := r.open(t, bmc.Deps{})
	if _, err := c.PowerState(t.Context()); err == nil {
		t.Fatal("PowerState() with a wrong password = nil; want an error")
	}
	r.service.SetPassword(password)
	if _, err := c.PowerState(t.Context()); err == nil {
		t.Fatal("PowerState() right after = nil; want the remembered refusal")
	}
	if err := c.ForgetRefusal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.PowerState(t.Context()); err != nil {
		t.Errorf("PowerState() after ForgetRefusal = %v; want no error", err)
	}
}

func TestPasswordQuotedByTheBMCIsNotShown(t *testing.T) {
	r := newRig(t)
	r.service.SetFault(sim.FaultEcho)
	r.config.Password = "horse-battery-9"
	_, err := r.open(t, bmc.Deps{}).PowerState(t.Context())
	if err == nil || strings.Contains(err.Error(), "horse-battery-9") {
		t.Errorf("PowerState() = %v; want an error without the password", err)
	}
	for _, ev := range r.events.list {
		if strings.Contains(fmt.Sprintf("%+v", ev), "horse-battery-9") {
			t.Errorf("event %+v shows the password", ev)
		}
	}
}

func TestRefusalThatCannotBeReadStopsTheCall(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir() + "/file"
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := r.open(t, bmc.Deps{Refusals: bmc.RefusalDir(dir), RefusalKey: []byte(strings.Repeat("k", 32))})
	if _, err := c.PowerState(t.Context()); err == nil || len(r.service.Requests()) != 0 {
		t.Errorf("PowerState() = %v after %v; want an error before any request", err, r.service.Requests())
	}
}
