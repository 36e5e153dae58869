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
		for i, f := range []*inventory.Facts{full, sparse, nil} {
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
		for path := range columns {
			expressions = append(expressions, "missing("+path+")", "!missing("+path+")")
		}
		for path, table := range tables {
			expressions = append(expressions, "missing("+path+")", "length("+path+") == 1")
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

func compareIDs(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) }
