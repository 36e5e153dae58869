package query

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

func TestMain(m *testing.M) { os.Exit(storetest.Run(m)) }

// TestEveryColumnIsTheCatalogs asks a real catalog, filled by its own
// projection, for every fact that column.go names.
func TestEveryColumnIsTheCatalogs(t *testing.T) {
	yes, no := true, false
	full := &inventory.Facts{
		SchemaVersion: inventory.SchemaVersion,
		System:        &inventory.System{Manufacturer: "Acme", Product: "Edge-5", Serial: "7XK2Q93"},
		BIOS:          &inventory.BIOS{Vendor: "AMI", Version: "1.2", Date: "11/17/2023"},
		Firmware:      &inventory.Firmware{Mode: "uefi", SecureBoot: &no},
		CPU:           &inventory.CPU{Architecture: "amd64", Vendor: "GenuineIntel", Model: "N100", Sockets: 1, Cores: 4, Threads: 4, MaxSpeedMHz: 3400},
		Memory: &inventory.Memory{Bytes: 8 << 30, Modules: []inventory.MemoryModule{
			{Locator: "A1", Bytes: 8 << 30, Type: "DDR5", SpeedMTs: 4800, Manufacturer: "M", Part: "P", Serial: "S", ECC: &yes},
		}},
		Disks: []inventory.Disk{{
			Name: "sda", ByID: "ata-x", WWN: "naa.5", Serial: "D1", Vendor: "V", Model: "M", FirmwareRev: "1", Bytes: 1 << 40,
			LogicalBlock: 512, PhysicalBlock: 4096, Rotational: &yes, Bus: "sata", Path: "pci-1", Signatures: []string{},
		}},
		NICs: []inventory.NIC{{
			Name: "eth0", MAC: mac(t, "52:54:00:04:21:01"), Driver: "igc", PCI: "0000:02:00.0", Vendor: "8086", Device: "15f2", SpeedMbs: 2500, Boot: true,
		}},
		Neighbors: []inventory.Neighbor{{
			MAC: mac(t, "52:54:00:04:21:01"), Chassis: "00:1b:21:00:00:0a", Port: "Gi1/0/7", PortDescription: "rack 3", System: "sw-1", Address: "172.22.9.1", VLAN: 20,
		}},
		PCI:    []inventory.PCI{{Address: "0000:02:00.0", Class: "020000", Vendor: "8086", Device: "15f2", Driver: "igc"}},
		BMC:    &inventory.BMCFacts{Address: "172.22.1.11"},
		TPM:    &inventory.TPM{Version: "2.0"},
		Kernel: &inventory.Kernel{Release: "6.1.0"},
	}
	sparse := &inventory.Facts{
		SchemaVersion: inventory.SchemaVersion,
		Disks:         []inventory.Disk{{Name: "sda", Bytes: 1 << 30, Signatures: []string{}}},
		NICs:          []inventory.NIC{{Name: "eth0", MAC: mac(t, "52:54:00:04:21:02")}},
	}
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		cfg.Match = Match
		s := storetest.Open(t, cfg)
		dialect := SQLite
		if s.Dialect() == "postgres" {
			dialect = Postgres
		}
		var docs []Doc
		for i, f := range []*inventory.Facts{full, sparse, nil, withoutMembers()} {
			o := store.Observation{MACs: []inventory.MAC{{0x52, 0x54, 0, 4, 0x21, byte(i + 1)}}, Source: inventory.SourceAgent, Facts: f}
			m, _, err := s.Observe(t.Context(), "store-0421", o)
			if err != nil {
				t.Fatal(err)
			}
			if i == 0 {
				if m, err = s.SetTags(t.Context(), m.ID, map[string]string{"location": "back room"}, nil, nil); err != nil {
					t.Fatal(err)
				}
				lease := inventory.Lease{
					Network: "edge", MAC: o.MACs[0], Address: "172.22.0.11", Hostname: "a", State: inventory.LeaseActive, Starts: time.Now(), Expires: time.Now().Add(time.Hour),
				}
				if err := s.Commit(t.Context(), lease); err != nil {
					t.Fatal(err)
				}
				if _, _, err := s.PutFacts(t.Context(), m.ID, inventory.SourceRedfish, inventory.Facts{}, time.Time{}); err != nil {
					t.Fatal(err)
				}
				board := inventory.Facts{Baseboard: &inventory.Board{Serial: "B1"}}
				if _, _, err := s.PutFacts(t.Context(), m.ID, inventory.SourceRedfish, board, time.Time{}); err != nil {
					t.Fatal(err)
				}
			}
			subject, err := s.Subject(t.Context(), m.ID)
			if err != nil {
				t.Fatal(err)
			}
			docs = append(docs, DocOf(subject, time.Now()))
		}
		expressions := []string{
			`regex("^Edge-[0-9]$", facts.system.product)`, `glob("Edge*", facts.system.product)`, `any(facts.nics[*].boot)`,
			fmt.Sprintf(`machine.id == %q`, docs[1].machine.ID), `facts.memory.bytes * 2 == GiB(16)`,
			`machine.tags.location == "back room"`, `missing(machine.tags)`, `machine.tags["location"] != "x"`, `missing(machine.tags.nothing)`,
			`changed(facts.baseboard.serial, "1h")`, `changed(facts.baseboard, "1h")`, `!changed(facts.bios.version, "7d")`, `missing(changed(facts.disks, "1d"))`,
			`any([for l in machine.leases : l.network == "edge" && l.address == "172.22.0.11"])`,
		}
		for _, object := range wholes {
			expressions = append(expressions, "missing("+object+")", "!missing("+object+")")
		}
		for path := range columns {
			expressions = append(expressions, "missing("+path+")", "!missing("+path+")")
		}
		for path, table := range tables {
			expressions = append(expressions, "missing("+path+")", "!missing("+path+")", "length("+path+") == 1", "length("+path+") == 0",
				"any([for v in "+path+" : true])", "!any([for v in "+path+" : true])", "all([for v in "+path+" : false])", "missing(all([for v in "+path+" : false]))")
			for name := range table.columns {
				v := strings.TrimSuffix("v."+name, ".")
				expressions = append(expressions, fmt.Sprintf("any([for v in %s : missing(%s)])", path, v), fmt.Sprintf("all([for v in %s : !missing(%s)])", path, v))
			}
		}
		for _, src := range expressions {
			e, diags := Parse(src, Machine)
			if diags.HasErrors() {
				t.Errorf("Parse(%s): %v", src, diags)
				continue
			}
			var want []uuid.UUID
			for _, d := range docs {
				if r, _ := e.Eval(d); r == True {
					want = append(want, d.machine.ID)
				}
			}
			f, err := e.Filter(dialect, src, time.Now())
			if err != nil {
				t.Errorf("Filter(%s): %v", src, err)
				continue
			}
			found, err := s.Page(t.Context(), store.PageRequest{Site: "store-0421", Filter: f})
			if err != nil {
				t.Errorf("Page(%s): %v", src, err)
				continue
			}
			got := map[uuid.UUID]bool{}
			for _, m := range found.Machines {
				got[m.ID] = true
			}
			if keys := slices.SortedFunc(maps.Keys(got), compareIDs); !slices.Equal(keys, slices.SortedFunc(slices.Values(want), compareIDs)) {
				t.Errorf("Page(%s) finds %v; want %v", src, keys, want)
			}
		}
	})
}

// TestAgesAreAskedOfTheCatalog asks a real catalog how long ago its machines were seen
// and looked at.
func TestAgesAreAskedOfTheCatalog(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		now := noon
		cfg.Now = func() time.Time { return now }
		s := storetest.Open(t, cfg)
		for i, age := range []string{"8d", "7d", "167h59m59.999999s", "0s"} {
			window, err := ParseDuration(age)
			if err != nil {
				t.Fatal(err)
			}
			now = noon.Add(-window)
			o := store.Observation{MACs: []inventory.MAC{{0x52, 0x54, 0, 4, 0x21, byte(i + 1)}}, Serial: "SEEN-" + age}
			if i > 0 {
				o.Source, o.Facts = inventory.SourceAgent, &inventory.Facts{CPU: &inventory.CPU{Cores: 4}}
			}
			if _, _, err := s.Observe(t.Context(), "store-0421", o); err != nil {
				t.Fatal(err)
			}
		}
		for src, want := range map[string]string{
			`older(machine.last_seen, "7d")`:                                                            "7d 8d",
			`!older(machine.last_seen, "7d")`:                                                           "0s 167h59m59.999999s",
			`older(machine.looked_at, "7d")`:                                                            "7d",
			`older(machine.looked_at, "7d") || missing(machine.looked_at)`:                              "7d 8d",
			`missing(facts)`:                                                                            "8d",
			`facts.cpu.cores == 4 && !older(machine.looked_at, "1d")`:                                   "0s",
			`machine.drift == "none" && older(machine.looked_at, "7d")`:                                 "",
			`any([for m in machine.macs : m == "52:54:00:04:21:02" && older(machine.last_seen, "7d")])`: "7d",
		} {
			e, diags := Parse(src, Machine)
			if diags.HasErrors() {
				t.Errorf("Parse(%s): %v", src, diags)
				continue
			}
			f, err := e.Filter(DialectOf(s.Dialect()), src, noon)
			if err != nil {
				t.Errorf("Filter(%s): %v", src, err)
				continue
			}
			p, err := s.Page(t.Context(), store.PageRequest{Filter: f})
			if err != nil {
				t.Errorf("Page(%s): %v", src, err)
			}
			var got []string
			for _, m := range p.Machines {
				got = append(got, strings.TrimPrefix(m.Serial, "SEEN-"))
			}
			slices.Sort(got)
			if strings.Join(got, " ") != want {
				t.Errorf("Page(%s) finds %s; want %s", src, got, want)
			}
		}
	})
}

// TestAnInstallationChangesNoHardware reports from the installer and then from what was
// installed, which calls the same hardware otherwise.
func TestAnInstallationChangesNoHardware(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		report := func(disk inventory.Disk, nic inventory.NIC, release string) inventory.Facts {
			disk.Serial, disk.Bytes, nic.MAC = "S4EVNX0N", 1<<40, mac(t, "52:54:00:04:21:01")
			return inventory.Facts{Disks: []inventory.Disk{disk}, NICs: []inventory.NIC{nic}, Kernel: &inventory.Kernel{Release: release}}
		}
		installer := report(inventory.Disk{Name: "sda", Signatures: []string{}}, inventory.NIC{Name: "eth0", Boot: true}, "6.12.0")
		installed := report(inventory.Disk{Name: "sdb", Signatures: []string{"gpt"}}, inventory.NIC{Name: "enp1s0", Driver: "igc"}, "6.1.0")
		swapped := installed
		swapped.Disks = []inventory.Disk{{Name: "sdb", Serial: "S4EVNX0P", Bytes: 1 << 40, Signatures: []string{"gpt"}}}
		m, _, err := s.Observe(t.Context(), "store-0421", store.Observation{MACs: []inventory.MAC{mac(t, "52:54:00:04:21:01")}, Source: inventory.SourceAgent, Facts: &installer})
		if err != nil {
			t.Fatal(err)
		}
		for i, step := range []struct {
			facts inventory.Facts
			want  map[string]bool
		}{
			{installed, map[string]bool{`changed(facts.disks, "7d")`: false, `changed(facts.nics, "7d")`: false, `changed(facts.kernel, "7d")`: true}},
			{swapped, map[string]bool{`changed(facts.disks, "7d")`: true, `changed(facts.nics, "7d")`: false}},
		} {
			if _, _, err := s.PutFacts(t.Context(), m.ID, inventory.SourceAgent, step.facts, time.Time{}); err != nil {
				t.Fatal(err)
			}
			for src, want := range step.want {
				e, diags := Parse(src, Machine)
				if diags.HasErrors() {
					t.Fatal(diags)
				}
				f, err := e.Filter(DialectOf(s.Dialect()), src, time.Now())
				if err != nil {
					t.Fatal(err)
				}
				p, err := s.Page(t.Context(), store.PageRequest{Filter: f})
				if err != nil || (len(p.Machines) == 1) != want {
					t.Errorf("report %d: Page(%s) finds %d machines, %v; want the machine: %t", i+2, src, len(p.Machines), err, want)
				}
			}
			if reports, err := s.FactsHistory(t.Context(), m.ID, ""); err != nil || len(reports) != i+2 {
				t.Errorf("history after report %d: %d entries, %v", i+2, len(reports), err)
			}
		}
	})
}

func compareIDs(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) }

// TestStrangersFiltersAreHarmless asks a real catalog what somebody might ask who
// means no good.
func TestStrangersFiltersAreHarmless(t *testing.T) {
	long := strings.Repeat("a", 4096)
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		cfg.Match = Match
		s := storetest.Open(t, cfg)
		o := store.Observation{
			MACs: []inventory.MAC{mac(t, "52:54:00:04:21:01")}, Source: inventory.SourceAgent,
			Facts: &inventory.Facts{System: &inventory.System{Product: long, Serial: "x'; DROP TABLE machines; --"}, CPU: &inventory.CPU{Cores: 4}},
		}
		if _, _, err := s.Observe(t.Context(), "store-0421", o); err != nil {
			t.Fatal(err)
		}
		deep := strings.Repeat("(", MaxDepth-2) + "facts.cpu.cores == 4" + strings.Repeat(")", MaxDepth-2)
		wide := "facts.cpu.cores == 4" + strings.Repeat(" && facts.cpu.cores == 4", 600)
		either := "facts.cpu.cores == 0" + strings.Repeat(" || facts.cpu.cores == 4", 600)
		mixed := "facts.cpu.cores == 4"
		for i := range 60 {
			word := []string{" || ", " && "}[i%2]
			mixed = "(" + mixed + strings.Repeat(word+"missing(facts.tpm)", 10) + ")"
		}
		for src, want := range map[string]int{
			`facts.system.serial == "x'; DROP TABLE machines; --"`:              1,
			`facts.system.serial == "' OR '1'='1"`:                              0,
			`machine.tags["x' OR '1'='1"] == "y"`:                               0,
			`machine.tags["a\") OR (\"1\"=\"1"] == "y' OR TRUE --"`:             0,
			`glob("x'; DROP*", facts.system.serial)`:                            1,
			`regex("'; DROP TABLE (machines|sites);", facts.system.serial)`:     1,
			`contains(["$1", "?", "'||(SELECT 1)||'"], facts.system.serial)`:    0,
			`any([for d in facts.disks : d.model == "\\'; DELETE FROM disks"])`: 0,
			`regex("(a*)*b", facts.system.product)`:                             0,
			`regex("(a|a)*(a|a)*(a|a)*(a|a)*b$", facts.system.product)`:         0,
			`regex("(.*a){12}b", facts.system.product)`:                         0,
			`regex("((a{0,9}){0,9}){0,9}b", facts.system.product)`:              0,
			`glob("*a*a*a*a*a*a*b", facts.system.product)`:                      0,
			deep:   1,
			wide:   1,
			either: 1,
			mixed:  1,
			"contains([0" + strings.Repeat(", 4", 1200) + "], facts.cpu.cores)":                      1,
			"contains([0" + strings.Repeat(", 4", 1200) + "], facts.cpu.threads)":                    0,
			`contains(["a"` + strings.Repeat(`, "7XK2Q93"`, 1000) + `], facts.system.serial)`:        0,
			strings.Repeat("missing(facts.cpu) || ", 700) + "facts.cpu.cores == 4":                   1,
			`any([for a in [1, 2, 4] : any([for b in [1, 2, 4] : facts.cpu.cores == a && a == b])])`: 1,
		} {
			e, diags := Parse(src, Machine)
			if diags.HasErrors() {
				t.Errorf("Parse(%.80s): %v", src, diags)
				continue
			}
			f, err := e.Filter(DialectOf(s.Dialect()), src, time.Now())
			if err != nil {
				t.Errorf("Filter(%.80s): %v", src, err)
				continue
			}
			began := time.Now()
			p, err := s.Page(t.Context(), store.PageRequest{Filter: f, Deadline: 20 * time.Second})
			if err != nil || len(p.Machines) != want {
				t.Errorf("Page(%.80s) = %d machines, %v; want %d", src, len(p.Machines), err, want)
			}
			if took := time.Since(began); took > endless {
				t.Errorf("Page(%.80s) took %v; want it answered at once", src, took)
			}
		}
		if all, err := s.Machines(t.Context(), store.MachineFilter{}); err != nil || len(all) != 1 {
			t.Errorf("machines afterwards: %d, %v; want the one there was", len(all), err)
		}
	})
	for src, want := range map[string]string{
		strings.Repeat("facts.cpu.cores == 4 && ", 5000) + "true":                                "at most 16384",
		strings.Repeat("(", 5000):                                                                "nested",
		strings.Repeat("!", 5000) + "true":                                                       "nests more than",
		strings.Repeat("any([for x in facts.disks : ", 100) + "true" + strings.Repeat("])", 100): "nest",
		`regex("` + strings.Repeat("a?", 300) + `", machine.site)`:                               "at most 512",
		`regex("(((a{100}){100}){100})", machine.site)`:                                          "invalid repeat count",
		`regex("(?P<x>a)\\1", machine.site)`:                                                     "invalid escape",
		`regex("a\\b", machine.site)`:                                                            "same in PostgreSQL",
		`regex("^a*\\x00", machine.site)`:                                                        "NUL",
		"machine.site == \"\xff\xfe\"":                                                           "UTF-8",
		`machine.site == "\u0000"`:                                                               "NUL",
		`facts.memmory.bytes > 1`:                                                                `Did you mean "memory"?`,
		`machine.tag.location == "x"`:                                                            `Did you mean "tags"?`,
		`any([for l in machine.leases : l.addres == "x"])`:                                       `Did you mean "address"?`,
		`change(facts.bios.version, "7d")`:                                                       `Did you mean "changed"?`,
		`changed(machine.state, "7d")`:                                                           "has none",
		`changed(facts.disks[0].serial, "7d")`:                                                   "has none",
		`changed(facts.bios.version, "-7d")`:                                                     "no time to look back",
		`changed(facts.bios.version, machine.site)`:                                              "known from declarations",
		`changed(facts.cpu.cores + 1, "7d")`:                                                     "a part of facts",
	} {
		began := time.Now()
		_, diags := Parse(src, Machine)
		if !diags.HasErrors() || !strings.Contains(diags.Error()+Format(src, diags), want) {
			t.Errorf("Parse(%.80s): %v; want a complaint that says %q", src, diags, want)
		}
		if took := time.Since(began); took > endless {
			t.Errorf("Parse(%.80s) took %v", src, took)
		}
	}
}
