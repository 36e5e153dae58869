package main

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory/store"
)

// TestHardwareIsFrozenByTheFirstApplyAndComparedAfterIt has an agent in place of
// edge-agent, which prints the facts that the test writes.
func TestHardwareIsFrozenByTheFirstApplyAndComparedAfterIt(t *testing.T) {
	p := newPlant(t)
	root := filepath.Dir(p.dir)
	cat, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(root, "edge-agent") // called with "facts", it prints the file of that name
	if err := os.WriteFile(agent, cat, 0o700); err != nil {
		t.Fatal(err)
	}
	p.server.Rewrite = func(line string) string {
		line = strings.ReplaceAll(line, " facts -listen 35s", " facts") // cat takes no such flag
		return "cd " + root + "; " + strings.ReplaceAll(line, "/var/lib/edge-provision/agent", root+"/kept/agent")
	}
	report := func(serial string) {
		t.Helper()
		text := `{"schema_version":1,"disks":[{"name":"sda","serial":"` + serial + `","bytes":100,"signatures":[]}]}`
		if err := os.WriteFile(filepath.Join(root, "facts"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.declare(`step "ssh" "hello" {
  hosts   = machine.m
  command = "true"
}`)
	plan := func(code int, want ...string) {
		t.Helper()
		p.wants(p.must(code, "", "plan", "-detailed-exitcode", "-agent", agent, p.site()), want...)
	}

	report("OLD")
	p.must(exitOK, "", "apply", "--auto-approve", "--agent", agent, p.site())
	plan(exitOK, "Hardware of 1 machine: looked at now, no change.", "No changes.")
	run := p.runs()[0].ID.String()
	p.catalog(func(s *store.Store) {
		m, err := s.MachineByAddress(t.Context(), "plant", "machine.m")
		if err != nil {
			t.Fatal(err)
		}
		s.UseSnapshotKey(make(ed25519.PrivateKey, ed25519.PrivateKeySize)) // who took it needs no proof here
		all, err := s.Snapshots(t.Context(), m.ID)
		if err != nil || len(all) != 1 || all[0].Run != run {
			t.Errorf("Snapshots() = %+v, %v; want one of run %s", all, err, run)
		}
	})

	report("NEW")
	p.wants(p.must(exitOK, "", "plan", "-detailed-exitcode", "-refresh=false", "-agent", agent, p.site()), "Hardware of machine.m: no change known; not looked at since")
	plan(exitDifferent, "machine.m is not as it was frozen", `disk "NEW" is new`, `disk "OLD" is gone`, "inventory accept 'machine.m'")
	p.must(exitOK, "", "inventory", "accept", "--auto-approve", "machine.m")
	plan(exitOK, "looked at now, no change")

	report("OLD")
	plan(exitDifferent, `disk "OLD" is new`)
	report("NEW") // put back
	plan(exitOK, "looked at now, no change")
	p.wants(p.must(exitOK, "", "trace", "machine.m"), "hardware repaired")

	// The daemon looks by itself.
	s := p.serve(nil, "-refresh=100ms", "-agent", agent)
	report("THIRD")
	p.await("the daemon to find the third disk", func() bool {
		return strings.Contains(p.must(exitOK, "", "inventory", "query", `machine.drift == "changed"`, "-o", "json"), "machine.m")
	})
	plan(exitDifferent, `disk "THIRD" is new`) // through the daemon
	p.must(exitOK, "", "inventory", "accept", "--auto-approve", "machine.m")
	plan(exitOK, "looked at now, no change")
	s.signal(os.Interrupt)
	s.ends(exitOK)

	// What was sent there for the looks goes with the site, and not with a part of it.
	kept := filepath.Join(root, "kept")
	p.must(exitOK, "yes\n", "destroy", "-target=workflow.w", p.site())
	if _, err := os.Stat(filepath.Join(kept, "agent")); err != nil {
		t.Errorf("the agent after destroy of a workflow: %v; want it kept", err)
	}
	goes := "machine.m: edge-agent, which is kept in /var/lib/edge-provision/agent"
	p.wants(p.must(exitError, "no\n", "destroy", p.site()), goes, "Not approved; nothing was removed")
	p.wants(p.must(exitOK, "plant\n", "destroy", p.site()), goes, "Done.")
	if _, err := os.Stat(kept); !os.IsNotExist(err) {
		t.Errorf("the agent after destroy: %v; want it gone", err)
	}
	p.wants(p.must(exitOK, "", "destroy", p.site()), "Nothing to destroy")
}
