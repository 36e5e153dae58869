//go:build e2e

package host

import (
	"context"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// TestASinkCountsWhatLeaves is of a lab's network alone: no host runs.
func TestASinkCountsWhatLeaves(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	l := &Lab{
		Namespace: "edge-lab-sinktest", Network: netip.MustParsePrefix("172.24.0.0/24"), Controller: netip.MustParseAddr("172.24.0.1"),
		config: Config{Name: "sinktest", Dir: t.TempDir()}, release: func() error { return nil },
	}
	if err := l.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		for _, name := range []string{l.Namespace, l.sinkNamespace()} {
			if _, err := os.Lstat(namespacePath(name)); err == nil {
				t.Errorf("namespace %s is left", name)
			}
		}
	})
	if err := l.addNetwork(t.Context()); err != nil {
		t.Fatal(err)
	}
	sink, err := l.AddSink(t.Context(), netip.MustParsePrefix("10.43.0.0/16"))
	if err != nil {
		t.Fatal(err)
	}
	take := func() Traffic {
		t.Helper()
		got, err := sink.Take()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	run := func(args ...string) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		// Nobody answers, so that a question fails.
		_ = l.Command(ctx, args[0], args[1:]...).Run()
	}
	if got := take(); got.Packets != 0 || got.Strays != 0 {
		t.Errorf("before anything was sent the sink has counted %+v; want nothing", got)
	}
	run("getent", "ahostsv4", "quay.io")
	run("bash", "-c", "for i in 1 2 3; do echo x >/dev/udp/198.51.100.7/4711; done; echo x >/dev/udp/10.43.0.1/443")
	got := take()
	if got.Queries == 0 || got.Packets != got.Queries+3 || got.Strays != 1 || !strings.Contains(strings.Join(got.Lines, "\n"), "asks for quay.io. ") {
		t.Errorf("the sink has counted %+v; want questions for quay.io, 3 packets more, and 1 that strayed", got)
	}
	if got := take(); got.Packets != 0 || got.Queries != 0 || got.Strays != 0 || len(got.Lines) != 0 {
		t.Errorf("the second time the sink has counted %+v; want nothing", got)
	}
	// More than the buffer holds is counted as well.
	const many = 20000
	run("bash", "-c", "exec 3>/dev/udp/198.51.100.7/4711; i=0; while [ $i -lt 20000 ]; do echo x >&3; i=$((i+1)); done")
	if got := take(); got.Packets != many {
		t.Errorf("of %d packets the sink has counted %d", many, got.Packets)
	}
}
