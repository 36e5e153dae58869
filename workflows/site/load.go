package site

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/inventory"
)

// Options are what a site is loaded with. The zero value reads a site without
// variables from outside, without steps, and without access to files or
// environment.
type Options struct {
	// Vars are the values of -var, by name. A value for a variable of type
	// string is taken as it is; for any other type it is an HCL expression.
	Vars map[string]string
	// VarFiles are the paths of -var-file, later ones winning over earlier.
	VarFiles []string
	// Environ is the environment as os.Environ gives it. EDGE_VAR_name sets
	// the variable of that name unless a file or -var does.
	Environ []string
	// AllowFile lets file() and templatefile() read files below the site's
	// directory, and AllowEnv lets env() read Environ.
	AllowFile, AllowEnv bool
	// StepTypes are the types of steps that a workflow may have, by name.
	StepTypes map[string]StepType
	// Version is the program's own, compared with required_version; empty:
	// not compared.
	Version string
}

// StepType describes one type of step to the decoder.
type StepType struct {
	// Spec is the shape of the body without the attributes that every step
	// has (depends_on, timeout, retry, when, on_failure, for_each, count). An
	// attribute that is a machine, a step or a list of them has type
	// cty.DynamicPseudoType; References gives their addresses.
	Spec hcldec.Spec
	// Outputs are the attributes that other expressions can refer to as
	// step.TYPE.NAME.ATTRIBUTE, with their types.
	Outputs map[string]cty.Type
	// Check sees the decoded inputs at load time, with unknowns and marks,
	// and says what is wrong with them; ranges gives the place of each
	// attribute of the body. It may be nil.
	Check func(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics
	// CanUndo says that the type implements rollback; on_failure =
	// "rollback" is refused without it.
	CanUndo bool
}

// Known is what has become known since the site was loaded.
type Known struct {
	// Machines is by machine address.
	Machines map[string]KnownMachine
	// Steps holds the outputs of finished steps by step address: an object
	// with the attributes of StepType.Outputs. A null value stands for a step
	// whose when was false.
	Steps map[string]cty.Value
}

// KnownMachine is what has been observed of a declared machine.
type KnownMachine struct {
	Facts   *inventory.Facts // nil: not inspected
	MAC     inventory.MAC    // of a machine that was bound by match
	IP      string           // of a machine without a declared address
	HostKey string           // authorized_keys form
}
