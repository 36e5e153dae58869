//go:build e2e

package scenario

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory/timeline"
	"github.com/edge-provision/edge-provision/workflows"
)

// TestMeasureTheMainJob prints where the time of one machine goes, from
// powered off to SSH, for each kind of firmware alone; how long an unchanged
// image takes to be found; and the sizes of what is shipped. It asserts nothing
// about time: `make bench` runs it.
func TestMeasureTheMainJob(t *testing.T) {
	if os.Getenv("EDGE_BENCH") == "" {
		t.Skip("a measurement, not a test: run by make bench")
	}
	l := newLab(t, "pair.hcl")
	image := l.image("image.edge-os")
	began := time.Now()
	l.image("image.edge-os")
	fmt.Printf("\nunchanged image build and installer    %6.1f s\n", time.Since(began).Seconds())
	l.raw(image) // the second disks of the site start with it
	for _, p := range []string{"edge-provision", "edge-agent"} {
		fmt.Printf("%-38s %s\n", p, workflows.FormatBytes(l.size(filepath.Join(filepath.Dir(l.bin), p))))
	}
	l.raise(l.site)
	for _, key := range []string{"uefi", "bios"} {
		address := `machine.node["` + key + `"]`
		l.want(0, l.apply("--target", address, l.site))
		var trace timeline.Timeline
		if err := json.Unmarshal([]byte(l.must(commandLimit, "trace", "--json", address).stdout), &trace); err != nil {
			t.Fatalf("reading the trace of %s = %v", address, err)
		}
		last := trace.Attempts[len(trace.Attempts)-1]
		fmt.Printf("\n%s, one machine, %s image:\n", key, workflows.FormatBytes(image.Manifest.RawBytes))
		for _, p := range last.Phases {
			fmt.Printf("  %-12s %6.1f s   %6.1f s since power-on\n", p.Name, p.Duration().Seconds(), p.Ended.Sub(last.Began).Seconds())
		}
		l.power(address, "off")
	}
}
