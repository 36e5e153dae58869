//go:build e2e

package scenario

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/rack"
)

// TestNetworkFirstMachinesDoNotLoop has machines that boot from the network
// whenever they start: one that nobody declared is recorded once and sent to its
// disk, one that is of a class is installed by serve, and one without BMC is
// installed once, also when it is started again.
func TestNetworkFirstMachinesDoNotLoop(t *testing.T) {
	l := newLab(t, "nobmc.hcl")
	l.image("image.edge-os")
	l.raise(l.site, "--var", "stranger=true")
	stranger := inventory.MAC{0x52, 0x54, 0x00, 0xe2, 0x04, 0x02}

	ok := l.sub("unknown machine is discovered", func(l *lab) {
		stop := l.serve()
		l.power("machine.stranger[0]", rack.PowerOn)
		l.eventually("the unknown machine has been recorded, started again, and sent to its disk", applyLimit, func() bool {
			events := l.eventsOf(stranger)
			facts := last(events, inventory.EventAgentFacts)
			script := last(events, inventory.EventHTTPEnd)
			return facts >= 0 && script > facts
		})
		stop()
		if n := count(l.eventsOf(stranger), inventory.EventAgentSession); n != 1 {
			l.t.Errorf("the unknown machine was in the installer %d times; want once", n)
		}
		if r := l.must(commandLimit, "inventory", "query", "facts.memory.bytes < MiB(800)"); !strings.Contains(r.stdout, stranger.String()) {
			l.t.Errorf("inventory query = %q; want %s", r.stdout, stranger)
		}
		l.power("machine.stranger[0]", rack.PowerOff)
	})
	ok = ok && l.sub("unknown machine of a class is installed by serve", func(l *lab) {
		const kiosk = "machine.kiosk"
		stop := l.serve()
		l.power(kiosk, rack.PowerOn)
		var reactions []inventory.Reaction
		l.eventually("serve has ended what the class starts", applyLimit, func() bool {
			s := l.open()
			defer s.Close()
			var err error
			if reactions, err = s.Reactions(l.t.Context(), store.ReactionFilter{}); err != nil {
				l.t.Fatalf("reading what classes started = %v", err)
			}
			return len(reactions) == 1 && reactions[0].State.Final()
		})
		stop()
		if r := reactions[0]; r.State != inventory.ReactionDone || r.Address != kiosk || r.Attempts != 1 {
			l.t.Errorf("reaction = %+v; want %s done at the first attempt", r, kiosk)
		}
		if r := l.ssh("172.22.0.12:22", "hostname; cat /etc/motd"); r.stdout != "kiosk\nThis is the kiosk.\n" {
			l.t.Errorf("the kiosk says %q; want its name and its message", r.stdout)
		}
		if n := count(l.events(kiosk), inventory.EventAgentSession); n != 1 {
			l.t.Errorf("the machine was in the installer %d times; want once, from discovery to installation", n)
		}
	})
	ok = ok && l.sub("installed when somebody switches it on", func(l *lab) {
		l.interrupt(func(n line) bool { return strings.HasPrefix(n.Message, "switch on node") }, func(*os.Process) {
			l.must(commandLimit, "rack", "power", "--rack-dir", l.rackDir(), l.site, node, "on")
		}, l.site)
		if r := l.want(0, l.apply(l.site)); !strings.Contains(r.stdout, "No changes.") {
			l.t.Errorf("apply says %q; want No changes.", r.stdout)
		}
	})
	_ = ok && l.sub("started again", func(l *lab) {
		stop := l.serve()
		l.power(node, rack.PowerCycle)
		l.eventually("the machine answers over SSH again", settleLimit, func() bool {
			return strings.Contains(l.ssh("172.22.0.11:22", "cat /proc/uptime; hostname").stdout, "node")
		})
		stop()
		if n := count(l.events(node), inventory.EventAgentSession); n != 1 {
			l.t.Errorf("the machine was in the installer %d times; want once", n)
		}
		if m := l.machine(node); m.PowerOns != 2 || m.GuestResets != 1 {
			l.t.Errorf("the machine had %s, %d by itself; want two power-ons and one restart by itself", power(m), m.GuestResets)
		}
	})
}

// serve runs serve until the returned function is called, which demands that
// it ends well.
func (l *lab) serve() (stop func()) {
	l.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	argv := l.inside("serve", l.site)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 10*time.Second
	if err := cmd.Start(); err != nil {
		l.t.Fatalf("serve = %v", err)
	}
	ended := false
	end := func() {
		if ended {
			return
		}
		ended = true
		bound := time.AfterFunc(commandLimit, cancel)
		defer bound.Stop()
		if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
			l.t.Errorf("stopping serve = %v", err)
		}
		if err := cmd.Wait(); err != nil {
			l.t.Errorf("serve ended with %v; want none", err)
		}
		l.t.Logf("serve said:\n%s", out.String())
	}
	l.t.Cleanup(func() {
		end()
		cancel()
	})
	return end
}

// eventsOf are the events of whatever machine has the MAC; none before it is
// recorded.
func (l *lab) eventsOf(mac inventory.MAC) []inventory.Event {
	l.t.Helper()
	s := l.open()
	defer s.Close()
	m, err := s.MachineByMAC(l.t.Context(), mac)
	if err != nil {
		return nil
	}
	events, err := s.Events(l.t.Context(), store.EventFilter{Machine: m.ID})
	if err != nil {
		l.t.Fatalf("reading the events of %s = %v", mac, err)
	}
	return events
}

// last is the index of the newest event of a kind, -1 when there is none.
func last(events []inventory.Event, kind inventory.EventKind) int {
	for i := len(events) - 1; i >= 0; i-- {
		if events[i].Kind == kind {
			return i
		}
	}
	return -1
}

func count(events []inventory.Event, kind inventory.EventKind) int {
	n := 0
	for _, e := range events {
		if e.Kind == kind {
			n++
		}
	}
	return n
}
