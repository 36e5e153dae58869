package workflows_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
)

// inside is what the BMC of machine.a knows, with the ports of these MACs.
func inside(t *testing.T, macs ...string) *inventory.Facts {
	t.Helper()
	f := &inventory.Facts{
		SchemaVersion: inventory.SchemaVersion,
		System:        &inventory.System{Serial: "7XK2Q93", UUID: "4c4c4544-0042-3010-8042-b4c04f4d3232"},
		Memory:        &inventory.Memory{Bytes: 8 << 30},
		Disks:         []inventory.Disk{{Name: "Disk.Bay.0", Serial: "D1", Bytes: 100 << 30}},
	}
	for _, s := range macs {
		mac, err := inventory.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		f.NICs = append(f.NICs, inventory.NIC{Name: "NIC." + s, MAC: mac})
	}
	return f
}

func TestPlanDoubtsWhatABMCSays(t *testing.T) {
	const own, other = "52:54:00:04:21:01", "3c:ec:ef:10:20:01"
	unseen := func(f *inventory.Facts) workflows.MachineView {
		return workflows.MachineView{Power: workflows.PowerOff, BMC: f}
	}
	seen := func(change func(*inventory.Facts)) workflows.MachineView {
		v := known(disk("sda", "D1", 100))
		v.Machine.SMBIOSUUID = uuid.MustParse("4c4c4544-0042-3010-8042-b4c04f4d3232")
		v.BMC = inside(t, other)
		change(v.BMC)
		return v
	}
	require := func(condition string) string {
		return "require {\n condition = " + condition + "\n message = \"too small\"\n}\n"
	}
	tests := []struct {
		name  string
		extra string
		view  workflows.MachineView
		want  string // in the one warning; empty: none
		line  string // of site.hcl that it names
	}{
		{"its MAC is known", "", unseen(inside(t, other, own)), "", ""},
		{"its MAC is not known", "", unseen(inside(t, other)), "at https://172.22.1.11 knows the ports 3c:ec:ef:10:20:01, and none is the declared 52:54:00:04:21:01", "mac "},
		{"the BMC names no ports", "", unseen(inside(t)), "", ""},
		{"nothing was told", "", workflows.MachineView{Power: workflows.PowerOff}, "", ""},
		{"a requirement that is met", require("facts.memory.bytes >= GiB(8)"), unseen(inside(t, own)), "", ""},
		{"a requirement that is not met", require("facts.memory.bytes >= GiB(16)"), unseen(inside(t, own)), "too small: by what its BMC says, facts.memory.bytes", "condition"},
		{"a requirement of what it did not tell", require("facts.cpu.cores >= 4"), unseen(inside(t, own)), "", ""},
		{"a requirement of disks, of which a BMC may know some only", require("any([for d in facts.disks : d.bytes >= TiB(1)])"), unseen(inside(t, own)), "", ""},
		{"inspected, and the same machine", "", seen(func(*inventory.Facts) {}), "", ""},
		{"its UUID in the other byte order", "", seen(func(f *inventory.Facts) {
			f.System = &inventory.System{UUID: inventory.SwapUUID(uuid.MustParse(f.System.UUID)).String()}
		}), "", ""},
		{"another serial, but the same UUID", "", seen(func(f *inventory.Facts) { f.System.Serial = "BOARD-1" }), "", ""},
		{"another serial and UUID", "", seen(func(f *inventory.Facts) {
			f.System = &inventory.System{Serial: "7XK2Q94", UUID: "4c4c4544-0042-3010-8042-b4c04f4d3233"}
		}), "its serial is 7XK2Q94, where the machine's own is 7XK2Q93, and that its UUID is", "address"},
		{"another serial, and a port that it has", "", seen(func(f *inventory.Facts) {
			f.System = &inventory.System{Serial: "7XK2Q94"}
			f.NICs = inside(t, own).NICs
		}), "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := load(t, node(tt.extra))
			if v := tt.view; v.Machine != nil {
				v.Machine.MACs = []inventory.MAC{s.MachineByAddress("machine.a").MAC}
			}
			plan, diags := workflows.Build(s, observation(map[string]workflows.MachineView{"machine.a": tt.view}), workflows.BuildOptions{})
			if diags.HasErrors() {
				t.Fatalf("Build() = %v; want no error", diags)
			}
			without := tt.view
			without.BMC = nil
			if same, _ := workflows.Build(s, observation(map[string]workflows.MachineView{"machine.a": without}), workflows.BuildOptions{}); same.Digest() != plan.Digest() {
				t.Error("the plan is another one because of what the BMC says; want the same deeds")
			}
			if tt.want == "" {
				if len(diags) > 0 {
					t.Errorf("Build() warns %v; want nothing", diags)
				}
				return
			}
			if len(diags) != 1 || !strings.Contains(diags[0].Detail, tt.want) {
				t.Fatalf("Build() warns %v; want one with %q", diags, tt.want)
			}
			at := diags[0].Subject
			if line := strings.TrimSpace(strings.Split(string(s.Files[at.Filename].Bytes), "\n")[at.Start.Line-1]); !strings.HasPrefix(line, tt.line) {
				t.Errorf("the warning is about %q; want the line of %s", line, tt.line)
			}
		})
	}
}
