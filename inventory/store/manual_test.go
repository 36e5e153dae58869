package store_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/manual"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// written is an edit that sets one fact, or with an empty value takes it away.
func written(path, value string) func(*inventory.Facts) error {
	return func(f *inventory.Facts) error {
		if value == "" {
			return manual.Unset(f, path)
		}
		return manual.Set(f, path, value)
	}
}

// TestSerialOfABMCIsNotTheMachines has two machines, of which one's BMC says the
// other's serial, and writes a fact of the former by hand.
func TestSerialOfABMCIsNotTheMachines(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		for i, other := range []inventory.Facts{{}, {System: &inventory.System{Serial: "OTHER-1"}}} {
			observe(t, s, store.Observation{MACs: []inventory.MAC{mac(1)}, Source: inventory.SourceAgent, Facts: &other})
			m := observe(t, s, store.Observation{MACs: []inventory.MAC{mac(2)}})
			for _, source := range []inventory.Source{inventory.SourceRedfish, inventory.SourceIPMI} {
				_, _, err := s.PutFacts(t.Context(), m.ID, source, inventory.Facts{System: &inventory.System{Serial: "OTHER-1"}}, time.Time{})
				ok(t, err)
			}
			_, _, err := s.EditFacts(t.Context(), m.ID, written("chassis.asset_tag", fmt.Sprint("shelf ", i)), nil)
			ok(t, err)
			if now := must[inventory.Machine](t)(s.Machine(t.Context(), m.ID)); now.Serial != "" {
				t.Errorf("the machine has the serial %q, which only its BMC said; want none", now.Serial)
			}
		}
	})
}

func TestWrittenFactsAreASourceOfTheirOwn(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		o := seen("7XK2Q93", uuidA, 1)
		o.Source, o.Facts = inventory.SourceAgent, &full
		m := observe(t, s, o)
		edit := func(path, value string) bool {
			t.Helper()
			_, changed, err := s.EditFacts(ctx, m.ID, written(path, value), nil)
			ok(t, err)
			return changed
		}
		before := must[[]inventory.Event](t)(s.EventsAfter(ctx, 0, 1_000))
		if !edit("chassis.asset_tag", "0042") || edit("chassis.asset_tag", "0042") {
			t.Error("the first EditFacts changed nothing, or the second did; want only the first to")
		}
		edit("bios.version", "9.9")
		merged := must[inventory.Facts](t)(s.MergedFacts(ctx, m.ID))
		if merged.Chassis.AssetTag != "0042" || merged.BIOS.Version != full.BIOS.Version {
			t.Errorf("merged chassis = %+v, bios = %+v; want the tag that was written, and the BIOS of the agent", merged.Chassis, merged.BIOS)
		}
		disagreed, changes := 0, 0
		for _, e := range must[[]inventory.Event](t)(s.EventsAfter(ctx, before[len(before)-1].ID, 1_000)) {
			switch {
			case e.Kind == inventory.EventMachineChanged:
				changes++
			case e.Kind == inventory.EventFactsDisagree && e.Attrs["path"] == "bios.version" && e.Attrs["manual"] == `"9.9"`:
				disagreed++
			}
		}
		if changes != 2 || disagreed != 1 {
			t.Errorf("%d events of changes and %d of the BIOS's disagreement; want 2 and 1", changes, disagreed)
		}
		edit("bios", "")
		edit("bios", "")
		reports := must[[]store.Report](t)(s.Reports(ctx, m.ID, inventory.SourceManual, 0, 10))
		if len(reports) != 3 || reports[0].Facts.BIOS != nil || reports[0].Facts.Chassis.AssetTag != "0042" || reports[0].Before.BIOS.Version != "9.9" {
			t.Errorf("history = %+v; want three reports, the newest without the BIOS", reports)
		}

		// What a person wrote outlives what the agent says next, and an edit that
		// fails changes nothing.
		o.Facts = &inventory.Facts{Chassis: &inventory.Chassis{AssetTag: "agent"}}
		observe(t, s, o)
		wrong := errors.New("wrong")
		if _, changed, err := s.EditFacts(ctx, m.ID, func(f *inventory.Facts) error { f.Chassis.AssetTag = "1"; return wrong }, nil); !errors.Is(err, wrong) || changed {
			t.Errorf("EditFacts = %v, %v; want the edit's error", changed, err)
		}
		if merged = must[inventory.Facts](t)(s.MergedFacts(ctx, m.ID)); merged.Chassis.AssetTag != "0042" {
			t.Errorf("merged chassis = %+v; want the tag that was written", merged.Chassis)
		}
		if _, _, err := s.EditFacts(ctx, uuid.New(), written("chassis.asset_tag", "1"), nil); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("EditFacts of no machine = %v; want ErrNotFound", err)
		}
	})
}

func TestWrittenSerialIdentifiesABoardWithoutOne(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		agent := func(serial string, n int) inventory.Machine {
			return observe(t, s, store.Observation{
				MACs: []inventory.MAC{mac(n)}, Source: inventory.SourceAgent, Facts: &inventory.Facts{System: &inventory.System{Serial: serial}}, At: time.Now(),
			})
		}
		board, other := agent("Default string", 1), agent("TAKEN", 2)
		serial := func(want string) {
			t.Helper()
			if m := must[inventory.Machine](t)(s.Machine(ctx, board.ID)); m.Serial != want {
				t.Errorf("serial = %q; want %q", m.Serial, want)
			}
		}
		for _, value := range []string{"LABEL-1", "LABEL-2"} {
			_, _, err := s.EditFacts(ctx, board.ID, written("system.serial", value), nil)
			ok(t, err)
			serial(value)
			if m, err := s.Find(ctx, site, value); err != nil || m.ID != board.ID {
				t.Errorf("Find(%s) = %s, %v; want the board", value, m.ID, err)
			}
		}
		if merged := must[inventory.Facts](t)(s.MergedFacts(ctx, board.ID)); merged.System.Serial != "LABEL-2" {
			t.Errorf("merged serial = %q; want the one that was written, over the placeholder", merged.System.Serial)
		}
		var conflict *store.ConflictError
		if _, _, err := s.EditFacts(ctx, board.ID, written("system.serial", "TAKEN"), nil); !errors.As(err, &conflict) || conflict.B != other.ID {
			t.Errorf("EditFacts with another machine's serial = %v; want a *ConflictError", err)
		}
		serial("LABEL-2")
		if merged := must[inventory.Facts](t)(s.MergedFacts(ctx, board.ID)); merged.System.Serial != "LABEL-2" {
			t.Errorf("merged serial after the conflict = %q; want it unchanged", merged.System.Serial)
		}
		_, _, err := s.EditFacts(ctx, board.ID, written("system.serial", ""), nil)
		ok(t, err)
		serial("")

		// Firmware that has one is believed.
		_, _, err = s.EditFacts(ctx, other.ID, written("system.serial", "LABEL-3"), nil)
		ok(t, err)
		if m := must[inventory.Machine](t)(s.Machine(ctx, other.ID)); m.Serial != "TAKEN" {
			t.Errorf("serial = %q; want that of the firmware", m.Serial)
		}
	})
}
