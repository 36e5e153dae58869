package store_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// TestMeasureUpgrade measures how long Open takes that projects 10,000 and 100,000
// machines anew, on SQLite and PostgreSQL, with every write synced. EDGE_BENCH names
// the file that the report is added to; EDGE_BENCH_MACHINES is the greatest size,
// 100,000 when empty. `make bench` runs it, and nothing is asserted about time.
func TestMeasureUpgrade(t *testing.T) {
	path := os.Getenv("EDGE_BENCH")
	if path == "" {
		t.Skip("a measurement, not a test: run by make bench")
	}
	size := 100_000
	if env := os.Getenv("EDGE_BENCH_MACHINES"); env != "" {
		size = must[int](t)(strconv.Atoi(env))
	}
	report := must[*os.File](t)(os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644))
	defer report.Close()
	t.Run("sqlite", func(t *testing.T) {
		measureUpgrade(t, report, "SQLite", store.Config{Path: filepath.Join(t.TempDir(), "catalog.db")}, size)
	})
	t.Run("postgres", func(t *testing.T) {
		pg, err := storetest.Start(t.Context(), "fsync=on", "synchronous_commit=on", "full_page_writes=on", "shared_buffers=256MB", "max_wal_size=4GB")
		if err != nil {
			// The report is what people read: it says what is missing from it.
			fmt.Fprintf(report, "\nupgrade of a catalog on PostgreSQL: not measured: %v\n", err)
			t.Skipf("no PostgreSQL server to measure: %v", err)
		}
		defer pg.Stop()
		measureUpgrade(t, report, "PostgreSQL", store.Config{DSN: must[string](t)(pg.NewDatabase(t.Context()))}, size)
	})
}

func measureUpgrade(t *testing.T, report io.Writer, name string, cfg store.Config, size int) {
	fmt.Fprintf(report, "\nOpen of a catalog on %s whose projection is of another version\n", name)
	filled := 0
	for _, at := range []int{1_000, 10_000, 100_000, 1_000_000} {
		if at > size {
			break
		}
		s := must[*store.Store](t)(store.Open(t.Context(), cfg))
		for ; filled < at; filled += keptAtOnce {
			keepReports(t, s, filled)
		}
		for _, c := range []struct {
			what string
			age  []string
		}{
			{"nothing is projected yet", nil},
			{"other scalar facts of every machine", []string{"UPDATE machine_facts SET neighbors_observed = FALSE, bios_version = 'of old'"}},
			{"other rows of every machine in every table", []string{
				"UPDATE machine_facts SET neighbors_observed = FALSE", "UPDATE disks SET name = 'of old'", "UPDATE nics SET name = 'of old'",
				"UPDATE neighbors SET port = 'of old'", "UPDATE memory_modules SET locator = 'of old'", "UPDATE pci_functions SET address = 'of old'",
			}},
		} {
			for _, query := range c.age {
				ok(t, s.Exec(t.Context(), query))
			}
			ok(t, s.Settings().Put(t.Context(), "projection.version", []byte("3")))
			ok(t, s.Close())
			began := time.Now()
			s = must[*store.Store](t)(store.Open(t.Context(), cfg))
			fmt.Fprintf(report, "%9d machines  %7.1f s  %s\n", at, time.Since(began).Seconds(), c.what)
		}
		ok(t, s.Close())
	}
}

// keptAtOnce is how many machines keepReports makes.
const keptAtOnce = 500

// keepReports writes machines with what edge-agent reported of them, and what was heard
// on their ports, past the API: nothing is projected.
func keepReports(t *testing.T, s *store.Store, from int) {
	t.Helper()
	site := fmt.Sprintf("store-%04d", from/keptAtOnce)
	ok(t, insertAll(t, s, "sites (id, created_at)", []any{site, noon}))
	var machines, documents, observations [][]any
	for i := range keptAtOnce {
		id := uuid.Must(uuid.NewV7())
		hardware, heard := reports(from + i)
		machines = append(machines, []any{id, site, "discovered", noon, noon})
		for source, f := range map[inventory.Source]inventory.Facts{inventory.SourceAgent: hardware, inventory.SourceLLDP: heard} {
			content, digest, err := f.Canonical()
			ok(t, err)
			documents = append(documents, []any{digest, content})
			observations = append(observations, []any{id, string(source), digest, noon, noon})
		}
	}
	ok(t, insertAll(t, s, "machines (id, site, state, first_seen, last_seen)", machines...))
	ok(t, insertAll(t, s, "documents (id, content)", documents...))
	ok(t, insertAll(t, s, "observations (machine_id, source, digest, first_seen, last_seen)", observations...))
}

// insertAll writes rows in one statement.
func insertAll(t *testing.T, s *store.Store, into string, rows ...[]any) error {
	t.Helper()
	tuples, args := make([]string, len(rows)), []any{}
	for i, r := range rows {
		placeholders := make([]string, len(r))
		for j, v := range r {
			args = append(args, v)
			if placeholders[j] = "?"; s.Dialect() == "postgres" {
				placeholders[j] = fmt.Sprintf("$%d", len(args))
			}
		}
		tuples[i] = "(" + strings.Join(placeholders, ", ") + ")"
	}
	return s.Exec(t.Context(), "INSERT INTO "+into+" VALUES "+strings.Join(tuples, ", "), args...)
}

// reports are the facts of a small server, 24 rows of the projection.
func reports(i int) (hardware, heard inventory.Facts) {
	f := inventory.Facts{
		System:   &inventory.System{Manufacturer: "Acme", Product: "PowerEdge XR12", Serial: fmt.Sprintf("SN%07d", i), UUID: fmt.Sprintf("%08x-1111-4222-8333-%012x", i, i)},
		BIOS:     &inventory.BIOS{Vendor: "AMI", Version: fmt.Sprintf("1.%d", i%20), Date: "11/17/2023"},
		Firmware: full.Firmware, TPM: full.TPM, Kernel: full.Kernel,
		CPU:    &inventory.CPU{Architecture: "amd64", Vendor: "GenuineIntel", Model: "N100", Sockets: 1, Cores: 4 << (i % 4), Threads: 8, MaxSpeedMHz: 3400, Flags: strings.Fields(strings.Repeat("avx2 sse4_2 aes ", 20))},
		Memory: &inventory.Memory{Bytes: int64(4<<(i%5)) << 30},
	}
	for n := range 4 {
		f.Memory.Modules = append(f.Memory.Modules, inventory.MemoryModule{Locator: fmt.Sprintf("DIMM%d", n), Bytes: f.Memory.Bytes / 4, Type: "DDR5", SpeedMTs: 4800, Part: "M425R1GB4BB0", Serial: fmt.Sprintf("M%d-%d", i, n), ECC: &yes})
	}
	for n := range 2 {
		f.Disks = append(f.Disks, inventory.Disk{Name: fmt.Sprintf("sd%c", 'a'+n), Serial: fmt.Sprintf("D%d-%d", i, n), Model: "PM9A3", Bytes: 480e9, LogicalBlock: 512, Rotational: &no, Bus: "nvme", Signatures: []string{"gpt"}})
		port := inventory.MAC{2, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i), byte(n)}
		f.NICs = append(f.NICs, inventory.NIC{Name: fmt.Sprintf("eth%d", n), MAC: port, Driver: "igc", PCI: "0000:02:00.0", Vendor: "8086", Device: "15f2", SpeedMbs: 2500, Boot: n == 0})
		heard.Neighbors = append(heard.Neighbors, inventory.Neighbor{MAC: port, Chassis: "00:1b:21:00:00:01", Port: fmt.Sprintf("ge-0/0/%d", i%48), System: fmt.Sprintf("sw-%d", i/24), VLAN: 20})
	}
	for n := range 12 {
		f.PCI = append(f.PCI, inventory.PCI{Address: fmt.Sprintf("0000:%02x:00.0", n), Class: "020000", Vendor: "8086", Device: fmt.Sprintf("15f%x", n), Driver: "pcieport"})
	}
	return f, heard
}
