package steps_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// guest is a shop whose machine is in the installer, and no run wants it.
type guest struct {
	*shop
	discovery *steps.Discovery
	now       time.Time
}

func newGuest(t *testing.T) *guest {
	g := &guest{shop: newShop(t, true), now: time.Now()}
	g.wanted.Set(g.row.ID, true)
	if err := g.computer.SetBoot(g.ctx(), sim.Override{Device: sim.PXE, Once: true}); err != nil {
		t.Fatal(err)
	}
	if err := g.computer.Do(g.ctx(), sim.On); err != nil {
		t.Fatal(err)
	}
	if _, err := g.dispatch.WaitFacts(g.ctx(), g.row.ID); err != nil {
		t.Fatal(err)
	}
	g.wanted.Set(g.row.ID, false)
	g.discovery = &steps.Discovery{
		Site: func() *site.Site { return g.site }, Catalog: g.catalog, Dispatch: g.dispatch, Wanted: g.wanted, Fence: 7,
		Tell: g.said.tell, Now: func() time.Time { return g.now },
	}
	return g
}

// reacted keeps a reaction to the machine in a state.
func (g *guest) reacted(state inventory.ReactionState, reason string) {
	g.t.Helper()
	_, err := g.catalog.QueueReaction(g.t.Context(), inventory.Reaction{Site: "store", Machine: g.row.ID, Class: "till", Digest: uuid.NewString(), State: inventory.ReactionQueued})
	rows, listErr := g.catalog.Reactions(g.t.Context(), store.ReactionFilter{Machine: g.row.ID})
	if err = errors.Join(err, listErr); err == nil && state != inventory.ReactionQueued {
		_, err = g.catalog.FinishReaction(g.t.Context(), rows[len(rows)-1].ID, state, reason)
	}
	if err != nil {
		g.t.Fatal(err)
	}
}

// pass lets time go by and looks.
func (g *guest) pass(after time.Duration) {
	g.t.Helper()
	g.now = g.now.Add(after)
	if err := g.discovery.Pass(g.ctx()); err != nil {
		g.t.Fatal(err)
	}
}

// in reports whether the machine's agent is there.
func (g *guest) in() bool {
	_, in := g.dispatch.Session(g.t.Context(), g.row.ID)
	return in
}

func TestARefusedMachineGoesBackToItsDiskAfterAWhile(t *testing.T) {
	g := newGuest(t)
	g.reacted(inventory.ReactionRefused, "its disk carries ntfs")
	g.pass(0)
	at := g.now.Add(steps.DefaultPatience).UTC().Format("15:04")
	if text := g.said.text(); !strings.Contains(text, "its disk carries ntfs") || !strings.Contains(text, at) {
		t.Errorf("said:\n%s\nwant what it waits for, and until %s", text, at)
	}
	g.pass(steps.DefaultPatience - time.Second)
	if !g.in() {
		t.Fatal("it was let go before its time")
	}
	g.pass(2 * time.Second)
	if g.in() {
		t.Fatal("it is still in the installer")
	}
	if text := g.said.text(); !strings.Contains(text, "let go: nobody wants it") {
		t.Errorf("said:\n%s\nwant that it was let go", text)
	}
	if len(g.kinds()) != 0 || !slices.Equal(g.computer.Actions(), []sim.Action{sim.On}) {
		t.Errorf("tasks %q, power %q; want neither its disk nor its power touched", g.kinds(), g.computer.Actions())
	}
	g.pass(time.Hour) // nothing is left to do
}

// A run that comes to want the machine finds it as it was left, and what one did since
// the machines were listed stays.
func TestWhatARunHasSetIsNotOverwrittenWhenAMachineIsLetGo(t *testing.T) {
	g := newGuest(t)
	g.reacted(inventory.ReactionRefused, "its disk carries ntfs")
	for _, state := range []inventory.State{inventory.StateInspecting, inventory.StateHeld} {
		if err := g.catalog.SetState(g.ctx(), g.row.ID, state); err != nil {
			t.Fatal(err)
		}
	}
	g.pass(0)
	// It is asked for after the machines were listed.
	g.discovery.Busy = func() bool {
		err := errors.Join(g.catalog.SetState(g.ctx(), g.row.ID, inventory.StateInstalled), g.catalog.SetImage(g.ctx(), g.row.ID, imageDigest))
		if err != nil {
			t.Error(err)
		}
		return false
	}
	told := false
	g.discovery.Tell = func(p steps.Progress) {
		if p.Phase == "let go" {
			told = true
			if _, free := g.wanted.Leave(g.row.ID); free {
				t.Error("a run may go on before the machine's state was recorded")
			}
		}
	}
	g.pass(2 * steps.DefaultPatience)
	if g.in() || !told || g.state() != inventory.StateInstalled {
		t.Errorf("in the installer %t, told %t, state %s; want it let go, and installed as it was since", g.in(), told, g.state())
	}
}

func TestWhoMayBeWantedStaysInTheInstaller(t *testing.T) {
	tests := map[string]func(*guest){
		"no class had a part in it": func(*guest) {},
		"one that waits for its turn": func(g *guest) {
			g.reacted(inventory.ReactionRefused, "an older rule")
			g.reacted(inventory.ReactionQueued, "")
		},
		"a run wants it": func(g *guest) {
			g.reacted(inventory.ReactionRefused, "its disk carries ntfs")
			g.wanted.Set(g.row.ID, true)
		},
		"a run is under way that may come to want it": func(g *guest) {
			g.reacted(inventory.ReactionRefused, "its disk carries ntfs")
			g.discovery.Busy = func() bool { return true }
		},
		"its disk is written in part": func(g *guest) {
			g.reacted(inventory.ReactionFailed, "the line went dead")
			if err := g.catalog.Settings().Put(g.t.Context(), "installation/store/machine.a", []byte(`{"phase":"begun"}`)); err != nil {
				g.t.Fatal(err)
			}
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			g := newGuest(t)
			prepare(g)
			g.pass(0)
			g.pass(24 * time.Hour)
			g.pass(24 * time.Hour)
			if !g.in() {
				t.Errorf("it was sent away:\n%s", g.said.text())
			}
		})
	}
}

// A person brought it there after its class had refused it.
func TestABootAfterTheRefusalWaitsForWhoBroughtIt(t *testing.T) {
	g := newGuest(t)
	g.reacted(inventory.ReactionRefused, "its disk carries ntfs")
	boot, err := uuid.NewV7()
	if err != nil {
		t.Fatal(err)
	}
	g.computer.halt()
	loop := g.computer.agent(boot.String())
	ctx, end := context.WithCancel(g.ctx())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = loop.Run(ctx)
	}()
	defer func() {
		end()
		<-ended
	}()
	if _, err := g.dispatch.WaitNewSession(g.ctx(), g.row.ID, "boot-1"); err != nil {
		t.Fatal(err)
	}
	g.pass(0)
	g.pass(24 * time.Hour)
	if !g.in() {
		t.Errorf("it was sent away:\n%s", g.said.text())
	}
}

func TestARunWaitsForAMachineThatIsToldToLeave(t *testing.T) {
	w, id := steps.NewWanted(), uuid.New()
	left, ok := w.Leave(id)
	if _, twice := w.Leave(id); !ok || twice {
		t.Fatalf("Leave() = %v, and again %v; want it told once", ok, twice)
	}
	joined := make(chan error, 1)
	go func() { joined <- w.Join(t.Context(), id) }()
	for !w.Has(id) {
		select {
		case err := <-joined:
			t.Fatalf("Join() = %v while the machine is told to leave", err)
		default:
		}
	}
	left()
	if err := <-joined; err != nil {
		t.Errorf("Join() = %v; want it to go on", err)
	}
	if _, ok := w.Leave(id); ok {
		t.Error("a machine that a run wants may be told to leave")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w.Set(id, false)
	left, _ = w.Leave(id)
	defer left()
	if err := w.Join(ctx, id); err == nil {
		t.Error("Join() = nil with its context ended and the machine about to leave")
	}
}
