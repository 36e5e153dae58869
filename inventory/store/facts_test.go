package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

var yes, no = true, false

// full has a value in every field that is projected.
var full = inventory.Facts{
	System:   &inventory.System{Manufacturer: "Dell Inc.", Product: "PowerEdge XR12", Serial: "7XK2Q93", UUID: uuidA.String()},
	BIOS:     &inventory.BIOS{Vendor: "Dell Inc.", Version: "1.9.2", Date: "11/17/2023"},
	Firmware: &inventory.Firmware{Mode: "uefi", SecureBoot: &no},
	CPU:      &inventory.CPU{Architecture: "amd64", Vendor: "GenuineIntel", Model: "Xeon Gold 6312U", Sockets: 1, Cores: 24, Threads: 48, MaxSpeedMHz: 3600, Flags: []string{"vmx", "aes"}},
	Memory: &inventory.Memory{Bytes: 64 << 30, Modules: []inventory.MemoryModule{
		{Locator: "A1", Bytes: 64 << 30, Type: "DDR4", SpeedMTs: 3200, Manufacturer: "Hynix", Part: "HMAA", Serial: "8A1B", ECC: &yes},
	}},
	Disks: []inventory.Disk{
		{Name: "nvme0n1", ByID: "nvme-SAMSUNG_S4EVNX0N", WWN: "eui.002538b411b2cb2a", Serial: "S4EVNX0N", Vendor: "Samsung", Model: "PM9A3", FirmwareRev: "GDC5602Q", Bytes: 960197124096, LogicalBlock: 512, PhysicalBlock: 4096, Rotational: &no, Bus: "nvme", Path: "pci-0000:01:00.0-nvme-1", Signatures: []string{"gpt"}},
		{Name: "sda", Bytes: 4000787030016, Rotational: &yes, Bus: "sata", Signatures: []string{}},
	},
	NICs:   []inventory.NIC{{Name: "eno1", MAC: mac(1), Driver: "igc", PCI: "0000:02:00.0", Vendor: "8086", Device: "15f2", SpeedMbs: 2500, Boot: true}},
	PCI:    []inventory.PCI{{Address: "0000:02:00.0", Class: "020000", Vendor: "8086", Device: "15f2", Driver: "igc"}},
	BMC:    &inventory.BMCFacts{Address: "172.22.1.11"},
	TPM:    &inventory.TPM{Version: "2.0"},
	Kernel: &inventory.Kernel{Release: "6.1.0-41-amd64"},
}

var projections = []string{"machine_facts", "disks", "nics", "memory_modules", "pci_functions"}

func withBIOS(version string) inventory.Facts {
	f := full
	f.BIOS = &inventory.BIOS{Vendor: "Dell Inc.", Version: version}
	return f
}

func TestFactsHistory(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		id := observe(t, s, seen("", uuidA, 1)).ID
		put := func(source inventory.Source, f inventory.Facts, minute int) bool {
			t.Helper()
			_, changed, err := s.PutFacts(ctx, id, source, f, noon.Add(time.Duration(minute)*time.Minute))
			ok(t, err)
			return changed
		}
		// The same content comes back at minute 30, after another one.
		for i, c := range []struct {
			version string
			minute  int
			changed bool
		}{{"1", 0, true}, {"1", 10, false}, {"2", 20, true}, {"1", 30, true}, {"1", 40, false}} {
			if got := put(inventory.SourceAgent, withBIOS(c.version), c.minute); got != c.changed {
				t.Errorf("PutFacts %d (BIOS %s) changed = %v; want %v", i, c.version, got, c.changed)
			}
		}
		put(inventory.SourceRedfish, inventory.Facts{System: &inventory.System{SKU: "XR12"}}, 25)

		var got []string
		for _, d := range must[[]inventory.Document](t)(s.FactsHistory(ctx, id, inventory.SourceAgent)) {
			got = append(got, fmt.Sprintf("%s %v-%v", d.Facts.BIOS.Version, d.ObservedAt.Sub(noon).Minutes(), d.LastSeen.Sub(noon).Minutes()))
			if !strings.HasPrefix(d.Digest, "sha256:") || len(d.Digest) != 71 {
				t.Errorf("digest = %q; want sha256: and 64 digits", d.Digest)
			}
		}
		if want := []string{"1 0-10", "2 20-20", "1 30-40"}; !slices.Equal(got, want) {
			t.Errorf("history = %v; want %v", got, want)
		}
		if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM documents")); n != 3 {
			t.Errorf("documents = %d; want 3: content is kept once", n)
		}
		for minute, want := range map[int]string{-1: "", 5: "1", 20: "2", 29: "2", 30: "1", 99: "1"} {
			docs := must[map[inventory.Source]inventory.Document](t)(s.FactsAt(ctx, id, noon.Add(time.Duration(minute)*time.Minute)))
			version := ""
			if d, seen := docs[inventory.SourceAgent]; seen {
				version = d.Facts.BIOS.Version
			}
			if version != want {
				t.Errorf("FactsAt(minute %d) shows BIOS %q; want %q", minute, version, want)
			}
		}
		merged := must[inventory.Facts](t)(s.MergedFacts(ctx, id))
		if merged.System.SKU != "XR12" || merged.System.Serial != "7XK2Q93" {
			t.Errorf("MergedFacts.System = %+v; want the agent's serial and Redfish's SKU", merged.System)
		}
	})
}

func TestFactsOfAClockThatWentBackAreTheLatest(t *testing.T) {
	ctx, s := t.Context(), storetest.Open(t, storetest.SQLite(t))
	id := observe(t, s, seen("", uuidA, 1)).ID
	for i, version := range []string{"1", "2"} {
		_, _, err := s.PutFacts(ctx, id, inventory.SourceAgent, withBIOS(version), noon.Add(-time.Duration(i)*time.Hour))
		ok(t, err)
	}
	if got := must[inventory.Facts](t)(s.MergedFacts(ctx, id)); got.BIOS.Version != "2" {
		t.Errorf("BIOS after the clock went back = %s; want 2, the content reported last", got.BIOS.Version)
	}
}

// Two programs that recorded reports at once could give them one time, until writers
// under PostgreSQL waited for each other.
func TestOfTwoReportsOfOneTimeTheLastRecordedOneHolds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		id := observe(t, s, seen("", uuidA, 1)).ID
		for i, version := range []string{"1", "2", "3"} {
			_, _, err := s.PutFacts(ctx, id, inventory.SourceAgent, withBIOS(version), noon.Add(time.Duration(i)*time.Minute))
			ok(t, err)
		}
		// The newest is written first, so that no order of rows shows it last.
		for _, row := range []string{"max(id)", "max(id) - 1", "max(id) - 2"} {
			ok(t, s.Exec(ctx, "UPDATE observations SET first_seen = (SELECT max(first_seen) FROM observations) WHERE id = (SELECT "+row+" FROM observations)"))
		}
		if got := must[map[inventory.Source]inventory.Document](t)(s.Facts(ctx, id))[inventory.SourceAgent].Facts.BIOS.Version; got != "3" {
			t.Errorf("Facts shows BIOS %s; want 3, which was recorded last", got)
		}
		if got := must[map[uuid.UUID]inventory.Facts](t)(s.FactsOf(ctx, id))[id].BIOS.Version; got != "3" {
			t.Errorf("FactsOf shows BIOS %s; want 3, which was recorded last", got)
		}
	})
}

func TestPutFactsRefusesBadDocuments(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		id := observe(t, s, seen("", uuidA, 1)).ID
		if _, _, err := s.PutFacts(ctx, uuidB, inventory.SourceAgent, full, noon); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("PutFacts(unknown machine) = %v; want ErrNotFound", err)
		}
		if _, _, err := s.PutFacts(ctx, id, "", full, noon); err == nil {
			t.Error("PutFacts without a source = nil; want an error")
		}
		bad := full
		bad.BIOS = &inventory.BIOS{Version: "1\x002"}
		if _, _, err := s.PutFacts(ctx, id, inventory.SourceAgent, bad, noon); err == nil || !strings.Contains(err.Error(), "bios.version") {
			t.Errorf("PutFacts with a NUL = %v; want an error that names bios.version", err)
		}
		if _, err := s.MergedFacts(ctx, id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("MergedFacts without facts = %v; want ErrNotFound", err)
		}
	})
}

// rows reads a projection as JSON, without its row ids.
func rows(t *testing.T, s *store.Store, table string) string {
	t.Helper()
	raw, err := json.Marshal(must[[]map[string]any](t)(s.Rows(t.Context(), "SELECT * FROM "+table+" ORDER BY machine_id, id")))
	ok(t, err)
	return string(raw)
}

func TestProjectionHoldsEveryFactAndIsRebuilt(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		id := observe(t, s, seen("", uuidA, 1)).ID
		_, _, err := s.PutFacts(ctx, id, inventory.SourceAgent, full, noon)
		ok(t, err)
		for what, query := range map[string]string{
			"scalars": `SELECT count(*) FROM machine_facts WHERE memory_bytes = 68719476736 AND cpu_model = 'Xeon Gold 6312U' AND cpu_vendor = 'GenuineIntel'
				AND cpu_architecture = 'amd64' AND cpu_cores = 24 AND cpu_threads = 48 AND cpu_sockets = 1 AND cpu_max_speed_mhz = 3600
				AND system_manufacturer = 'Dell Inc.' AND system_product = 'PowerEdge XR12' AND system_serial = '7XK2Q93'
				AND bios_vendor = 'Dell Inc.' AND bios_version = '1.9.2' AND bios_date = '11/17/2023' AND firmware_mode = 'uefi' AND NOT secure_boot
				AND tpm_version = '2.0' AND bmc_address = '172.22.1.11' AND kernel_release = '6.1.0-41-amd64'
				AND disks_observed AND nics_observed AND memory_modules_observed AND pci_functions_observed`,
			"disk": `SELECT count(*) FROM disks WHERE name = 'nvme0n1' AND by_id = 'nvme-SAMSUNG_S4EVNX0N' AND wwn = 'eui.002538b411b2cb2a' AND serial = 'S4EVNX0N'
				AND vendor = 'Samsung' AND model = 'PM9A3' AND firmware_rev = 'GDC5602Q' AND bytes = 960197124096 AND logical_block_bytes = 512
				AND physical_block_bytes = 4096 AND NOT rotational AND bus = 'nvme' AND path = 'pci-0000:01:00.0-nvme-1'`,
			"absent is NULL": `SELECT count(*) FROM disks WHERE name = 'sda' AND serial IS NULL AND wwn IS NULL AND model IS NULL AND logical_block_bytes IS NULL AND rotational`,
			"nic": `SELECT count(*) FROM nics WHERE name = 'eno1' AND mac = '52:54:00:00:00:01' AND driver = 'igc' AND pci = '0000:02:00.0' AND vendor = '8086'
				AND device = '15f2' AND speed_mbps = 2500 AND boot`,
			"module": `SELECT count(*) FROM memory_modules WHERE locator = 'A1' AND bytes = 68719476736 AND type = 'DDR4' AND speed_mts = 3200
				AND manufacturer = 'Hynix' AND part = 'HMAA' AND serial = '8A1B' AND ecc`,
			"pci": `SELECT count(*) FROM pci_functions WHERE address = '0000:02:00.0' AND class = '020000' AND vendor = '8086' AND device = '15f2' AND driver = 'igc'`,
		} {
			if n := must[int64](t)(s.Number(ctx, query)); n != 1 {
				t.Errorf("projection of %s: %d rows fit; want 1", what, n)
			}
		}
		before := map[string]string{}
		for _, table := range projections {
			before[table] = rows(t, s, table)
			ok(t, s.Exec(ctx, "DELETE FROM "+table))
		}
		ok(t, s.RebuildProjection(ctx))
		for _, table := range projections {
			if got := rows(t, s, table); got != before[table] {
				t.Errorf("%s after RebuildProjection = %s; want %s", table, got, before[table])
			}
		}
	})
}

// TestCatalogOfAnotherPrecedenceIsProjectedAtOpen opens a catalog whose projection
// prefers the agent's address of a BMC to Redfish's, as version 2 did.
func TestCatalogOfAnotherPrecedenceIsProjectedAtOpen(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		s := must[*store.Store](t)(store.Open(ctx, cfg))
		id := observe(t, s, seen("", uuidA, 1)).ID
		for source, address := range map[inventory.Source]string{inventory.SourceAgent: "172.22.1.11", inventory.SourceRedfish: "172.22.1.12"} {
			_, _, err := s.PutFacts(ctx, id, source, inventory.Facts{BMC: &inventory.BMCFacts{Address: address}}, noon)
			ok(t, err)
		}
		ok(t, s.Exec(ctx, "UPDATE machine_facts SET bmc_address = '172.22.1.11'"))
		ok(t, s.Settings().Put(ctx, "projection.version", []byte("2")))
		ok(t, s.Close())
		s = storetest.Open(t, cfg)
		if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM machine_facts WHERE bmc_address = '172.22.1.12'")); n != 1 {
			t.Errorf("machine_facts after Open = %s; want Redfish's address of the BMC", rows(t, s, "machine_facts"))
		}
		if got := must[[]byte](t)(s.Settings().Get(ctx, "projection.version")); string(got) == "2" {
			t.Error("the version of the projection after Open = 2; want that of this program")
		}
	})
}

// TestProjectionOfAnOlderProgramIsMended has one that goes on running when this
// program has migrated the catalog: it knows nothing of the columns that tell which
// lists were looked for.
func TestProjectionOfAnOlderProgramIsMended(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		s := must[*store.Store](t)(store.Open(ctx, cfg))
		f := full
		f.PCI = []inventory.PCI{}
		id := observe(t, s, store.Observation{MACs: []inventory.MAC{mac(1)}, Source: inventory.SourceAgent, Facts: &f}).ID
		bare := observe(t, s, store.Observation{MACs: []inventory.MAC{mac(2)}, Source: inventory.SourceIPMI, Facts: &inventory.Facts{System: &inventory.System{Product: "X"}}}).ID
		before := rows(t, s, "machine_facts")
		older := func() {
			t.Helper()
			ok(t, s.Exec(ctx, `UPDATE machine_facts SET disks_observed = FALSE, nics_observed = FALSE, memory_modules_observed = FALSE, pci_functions_observed = FALSE, neighbors_observed = FALSE`))
			if rows(t, s, "machine_facts") == before {
				t.Fatal("the projection is as it was; want that of an older program")
			}
		}
		older()
		report(t, s, id, f) // the same as before
		if got := rows(t, s, "machine_facts"); got != before {
			t.Errorf("machine_facts after the same report = %s; want %s", got, before)
		}
		older()
		ok(t, s.Close())
		s = storetest.Open(t, cfg)
		if got := rows(t, s, "machine_facts"); got != before {
			t.Errorf("machine_facts after Open = %s; want %s", got, before)
		}
		if got := must[inventory.Facts](t)(s.MergedFacts(ctx, bare)); got.Disks != nil {
			t.Errorf("facts of a machine of which only its BMC tells = %+v; want no lists", got)
		}
	})
}

func TestProjectionFollowsTheLatestFacts(t *testing.T) {
	ctx, s := t.Context(), storetest.Open(t, storetest.SQLite(t))
	id := observe(t, s, seen("", uuidA, 1)).ID
	_, _, err := s.PutFacts(ctx, id, inventory.SourceAgent, full, noon)
	ok(t, err)
	fewer := full
	fewer.Disks, fewer.TPM, fewer.PCI, fewer.NICs = full.Disks[:1], nil, nil, []inventory.NIC{}
	_, _, err = s.PutFacts(ctx, id, inventory.SourceAgent, fewer, noon.Add(time.Minute))
	ok(t, err)
	if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM disks")); n != 1 {
		t.Errorf("disks after one was pulled = %d; want 1", n)
	}
	if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM machine_facts WHERE tpm_version IS NULL")); n != 1 {
		t.Error("tpm_version after the TPM was gone is kept; want NULL")
	}
	if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM machine_facts WHERE disks_observed AND nics_observed AND NOT pci_functions_observed")); n != 1 {
		t.Errorf("machine_facts = %s; want ports looked for, and PCI functions not", rows(t, s, "machine_facts"))
	}
}

func TestSQLiteCatalogKnowsRegexp(t *testing.T) {
	cfg := storetest.SQLite(t)
	var calls atomic.Int32
	cfg.Match = func(pattern, text string) (bool, error) {
		calls.Add(1)
		return strings.HasPrefix(text, pattern), nil
	}
	s := storetest.Open(t, cfg)
	observe(t, s, store.Observation{MACs: []inventory.MAC{mac(1)}, Source: inventory.SourceAgent, Facts: &full})
	for pattern, want := range map[string]int{"Xeon": 1, "EPYC": 0} {
		got := must[store.Page](t)(s.Page(t.Context(), store.PageRequest{Filter: where("regexp(?, machine_facts.cpu_model)", pattern)}))
		if len(got.Machines) != want {
			t.Errorf("Page(regexp %s) = %d machines; want %d", pattern, len(got.Machines), want)
		}
	}
	if calls.Load() != 2 {
		t.Errorf("Config.Match was called %d times; want 2", calls.Load())
	}
	plain := storetest.Open(t, storetest.SQLite(t))
	observe(t, plain, store.Observation{MACs: []inventory.MAC{mac(1)}, Source: inventory.SourceAgent, Facts: &full})
	if got := must[store.Page](t)(plain.Page(t.Context(), store.PageRequest{Filter: where("regexp(?, machine_facts.cpu_model)", `Gold \d{4}U$`)})); len(got.Machines) != 1 {
		t.Errorf("Page(regexp) without Config.Match = %d machines; want 1", len(got.Machines))
	}
}

func TestDisagreementOfSourcesIsToldOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		id := observe(t, s, seen("", uuidA, 1)).ID
		put := func(source inventory.Source, version, product string) {
			t.Helper()
			_, _, err := s.PutFacts(ctx, id, source, inventory.Facts{BIOS: &inventory.BIOS{Version: version}, System: &inventory.System{Product: product}}, time.Time{})
			ok(t, err)
		}
		told := func() []inventory.Event {
			t.Helper()
			return must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{Machine: id, Kinds: []inventory.EventKind{inventory.EventFactsDisagree}}))
		}
		put(inventory.SourceAgent, "1.2", "X")
		put(inventory.SourceRedfish, "1.2", "X")
		if got := told(); len(got) != 0 {
			t.Errorf("events of sources that agree = %+v; want none", got)
		}
		put(inventory.SourceRedfish, "1.1", "X")
		put(inventory.SourceAgent, "1.2", "Y")
		put(inventory.SourceAgent, "1.2", "Y2")
		got := told()
		var paths []string
		for _, e := range got {
			paths = append(paths, e.Attrs["path"])
		}
		if strings.Join(paths, " ") != "bios.version system.product system.product" || got[0].Attrs["agent"] != `"1.2"` || got[0].Attrs["redfish"] != `"1.1"` {
			t.Errorf("events = %+v; want one for the BIOS and two for the product, with what each source says", got)
		}
		put(inventory.SourceRedfish, "1.2", "Y2")
		if got := told(); len(got) != 3 {
			t.Errorf("%d events after the sources agree; want no more than 3", len(got))
		}
	})
}
