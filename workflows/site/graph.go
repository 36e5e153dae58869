package site

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// Graph is what depends on what, by address: every network, image, machine and
// step of the site. Nodes are in declaration order and edges are sorted, so
// that equal sites have equal graphs. It has no cycle: Load refuses those.
type Graph struct {
	Nodes []string
	Edges []Edge
}

// Edge says that From waits for To.
type Edge struct {
	From, To string
	// Range is the reference, or the entry of depends_on.
	Range hcl.Range
	// Explicit edges come from depends_on.
	Explicit bool
}

// Graph gives the dependencies by address.
func (s *Site) Graph() Graph {
	var g Graph
	for _, n := range s.Networks {
		g.Nodes = append(g.Nodes, n.Address)
	}
	for _, i := range s.Images {
		g.Nodes = append(g.Nodes, i.Address)
	}
	for _, c := range s.Classes {
		g.Nodes = append(g.Nodes, c.Address)
	}
	for _, m := range s.Machines {
		g.Nodes = append(g.Nodes, m.Address)
	}
	for _, w := range s.Workflows {
		for _, step := range w.Steps {
			g.Nodes = append(g.Nodes, step.Address)
		}
	}
	g.Edges = append(g.Edges, s.module.edges...)
	return g
}

// linker finds what expressions refer to, through locals, and through the
// variables and outputs of modules.
type linker struct {
	e     *evaluator
	named map[string][]target // what a local, variable or output refers to in the end
	edges map[[2]string]Edge
	// What a step can wait for: machines and steps.
	awaitable map[string]bool
	inside    map[string][]string // module path → awaitable things in it
}

// target is a reference to something with an address.
type target struct {
	address string
	rng     hcl.Range
}

// link computes all edges, the DependsOn of every step, and reports cycles
// among steps.
func (s *Site) link(root *evaluator) {
	l := &linker{
		e: root, named: make(map[string][]target), edges: make(map[[2]string]Edge),
		awaitable: make(map[string]bool), inside: make(map[string][]string),
	}
	for _, m := range s.module.tree.all {
		for _, t := range m.order {
			l.thing(root.of(m), t)
		}
	}
	var steps []*Step
	for _, w := range s.Workflows {
		steps = append(steps, w.Steps...)
	}
	for _, m := range s.Machines {
		l.awaitable[m.Address] = true
	}
	for _, step := range steps {
		l.awaitable[step.Address] = true
	}
	for _, step := range steps {
		l.step(root.of(step.block.module), step)
	}
	s.module.edges = l.sorted()
	l.cycles(steps)
	below := make(map[string][]string)
	for _, edge := range s.module.edges {
		if l.awaitable[edge.To] {
			below[edge.From] = append(below[edge.From], edge.To)
		}
	}
	for _, step := range steps {
		step.DependsOn = below[step.Address]
	}
}

// thing links one network, image or machine block.
func (l *linker) thing(e *evaluator, t *thing) {
	for i, one := range t.each {
		from := instanceAddress(t.address(), one)
		for _, to := range l.body(e, t.block.Body, scope{each: one}, map[string]bool{"for_each": one.mode != eachNone, "match": t.kind == kindMachine}) {
			l.add(from, to, false)
		}
		l.value(from, one, t.block.Body.Attributes["for_each"])
		if t.kind == kindMachine && i < len(t.machines) {
			m := t.machines[i]
			if m.Network != nil {
				l.add(from, target{m.Network.Address, m.Range("network")}, false)
			}
			if m.Image != nil {
				l.add(from, target{m.Image.Address, m.Range("image")}, false)
			}
			if m.Class != nil {
				l.add(from, target{m.Class.Address, m.Range("match")}, false)
			}
		}
	}
}

// step links one instance of a step. A module's depends_on is one of each of its
// steps.
func (l *linker) step(e *evaluator, step *Step) {
	body := step.block.block.Body
	sc := scope{workflow: step.Workflow, each: step.each}
	for _, to := range l.body(e, body, sc, map[string]bool{"for_each": true, "count": true, "depends_on": true}) {
		l.add(step.Address, to, false)
	}
	l.value(step.Address, step.each, body.Attributes["for_each"])
	if attr := body.Attributes["depends_on"]; attr != nil {
		for _, to := range l.dependsOn(e, attr, sc) {
			l.add(step.Address, to, true)
		}
	}
	for m := e.m; m.call != nil; m = m.parent {
		if attr := m.call.block.Body.Attributes["depends_on"]; attr != nil {
			for _, to := range l.dependsOn(e.of(m.parent), attr, scope{each: m.each}) {
				l.add(step.Address, to, true)
			}
		}
	}
}

// add records an edge; the first reference gives its place. A block that
// refers to another instance of itself is a cycle that evaluation reported.
func (l *linker) add(from string, to target, explicit bool) {
	key := [2]string{from, to.address}
	if old, ok := l.edges[key]; ok {
		old.Explicit = old.Explicit && explicit
		l.edges[key] = old
		return
	}
	l.edges[key] = Edge{From: from, To: to.address, Range: to.rng, Explicit: explicit}
}

// value records what the instance's own element of for_each refers to: for
// for_each = machine.node each instance waits for its machine only.
func (l *linker) value(from string, each eachValue, attr *hclsyntax.Attribute) {
	if attr == nil || each.mode != eachForEach {
		return
	}
	for _, address := range References(each.value) {
		l.add(from, target{address, attr.Expr.Range()}, false)
	}
}

func (l *linker) sorted() []Edge {
	edges := make([]Edge, 0, len(l.edges))
	for _, e := range l.edges {
		edges = append(edges, e)
	}
	sort.Slice(edges, func(i, j int) bool {
		if edges[i].From != edges[j].From {
			return edges[i].From < edges[j].From
		}
		return edges[i].To < edges[j].To
	})
	return edges
}

// body lists what a body refers to, without the attributes of skip.
func (l *linker) body(e *evaluator, body *hclsyntax.Body, sc scope, skip map[string]bool) []target {
	var out []target
	for _, attr := range sortedAttributes(body) {
		if !skip[attr.Name] {
			out = append(out, l.expression(e, attr.Expr, sc)...)
		}
	}
	for _, block := range body.Blocks {
		out = append(out, l.body(e, block.Body, sc, map[string]bool{queryAttributes[block.Type]: true})...)
	}
	return out
}

// expression lists what an expression refers to. A reference with a computed
// key, such as machine.node[each.key], is to one instance if the key is known
// here, and else to all.
func (l *linker) expression(e *evaluator, expr hclsyntax.Expression, sc scope) []target {
	keyed := make(map[hcl.Range]cty.Value)
	_ = hclsyntax.VisitAll(expr, func(node hclsyntax.Node) hcl.Diagnostics {
		index, ok := node.(*hclsyntax.IndexExpr)
		if !ok {
			return nil
		}
		collection, ok := index.Collection.(*hclsyntax.ScopeTraversalExpr)
		if !ok {
			return nil
		}
		said := len(e.diags)
		key, diags := index.Key.Value(e.context(index.Key.Variables(), sc))
		e.diags = e.diags[:said] // evaluation has complained before
		if key, _ = key.Unmark(); !diags.HasErrors() && key.IsKnown() && !key.IsNull() && key.Type().IsPrimitiveType() {
			keyed[collection.Range()] = key
		}
		return nil
	})
	var out []target
	for _, traversal := range hclsyntax.Variables(expr) {
		if key, ok := keyed[traversal.SourceRange()]; ok {
			traversal = append(traversal[:len(traversal):len(traversal)], hcl.TraverseIndex{Key: key, SrcRange: traversal.SourceRange()})
		}
		out = append(out, l.traversal(e, traversal, sc)...)
	}
	return out
}

// traversal lists the addresses that a reference stands for.
func (l *linker) traversal(e *evaluator, traversal hcl.Traversal, sc scope) []target {
	rng := traversal.SourceRange()
	root := traversal.RootName()
	name, _, single := secondStep(traversal)
	switch root {
	case "local", "var":
		names := []string{name}
		if !single {
			names = e.names(root)
		}
		var out []target
		for _, n := range names {
			out = append(out, l.name(e, root, n, rng)...)
		}
		return out
	case "each":
		// What an argument of a module passes on of its for_each.
		var out []target
		if sc.each.mode == eachForEach {
			for _, address := range References(sc.each.value) {
				out = append(out, target{address, rng})
			}
		}
		return out
	case kindNetwork, kindImage, kindMachine:
		var out []target
		for _, t := range e.m.order {
			if t.kind == root && (!single || t.name == name) {
				out = append(out, instances(t.address(), t.each, traversal, 2, rng)...)
			}
		}
		return out
	case kindStep:
		if w := e.m.workflow(sc.workflow); w != nil {
			return stepTargets(w, traversal, rng)
		}
	case "workflow":
		w := e.m.workflow(name)
		if w == nil {
			return nil
		}
		if len(traversal) < 3 {
			return stepTargets(w, nil, rng)
		}
		return stepTargets(w, traversal[2:], rng)
	case "module":
		return l.modules(e, traversal, rng)
	}
	return nil
}

// modules lists what the outputs stand for that a reference to a module names.
func (l *linker) modules(e *evaluator, traversal hcl.Traversal, rng hcl.Range) []target {
	name, _, single := secondStep(traversal)
	var out []target
	for _, c := range e.m.calls {
		if single && c.name != name {
			continue
		}
		output, all := namedOutput(c, traversal)
		for _, m := range chosen(c, traversal) {
			for _, o := range m.outputs {
				if all || o.Labels[0] == output {
					out = append(out, l.name(e.of(m), "output", o.Labels[0], rng)...)
				}
			}
		}
	}
	return out
}

// chosen are the instances of a module block that a traversal is about.
func chosen(c *moduleCall, traversal hcl.Traversal) []*module {
	keyed := instances("", c.each, traversal, 2, hcl.Range{})
	var out []*module
	for i, one := range c.each {
		if slices.ContainsFunc(keyed, func(t target) bool { return t.address == instanceAddress("", one) }) {
			out = append(out, c.instances[i])
		}
	}
	return out
}

// stepTargets lists the steps that step.TYPE.NAME[KEY] stands for; a shorter
// traversal stands for all below it. Its first step is the word step.
func stepTargets(w *workflowBlock, traversal hcl.Traversal, rng hcl.Range) []target {
	var typ, name string
	if len(traversal) > 1 {
		typ, _ = stepName(traversal[1])
	}
	if len(traversal) > 2 {
		name, _ = stepName(traversal[2])
	}
	var out []target
	for _, s := range w.steps {
		if (typ == "" || typ == s.typ) && (name == "" || name == s.name) {
			out = append(out, instances(s.address(), s.each, traversal, 3, rng)...)
		}
	}
	return out
}

// instances lists the instances that a traversal stands for, whose key, if it
// has one, is its step number at.
func instances(address string, each []eachValue, traversal hcl.Traversal, at int, rng hcl.Range) []target {
	var key string
	if len(traversal) > at {
		switch step := traversal[at].(type) {
		case hcl.TraverseIndex:
			if step.Key.IsKnown() && !step.Key.IsNull() {
				if step.Key.Type() == cty.String {
					key = step.Key.AsString()
				} else if step.Key.Type() == cty.Number {
					key = step.Key.AsBigFloat().Text('f', -1)
				}
			}
		case hcl.TraverseAttr:
			// machine.node.a is machine.node["a"], as for any object.
			if len(each) > 0 && each[0].mode == eachForEach {
				key = step.Name
			}
		}
	}
	var out []target
	for _, one := range each {
		if key == "" || one.mode == eachNone || key == one.text {
			out = append(out, target{instanceAddress(address, one), rng})
		}
	}
	return out
}

// name lists what a local, a variable or an output refers to, through others;
// evaluation has refused cycles and long chains before.
func (l *linker) name(e *evaluator, root, name string, rng hcl.Range) []target {
	key := e.m.path + root + "." + name
	found, ok := l.named[key]
	if !ok {
		l.named[key] = nil
		switch root {
		case "local":
			if attr := e.m.locals[name]; attr != nil {
				found = l.expression(e, attr.Expr, scope{})
			}
		case "var":
			if e.m.call != nil && !moduleMeta[name] {
				if attr := e.m.call.block.Body.Attributes[name]; attr != nil {
					found = l.expression(e.of(e.m.parent), attr.Expr, scope{each: e.m.each})
				}
			}
		default:
			if o := e.m.outputOf(name); o != nil && o.Body.Attributes["value"] != nil {
				found = l.expression(e, o.Body.Attributes["value"].Expr, scope{})
			}
		}
		found = unique(found)
		l.named[key] = found
	}
	out := make([]target, len(found))
	for i, t := range found {
		out[i] = target{t.address, rng}
	}
	return out
}

// unique drops repeated addresses.
func unique(targets []target) []target {
	seen := make(map[string]bool)
	var out []target
	for _, t := range targets {
		if !seen[t.address] {
			seen[t.address] = true
			out = append(out, t)
		}
	}
	return out
}

// dependsOn reads the references of depends_on, which are not evaluated.
func (l *linker) dependsOn(e *evaluator, attr *hclsyntax.Attribute, sc scope) []target {
	const form = "depends_on is a list of references: [step.ssh.setup, machine.node]."
	exprs, diags := hcl.ExprList(attr.Expr)
	if diags.HasErrors() {
		l.e.add(failure("Invalid depends_on", attr.Expr.Range().Ptr(), "%s", form))
		return nil
	}
	var out []target
	for _, expr := range exprs {
		traversal, diags := hcl.AbsTraversalForExpr(expr)
		if diags.HasErrors() {
			l.e.add(failure("Invalid depends_on", expr.Range().Ptr(), "%s References are written without quotes, and their keys as constants.", form))
			continue
		}
		switch traversal.RootName() {
		case kindMachine, kindStep, "workflow":
		case "module":
			if found := l.insideOf(e, traversal, expr.Range()); len(found) > 0 {
				out = append(out, found...)
				continue
			}
		default:
			l.e.add(failure("Invalid depends_on", expr.Range().Ptr(), "A step can depend on machines, steps, workflows and modules, and not on %s. %s", traversalText(traversal), form))
			continue
		}
		found := l.traversal(e, traversal, sc)
		if len(found) == 0 {
			before := len(e.diags)
			if v, diags := traversal.TraverseAbs(e.context([]hcl.Traversal{traversal}, sc)); !diags.HasErrors() && !v.IsKnown() {
				continue // it was left out, and that was said
			}
			if len(e.diags) == before {
				l.e.add(failure("Unknown reference", expr.Range().Ptr(), "%s has no instance, so nothing can depend on it.", traversalText(traversal)))
			}
		}
		out = append(out, found...)
	}
	return out
}

// insideOf lists the machines and steps of a module, and of those it calls, that
// is named as a whole.
func (l *linker) insideOf(e *evaluator, traversal hcl.Traversal, rng hcl.Range) []target {
	name, _, _ := secondStep(traversal)
	c := e.m.callOf(name)
	if c == nil {
		return nil
	}
	if _, whole := namedOutput(c, traversal); !whole {
		return nil
	}
	var out []target
	for _, m := range chosen(c, traversal) {
		found, done := l.inside[m.path]
		if !done {
			for _, node := range l.e.built.Select(strings.TrimSuffix(m.path, ".")) {
				if l.awaitable[node] {
					found = append(found, node)
				}
			}
			l.inside[m.path] = found
		}
		for _, node := range found {
			out = append(out, target{node, rng})
		}
	}
	return out
}

// cycles reports each cycle among steps once.
func (l *linker) cycles(steps []*Step) {
	next := make(map[string][]Edge)
	for _, edge := range l.sorted() {
		next[edge.From] = append(next[edge.From], edge)
	}
	const visiting, done = 1, 2
	state := make(map[string]int)
	for _, start := range steps {
		if state[start.Address] != 0 {
			continue
		}
		// An explicit stack: a chain of steps may be longer than is good for
		// recursion.
		type frame struct {
			address string
			next    int
		}
		stack := []frame{{address: start.Address}}
		path := []visit{{address: start.Address}}
		state[start.Address] = visiting
		for len(stack) > 0 {
			top := &stack[len(stack)-1]
			if top.next == len(next[top.address]) {
				state[top.address] = done
				stack, path = stack[:len(stack)-1], path[:len(path)-1]
				continue
			}
			edge := next[top.address][top.next]
			top.next++
			switch state[edge.To] {
			case 0:
				state[edge.To] = visiting
				stack = append(stack, frame{address: edge.To})
				path = append(path, visit{edge.To, edge.Range})
			case visiting:
				for i := range path {
					if path[i].address == edge.To {
						l.e.add(cycle(append(path[i:len(path):len(path)], visit{edge.To, edge.Range})))
					}
				}
			}
		}
	}
}

// String is the graph as lines "from -> to", for tests and for reading.
func (g Graph) String() string {
	var b strings.Builder
	for _, e := range g.Edges {
		fmt.Fprintf(&b, "%s -> %s\n", e.From, e.To)
	}
	return b.String()
}
