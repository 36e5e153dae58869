package site

import (
	"fmt"
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

// linker finds what expressions refer to, through locals.
type linker struct {
	e      *evaluator
	locals map[string][]target // what a local refers to in the end
	edges  map[[2]string]Edge
}

// target is a reference to something with an address.
type target struct {
	address string
	rng     hcl.Range
}

// link computes all edges, the DependsOn of every step, and reports cycles
// among steps.
func (s *Site) link(e *evaluator) {
	l := &linker{e: e, locals: make(map[string][]target), edges: make(map[[2]string]Edge)}
	for _, t := range s.module.order {
		for i, one := range t.each {
			from := instanceAddress(t.address(), one)
			for _, to := range l.body(t.block.Body, scope{each: one}, map[string]bool{"for_each": one.mode != eachNone, "match": t.kind == kindMachine}) {
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
			}
		}
	}
	var steps []*Step
	for _, w := range s.Workflows {
		steps = append(steps, w.Steps...)
	}
	for _, step := range steps {
		body := step.block.block.Body
		sc := scope{workflow: step.Workflow, each: step.each}
		for _, to := range l.body(body, sc, map[string]bool{"for_each": true, "count": true, "depends_on": true}) {
			l.add(step.Address, to, false)
		}
		l.value(step.Address, step.each, body.Attributes["for_each"])
		if attr := body.Attributes["depends_on"]; attr != nil {
			for _, to := range l.dependsOn(attr, sc) {
				l.add(step.Address, to, true)
			}
		}
	}
	s.module.edges = l.sorted()
	l.cycles(steps)
	for _, step := range steps {
		for _, edge := range s.module.edges {
			if edge.From == step.Address && (strings.HasPrefix(edge.To, "workflow.") || strings.HasPrefix(edge.To, "machine.")) {
				step.DependsOn = append(step.DependsOn, edge.To)
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
func (l *linker) body(body *hclsyntax.Body, sc scope, skip map[string]bool) []target {
	var out []target
	for _, attr := range sortedAttributes(body) {
		if !skip[attr.Name] {
			out = append(out, l.expression(attr.Expr, sc)...)
		}
	}
	for _, block := range body.Blocks {
		out = append(out, l.body(block.Body, sc, map[string]bool{queryAttributes[block.Type]: true})...)
	}
	return out
}

// expression lists what an expression refers to. A reference with a computed
// key, such as machine.node[each.key], is to one instance if the key is known
// here, and else to all.
func (l *linker) expression(expr hclsyntax.Expression, sc scope) []target {
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
		quiet := *l.e
		quiet.diags = nil
		key, diags := index.Key.Value(quiet.context(index.Key.Variables(), sc))
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
		out = append(out, l.traversal(traversal, sc)...)
	}
	return out
}

// traversal lists the addresses that a reference stands for.
func (l *linker) traversal(traversal hcl.Traversal, sc scope) []target {
	rng := traversal.SourceRange()
	root := traversal.RootName()
	name, _, single := secondStep(traversal)
	switch root {
	case "local":
		if !single {
			var out []target
			for _, n := range l.e.names("local") {
				out = append(out, l.local(n, rng)...)
			}
			return out
		}
		return l.local(name, rng)
	case kindNetwork, kindImage, kindMachine:
		var out []target
		for _, t := range l.e.m.order {
			if t.kind == root && (!single || t.name == name) {
				out = append(out, instances(t.address(), t.each, traversal, 2, rng)...)
			}
		}
		return out
	case kindStep:
		if w := l.e.m.workflow(sc.workflow); w != nil {
			return stepTargets(w, traversal, rng)
		}
	case "workflow":
		w := l.e.m.workflow(name)
		if w == nil {
			return nil
		}
		if len(traversal) < 3 {
			return stepTargets(w, nil, rng)
		}
		return stepTargets(w, traversal[2:], rng)
	}
	return nil
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

// local lists what a local refers to, through other locals; evaluation has
// refused cycles and long chains before.
func (l *linker) local(name string, rng hcl.Range) []target {
	found, ok := l.locals[name]
	if !ok {
		l.locals[name] = nil
		if attr := l.e.m.locals[name]; attr != nil {
			l.locals[name] = unique(l.expression(attr.Expr, scope{}))
		}
		found = l.locals[name]
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
func (l *linker) dependsOn(attr *hclsyntax.Attribute, sc scope) []target {
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
		default:
			l.e.add(failure("Invalid depends_on", expr.Range().Ptr(), "A step can depend on machines, steps and workflows, and not on %s. %s", traversalText(traversal), form))
			continue
		}
		found := l.traversal(traversal, sc)
		if len(found) == 0 {
			before := len(l.e.diags)
			l.e.context([]hcl.Traversal{traversal}, sc)
			if len(l.e.diags) == before {
				l.e.add(failure("Unknown reference", expr.Range().Ptr(), "%s has no instance, so nothing can depend on it.", traversalText(traversal)))
			}
		}
		out = append(out, found...)
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
