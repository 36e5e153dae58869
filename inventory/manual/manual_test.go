package manual_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/manual"
)

func TestSetWritesFactsOfEveryType(t *testing.T) {
	var f inventory.Facts
	for _, set := range [][2]string{
		{"chassis.asset_tag", "0042"}, // text, though it looks like a number
		{"facts.system.serial", "7XK2Q93"},
		{"system.uuid", "4C4C4544-0058-4B10-8032-B7C04F513933"},
		{"memory.bytes", "17179869184"},
		{"cpu.cores", "8"},
		{"firmware.secure_boot", "false"},
		{"cpu.flags", `["avx","aes"]`},
		{"nics", `[{"name":"eno1","mac":"52-54-00-04-21-01"}]`},
		{"chassis.asset_tag", "0043"},
	} {
		if err := manual.Set(&f, set[0], set[1]); err != nil {
			t.Errorf("Set(%s, %s) = %v; want no error", set[0], set[1], err)
		}
	}
	no := false
	want := inventory.Facts{
		System:   &inventory.System{Serial: "7XK2Q93", UUID: "4c4c4544-0058-4b10-8032-b7c04f513933"},
		Chassis:  &inventory.Chassis{AssetTag: "0043"},
		Firmware: &inventory.Firmware{SecureBoot: &no},
		CPU:      &inventory.CPU{Cores: 8, Flags: []string{"avx", "aes"}},
		Memory:   &inventory.Memory{Bytes: 16 << 30},
		NICs:     []inventory.NIC{{Name: "eno1", MAC: inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1}}},
	}
	if !reflect.DeepEqual(f, want) {
		t.Errorf("Set made %+v; want %+v", f, want)
	}
	var listed []string
	for _, one := range manual.List(f) {
		listed = append(listed, one.Path+"="+one.Value)
	}
	const lines = `chassis.asset_tag=0043 cpu.cores=8 cpu.flags=["avx","aes"] firmware.secure_boot=false memory.bytes=17179869184 ` +
		`nics=[{"name":"eno1","mac":"52:54:00:04:21:01"}] system.serial=7XK2Q93 system.uuid=4c4c4544-0058-4b10-8032-b7c04f513933`
	if got := strings.Join(listed, " "); got != lines {
		t.Errorf("List = %s\nwant   %s", got, lines)
	}

	// What List shows, Set takes; and nothing is left when all is taken away.
	var again inventory.Facts
	for _, one := range manual.List(f) {
		if err := manual.Set(&again, one.Path, one.Value); err != nil {
			t.Errorf("Set(%s) of what List shows = %v; want no error", one.Path, err)
		}
		if err := manual.Unset(&f, one.Path); err != nil {
			t.Errorf("Unset(%s) = %v; want no error", one.Path, err)
		}
	}
	if !reflect.DeepEqual(again, want) {
		t.Errorf("what List showed makes %+v; want %+v", again, want)
	}
	if !reflect.DeepEqual(f, inventory.Facts{}) {
		t.Errorf("facts after everything was unset = %+v; want none", f)
	}
}

// TestEmptyListCanBeWritten wants it told from one that nobody wrote.
func TestEmptyListCanBeWritten(t *testing.T) {
	var f inventory.Facts
	for _, path := range []string{"disks", "memory.modules"} {
		if err := manual.Set(&f, path, "[]"); err != nil {
			t.Fatalf("Set(%s, []) = %v; want no error", path, err)
		}
	}
	if got := manual.List(f); len(got) != 2 || got[0] != (manual.Fact{Path: "disks", Value: "[]"}) || got[1] != (manual.Fact{Path: "memory.modules", Value: "[]"}) {
		t.Errorf("List = %v; want two empty lists", got)
	}
	if raw, err := json.Marshal(f); err != nil || string(raw) != `{"schema_version":0,"memory":{"modules":[]},"disks":[]}` {
		t.Errorf("facts = %s, %v; want the empty lists and no other", raw, err)
	}
	for _, path := range []string{"disks", "memory.modules"} {
		if err := manual.Unset(&f, path); err != nil {
			t.Errorf("Unset(%s) = %v; want no error", path, err)
		}
	}
	if !reflect.DeepEqual(f, inventory.Facts{}) {
		t.Errorf("facts after everything was unset = %+v; want none", f)
	}
}

func TestUnsetTakesAPartWithAllBelowIt(t *testing.T) {
	f := inventory.Facts{CPU: &inventory.CPU{Cores: 4, Model: "N100"}, TPM: &inventory.TPM{Version: "2.0"}}
	for _, path := range []string{"cpu", "chassis", "chassis.serial", "disks"} {
		if err := manual.Unset(&f, path); err != nil {
			t.Errorf("Unset(%s) = %v; want no error", path, err)
		}
	}
	if want := (inventory.Facts{TPM: &inventory.TPM{Version: "2.0"}}); !reflect.DeepEqual(f, want) {
		t.Errorf("facts = %+v; want the TPM alone", f)
	}
}

func TestSetRefuses(t *testing.T) {
	for _, c := range []struct{ path, value, want string }{
		{"chasis.asset_tag", "1", `Did you mean "chassis"?`},
		{"chassis.assettag", "1", `Did you mean "chassis.asset_tag"?`},
		{"colour", "red", "Known here: baseboard, bios, bmc"},
		{"", "1", "there is no such fact"},
		{"facts", "1", "there is no such fact"},
		{"chassis", "big", "written one by one: asset_tag, manufacturer, serial, type"},
		{"disks.serial", "x", "disks has no parts that could be written by themselves"},
		{"bios.version.major", "1", "bios.version has no parts"},
		{"schema_version", "9", "there is no such fact"},
		{"memory.bytes", "16GiB", "no whole number"},
		{"memory.bytes", "-1", "above zero"},
		{"memory.bytes", "0", "above zero"},
		{"memory.bytes", "9223372036854775808", "no whole number"},
		{"firmware.secure_boot", "yes", "neither true nor false"},
		{"cpu.flags", "avx", "no list in JSON"},
		{"cpu.flags", `[1]`, "cannot unmarshal number"},
		{"disks", `[{"name":"sda","colour":"red"}]`, `unknown field "colour"`},
		{"disks", `[{"name":"sda","name":"sdb"}]`, "given twice"},
		{"disks", `[{"name":"sda","bytes":-1}]`, "negative"},
		{"nics", `[{"name":"e","mac":"01:00:5e:00:00:01"}]`, "group"},
		{"system.uuid", "7", "is no UUID"},
		{"chassis.asset_tag", "", "remove the fact instead"},
		{"chassis.asset_tag", "a\x00b", "NUL"},
		{"chassis.asset_tag", "\xff", "UTF-8"},
		{"chassis.asset_tag", strings.Repeat("x", 5000), "4096"},
		{strings.Repeat("a.", 5000), "x", "no such fact"},
	} {
		f := inventory.Facts{Chassis: &inventory.Chassis{Serial: "kept"}}
		err := manual.Set(&f, c.path, c.value)
		var refused *manual.Error
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), c.want) || len(err.Error()) > 400 {
			t.Errorf("Set(%.40s, %.40q) = %v; want a short *Error that says %q", c.path, c.value, err, c.want)
		}
		if !reflect.DeepEqual(f, inventory.Facts{Chassis: &inventory.Chassis{Serial: "kept"}}) {
			t.Errorf("Set(%.40s) changed the facts to %+v though it failed", c.path, f)
		}
	}
	var f inventory.Facts
	if err := manual.Unset(&f, "chassis.colour"); err == nil {
		t.Error("Unset(chassis.colour) = nil; want an error")
	}
}

func FuzzSet(f *testing.F) {
	for _, s := range [][2]string{{"chassis.asset_tag", "0042"}, {"disks", `[{"name":"sda","signatures":[]}]`}, {"memory.modules", `[{"ecc":null}]`}, {"cpu.flags", "null"}, {"facts.facts", "{"}, {"tpm.version", "\x00"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, path, value string) {
		var facts inventory.Facts
		if err := manual.Set(&facts, path, value); err != nil {
			return
		}
		if _, _, err := facts.Canonical(); err != nil {
			t.Errorf("Set(%q, %q) made facts that no catalog takes: %v", path, value, err)
		}
		if err := manual.Unset(&facts, path); err != nil || len(manual.List(facts)) > 0 {
			t.Errorf("after Unset(%q): %v, %v; want nothing left", path, manual.List(facts), err)
		}
	})
}
