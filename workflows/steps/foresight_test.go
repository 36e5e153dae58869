package steps_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

const foreseenSite = `
site "store" {}
network "floor" {
  interface = "eth1"
  cidr      = "172.24.0.0/24"
  unknown   = "discover"
  dhcp {
    range = "172.24.0.100-172.24.0.250"
  }
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
class "large" {
  match = facts.memory.bytes >= GiB(8)
}
class "old" {
  match = machine.address == "machine.old"
}
machine "named" {
  mac     = "52:54:00:00:00:01"
  network = network.floor
  image   = image.os
}
machine "moved" {
  mac     = "52:54:00:00:00:02"
  network = network.floor
  image   = image.os
}
machine "unseen" {
  mac     = "52:54:00:00:00:09"
  network = network.floor
  image   = image.os
}
machine "first" {
  match   = class.large
  network = network.floor
  image   = image.os
}
machine "only" {
  match   = facts.memory.bytes == GiB(2)
  network = network.floor
  image   = image.os
}
moved {
  from = machine.old
  to   = machine.moved
}
`

// foreseen are the addresses and classes of machines.
func foreseen(rows []inventory.Machine) map[uuid.UUID]string {
	out := map[uuid.UUID]string{}
	for _, m := range rows {
		out[m.ID] = m.Address + " " + strings.Join(m.Classes, ",")
	}
	return out
}

func TestForesightIsWhatRecordWritesAndWritesNothing(t *testing.T) {
	s, err := load(t, foreseenSite)
	if err != nil {
		t.Fatal(err)
	}
	catalog := storetest.Open(t, storetest.SQLite(t))
	all := func() map[uuid.UUID]string {
		rows, err := catalog.Machines(t.Context(), store.MachineFilter{Site: "store"})
		if err != nil {
			t.Fatal(err)
		}
		return foreseen(rows)
	}
	see := func(last byte, bytes int64) inventory.Machine {
		m, _, err := catalog.Observe(t.Context(), "store", store.Observation{
			MACs: []inventory.MAC{{0x52, 0x54, 0, 0, 0, last}}, Source: inventory.SourceAgent,
			Facts: &inventory.Facts{SchemaVersion: inventory.SchemaVersion, Memory: &inventory.Memory{Bytes: bytes}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	see(1, 1<<30)
	old := see(2, 8<<30)
	large := see(3, 16<<30)
	small := see(4, 2<<30)
	if _, err := catalog.Bind(t.Context(), "store", "machine.old", old.ID); err != nil {
		t.Fatal(err)
	}
	record := []byte(`{"image":"sha256:1","host_key":"ssh-ed25519 AAAA"}`)
	if err := catalog.PutApplied(t.Context(), store.Applied{Site: "store", Address: "machine.old", Kind: "machine", Outputs: record, SchemaVersion: 1}); err != nil {
		t.Fatal(err)
	}
	keys, err := keyring.Open(t.Context(), keyring.Config{KeyFile: filepath.Join(t.TempDir(), "key"), Values: catalog.Settings()})
	if err != nil {
		t.Fatal(err)
	}
	before := all()
	f, err := steps.Foresee(t.Context(), s, catalog, keys)
	if err != nil {
		t.Fatal(err)
	}
	if now := all(); !reflect.DeepEqual(now, before) {
		t.Errorf("Foresee() left %v; want the catalog as it was: %v", now, before)
	}
	if _, err := catalog.Applied(t.Context(), "store", "machine.old"); err != nil {
		t.Errorf("what was applied at the old address: %v; want it there still", err)
	}
	want := map[string]uuid.UUID{"machine.moved": old.ID, "machine.first": large.ID, "machine.only": small.ID}
	expected := map[string]inventory.Machine{}
	for _, m := range s.Machines {
		row, err := f.Machine(t.Context(), catalog, "store", m.Address)
		if m.Address == "machine.unseen" {
			if !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Machine(%s) = %v, %v; want none: it was never seen", m.Address, row.ID, err)
			}
			continue
		}
		if id, known := want[m.Address]; err != nil || known && row.ID != id {
			t.Errorf("Machine(%s) = %v, %v; want %v", m.Address, row.ID, err, id)
		}
		expected[m.Address] = row
	}
	if _, err := f.Machine(t.Context(), catalog, "store", "machine.old"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Machine(machine.old) = %v; want none under the name that it had", err)
	}
	late, err := catalog.Adopt(t.Context(), "store", "machine.late")
	if err != nil {
		t.Fatal(err)
	}
	if row, err := f.Machine(t.Context(), catalog, "store", "machine.late"); err != nil || row.ID != late.ID {
		t.Errorf("Machine(entered since) = %v, %v; want %v", row.ID, err, late.ID)
	}
	if _, err := steps.Record(t.Context(), s, catalog, keys); err != nil {
		t.Fatal(err)
	}
	for address, foreseen := range expected {
		row, err := catalog.MachineByAddress(t.Context(), "store", address)
		if err != nil || row.ID != foreseen.ID || !reflect.DeepEqual(row.Classes, foreseen.Classes) {
			t.Errorf("%s is recorded as %v in %q, %v; want what was foreseen: %v in %q", address, row.ID, row.Classes, err, foreseen.ID, foreseen.Classes)
		}
	}
	if _, err := catalog.Applied(t.Context(), "store", "machine.moved"); err != nil {
		t.Errorf("what was applied, after Record: %v; want it at the new address", err)
	}
}
