//go:build e2e

package dashboard_test

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/api"
	"github.com/edge-provision/edge-provision/inventory/dashboard"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows/journal"
)

// shop is a catalog as a fleet of two sites leaves it, served as `serve` does.
type shop struct {
	*testing.T
	catalog *store.Store
	journal *journal.Journal
	base    string
	// machines by their address or, where they have none, their serial.
	machines map[string]inventory.Machine
	run      uuid.UUID
}

// runs shows the journal to the API.
type runs struct{ *journal.Journal }

func (r runs) Runs(ctx context.Context, site string, before uuid.UUID, limit int) ([]resource.Run, error) {
	rows, err := r.Page(ctx, site, before, limit)
	out := make([]resource.Run, len(rows))
	for i, row := range rows {
		out[i] = runOf(row)
	}
	return out, err
}

func (r runs) Run(ctx context.Context, id uuid.UUID) (resource.Run, []resource.Step, error) {
	row, err := r.Show(ctx, id)
	if err != nil {
		return resource.Run{}, nil, err
	}
	var steps []resource.Step
	for _, s := range row.Steps {
		steps = append(steps, resource.Step{Run: id, Address: s.Address, Attempt: s.Attempt, State: s.State, Error: s.Error, StartedAt: s.Started, FinishedAt: end(s.Finished)})
	}
	run := runOf(row)
	return run, steps, json.Unmarshal(row.Actions, &run.Actions)
}

func runOf(r journal.Run) resource.Run {
	return resource.Run{
		ID: r.ID, Site: r.Site, Command: "apply", PlanDigest: r.PlanDigest, State: r.State, Error: r.Error,
		StartedAt: r.Started, FinishedAt: end(r.Finished),
	}
}

func end(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

const site = "store-0421"

// hostile is a serial that a machine might report.
const hostile = `<img src=x onerror="document.title='owned'">`

func openShop(t *testing.T) *shop {
	t.Helper()
	catalog := storetest.Open(t, storetest.SQLite(t))
	s := &shop{T: t, catalog: catalog, journal: journal.New(catalog, nil), machines: map[string]inventory.Machine{}}
	s.base = s.serve(resource.RoleReader)
	for i, a := range []string{"a", "b", "c"} {
		s.declare(site, fmt.Sprintf(`machine.node[%q]`, a), i+1, nuc(i+1, 64), map[string]string{"rack": "R1", "rack_unit": fmt.Sprint(2 * (i + 1)), "rack_units": "2", "asset": fmt.Sprintf("IT-%04d", 4210+i)})
	}
	s.declare(site, "machine.gateway", 4, gateway(4), map[string]string{"rack": "R1", "rack_unit": "8"})
	s.declare(site, "machine.archive", 5, archive(5), map[string]string{"rack": "R1", "rack_unit": "10", "rack_units": "2"})
	s.declare("store-0422", `machine.node["a"]`, 6, nuc(6, 32), nil)
	s.declare("store-0422", `machine.node["b"]`, 7, nil, nil)
	s.declare("store-0422", "machine.kiosk", 8, gateway(8), nil)
	for address, state := range map[string]inventory.State{
		`machine.node["a"]`: inventory.StateInstalled, `machine.node["b"]`: inventory.StateInstalled, `machine.node["c"]`: inventory.StateInstalling,
		"machine.gateway": inventory.StateInstalled, "machine.archive": inventory.StateFailed, "machine.kiosk": inventory.StateHeld,
	} {
		s.state(address, state)
	}
	s.boot(`machine.node["a"]`)
	s.history(`machine.node["a"]`)
	s.swap(`machine.node["b"]`, nuc(2, 64))
	s.begin()
	if err := catalog.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

// serve serves the catalog to requests without a token as to somebody of a role.
func (s *shop) serve(anonymous resource.Role) string {
	s.Helper()
	page, err := dashboard.Handler()
	if err != nil {
		s.Fatal(err)
	}
	server, err := api.New(api.Config{
		Catalog: s.catalog, Runs: runs{s.journal}, Version: "1.2.3", Anonymous: anonymous, Dashboard: page, WatchInterval: 20 * time.Millisecond,
	})
	if err != nil {
		s.Fatal(err)
	}
	return serve(s.T, server.Serve)
}

func mac(n int) inventory.MAC { return inventory.MAC{0x52, 0x54, 0, 0x04, 0x21, byte(n)} }

// declare adds a machine; one that is in the shop under its address belongs to the
// first site.
func (s *shop) declare(site, address string, n int, f *inventory.Facts, tags map[string]string) inventory.Machine {
	s.Helper()
	ctx := s.Context()
	m, err := s.catalog.Declare(ctx, site, address, mac(n))
	if err == nil && f != nil {
		_, _, err = s.catalog.Observe(ctx, site, store.Observation{MACs: []inventory.MAC{mac(n)}, Serial: f.System.Serial})
		if err == nil {
			_, _, err = s.catalog.PutFacts(ctx, m.ID, inventory.SourceAgent, *f, time.Now().Add(-26*time.Hour))
		}
	}
	if err == nil && tags != nil {
		_, err = s.catalog.SetTags(ctx, m.ID, tags, nil, nil)
	}
	if err == nil {
		err = s.catalog.Commit(ctx, inventory.Lease{
			Network: "network.edge", MAC: mac(n), Address: fmt.Sprintf("172.22.0.%d", 10+n), State: inventory.LeaseActive,
			Starts: time.Now().Add(-time.Minute), Expires: time.Now().Add(time.Hour),
		})
	}
	if err != nil {
		s.Fatal(err)
	}
	if _, ok := s.machines[address]; !ok {
		s.machines[address] = m
	}
	return m
}

func (s *shop) state(address string, to inventory.State) {
	s.Helper()
	if err := s.catalog.SetState(s.Context(), s.machines[address].ID, to); err != nil {
		s.Fatal(err)
	}
}

func yes(b bool) *bool { return &b }

func nuc(n int, gib int64) *inventory.Facts {
	modules := []inventory.MemoryModule{}
	for i := range 2 {
		modules = append(modules, inventory.MemoryModule{
			Locator: fmt.Sprintf("Controller%d-DIMM0", i), Bytes: gib << 29, Type: "DDR4", SpeedMTs: 3200, Manufacturer: "Samsung",
			Part: "M471A4G43AB1-CWE", Serial: fmt.Sprintf("17A3%02X%02X", n, i), ECC: yes(false),
		})
	}
	return &inventory.Facts{
		SchemaVersion: inventory.SchemaVersion,
		System:        &inventory.System{Manufacturer: "Intel(R) Client Systems", Product: "NUC11TNHi5", Version: "M11904-403", Serial: fmt.Sprintf("BTTN2140%04d", n), SKU: "RNUC11TNHi50000"},
		BIOS:          &inventory.BIOS{Vendor: "Intel Corp.", Version: "TNTGL357.0064", Date: "03/08/2022"},
		Firmware:      &inventory.Firmware{Mode: "uefi", SecureBoot: yes(false)},
		CPU: &inventory.CPU{
			Architecture: "amd64", Vendor: "GenuineIntel", Model: "11th Gen Intel(R) Core(TM) i5-1135G7 @ 2.40GHz", Sockets: 1, Cores: 4, Threads: 8, MaxSpeedMHz: 4200,
			Flags: strings.Fields("aes avx avx2 avx512f cx16 fma lm nx pclmulqdq popcnt rdrand rdseed sha_ni sse4_1 sse4_2 ssse3 tsc_deadline_timer vmx x2apic"),
		},
		Memory: &inventory.Memory{Bytes: gib << 30, Modules: modules},
		Disks: []inventory.Disk{
			{Name: "nvme0n1", WWN: fmt.Sprintf("eui.0025385b11b4%04x", n), Serial: fmt.Sprintf("S64GNE0R%05d", n), Model: "Samsung SSD 980 PRO 500GB", FirmwareRev: "5B2QGXA7", Bytes: 500107862016, LogicalBlock: 512, Rotational: yes(false), Bus: "nvme", Signatures: []string{"gpt", "vfat", "ext4"}},
			{Name: "sda", WWN: fmt.Sprintf("naa.5002538f4%07x", n), Serial: fmt.Sprintf("S5STNX0T%05d", n), Model: "Samsung SSD 870", FirmwareRev: "SVT02B6Q", Bytes: 1000204886016, LogicalBlock: 512, PhysicalBlock: 4096, Rotational: yes(false), Bus: "sata", Signatures: []string{}},
		},
		NICs: []inventory.NIC{{Name: "eth0", MAC: mac(n), Driver: "igc", PCI: "0000:58:00.0", Vendor: "8086", Device: "15f3", SpeedMbs: 2500, Boot: true}},
		TPM:  &inventory.TPM{Version: "2.0"}, Kernel: &inventory.Kernel{Release: "6.1.0-28-amd64"},
	}
}

func gateway(n int) *inventory.Facts {
	f := nuc(n, 8)
	f.System = &inventory.System{Manufacturer: "Protectli", Product: "VP2420", Serial: fmt.Sprintf("VP24-%05d", n)}
	f.CPU = &inventory.CPU{Architecture: "amd64", Vendor: "GenuineIntel", Model: "Intel(R) Celeron(R) J6412 @ 2.00GHz", Sockets: 1, Cores: 4, Threads: 4, MaxSpeedMHz: 2600}
	f.Disks = f.Disks[1:]
	f.Disks[0].Bytes = 240057409536
	return f
}

func archive(n int) *inventory.Facts {
	f := nuc(n, 128)
	f.System = &inventory.System{Manufacturer: "Supermicro", Product: "SYS-E300-9D", Serial: fmt.Sprintf("A3001%05d", n)}
	f.CPU = &inventory.CPU{Architecture: "amd64", Vendor: "GenuineIntel", Model: "Intel(R) Xeon(R) D-2123IT CPU @ 2.20GHz", Sockets: 1, Cores: 4, Threads: 8, MaxSpeedMHz: 3000}
	for i := range 3 {
		f.Disks = append(f.Disks, inventory.Disk{
			Name: "sd" + string(rune('b'+i)), Serial: fmt.Sprintf("WD-CA0%02d%03d", i, n), Model: "WDC WD80EFZZ-68B", Bytes: 8001563222016, Rotational: yes(true), Bus: "sata", Signatures: []string{},
		})
	}
	return f
}

// strange is a machine whose firmware was written to, by somebody.
func strange(n int) *inventory.Facts {
	f := nuc(n, 16)
	f.System = &inventory.System{Manufacturer: "<b>Bold</b> & Sons", Product: "javascript:alert(1)", Serial: hostile}
	return f
}

var attribute = regexp.MustCompile(`(\w+)=(?:"([^"]*)"|(\S+))`)

// swap freezes a machine and has another disk reported of it, an hour ago.
func (s *shop) swap(address string, f *inventory.Facts) {
	s.Helper()
	s.catalog.UseSnapshotKey(ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	id := s.machines[address].ID
	_, err := s.catalog.Commission(s.Context(), id, "")
	if err == nil {
		f.Disks[1].Serial, f.Disks[1].WWN = "S5STNX0T90210", ""
		_, _, err = s.catalog.PutFacts(s.Context(), id, inventory.SourceAgent, *f, time.Now().Add(-time.Hour))
	}
	if err != nil {
		s.Fatal(err)
	}
}

// boot records a whole boot, as the timeline's own tests tell it.
func (s *shop) boot(address string) {
	s.Helper()
	raw, err := os.ReadFile("../timeline/testdata/all-well.txt")
	if err != nil {
		s.Fatal(err)
	}
	script, _, _ := strings.Cut(string(raw), "-- why --")
	began := time.Now().Add(-8 * time.Minute)
	n := 0
	for line := range strings.Lines(script) {
		offset, rest, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok || offset[0] != '+' {
			continue
		}
		after, err := time.ParseDuration(offset[1:])
		if err != nil {
			s.Fatal(err)
		}
		kind, attributes, _ := strings.Cut(rest, " ")
		e := s.event(address, inventory.EventKind(kind))
		e.Time, e.Attrs = began.Add(after), map[string]string{}
		for _, a := range attribute.FindAllStringSubmatch(attributes, -1) {
			e.Attrs[a[1]] = a[2] + a[3]
		}
		e.Message = e.Attrs["message"]
		delete(e.Attrs, "message")
		s.catalog.Record(e)
		n++
	}
	if n < 30 {
		s.Fatalf("the boot has %d events; want a whole one", n)
	}
}

func (s *shop) event(address string, kind inventory.EventKind) inventory.Event {
	m := s.machines[address]
	return inventory.Event{Time: time.Now(), Site: m.Site, Machine: m.ID, MAC: m.MACs[0], Kind: kind}
}

// history adds a report in which the BIOS was updated and a disk swapped.
func (s *shop) history(address string) {
	s.Helper()
	f := nuc(1, 64)
	f.BIOS = &inventory.BIOS{Vendor: "Intel Corp.", Version: "TNTGL357.0071", Date: "06/07/2023"}
	f.Disks[1].Serial, f.Disks[1].WWN = "S5STNX0T90412", "naa.5002538f40090412"
	if _, _, err := s.catalog.PutFacts(s.Context(), s.machines[address].ID, inventory.SourceAgent, *f, time.Now().Add(-20*time.Minute)); err != nil {
		s.Fatal(err)
	}
}

// plan is what the run does.
var plan = []resource.Action{
	{Address: `machine.node["a"]`, Kind: "install"},
	{Address: `machine.node["b"]`, Kind: "install"},
	{Address: `machine.node["c"]`, Kind: "install"},
	{Address: "machine.gateway", Kind: "none"},
	{Address: "workflow.platform.step.k3s.cluster", Kind: "run", DependsOn: []string{`machine.node["a"]`, `machine.node["b"]`, `machine.node["c"]`}},
	{Address: "workflow.platform.step.calico.network", Kind: "run", DependsOn: []string{"workflow.platform.step.k3s.cluster"}},
	{Address: "workflow.platform.step.portworx.storage", Kind: "run", DependsOn: []string{"workflow.platform.step.k3s.cluster", "workflow.platform.step.calico.network"}},
	{Address: "workflow.platform.step.fluentd.logs", Kind: "run", DependsOn: []string{"workflow.platform.step.calico.network"}},
	{Address: "workflow.platform.step.prometheus.metrics", Kind: "run", DependsOn: []string{"workflow.platform.step.calico.network", "workflow.platform.step.portworx.storage"}},
	{Address: "workflow.platform.step.manifest.app", Kind: "run", DependsOn: []string{"workflow.platform.step.portworx.storage"}},
}

// begin starts a run in which two machines are done and one is written.
func (s *shop) begin() {
	s.Helper()
	ctx := s.Context()
	raw, err := json.Marshal(plan)
	if err != nil {
		s.Fatal(err)
	}
	run, err := s.journal.Begin(ctx, journal.Run{Site: site, PlanDigest: "sha256:" + strings.Repeat("1", 64), Actions: raw})
	if err != nil {
		s.Fatal(err)
	}
	s.run = run.ID
	for _, a := range []string{"a", "b", "c"} {
		address := fmt.Sprintf(`machine.node[%q]`, a)
		s.step(address, "")
		if a != "c" {
			s.step(address, "ok")
		}
	}
}

// step starts a step of the run or, with an outcome, ends it, and records that as
// the engine does.
func (s *shop) step(address, outcome string) {
	s.Helper()
	e := inventory.Event{Time: time.Now(), Site: site, Kind: inventory.EventStepStarted, Run: s.run.String(), Step: address}
	var err error
	if outcome == "" {
		err = s.journal.Started(s.Context(), s.run, address, 1, "sha256:"+strings.Repeat("2", 64))
	} else {
		e.Kind, e.Attrs = inventory.EventStepFinished, map[string]string{"outcome": outcome}
		err = s.journal.Finished(s.Context(), s.run, address, 1, outcome, "", nil)
	}
	if err != nil {
		s.Fatal(err)
	}
	s.catalog.Record(e)
}
