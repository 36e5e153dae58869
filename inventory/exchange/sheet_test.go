package exchange

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

func known() []Known {
	return []Known{
		{
			Machine: inventory.Machine{
				ID: uuid.MustParse("01900000-0000-7000-8000-000000000001"), Site: "store-0421", Address: `machine.node["a"]`, State: inventory.StateInstalled,
				MACs: []inventory.MAC{{0x52, 0x54, 0, 4, 0x21, 1}, {0x52, 0x54, 0, 4, 0x21, 2}}, SMBIOSUUID: uuid.MustParse("4c4c4544-0058-4b10-8032-b7c04f513933"),
				Serial: "7XK2Q93", Tags: map[string]string{"asset_tag": "0042", "location": "back room, left"}, Classes: []string{"nuc", "spare"},
				Drift: inventory.DriftNone, FirstSeen: noon, LastSeen: noon.Add(time.Hour), LookedAt: noon.Add(time.Minute),
			},
			Facts: inventory.Facts{
				System: &inventory.System{Manufacturer: "Dell Inc.", Product: "PowerEdge <XR12>"}, BIOS: &inventory.BIOS{Version: "2"},
				CPU: &inventory.CPU{Threads: 8}, Memory: &inventory.Memory{Bytes: 16 << 30}, Disks: []inventory.Disk{{Bytes: 1 << 40}, {Bytes: 1 << 30}},
				Chassis: &inventory.Chassis{AssetTag: "of the chassis"},
			},
		},
		{
			Machine: inventory.Machine{ID: uuid.MustParse("01900000-0000-7000-8000-000000000002"), Site: "store-0422", Serial: "=cmd|' /C calc'!A0", Tags: map[string]string{"note": "'quoted'"}},
			Facts:   inventory.Facts{Chassis: &inventory.Chassis{AssetTag: "No Asset Tag"}, Disks: []inventory.Disk{}},
		},
		{
			Machine: inventory.Machine{ID: uuid.MustParse("01900000-0000-7000-8000-000000000003"), Site: "store-0422", Serial: "-1"},
			Facts:   inventory.Facts{Chassis: &inventory.Chassis{AssetTag: "No Asset Tag"}},
		},
		{
			Machine: inventory.Machine{ID: uuid.MustParse("01900000-0000-7000-8000-000000000004"), Site: "store-0422", Serial: "9XK2Q93"},
			Facts:   inventory.Facts{Chassis: &inventory.Chassis{AssetTag: "0043"}},
		},
	}
}

func TestCSV(t *testing.T) {
	var b bytes.Buffer
	if err := CSV(&b, known()); err != nil {
		t.Fatal(err)
	}
	text := `machine,site,id,state,serial,mac,smbios_uuid,manufacturer,product,bios_version,cpu_threads,memory_bytes,disks,disks_bytes,image,classes,drift,first_seen,last_seen,looked_at,tag.asset_tag,tag.location,tag.note
"machine.node[""a""]",store-0421,01900000-0000-7000-8000-000000000001,installed,7XK2Q93,52:54:00:04:21:01 52:54:00:04:21:02,4c4c4544-0058-4b10-8032-b7c04f513933,Dell Inc.,PowerEdge <XR12>,2,8,17179869184,2,1100585369600,,nuc spare,none,2026-11-21T12:00:00Z,2026-11-21T13:00:00Z,2026-11-21T12:01:00Z,0042,"back room, left",
,store-0422,01900000-0000-7000-8000-000000000002,,'=cmd|' /C calc'!A0,,,,,,,,0,0,,,,,,,,,''quoted'
,store-0422,01900000-0000-7000-8000-000000000003,,'-1,,,,,,,,,,,,,,,,,,
,store-0422,01900000-0000-7000-8000-000000000004,,9XK2Q93,,,,,,,,,,,,,,,,,,
`
	if b.String() != text {
		t.Errorf("CSV =\n%s\nwant\n%s", &b, text)
	}
	got, err := readAll(b.String())
	if err != nil {
		t.Fatal(err)
	}
	var want []Machine
	for _, m := range known() {
		want = append(want, Machine{Site: m.Site, MACs: m.MACs, SMBIOSUUID: m.SMBIOSUUID, Serial: m.Serial, Tags: m.Tags})
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("Read(CSV) = %+v; want %+v", got, want)
	}
}

func TestNoFormulaComesToASpreadsheet(t *testing.T) {
	for _, v := range []string{"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "'=1", "''", "a'b", "'", ""} {
		safe := inert(v)
		if safe != "" && strings.ContainsRune("=+-@\t\r", rune(safe[0])) || bare(safe) != v {
			t.Errorf("inert(%q) = %q, and bare of that %q", v, safe, bare(safe))
		}
	}
}

// TestNetBox writes the columns of NetBox's import of devices.
func TestNetBox(t *testing.T) {
	var b bytes.Buffer
	if err := NetBox(&b, "server", known()); err != nil {
		t.Fatal(err)
	}
	text := `name,role,manufacturer,device_type,serial,asset_tag,status,site,comments
"store-0421 machine.node[""a""]",server,Dell Inc.,PowerEdge <XR12>,7XK2Q93,0042,active,store-0421,52:54:00:04:21:01 52:54:00:04:21:02
'=cmd|' /C calc'!A0,server,Unknown,Unknown,'=cmd|' /C calc'!A0,,active,store-0422,
'-1,server,Unknown,Unknown,'-1,,active,store-0422,
9XK2Q93,server,Unknown,Unknown,9XK2Q93,0043,active,store-0422,
`
	if b.String() != text {
		t.Errorf("NetBox =\n%s\nwant\n%s", &b, text)
	}
}
