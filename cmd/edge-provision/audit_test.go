package main

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/journal"
)

func TestNothingIsChangedThatCannotBeAudited(t *testing.T) {
	p := newPlant(t)
	t.Setenv("XDG_DATA_HOME", filepath.Dir(p.data))
	var m inventory.Machine
	snapshots := func() (n int) {
		p.catalog(func(s *store.Store) {
			if err := (&app{}).unlockSnapshots(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			all, err := s.Snapshots(t.Context(), m.ID)
			if err != nil {
				t.Fatal(err)
			}
			n = len(all)
		})
		return n
	}
	p.catalog(func(s *store.Store) {
		var err error
		m, _, err = s.Observe(t.Context(), "plant", store.Observation{
			MACs: []inventory.MAC{{0x52, 0x54, 0, 1, 2, 3}}, Source: inventory.SourceAgent, Facts: &inventory.Facts{Memory: &inventory.Memory{Bytes: 1 << 30}},
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	var run uuid.UUID
	p.catalog(func(s *store.Store) {
		_, err := s.Lock(t.Context(), "plant", siteLock, store.Owner{Host: "elsewhere", Purpose: "apply"})
		if err == nil {
			var begun journal.Run
			begun, err = journal.New(s, time.Now).Begin(t.Context(), journal.Run{Site: "plant"})
			run = begun.ID
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	db, err := sql.Open("sqlite", filepath.Join(p.data, "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	do := func(statement string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	do("CREATE TRIGGER deaf BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no audit'); END")
	cli(t, exitError, "inventory", "accept", "--auto-approve", m.ID.String())
	if n := snapshots(); n != 0 {
		t.Errorf("%d snapshots are accepted, and nobody knows by whom", n)
	}
	spare := filepath.Join(t.TempDir(), "spare.csv")
	if err := os.WriteFile(spare, []byte("name,serial\nspare,SPARE-0001\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range [][]string{
		{"inventory", "tag", m.ID.String(), "location=roof"},
		{"inventory", "set", m.ID.String(), "chassis.asset_tag=A-1"},
		{"inventory", "forget", m.ID.String()},
		{"inventory", "import", spare},
		{"token", "create", "laptop"},
		{"runs", "cancel", "plant"},
		{"runs", "unlock", "plant"},
	} {
		if _, errs := cli(t, exitError, command...); !strings.Contains(errs, "no audit") {
			t.Errorf("%q says %q; want that it cannot be audited", command, errs)
		}
	}
	p.catalog(func(s *store.Store) {
		machines, err := s.Machines(t.Context(), store.MachineFilter{})
		if err != nil || len(machines) != 1 || len(machines[0].Tags) != 0 {
			t.Fatalf("machines = %+v, %v; want the one, with nothing written on it", machines, err)
		}
		facts, err := s.Facts(t.Context(), m.ID)
		if err != nil || len(facts) != 1 {
			t.Errorf("facts = %+v, %v; want none of a person", facts, err)
		}
		if tokens, err := s.Tokens(t.Context()); err != nil || len(tokens) != 0 {
			t.Errorf("tokens = %+v, %v; want none", tokens, err)
		}
		if asked, err := journal.New(s, time.Now).CancelRequested(t.Context(), run); err != nil || asked {
			t.Errorf("run cancelled = %v, %v; want it to go on", asked, err)
		}
		if locks, err := s.Locks(t.Context(), "plant"); err != nil || len(locks) != 1 {
			t.Errorf("locks = %+v, %v; want the one", locks, err)
		}
	})
	do("DROP TRIGGER deaf")
	cli(t, exitOK, "inventory", "accept", "--auto-approve", m.ID.String())
	cli(t, exitOK, "inventory", "accept", "--auto-approve", m.ID.String()) // nothing is left to accept
	if n := snapshots(); n != 1 {
		t.Errorf("%d snapshots; want one", n)
	}
	cli(t, exitOK, "runs", "cancel", run.String())
	cli(t, exitOK, "runs", "unlock", "plant")
	cli(t, exitError, "runs", "unlock", "plant") // nobody holds it
	p.catalog(func(s *store.Store) {
		records, err := s.AuditPage(t.Context(), "", 0, 10)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range slices.Backward(records) {
			if r.Actor != "command-line" || r.Name != whoAmI() {
				t.Errorf("record = %+v; want who did it", r)
			}
			got = append(got, fmt.Sprint(r.Action, " ", r.Target, " ", r.Status))
		}
		want := []string{
			fmt.Sprintf("acceptDrift %s 200", m.ID), fmt.Sprintf("acceptDrift %s 409", m.ID), // the second had nothing to do
			fmt.Sprintf("cancelRun %s 202", run), "unlockSite plant 204", "unlockSite plant 409",
		}
		if !slices.Equal(got, want) {
			t.Errorf("audit = %q; want %q", got, want)
		}
	})
}
