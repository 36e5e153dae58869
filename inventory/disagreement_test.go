package inventory

import (
	"reflect"
	"testing"
)

func TestDisagreementsAreOfSingleFactsThatSeveralSourcesObserved(t *testing.T) {
	got := Disagreements(map[Source]Facts{
		SourceAgent:   {System: &System{Serial: "A", Product: "X"}, Memory: &Memory{Bytes: 8 << 30}, Disks: []Disk{{Name: "sda"}}},
		SourceRedfish: {System: &System{Serial: "B", Product: "X"}, Memory: &Memory{Bytes: 16 << 30}, Disks: []Disk{{Name: "Disk 0"}}, BIOS: &BIOS{Version: "1"}},
		SourceIPMI:    {System: &System{Serial: "B"}},
	})
	want := []Disagreement{
		{Path: "memory.bytes", Values: map[Source]string{SourceAgent: "8589934592", SourceRedfish: "17179869184"}},
		{Path: "system.serial", Values: map[Source]string{SourceAgent: `"A"`, SourceRedfish: `"B"`, SourceIPMI: `"B"`}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Disagreements = %+v; want %+v", got, want)
	}
	if got := Disagreements(map[Source]Facts{SourceAgent: {System: &System{Serial: "A"}}}); got != nil {
		t.Errorf("Disagreements of one source = %+v; want none", got)
	}
}

func TestChangedPathsNameFactsAndWhatHoldsThem(t *testing.T) {
	yes := true
	before := Facts{BIOS: &BIOS{Version: "1", Vendor: "AMI"}, Disks: []Disk{{Name: "sda", Serial: "a"}}, CPU: &CPU{Flags: []string{"avx"}}, Memory: &Memory{Bytes: 1, Modules: []MemoryModule{{Locator: "A"}}}}
	after := Facts{BIOS: &BIOS{Version: "2", Vendor: "AMI"}, Disks: []Disk{{Name: "sda", Serial: "b"}}, CPU: &CPU{Flags: []string{"avx", "avx2"}}, Memory: &Memory{Bytes: 1, Modules: []MemoryModule{{Locator: "A", ECC: &yes}}}}
	want := []string{"bios", "bios.version", "cpu", "cpu.flags", "disks", "memory", "memory.modules"}
	if got := ChangedPaths(before, after); !reflect.DeepEqual(got, want) {
		t.Errorf("ChangedPaths = %v; want %v", got, want)
	}
	if got := ChangedPaths(before, before); len(got) != 0 {
		t.Errorf("ChangedPaths of equal reports = %v; want none", got)
	}
	tpm := before
	tpm.TPM = &TPM{Version: "2.0"}
	if got := ChangedPaths(before, tpm); !reflect.DeepEqual(got, []string{"tpm", "tpm.version"}) {
		t.Errorf("ChangedPaths with a part that appears = %v; want tpm and tpm.version", got)
	}
}
