package workflows_test

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var planCases = []planCase{
	{
		name: "never-inspected", text: node(""), see: one(workflows.MachineView{Power: workflows.PowerOff}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInspect},
		says: []string{"nothing is written", "it is off and will be switched on", "No disk will be written to."},
	},
	{
		name: "never-inspected-and-on", text: node(""), see: one(workflows.MachineView{Power: workflows.PowerOn}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInspect},
		says: []string{"it is ON and will be power-cycled"},
	},
	{
		name: "never-inspected-bmc-unreachable", text: node(""),
		see:  one(workflows.MachineView{PowerErr: "dial tcp 172.22.1.11:443: no route to host"}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInspect},
		says: []string{"no route to host", "its BMC cannot be asked now"},
	},
	{
		name: "never-inspected-no-bmc", text: head + "machine \"a\" {\n  mac = \"52:54:00:04:21:01\"\n  network = network.edge\n  image = image.os\n}\n",
		see:  one(workflows.MachineView{}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInspect},
		says: []string{"you will be asked to switch it on"},
	},
	{
		name: "held-in-the-installer", text: node(""), see: seen(known(disk("sda", "D1", 100)), func(v *workflows.MachineView) { v.InInstaller, v.Power = true, workflows.PowerOn }),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"ERASES   sda (100 GiB, serial D1); it carries nothing that is known"},
	},
	{
		name: "discovered-only", text: head + "machine \"a\" {\n  mac = \"52:54:00:04:21:01\"\n  network = network.edge\n}\n",
		see:  one(known(disk("sda", "D1", 100, "ext4"))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindNone},
		says: []string{"No changes."},
	},
	{
		name: "blank-disk", text: node(""), see: one(known(disk("sda", "D1", 100))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"1 disk will be erased."},
	},
	{
		name: "bios-with-two-disks", text: node("  root_disk {\n    match = disk.serial == \"D2\"\n  }"),
		see:  one(firmware(known(disk("sda", "D1", 100), disk("sdb", "D2", 200)), "bios")),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"Warning: The firmware decides which disk is started", "Put sdb (200 GiB, serial D2) before the other disks"},
	},
	{
		name: "uefi-with-two-disks", text: node("  root_disk {\n    match = disk.serial == \"D2\"\n  }"),
		see:  one(firmware(known(disk("sda", "D1", 100), disk("sdb", "D2", 200)), "uefi")),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"1 disk will be erased."},
	},
	{
		name: "image-not-built", text: node(""),
		see: func(*site.Site) workflows.Observation {
			o := observation(map[string]workflows.MachineView{"machine.a": known(disk("sda", "D1", 100))})
			o.Images["image.os"] = workflows.ImageView{Spec: "spec-1"}
			return o
		},
		want: map[string]workflows.Kind{"image.os": workflows.KindBuild, "machine.a": workflows.KindInstall},
		says: []string{"image.os (known after it is built)"},
	},
	{
		name: "signatures-without-wipe", text: node(""), see: one(known(disk("sda", "D1", 100, "gpt", "ext4"))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"with gpt, ext4", "NEEDS CONSENT"},
	},
	{
		name: "signatures-with-wipe", text: node("  wipe = true"), see: one(known(disk("sda", "D1", 100, "gpt", "ext4"))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"consented to by wipe = true"},
	},
	{
		name: "unfinished-write-resumes-the-same-disk",
		text: node("  root_disk {\n    match = disk.serial == \"D2\"\n  }"),
		see: seen(known(disk("sda", "D1", 100, "gpt"), disk("sdb", "D2", 100)), func(v *workflows.MachineView) {
			v.Unfinished = &workflows.InstallRecord{Image: digest, Disk: workflows.NameDisk(disk("sda", "D1", 100))}
		}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"cut off and will be continued", "sda (100 GiB, serial D1); continues this catalog's own unfinished write"},
	},
	{
		name: "unfinished-write-on-a-disk-that-was-taken-out", text: node(""),
		see: seen(known(disk("sda", "D2", 100, "gpt", "ext4")), func(v *workflows.MachineView) {
			v.Unfinished = &workflows.InstallRecord{Image: digest, Disk: workflows.NameDisk(disk("sda", "D1", 100))}
		}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"serial D2", "NEEDS CONSENT"},
	},
	{
		name: "unfinished-write-before-replace", text: node(""), opts: workflows.BuildOptions{Replace: []string{"machine.a"}},
		see: was(func(v *workflows.MachineView) {
			v.Unfinished = &workflows.InstallRecord{Image: digest, Disk: workflows.NameDisk(disk("sda", "D1", 100))}
		}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"cut off and will be continued"},
	},
	{
		name: "as-declared", text: node(""), see: was(func(*workflows.MachineView) {}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindNone},
		says: []string{"installed, and answers as itself", "No changes."},
	},
	{
		name: "declaration-changed-is-never-a-reinstallation", text: node("  wipe = true"),
		see: func(s *site.Site) workflows.Observation {
			o := was(func(v *workflows.MachineView) {
				v.Applied.Hostname, v.Applied.Address, v.Applied.Users, v.Applied.Network = "old", "172.22.0.99", "u", "n"
			})(s)
			o.Images["image.os"] = workflows.ImageView{Spec: "spec-2"}
			return o
		},
		want: map[string]workflows.Kind{"machine.a": workflows.KindDiffers},
		says: []string{"-replace='machine.a'", "hostname: old → a", "address: 172.22.0.99 → 172.22.0.11", "(known after it is built)", "users or their keys have changed"},
	},
	{
		name: "another-catalog-owns-it", text: node(""),
		see:  was(func(v *workflows.MachineView) { v.HostIdentity.Catalog = "another" }),
		want: map[string]workflows.Kind{"machine.a": workflows.KindDiffers},
		says: []string{"owner: catalog another"},
	},
	{
		name: "another-host-key-at-its-address", text: node(""),
		see: was(func(v *workflows.MachineView) {
			v.Host, v.HostDetail = workflows.Absent, "the SSH host key is not the one that was made on it"
		}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindDiffers},
		says: []string{"the SSH host key is not"},
	},
	{
		name: "unreachable-and-on", text: node(""),
		see: was(func(v *workflows.MachineView) {
			v.Host, v.HostDetail, v.Power = workflows.Unreachable, "no SSH at 172.22.0.11:22: connection refused", workflows.PowerOn
		}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindUnreachable},
		says: []string{"connection refused", "it is left alone", "Nothing to do."},
	},
	{
		name: "unreachable-and-off", text: node(""),
		see: was(func(v *workflows.MachineView) {
			v.Host, v.HostDetail, v.Power = workflows.Unreachable, "no route", workflows.PowerOff
		}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindPowerOn},
		says: []string{"installed, but switched off", "No disk will be written to."},
	},
	{
		name: "unreachable-and-power-unknown", text: node(""),
		see: was(func(v *workflows.MachineView) {
			v.Host, v.HostDetail, v.PowerErr = workflows.Unreachable, "no route", "the BMC refused the password"
		}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindUnreachable},
		says: []string{"no route; and its BMC: the BMC refused the password"},
	},
	{
		name: "installed-but-cut-off-before-it-answered", text: node(""),
		see: was(func(v *workflows.MachineView) {
			v.Host, v.Unanswered, v.Power = workflows.Unreachable, true, workflows.PowerOn
		}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindBoot},
		says: []string{"will be booted from its disk"},
	},
	{
		name: "requirement-not-met",
		text: node("  require {\n    condition = facts.memory.bytes >= GiB(16)\n    message   = \"a storage node needs 16 GiB\"\n  }"),
		see:  one(known(disk("sda", "D1", 100))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindRefused},
		says: []string{"a storage node needs 16 GiB", "facts.memory.bytes"},
	},
	{
		name: "requirement-absent-fact-is-named",
		text: node("  require {\n    condition = facts.tpm.version == \"2.0\"\n    message   = \"keys are sealed to a TPM\"\n  }"),
		see:  one(known(disk("sda", "D1", 100))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindRefused},
		says: []string{"facts.tpm.version"},
	},
	{
		name: "root-disk-matches-none",
		text: node("  root_disk {\n    match = disk.bytes >= TiB(1)\n  }"), see: one(known(disk("sda", "D1", 100))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindRefused},
		says: []string{"root_disk matches none of its disks: sda (100 GiB, serial D1)"},
	},
	{
		name: "root-disk-undeclared-of-two", text: node(""), see: one(known(disk("sda", "D1", 100), disk("sdb", "D2", 200))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindRefused},
		says: []string{"matches 2 disks", "select = \"smallest\""},
	},
	{
		name: "root-disk-smallest", text: node("  root_disk {\n    select = \"smallest\"\n  }"),
		see:  one(known(disk("sda", "D1", 200, "gpt"), disk("sdb", "D2", 100))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"ERASES   sdb (100 GiB, serial D2)"},
	},
	{
		name: "root-disk-smallest-tie", text: node("  root_disk {\n    select = \"smallest\"\n  }"),
		see:  one(known(disk("sda", "D1", 100), disk("sdb", "D2", 100), disk("sdc", "D3", 200))),
		want: map[string]workflows.Kind{"machine.a": workflows.KindRefused},
		says: []string{"cannot choose between disks of one size"},
	},
	{
		name: "no-disk-at-all", text: node(""), see: one(known()),
		want: map[string]workflows.Kind{"machine.a": workflows.KindRefused},
		says: []string{"RAID mode"},
	},
	{
		name: "disks-not-looked-for", text: node(""), see: one(blind()),
		want: map[string]workflows.Kind{"machine.a": workflows.KindRefused},
		says: []string{"does not say that it could look for them"},
	},
	{
		name: "twins-fit-one-match",
		text: strings.Replace(node(""), `mac     = "52:54:00:04:21:01"`, "match   = facts.memory.bytes == GiB(64)", 1), see: one(workflows.MachineView{Unbound: "its match fits 2 machines and must fit one: A; B"}),
		want: map[string]workflows.Kind{"machine.a": workflows.KindRefused},
		says: []string{"its match fits 2 machines", "Match fits several machines"},
	},
	{
		name: "replace", text: node(""), opts: workflows.BuildOptions{Replace: []string{"machine.a"}},
		see:  was(func(v *workflows.MachineView) { v.Power = workflows.PowerOn }),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInspect},
		says: []string{"to be replaced, as asked", "has to be looked at first", "it is ON and will be power-cycled"},
	},
	{
		name: "replace-in-the-installer", text: node(""), opts: workflows.BuildOptions{Replace: []string{"machine.a"}},
		see:  was(func(v *workflows.MachineView) { v.Power, v.InInstaller = workflows.PowerOn, true }),
		want: map[string]workflows.Kind{"machine.a": workflows.KindInstall},
		says: []string{"to be replaced, as asked", "NEEDS CONSENT"},
	},
	{
		name: "orphan", text: node(""),
		see: func(s *site.Site) workflows.Observation {
			o := was(func(*workflows.MachineView) {})(s)
			o.Orphans = []string{"machine.gone"}
			return o
		},
		want: map[string]workflows.Kind{"machine.a": workflows.KindNone, "machine.gone": workflows.KindOrphan},
		says: []string{"it is left alone"},
	},
	{
		name: "adopted", text: "site \"store\" {}\n" + adopted,
		see: func(*site.Site) workflows.Observation {
			return observation(map[string]workflows.MachineView{"machine.old": {Host: workflows.Present}})
		},
		want: map[string]workflows.Kind{"machine.old": workflows.KindNone},
		says: []string{"never powered or imaged"},
	},
	{
		name: "adopted-unreachable", text: "site \"store\" {}\n" + adopted,
		see: func(*site.Site) workflows.Observation {
			return observation(map[string]workflows.MachineView{"machine.old": {Host: workflows.Unreachable, HostDetail: "no route"}})
		},
		want: map[string]workflows.Kind{"machine.old": workflows.KindUnreachable},
		says: []string{"no route"},
	},
	{
		name: "adopted-refused", text: "site \"store\" {}\n" + adopted,
		see: func(*site.Site) workflows.Observation {
			return observation(map[string]workflows.MachineView{"machine.old": {Host: workflows.Absent, HostDetail: "machine.old: another key"}})
		},
		want: map[string]workflows.Kind{"machine.old": workflows.KindRefused},
		says: []string{"another key"},
	},
	{
		name: "adopted-too-small", text: "site \"store\" {}\n" + strings.Replace(adopted, "ssh {", "require {\n condition = facts.memory.bytes >= GiB(16)\n message = \"too small\"\n }\n ssh {", 1),
		see: func(*site.Site) workflows.Observation {
			return observation(map[string]workflows.MachineView{"machine.old": {Host: workflows.Present, Facts: facts()}})
		},
		want: map[string]workflows.Kind{"machine.old": workflows.KindRefused},
		says: []string{"too small"},
	},
	{
		name: "steps", text: stepSite,
		see: func(s *site.Site) workflows.Observation {
			o := was(func(*workflows.MachineView) {})(s)
			o.Steps = map[string]workflows.StepView{
				at("file.same"):      {Presence: workflows.Present, Inputs: "i1"},
				at("file.differs"):   {Presence: workflows.Present, Changes: []string{"machine.a: /etc/x has other content"}, Inputs: "i2"},
				at("ssh.new"):        {Presence: workflows.Absent, Inputs: "i3"},
				at("ssh.skipped"):    {Skipped: true},
				at("ssh.beyond"):     {Presence: workflows.Present, Inputs: "i4"},
				at("wait.silent"):    {Presence: workflows.Unreachable, Detail: "no SSH"},
				at("ssh.blocked"):    {Presence: workflows.Absent, Inputs: "i5"},
				at("ssh.unknown"):    {After: []string{"machine.a"}},
				at("file.untouched"): {Presence: workflows.Present, Inputs: "i6"},
			}
			return o
		},
		want: map[string]workflows.Kind{
			"machine.a": workflows.KindNone, at("file.same"): workflows.KindNone, at("file.differs"): workflows.KindRun,
			at("ssh.new"): workflows.KindRun, at("ssh.skipped"): workflows.KindSkipped, at("ssh.beyond"): workflows.KindRun,
			at("wait.silent"): workflows.KindUnreachable, at("ssh.blocked"): workflows.KindBlocked, at("ssh.unknown"): workflows.KindRun,
			at("file.untouched"): workflows.KindNone,
		},
		says: []string{"machine.a: /etc/x has other content", "it depends on " + at("wait.silent"), "(known after machine.a)"},
	},
	{
		name: "steps-on-a-machine-that-is-installed-first", text: stepSite, see: one(known(disk("sda", "D1", 100))),
		opts: workflows.BuildOptions{Target: []string{at("ssh.beyond")}},
		want: map[string]workflows.Kind{
			"machine.a": workflows.KindInstall, at("file.differs"): workflows.KindRun,
			at("ssh.skipped"): workflows.KindRun, at("ssh.beyond"): workflows.KindRun,
		},
		says: []string{"what it depends on changes first"},
	},
	{
		name: "steps-on-a-machine-that-cannot-be-asked", text: stepSite,
		see:  was(func(v *workflows.MachineView) { v.Host, v.HostDetail = workflows.Unreachable, "no route" }),
		opts: workflows.BuildOptions{Target: []string{at("ssh.beyond")}},
		want: map[string]workflows.Kind{
			"machine.a": workflows.KindUnreachable, at("file.differs"): workflows.KindBlocked,
			at("ssh.skipped"): workflows.KindBlocked, at("ssh.beyond"): workflows.KindBlocked,
		},
	},
	{
		name: "steps-that-are-there-and-not-recorded", text: "site \"store\" {}\n" + adopted + unrecordedSteps,
		see: func(*site.Site) workflows.Observation {
			o := observation(map[string]workflows.MachineView{"machine.old": {Host: workflows.Present, Facts: facts()}})
			o.Steps = map[string]workflows.StepView{
				at("file.cut"):    {Presence: workflows.Present, Inputs: "i1", Unfinished: true, Unrecorded: true},
				at("file.again"):  {Presence: workflows.Present, Inputs: "i2", Unfinished: true},
				at("file.needed"): {Presence: workflows.Present, Inputs: "i3", Unrecorded: true},
				at("ssh.reader"):  {After: []string{at("file.needed")}},
				at("file.idle"):   {Presence: workflows.Present, Inputs: "i4", Unrecorded: true},
			}
			return o
		},
		want: map[string]workflows.Kind{
			"machine.old": workflows.KindNone, at("file.cut"): workflows.KindRun, at("file.again"): workflows.KindRun,
			at("file.needed"): workflows.KindRun, at("ssh.reader"): workflows.KindRun, at("file.idle"): workflows.KindNone,
		},
		says: []string{"before that was verified and recorded", "other steps need its outputs"},
	},
}

// unrecordedSteps are four that are as declared already and one that reads what
// one of them gives.
const unrecordedSteps = `
workflow "w" {
  step "file" "cut" {
    hosts   = machine.old
    path    = "/etc/cut"
    content = "x"
  }
  step "file" "again" {
    hosts   = machine.old
    path    = "/etc/again"
    content = "x"
  }
  step "file" "needed" {
    hosts   = machine.old
    path    = "/etc/needed"
    content = "x"
  }
  step "ssh" "reader" {
    hosts   = machine.old
    command = "echo ${step.file.needed.sha256}"
  }
  step "file" "idle" {
    hosts   = machine.old
    path    = "/etc/idle"
    content = "x"
  }
}
`

const adopted = `
machine "old" {
  address = "172.27.0.10"
  ssh {
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEDGVQ/HsZEtQ5k1sMbJJKVJ7KTwoJpXXCtWNzMmhwkW"
  }
}
`

func at(step string) string { return "workflow.w.step." + step }

// stepSite declares ssh.beyond before what it waits for, and a skipped step
// between the two: neither may hide the change behind them.
var stepSite = node("") + `
workflow "w" {
  step "ssh" "beyond" {
    hosts      = machine.a
    command    = "true"
    depends_on = [step.ssh.skipped]
  }
  step "ssh" "skipped" {
    hosts      = machine.a
    command    = "true"
    depends_on = [step.file.differs]
  }
  step "file" "same" {
    hosts   = machine.a
    path    = "/etc/same"
    content = "x"
  }
  step "file" "differs" {
    hosts   = machine.a
    path    = "/etc/x"
    content = "x"
  }
  step "ssh" "new" {
    hosts   = machine.a
    command = "true"
  }
  step "wait" "silent" {
    hosts = machine.a
  }
  step "ssh" "blocked" {
    hosts      = machine.a
    command    = "true"
    depends_on = [step.wait.silent]
  }
  step "ssh" "unknown" {
    hosts   = machine.a
    command = "echo ${machine.a.facts.memory.bytes}"
  }
  step "file" "untouched" {
    hosts      = machine.a
    path       = "/etc/untouched"
    content    = "x"
    depends_on = [step.file.same]
  }
}
`

// TestBuildDecides walks every case in which a plan has to decide, compares the
// kinds of its actions, and the whole answer with its golden file.
func TestBuildDecides(t *testing.T) {
	for _, c := range planCases {
		t.Run(c.name, func(t *testing.T) {
			s := load(t, c.text)
			plan, diags := workflows.Build(s, c.see(s), c.opts)
			got := map[string]workflows.Kind{}
			for _, a := range plan.Actions {
				got[a.Address] = a.Kind
			}
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("Build() kinds differ (-want +got):\n%s", d)
			}
			for _, a := range plan.Actions {
				if a.Erase != nil && a.Kind != workflows.KindInstall {
					t.Errorf("%s is %s and yet erases %v; only an installation does", a.Address, a.Kind, a.Erase.Disk)
				}
			}
			var out bytes.Buffer
			if err := plan.Print(&out, workflows.PrintOptions{All: true}); err != nil {
				t.Fatal(err)
			}
			for _, d := range diags {
				d.Subject, d.Context = nil, nil // the path is another each time
			}
			if err := site.WriteDiagnostics(&out, nil, diags, false, 100); err != nil {
				t.Fatal(err)
			}
			for _, want := range c.says {
				if !strings.Contains(out.String(), want) {
					t.Errorf("the plan says\n%s\nwant in it: %s", out.String(), want)
				}
			}
			golden(t, filepath.Join("testdata", "plan", c.name+".golden"), out.Bytes())
		})
	}
}

// golden compares got with a file.
func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; run with -update", err)
	}
	if d := cmp.Diff(string(want), string(got)); d != "" {
		t.Errorf("%s differs (-want +got):\n%s", path, d)
	}
}

func TestRefusalsPointAtTheirLine(t *testing.T) {
	s := load(t, node("  require {\n    condition = facts.memory.bytes >= GiB(16)\n    message   = \"more memory\"\n  }"))
	_, diags := workflows.Build(s, one(known(disk("sda", "D1", 100)))(s), workflows.BuildOptions{})
	if len(diags) != 1 || diags[0].Subject == nil {
		t.Fatalf("Build() diagnostics = %v; want one with its place", diags)
	}
	src, err := os.ReadFile(diags[0].Subject.Filename)
	if err != nil {
		t.Fatal(err)
	}
	if line := strings.Split(string(src), "\n")[diags[0].Subject.Start.Line-1]; !strings.Contains(line, "GiB(16)") {
		t.Errorf("the diagnostic points at %q; want the condition", line)
	}
}

func TestEqualArgumentsGiveEqualPlans(t *testing.T) {
	text := head + `
machine "n" {
  for_each = { for i in range(20) : format("k%02d", i) => i }
  mac      = format("52:54:00:04:21:%02x", each.value + 1)
  network  = network.edge
  image    = image.os
}
`
	var first string
	for range 10 {
		s := load(t, text)
		// Each filling of a map gives it another order.
		machines := map[string]workflows.MachineView{}
		for _, m := range s.Machines {
			machines[m.Address] = known(disk("sda", "D-"+m.Key, 100))
		}
		o := observation(machines)
		o.Machines = maps.Clone(o.Machines)
		plan, _ := workflows.Build(s, o, workflows.BuildOptions{})
		if first == "" {
			first = plan.Digest()
		}
		if got := plan.Digest(); got != first {
			t.Fatalf("Digest() = %s; want %s as before", got, first)
		}
	}
}

func TestEveryGoldenPlanHasItsCase(t *testing.T) {
	files, err := filepath.Glob("testdata/plan/*.golden")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".golden")
		if !slices.ContainsFunc(planCases, func(c planCase) bool { return c.name == name }) {
			t.Errorf("%s belongs to no case", f)
		}
	}
}
