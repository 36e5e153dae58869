package main

import (
	"testing"

	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// TestMachinesOfModulesCanBeRehearsed says that addresses inside modules name
// directories and networks of the rack as well.
func TestMachinesOfModulesCanBeRehearsed(t *testing.T) {
	s, diags := site.Load(repository+"/hcl-examples/fleet/store.hcl", site.Options{StepTypes: steps.Shapes(), Environ: []string{"EDGE_VAR_bmc_password=correct-horse"}})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	spec, err := rackSpec(s, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := spec.Validate(); err != nil || len(spec.Machines) != 3 {
		t.Errorf("Validate() = %v of %d machines; want no error of 3", err, len(spec.Machines))
	}
}
