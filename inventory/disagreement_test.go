package inventory

import (
	"reflect"
	"testing"
)

func TestDisagreementsAreOfSingleFactsThatSeveralSourcesObserved(t *testing.T) {
	got := Disagreements(map[Source]Facts{
		SourceAgent:   {System: &System{Serial: "A100", Product: "X"}, Memory: &Memory{Bytes: 8 << 30}, Disks: []Disk{{Name: "sda"}}},
		SourceRedfish: {System: &System{Serial: "B100", Product: "X"}, Memory: &Memory{Bytes: 16 << 30}, Disks: []Disk{{Name: "Disk 0"}}, BIOS: &BIOS{Version: "1"}},
		SourceIPMI:    {System: &System{Serial: "B100"}},
	})
	want := []Disagreement{
		{Path: "memory.bytes", Values: map[Source]string{SourceAgent: "8589934592", SourceRedfish: "17179869184"}},
		{Path: "system.serial", Values: map[Source]string{SourceAgent: `"A100"`, SourceRedfish: `"B100"`, SourceIPMI: `"B100"`}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Disagreements = %+v; want %+v", got, want)
	}
	if got := Disagreements(map[Source]Facts{SourceAgent: {System: &System{Serial: "A"}}}); got != nil {
		t.Errorf("Disagreements of one source = %+v; want none", got)
	}
}

func TestSpellingsOfOneFactAreNoDisagreement(t *testing.T) {
	uuid := func(s string) Facts { return Facts{System: &System{UUID: s}} }
	bytes := func(n int64) Facts { return Facts{Memory: &Memory{Bytes: n}} }
	bios := func(s string) Facts { return Facts{BIOS: &BIOS{Version: s}} }
	maker := func(s string) Facts { return Facts{System: &System{Manufacturer: s}} }
	product := func(s string) Facts { return Facts{System: &System{Product: s}} }
	cpu := func(s string) Facts { return Facts{CPU: &CPU{Model: s}} }
	bmc := func(s string) Facts { return Facts{BMC: &BMCFacts{Firmware: s}} }
	serial := func(s string) Facts { return Facts{System: &System{Serial: s}} }
	tests := []struct {
		name     string
		redfish  Facts
		agent    Facts
		disagree bool
	}{
		{"UUID in the other byte order", uuid("b11cc600-6d10-11ec-8000-3cecef000001"), uuid("00c61cb1-106d-ec11-8000-3cecef000001"), false},
		{"another UUID", uuid("b11cc600-6d10-11ec-8000-3cecef000001"), uuid("b11cc600-6d10-11ec-8000-3cecef000002"), true},
		{"all-zero UUID", uuid("b11cc600-6d10-11ec-8000-3cecef000001"), uuid("00000000-0000-0000-0000-000000000000"), false},
		{"memory less what the kernel keeps", bytes(8 << 30), bytes(8<<30 - 200<<20), false},
		{"memory less a module", bytes(384 << 30), bytes(368 << 30), true},
		{"BIOS of an HPE", bios("U32 v2.10 (05/21/2019)"), bios("U32"), false},
		{"another BIOS", bios("2.3.10"), bios("2.3.1"), true},
		{"maker's form of company", maker("Dell Inc."), maker("DELL"), false},
		{"maker's name in full", maker("HPE"), maker("Hewlett Packard Enterprise"), false},
		{"maker's name in two words", maker("Super Micro Computer, Inc."), maker("Supermicro"), false},
		{"another maker", maker("Dell Inc."), maker("HPE"), true},
		{"product with its type number", product("ThinkSystem SR650"), product("ThinkSystem SR650 -[7X06CTO1WW]-"), false},
		{"another product", product("PowerEdge R640"), product("PowerEdge R740"), true},
		{"processor in general", cpu("Intel(R) Xeon(R) processor"), cpu("Intel(R) Xeon(R) E-2378G CPU @ 2.80GHz"), false},
		{"another processor", cpu("Intel(R) Xeon(R) Gold 6138 CPU @ 2.00GHz"), cpu("Intel(R) Xeon(R) Gold 6148 CPU @ 2.40GHz"), true},
		{"BMC's firmware with its name", bmc("iLO 5 v2.10"), bmc("2.10"), false},
		{"BMC's firmware in four parts", bmc("4.40.00.00"), bmc("4.40"), false},
		{"BMC's firmware with zeroes before", bmc("01.13.04"), bmc("1.13"), false},
		{"another firmware of the BMC", bmc("4.40.00.00"), bmc("4.22"), true},
		{"serial in small letters", serial("abc1de2"), serial("ABC1DE2"), false},
		{"placeholder of a serial", serial("ABC1DE2"), serial("To Be Filled By O.E.M."), false},
		{"another serial", serial("ABC1DE2"), serial("ABC1DE3"), true},
		{"threads that the kernel leaves out", Facts{CPU: &CPU{Threads: 80}}, Facts{CPU: &CPU{Threads: 40}}, false},
		{"cores", Facts{CPU: &CPU{Cores: 40}}, Facts{CPU: &CPU{Cores: 20}}, true},
	}
	for _, tt := range tests {
		got := Disagreements(map[Source]Facts{SourceRedfish: tt.redfish, SourceAgent: tt.agent})
		if (len(got) > 0) != tt.disagree {
			t.Errorf("%s: Disagreements = %+v; want one: %t", tt.name, got, tt.disagree)
		}
	}
	// What a person wrote is no placeholder.
	if got := Disagreements(map[Source]Facts{SourceManual: serial("none"), SourceAgent: serial("ABC1DE2")}); len(got) != 1 {
		t.Errorf("Disagreements with a written %q = %+v; want one", "none", got)
	}
}
