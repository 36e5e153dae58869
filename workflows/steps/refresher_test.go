package steps_test

import (
	"context"
	"crypto/ed25519"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

var snapshotKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// fakeAgent is a program that looks like edge-agent from outside and prints what a
// file says: hardware that a test can change.
func fakeAgent(t *testing.T) (path func() (string, error), report func(inventory.Facts)) {
	t.Helper()
	dir := t.TempDir()
	script, facts := filepath.Join(dir, "edge-agent"), filepath.Join(dir, "facts.json")
	cat, err := os.ReadFile("/bin/cat")
	if err != nil {
		t.Fatal(err)
	}
	// cat, called as "edge-agent-… facts", reads the file of that name.
	if err := os.WriteFile(script, cat, 0o700); err != nil {
		t.Fatal(err)
	}
	return func() (string, error) { return script, nil }, func(f inventory.Facts) {
		t.Helper()
		content, _, err := f.Canonical()
		if err == nil {
			err = os.WriteFile(facts, content, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// watched is an adopted machine whose facts a test decides, and a Refresher that
// looks at it.
type watched struct {
	*adoption
	refresher *steps.Refresher
	report    func(inventory.Facts)
	mu        sync.Mutex
	told      []string
	listened  []bool // whether each look was told to listen for half a minute
}

func watch(t *testing.T) *watched {
	t.Helper()
	agent, report := fakeAgent(t)
	path, _ := agent()
	signer := remotetest.NewSigner(t)
	w := &watched{report: report}
	server := remotetest.Start(t, signer.PublicKey(), &remotetest.Server{Rewrite: func(line string) string {
		short := strings.ReplaceAll(line, " facts -listen 35s", " facts") // cat takes no such flag
		if strings.Contains(short, ` facts`) {
			w.mu.Lock()
			w.listened = append(w.listened, short != line)
			w.mu.Unlock()
		}
		return "cd " + filepath.Dir(path) + " && ln -sf facts.json facts; " + short
	}})
	w.adoption = adopt(t, block(t, server.Address, server.HostKey), signer)
	w.catalog.UseSnapshotKey(snapshotKey)
	w.observer.Adopter.Agent = agent
	w.refresher = &steps.Refresher{
		Site: func() *site.Site { return w.site }, Catalog: w.catalog,
		Hosts: func() steps.Hosts { return w.observer.Hosts }, Adopter: func() *steps.Adopter { return w.observer.Adopter },
		Tell: func(p steps.Progress) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.told = append(w.told, p.Address+" "+p.Message)
		},
	}
	return w
}

func (w *watched) once() {
	w.t.Helper()
	if err := w.refresher.Once(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *watched) row() inventory.Machine {
	w.t.Helper()
	m, err := w.catalog.MachineByAddress(w.t.Context(), "shop", "machine.old")
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func withDisk(serial string) inventory.Facts {
	return inventory.Facts{Disks: []inventory.Disk{{Name: "sda", Serial: serial, Bytes: 100, Signatures: []string{}}}}
}

func TestRefresherFindsASwappedDisk(t *testing.T) {
	w := watch(t)
	w.report(withDisk("OLD"))
	w.once()
	if frozen, err := w.catalog.Commission(t.Context(), w.row().ID, "run"); err != nil || !frozen {
		t.Fatalf("Commission() = %t, %v; want the first snapshot", frozen, err)
	}
	w.report(withDisk("NEW"))
	before := w.row().LookedAt
	w.once()
	w.once()
	if m := w.row(); m.Drift != inventory.DriftChanged || !m.LookedAt.After(before) {
		t.Errorf("machine = %q, looked at %s; want it changed, and looked at after %s", m.Drift, m.LookedAt, before)
	}
	events, err := w.catalog.Events(t.Context(), store.EventFilter{Kinds: []inventory.EventKind{inventory.EventMachineDrift}})
	if err != nil || len(events) != 1 || !strings.Contains(events[0].Message, `disk "NEW" is new`) || !strings.Contains(events[0].Message, `disk "OLD" is gone`) {
		t.Errorf("events = %+v, %v; want one that names both disks", events, err)
	}
	v, _, _ := w.see()
	if v.Hardware == nil || v.Hardware.State != inventory.DriftChanged || !v.Hardware.Looked || len(v.Hardware.Changes) != 2 {
		t.Errorf("Hardware = %+v; want what plan shows", v.Hardware)
	}
	if len(w.told) != 0 {
		t.Errorf("told: %q; want nothing of a machine that can be looked at", w.told)
	}
}

// TestRefresherFindsASwappedBoard: the host key says which machine it is. At the first
// look nothing else does, and there what another machine has is a conflict.
func TestRefresherFindsASwappedBoard(t *testing.T) {
	board := func(serial, uuid string) inventory.Facts {
		return inventory.Facts{System: &inventory.System{Serial: serial, UUID: uuid}}
	}
	w := watch(t)
	other, _, err := w.catalog.Observe(t.Context(), "shop", store.Observation{Serial: "OTHER-1"})
	if err != nil {
		t.Fatal(err)
	}
	w.report(board("OTHER-1", "4c4c4544-0058-4b10-8032-b7c04f513931"))
	if v, _, _ := w.see(); v.Looked || !strings.Contains(v.FactsNote, other.ID.String()) {
		t.Errorf("view = %+v; want a note that names machine %s", v, other.ID)
	}
	w.report(board("BOARD-1", "4c4c4544-0058-4b10-8032-b7c04f513932"))
	w.once()
	if frozen, err := w.catalog.Commission(t.Context(), w.row().ID, "run"); err != nil || !frozen {
		t.Fatalf("Commission() = %t, %v; want the first snapshot", frozen, err)
	}
	w.report(board("BOARD-2", "4c4c4544-0058-4b10-8032-b7c04f513933"))
	w.once()
	if m := w.row(); m.Drift != inventory.DriftChanged || m.Serial != "BOARD-2" {
		t.Errorf("machine = %q with serial %s; want it changed, with that of the new board", m.Drift, m.Serial)
	}
	if v, _, _ := w.see(); !v.Looked || v.Hardware == nil || len(v.Hardware.Changes) != 2 {
		t.Errorf("view = %+v; want a look that shows serial and UUID", v)
	}
	if len(w.told) != 0 {
		t.Errorf("told: %q; want nothing of a machine that can be looked at", w.told)
	}
}

func TestRefresherTellsOfASilentMachineOnce(t *testing.T) {
	w := watch(t)
	w.report(withDisk("OLD"))
	w.once()
	looked := w.row().LookedAt
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	port := w.site.Machines[0].SSH.Port
	w.site.Machines[0].SSH.Port = nobody.Addr().(*net.TCPAddr).Port
	w.once()
	w.once()
	if len(w.told) != 1 || !strings.Contains(w.told[0], "machine.old its hardware cannot be looked at") {
		t.Errorf("told: %q; want the silent machine, once", w.told)
	}
	if m := w.row(); !m.LookedAt.Equal(looked) {
		t.Errorf("LookedAt = %s; want %s: nobody looked since", m.LookedAt, looked)
	}
	if _, err := w.catalog.Commission(t.Context(), w.row().ID, ""); err != nil {
		t.Fatal(err)
	}
	if v, _, _ := w.see(); v.Host != workflows.Unreachable || v.Hardware == nil || v.Hardware.Looked || v.Hardware.Note == "" || !v.Hardware.LookedAt.Equal(looked) {
		t.Errorf("Hardware = %+v; want what is known, how old it is, and why", v.Hardware)
	}
	w.site.Machines[0].SSH.Port = port
	w.once()
	w.site.Machines[0].SSH.Port = nobody.Addr().(*net.TCPAddr).Port
	w.once()
	if len(w.told) != 2 {
		t.Errorf("told: %q; want it told again after it could be looked at", w.told)
	}
}

func TestWithoutRefreshNothingIsRunOnTheMachine(t *testing.T) {
	w := watch(t)
	w.report(withDisk("OLD"))
	w.once()
	if _, err := w.catalog.Commission(t.Context(), w.row().ID, ""); err != nil {
		t.Fatal(err)
	}
	w.report(withDisk("NEW"))
	w.observer.Adopter = nil
	v, action, _ := w.see()
	if v.Host != workflows.Present || action.Kind != workflows.KindNone || v.Hardware == nil || v.Hardware.State != inventory.DriftNone || v.Hardware.Looked || v.Hardware.LookedAt.IsZero() {
		t.Errorf("view, hardware = %+v, %+v; want it present, with the state of the last look", v, v.Hardware)
	}
}

func TestRefresherRunsUntilItIsStopped(t *testing.T) {
	w := watch(t)
	w.report(withDisk("OLD"))
	w.refresher.Every = 10 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.refresher.Run(ctx)
	}()
	first := time.Time{}
	until(t, "it has looked twice", func() bool {
		m, err := w.catalog.MachineByAddress(t.Context(), "shop", "machine.old")
		if err != nil || m.LookedAt.IsZero() {
			return false
		}
		if first.IsZero() {
			first = m.LookedAt
		}
		return m.LookedAt.After(first)
	})
	stop()
	<-done
}

func TestInstalledMachineIsFrozenWhenItHasAnswered(t *testing.T) {
	s := newShop(t, true)
	s.catalog.UseSnapshotKey(snapshotKey)
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	all, err := s.catalog.Snapshots(t.Context(), s.row.ID)
	if err != nil || len(all) != 1 || all[0].Run == "" || len(all[0].Facts.Disks) == 0 {
		t.Fatalf("Snapshots() = %+v, %v; want one of the run", all, err)
	}
	r, err := s.catalog.Drift(t.Context(), s.row.ID)
	if err != nil || r.State != inventory.DriftNone {
		t.Errorf("Drift() = %+v, %v; want none", r, err)
	}
}

// until asks again and again, for testBound at most, until a condition holds.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(testBound)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not in %s: %s", testBound, what)
		}
	}
}

func TestOnlyTheRefresherListensForSwitches(t *testing.T) {
	w := watch(t)
	cable := func(port string) inventory.Facts {
		mac := inventory.MAC{2, 0, 0, 0, 0, 1}
		f := inventory.Facts{NICs: []inventory.NIC{{Name: "eno1", MAC: mac}}}
		if port != "" {
			f.Neighbors = []inventory.Neighbor{{MAC: mac, Chassis: "00:1b:21:00:00:0a", Port: port, System: "sw-1"}}
		}
		return f
	}
	w.report(cable("7"))
	w.once()
	if frozen, err := w.catalog.Commission(t.Context(), w.row().ID, "run"); err != nil || !frozen {
		t.Fatalf("Commission() = %t, %v; want the first snapshot", frozen, err)
	}
	w.report(cable(""))
	if v, _, _ := w.see(); v.Hardware == nil || v.Hardware.State != inventory.DriftNone {
		t.Errorf("Hardware = %+v; want no drift when nothing is heard", v.Hardware)
	}
	w.report(cable("8"))
	w.once()
	w.report(cable(""))
	v, _, _ := w.see()
	if v.Hardware == nil || v.Hardware.State != inventory.DriftChanged || len(v.Hardware.Changes) != 1 || v.Hardware.Changes[0].Path != `neighbors["02:00:00:00:00:01"]` {
		t.Errorf("Hardware = %+v; want the other switch port, though plan heard nothing", v.Hardware)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	// The program is sent at the first look, which so has two commands, and nobody
	// waits until it was heard what a machine is connected to.
	if want := []bool{false, false, true, false, false, true, false}; !slices.Equal(w.listened, want) {
		t.Errorf("told to listen: %t; want %t", w.listened, want)
	}
}
