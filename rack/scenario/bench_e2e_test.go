//go:build e2e

package scenario

import (
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/timeline"
	"github.com/edge-provision/edge-provision/rack"
	"github.com/edge-provision/edge-provision/workflows"
)

// TestMeasureTheMainJob prints where the time of one machine goes, from
// powered off to SSH, for each kind of firmware alone, against floors taken on
// the same machine in the same run; how long an unchanged image takes to be
// found; and the sizes of what is shipped. The report is added to the file that
// EDGE_BENCH names. It asserts nothing
// about time: `make bench` runs it.
func TestMeasureTheMainJob(t *testing.T) {
	if os.Getenv("EDGE_BENCH") == "" {
		t.Skip("a measurement, not a test: run by make bench")
	}
	report, err := os.OpenFile(os.Getenv("EDGE_BENCH"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatalf("opening the report = %v", err)
	}
	defer report.Close()
	l := newLab(t, "pair.hcl")
	image := l.image("image.edge-os")
	began := time.Now()
	l.image("image.edge-os")
	fmt.Fprintf(report, "\nunchanged image build and installer    %6.1f s\n", time.Since(began).Seconds())
	l.raw(image) // the second disks of the site start with it
	agent := filepath.Join(filepath.Dir(l.bin), "edge-agent")
	installer, err := (&imagebuilder.Builder{CacheDir: l.cache}).BuildInstaller(t.Context(), imagebuilder.InstallerSpec{AgentPath: agent})
	if err != nil {
		t.Fatalf("BuildInstaller = %v", err)
	}
	for _, f := range []struct {
		name  string
		bytes int64
	}{
		{"edge-provision", l.size(l.bin)},
		{"edge-agent", l.size(agent)},
		{"installer (kernel and initramfs)", installer.Kernel.Bytes + installer.Initramfs.Bytes},
	} {
		fmt.Fprintf(report, "%-38s %s\n", f.name, workflows.FormatBytes(f.bytes))
	}
	nothing := l.nothing(installer)
	l.raise(l.site)
	for _, m := range []measured{
		{key: "uefi", mac: inventory.MAC{0x52, 0x54, 0, 0xe2, 1, 11}, ip: netip.MustParseAddr("172.22.0.11")},
		{key: "bios", mac: inventory.MAC{0x52, 0x54, 0, 0xe2, 1, 12}, ip: netip.MustParseAddr("172.22.0.12")},
	} {
		l.measure(report, m, image, installer.Kernel.Path, nothing)
	}
}

// measured is one machine of pair.hcl.
type measured struct {
	key string
	mac inventory.MAC
	ip  netip.Addr
}

func (l *lab) measure(report io.Writer, m measured, image imagebuilder.Artifact, kernel, nothing string) {
	l.t.Helper()
	address := `machine.node["` + m.key + `"]`
	netboot := l.floorOfNetboot(address, floorBoot{Site: l.name, MAC: m.mac, IP: m.ip, Kernel: kernel, Initramfs: nothing})
	l.want(0, l.apply("--target", address, l.site))
	var trace timeline.Timeline
	if err := json.Unmarshal([]byte(l.must(commandLimit, "trace", "--json", address).stdout), &trace); err != nil {
		l.t.Fatalf("reading the trace of %s = %v", address, err)
	}
	last := trace.Attempts[len(trace.Attempts)-1]
	fmt.Fprintf(report, "\n%s, one machine, %s image, load of this host %s:\n", m.key, workflows.FormatBytes(image.Manifest.RawBytes), load())
	took, since := map[timeline.Name]time.Duration{}, map[timeline.Name]time.Duration{}
	var all time.Duration
	for _, p := range last.Phases {
		took[p.Name], since[p.Name] = p.Duration(), p.Ended.Sub(last.Began)
		all = max(all, since[p.Name])
		fmt.Fprintf(report, "  %-12s %6.1f s   %6.1f s since power-on\n", p.Name, p.Duration().Seconds(), since[p.Name].Seconds())
	}
	ssh := netip.AddrPortFrom(m.ip, 22).String()
	write := l.floorOfWrite(ssh, image.FramesPath)
	boot := l.floorOfBoot(address, ssh)
	for _, r := range []struct {
		what        string
		ours, floor time.Duration
		against     string
	}{
		{"power-on to facts", since[timeline.PhaseFacts], netboot, "netboot of an init that makes one HTTP request"},
		{"write", took[timeline.PhaseWrite], write, "fetch | zstd -d | dd oflag=direct conv=sparse without digests"},
		{"reboot to SSH", took[timeline.PhaseReboot] + took[timeline.PhaseSSH], boot, "power-on to SSH from the disk alone"},
		{"power-on to SSH", all, netboot + write + boot, "the sum of these three floors"},
	} {
		fmt.Fprintf(report, "  %-18s %6.1f s = %.2f × %5.1f s, %s\n", r.what, r.ours.Seconds(), r.ours.Seconds()/r.floor.Seconds(), r.floor.Seconds(), r.against)
	}
	l.power(address, rack.PowerOff)
}

// load is how busy this host is beside the measurement: its one-minute average.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	first, _, _ := strings.Cut(string(b), " ")
	return first
}
