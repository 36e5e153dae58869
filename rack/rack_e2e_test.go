//go:build e2e

package rack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

const (
	uefiMachine = `machine.node["uefi"]`
	biosMachine = `machine.node["bios"]`
)

// siteUnderTest is a rack of one UEFI and one BIOS machine whose name no other
// test process has.
func siteUnderTest(t *testing.T) Spec {
	t.Helper()
	return Spec{
		Name:     fmt.Sprintf("racktest-%d-%s", os.Getpid(), strings.ToLower(fmt.Sprintf("%.20s", regexp.MustCompile(`[^A-Za-z0-9]`).ReplaceAllString(t.Name()[4:], "")))),
		StateDir: filepath.Join(t.TempDir(), "rack"),
		CacheDir: os.TempDir(),
		Networks: []Network{{Name: "edge", Interface: "eth1", HostAddress: netip.MustParsePrefix("172.22.0.1/24")}},
		Machines: []Machine{
			{
				Address: uefiMachine, UUID: uuid.MustParse("0f8e0c5a-5f0d-4c3c-9d55-000000000001"), Serial: "RACK-UEFI",
				Firmware: FirmwareUEFI, MemoryBytes: 512 * mib,
				Disks: []Disk{{Bus: DiskNVMe, Bytes: 64 * mib}, {Bus: DiskAHCI, Bytes: 64 * mib, Rotational: true}},
				NICs:  []NIC{{MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1}, Network: "edge"}},
				BMC:   BMC{Driver: BMCRedfish, Address: netip.MustParseAddrPort("172.22.1.11:443"), Username: "admin", Password: "calvin-and-hobbes"},
			},
			{
				Address: biosMachine, UUID: uuid.MustParse("0f8e0c5a-5f0d-4c3c-9d55-000000000002"), Serial: "RACK-BIOS",
				Firmware: FirmwareBIOS, MemoryBytes: 256 * mib,
				Disks: []Disk{{Bus: DiskVirtio, Bytes: 64 * mib}, {Bus: DiskSCSI, Bytes: 64 * mib}},
				NICs:  []NIC{{Model: NICE1000e, MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 2}, Network: "edge"}},
				BMC:   BMC{Driver: BMCIPMI, Address: netip.MustParseAddrPort("172.22.1.12:623"), Username: "admin", Password: "hobbes"},
			},
		},
	}
}

// newRack returns a handle whose rack is taken down when the test ends.
func newRack(t *testing.T, spec Spec) *Rack {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and taps")
	}
	r, err := New(Config{
		Spec:       spec,
		Supervisor: []string{testBinary(t), supervisorArgument},
		Apply:      []string{"edge-provision", "apply", "site.hcl"},
		Stdout:     testWriter{t},
		Log:        slog.New(slog.NewTextHandler(testWriter{t}, nil)),
	})
	if err != nil {
		t.Fatalf("New = %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if t.Failed() {
			log, _ := tail(r.layout.log(), 8192)
			t.Logf("the supervisor's log:\n%s", log)
		}
		if err := r.Down(ctx, true); err != nil {
			t.Errorf("Down = %v", err)
		}
	})
	return r
}

func testBinary(t *testing.T) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("os.Executable = %v", err)
	}
	return self
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// bounded is a context for one wait.
func bounded(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// census is what of a host a rack could leave behind.
type census struct {
	namespaces, mounts, links, processes []string
}

// take counts what belongs to the rack of the spec, or to nobody in particular.
func take(t *testing.T, spec Spec) census {
	t.Helper()
	var c census
	// iproute2 mounts /run/netns on itself at its first use, for good.
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatalf("reading mounts = %v", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, spec.Name) || strings.Contains(line, spec.StateDir) {
			c.mounts = append(c.mounts, line)
		}
	}
	if _, err := os.Lstat(namespacePath(namespaceName(spec.Name))); err == nil {
		c.namespaces = append(c.namespaces, spec.Name)
	}
	if _, err := os.Lstat(configuration(namespaceName(spec.Name))); err == nil {
		c.namespaces = append(c.namespaces, configuration(namespaceName(spec.Name)))
	}
	links, err := os.ReadDir("/sys/class/net")
	if err != nil {
		t.Fatalf("listing links = %v", err)
	}
	for _, l := range links {
		// Others at work on this host may make links of other names.
		if l.Name() == spec.Networks[0].Interface || tapName.MatchString(l.Name()) {
			c.links = append(c.links, l.Name())
		}
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatalf("listing processes = %v", err)
	}
	for _, p := range processes {
		line, err := os.ReadFile(p)
		if err == nil && (strings.Contains(string(line), spec.StateDir) || strings.Contains(string(line), supervisorArgument)) {
			c.processes = append(c.processes, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return c
}

func (c census) equal(o census) bool {
	return slices.Equal(c.namespaces, o.namespaces) && slices.Equal(c.mounts, o.mounts) &&
		slices.Equal(c.links, o.links) && slices.Equal(c.processes, o.processes)
}

func mustBeGone(t *testing.T, before census, spec Spec) {
	t.Helper()
	if after := take(t, spec); !after.equal(before) {
		t.Errorf("left behind: %+v; want what was there before: %+v", after, before)
	}
}

func TestMachinesBootFromTheNetworkAndDownLeavesNothing(t *testing.T) {
	spec := siteUnderTest(t)
	before := take(t, spec)
	r := newRack(t, spec)
	if err := r.Up(bounded(t, 2*time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	for _, m := range []string{uefiMachine, biosMachine} {
		if err := r.Power(bounded(t, time.Minute), m, PowerOn); err != nil {
			t.Fatalf("Power(%s, on) = %v", m, err)
		}
	}
	for m, re := range map[string]*regexp.Regexp{
		uefiMachine: regexp.MustCompile(`>>Start PXE over IPv4`),
		biosMachine: regexp.MustCompile(`Configuring \(net0 52:54:00:04:21:02\)`),
	} {
		if _, err := r.WaitSerial(bounded(t, 2*time.Minute), m, re); err != nil {
			t.Errorf("WaitSerial = %v", err)
		}
	}
	st, err := r.Status(bounded(t, time.Minute))
	if err != nil || st.State != StateUp {
		t.Fatalf("Status = %+v, %v; want it up", st, err)
	}
	for _, m := range st.Machines {
		if !m.On || m.Boots != 1 || m.PowerOns != 1 {
			t.Errorf("status of %s = %+v; want on, booted once", m.Address, m)
		}
	}
	if err := r.Up(bounded(t, time.Minute)); err == nil || !strings.Contains(err.Error(), "up already") {
		t.Errorf("second Up = %v; want it refused", err)
	}
	if err := r.Down(bounded(t, time.Minute), true); err != nil {
		t.Fatalf("Down = %v", err)
	}
	mustBeGone(t, before, spec)
	if _, err := os.Stat(spec.StateDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("state directory after Down(removeDisks) = %v; want it gone", err)
	}
	if err := r.Down(bounded(t, time.Minute), true); err != nil {
		t.Errorf("second Down = %v; want nil", err)
	}
}
