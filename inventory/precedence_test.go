package inventory_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

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
