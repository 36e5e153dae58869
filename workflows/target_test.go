package workflows_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

func TestATargetMayBeAModuleOrABlockWithInstances(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"site.hcl": `
site "shop" {}
network "edge" {
  interface = "eth0"
  cidr      = "10.0.0.0/24"
}
module "till" {
  source   = "./till"
  for_each = { a = 10, b = 20 }
  network  = network.edge
  first    = each.value
}
`,
		"till/till.hcl": `
variable "network" {
  type = any
}
variable "first" {
  type = number
}
machine "node" {
  count    = 2
  hostname = "node-${var.first + count.index}"
  mac      = format("52:54:00:00:00:%02x", var.first + count.index)
  network  = var.network
  address  = cidrhost(var.network.cidr, var.first + count.index)
}
`,
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, diags := site.Load(filepath.Join(dir, "site.hcl"), site.Options{StepTypes: steps.Shapes()})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	tests := []struct {
		target string
		want   []string
	}{
		{`module.till`, []string{`module.till["a"].machine.node[0]`, `module.till["a"].machine.node[1]`, `module.till["b"].machine.node[0]`, `module.till["b"].machine.node[1]`}},
		{`module.till["b"]`, []string{`module.till["b"].machine.node[0]`, `module.till["b"].machine.node[1]`}},
		{`module.till["b"].machine.node`, []string{`module.till["b"].machine.node[0]`, `module.till["b"].machine.node[1]`}},
		{`module.till["a"].machine.node[1]`, []string{`module.till["a"].machine.node[1]`}},
	}
	for _, test := range tests {
		opts := workflows.BuildOptions{Target: []string{test.target}}
		if diags := opts.Check(s); diags.HasErrors() {
			t.Errorf("Check(%s) = %v; want no error", test.target, diags)
		}
		plan, _ := workflows.Build(s, workflows.Observation{}, opts)
		var got []string
		for _, a := range plan.Actions {
			got = append(got, a.Address)
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("Build(-target=%s) = %q; want %q", test.target, got, test.want)
		}
	}
	for _, opts := range []workflows.BuildOptions{{Target: []string{"module.til"}}, {Replace: []string{"module.till"}}} {
		if diags := opts.Check(s); len(diags) != 1 {
			t.Errorf("Check(%+v) = %v; want one error", opts, diags)
		}
	}
}

func TestWhatIsWrongWithNoTargetFailsNoTarget(t *testing.T) {
	s := load(t, node("")+`
machine "b" {
  match   = facts.memory.bytes == GiB(64)
  network = network.edge
  image   = image.os
}
`)
	seen := observation(map[string]workflows.MachineView{"machine.a": known(disk("sda", "D1", 100)), "machine.b": {Unbound: "its match fits 2 machines"}})
	for _, c := range []struct {
		target string
		wrong  bool
	}{{"machine.a", false}, {"machine.b", true}} {
		_, diags := workflows.Build(s, seen, workflows.BuildOptions{Target: []string{c.target}})
		if diags.HasErrors() != c.wrong {
			t.Errorf("Build(-target=%s) complains: %v; want a complaint: %v", c.target, diags, c.wrong)
		}
	}
}
