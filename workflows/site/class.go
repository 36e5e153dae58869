package site

import (
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/inventory/query"
)

// Class is a kind of machine, told by what was observed of it.
type Class struct {
	Decl
	Address string // class.till
	Name    string // till
	// Match is true for the machines of the class. It does not ask for classes.
	Match *query.Expr
	// React is what starts for a machine of the class; nil: nothing.
	React *React
}

// React is the react block of a class: work that the daemon starts by itself.
type React struct {
	Decl
	// Machines is what provision names, such as machine.till; empty: nothing is
	// installed. Provision are the addresses of its instances, in the order in
	// which they are given out.
	Machines  string
	Provision []string
	// Workflow is the address of the workflow whose steps run on the machine;
	// empty: none.
	Workflow string
	AtOnce   int // machines at a time
	PerHour  int // machines started within any hour
}

// Bounds and defaults of reactions.
const (
	maxAtOnce      = 100
	defaultAtOnce  = 1
	maxPerHour     = 10_000
	defaultPerHour = 60
)

const kindClass = "class"

var (
	classShape = shape{required: []string{"match"}, blocks: map[string]int{"react": 0}, single: []string{"react"}}
	reactShape = shape{attributes: []string{"provision", "workflow", "at_once", "per_hour"}}
)

// classBlock is one class block. It is decoded when it is first referred to.
type classBlock struct {
	block *hclsyntax.Block
	class *Class
}

// sortClass files a class block.
func (m *module) sortClass(block *hclsyntax.Block) hcl.Diagnostics {
	name := block.Labels[0]
	if m.call != nil {
		return failure("Class in a module", block.DefRange().Ptr(), "Classes belong to the whole site, so they are declared beside its site block and not in a module.")
	}
	if old := m.classes[name]; old != nil {
		return duplicate(block, kindClass, old.block.DefRange())
	}
	m.classes[name] = &classBlock{block: block}
	m.classOrder = append(m.classOrder, name)
	return nil
}

// decodeClass decodes a class the first time.
func (e *evaluator) decodeClass(c *classBlock) *Class {
	if c.class != nil {
		return c.class
	}
	name := c.block.Labels[0]
	c.class = &Class{Address: kindClass + "." + name, Name: name}
	ctx := e.context(bodyTraversals(c.block.Body, map[string]bool{queryAttributes[kindClass]: true}), scope{})
	d := e.decoder(c.block.DefRange(), c.block.Body, ctx, scope{}, classShape)
	c.class.Decl = d.decl
	c.class.Match = d.query("match", query.Machine)
	if c.class.Match != nil && c.class.Match.AsksClasses() {
		d.fail("match", "Class refers to classes", "Which classes a machine is in is told by their rules, so that a rule cannot ask for machine.classes. Repeat the other class's condition, or put it into both.")
		c.class.Match = nil
	}
	for _, block := range d.content.Blocks.OfType("react") {
		r := d.nested(block, reactShape)
		c.class.React = &React{
			Decl: r.decl, AtOnce: int(r.integer("at_once", defaultAtOnce, 1, maxAtOnce)), PerHour: int(r.integer("per_hour", defaultPerHour, 1, maxPerHour)),
		}
	}
	return c.class
}

// classReference is the class that an expression names, when it does nothing
// else: match = class.till. named is true when it refers to a class in whatever
// way, and then what is wrong with that was said.
func (d *decoder) classReference(attr *hcl.Attribute) (class *Class, named bool) {
	i := slices.IndexFunc(attr.Expr.Variables(), func(t hcl.Traversal) bool { return t.RootName() == kindClass })
	if i < 0 {
		return nil, false
	}
	rng := attr.Expr.Variables()[i].SourceRange()
	traversal, diags := hcl.AbsTraversalForExpr(attr.Expr)
	name, _, single := secondStep(traversal)
	switch {
	case diags.HasErrors() || !single || len(traversal) != 2:
		d.e.add(failure("Class inside an expression", &rng, "class.NAME stands alone as the match of a machine. Inside an expression write contains(machine.classes, \"NAME\")."))
	case d.e.m.call != nil:
		d.e.add(failure("Class in a module", &rng, "Classes belong to the whole site, and a module cannot refer to them. Declare the machine beside the site block."))
	case d.e.m.classes[name] == nil:
		if !d.e.m.leftOut(kindClass, name) {
			d.e.add(failure("Unknown reference", &rng, "There is no class %q.%s", clip(name), offer(name, d.e.m.classOrder)))
		}
	default:
		return d.e.decodeClass(d.e.m.classes[name]), true
	}
	return nil, true
}

// decodeClasses decodes all classes of the site, and what they start, when the
// machines and workflows are known.
func (e *evaluator) decodeClasses() {
	for _, name := range e.m.classOrder {
		block := e.m.classes[name]
		class := e.decodeClass(block)
		e.built.Classes = append(e.built.Classes, class)
		if class.React != nil {
			e.react(class, block)
		}
	}
}

// react resolves what a class starts. The references are names, not values.
func (e *evaluator) react(class *Class, block *classBlock) {
	i := slices.IndexFunc(block.block.Body.Blocks, func(b *hclsyntax.Block) bool { return b.Type == "react" })
	body := block.block.Body.Blocks[i].Body
	provision, workflow := body.Attributes["provision"], body.Attributes["workflow"]
	if provision == nil && workflow == nil {
		e.add(failure("Reaction without work", class.React.DeclRange.Ptr(), "A react block says what starts for a machine of the class: provision = machine.NAME, workflow = workflow.NAME, or both."))
	}
	if provision != nil {
		class.React.Machines, class.React.Provision = e.provision(class, provision)
	}
	if workflow != nil {
		class.React.Workflow = e.reactWorkflow(workflow)
	}
}

// reactName reads machine.NAME or workflow.NAME, without quotes.
func (e *evaluator) reactName(attr *hclsyntax.Attribute, kind string) (hcl.Traversal, bool) {
	traversal, diags := hcl.AbsTraversalForExpr(attr.Expr)
	if diags.HasErrors() || traversal.RootName() != kind || len(traversal) < 2 {
		e.add(failure("Wrong type", attr.Expr.Range().Ptr(), "%q names a %s of this site, without quotes: %s.NAME.", attr.Name, kind, kind))
		return nil, false
	}
	return traversal, true
}

// provision lists the machines that a class may install, after their common name.
func (e *evaluator) provision(class *Class, attr *hclsyntax.Attribute) (string, []string) {
	traversal, ok := e.reactName(attr, kindMachine)
	if !ok {
		return "", nil
	}
	rng := attr.Expr.Range()
	name, _, _ := secondStep(traversal)
	t := e.m.things[kindMachine][name]
	if t == nil {
		if !e.m.leftOut(kindMachine, name) {
			e.add(failure("Unknown reference", &rng, "There is no machine %q.%s", clip(name), offer(name, e.names(kindMachine))))
		}
		return "", nil
	}
	chosen := instances(t.address(), t.each, traversal, 2, rng)
	if len(chosen) == 0 && len(t.each) > 0 {
		e.add(failure("Unknown reference", &rng, "%s has no such instance.", t.address()))
		return "", nil
	}
	var out []string
	for _, one := range chosen {
		m, _ := e.byID[one.address].(*Machine)
		switch {
		case m == nil:
		case m.Class != class:
			e.add(failure("Machine of another class", &rng, "%s is not declared by match = %s, so that a machine of the class does not become it. Machines that a class installs say match = %s.", m.Address, class.Address, class.Address))
			return "", nil
		case m.Image == nil && m.written("image"):
			return "", nil // it is wrong, and that was said
		case m.Image == nil:
			e.add(failure("Nothing to install", &rng, "%s has no image, so that there is nothing to install on it.", m.Address))
			return "", nil
		default:
			out = append(out, m.Address)
		}
	}
	return traversalText(traversal), out
}

// reactWorkflow is the address of the workflow that a class runs.
func (e *evaluator) reactWorkflow(attr *hclsyntax.Attribute) string {
	traversal, ok := e.reactName(attr, "workflow")
	if !ok {
		return ""
	}
	rng := attr.Expr.Range()
	name, _, _ := secondStep(traversal)
	var names []string
	for _, w := range e.m.workflows {
		names = append(names, w.name)
	}
	switch {
	case len(traversal) != 2:
		e.add(failure("Wrong type", &rng, "A reaction runs a whole workflow, as far as its steps work on the machine: workflow = workflow.%s.", name))
	case !slices.Contains(names, name):
		if !e.m.leftOut("workflow", name) {
			e.add(failure("Unknown reference", &rng, "There is no workflow %q.%s", clip(name), offer(name, names)))
		}
	default:
		return "workflow." + name
	}
	return ""
}

func (p *printer) class(c *Class) {
	p.block(0, "%s", c.Address)
	p.line(1, "match = %s", c.Match)
	if r := c.React; r != nil {
		p.line(1, "react, %d at once, %d an hour", r.AtOnce, r.PerHour)
		if r.Machines != "" {
			p.line(2, "provision = %s (%s)", r.Machines, strings.Join(r.Provision, ", "))
		}
		p.text(2, "workflow", r.Workflow)
	}
}

// refuseClass is for references to class where only values can stand.
func (e *evaluator) refuseClass(rng hcl.Range) cty.Value {
	e.add(failure("Unknown reference", &rng, "class.NAME can only be the match of a machine. Which classes a machine is in is machine.classes in expressions over facts."))
	return cty.DynamicVal
}
