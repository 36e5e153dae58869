package site

import (
	"sort"

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
	// VarTexts are the contents of those that were read before, by path. The others
	// are read.
	VarTexts map[string][]byte
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
	// Sensitive are the outputs that must not be shown.
	Sensitive []string
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

// Load reads, evaluates and validates a site: a file, or a directory of *.hcl
// files. It does nothing else. The site is never nil: with errors it holds the
// sources, for their snippets, and what could be decoded, which is good for
// nothing but showing.
func Load(path string, opts Options) (*Site, hcl.Diagnostics) {
	sources, dir, diags := readSources(path)
	if diags.HasErrors() {
		return &Site{module: &module{}}, tidy(diags)
	}
	s, more := load(sources, dir, opts)
	return s, tidy(append(diags, more...))
}

// load is Load of sources that are read already.
func load(sources []source, dir string, opts Options) (*Site, hcl.Diagnostics) {
	m, diags := parseSite(sources, dir, opts)
	s := &Site{Dir: dir, Files: m.files, module: m}
	if diags.HasErrors() && len(m.order)+len(m.workflows)+len(m.variables)+len(m.locals)+len(m.calls)+len(m.outputs)+len(m.classes) == 0 {
		return s, diags
	}
	diags = append(diags, m.setVariables()...)
	e := &evaluator{&session{values: make(map[string]cty.Value), sizes: make(map[string]int), built: s, byID: make(map[string]any), repeats: maxLoadBytes}, m}
	if m.version != nil {
		if v, more := m.version.Expr.Value(nil); !more.HasErrors() {
			s.RequiredVersion = v.AsString()
		}
	}
	e.siteValue(m.siteRange())
	e.decode()
	e.decodeClasses()
	s.inFileOrder()
	s.expandMoved()
	s.link(e)
	diags = append(diags, e.diags...)
	diags = append(diags, s.validate()...)
	m.settled = map[string]cty.Value{"site": e.values["site"]}
	for _, m := range m.tree.all {
		for _, t := range m.order {
			if t.kind != kindMachine {
				s.module.settled[t.address()] = e.values[t.address()]
			}
		}
	}
	return s, diags
}

// siteRange is the header of the site block, or nowhere.
func (m *module) siteRange() hcl.Range {
	if m.site == nil {
		return hcl.Range{}
	}
	return m.site.DefRange()
}

// inFileOrder sorts what was decoded in the order of its references back into
// the order of its declarations, those of the site before those of its modules.
func (s *Site) inFileOrder() {
	position := make(map[string]int)
	for _, m := range s.module.tree.all {
		for _, t := range m.order {
			for _, one := range t.each {
				position[instanceAddress(t.address(), one)] = len(position)
			}
		}
	}
	sort.SliceStable(s.Networks, func(i, j int) bool { return position[s.Networks[i].Address] < position[s.Networks[j].Address] })
	sort.SliceStable(s.Images, func(i, j int) bool { return position[s.Images[i].Address] < position[s.Images[j].Address] })
	sort.SliceStable(s.Machines, func(i, j int) bool { return position[s.Machines[i].Address] < position[s.Machines[j].Address] })
}

// later gives an evaluator for what is known now. It shares nothing that
// changes with others, so it may be used beside them.
func (s *Site) later(known Known) *evaluator {
	values := make(map[string]cty.Value, len(s.module.settled))
	for address, v := range s.module.settled {
		values[address] = v
	}
	return &evaluator{&session{known: known, runtime: true, values: values, sizes: make(map[string]int), repeats: maxLoadBytes}, s.module}
}

// StepInputs evaluates a step's body with what is known now. Unknown values
// that remain are marked with what they wait for. It is safe for concurrent
// use.
func (s *Site) StepInputs(step *Step, known Known) (cty.Value, hcl.Diagnostics) {
	e := s.later(known).of(step.block.module)
	v, ok := e.inputs(step.block, e.stepContextOf(step))
	if ok && step.block.spec.Check != nil {
		e.add(step.block.spec.Check(v, step.Ranges))
	}
	return v, tidy(e.diags)
}

// StepWhen evaluates a step's condition with what is known now: true, false, or
// unknown. It is safe for concurrent use.
func (s *Site) StepWhen(step *Step, known Known) (cty.Value, hcl.Diagnostics) {
	e := s.later(known).of(step.block.module)
	v := e.when(step.block, e.stepContextOf(step))
	return v, tidy(e.diags)
}

func (e *evaluator) stepContextOf(step *Step) *hcl.EvalContext {
	skip := map[string]bool{"for_each": true, "count": true, "depends_on": true}
	sc := scope{workflow: step.Workflow}
	sc.each = e.current(step.Address, step.block.block, sc, step.each)
	return e.context(bodyTraversals(step.block.block.Body, skip), sc)
}

// OutputValues evaluates every output with what is known now. Show them with
// Redact.
func (s *Site) OutputValues(known Known) (map[string]cty.Value, hcl.Diagnostics) {
	e := s.later(known)
	out := make(map[string]cty.Value)
	for _, block := range s.module.outputs {
		o := e.decodeOutput(block)
		out[o.Name] = o.Value
	}
	return out, tidy(e.diags)
}

// MachineByAddress finds a machine; nil when there is none.
func (s *Site) MachineByAddress(address string) *Machine {
	for _, m := range s.Machines {
		if m.Address == address {
			return m
		}
	}
	return nil
}

// StepByAddress finds a step; nil when there is none.
func (s *Site) StepByAddress(address string) *Step {
	for _, w := range s.Workflows {
		for _, step := range w.Steps {
			if step.Address == address {
				return step
			}
		}
	}
	return nil
}
