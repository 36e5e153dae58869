package workflows_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
)

func TestDigestIsOfDeedsNotOfReasons(t *testing.T) {
	s := load(t, node(""))
	build := func(v workflows.MachineView) workflows.Plan {
		p, _ := workflows.Build(s, one(v)(s), workflows.BuildOptions{})
		return p
	}
	a := build(workflows.MachineView{PowerErr: "read tcp 127.0.0.1:40001: timeout"})
	b := build(workflows.MachineView{PowerErr: "read tcp 127.0.0.1:40002: timeout"})
	if a.Actions[0].Reason == b.Actions[0].Reason {
		t.Fatal("the reasons are equal; this test would not see whether they count")
	}
	if a.Digest() != b.Digest() {
		t.Error("another port in an error made another plan")
	}
	if c := build(workflows.MachineView{Power: workflows.PowerOn}); c.Digest() == a.Digest() {
		t.Error("a power cycle that was not planned before left the digest as it was")
	}
}

func TestMoreDestructiveNamesWhatWasNotApproved(t *testing.T) {
	install := func(d inventory.Disk, power workflows.PowerChange) workflows.Plan {
		return workflows.Plan{Actions: []workflows.Action{{
			Address: "machine.a", Kind: workflows.KindInstall, Power: power,
			Erase: &workflows.Erase{Disk: workflows.NameDisk(d), Signatures: d.Signatures},
		}}}
	}
	inspect := workflows.Plan{Actions: []workflows.Action{{Address: "machine.a", Kind: workflows.KindInspect}}}
	renamed := disk("sdb", "D1", 100, "gpt")
	tests := []struct {
		name          string
		now, approved workflows.Plan
		want          string
	}{
		{"the same", install(disk("sda", "D1", 100, "gpt"), ""), install(disk("sda", "D1", 100, "gpt"), ""), ""},
		{"the same disk under another kernel name", install(renamed, ""), install(disk("sda", "D1", 100, "gpt"), ""), ""},
		{"fewer signatures", install(disk("sda", "D1", 100), ""), install(disk("sda", "D1", 100, "gpt"), ""), ""},
		{"nothing was named", install(disk("sda", "D1", 100), ""), inspect, "sda would be erased"},
		{"another disk", install(disk("sda", "D2", 100), ""), install(disk("sda", "D1", 100), ""), "sda would be erased"},
		{"the disk has grown", install(disk("sda", "D1", 101), ""), install(disk("sda", "D1", 100), ""), "sda would be erased"},
		{"more signatures", install(disk("sda", "D1", 100, "gpt", "ext4"), ""), install(disk("sda", "D1", 100, "gpt"), ""), "carries more than was shown"},
		{"a power cycle", install(disk("sda", "D1", 100), workflows.PowerCycle), install(disk("sda", "D1", 100), workflows.PowerUp), "would be power-cycled"},
		{"an approved power cycle", install(disk("sda", "D1", 100), workflows.PowerCycle), install(disk("sda", "D1", 100), workflows.PowerCycle), ""},
		{"a plan that does less", inspect, install(disk("sda", "D1", 100), ""), ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := strings.Join(test.now.MoreDestructive(test.approved), "\n")
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("MoreDestructive() = %q; want %q in it", got, test.want)
			}
		})
	}
}

func TestDisksAreTheSameByWhatDoesNotChange(t *testing.T) {
	tests := []struct {
		name string
		a, b workflows.DiskName
		want bool
	}{
		{"serial", workflows.DiskName{Name: "sda", Serial: "D", Bytes: 1}, workflows.DiskName{Name: "sdb", Serial: "D", Bytes: 1}, true},
		{"serial alone, size differs", workflows.DiskName{Serial: "D", Bytes: 1}, workflows.DiskName{Serial: "D", Bytes: 2}, false},
		{"wwn differs", workflows.DiskName{WWN: "naa.1", Serial: "D", Bytes: 1}, workflows.DiskName{WWN: "naa.2", Serial: "D", Bytes: 1}, false},
		{"one has lost its serial", workflows.DiskName{Serial: "D", Path: "p", Bytes: 1}, workflows.DiskName{Path: "p", Bytes: 1}, false},
		{"path, where there is nothing better", workflows.DiskName{Path: "p", Bytes: 1}, workflows.DiskName{Path: "p", Bytes: 1}, true},
		{"a serial that nobody wrote, elsewhere", workflows.DiskName{Serial: "00000000", Path: "p", Bytes: 1}, workflows.DiskName{Serial: "00000000", Path: "q", Bytes: 1}, false},
		{"a serial that nobody wrote, where no place is known", workflows.DiskName{Serial: "00000000", Bytes: 1}, workflows.DiskName{Serial: "00000000", Bytes: 1}, true},
		{"a serial that nobody wrote, and one place is known", workflows.DiskName{Serial: "00000000", Path: "p", Bytes: 1}, workflows.DiskName{Serial: "00000000", Bytes: 1}, false},
		{"another one, elsewhere", workflows.DiskName{Serial: "0123456789ABCDEF", Path: "p", Bytes: 1}, workflows.DiskName{Serial: "0123456789ABCDEF", Path: "q", Bytes: 1}, false},
		{"a zero, elsewhere", workflows.DiskName{Serial: "0", Path: "p", Bytes: 1}, workflows.DiskName{Serial: "0", Path: "q", Bytes: 1}, false},
		{"where it was, with a serial that nobody wrote", workflows.DiskName{Serial: "00000000", Path: "p", Bytes: 1}, workflows.DiskName{Serial: "00000000", Path: "p", Bytes: 1}, true},
		{"where it was, but with another such serial", workflows.DiskName{Serial: "00000000", Path: "p", Bytes: 1}, workflows.DiskName{Serial: "11111111", Path: "p", Bytes: 1}, false},
		{"where it was, with a serial by now", workflows.DiskName{Serial: "00000000", Path: "p", Bytes: 1}, workflows.DiskName{Serial: "S5X1", Path: "p", Bytes: 1}, false},
		{"a WWN beside such a serial", workflows.DiskName{WWN: "eui.0025385b01", Serial: "00000000", Path: "p", Bytes: 1}, workflows.DiskName{WWN: "eui.0025385b01", Serial: "00000000", Path: "q", Bytes: 1}, true},
		{"a serial beside a WWN that nobody wrote", workflows.DiskName{WWN: "eui.0000000000000000", Serial: "S5X1", Bytes: 1}, workflows.DiskName{WWN: "eui.0000000000000000", Serial: "S5X1", Bytes: 1}, true},
		{"a UUID of zeroes, elsewhere", workflows.DiskName{WWN: "uuid.00000000-0000-0000-0000-000000000000", Path: "p", Bytes: 1}, workflows.DiskName{WWN: "uuid.00000000-0000-0000-0000-000000000000", Path: "q", Bytes: 1}, false},
		{"an NVMe name made of such a serial, elsewhere", workflows.DiskName{WWN: "nvme.126f-3030303030303030-535344-00000001", Serial: "00000000", Path: "p", Bytes: 1}, workflows.DiskName{WWN: "nvme.126f-3030303030303030-535344-00000001", Serial: "00000000", Path: "q", Bytes: 1}, false},
		{"neither was written, elsewhere", workflows.DiskName{WWN: "eui.0000000000000000", Serial: "00000000", Path: "p", Bytes: 1}, workflows.DiskName{WWN: "eui.0000000000000000", Serial: "00000000", Path: "q", Bytes: 1}, false},
		{"nothing but the kernel's name", workflows.DiskName{Name: "sda", Bytes: 1}, workflows.DiskName{Name: "sda", Bytes: 1}, false},
	}
	for _, test := range tests {
		if got := test.a.Same(test.b); got != test.want {
			t.Errorf("%s: %+v.Same(%+v) = %t; want %t", test.name, test.a, test.b, got, test.want)
		}
		if test.a.Same(test.b) != test.b.Same(test.a) {
			t.Errorf("%s: Same depends on the order", test.name)
		}
		if test.want && !test.a.Alike(test.b) {
			t.Errorf("%s: the Same, and not Alike", test.name)
		}
	}
}

// TestDisksThatMayBeTheSameAreAlike is for what must not touch a disk that is in use.
func TestDisksThatMayBeTheSameAreAlike(t *testing.T) {
	root := workflows.DiskName{Name: "sda", Serial: "00000000", Path: "p", Bytes: 1}
	for _, test := range []struct {
		name string
		disk workflows.DiskName
		want bool
	}{
		{"on another port", workflows.DiskName{Name: "sdb", Serial: "00000000", Path: "q", Bytes: 1}, true},
		{"of another size", workflows.DiskName{Serial: "00000000", Path: "p", Bytes: 2}, false},
		{"with a number of its own", workflows.DiskName{Serial: "S5X1", Path: "p", Bytes: 1}, false},
		{"with a WWN", workflows.DiskName{WWN: "eui.0025385b01", Serial: "00000000", Path: "p", Bytes: 1}, false},
	} {
		if got := root.Alike(test.disk); got != test.want {
			t.Errorf("%s: Alike() = %t; want %t", test.name, got, test.want)
		}
	}
	if a, b := (workflows.DiskName{Path: "p", Bytes: 1}), (workflows.DiskName{Path: "q", Bytes: 1}); a.Alike(b) {
		t.Error("disks without any number on two ports are Alike; want them apart")
	}
}

func TestPlansHoldNoPassword(t *testing.T) {
	for _, c := range planCases {
		s := load(t, c.text)
		plan, _ := workflows.Build(s, c.see(s), c.opts)
		var out bytes.Buffer
		if err := plan.Print(&out, workflows.PrintOptions{All: true, Color: true}); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "not-in-any-plan") {
			t.Errorf("%s: the plan shows the BMC's password", c.name)
		}
	}
}

func TestColourIsOnlyAddedNeverChangesTheText(t *testing.T) {
	s := load(t, node(""))
	plan, _ := workflows.Build(s, one(known(disk("sda", "D1", 100, "gpt")))(s), workflows.BuildOptions{})
	var plain, colour bytes.Buffer
	if err := plan.Print(&plain, workflows.PrintOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := plan.Print(&colour, workflows.PrintOptions{Color: true}); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(plain.String(), "\x1b") {
		t.Error("the plan without colour has an escape sequence")
	}
	stripped := colour.String()
	for _, code := range []string{"\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"} {
		stripped = strings.ReplaceAll(stripped, code, "")
	}
	if stripped != plain.String() {
		t.Errorf("the coloured plan without its colours =\n%s\nwant\n%s", stripped, plain.String())
	}
}

func TestFormatBytes(t *testing.T) {
	for n, want := range map[int64]string{
		0: "0 B", 1023: "1023 B", 1024: "1 KiB", 1536: "1.5 KiB", 8 << 30: "8 GiB", 1 << 40: "1 TiB", 1 << 60: "1024 PiB",
	} {
		if got := workflows.FormatBytes(n); got != want {
			t.Errorf("FormatBytes(%d) = %q; want %q", n, got, want)
		}
	}
}
