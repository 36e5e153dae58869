package main

import (
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
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
	})
	do("DROP TRIGGER deaf")
	cli(t, exitOK, "inventory", "accept", "--auto-approve", m.ID.String())
	cli(t, exitOK, "inventory", "accept", "--auto-approve", m.ID.String()) // nothing is left to accept
	if n := snapshots(); n != 1 {
		t.Errorf("%d snapshots; want one", n)
	}
	p.catalog(func(s *store.Store) {
		records, err := s.AuditPage(t.Context(), "", 0, 10)
		if err != nil || len(records) != 2 || records[0].Status != 409 || records[1].Status != 200 || records[1].Target != m.ID.String() {
			t.Errorf("audit = %+v, %v; want one that was done, and one that had nothing to do", records, err)
		}
	})
}
