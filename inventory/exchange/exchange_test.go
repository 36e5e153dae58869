package exchange

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func machines() []Machine {
	return []Machine{
		{
			Site: "store-0421", MACs: []inventory.MAC{{0x52, 0x54, 0, 4, 0x21, 1}, {0x52, 0x54, 0, 4, 0x21, 2}}, SMBIOSUUID: uuid.MustParse("4c4c4544-0058-4b10-8032-b7c04f513933"),
			Serial: "7XK2Q93", Address: `machine.node["a"]`, Tags: map[string]string{"asset_tag": "0042", "location": "back room, left"},
			Reports: []Report{
				{Source: inventory.SourceAgent, ObservedAt: noon, Facts: inventory.Facts{SchemaVersion: 1, System: &inventory.System{Manufacturer: "Dell Inc.", Product: "PowerEdge <XR12>"}}},
				{Source: inventory.SourceAgent, ObservedAt: noon.Add(time.Hour), Facts: inventory.Facts{SchemaVersion: 1, BIOS: &inventory.BIOS{Version: "2"}, Disks: []inventory.Disk{}}}, // looked for, unlike its ports
			},
		},
		{Site: "store-0422", Serial: "=cmd|' /C calc'!A0"},
	}
}

func readAll(text string) ([]Machine, error) {
	var out []Machine
	err := Read(strings.NewReader(text), func(m Machine) error { out = append(out, m); return nil })
	return out, err
}

func TestMachinesComeBackFromJSON(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b)
	for _, m := range machines() {
		if err := w.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), "\n"); n != 3 {
		t.Errorf("%d lines; want one for the version and one a machine:\n%s", n, &b)
	}
	got, err := readAll("\ufeff" + b.String())
	if err != nil || !reflect.DeepEqual(got, machines()) {
		t.Errorf("Read(Write) = %+v, %v; want %+v", got, err, machines())
	}
	var none bytes.Buffer
	if err := NewWriter(&none).Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := readAll(none.String()); err != nil || len(got) != 0 {
		t.Errorf("Read(no machines) = %v, %v", got, err)
	}
}

// TestReadNetBox reads the columns of NetBox's table of devices.
func TestReadNetBox(t *testing.T) {
	table := "Name,Status,Tenant,Site,Location,Rack,Role,Manufacturer,Type,IP Address,Serial number,Asset tag\n" +
		"edge-a,Active,—,Store 0421,Back room,R1,Server,Dell,XR12,10.0.0.1/24,7XK2Q93,0042\n" +
		"edge-b,Planned,—,Store 0421,—,—,Server,Dell,XR12,—,8XK2Q93,—\n"
	got, err := readAll(table)
	want := []Machine{
		{Site: "Store 0421", Serial: "7XK2Q93", Tags: map[string]string{"name": "edge-a", "location": "Back room", "rack": "R1", "asset_tag": "0042"}},
		{Site: "Store 0421", Serial: "8XK2Q93", Tags: map[string]string{"name": "edge-b"}},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Read(NetBox) = %+v, %v; want %+v", got, err, want)
	}
}

func TestReadRefusesWithPlace(t *testing.T) {
	line := `{"schema_version":1}` + "\n"
	for text, want := range map[string]string{
		"":                          "empty",
		"{}":                        "version 0",
		`{"schema_version":2}`:      "reads version 1",
		`{"schema_version":1}{"a":`: "machine 1",
		line + `{"site":"s"}`:       "machine 1: it has no MAC",
		line + `{"serial":"a"}` + `{"serial":"b","macs":["x"]}`:                                "machine 2",
		line + `{"serial":"a","tags":{"a b":"c"}}`:                                             "tag key",
		line + `{"serial":"a","reports":[{"source":"agent","facts":{"disks":[],"disks":[]}}]}`: `"disks" is given twice`,
		line + `{"serial":"a","reports":[{"source":"agent","facts":{"colour":1}}]}`:            "colour",
		line + `{"serial":"a","reports":[{"facts":{}}]}`:                                       "names no source",
		line + `{"serial":"a","reports":[{"source":"agent"}]}`:                                 "source agent",
		"name,site\na,b\n":      "which machine a row is about",
		"serial\n\"a\n":         "line",
		"serial,mac\na,52:54\n": "line 2: mac",
		"serial,mac\na\n":       "fields",
		"serial,tag.a b\nx,y\n": "tag key",
		"serial,name\n,x\n":     "line 2: it has no MAC",
		"serial\n\xff\n":        "UTF-8",
		"smbios_uuid\nx\n":      "line 2: smbios_uuid",
	} {
		if _, err := readAll(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Read(%q) = %v; want an error that says %q", text, err, want)
		}
	}
	big := line + `{"serial":"a","reports":[{"source":"agent","facts":{"bios":{"version":"` + strings.Repeat("a", inventory.MaxDocumentBytes) + `"}}}]}`
	if _, err := readAll(big); err == nil || !strings.Contains(err.Error(), "at most") {
		t.Errorf("Read(facts of more than 1 MiB) = %v; want it refused for its size", err)
	}
	endless := io.MultiReader(strings.NewReader("serial,name\nx,\""), io.LimitReader(letters{}, 2*MaxMachineBytes))
	if err := Read(endless, func(Machine) error { return nil }); err == nil || !strings.Contains(err.Error(), "about one machine") {
		t.Errorf("Read(a field without end) = %v; want it refused for its size", err)
	}
	stop := fmt.Errorf("stop")
	if err := Read(strings.NewReader("serial\na\n"), func(Machine) error { return stop }); err == nil || !strings.Contains(err.Error(), "line 2: stop") {
		t.Errorf("Read = %v; want the error of each with its line", err)
	}
}

// letters is a file of one letter without end.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

func FuzzRead(f *testing.F) {
	f.Add([]byte("serial,mac,tag.a\nx,52:54:00:00:00:01,y\n"))
	f.Add([]byte(`{"schema_version":1}` + "\n" + `{"serial":"a","reports":[{"source":"agent","observed_at":"2026-11-21T12:00:00Z","facts":{}}]}`))
	f.Add([]byte("\xef\xbb\xbfserial number,asset tag\n\"a\"\"b\",—\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var all []Machine
		if err := Read(bytes.NewReader(raw), func(m Machine) error { all = append(all, m); return nil }); err != nil {
			return
		}
		var b bytes.Buffer
		w := NewWriter(&b)
		for _, m := range all {
			if err := w.Write(m); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := readAll(b.String())
		x, _ := json.Marshal(all)
		if y, _ := json.Marshal(again); err != nil || !bytes.Equal(x, y) {
			t.Errorf("Read(Write(Read(%q))) = %s, %v; want %s", raw, y, err, x)
		}
	})
}
