package query

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/inventory"
)

func mac(t testing.TB, s string) inventory.MAC {
	t.Helper()
	m, err := inventory.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// storeNode is the document of storeSubject, without the catalog's knowledge.
func storeNode(t testing.TB) Doc {
	s := storeSubject(t)
	return NewDoc(s.Machine, s.Facts)
}

// storeSubject is a machine with two disks, of which one does not say whether it
// rotates, no TPM and no PCI function; nobody looked for its memory modules. Its
// BIOS changed an hour before noon.
func storeSubject(t testing.TB) inventory.Subject {
	yes, no := true, false
	machine := inventory.Machine{
		ID:    uuid.MustParse("0190f5fe-7c00-7a00-8abc-012345678901"),
		Site:  "store-0421",
		MACs:  []inventory.MAC{mac(t, "52:54:00:04:21:01"), mac(t, "52:54:00:04:21:02")},
		State: inventory.StateHeld,
		Tags:  map[string]string{"location": "back room", "asset-1": "0042"}, Classes: []string{"old", "till"},
		FirstSeen: noon.Add(-30 * 24 * time.Hour), LastSeen: noon.Add(-time.Hour), LookedAt: noon.Add(-7 * 24 * time.Hour),
	}
	facts := &inventory.Facts{
		System:   &inventory.System{Manufacturer: "Acme", Product: "Edge-5 mini"},
		Firmware: &inventory.Firmware{Mode: "uefi", SecureBoot: &no},
		CPU:      &inventory.CPU{Cores: 4, Threads: 8, Flags: []string{"avx2", "sse4_2"}},
		Memory:   &inventory.Memory{Bytes: 8053063680}, // 7.5 GiB
		Disks: []inventory.Disk{
			{Name: "sda", Bytes: 4e12, Rotational: &yes, Bus: "sata", Signatures: []string{"gpt", "ext4"}},
			{Name: "nvme0n1", Bytes: 1 << 40, Model: "Größe 1", Bus: "nvme"},
		},
		NICs: []inventory.NIC{
			{Name: "eth0", MAC: mac(t, "52:54:00:04:21:01"), Driver: "igc", SpeedMbs: 2500, Boot: true},
			{Name: "eth1", MAC: mac(t, "52:54:00:04:21:02")},
		},
		PCI: []inventory.PCI{},
	}
	return inventory.Subject{
		Machine: machine, Facts: facts,
		Leases: []inventory.Lease{
			{Network: "edge", MAC: machine.MACs[0], Address: "172.22.0.11", State: inventory.LeaseActive, Expires: noon.Add(time.Hour)},
			{Network: "old", MAC: machine.MACs[0], Address: "172.23.0.11", State: inventory.LeaseActive, Expires: noon},
			{Network: "gone", MAC: machine.MACs[1], Address: "172.24.0.11", State: inventory.LeaseReleased, Expires: noon.Add(time.Hour)},
		},
		Changes: []inventory.FactChange{{Path: "bios", At: noon.Add(-time.Hour)}, {Path: "bios.version", At: noon.Add(-time.Hour)}},
	}
}

// withoutMembers is what was seen of a machine whose lists are all empty.
func withoutMembers() *inventory.Facts {
	return &inventory.Facts{
		CPU: &inventory.CPU{Flags: []string{}}, Memory: &inventory.Memory{Modules: []inventory.MemoryModule{}},
		Disks: []inventory.Disk{}, NICs: []inventory.NIC{}, PCI: []inventory.PCI{},
	}
}

func TestEvalAnswersTrueFalseOrAbsent(t *testing.T) {
	doc := storeNode(t)
	bare := NewDoc(inventory.Machine{State: inventory.StateDeclared}, nil)
	empty := NewDoc(inventory.Machine{}, &inventory.Facts{})
	none := NewDoc(inventory.Machine{}, withoutMembers())
	tests := []struct {
		doc  Doc
		expr string
		want Result
	}{
		{doc, `facts.memory.bytes >= GiB(7)`, True},
		{doc, `facts.memory.bytes >= GiB(8)`, False},
		{doc, `facts.memory.bytes / GiB(1) == 7.5`, True},
		{doc, `facts.memory.bytes / GiB(1) * 2 == 15`, True},
		{doc, `GiB(7.5) == facts.memory.bytes`, True},
		{doc, `facts.cpu.threads / facts.cpu.cores == 2`, True},
		{doc, `facts.cpu.threads / (facts.cpu.cores - 4) == 2`, Absent},
		{doc, `facts.cpu.cores / -2 == -2`, True},
		{doc, `facts.cpu.cores / (2 - facts.cpu.cores) == -2`, True},
		{doc, `facts.cpu.cores % 3 == 1`, True},
		{doc, `-facts.cpu.cores < 0.1`, True},
		{doc, `facts.memory.bytes * facts.memory.bytes > 0`, Absent},
		{doc, `facts.cpu.cores * 0.5 + 0.25 == 2.25`, True},
		{doc, `facts.cpu.max_speed_mhz > GHz(1)`, Absent},
		{doc, `!(facts.cpu.max_speed_mhz > GHz(1))`, Absent},
		{doc, `facts.cpu.max_speed_mhz > GHz(1) || true`, True},
		{doc, `facts.cpu.max_speed_mhz > GHz(1) && false`, False},
		{doc, `facts.cpu.max_speed_mhz > GHz(1) && true`, Absent},
		{doc, `missing(facts.cpu.max_speed_mhz)`, True},
		{doc, `missing(facts.cpu.max_speed_mhz > 3)`, True},
		{doc, `missing(facts.cpu.max_speed_mhz + 1)`, True},
		{doc, `missing(facts.tpm)`, True},
		{doc, `missing(facts.system)`, False},
		{doc, `missing(facts.disks)`, False},
		{doc, `missing(facts.memory.modules)`, True},
		{doc, `missing(facts.pci)`, False},
		{doc, `missing(facts.cpu.flags)`, False},
		{doc, `contains(facts.disks[1].signatures, "gpt")`, Absent},
		{doc, `contains(facts.disks[1].part_uuids, "0190f5fe-7c00-7a00-8abc-012345678901")`, False},
		{doc, `facts.firmware.secure_boot`, False},
		{doc, `!facts.firmware.secure_boot`, True},
		{doc, `facts.firmware.secure_boot == false`, True},
		{doc, `facts.firmware.secure_boot != (facts.cpu.cores == 4)`, True},
		{doc, `facts.firmware.mode == "uefi" ? facts.cpu.cores == 4 : false`, True},
		{doc, `(facts.cpu.cores > 2 ? 10 : 0.5) > 9`, True},
		{doc, `(facts.cpu.max_speed_mhz > 1 ? "a" : "b") == "b"`, Absent},
		{doc, `length(facts.disks) == 2`, True},
		{doc, `length(facts.pci) == 0`, True},
		{doc, `length([for d in facts.disks : d if d.rotational]) == 1`, True},
		{doc, `length([for d in facts.disks : d if !d.rotational]) == 0`, True},
		{doc, `any([for d in facts.disks : d.rotational])`, True},
		{doc, `all([for d in facts.disks : d.rotational])`, Absent},
		{doc, `any([for d in facts.disks : !d.rotational])`, Absent},
		{doc, `all([for d in facts.disks : !d.rotational])`, False},
		{doc, `any([for d in facts.disks : d.bytes > TB(3) if d.bus == "nvme"])`, False},
		{doc, `all([for d in facts.disks : d.bytes > TB(3) if d.bus == "sata"])`, True},
		{doc, `any(facts.nics[*].boot)`, True},
		{doc, `all(facts.nics[*].boot)`, False},
		{doc, `any([for d in facts.disks : contains(d.signatures, "ext4")])`, True},
		{doc, `any([for a in facts.nics : any([for b in facts.nics : a.mac == b.mac && a.name != b.name])])`, False},
		{doc, `any([for p in ["Edge-5*", "Rack*"] : glob(p, facts.system.product)])`, True},
		{doc, `all([for p in ["Edge-5*", "Rack*"] : glob(p, facts.system.product)])`, False},
		{doc, `any([for p in ["Edge-5*", "Rack*"] : glob(p, facts.system.product) if facts.cpu.cores == 1])`, False},
		{doc, `any([])`, False},
		{doc, `all([])`, True},
		{doc, `any([for d in facts.pci : true])`, False},
		{doc, `all([for d in facts.pci : false])`, True},
		{doc, `contains(facts.nics[*].driver, "igc")`, True},
		{doc, `contains(facts.nics[*].driver, "e1000e")`, Absent},
		{doc, `contains(facts.nics[*].speed_mbps, Gbps(2.5))`, True},
		{doc, `contains(["Acme", "Other"], facts.system.manufacturer)`, True},
		{doc, `contains([], facts.system.manufacturer)`, False},
		{doc, `contains(machine.macs, "52-54-00-04-21-01")`, True},
		{doc, `machine.id == "0190F5FE-7C00-7A00-8ABC-012345678901"`, True},
		{doc, `machine.state == "held" && machine.site == "store-0421"`, True},
		{doc, `machine.serial == ""`, Absent},
		{doc, `facts.disks[1].bus == "nvme"`, True},
		{doc, `facts.disks[2].bus == "nvme"`, Absent},
		{doc, `facts["memory"].bytes > 0`, True},
		{doc, `regex("^Edge-[0-9]", facts.system.product)`, True},
		{doc, `regex("mini$", facts.system.product)`, True},
		{doc, `regex("a", facts.system.serial)`, Absent},
		{doc, `glob("Gr?ße*", facts.disks[1].model)`, True},
		{doc, `glob("edge*", facts.system.product)`, False},
		{doc, `facts.disks[1].model > "Grz"`, True},
		{doc, `"${facts.system.product}" == "Edge-5 mini"`, True},

		{bare, `length(facts.disks) == 0`, Absent},
		{bare, `any([for d in facts.disks : true])`, Absent},
		{bare, `all([for d in facts.disks : true])`, Absent},
		{bare, `missing(facts.disks)`, True},
		{bare, `missing(facts.memory.modules)`, True},
		{bare, `missing(facts.memory)`, True},
		{bare, `length(machine.macs) == 0`, True},
		{empty, `length(facts.disks) == 0`, Absent},
		{empty, `missing(facts.disks)`, True},
		{empty, `length(facts.memory.modules) == 0`, Absent},
		{empty, `missing(facts.memory.modules)`, True},
		{empty, `any([for d in facts.disks : true])`, Absent},
		{empty, `all([for d in facts.disks : true])`, Absent},
		{empty, `contains(facts.nics[*].driver, "igc")`, Absent},
		{empty, `contains(facts.cpu.flags, "avx2")`, Absent},
		{empty, `missing(machine.macs)`, False},
		{empty, `missing(machine.classes)`, False},
		{none, `length(facts.disks) == 0`, True},
		{none, `missing(facts.disks)`, False},
		{none, `length(facts.memory.modules) == 0`, True},
		{none, `missing(facts.memory.modules)`, False},
		{none, `any([for d in facts.disks : true])`, False},
		{none, `all([for d in facts.disks : true])`, True},
		{none, `contains(facts.nics[*].driver, "igc")`, False},
		{none, `contains(facts.cpu.flags, "avx2")`, False},
		{empty, `facts.memory.bytes > 0`, Absent},
		{doc, `missing(facts)`, False},
		{bare, `missing(facts)`, True},
		{empty, `missing(facts)`, False}, // somebody looked, and saw nothing
		{none, `missing(facts)`, False},
		{none, `missing(facts.cpu)`, True},
	}
	for _, tt := range tests {
		e, diags := Parse(tt.expr, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%s): %v", tt.expr, diags)
			continue
		}
		got, err := e.Eval(tt.doc)
		if err != nil || got != tt.want {
			t.Errorf("Eval(%s) = %v, %v; want %v", tt.expr, got, err, tt.want)
		}
		again, diags := Parse(e.String(), Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(String of %s = %s): %v", tt.expr, e, diags)
			continue
		}
		if back, _ := again.Eval(tt.doc); back != tt.want {
			t.Errorf("Eval(String of %s = %s) = %v; want %v", tt.expr, e, back, tt.want)
		}
	}
}

func TestConstantsMeetAddressesAndUUIDsInAnyForm(t *testing.T) {
	doc := NewDoc(
		inventory.Machine{SMBIOSUUID: uuid.MustParse("4c4c4544-0042-3510-8052-b4c04f513233"), MACs: []inventory.MAC{mac(t, "52:54:00:04:21:01")}},
		&inventory.Facts{
			System: &inventory.System{UUID: "4C4C4544-0042-3510-8052-b4c04f513233"}, BMC: &inventory.BMCFacts{MAC: "52-54-00-04-21-F1"},
			Disks:     []inventory.Disk{{PartUUIDs: []string{"0190f5fe-7c00-7a00-8abc-0000000000ab"}}},
			Neighbors: []inventory.Neighbor{{MAC: mac(t, "52:54:00:04:21:01")}},
		})
	for _, src := range []string{
		`facts.system.uuid == "4C4C4544-0042-3510-8052-B4C04F513233"`,
		`facts.system.uuid == "4c4c4544004235108052b4c04f513233"`,
		`facts.system.uuid == "{4c4c4544-0042-3510-8052-b4c04f513233}"`,
		`facts.system.uuid == machine.smbios_uuid`,
		`machine.smbios_uuid == "4C4C4544-0042-3510-8052-B4C04F513233"`,
		`facts.system.uuid == (missing(facts.bmc) ? "0190F5FE-7C00-7A00-8ABC-0000000000AB" : "4C4C4544-0042-3510-8052-B4C04F513233")`,
		`facts.bmc.mac == "52-54-00-04-21-f1"`,
		`facts.bmc.mac == "52:54:00:04:21:F1"`,
		`contains(["52:54:00:04:21:F1"], facts.bmc.mac)`,
		`contains(machine.macs, "52-54-00-04-21-01")`,
		`contains(facts.neighbors[*].mac, "52-54-00-04-21-01")`,
		`any([for d in facts.disks : contains(d.part_uuids, "0190F5FE-7C00-7A00-8ABC-0000000000AB")])`,
	} {
		e, diags := Parse(src, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%s): %v", src, diags)
			continue
		}
		if got, _ := e.Eval(doc); got != True {
			t.Errorf("Eval(%s) = %v; want true", src, got)
		}
	}
}

func TestOlderAsksForTheAgeOfATime(t *testing.T) {
	doc := DocOf(storeSubject(t), noon)
	bare := DocOf(inventory.Subject{}, noon)
	for _, tt := range []struct {
		doc    Doc
		expr   string
		want   Result
		reason string
	}{
		{doc, `older(machine.last_seen, "59m")`, True, ``},
		{doc, `older(machine.last_seen, "1h")`, True, ``},
		{doc, `older(machine.last_seen, "61m")`, False, `machine.last_seen was 2026-11-21T11:00:00Z, wanted "61m" ago or earlier`},
		{doc, `!older(machine.last_seen, "1h")`, False, `machine.last_seen was 2026-11-21T11:00:00Z, wanted less than "1h" ago`},
		{doc, `older(machine.looked_at, "7d")`, True, ``},
		{doc, `older(machine.first_seen, "1d12h")`, True, ``},
		{doc, `older(machine.drift_since, "7d")`, Absent, `machine.drift_since was not observed`},
		{bare, `older(machine.looked_at, "7d")`, Absent, `machine.looked_at was not observed`},
		{bare, `!older(machine.looked_at, "7d")`, Absent, `machine.looked_at was not observed`},
		{bare, `older(machine.looked_at, "7d") || missing(machine.looked_at)`, True, ``},
		{doc, `missing(machine.looked_at)`, False, `machine.looked_at was observed`},
	} {
		e, diags := Parse(tt.expr, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%s): %v", tt.expr, diags)
			continue
		}
		if got, err := e.Eval(tt.doc); got != tt.want || err != nil {
			t.Errorf("Eval(%s) = %v, %v; want %v", tt.expr, got, err, tt.want)
		}
		if got := e.Reason(tt.doc); got != tt.reason {
			t.Errorf("Reason(%s) = %s; want %s", tt.expr, got, tt.reason)
		}
		if e.String() != tt.expr && !strings.Contains(tt.expr, "||") {
			t.Errorf("String of %s = %s", tt.expr, e)
		}
		if _, err := e.Eval(storeNode(t)); err == nil || !e.NeedsCatalog() {
			t.Errorf("Eval(%s) without the catalog's knowledge: no error", tt.expr)
		}
	}
}

func TestChainsOfOneOperatorAreAsDeepAsTheirOperands(t *testing.T) {
	doc := storeNode(t)
	for src, want := range map[string]Result{
		"facts.cpu.cores == 4" + strings.Repeat(" || facts.cpu.cores == 5", 600):                               True,
		strings.Repeat("facts.cpu.cores == 5 || ", 600) + "facts.cpu.cores == 4":                               True,
		strings.Repeat("facts.cpu.cores == 4 && ", 600) + "facts.cpu.cores == 5":                               False,
		"facts.tpm.version == \"2\"" + strings.Repeat(" || facts.cpu.cores == 5 && facts.cpu.cores == 4", 300): Absent,
		"(true || " + strings.Repeat("false || ", 300) + "facts.cpu.cores == 5) && facts.cpu.cores == 4":       True,
		strings.Repeat("\"a\" < \"b\" && ", 300) + "true":                                                      True,
	} {
		e, diags := Parse(src, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%.60s): %v", src, diags)
			continue
		}
		if got, _ := e.Eval(doc); got != want {
			t.Errorf("Eval(%.60s) = %v; want %v", src, got, want)
		}
		again, diags := Parse(e.String(), Machine)
		if diags.HasErrors() || again.String() != e.String() {
			t.Errorf("Parse(String of %.60s): %v", src, diags)
		}
	}
	_, diags := Parse("facts.cpu.core == 4 || true || facts.cpu.threds == 4 || facts.cpu.cores", Machine)
	if len(diags) != 3 {
		t.Errorf("complaints about three operands of a chain: %v", diags)
	}
}

func TestDiskExpressionSeesItsDiskAndItsMachine(t *testing.T) {
	e, diags := Parse(`disk.rotational && disk.bytes > facts.memory.bytes && machine.state == "held"`, Disk)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	doc := storeNode(t)
	if _, err := e.Eval(doc); err == nil {
		t.Error("Eval without a disk: no error")
	}
	for i, want := range []Result{True, Absent} {
		if got, err := e.Eval(doc.WithDisk(doc.facts.Disks[i])); got != want || err != nil {
			t.Errorf("Eval(disk %d) = %v, %v; want %v", i, got, err, want)
		}
	}
	if _, _, err := e.SQL(SQLite, noon); err == nil {
		t.Error("SQL of an expression over a disk: no error")
	}
}

func TestReasonNamesTheFactThatFails(t *testing.T) {
	doc := storeNode(t)
	tests := []struct{ expr, want string }{
		{`facts.memory.bytes >= GiB(8)`, `facts.memory.bytes is 8053063680, wanted >= 8589934592`},
		{`GiB(8) <= facts.memory.bytes`, `facts.memory.bytes is 8053063680, wanted >= 8589934592`},
		{`!(facts.memory.bytes < GiB(8))`, `facts.memory.bytes is 8053063680, wanted >= 8589934592`},
		{
			`facts.memory.bytes >= GiB(8) && length(facts.disks) >= 3`,
			`facts.memory.bytes is 8053063680, wanted >= 8589934592; length(facts.disks) is 2, wanted >= 3`,
		},
		{
			`facts.cpu.cores == 1 || facts.cpu.cores == 2`,
			`facts.cpu.cores is 4, wanted == 1, and facts.cpu.cores is 4, wanted == 2`,
		},
		{`facts.cpu.max_speed_mhz > 1`, `facts.cpu.max_speed_mhz was not observed`},
		{`facts.cpu.max_speed_mhz * facts.cpu.sockets > 1`, `facts.cpu.max_speed_mhz, facts.cpu.sockets were not observed`},
		{
			`facts.cpu.cores / (facts.cpu.cores - 4) > 1`,
			`(facts.cpu.cores / (facts.cpu.cores - 4)) > 1 cannot be computed (division by zero, or more than 64 bits)`,
		},
		{`facts.cpu.threads > facts.cpu.cores * 2`, `facts.cpu.threads is 8, wanted > (facts.cpu.cores * 2), which is 8`},
		{`facts.firmware.secure_boot`, `facts.firmware.secure_boot is false, wanted true`},
		{`facts.system.product == "X"`, `facts.system.product is "Edge-5 mini", wanted == "X"`},
		{
			`any([for d in facts.disks : d.bytes > TB(9)])`,
			`none of the 2 facts.disks fits (in facts.disks[0] d.bytes is 4000000000000, wanted > 9000000000000)`,
		},
		{`any([for d in facts.pci : d.driver == "x"])`, `there are no facts.pci`},
		{`any([for m in facts.memory.modules : m.ecc])`, `facts.memory.modules was not observed`},
		{`length(facts.memory.modules) >= 2`, `facts.memory.modules was not observed`},
		{`all([for d in facts.disks : d.rotational])`, `in facts.disks[1] d.rotational was not observed`},
		{`contains(facts.nics[*].driver, "e1000e")`, `none of the 2 facts.nics[*].driver is "e1000e"`},
		{`regex("^Rack", facts.system.product)`, `facts.system.product is "Edge-5 mini", wanted to match "^Rack"`},
		{`missing(facts.system.product)`, `facts.system.product was observed`},
		{`!missing(facts.tpm)`, `facts.tpm was not observed`},
		{`false`, `it is always false`},
		{`facts.cpu.cores == 4`, ``},
	}
	for _, tt := range tests {
		e, diags := Parse(tt.expr, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%s): %v", tt.expr, diags)
			continue
		}
		if got := e.Reason(doc); got != tt.want {
			t.Errorf("Reason(%s) = %s; want %s", tt.expr, got, tt.want)
		}
	}
}

func TestReasonCannotSteerATerminal(t *testing.T) {
	doc := NewDoc(inventory.Machine{}, &inventory.Facts{System: &inventory.System{Product: "\x1b[2J\u202e" + strings.Repeat("é", 500)}})
	e, _ := Parse(`facts.system.product == "X"`, Machine)
	got := e.Reason(doc)
	if strings.ContainsAny(got, "\x1b\u202e") || len(got) > 400 {
		t.Errorf("Reason = %q; want it escaped and clipped", got)
	}
}

func TestParseRefusesWithPlaceAndAdvice(t *testing.T) {
	tests := []struct{ expr, at, want string }{
		{`facts.memory.byts > 1`, `facts.memory.byts`, `Did you mean "bytes"?`},
		{`fact.memory.bytes > 1`, `fact.memory.bytes`, `Did you mean "facts"?`},
		{`facts.disks.bytes > 1`, `.bytes`, `any([for x in facts.disks : x.bytes`},
		{`facts.memory.bytes.x > 1`, `.x`, `has no fields`},
		{`facts.memory.bytes > "8"`, `facts.memory.bytes > "8"`, `is a number, but "8" is a string`},
		{`facts.memory.bytes`, `facts.memory.bytes`, `A condition is needed here`},
		{`facts.bios.version == null`, `facts.bios.version == null`, `Use missing(facts.bios.version)`},
		{`facts.system == facts.system`, `facts.system == facts.system`, `compare one of its values`},
		{`facts.firmware.secure_boot > true`, `facts.firmware.secure_boot > true`, `no order`},
		{`GiBs(8) < facts.memory.bytes`, `GiBs`, `Did you mean "GiB"?`},
		{`machine.last_seen < "7d"`, `machine.last_seen < "7d"`, `older(machine.last_seen, "7d")`},
		{`older(machine.state, "7d")`, `machine.state`, `this is a string`},
		{`older(machine.last_seen, "a week")`, `"a week"`, `no time to look back`},
		{`older(machine.last_seen, machine.site)`, `machine.site`, `known from declarations`},
		{`machine.last_seen`, `machine.last_seen`, `this is a time`},
		{`(facts.cpu.cores == 4 ? machine.last_seen : machine.looked_at) == "x"`, `facts.cpu.cores == 4 ? machine.last_seen : machine.looked_at`, `cannot be lists, objects or times`},
		{`contain(facts.nics[*].driver, "igc")`, `contain`, `Did you mean "contains"?`},
		{`upper("a") == facts.system.product`, `upper`, `no function named "upper"`},
		{`any(facts.disks)`, `facts.disks`, `the elements here are an object`},
		{`any(facts.memory.bytes)`, `facts.memory.bytes`, `list of conditions`},
		{`any([for i, d in facts.disks : d.rotational])`, `[for i, d in facts.disks : d.rotational]`, `one variable`},
		{`any({for d in facts.disks : d.name => d.rotational})`, `{for d in facts.disks : d.name => d.rotational}`, `makes a list`},
		{`any([for facts in facts.disks : true])`, `[for facts in facts.disks : true]`, `root variable`},
		{`regex(facts.system.product, "x")`, `facts.system.product`, `known from declarations alone`},
		{`regex("(", facts.system.product)`, `"("`, `missing closing`},
		{`regex("(?=a)", facts.system.product)`, `"(?=a)"`, `RE2`},
		{`glob("[ab]", facts.system.product)`, `"[ab]"`, `* and ? only`},
		{`"a${facts.system.product}" == "ab"`, `"a${facts.system.product}"`, `cannot be built from facts`},
		{`facts.cpu.cores / 0 > 1`, `facts.cpu.cores / 0`, `constant 0`},
		{`facts.cpu.cores > 9223372036854775808`, `9223372036854775808`, `64 bits`},
		{`facts.cpu.cores / 9223372036854775807 / 3 > 1`, `facts.cpu.cores / 9223372036854775807 / 3`, `64 bits`},
		{`facts.cpu.cores % 0.5 > 1`, `facts.cpu.cores % 0.5`, `whole numbers`},
		{`facts.nics[0].mac == "nonsense"`, `"nonsense"`, `is not a MAC address`},
		{`facts.bmc.mac == "nonsense"`, `"nonsense"`, `is not a MAC address`},
		{`facts.system.uuid == "rubbish"`, `"rubbish"`, `is compared with facts.system.uuid: invalid UUID`},
		{`facts.system.uuid == (facts.cpu.cores == 1 ? "rubbish" : "x")`, `facts.cpu.cores == 1 ? "rubbish" : "x"`, `"rubbish" is compared with facts.system.uuid`},
		{`any([for d in facts.disks : contains(d.part_uuids, "rubbish")])`, `"rubbish"`, `is compared with d.part_uuids[*]: invalid UUID`},
		{`length(facts.disks[*].nosuch) > 0`, `[*].nosuch`, `facts.disks[*] has no field "nosuch". Known:`},
		{`facts.memory.bytes > GiB(8) &&`, ``, ``},
		{`disk.bytes > 1`, `disk.bytes`, `no variable named "disk"`},
		{`{ a = facts.memory.bytes }`, `{ a = facts.memory.bytes }`, `not part of the language`},
		{"facts.memory.bytes > 1\x00", ``, `NUL`},
		{strings.Repeat("(", 1000), ``, `nested`},
		{strings.Repeat("!", 1000) + "true", ``, `nests more than`},
		{strings.Repeat("!", 1000) + "true", ``, `write contains(["a", "b"], fact)`},
		{strings.Repeat(" ", 100_000), ``, `at most 16384`},
		{`any([for a in [1,2,3,4,5,6,7,8,9,10] : any([for b in [1,2,3,4,5,6,7,8,9,10] : any([for c in [1,2,3,4,5,6,7,8,9,10] : any([for d in [1,2,3,4,5,6,7,8,9,10] : facts.cpu.cores == a])])])])`, ``, `written out`},
	}
	for _, tt := range tests {
		_, diags := Parse(tt.expr, Machine)
		if !diags.HasErrors() {
			t.Errorf("Parse(%.60s): no error", tt.expr)
			continue
		}
		d := diags[0]
		if !strings.Contains(d.Detail, tt.want) {
			t.Errorf("Parse(%.60s) says %q; want %q in it", tt.expr, d.Detail, tt.want)
		}
		if tt.at != "" {
			if got := tt.expr[d.Subject.Start.Byte:d.Subject.End.Byte]; got != tt.at {
				t.Errorf("Parse(%s) points at %q; want %q", tt.expr, got, tt.at)
			}
		}
	}
}

func TestFormatPutsCaretsUnderThePlace(t *testing.T) {
	src := `facts.memory.byts > GiB(8)`
	_, diags := Parse(src, Machine)
	got := Format(src, diags)
	want := `Error: Unknown field
  facts.memory.byts > GiB(8)
  ^^^^^^^^^^^^^^^^^
  facts.memory has no field "byts". Did you mean "bytes"?
`
	if got != want {
		t.Errorf("Format =\n%s\nwant\n%s", got, want)
	}
	long := strings.Repeat("true && ", 100) + "\x1b[2Jx"
	_, diags = Parse(long, Machine)
	if got := Format(long, diags); strings.Contains(got, "\x1b") {
		t.Errorf("Format lets control characters through: %q", got)
	}
}

func parseSite(t *testing.T, src string, ctx *hcl.EvalContext) (*Expr, hcl.Diagnostics) {
	t.Helper()
	syn, diags := hclsyntax.ParseExpression([]byte(src), "site.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	return Compile(syn, ctx, Machine)
}

func TestCompileTakesValuesOfTheSite(t *testing.T) {
	ctx := &hcl.EvalContext{
		Functions: Functions(),
		Variables: map[string]cty.Value{
			"var": cty.ObjectVal(map[string]cty.Value{
				"least":   cty.NumberIntVal(7),
				"vendors": cty.SetVal([]cty.Value{cty.StringVal("Acme"), cty.StringVal("Other")}),
				"secret":  cty.StringVal("hunter2").Mark("sensitive"),
				"later":   cty.UnknownVal(cty.Number),
				"none":    cty.NullVal(cty.String),
			}),
			"each": cty.ObjectVal(map[string]cty.Value{"value": cty.ObjectVal(map[string]cty.Value{"mac": cty.StringVal("52-54-00-04-21-01")})}),
		},
	}
	child := ctx.NewChild()
	child.Variables = map[string]cty.Value{"local": cty.ObjectVal(map[string]cty.Value{"cores": cty.NumberIntVal(4)})}
	for src, want := range map[string]Result{
		`facts.memory.bytes >= GiB(var.least)`:                                      True,
		`contains(var.vendors, facts.system.manufacturer)`:                          True,
		`contains(machine.macs, each.value.mac)`:                                    True,
		`facts.cpu.cores == local.cores`:                                            True,
		`any([for v in var.vendors : v == facts.system.manufacturer])`:              True,
		`any([for n in facts.nics : n.mac == each.value.mac && n.driver == "igc"])`: True,
		`facts.system.manufacturer == var.secret`:                                   False,
		`false && var.later == 1 && facts.cpu.cores == 4`:                           False, // HCL knows the beginning
	} {
		e, diags := parseSite(t, src, child)
		if diags.HasErrors() {
			t.Errorf("Compile(%s): %v", src, diags)
			continue
		}
		if got, _ := e.Eval(storeNode(t)); got != want {
			t.Errorf("Eval(%s) = %v; want %v", src, got, want)
		}
	}
	for src, want := range map[string]string{
		`facts.cpu.cores == var.later`:   "known later",
		`facts.bios.version == var.none`: "missing(facts.bios.version)",
		`facts.cpu.cores == var.nosuch`:  "",
	} {
		_, diags := parseSite(t, src, child)
		if !diags.HasErrors() || !strings.Contains(diags.Error(), want) {
			t.Errorf("Compile(%s): %v; want %q", src, diags, want)
		}
	}
}

func TestSensitiveValuesAreNotShown(t *testing.T) {
	ctx := &hcl.EvalContext{Functions: Functions(), Variables: map[string]cty.Value{
		"var": cty.ObjectVal(map[string]cty.Value{
			"secret": cty.StringVal("hunter2").Mark("sensitive"),
			"list":   cty.TupleVal([]cty.Value{cty.StringVal("hunter2"), cty.StringVal("hunter3")}).Mark("sensitive"),
			"number": cty.NumberIntVal(424242).Mark("sensitive"),
		}),
	}}
	for _, src := range []string{
		`facts.system.manufacturer == var.secret`,
		`glob(var.secret, facts.system.manufacturer)`,
		`contains(var.list, facts.system.manufacturer)`,
		`any([for v in var.list : v == facts.system.manufacturer])`,
		`facts.cpu.cores == var.number`,
		`facts.nics[0].mac == var.secret`,
		`regex("(${var.secret}", facts.system.product)`,
		`regex("\\b${var.secret}", facts.system.product)`,
		`facts.cpu.cores == var.secret`,
	} {
		e, diags := parseSite(t, src, ctx)
		if strings.Contains(diags.Error(), "hunter") {
			t.Errorf("Compile(%s) shows the secret: %v", src, diags)
		}
		for _, d := range diags {
			if d.EvalContext != nil {
				t.Errorf("Compile(%s): a diagnostic carries the evaluation context", src)
			}
		}
		if diags.HasErrors() {
			continue
		}
		if _, _, err := e.SQL(Postgres, noon); err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("SQL(%s) shows the secret: %v", src, err)
		}
		shown := e.String() + e.Reason(storeNode(t))
		if !e.Sensitive() || strings.Contains(shown, "hunter") || strings.Contains(shown, "4242") {
			t.Errorf("Compile(%s): sensitive %t, shows %s", src, e.Sensitive(), shown)
		}
	}
}
