package steps

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows/site"
)

func TestMovedMachineKeepsWhatIsKnownOfIt(t *testing.T) {
	ctx := t.Context()
	catalog := storetest.Open(t, storetest.SQLite(t))
	row, err := catalog.Declare(ctx, "shop", "machine.old", inventory.MAC{0x52, 0x54, 0, 0, 0, 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := catalog.PutApplied(ctx, store.Applied{Site: "shop", Address: "machine.old", Digest: "d", Outputs: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	if err := (installation{Phase: phaseAnswered, Attempt: 3}).save(ctx, catalog.Settings(), "shop", "machine.old"); err != nil {
		t.Fatal(err)
	}
	s := &site.Site{Name: "shop", Moved: []site.Moved{{From: "machine.old", To: "machine.new"}, {From: "machine.never", To: "machine.other"}}}
	for range 2 { // the second time there is nothing left to move
		if err := Move(ctx, s, catalog, nil); err != nil {
			t.Fatalf("Move() = %v", err)
		}
	}
	if got, err := catalog.MachineByAddress(ctx, "shop", "machine.new"); err != nil || got.ID != row.ID {
		t.Errorf("machine at the new address = %v, %v; want %s", got.ID, err, row.ID)
	}
	if _, err := catalog.MachineByAddress(ctx, "shop", "machine.old"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("machine at the old address: %v; want none", err)
	}
	if a, err := catalog.Applied(ctx, "shop", "machine.new"); err != nil || a.Digest != "d" {
		t.Errorf("applied record = %+v, %v; want the old one", a, err)
	}
	if in, err := loadInstallation(ctx, catalog.Settings(), "shop", "machine.new"); err != nil || in == nil || in.Attempt != 3 {
		t.Errorf("installation = %+v, %v; want the old one", in, err)
	}
}
