package query

import (
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// examples are the expressions of docs/query.md, with what must be found for a
// page: an index that leaves few machines, one that is walked, or machines in
// their order because most of them fit.
var examples = []string{
	`facts.memory.bytes >= GiB(8) && contains(facts.nics[*].driver, "igc")`,
	`any([for d in facts.disks : !d.rotational && d.bytes >= TiB(1)])`,
	`length([for d in facts.disks : d if d.bus == "nvme"]) >= 2`,
	`glob("NUC*", facts.system.product) || regex("^Edge-[0-9]+$", facts.system.product)`,
	`machine.state == "held" && missing(facts.tpm)`,
	`machine.tags.location == "back room"`,
	`changed(facts.bios.version, "7d")`,
	`any([for l in machine.leases : l.address == "172.22.0.57"])`,
	`facts.system.serial == "7XK2Q93"`,
}

// TestDocumentedExamplesAreMeasured keeps examples and docs/query.md together.
func TestDocumentedExamplesAreMeasured(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "query.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(page), "```hcl\n")
	block, _, _ = strings.Cut(block, "```")
	if got := strings.Split(strings.TrimSpace(block), "\n"); !slices.Equal(got, examples) {
		t.Errorf("the examples of docs/query.md are\n%s\nwant those that are measured:\n%s", strings.Join(got, "\n"), strings.Join(examples, "\n"))
	}
}

// measureRounds is how many pages of each example are timed.
const measureRounds = 200

// TestMeasureCatalog fills a catalog with synthetic machines and measures pages
// of 50 at 1,000, 10,000 and 100,000 of them, on SQLite and PostgreSQL, with every
// write synced. EDGE_BENCH names the file that the report is added to;
// EDGE_BENCH_MACHINES is the size, 100,000 when empty. `make bench` runs it, and
// nothing is asserted about time.
func TestMeasureCatalog(t *testing.T) {
	path := os.Getenv("EDGE_BENCH")
	if path == "" {
		t.Skip("a measurement, not a test: run by make bench")
	}
	size := 100_000
	if env := os.Getenv("EDGE_BENCH_MACHINES"); env != "" {
		var err error
		if size, err = strconv.Atoi(env); err != nil {
			t.Fatalf("EDGE_BENCH_MACHINES: %v", err)
		}
	}
	report, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer report.Close()
	t.Run("sqlite", func(t *testing.T) {
		measureCatalog(t, report, "SQLite", store.Config{Path: filepath.Join(t.TempDir(), "catalog.db")}, size)
	})
	t.Run("postgres", func(t *testing.T) {
		// PostgreSQL's documentation begins with a quarter of the host's memory; these
		// hold a third of the catalog.
		buffers := "256MB"
		if size > 100_000 {
			buffers = "2GB"
		}
		pg, err := storetest.Start(t.Context(), "fsync=on", "synchronous_commit=on", "full_page_writes=on", "shared_buffers="+buffers, "max_wal_size=4GB")
		if err != nil {
			// The report is what people read: it says what is missing from it.
			fmt.Fprintf(report, "\ncatalog on PostgreSQL: not measured: %v\n", err)
			t.Skipf("no PostgreSQL server to measure: %v", err)
		}
		defer pg.Stop()
		dsn, err := pg.NewDatabase(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		measureCatalog(t, report, "PostgreSQL", store.Config{DSN: dsn}, size)
	})
}

func measureCatalog(t *testing.T, report io.Writer, name string, cfg store.Config, size int) {
	cfg.Match = Match
	s := storetest.Open(t, cfg)
	rng := rand.New(rand.NewPCG(1, 2))
	fmt.Fprintf(report, "\ncatalog on %s, pages of %d, %d of each example\n", name, store.DefaultPageLimit, measureRounds)
	filled := 0
	for _, at := range []int{100, 1_000, 10_000, 100_000, 1_000_000} {
		if at > size {
			break
		}
		batch := 1
		if filled > 0 {
			batch = 200
		}
		began, from := time.Now(), filled
		for ; filled < at; filled += batch {
			ingest(t, s, rng, filled, batch)
		}
		took := time.Since(began)
		fmt.Fprintf(report, "%9d machines  %6.0f/s ingested, %d in a transaction  %s\n", at, float64(at-from)/took.Seconds(), batch, memoryInUse())
		floor := measureFloor(t, cfg)
		fmt.Fprintf(report, "%18s %s            the floor: %d rows of machines by their primary key, read and dropped\n", "", floor, store.DefaultPageLimit)
		for _, src := range examples {
			measurePages(t, report, s, floor, src, "", at)
		}
		measurePages(t, report, s, floor, "", "-last_seen", at)
		measurePages(t, report, s, floor, "", "-facts.memory.bytes", at)
	}
}

// spread is how long half of the tries took at most, and all but one in a hundred.
type spread struct{ p50, p99 time.Duration }

func spreadOf(times []time.Duration) spread {
	slices.Sort(times)
	at := func(percent int) time.Duration { return times[min(len(times)-1, len(times)*percent/100)] }
	return spread{at(50), at(99)}
}

// String gives milliseconds.
func (s spread) String() string {
	return fmt.Sprintf("p50 %7.2f ms  p99 %7.2f ms", float64(s.p50.Microseconds())/1000, float64(s.p99.Microseconds())/1000)
}

// measureFloor times the least that a page could be: the database's own driver, one
// connection, and as many rows of the one table in the order of its key.
func measureFloor(t *testing.T, cfg store.Config) spread {
	driver, name := "sqlite", cfg.Path
	if cfg.DSN != "" {
		driver, name = "pgx", cfg.DSN
	}
	db, err := sql.Open(driver, name)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	var times []time.Duration
	for range measureRounds {
		began := time.Now()
		rows, err := db.QueryContext(t.Context(), "SELECT * FROM machines ORDER BY id LIMIT "+strconv.Itoa(store.DefaultPageLimit))
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		row := make([]any, len(columns))
		for i := range row {
			row[i] = new(sql.RawBytes)
		}
		for rows.Next() {
			if err := rows.Scan(row...); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
		times = append(times, time.Since(began))
	}
	return spreadOf(times)
}

// measurePages follows the cursors of one query, from the start again at the end.
func measurePages(t *testing.T, report io.Writer, s *store.Store, floor spread, src, sort string, machines int) {
	r := store.PageRequest{Sort: sort}
	shown := "all, by " + sort
	if src != "" {
		shown = src
		e, diags := Parse(src, Machine)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		f, err := e.Filter(DialectOf(s.Dialect()), src, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		r.Filter = f
	}
	var times []time.Duration
	var examined, found, whole int
	complete := false
	for range measureRounds {
		began := time.Now()
		p, err := s.Page(t.Context(), r)
		times = append(times, time.Since(began))
		if err != nil {
			t.Fatalf("%s: %v", shown, err)
		}
		examined = max(examined, p.Examined)
		found += len(p.Machines)
		if r.Cursor = p.Next; p.Next == "" && !complete {
			complete, whole = true, found
		}
	}
	selectivity := "more than " + strconv.Itoa(found)
	if complete {
		selectivity = strconv.Itoa(whole)
	}
	took := spreadOf(times)
	fmt.Fprintf(report, "%18s %s  %5.1f×  %6d looked at most  %s of %d  %s\n", "", took, float64(took.p50)/float64(floor.p50), examined, selectivity, machines, shown)
}

// ingest is machines seen by their agents, and what else happens to some of
// them. One in a thousand is as the examples look for it, or as many as each of
// them says.
func ingest(t *testing.T, s *store.Store, rng *rand.Rand, from, count int) {
	t.Helper()
	one := func(in int) bool { return rng.IntN(in) == 0 }
	site := fmt.Sprintf("store-%04d", from/200)
	batch := make([]store.Observation, count)
	for i := range batch {
		f := synthetic(rng, from+i)
		batch[i] = store.Observation{Source: inventory.SourceAgent, Facts: &f}
	}
	seen, err := s.ObserveAll(t.Context(), site, batch)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range seen {
		if one(1000) {
			f := *batch[i].Facts
			f.BIOS = &inventory.BIOS{Vendor: "AMI", Version: "2.0", Date: "01/01/2026"}
			if _, _, err := s.PutFacts(t.Context(), o.Machine, inventory.SourceAgent, f, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		if one(1000) {
			if _, err := s.SetTags(t.Context(), o.Machine, map[string]string{"location": "back room"}, nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if one(100) {
			if err := s.SetState(t.Context(), o.Machine, inventory.StateHeld); err != nil {
				t.Fatal(err)
			}
		}
		if n := from + i; n%50 == 7 {
			now := time.Now()
			lease := inventory.Lease{
				Network: site, MAC: batch[i].Facts.NICs[0].MAC, Address: fmt.Sprintf("172.%d.%d.%d", 22+n>>16, n>>8&255, n&255),
				State: inventory.LeaseActive, Starts: now, Expires: now.Add(24 * time.Hour),
			}
			if err := s.Commit(t.Context(), lease); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// synthetic are the facts of a small server.
func synthetic(rng *rand.Rand, i int) inventory.Facts {
	one := func(in int) bool { return rng.IntN(in) == 0 }
	yes, no := true, false
	product := []string{"PowerEdge XR12", "ThinkEdge SE350", "ProLiant DL20", "SuperServer E100"}[rng.IntN(4)]
	switch {
	case one(1000):
		product = "NUC11TNHi5"
	case one(1000):
		product = "Edge-" + strconv.Itoa(rng.IntN(9))
	}
	f := inventory.Facts{
		System:   &inventory.System{Manufacturer: "Acme", Product: product, Serial: fmt.Sprintf("SN%07d", i), UUID: fmt.Sprintf("%08x-1111-4222-8333-%012x", i, i)},
		BIOS:     &inventory.BIOS{Vendor: "AMI", Version: fmt.Sprintf("1.%d", rng.IntN(20)), Date: "11/17/2023"},
		Firmware: &inventory.Firmware{Mode: "uefi", SecureBoot: &no},
		CPU:      &inventory.CPU{Architecture: "amd64", Vendor: "GenuineIntel", Model: "N100", Sockets: 1, Cores: 4 << rng.IntN(4), Threads: 8, MaxSpeedMHz: 3400, Flags: strings.Fields(strings.Repeat("avx2 sse4_2 aes ", 20))},
		Memory:   &inventory.Memory{Bytes: int64(4<<rng.IntN(5)) << 30},
		TPM:      &inventory.TPM{Version: "2.0"},
		Kernel:   &inventory.Kernel{Release: "6.1.0-41-amd64"},
	}
	if i == 42 {
		f.System.Serial = "7XK2Q93"
	}
	if one(10) {
		f.TPM = nil
	}
	for m := range 4 {
		f.Memory.Modules = append(f.Memory.Modules, inventory.MemoryModule{Locator: fmt.Sprintf("DIMM%d", m), Bytes: f.Memory.Bytes / 4, Type: "DDR5", SpeedMTs: 4800, Part: "M425R1GB4BB0", Serial: fmt.Sprintf("M%d-%d", i, m), ECC: &yes})
	}
	for d := range 1 + rng.IntN(3) {
		disk := inventory.Disk{Name: fmt.Sprintf("sd%c", 'a'+d), Serial: fmt.Sprintf("D%d-%d", i, d), Model: "PM9A3", Bytes: 480e9, LogicalBlock: 512, Rotational: &no, Bus: []string{"sata", "nvme"}[rng.IntN(2)], Signatures: []string{"gpt"}}
		if one(200) {
			disk.Bytes = 4e12
		}
		f.Disks = append(f.Disks, disk)
	}
	driver := "e1000e"
	if one(100) {
		driver = "igc"
	}
	for n := range 2 {
		f.NICs = append(f.NICs, inventory.NIC{Name: fmt.Sprintf("eth%d", n), MAC: inventory.MAC{2, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i), byte(n)}, Driver: driver, PCI: "0000:02:00.0", Vendor: "8086", Device: "15f2", SpeedMbs: 2500, Boot: n == 0})
	}
	for p := range 12 {
		f.PCI = append(f.PCI, inventory.PCI{Address: fmt.Sprintf("0000:%02x:00.0", p), Class: "020000", Vendor: "8086", Device: fmt.Sprintf("15f%x", p), Driver: "pcieport"})
	}
	return f
}

// memoryInUse is what the process holds, and held at most.
func memoryInUse() string {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	most := "?"
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		for line := range strings.Lines(string(status)) {
			if v, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				most = strings.TrimSpace(v)
			}
		}
	}
	return fmt.Sprintf("heap %d MiB, resident at most %s", m.HeapInuse>>20, most)
}
