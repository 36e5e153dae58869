package store_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/drift"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

var snapshotKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// withDisk is the full machine with the serial number of its second disk.
func withDisk(serial string) inventory.Facts {
	f := full
	f.Disks = slices.Clone(full.Disks)
	f.Disks[1].Serial = serial
	return f
}

// What is frozen, and what it becomes.
var original, swapped = withDisk("ZC1A"), withDisk("ZC2B")

// frozen is a catalog with one machine whose hardware is frozen.
func frozen(t *testing.T, cfg store.Config) (*store.Store, uuid.UUID) {
	t.Helper()
	s := storetest.Open(t, cfg)
	s.UseSnapshotKey(snapshotKey)
	m := observe(t, s, store.Observation{MACs: []inventory.MAC{mac(1)}, Source: inventory.SourceAgent, Facts: &original})
	if first := must[bool](t)(s.Commission(t.Context(), m.ID, "run-1")); !first {
		t.Fatal("Commission() = false; want the hardware frozen")
	}
	return s, m.ID
}

func report(t *testing.T, s *store.Store, id uuid.UUID, f inventory.Facts) {
	t.Helper()
	_, _, err := s.PutFacts(t.Context(), id, inventory.SourceAgent, f, time.Time{})
	ok(t, err)
}

// toldOf lists the events of drift of a machine, each in a few words.
func toldOf(t *testing.T, s *store.Store, id uuid.UUID) string {
	t.Helper()
	var out []string
	for _, e := range must[[]inventory.Event](t)(s.Events(t.Context(), store.EventFilter{
		Machine: id, Kinds: []inventory.EventKind{inventory.EventMachineDrift, inventory.EventMachineDriftEnd},
	})) {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s %s%s %s", e.Kind, e.Attrs["state"], e.Attrs["how"], e.Attrs["by"])))
	}
	return strings.Join(out, "; ")
}

// stands asks how a machine's hardware stands, and demands that the machine says
// the same.
func stands(t *testing.T, s *store.Store, id uuid.UUID, want inventory.DriftState) drift.Report {
	t.Helper()
	r := must[drift.Report](t)(s.Drift(t.Context(), id))
	m := must[inventory.Machine](t)(s.Machine(t.Context(), id))
	if r.State != want || m.Drift != want || m.DriftDigest != r.Digest || m.DriftSince.IsZero() != (want == inventory.DriftNone || want == "") {
		t.Errorf("Drift() = %+v, machine = %q %q since %s; want both %q", r, m.Drift, m.DriftDigest, m.DriftSince, want)
	}
	return r
}

func TestDriftIsToldOnceUntilItIsRepaired(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s, id := frozen(t, cfg)
		stands(t, s, id, inventory.DriftNone)
		if again := must[bool](t)(s.Commission(t.Context(), id, "run-2")); again {
			t.Error("Commission() a second time = true; want the first snapshot kept")
		}
		report(t, s, id, swapped)
		r := stands(t, s, id, inventory.DriftChanged)
		if len(r.Changes) != 2 || !strings.Contains(drift.Describe(r.Changes[0]), `"ZC1A" is gone`) || !strings.Contains(drift.Describe(r.Changes[1]), `"ZC2B" is new`) {
			t.Errorf("Changes = %v; want one disk gone and another new", r.Changes)
		}
		report(t, s, id, swapped)
		renamed := swapped // another document, the same hardware
		renamed.Kernel = &inventory.Kernel{Release: "6.99"}
		report(t, s, id, renamed)
		ok(t, s.ReviewDrift(t.Context(), site))
		if got := toldOf(t, s, id); got != "machine.drift changed" {
			t.Errorf("events = %s; want one of the drift", got)
		}
		flashed := renamed
		flashed.BIOS = &inventory.BIOS{Vendor: "Dell Inc.", Version: "9.9"}
		report(t, s, id, flashed)
		if r := stands(t, s, id, inventory.DriftChanged); len(r.Changes) != 3 {
			t.Errorf("Changes = %v; want the disks and the firmware", r.Changes)
		}
		report(t, s, id, original)
		stands(t, s, id, inventory.DriftNone)
		if got := toldOf(t, s, id); got != "machine.drift changed; machine.drift changed; machine.drift.end repaired" {
			t.Errorf("events = %s; want another difference told, and its end", got)
		}
	})
}

// TestNotLookedAtIsNotGone has looks that see no disks: one that cannot, and one that
// finds none.
func TestNotLookedAtIsNotGone(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s, id := frozen(t, cfg)
		blind, none := original, original
		blind.Disks, blind.Memory = nil, &inventory.Memory{Bytes: original.Memory.Bytes}
		none.Disks = []inventory.Disk{}
		report(t, s, id, blind)
		stands(t, s, id, inventory.DriftNone)
		report(t, s, id, none)
		if r := stands(t, s, id, inventory.DriftChanged); len(r.Changes) != 2 || !strings.HasSuffix(r.Changes[0].Path, `"]`) || r.Changes[0].New != "" || r.Changes[1].New != "" {
			t.Errorf("Changes = %v; want both disks gone", r.Changes)
		}
		last := must[[]inventory.Document](t)(s.FactsHistory(t.Context(), id, inventory.SourceAgent))
		if n := len(last); n != 3 || last[1].Facts.Disks != nil || last[2].Facts.Disks == nil {
			t.Errorf("history = %+v; want no list, and then an empty one", last)
		}
	})
}

func TestWrittenFactsAreNoDriftAndHideNone(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		s.UseSnapshotKey(snapshotKey)
		inOne, inTwo := original, original
		inOne.Chassis, inTwo.Chassis = &inventory.Chassis{Serial: "CH-1"}, &inventory.Chassis{Serial: "CH-2"}
		m := observe(t, s, store.Observation{MACs: []inventory.MAC{mac(1)}, Source: inventory.SourceAgent, Facts: &inOne})
		label := func(serial string) {
			t.Helper()
			_, _, err := s.EditFacts(t.Context(), m.ID, written("chassis.serial", serial), nil)
			ok(t, err)
		}
		label("LABEL-7")
		must[bool](t)(s.Commission(t.Context(), m.ID, "run-1"))
		label("LABEL-8")
		stands(t, s, m.ID, inventory.DriftNone)
		report(t, s, m.ID, inTwo)
		if r := stands(t, s, m.ID, inventory.DriftChanged); len(r.Changes) != 1 || r.Changes[0].Path != "chassis.serial" || r.Changes[0].Old != `"CH-1"` || r.Changes[0].New != `"CH-2"` {
			t.Errorf("Changes = %v; want the chassis as programs saw it", r.Changes)
		}
	})
}

func TestAcceptedDriftIsTheNewSnapshot(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s, id := frozen(t, cfg)
		ctx := t.Context()
		if _, err := s.AcceptDrift(ctx, id, "", "ops"); !errors.Is(err, store.ErrNoDrift) {
			t.Errorf("AcceptDrift(nothing) = %v; want ErrNoDrift", err)
		}
		report(t, s, id, swapped)
		seen := stands(t, s, id, inventory.DriftChanged)
		if _, err := s.AcceptDrift(ctx, id, "sha256:of another difference", "ops"); !errors.Is(err, store.ErrDriftMoved) {
			t.Errorf("AcceptDrift(another difference) = %v; want ErrDriftMoved", err)
		}
		// Two accept at once; one of them comes first.
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i := range errs {
			wg.Go(func() { _, errs[i] = s.AcceptDrift(ctx, id, seen.Digest, fmt.Sprintf("ops-%d", i)) })
		}
		wg.Wait()
		if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), store.ErrNoDrift) {
			t.Errorf("two AcceptDrift = %v; want one to succeed and one ErrNoDrift", errs)
		}
		stands(t, s, id, inventory.DriftNone)
		if got := toldOf(t, s, id); !strings.HasPrefix(got, "machine.drift changed; machine.drift.end accepted ops-") || strings.Count(got, ";") != 1 {
			t.Errorf("events = %s; want the drift and one end", got)
		}
		all := must[[]store.Snapshot](t)(s.Snapshots(ctx, id))
		if len(all) != 2 || all[0].Number != 2 || !strings.HasPrefix(all[0].AcceptedBy, "ops-") || all[0].Facts.Disks[1].Serial != "ZC2B" ||
			all[1].Number != 1 || all[1].Run != "run-1" || all[1].Facts.Disks[1].Serial != "ZC1A" || all[0].Forged || all[1].Forged {
			t.Errorf("Snapshots() = %+v; want the accepted one and the first", all)
		}
		report(t, s, id, original)
		stands(t, s, id, inventory.DriftChanged)
	})
}

func TestForgedSnapshotIsToldAndNeverUsed(t *testing.T) {
	for name, forge := range map[string]string{
		"its content":            `UPDATE snapshots SET content = %s`,
		"content and digest":     `UPDATE snapshots SET content = %s, digest = 'sha256:1'`,
		"its signature":          `UPDATE snapshots SET signature = %s`,
		"who accepted it":        `UPDATE snapshots SET accepted_by = 'somebody', content = coalesce(content, %s)`,
		"and the machine's word": `UPDATE snapshots SET signature = %s`,
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Each(t, func(t *testing.T, cfg store.Config) {
				s, id := frozen(t, cfg)
				ctx := t.Context()
				text := "x'7b7d'"
				if s.Dialect() == "postgres" {
					text = `'\x7b7d'`
				}
				ok(t, s.Exec(ctx, fmt.Sprintf(forge, text)))
				if name == "and the machine's word" {
					ok(t, s.Exec(ctx, "UPDATE machines SET drift = NULL"))
				}
				if r := must[drift.Report](t)(s.Drift(ctx, id)); r.State != inventory.DriftForged || len(r.Changes) != 0 {
					t.Errorf("Drift() = %+v; want it forged, and nothing compared", r)
				}
				for range 2 {
					ok(t, s.ReviewDrift(ctx, site))
				}
				report(t, s, id, swapped)
				stands(t, s, id, inventory.DriftForged)
				if got := toldOf(t, s, id); got != "machine.drift forged" {
					t.Errorf("events = %s; want that it is forged, once", got)
				}
				must[drift.Report](t)(s.AcceptDrift(ctx, id, "", "ops"))
				stands(t, s, id, inventory.DriftNone)
				if all := must[[]store.Snapshot](t)(s.Snapshots(ctx, id)); len(all) != 2 || !all[1].Forged || all[0].Forged {
					t.Errorf("Snapshots() = %+v; want the forged one under the new one", all)
				}
			})
		})
	}
}

func TestWhatABMCSaysIsNoDrift(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s, id := frozen(t, cfg)
		for _, source := range []inventory.Source{inventory.SourceRedfish, inventory.SourceIPMI} {
			told := inventory.Facts{
				SchemaVersion: inventory.SchemaVersion, System: &inventory.System{Serial: "BOARD-1"}, BMC: &inventory.BMCFacts{Firmware: "4.40.00.00", Vendor: "Dell"},
				Disks: []inventory.Disk{{Name: "Disk.Bay.0", Serial: "BEHIND-RAID", Bytes: 960 << 30}}, NICs: []inventory.NIC{{Name: "NIC.1", MAC: mac(9)}},
			}
			_, _, err := s.PutFacts(t.Context(), id, source, told, time.Time{})
			ok(t, err)
			stands(t, s, id, inventory.DriftNone)
		}
		report(t, s, id, swapped)
		stands(t, s, id, inventory.DriftChanged)
		// A machine that only its BMC told of has nothing to freeze.
		off := observe(t, s, store.Observation{MACs: []inventory.MAC{mac(7)}})
		_, _, err := s.PutFacts(t.Context(), off.ID, inventory.SourceRedfish, original, time.Time{})
		ok(t, err)
		if _, err := s.Commission(t.Context(), off.ID, "run-2"); !errors.Is(err, store.ErrNeverLooked) {
			t.Errorf("Commission() of a machine that only its BMC told of = %v; want ErrNeverLooked", err)
		}
	})
}

func TestFactsOfAProgramWithoutTheKeyAreComparedLater(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s, id := frozen(t, cfg)
		ok(t, s.Close())
		keyless := must[*store.Store](t)(store.Open(t.Context(), cfg))
		report(t, keyless, id, swapped)
		if _, err := keyless.Drift(t.Context(), id); !errors.Is(err, store.ErrNoSnapshotKey) {
			t.Errorf("Drift() without the key = %v; want ErrNoSnapshotKey", err)
		}
		if _, err := keyless.AcceptDrift(t.Context(), id, "", "ops"); !errors.Is(err, store.ErrNoSnapshotKey) {
			t.Errorf("AcceptDrift() without the key = %v; want ErrNoSnapshotKey", err)
		}
		ok(t, keyless.Close())
		s = storetest.Open(t, cfg)
		s.UseSnapshotKey(snapshotKey)
		ok(t, s.ReviewDrift(t.Context(), site))
		stands(t, s, id, inventory.DriftChanged)
		counts := must[[]store.DriftCount](t)(s.CountDrift(t.Context()))
		if len(counts) != 1 || counts[0] != (store.DriftCount{Site: site, State: inventory.DriftChanged, Machines: 1}) {
			t.Errorf("CountDrift() = %+v; want one changed machine", counts)
		}
		must[inventory.Machine](t)(s.Declare(t.Context(), "another", "machine.bare", mac(77)))
		want := store.Counts{
			States: map[inventory.State]int{inventory.StateDeclared: 1, inventory.StateDiscovered: 1}, Drift: map[inventory.DriftState]int{inventory.DriftChanged: 1},
		}
		if got := must[store.Counts](t)(s.Count(t.Context())); !reflect.DeepEqual(got, want) {
			t.Errorf("Count() = %+v; want %+v, over both sites", got, want)
		}
	})
}

func TestLooksAreRemembered(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s, id := frozen(t, cfg)
		ctx := t.Context()
		put := func(source inventory.Source, at time.Time) time.Time {
			_, _, err := s.PutFacts(ctx, id, source, original, at)
			ok(t, err)
			return must[inventory.Machine](t)(s.Machine(ctx, id)).LookedAt
		}
		later := time.Now().Add(time.Hour).UTC().Truncate(time.Microsecond)
		if got := put(inventory.SourceAgent, later); !got.Equal(later) {
			t.Errorf("LookedAt after the same report = %s; want %s", got, later)
		}
		if got := put(inventory.SourceAgent, later.Add(-30*time.Minute)); !got.Equal(later) {
			t.Errorf("LookedAt after a late report = %s; want %s", got, later)
		}
		if got := put(inventory.SourceRedfish, later.Add(time.Hour)); !got.Equal(later) {
			t.Errorf("LookedAt after a report of Redfish = %s; want %s: it does not see all", got, later)
		}
		if looks := must[map[string]time.Time](t)(s.OldestLooks(ctx)); !looks[site].Equal(later) {
			t.Errorf("OldestLooks() = %v; want %s", looks, later)
		}
	})
}

func TestCommissionNeedsALook(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	s.UseSnapshotKey(snapshotKey)
	m := observe(t, s, seen("", uuidA, 1))
	if _, err := s.Commission(t.Context(), m.ID, ""); !errors.Is(err, store.ErrNeverLooked) {
		t.Errorf("Commission(never looked at) = %v; want ErrNeverLooked", err)
	}
	stands(t, s, m.ID, "")
}
