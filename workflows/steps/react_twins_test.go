package steps_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// twins are two machines that fit one declaration, on a site with others.
const twins = `
machine "db" {
  match   = facts.memory.bytes == GiB(64)
  network = network.floor
  image   = image.till
}
machine "web" {
  match   = facts.memory.bytes == GiB(1)
  network = network.floor
  image   = image.till
}
`

// newTwins is a counter with twins, and one machine for each of the other
// declarations.
func newTwins(t *testing.T) (c *counter, web, till inventory.Machine) {
	t.Helper()
	c = newCounter(t, storetest.SQLite(t))
	s, err := load(t, strings.ReplaceAll(counterSite, ">= GiB(2)", "== GiB(2)")+twins)
	if err != nil {
		t.Fatal(err)
	}
	c.serve(s)
	c.plugIn(1, 64<<30)
	c.plugIn(2, 64<<30)
	return c, c.plugIn(3, 1<<30), c.plugIn(4, 2<<30)
}

func TestTwinsHoldUpNoReaction(t *testing.T) {
	c, _, _ := newTwins(t)
	r := c.reactor()
	for range 2 {
		err := r.Pass(t.Context())
		r.Wait()
		if err == nil || !strings.Contains(err.Error(), "machine.db") || !strings.Contains(err.Error(), "fits 2 machines") {
			t.Errorf("Pass() = %v; want machine.db named", err)
		}
	}
	c.wantStates(`done machine.till["left"]`)
	c.wantAsked(`class "till" machine.till["left"]`)
}

func TestTwinsHoldUpNoOtherMachineOfTheSite(t *testing.T) {
	c, web, till := newTwins(t)
	keys, err := keyring.Open(t.Context(), keyring.Config{KeyFile: filepath.Join(t.TempDir(), "key"), Values: c.catalog.Settings()})
	if err != nil {
		t.Fatal(err)
	}
	f, err := steps.Foresee(t.Context(), c.site, c.catalog, keys)
	if err != nil {
		t.Fatal(err)
	}
	recorded, err := steps.Record(t.Context(), c.site, c.catalog, keys)
	if err != nil {
		t.Fatal(err)
	}
	for what, unbound := range map[string]steps.Unbound{"Foresee": f.Unbound(), "Record": recorded} {
		if len(unbound) != 1 || unbound["machine.db"] == nil {
			t.Errorf("%s leaves %v unbound; want machine.db alone", what, unbound)
		}
	}
	for address, want := range map[string]inventory.Machine{"machine.web": web, `machine.till["left"]`: till} {
		if foreseen, err := f.Machine(t.Context(), c.catalog, "counter", address); err != nil || foreseen.ID != want.ID {
			t.Errorf("%s is foreseen as %v, %v; want %v", address, foreseen.ID, err, want.ID)
		}
		if row, err := c.catalog.MachineByAddress(t.Context(), "counter", address); err != nil || row.ID != want.ID {
			t.Errorf("%s is recorded as %v, %v; want %v", address, row.ID, err, want.ID)
		}
	}
	if _, err := c.catalog.MachineByAddress(t.Context(), "counter", "machine.db"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("machine.db: %v; want none of the two bound", err)
	}
}

func TestTwinsEndTheWaitForNoOtherMachine(t *testing.T) {
	c, web, _ := newTwins(t)
	p := &steps.Provisioner{Site: c.site, Catalog: c.catalog, Keys: c.keys, Wanted: steps.NewWanted(), Clock: hurried{}, Tell: c.said.tell}
	// Another machine was approved than the one that is found: that ends it there.
	other := workflows.Action{Machine: uuid.New()}
	if err := p.Inspect(t.Context(), c.site.MachineByAddress("machine.web"), other); !errors.Is(err, steps.ErrOtherMachine) || !strings.Contains(err.Error(), web.ID.String()) {
		t.Errorf("Inspect(machine.web) = %v; want it found although machine.db cannot be told", err)
	}
	if err := p.Inspect(t.Context(), c.site.MachineByAddress("machine.db"), other); err == nil || !strings.Contains(err.Error(), "fits 2 machines") {
		t.Errorf("Inspect(machine.db) = %v; want that it cannot be told", err)
	}
}
