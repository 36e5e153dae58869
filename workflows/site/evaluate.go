package site

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// Bounds of an evaluation. A chain of locals that each double the one before
// would otherwise need memory without end.
const (
	maxChain         = 500      // references that lead to references
	maxValueBytes    = 4 << 20  // of one local
	maxReferredBytes = 64 << 20 // that the references of one block stand for together
	maxInstances     = 4096     // of one block
	maxAllInstances  = 1 << 14  // of all blocks of a site and its modules
)

// evaluator evaluates blocks on demand: a reference to a block that has no value
// yet evaluates that block first, so that declarations can come in any order,
// and one that is being evaluated already is a cycle.
type evaluator struct {
	*session
	m *module
}

// session is what the evaluators of a site and of its modules share during one
// evaluation. Values are by full address.
type session struct {
	known     Known
	runtime   bool // after Load: machines are not decoded again
	values    map[string]cty.Value
	sizes     map[string]int
	repeats   int // bytes that for expressions may still make
	instances int // of all blocks so far
	stack     []visit
	diags     hcl.Diagnostics
	built     *Site // what is decoded on the way, at load time
	byID      map[string]any
}

// of is the evaluator of another module.
func (e *evaluator) of(m *module) *evaluator { return &evaluator{e.session, m} }

// root is the evaluator of the site itself.
func (e *evaluator) root() *evaluator { return e.of(e.m.tree.all[0]) }

// visit is a block under evaluation.
type visit struct {
	address string
	rng     hcl.Range // the reference that led here
}

// scope is where an expression stands.
type scope struct {
	workflow string
	each     eachValue
	query    bool // facts, machine and disk belong to the query language
}

func (e *session) add(diags hcl.Diagnostics) { e.diags = append(e.diags, diags...) }

// node gives the value at an address, evaluating it the first time.
func (e *session) node(address string, rng hcl.Range, evaluate func() cty.Value) cty.Value {
	if v, ok := e.values[address]; ok {
		return v
	}
	for i, v := range e.stack {
		if v.address == address {
			e.add(cycle(append(e.stack[i:len(e.stack):len(e.stack)], visit{address, rng})))
			return cty.DynamicVal
		}
	}
	if len(e.stack) >= maxChain {
		e.add(failure("Reference chain too long", &rng, "More than %d values refer to each other in a row before %s.", maxChain, address))
		return cty.DynamicVal
	}
	e.stack = append(e.stack, visit{address, rng})
	v := evaluate()
	e.stack = e.stack[:len(e.stack)-1]
	e.values[address] = v
	return v
}

// cycle names every reference of a cycle with its place. The first visit is
// the one that the last refers back to.
func cycle(path []visit) hcl.Diagnostics {
	// The same cycle is found from each of its members; it is told from the
	// smallest, so that tidy can drop the repetitions.
	ring := path[1:]
	start := 0
	for i := range ring {
		if ring[i].address < ring[start].address {
			start = i
		}
	}
	var lines []string
	n := len(ring)
	from := ring[start].address
	for i := 1; i <= n; i++ {
		to := ring[(start+i)%n]
		lines = append(lines, fmt.Sprintf("%s refers to %s at %s", from, to.address, to.rng))
		from = to.address
	}
	first := ring[(start+1)%n].rng
	return failure("Dependency cycle", &first, "Each of these needs another one first: %s. Remove one of the references.", strings.Join(lines, "; "))
}

// context gives what the traversals refer to, and nothing else. What does not
// exist is reported here, with what was probably meant, and stands in the
// context as unknown, so that nobody complains twice.
func (e *evaluator) context(traversals []hcl.Traversal, sc scope) *hcl.EvalContext {
	roots := map[string]map[string]cty.Value{"var": {}, "local": {}, kindNetwork: {}, kindImage: {}, kindMachine: {}}
	variables := make(map[string]cty.Value)
	steps := make(map[string]map[string]cty.Value)
	workflows := make(map[string]cty.Value)
	modules := make(map[string]*moduleView)
	referred := 0
	for _, traversal := range traversals {
		root := traversal.RootName()
		switch root {
		case "var", "local", kindNetwork, kindImage, kindMachine:
			if sc.query && root == kindMachine {
				continue
			}
			name, rng, single := secondStep(traversal)
			if !single {
				for _, n := range e.names(root) {
					roots[root][n] = e.named(root, n, rng)
				}
				continue
			}
			roots[root][name] = e.named(root, name, rng)
			referred += e.size(e.m.path+root+"."+name, roots[root][name])
			if referred > maxReferredBytes {
				return e.tooLarge(rng)
			}
		case "module":
			for _, view := range e.moduleViews(traversal, modules) {
				for name, v := range view.outputs {
					referred += e.size(view.address(e.m)+"."+name, v)
				}
			}
			if referred > maxReferredBytes {
				return e.tooLarge(traversal.SourceRange())
			}
		case kindClass:
			variables[kindClass] = e.refuseClass(traversal.SourceRange())
		case "site":
			variables["site"] = e.root().siteValue(traversal.SourceRange())
		case kindStep:
			if sc.workflow == "" {
				rng := traversal.SourceRange()
				e.add(failure("Unknown reference", &rng, "step can only be used inside a workflow; from elsewhere write workflow.NAME.step.TYPE.NAME."))
				variables[kindStep] = cty.DynamicVal
				continue
			}
			e.stepContext(traversal, sc.workflow, steps)
		case "workflow":
			e.workflowContext(traversal, workflows)
		case "each", "count":
			if missing := sc.each.missing(root); missing != "" {
				rng := traversal.SourceRange()
				e.add(failure("Unknown reference", &rng, "%s", missing))
				variables[root] = cty.DynamicVal
			}
		}
	}
	for root, values := range roots {
		variables[root] = cty.ObjectVal(values)
	}
	if sc.query {
		delete(variables, kindMachine)
	}
	if sc.workflow != "" {
		if _, bad := variables[kindStep]; !bad {
			types := make(map[string]cty.Value)
			for typ, names := range steps {
				types[typ] = cty.ObjectVal(names)
			}
			variables[kindStep] = cty.ObjectVal(types)
		}
	}
	if len(modules) > 0 {
		values := make(map[string]cty.Value)
		for name, view := range modules {
			values[name] = view.value()
		}
		variables["module"] = cty.ObjectVal(values)
	}
	if len(workflows) > 0 {
		variables["workflow"] = cty.ObjectVal(workflows)
	}
	sc.each.variables(variables)
	return withBudget(&hcl.EvalContext{Variables: variables, Functions: e.m.functions}, &e.repeats)
}

// tooLarge refuses a block that refers to too much.
func (e *evaluator) tooLarge(rng hcl.Range) *hcl.EvalContext {
	e.add(failure("Value too large", &rng, "The references up to this one stand for more than %d MiB together.", maxReferredBytes>>20))
	return &hcl.EvalContext{Variables: map[string]cty.Value{}, Functions: e.m.functions}
}

// secondStep is the name after the root, or false when all are meant.
func secondStep(traversal hcl.Traversal) (string, hcl.Range, bool) {
	rng := traversal.SourceRange()
	if len(traversal) < 2 {
		return "", rng, false
	}
	switch step := traversal[1].(type) {
	case hcl.TraverseAttr:
		return step.Name, rng, true
	case hcl.TraverseIndex:
		if step.Key.Type() == cty.String && step.Key.IsKnown() && !step.Key.IsNull() {
			return step.Key.AsString(), rng, true
		}
	}
	return "", rng, false
}

// names lists what there is below a root.
func (e *evaluator) names(root string) []string {
	var names []string
	switch root {
	case "var":
		names = e.m.variableNames()
	case "local":
		for n := range e.m.locals {
			names = append(names, n)
		}
	case "module":
		for _, c := range e.m.calls {
			names = append(names, c.name)
		}
	default:
		for n := range e.m.things[root] {
			names = append(names, n)
		}
	}
	return names
}

// named gives the value of var.NAME, local.NAME and so on.
func (e *evaluator) named(root, name string, rng hcl.Range) cty.Value {
	switch root {
	case "var":
		if v := e.m.variables[name]; v != nil {
			return e.variable(v, rng)
		}
	case "local":
		if attr := e.m.locals[name]; attr != nil {
			return e.local(attr, rng)
		}
	default:
		if t := e.m.things[root][name]; t != nil {
			return e.thing(t, rng)
		}
	}
	if !e.m.leftOut(kindText(root), name) {
		e.add(failure("Unknown reference", &rng, "There is no %s %q.%s", kindText(root), clip(name), offer(name, e.names(root))))
	}
	return cty.DynamicVal
}

func kindText(root string) string {
	if root == "var" {
		return "variable"
	}
	return root
}

// local evaluates one local value.
func (e *evaluator) local(attr *hclsyntax.Attribute, rng hcl.Range) cty.Value {
	address := e.m.path + "local." + attr.Name
	return e.node(address, rng, func() cty.Value { return e.bounded(address, attr.Expr, scope{}) })
}

// bounded evaluates an expression that others will refer to by an address.
func (e *evaluator) bounded(address string, expr hclsyntax.Expression, sc scope) cty.Value {
	v, diags := expr.Value(e.context(expr.Variables(), sc))
	e.add(improve(diags))
	if diags.HasErrors() {
		return cty.DynamicVal
	}
	if e.size(address, v) > maxValueBytes {
		e.add(failure("Value too large", expr.Range().Ptr(), "%s has more than %d MiB.", address, maxValueBytes>>20))
		return cty.DynamicVal
	}
	return v
}

// size measures a value once per address.
func (e *session) size(address string, v cty.Value) int {
	if n, ok := e.sizes[address]; ok {
		return n
	}
	n := valueSize(v)
	if _, done := e.values[address]; done || strings.HasPrefix(address, "var.") {
		e.sizes[address] = n
	}
	return n
}

// valueSize is roughly what a value takes in memory, in bytes.
func valueSize(v cty.Value) int {
	v, _ = v.Unmark()
	if v.IsNull() || !v.IsKnown() {
		return 8
	}
	switch t := v.Type(); {
	case t == cty.String:
		return 16 + len(v.AsString())
	case t == cty.Number:
		// As text a number has about as many digits as its exponent says.
		exp := v.AsBigFloat().MantExp(nil)
		return 16 + max(exp, -exp)/3
	case v.CanIterateElements():
		n := 16
		for it := v.ElementIterator(); it.Next(); {
			k, elem := it.Element()
			n += valueSize(elem)
			if k.Type() == cty.String {
				n += 16
			}
		}
		return n
	}
	return 8
}

// siteValue is what site.* refers to.
func (e *evaluator) siteValue(rng hcl.Range) cty.Value {
	return e.node("site", rng, func() cty.Value { return e.decodeSite() })
}

// thing evaluates a network, image or machine block with all its instances.
func (e *evaluator) thing(t *thing, rng hcl.Range) cty.Value {
	return e.node(t.address(), rng, func() cty.Value {
		if e.runtime {
			return e.runtimeMachine(t)
		}
		each, ok := e.expand(t.block, scope{})
		if !ok {
			skip := map[string]bool{queryAttributes[t.kind]: true, "for_each": true, "count": true}
			e.look(t.block.Body, scope{}, skip)
			return cty.DynamicVal
		}
		t.each = each
		var values []cty.Value
		for _, one := range each {
			switch t.kind {
			case kindNetwork:
				values = append(values, e.decodeNetwork(t, one))
			case kindImage:
				values = append(values, e.decodeImage(t, one))
			default:
				values = append(values, e.decodeMachine(t, one))
			}
		}
		return gather(each, values)
	})
}

// look reports the unknown references of a body that cannot be decoded.
func (e *evaluator) look(body *hclsyntax.Body, sc scope, skip map[string]bool) {
	unknown := eachValue{key: cty.DynamicVal, value: cty.DynamicVal}
	switch {
	case body.Attributes["for_each"] != nil:
		unknown.mode = eachForEach
	case body.Attributes["count"] != nil:
		unknown.mode = eachCount
	}
	sc.each = unknown
	e.context(bodyTraversals(body, skip), sc)
}

// runtimeMachine gives a machine block's value with what is known by now.
func (e *evaluator) runtimeMachine(t *thing) cty.Value {
	var values []cty.Value
	for _, m := range t.machines {
		values = append(values, machineValue(m, e.known))
	}
	return gather(t.each, values)
}

// stepContext adds what step.TYPE.NAME refers to.
func (e *evaluator) stepContext(traversal hcl.Traversal, workflow string, steps map[string]map[string]cty.Value) {
	w := e.m.workflow(workflow)
	add := func(s *stepBlock) {
		if steps[s.typ] == nil {
			steps[s.typ] = make(map[string]cty.Value)
		}
		steps[s.typ][s.name] = e.stepValue(s, traversal.SourceRange())
	}
	if len(traversal) < 3 {
		for _, s := range w.steps {
			if typ, _, single := secondStep(traversal); !single || typ == s.typ {
				add(s)
			}
		}
		return
	}
	typ, rng, _ := secondStep(traversal)
	name, ok := stepName(traversal[2])
	if !ok {
		for _, s := range w.steps {
			if s.typ == typ {
				add(s)
			}
		}
		return
	}
	if s := w.step(typ, name); s != nil {
		add(s)
		return
	}
	if steps[typ] == nil {
		steps[typ] = make(map[string]cty.Value)
	}
	steps[typ][name] = cty.DynamicVal
	if e.m.leftOut("workflow", workflow) {
		return
	}
	var names []string
	for _, s := range w.steps {
		names = append(names, s.typ+"."+s.name)
	}
	e.add(failure("Unknown reference", &rng, "The workflow %q has no step \"%s.%s\".%s", workflow, clip(typ), clip(name), offer(typ+"."+name, names)))
}

// stepName is a traversal step that names something.
func stepName(step hcl.Traverser) (string, bool) {
	switch s := step.(type) {
	case hcl.TraverseAttr:
		return s.Name, true
	case hcl.TraverseIndex:
		if s.Key.Type() == cty.String && s.Key.IsKnown() && !s.Key.IsNull() {
			return s.Key.AsString(), true
		}
	}
	return "", false
}

// workflowContext adds what workflow.NAME.step.TYPE.NAME refers to.
func (e *evaluator) workflowContext(traversal hcl.Traversal, workflows map[string]cty.Value) {
	name, rng, single := secondStep(traversal)
	w := e.m.workflow(name)
	if !single || w == nil {
		var names []string
		for _, w := range e.m.workflows {
			names = append(names, w.name)
		}
		if !e.m.leftOut("workflow", name) {
			e.add(failure("Unknown reference", &rng, "There is no workflow %q.%s", clip(name), offer(name, names)))
		}
		workflows[name] = cty.DynamicVal
		return
	}
	types := make(map[string]map[string]cty.Value)
	for _, s := range w.steps {
		if types[s.typ] == nil {
			types[s.typ] = make(map[string]cty.Value)
		}
		types[s.typ][s.name] = e.stepValue(s, rng)
	}
	byType := make(map[string]cty.Value)
	for typ, names := range types {
		byType[typ] = cty.ObjectVal(names)
	}
	workflows[name] = cty.ObjectVal(map[string]cty.Value{kindStep: cty.ObjectVal(byType)})
}

func (m *module) workflow(name string) *workflowBlock {
	for _, w := range m.workflows {
		if w.name == name {
			return w
		}
	}
	return nil
}

// stepValue is what a step's outputs are by now. It does not need the step's
// inputs, so two steps that refer to each other get a value each; that they
// form a cycle is found in the graph.
func (e *evaluator) stepValue(s *stepBlock, rng hcl.Range) cty.Value {
	each, ok := e.stepInstances(s, rng)
	if !ok || s.broken {
		return cty.DynamicVal
	}
	var values []cty.Value
	for _, one := range each {
		address := instanceAddress(s.address(), one)
		attrs := map[string]cty.Value{"id": cty.StringVal(address), "kind": cty.StringVal(kindStep)}
		done, ok := e.known.Steps[address]
		for name, t := range s.spec.Outputs {
			switch {
			case !ok:
				attrs[name] = unknownAfter(t, instanceAddress(s.local(), one))
			case done == cty.NilVal || done.IsNull() || !done.Type().IsObjectType() || !done.Type().HasAttribute(name):
				attrs[name] = cty.NullVal(t)
			default:
				attrs[name] = done.GetAttr(name)
			}
			if slices.Contains(s.spec.Sensitive, name) {
				attrs[name] = attrs[name].Mark(Sensitive)
			}
		}
		values = append(values, cty.ObjectVal(attrs))
	}
	return gather(each, values)
}

// stepInstances expands a step's for_each or count.
func (e *evaluator) stepInstances(s *stepBlock, rng hcl.Range) ([]eachValue, bool) {
	if e.runtime {
		return s.each, true
	}
	ok := true
	v := e.node("the instances of "+s.address(), rng, func() cty.Value {
		s.each, ok = e.expand(s.block, scope{workflow: s.workflow})
		return cty.BoolVal(ok)
	})
	return s.each, v.IsKnown() && v.True()
}
