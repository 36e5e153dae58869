package site

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/inventory"
)

// writeTree writes files into a new directory and gives the path of the site
// in it.
func writeTree(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "site.hcl")
}

// loadTree loads the site.hcl of a tree that must have no error.
func loadTree(t *testing.T, files map[string]string) *Site {
	t.Helper()
	s, diags := Load(writeTree(t, files), testOptions())
	if diags.HasErrors() {
		t.Fatalf("Load() = %s; want no error", render(s, diags))
	}
	return s
}

const nodeModule = `
variable "hosts" {
  type = map(number)
}
variable "network" {
  type = any
}
variable "token" {
  default = ""
}
locals {
  text = "token ${var.token}"
}
machine "node" {
  for_each = var.hosts
  mac      = format("52:54:00:00:%02x:%02x", length(var.network.name), each.value)
  network  = var.network
  address  = cidrhost(var.network.cidr, each.value)
  hostname = "${var.network.name}-${each.key}"
}
workflow "w" {
  step "ssh" "hello" {
    for_each = machine.node
    hosts    = each.value
    command  = "echo ${local.text} ${length(each.value.facts.disks)}"
  }
}
output "nodes" {
  value = machine.node
}
output "hello" {
  value = { for key, step in workflow.w.step.ssh.hello : key => step.stdout }
}
output "text" {
  value = local.text
}
`

const callingSite = `
site "calls" {}
variable "token" {
  sensitive = true
  default   = "s3cr3t-token"
}
network "a" {
  interface = "eth1"
  cidr      = "10.0.0.0/24"
}
network "bb" {
  interface = "eth2"
  cidr      = "10.0.1.0/24"
}
module "rack" {
  source   = "./node"
  for_each = { a = network.a, b = network.bb }
  network  = each.value
  hosts    = { x = 5, y = 6 }
  token    = var.token
}
module "pair" {
  source  = "./node"
  count   = 1
  network = network.a
  hosts   = { "p" = length(module.rack["a"].nodes) }
}
workflow "all" {
  step "ssh" "one" {
    hosts   = module.rack["b"].nodes["y"]
    command = module.rack["b"].text
  }
  step "ssh" "each" {
    for_each = module.rack["a"].nodes
    hosts    = each.value
    command  = "true"
  }
  step "ssh" "after" {
    hosts      = values(module.pair[0].nodes)
    command    = module.pair[0].hello["p"]["p"]
    depends_on = [module.rack["a"]]
  }
}
output "text" {
  sensitive = true
  value     = module.rack["a"].text
}
`

func TestModulesHaveAddressesAndEdgesOfTheirOwn(t *testing.T) {
	s := loadTree(t, map[string]string{"site.hcl": callingSite, "node/main.hcl": nodeModule})
	wantNodes := []string{
		"network.a", "network.bb",
		`module.rack["a"].machine.node["x"]`, `module.rack["a"].machine.node["y"]`,
		`module.rack["b"].machine.node["x"]`, `module.rack["b"].machine.node["y"]`,
		`module.pair[0].machine.node["p"]`,
	}
	if got := s.Graph().Nodes[:len(wantNodes)]; !cmp.Equal(got, wantNodes) {
		t.Errorf("Graph().Nodes = %q; want %q first", got, wantNodes)
	}
	want := map[string][]string{
		"workflow.all.step.ssh.one":                       {`module.rack["b"].machine.node["x"]`, `module.rack["b"].machine.node["y"]`},
		`workflow.all.step.ssh.each["y"]`:                 {`module.rack["a"].machine.node["x"]`, `module.rack["a"].machine.node["y"]`},
		"workflow.all.step.ssh.after":                     {`module.pair[0].machine.node["p"]`, `module.pair[0].workflow.w.step.ssh.hello["p"]`, `module.rack["a"].machine.node["x"]`, `module.rack["a"].machine.node["y"]`, `module.rack["a"].workflow.w.step.ssh.hello["x"]`, `module.rack["a"].workflow.w.step.ssh.hello["y"]`},
		`module.rack["a"].workflow.w.step.ssh.hello["x"]`: {`module.rack["a"].machine.node["x"]`},
	}
	for address, below := range want {
		step := s.StepByAddress(address)
		if step == nil {
			t.Fatalf("StepByAddress(%s) = nil", address)
		}
		if address == `workflow.all.step.ssh.each["y"]` {
			below = below[1:]
		}
		if !cmp.Equal(step.DependsOn, below) {
			t.Errorf("DependsOn(%s) = %q; want %q", address, step.DependsOn, below)
		}
	}
	m := s.MachineByAddress(`module.rack["b"].machine.node["y"]`)
	if m == nil || m.Network != s.Networks[1] || m.IP.String() != "10.0.1.6" || m.Hostname != "bb-y" {
		t.Errorf("machine = %+v; want it on network.bb, 10.0.1.6", m)
	}
	if pair := s.MachineByAddress(`module.pair[0].machine.node["p"]`); pair.IP.String() != "10.0.0.2" {
		t.Errorf("address = %s; want 10.0.0.2, from an output of another module", pair.IP)
	}
	if got := m.Decl.DeclRange.Filename; !strings.HasSuffix(got, "node/main.hcl") {
		t.Errorf("DeclRange.Filename = %s; want the module's file", got)
	}
}

func TestSensitivityAndUnknownsPassThroughModules(t *testing.T) {
	s := loadTree(t, map[string]string{"site.hcl": callingSite, "node/main.hcl": nodeModule})
	one := s.StepByAddress("workflow.all.step.ssh.one")
	if got := one.Inputs.GetAttr("command"); !IsSensitive(got) {
		t.Errorf("command = %s; want it sensitive: it comes from a sensitive argument through an output", Text(got))
	}
	if !IsSensitive(s.Outputs[0].Value) {
		t.Errorf("output = %s; want it sensitive", Text(s.Outputs[0].Value))
	}
	after := s.StepByAddress("workflow.all.step.ssh.after")
	if got, want := Text(after.Inputs.GetAttr("command")), `(known after module.pair[0].step.ssh.hello["p"])`; got != want {
		t.Errorf("Text(command) = %s; want %s", got, want)
	}
	hello := s.StepByAddress(`module.pair[0].workflow.w.step.ssh.hello["p"]`)
	known := Known{
		Machines: map[string]KnownMachine{`module.pair[0].machine.node["p"]`: {Facts: &inventory.Facts{Disks: []inventory.Disk{{Serial: "D1"}, {Serial: "D2"}}}}},
		Steps: map[string]cty.Value{hello.Address: cty.ObjectVal(map[string]cty.Value{
			"stdout": cty.MapVal(map[string]cty.Value{"p": cty.StringVal("done")}),
		})},
	}
	inputs, diags := s.StepInputs(hello, known)
	if got, want := Text(inputs.GetAttr("command")), `"echo token  2"`; diags.HasErrors() || got != want {
		t.Errorf("StepInputs(hello) = %s, %v; want %s", got, diags, want)
	}
	inputs, diags = s.StepInputs(after, known)
	if got, want := Text(inputs.GetAttr("command")), `"done"`; diags.HasErrors() || got != want {
		t.Errorf("StepInputs(after) = %s, %v; want %s", got, diags, want)
	}
	other := s.StepByAddress(`module.rack["a"].workflow.w.step.ssh.hello["x"]`)
	if inputs, _ := s.StepInputs(other, known); !IsSensitive(inputs.GetAttr("command")) || inputs.GetAttr("command").IsKnown() {
		t.Errorf("StepInputs(%s) = %s; want it sensitive and unknown", other.Address, Text(inputs))
	}
}

func TestReferencesPassThroughTypedCollections(t *testing.T) {
	s := loadTree(t, map[string]string{
		"site.hcl": `
site "s" {}
network "edge" {
  interface = "eth0"
  cidr      = "10.0.0.0/24"
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
machine "m" {
  count   = 2
  mac     = "52:54:00:00:00:0${count.index}"
  network = network.edge
  address = "10.0.0.${count.index + 1}"
  image   = count.index == 0 ? null : image.os
}
module "work" {
  source   = "./work"
  list     = machine.m
  map      = { a = machine.m[1] }
  optional = { image = image.os }
  network  = network.edge
}
`,
		"work/work.hcl": `
variable "list" {
  type = list(any)
}
variable "map" {
  type = map(any)
}
variable "network" {
  type = any
}
variable "optional" {
  type = object({ image = any, size = optional(number, 3) })
}
machine "own" {
  mac     = "52:54:00:00:00:0${var.optional.size + 6}"
  network = var.network
  address = "10.0.0.9"
  image   = var.optional.image
}
workflow "w" {
  step "ssh" "list" {
    hosts   = var.list
    command = "true"
  }
  step "ssh" "map" {
    hosts   = var.map["a"]
    command = var.map["a"].address
  }
}
`,
	})
	steps := s.Workflows[0].Steps
	if got, want := References(steps[0].Inputs.GetAttr("hosts")), []string{"machine.m[0]", "machine.m[1]"}; !cmp.Equal(got, want) {
		t.Errorf("References(list) = %q; want %q", got, want)
	}
	if got, want := Text(steps[1].Inputs), `{ check = null, command = "10.0.0.2", creates = null, environment = null, hosts = machine.m[1], triggers = null }`; got != want {
		t.Errorf("Inputs(map) = %s; want %s", got, want)
	}
	if own := s.MachineByAddress("module.work.machine.own"); own.Image != s.Images[0] || own.MAC.String() != "52:54:00:00:00:09" {
		t.Errorf("machine = %+v; want image.os through an object, and the default of its attribute", own)
	}
}

func TestMovedReachesIntoModules(t *testing.T) {
	s := loadTree(t, map[string]string{"site.hcl": callingSite + `
moved {
  from = module.old
  to   = module.rack["a"]
}
moved {
  from = machine.node
  to   = module.pair[0].machine.node
}
`, "node/main.hcl": nodeModule + `
moved {
  from = machine.was["x"]
  to   = machine.node["x"]
}
moved {
  from = workflow.was
  to   = workflow.w
}
`, "node/empty.hcl": ""})
	var got []string
	for _, m := range s.Moved {
		got = append(got, m.From+" -> "+m.To)
	}
	for _, want := range []string{
		`module.old.machine.node["x"] -> module.rack["a"].machine.node["x"]`,
		`module.old.workflow.w.step.ssh.hello["y"] -> module.rack["a"].workflow.w.step.ssh.hello["y"]`,
		`machine.node["p"] -> module.pair[0].machine.node["p"]`,
		`module.rack["b"].machine.was["x"] -> module.rack["b"].machine.node["x"]`,
		`module.rack["b"].workflow.was.step.ssh.hello["x"] -> module.rack["b"].workflow.w.step.ssh.hello["x"]`,
	} {
		found := false
		for _, g := range got {
			found = found || g == want
		}
		if !found {
			t.Errorf("Moved = %q; want %q among them", got, want)
		}
	}
}

func TestAnAddressStandsForWhatIsInside(t *testing.T) {
	s := loadTree(t, map[string]string{"site.hcl": callingSite, "node/main.hcl": nodeModule})
	tests := []struct {
		address string
		want    int
	}{
		{"module.rack", 8},
		{`module.rack["a"]`, 4},
		{`module.rack["a"].machine.node`, 2},
		{`module.rack["a"].machine.node["x"]`, 1},
		{"workflow.all", 4},
		{"module.ra", 0},
		{"network.b", 0},
		{"module.pair[0].workflow.w.step.ssh.hello", 1},
	}
	for _, test := range tests {
		if got := s.Select(test.address); len(got) != test.want {
			t.Errorf("Select(%s) = %q; want %d addresses", test.address, got, test.want)
		}
	}
}

func TestNetworksOfOneNameInModulesAreTold(t *testing.T) {
	s := loadTree(t, map[string]string{
		"site.hcl": "site \"n\" {}\nnetwork \"edge\" {\n  interface = \"eth0\"\n  cidr = \"10.9.0.0/24\"\n}\n" +
			"module \"m\" {\n  source = \"./m\"\n  count = 2\n  n = count.index\n}\n",
		"m/m.hcl": "variable \"n\" {\n  type = number\n}\nnetwork \"edge\" {\n  interface = \"eth${var.n + 1}\"\n  cidr = \"10.${var.n}.0.0/24\"\n}\n" +
			"image \"i\" {\n  source = \"images/i.raw\"\n  digest = \"sha256:" + strings.Repeat("0", 64) + "\"\n}\n",
	})
	var got []string
	for _, n := range s.Networks {
		got = append(got, n.ID())
	}
	if want := []string{"edge", "module.m[0].network.edge", "module.m[1].network.edge"}; !cmp.Equal(got, want) {
		t.Errorf("ID() = %q; want %q", got, want)
	}
	if got, want := s.Images[0].Source, "m/images/i.raw"; got != want {
		t.Errorf("Source = %s; want %s, as seen from the site", got, want)
	}
}

// TestModuleErrors announces diagnostics in the files of a tree, as
// TestErrorFiles does, by file and line.
func TestModuleErrors(t *testing.T) {
	entries, err := os.ReadDir("testdata/module-errors")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		t.Run(entry.Name(), func(t *testing.T) {
			dir := filepath.Join("testdata/module-errors", entry.Name())
			s, diags := Load(filepath.Join(dir, "site.hcl"), testOptions())
			got := make(map[string]int)
			for _, d := range diags {
				if d.Subject == nil {
					t.Errorf("Load() = %s: %s; want a place", d.Summary, d.Detail)
					continue
				}
				got[fmt.Sprintf("%s:%d %s", d.Subject.Filename, d.Subject.Start.Line, d.Summary)]++
			}
			want := make(map[string]int)
			for _, path := range glob(t, filepath.Join(dir, "*.hcl"), filepath.Join(dir, "*", "*.hcl")) {
				b, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				for i, line := range strings.Split(string(b), "\n") {
					for _, m := range complaint.FindAllStringSubmatch(line, -1) {
						for _, one := range strings.Split(m[2], " && ") {
							summary, _, _ := strings.Cut(one, " | ")
							want[fmt.Sprintf("%s:%d %s", path, i+1, summary)]++
						}
					}
				}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("diagnostics differ (-want +got):\n%s\n%s", diff, render(s, diags))
			}
		})
	}
}

func TestHostileModulesAreRefusedQuickly(t *testing.T) {
	call := func(name, source, rest string) string {
		return fmt.Sprintf("module %q {\n  source = %q\n%s\n}\n", name, source, rest)
	}
	doubling := "site \"s\" {}\n" + call("m0", "./m", "  x = \"0123456789abcdef\"")
	for i := 1; i < 60; i++ {
		doubling += call(fmt.Sprintf("m%d", i), "./m", fmt.Sprintf("  x = module.m%d.x", i-1))
	}
	deep := map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./m", "")}
	for i, dir := 0, "m"; i < 12; i, dir = i+1, dir+"/m" {
		deep[dir+"/m.hcl"] = call("m", "./m", "")
	}
	wide := "variable \"n\" {\n  default = 0\n}\n" + call("m", "./m", "  count = 40")
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"itself", map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./m", ""), "m/m.hcl": call("m", "../m", "")}, "Module calls itself"},
		{"each other", map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./a", ""), "a/m.hcl": call("m", "../b", ""), "b/m.hcl": call("m", "../a", "")}, "Module calls itself"},
		{"the site", map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./m", ""), "m/m.hcl": call("m", "../", "")}, "Module calls itself"},
		{"deep", deep, "Modules nested too deeply"},
		{"wide", map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./m", "  count = 40"), "m/m.hcl": wide, "m/m/m.hcl": "locals {\n  a = 1\n}\n"}, "Too many modules"},
		{"many instances", map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./m", "  count = 5"), "m/m.hcl": "machine \"a\" {\n  count = 4000\n  mac = \"52:54:00:00:00:01\"\n  network = null\n}\n"}, "Too many instances"},
		{"large text", map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./m", "  count = 100"), "m/m.hcl": strings.Repeat("# comment\n", 50_000)}, "Too many modules"},
		{"doubling", map[string]string{"site.hcl": doubling, "m/m.hcl": "variable \"x\" {}\noutput \"x\" {\n  value = \"${var.x}${var.x}\"\n}\n"}, "Value too large"},
		{"nesting inside", map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./m", ""), "m/m.hcl": "a = " + strings.Repeat("[", 100_000)}, "Site nested too deeply"},
		{"cycle", map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./m", "  x = module.m.x"), "m/m.hcl": "variable \"x\" {}\noutput \"x\" {\n  value = var.x\n}\n"}, "Dependency cycle"},
		{"instances of itself", map[string]string{"site.hcl": "site \"s\" {}\n" + call("m", "./m", "  count = length(module.m)"), "m/m.hcl": ""}, "Dependency cycle"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := writeTree(t, test.files)
			start := time.Now()
			_, diags := Load(path, testOptions())
			if took := time.Since(start); took > quickly {
				t.Errorf("Load() took %s; want less than %s", took, quickly)
			}
			found := false
			for _, d := range diags {
				found = found || d.Summary == test.want
			}
			if !found {
				t.Errorf("Load() = %v; want %q", diags, test.want)
			}
		})
	}
}

func FuzzModule(f *testing.F) {
	f.Add(callingSite, nodeModule)
	for _, path := range glob(f, "../../hcl-examples/fleet/*.hcl") {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		text := strings.ReplaceAll(string(b), "./till", "./node")
		for _, inside := range glob(f, "../../hcl-examples/fleet/till/*.hcl") {
			b, err := os.ReadFile(inside)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text, string(b))
		}
	}
	opts := testOptions()
	f.Fuzz(func(t *testing.T, text, inside string) {
		if len(text)+len(inside) > 64<<10 {
			return
		}
		watchdog := time.AfterFunc(20*time.Second, func() { panic(fmt.Sprintf("Load(%q, %q) takes more than 20s", text, inside)) })
		defer watchdog.Stop()
		s, diags := Load(writeTree(t, map[string]string{"site.hcl": text, "node/node.hcl": inside}), opts)
		if err := WriteDiagnostics(io.Discard, s.Files, diags, false, 80); err != nil {
			t.Fatal(err)
		}
		if diags.HasErrors() {
			return
		}
		if err := s.Print(io.Discard); err != nil {
			t.Fatal(err)
		}
		for _, node := range s.Graph().Nodes {
			s.Select(node)
		}
		for _, w := range s.Workflows {
			for _, step := range w.Steps {
				s.StepInputs(step, Known{})
				s.StepWhen(step, Known{})
			}
		}
		s.OutputValues(Known{})
	})
}
