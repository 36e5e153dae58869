//go:build e2e

package scenario

import (
	"bufio"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/rack"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

const node = "machine.node"

// TestControllerAndMachineAreCutOff kills the controller at each stage of one
// installation, and in a second one the machine's power. What is cut off is
// continued by the next apply, and what is done is not done again.
func TestControllerAndMachineAreCutOff(t *testing.T) {
	l := newLab(t, "kill.hcl")
	l.fillRandom("random.raw", 1<<30)
	image := l.image("image.edge-os")
	raw := l.raw(image)
	total, largest := wire(image.Manifest)
	l.raise(l.site)

	ok := l.sub("controller killed during DHCP", func(l *lab) {
		l.interrupt(func(n line) bool { return strings.HasPrefix(n.Message, "waiting for the installer") }, func(p *os.Process) {
			l.eventually("the machine asks for an address", settleLimit, func() bool {
				return strings.Contains(l.must(commandLimit, "trace", node).stdout, "DISCOVER")
			})
			kill(p)
		}, l.site)
	})
	var before rack.MachineStatus
	ok = ok && l.sub("controller killed in mid-write", func(l *lab) {
		l.interrupt(func(n line) bool { return n.Phase == string(agent.PhaseWrite) && n.Bytes > n.Total/4 }, func(p *os.Process) {
			kill(p)
			before = l.machine(node)
		}, l.site)
	})
	ok = ok && l.sub("controller killed right after the write", func(l *lab) {
		l.interrupt(func(n line) bool { return n.Phase == "configure" || n.Phase == string(agent.PhaseSync) }, kill, l.site)
		if at := l.difference(l.disk(node, 0), raw, image.Manifest.RawBytes); at >= 0 {
			l.t.Errorf("the written disk differs from zstd -d of the image at byte %d; want every byte of its %d equal", at, image.Manifest.RawBytes)
		}
		if now := l.machine(node); power(now) != power(before) {
			l.t.Errorf("since the first kill the machine had %s; want still %s", power(now), power(before))
		}
	})
	ok = ok && l.sub("apply completes it", func(l *lab) {
		l.want(0, l.apply(l.site))
		now := l.machine(node)
		if now.PowerOns != before.PowerOns || now.Resets != before.Resets || now.GuestResets != before.GuestResets+1 {
			l.t.Errorf("the machine had %s and restarted itself %d times; want %s and one restart of its own more than %d",
				power(now), now.GuestResets, power(before), before.GuestResets)
		}
		boots := map[string]bool{}
		for _, e := range l.events(node) {
			if e.Kind == inventory.EventAgentSession {
				boots[e.Boot] = true
			}
		}
		if len(boots) != 1 {
			l.t.Errorf("the installer was booted as %v; want one boot", boots)
		}
		write := l.write(node)
		if write.Task.Attempt != 1 || !boots[write.Boot] {
			l.t.Errorf("the write ended as attempt %d in boot %s; want attempt 1 in one of %v", write.Task.Attempt, write.Boot, boots)
		}
		// Four chunks are in work at once.
		if limit := total + 4*largest; write.Write.FetchedBytes > limit {
			l.t.Errorf("%d bytes were fetched; want no more than the image's %d and four chunks in flight, %d", write.Write.FetchedBytes, total, limit)
		}
	})
	_ = ok && l.sub("machine's power cut in mid-write", func(l *lab) {
		l.interrupt(func(n line) bool { return n.Phase == string(agent.PhaseWrite) && n.Bytes > n.Total/2 }, func(p *os.Process) {
			l.power(node, rack.PowerOff)
			// The first signal asks, the second orders.
			for _, s := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
				if err := p.Signal(s); err != nil {
					l.t.Errorf("signalling the controller = %v", err)
				}
			}
		}, "--replace", node, l.site)
		l.want(0, l.apply(l.site))
		write := l.write(node)
		if write.Write.ProvedBytes == 0 || write.Write.FetchedBytes >= total || write.Write.FetchedBytes == 0 {
			l.t.Errorf("after the cut %d bytes were proved and %d fetched; want some proved, and fewer fetched than the image's %d",
				write.Write.ProvedBytes, write.Write.FetchedBytes, total)
		}
	})
}

// fillRandom makes a file of n random bytes, the same at every run.
func (l *lab) fillRandom(name string, n int64) {
	l.t.Helper()
	f, err := os.Create(filepath.Join(l.dir, name))
	if err != nil {
		l.t.Fatal(err)
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if _, err := io.CopyN(w, rand.NewChaCha8([32]byte{}), n); err != nil {
		l.t.Fatal(err)
	}
	if err := w.Flush(); err != nil {
		l.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		l.t.Fatal(err)
	}
}
