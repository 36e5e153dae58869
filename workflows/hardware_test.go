package workflows_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
)

// standing are machines whose hardware stands in every way there is.
func standing(now time.Time) map[string]*workflows.Hardware {
	frozen := now.Add(-50 * 24 * time.Hour)
	at := func(ago time.Duration) time.Time { return now.Add(-ago) }
	return map[string]*workflows.Hardware{
		`machine.node["fine"]`:      {State: inventory.DriftNone, FrozenAt: frozen, LookedAt: now, Looked: true},
		`machine.node["fine too"]`:  {State: inventory.DriftNone, FrozenAt: frozen, LookedAt: now, Looked: true},
		`machine.node["old"]`:       {State: inventory.DriftNone, FrozenAt: frozen, LookedAt: at(3 * time.Hour), Note: `machine.node["old"]: no SSH at 172.22.0.12:22: connection refused`},
		`machine.node["not asked"]`: {State: inventory.DriftNone, FrozenAt: frozen, LookedAt: at(90 * time.Second)},
		`machine.node["never"]`:     {State: inventory.DriftNone, FrozenAt: frozen},
		`machine.node["partly"]`:    {State: inventory.DriftNone, FrozenAt: frozen, LookedAt: now, Looked: true, Note: "edge-agent could not see everything as user ops: disk sda"},
		`machine.node["forged"]`:    {State: inventory.DriftForged, FrozenAt: frozen, LookedAt: now, Looked: true},
		`machine.node["swapped"]`: {
			State: inventory.DriftChanged, FrozenAt: frozen, Since: at(time.Hour), LookedAt: at(9 * 24 * time.Hour), Note: "no SSH",
			Changes: []inventory.Change{
				{Path: "bios.version", Old: `"1.9.2"`, New: `"1.12.1"`},
				{Path: `disks["S2"]`, Old: `{"bytes":200,"serial":"S2"}`},
				{Path: `disks["S3"]`, New: `{"bytes":300,"serial":"S3"}`},
			},
		},
	}
}

func TestPlanShowsHowHardwareStands(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	keys := []string{"fine", "fine too", "forged", "never", "not asked", "old", "partly", "swapped"}
	text := head + "\nmachine \"node\" {\n  for_each = toset([" // in the order of the keys
	for _, k := range keys {
		text += `"` + k + `",`
	}
	text += "])\n  mac = format(\"52:54:00:04:21:%02x\", index([\"" + keys[0]
	for _, k := range keys[1:] {
		text += `", "` + k
	}
	text += "\"], each.key))\n  network = network.edge\n  hostname = replace(each.key, \" \", \"-\")\n}\n"
	s := load(t, text)
	views := map[string]workflows.MachineView{}
	for address, h := range standing(now) {
		v := known(disk("sda", "D1", 100))
		v.Hardware = h
		views[address] = v
	}
	plan, _ := workflows.Build(s, observation(views), workflows.BuildOptions{})
	if !plan.Drifted() || len(plan.Hardware) != len(keys) {
		t.Errorf("Drifted() = %t of %d machines; want true of %d", plan.Drifted(), len(plan.Hardware), len(keys))
	}
	without := plan
	without.Hardware = nil
	if without.Drifted() || without.Digest() != plan.Digest() {
		t.Errorf("Digest() = %s, without hardware %s; want them equal: nothing is done about it", plan.Digest(), without.Digest())
	}
	var out bytes.Buffer
	if err := plan.Print(&out, workflows.PrintOptions{Now: now}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "hardware.golden")
	if *update {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("reading the golden file (-update writes it): %v", err)
	}
	if out.String() != string(want) {
		t.Errorf("Print() =\n%s\nwant\n%s", out.String(), want)
	}
}
