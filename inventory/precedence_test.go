package inventory_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/manual"
)

// TestDocumentedPrecedence keeps docs/catalog.md and the table that Merge uses
// together.
func TestDocumentedPrecedence(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "docs", "catalog.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)
	for _, p := range inventory.Precedences() {
		names := make([]string, len(p.Sources))
		for i, s := range p.Sources {
			names[i] = string(s)
		}
		what := "all others"
		if p.Path != "" {
			what = "`" + p.Path + "`"
		}
		if row := fmt.Sprintf("\n| %s | %s | %s |\n", what, strings.Join(names, ", "), p.Why); !strings.Contains(page, row) {
			t.Errorf("docs/catalog.md lacks the row%s", row)
		}
	}
	quoted := make([]string, 0, 8)
	for _, path := range inventory.PlaceholderPaths() {
		quoted = append(quoted, "`"+path+"`")
	}
	last := len(quoted) - 1
	if text := "In " + strings.Join(quoted[:last], ", ") + " and " + quoted[last] + " a placeholder"; !strings.Contains(page, text) {
		t.Errorf("docs/catalog.md does not say %q", text)
	}
}

func TestPrecedencesNameFacts(t *testing.T) {
	paths := manual.Paths()
	for _, p := range inventory.Precedences() {
		if p.Path != "" && !slices.ContainsFunc(paths, func(path string) bool { return strings.HasPrefix(path, p.Path+".") }) {
			t.Errorf("precedence of %q, which is no part of the facts", p.Path)
		}
		if len(p.Sources) == 0 || p.Why == "" || slices.Contains(p.Sources, "") {
			t.Errorf("precedence of %q = %+v; want sources and a reason", p.Path, p)
		}
		if !slices.Contains(p.Sources, inventory.SourceManual) {
			t.Errorf("precedence of %q does not say where people stand", p.Path)
		}
	}
	for _, path := range inventory.PlaceholderPaths() {
		if !slices.Contains(paths, path) {
			t.Errorf("%q, which is no fact, may hold placeholders", path)
		}
	}
}

func TestMergeBelievesTheRightSource(t *testing.T) {
	const agent, redfish, ipmi, written = inventory.SourceAgent, inventory.SourceRedfish, inventory.SourceIPMI, inventory.SourceManual
	system := func(serial, uuid string) inventory.Facts {
		return inventory.Facts{System: &inventory.System{Serial: serial, UUID: uuid}}
	}
	tag := func(tag string) inventory.Facts { return inventory.Facts{Chassis: &inventory.Chassis{AssetTag: tag}} }
	bmc := func(firmware string) inventory.Facts {
		return inventory.Facts{BMC: &inventory.BMCFacts{Firmware: firmware}}
	}
	const uuidA, uuidB, junk = "4c4c4544-0058-4b10-8032-b7c04f513933", "564d1c2e-6b1a-4a5d-9d0e-3f8a7c2b1d90", "03000200-0400-0500-0006-000700080009"
	for name, c := range map[string]struct {
		from map[inventory.Source]inventory.Facts
		want inventory.Facts
	}{
		"the agent before others": {
			map[inventory.Source]inventory.Facts{agent: system("A-1", uuidA), redfish: system("B-1", uuidB), written: system("C-1", uuidB)}, system("A-1", uuidA),
		},
		"a placeholder gives way": {
			map[inventory.Source]inventory.Facts{agent: system("Default string", junk), redfish: system("B-1", uuidB), written: system("C-1", "")}, system("B-1", uuidB),
		},
		"a placeholder gives way to a person": {
			map[inventory.Source]inventory.Facts{agent: system("Default string", junk), redfish: system("0000000", ""), written: system("7", uuidA)}, system("7", uuidA),
		},
		"a placeholder is better than nothing": {
			map[inventory.Source]inventory.Facts{agent: system("Default string", junk), redfish: system("None", "")}, system("Default string", junk),
		},
		"people know asset tags": {
			map[inventory.Source]inventory.Facts{agent: tag("from the factory"), written: tag("42")}, tag("42"),
		},
		"firmware knows an asset tag that nobody wrote": {
			map[inventory.Source]inventory.Facts{agent: tag("No Asset Tag"), redfish: tag("R-42")}, tag("R-42"),
		},
		"a BMC knows itself": {
			map[inventory.Source]inventory.Facts{agent: bmc("1"), redfish: bmc("2"), ipmi: bmc("3"), written: bmc("4")}, bmc("2"),
		},
		"a BMC that only the host asked": {
			map[inventory.Source]inventory.Facts{agent: bmc("1"), written: bmc("4")}, bmc("1"),
		},
		"a list comes whole, also from a person": {
			map[inventory.Source]inventory.Facts{agent: {Disks: []inventory.Disk{{Name: "sda"}}}, written: {Disks: []inventory.Disk{{Name: "x"}}, PCI: []inventory.PCI{{Address: "p"}}}},
			inventory.Facts{Disks: []inventory.Disk{{Name: "sda"}}, PCI: []inventory.PCI{{Address: "p"}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			c.want.SchemaVersion = inventory.SchemaVersion
			if got := inventory.Merge(c.from); !reflect.DeepEqual(got, c.want) {
				t.Errorf("Merge = %+v; want %+v", inventory.Diff(c.want, got), "no difference")
			}
		})
	}
}

// TestMergeIsThatOfAllFields holds the short way for the parts that one source alone
// tells to the long one, over random parts of random sources.
func TestMergeIsThatOfAllFields(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	yes := true
	systems := []*inventory.System{nil, nil, {}, {Serial: "To Be Filled By O.E.M.", Product: "A"}, {Serial: "7XK2Q93", Manufacturer: "Dell Inc."}, {UUID: uuid.Nil.String()}}
	chassis := []*inventory.Chassis{nil, nil, {AssetTag: "Default string"}, {AssetTag: "0421-7", Serial: "C1"}}
	bios := []*inventory.BIOS{nil, nil, {Version: "1.9.2"}, {Version: "1.9", Vendor: "AMI"}}
	cpus := []*inventory.CPU{nil, nil, {Flags: []string{"vmx", "aes"}, Cores: 8}, {Flags: []string{}, Model: "N100"}}
	memories := []*inventory.Memory{nil, nil, {Bytes: 8 << 30}, {Modules: []inventory.MemoryModule{}}, {Modules: []inventory.MemoryModule{{Locator: "B"}, {Locator: "A", ECC: &yes}}}}
	disks := [][]inventory.Disk{nil, nil, {}, {{Name: "sdb"}, {Name: "sda", Rotational: &yes, Signatures: []string{"gpt"}}}}
	nics := [][]inventory.NIC{nil, nil, {}, {{Name: "b", MAC: inventory.MAC{2, 1}}, {Name: "a", MAC: inventory.MAC{2}}}}
	neighbors := [][]inventory.Neighbor{nil, nil, {}, {{MAC: inventory.MAC{2, 1}, Port: "7"}, {MAC: inventory.MAC{2}, VLAN: 20}}}
	bmcs := []*inventory.BMCFacts{nil, nil, {Address: "172.22.1.11"}, {Address: "172.22.1.12", Firmware: "2.1"}}
	sources := []inventory.Source{inventory.SourceAgent, inventory.SourceRedfish, inventory.SourceIPMI, inventory.SourceLLDP, inventory.SourceManual}
	for range 2000 {
		from := map[inventory.Source]inventory.Facts{}
		for _, source := range sources {
			if rng.IntN(2) == 0 {
				continue
			}
			from[source] = inventory.Facts{
				System: one(rng, systems), Chassis: one(rng, chassis), BIOS: one(rng, bios), CPU: one(rng, cpus), Memory: one(rng, memories),
				Disks: one(rng, disks), NICs: one(rng, nics), Neighbors: one(rng, neighbors), BMC: one(rng, bmcs),
			}
		}
		want := inventory.MergeFields(from)
		want.SchemaVersion = inventory.SchemaVersion // also of nothing
		if got := inventory.Merge(from); !reflect.DeepEqual(got, want) {
			t.Fatalf("Merge(%+v) = %+v; want %+v", from, got, want)
		}
	}
}

func one[T any](rng *rand.Rand, of []T) T { return of[rng.IntN(len(of))] }
