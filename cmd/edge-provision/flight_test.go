package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// flight is a site that the real services serve on loopback addresses, and the
// machine that it declares. Its clock is behind, so that what happens now
// happened that long ago when the command why is asked.
type flight struct {
	t       *testing.T
	flags   []string
	path    string
	app     *app
	world   *world
	machine uuid.UUID
	now     func() time.Time
	station *station
}

// network counts the networks of this process; each has loopback addresses of
// its own, and two processes most likely differ in the second byte.
var network atomic.Uint32

const flightSite = `
site "shop" {}
network "lan" {
  interface = "none0"
  cidr      = "PREFIX"
  dhcp { mode = "server" }
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
machine "till" {
  mac     = "52:54:00:04:21:01"
  network = network.lan
  address = "ADDRESS"
  image   = image.os
  root_disk {
    match = disk.bytes >= 100000000000
  }
  BMC
}
`

// newFlight declares the site; ago is how far its clock is behind.
func newFlight(t *testing.T, bmcBlock string, ago time.Duration) *flight {
	t.Helper()
	dir := t.TempDir()
	base := netip.AddrFrom4([4]byte{127, byte(64 + os.Getpid()%128), byte(network.Add(1)), 0})
	machine := base.Next().Next()
	text := strings.NewReplacer("PREFIX", base.String()+"/24", "ADDRESS", machine.String(), "BMC", bmcBlock).Replace(flightSite)
	f := &flight{
		t: t, path: filepath.Join(dir, "site.hcl"), now: func() time.Time { return time.Now().Add(-ago) },
		flags: []string{"--data-dir", filepath.Join(dir, "data"), "--cache-dir", filepath.Join(dir, "cache")},
	}
	if err := os.WriteFile(f.path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f.app = &app{dataDir: f.flags[1], cacheDir: f.flags[3], stdout: t.Output(), stderr: t.Output()}
	var err error
	if f.world, err = f.app.open(t.Context(), f.path, func(steps.Progress) {}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.world.close(); err != nil {
			t.Error(err)
		}
	})
	if err := f.world.recordSite(t.Context()); err != nil { // as apply does
		t.Fatal(err)
	}
	row, err := f.world.catalog.MachineByAddress(t.Context(), "shop", "machine.till")
	if err != nil {
		t.Fatal(err)
	}
	f.machine = row.ID
	f.station = &station{t: t, mac: row.MACs[0], cable: newCable()}
	return f
}

// serve starts the site's services, with the machine wanted in the installer.
func (f *flight) serve() *station {
	t := f.t
	t.Helper()
	w := f.world
	service, err := steps.Listen(t.Context(), steps.ServiceConfig{
		Site: w.site, Catalog: w.catalog, Authority: w.ca, Wanted: w.wanted, Now: f.now,
		Sockets: f.station.sockets,
	})
	if err != nil {
		t.Fatal(err)
	}
	asset := func(name string, kind pxe.AssetKind) pxe.Asset {
		return pxe.Asset{Name: name, Kind: kind, Content: []byte(name), Size: int64(len(name))}
	}
	err = service.Boot(steps.Installer{Kernel: asset("kernel", pxe.AssetKernel), Initramfs: asset("initramfs", pxe.AssetInitramfs)})
	if err != nil {
		t.Fatal(err)
	}
	w.wanted.Set(f.machine, true)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- service.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v; want nil after its context ended", err)
		}
	})
	return f.station
}

// await waits until the services have recorded an event with an attribute, which
// may be left out.
func (f *flight) await(kind inventory.EventKind, attr ...string) {
	f.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(awaitBound); ; <-tick.C {
		events, err := f.world.catalog.Events(f.t.Context(), store.EventFilter{Machine: f.machine})
		if err != nil {
			f.t.Fatal(err)
		}
		var kinds []inventory.EventKind
		for _, e := range events {
			kinds = append(kinds, e.Kind)
			if e.Kind == kind && (len(attr) == 0 || e.Attrs[attr[0]] == attr[1]) {
				return
			}
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("no event %s within %s; got %v", kind, awaitBound, kinds)
		}
	}
}

// run runs the program on the flight's catalog.
func (f *flight) run(args ...string) (code int, output string) {
	f.t.Helper()
	if err := f.world.catalog.Flush(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
	var out bytes.Buffer
	code = run(f.t.Context(), make(chan struct{}), append(args, f.flags...), strings.NewReader(""), &out, &out)
	return code, out.String()
}

// power switches the machine on through its BMC, as a run does.
func (f *flight) power() {
	f.t.Helper()
	dir, err := f.app.data()
	if err != nil {
		f.t.Fatal(err)
	}
	deps := f.app.bmcDeps(f.world.keys, f.world.catalog, dir)
	deps.Now = f.now
	powers := steps.NewControllers(f.world.site, f.world.catalog, deps)
	defer powers.Close()
	c, err := powers.BMC("machine.till")
	if err != nil {
		f.t.Fatal(err)
	}
	if err := c.SetPower(f.t.Context(), bmc.On); err != nil {
		f.t.Fatal(err)
	}
}

// redfish serves a simulated BMC and returns the block that declares it.
func redfish(t *testing.T, declared string) string {
	t.Helper()
	block, _ := redfishWith(t, declared)
	return block
}

func redfishWith(t *testing.T, declared string, sensors ...sim.Sensor) (block string, service *sim.Redfish) {
	t.Helper()
	service = sim.NewRedfish(sim.RedfishConfig{
		Username: "admin", Password: "right-password", Sensors: sensors,
		Hardware: func() sim.Hardware { return sim.Hardware{BIOSVersion: "1.2.3", CPUs: 4, MemoryBytes: 16 << 30} },
	}, &sim.Memory{})
	server := httptest.NewTLSServer(service)
	t.Cleanup(server.Close)
	return bmcBlock(server.URL, declared, bmc.Fingerprint(server.Certificate())), service
}

func bmcBlock(url, password, fingerprint string) string {
	return fmt.Sprintf(`bmc {
    driver      = "redfish"
    address     = %q
    username    = "admin"
    password    = %q
    fingerprint = %q
  }`, url, password, fingerprint)
}

// refusedAddress is one that nobody listens at.
func refusedAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return "https://" + l.Addr().String()
}

const noFingerprint = "sha256:0000000000000000000000000000000000000000000000000000000000000000"

// TestWhyNamesEachCause causes each of the failures that why must tell apart and
// asks the program itself, half an hour later. What this host's packet filter
// stops is caused in the end-to-end tests.
func TestWhyNamesEachCause(t *testing.T) {
	long := 30 * time.Minute
	tests := []struct {
		name  string
		bmc   func(*testing.T) string
		cause func(*flight)
		want  []string
	}{
		{
			"no DISCOVER", func(t *testing.T) string { return redfish(t, "right-password") },
			func(f *flight) { f.power() },
			[]string{"firmware", "no DISCOVER came from its firmware", "network boot"},
		},
		{
			"DISCOVER without REQUEST", nil,
			func(f *flight) {
				s := f.serve()
				s.send(dhcpv4.MessageTypeDiscover, byFirmware, nil)
				s.hear(dhcpv4.MessageTypeOffer)
				f.await(inventory.EventDHCPOffer)
			},
			[]string{"dhcp", "1 DISCOVER and was made an offer, but sent no REQUEST"},
		},
		{
			"another DHCP server answered", nil,
			func(f *flight) {
				s := f.serve()
				s.send(dhcpv4.MessageTypeDiscover, byFirmware, nil)
				offer := s.hear(dhcpv4.MessageTypeOffer)
				other := f.world.site.Networks[0].CIDR.Addr().Next().Next().Next()
				s.send(dhcpv4.MessageTypeRequest, byFirmware, dhcpv4.Options{50: offer.YourIPAddr.To4(), 54: other.AsSlice()})
				f.await(inventory.EventDHCPForeign)
			},
			[]string{"dhcp", "Another DHCP server (127.", "answered, and the machine follows it", `mode = "proxy"`},
		},
		{
			"TFTP started and never ended", nil,
			func(f *flight) {
				s := f.serve()
				s.dawdle(s.lease(byFirmware).BootFileName)
				f.await(inventory.EventTFTPStart)
			},
			[]string{"boot file", "ipxe.efi began and never ended", "UDP 69"},
		},
		{
			"TFTP given up by this host", nil,
			func(f *flight) {
				s := f.serve()
				s.fetch(s.lease(byFirmware).BootFileName, 3)
				f.await(inventory.EventTFTPError)
			},
			[]string{"boot file", "ipxe.efi began and never ended", "the machine stopped answering", "UDP 69"},
		},
		{
			"boot file fetched whole and nothing after", nil,
			func(f *flight) {
				s := f.serve()
				s.fetch(s.lease(byFirmware).BootFileName, 0)
				f.await(inventory.EventTFTPEnd)
			},
			[]string{"ipxe", "ipxe.efi was fetched whole, and nothing came after it", "Secure Boot"},
		},
		{
			"iPXE without script", nil,
			func(f *flight) {
				s := f.serve()
				s.fetch(s.lease(byFirmware).BootFileName, 0)
				s.lease(byOurIPXE)
				f.await(inventory.EventDHCPAck, "boot_file", s.script)
			},
			[]string{"ipxe", "never asked for its script", "HTTP port"},
		},
		{
			"the same machine chain-loading iPXE twice", nil,
			func(f *flight) {
				s := f.serve()
				s.fetch(s.lease(byFirmware).BootFileName, 0)
				s.fetch(s.lease(byFirmware).BootFileName, 0)
				f.await(inventory.EventBootLoop)
			},
			[]string{"ipxe", "loaded iPXE 2 times without ever asking for its script", "user class"},
		},
		{
			"kernel without agent", nil,
			func(f *flight) {
				f.serve().boot()
				f.await(inventory.EventHTTPEnd, "asset", "initramfs")
			},
			[]string{"agent", "Kernel and initramfs were fetched, and the agent was never heard", "console"},
		},
		{
			"no disk matches", nil,
			func(f *flight) {
				s := f.serve()
				i := s.agent(s.boot())
				i.post(agent.PathFacts, inventory.Facts{
					SchemaVersion: 1, Disks: []inventory.Disk{{Name: "sda", Serial: "S1", Bytes: 8e9, Bus: "sata", Signatures: []string{}}},
				})
				if code, out := f.run("apply", "-auto-approve", f.path); code != exitError {
					f.t.Errorf("apply = %d; want %d, because no disk matches:\n%s", code, exitError, out)
				}
			},
			[]string{"disk", "root_disk matches none of the machine's 1 disks", "inventory show"},
		},
		{
			"BMC refuses login", func(t *testing.T) string { return redfish(t, "wrong-password") },
			func(f *flight) { f.mustFail("bmc", "power", "--site", f.path, "machine.till", "on") },
			[]string{"bmc", "refuses the login of site.hcl", "username or password"},
		},
		{
			"BMC unreachable", func(t *testing.T) string { return bmcBlock(refusedAddress(t), "right-password", noFingerprint) },
			func(f *flight) { f.mustFail("bmc", "power", "--site", f.path, "machine.till", "on") },
			[]string{"bmc", "does not answer", "connection refused", "route"},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			block := ""
			if test.bmc != nil {
				block = test.bmc(t)
			}
			f := newFlight(t, block, long)
			test.cause(f)
			code, got := f.run("why", "--site", f.path, "machine.till")
			if code != exitOK {
				t.Errorf("why = %d; want 0", code)
			}
			flat := strings.Join(strings.Fields(got), " ")
			for _, want := range test.want {
				if !strings.Contains(flat, want) {
					t.Errorf("why does not say %q:\n%s", want, got)
				}
			}
			if strings.Contains(flat, "In progress") || strings.Contains(flat, "is usual") {
				t.Errorf("why says that all goes its way:\n%s", got)
			}
			for _, secret := range []string{"right-password", "wrong-password"} {
				if strings.Contains(got, secret) {
					t.Errorf("why shows the password:\n%s", got)
				}
			}
			if t.Failed() {
				_, trace := f.run("trace", "machine.till")
				t.Log(trace)
			}
		})
	}
}

// mustFail runs a command that is to end with an error.
func (f *flight) mustFail(args ...string) string {
	f.t.Helper()
	code, out := f.run(args...)
	if code != exitError {
		f.t.Errorf("%v = %d; want %d:\n%s", args, code, exitError, out)
	}
	return out
}

// TestFailureIsNotToldAsProgress has a machine that never boots, and a run whose
// boot timeout is shorter than what is usual.
func TestFailureIsNotToldAsProgress(t *testing.T) {
	t.Parallel()
	f := newFlight(t, redfish(t, "right-password"), time.Minute)
	f.power()
	if _, got := f.run("why", "--site", f.path, "machine.till"); !strings.Contains(got, "In progress") {
		t.Errorf("a minute after power-on why says:\n%s; want that it is in progress", got)
	}
	got := f.world.explain(t.Context(), "machine.till")
	if strings.Contains(got, "In progress") || strings.Contains(got, "is usual") || !strings.Contains(got, "no DISCOVER came") {
		t.Errorf("a run that gave up is told:\n%s; want where it stopped, and nothing of progress", got)
	}
}

// TestWriteThatGoesOnIsInProgress has an agent that reported a minute ago and
// whose last event is an hour and a half old.
func TestWriteThatGoesOnIsInProgress(t *testing.T) {
	t.Parallel()
	f := newFlight(t, "", 90*time.Minute)
	f.world.catalog.Record(inventory.Event{
		Time: f.now(), Site: "shop", Machine: f.machine, Kind: inventory.EventAgentTask, Attrs: map[string]string{"kind": "write", "attempt": "1"},
	})
	if _, got := f.run("why", "--site", f.path, "machine.till"); !strings.Contains(got, "not written whole") {
		t.Errorf("why says:\n%s; want a write that stands still", got)
	}
	raw, err := time.Now().Add(-time.Minute).MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.world.catalog.Settings().Put(t.Context(), "heard/"+f.machine.String(), raw); err != nil {
		t.Fatal(err)
	}
	if _, got := f.run("why", "--site", f.path, "machine.till"); !strings.Contains(got, "In progress") {
		t.Errorf("why says:\n%s; want a write in progress, because the agent was heard a minute ago", got)
	}
}

func TestPlanRefusesAnImageForAnotherSector(t *testing.T) {
	t.Parallel()
	f := newFlight(t, "", 0)
	s := f.serve()
	i := s.agent(s.boot())
	i.post(agent.PathFacts, inventory.Facts{SchemaVersion: 1, Disks: []inventory.Disk{
		{Name: "nvme0n1", Serial: "4KN-1", Bytes: 960e9, LogicalBlock: 4096, Bus: "nvme", Signatures: []string{}},
	}})
	code, got := f.run("plan", f.path)
	flat := strings.Join(strings.Fields(got), " ")
	for _, want := range []string{"4KN-1", "counts in sectors of 4096 bytes, and image.os is made for 512", "Choose another disk by root_disk", "site.hcl line"} {
		if !strings.Contains(flat, want) {
			t.Errorf("plan does not say %q:\n%s", want, got)
		}
	}
	if code != exitError || strings.Contains(flat, "will be erased") {
		t.Errorf("plan = %d; want %d and nothing to erase:\n%s", code, exitError, got)
	}
}
