package query

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// compiler turns HCL's syntax tree into nodes, collecting every complaint.
type compiler struct {
	ctx   *hcl.EvalContext
	roots []string
	// vars are the variables of the loops around that stand for facts.
	vars map[string]*variable
	// anon are the elements that a splat's [*] stands for.
	anon      map[*hclsyntax.AnonSymbolExpr]*variable
	diags     hcl.Diagnostics
	sensitive bool
	// asks is what the expression needs beyond a machine and its facts.
	asks  asks
	nodes int
}

func newCompiler(ctx *hcl.EvalContext, root Root) *compiler {
	return &compiler{
		ctx: ctx, roots: rootNames(root),
		vars: map[string]*variable{},
		anon: map[*hclsyntax.AnonSymbolExpr]*variable{},
	}
}

// operand is a compiled part of an expression. Exactly one of the fields after
// rng is set; nil stands for a part that was already complained about.
type operand struct {
	rng   hcl.Range
	cond  node
	num   *number
	text  text
	ref   *ref // an object or a time
	list  *list
	items []item // a list that is written out or constant
	null  bool
}

// item is one element of a written-out list, with the condition that keeps it.
type item struct {
	cond node // nil keeps
	*operand
}

func (o *operand) kind() kind {
	switch {
	case o.cond != nil:
		return kindBool
	case o.num != nil:
		return kindNumber
	case o.text != nil:
		return kindString
	case o.ref != nil:
		return o.ref.typ.kind
	}
	return kindList
}

func (o *operand) String() string {
	switch {
	case o.cond != nil:
		return o.cond.String()
	case o.num != nil:
		return o.num.String()
	case o.text != nil:
		return o.text.String()
	case o.ref != nil:
		return o.ref.String()
	case o.list != nil:
		return o.list.String()
	}
	parts := make([]string, len(o.items))
	for i, it := range o.items {
		parts[i] = it.String()
	}
	return "[" + strings.Join(parts, ", ") + "]"
}

// complain adds a diagnostic; its nil result lets callers return it.
func (c *compiler) complain(rng hcl.Range, summary, format string, args ...any) *operand {
	c.diags = append(c.diags, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: summary, Detail: fmt.Sprintf(format, args...), Subject: &rng,
	})
	return nil
}

// checkDepth refuses trees that would cost too much stack or time.
func (c *compiler) checkDepth(e hclsyntax.Expression) bool {
	m := &measure{links: map[*hclsyntax.BinaryOpExpr]bool{}}
	_ = hclsyntax.Walk(e, m) // the measure speaks for itself
	if m.tooDeep || m.nodes > MaxNodes {
		c.complain(e.Range(), "Expression too large",
			"The expression nests more than %d deep or has more than %d parts. Parts joined by && or by || nest no deeper the more they are; to compare a fact with many values, write contains([\"a\", \"b\"], fact).", MaxDepth, MaxNodes)
		return false
	}
	return true
}

// measure counts the nodes and depth of a syntax tree. A chain of one logical operator,
// a || b || c, is as deep as its deepest operand, though HCL nests it.
type measure struct {
	depth, nodes int
	tooDeep      bool
	// links are the parts of chains that were met in what they go on from.
	links map[*hclsyntax.BinaryOpExpr]bool
}

func (m *measure) Enter(n hclsyntax.Node) hcl.Diagnostics {
	m.nodes++
	x, isOperation := n.(*hclsyntax.BinaryOpExpr)
	if isOperation {
		if left, ok := inChain(x); ok {
			m.links[left] = true
		}
	}
	if !isOperation || !m.links[x] {
		m.depth++
	}
	m.tooDeep = m.tooDeep || m.depth > MaxDepth
	return nil
}

func (m *measure) Exit(n hclsyntax.Node) hcl.Diagnostics {
	if x, isOperation := n.(*hclsyntax.BinaryOpExpr); !isOperation || !m.links[x] {
		m.depth--
	}
	return nil
}

// boolean compiles a part that must be a condition.
func (c *compiler) boolean(e hclsyntax.Expression) node {
	return c.asCondition(c.operand(e))
}

func (c *compiler) asCondition(o *operand) node {
	if o == nil {
		return nil
	}
	if o.cond == nil {
		c.complain(o.rng, "Not a condition", "A condition is needed here, such as a comparison; this is %s.", o.describe())
		return nil
	}
	return o.cond
}

func (o *operand) describe() string {
	if o.null {
		return "null"
	}
	return o.kind().String()
}

// operand compiles any part.
func (c *compiler) operand(e hclsyntax.Expression) *operand {
	if c.nodes++; c.nodes > MaxNodes {
		if c.nodes == MaxNodes+1 {
			c.complain(e.Range(), "Expression too large",
				"With its loops over constant lists written out, the expression has more than %d parts.", MaxNodes)
		}
		return nil
	}
	if p, ok := e.(*hclsyntax.ParenthesesExpr); ok {
		return c.operand(p.Expression)
	}
	if !ordersHere(e) && c.isConstant(e) {
		return c.constant(e)
	}
	rng := e.Range()
	switch x := e.(type) {
	case *hclsyntax.ScopeTraversalExpr:
		return c.traversal(x.Traversal)
	case *hclsyntax.RelativeTraversalExpr:
		return c.relative(x)
	case *hclsyntax.AnonSymbolExpr:
		v := c.anon[x]
		return refOperand(&ref{v: v, typ: v.typ, rng: rng})
	case *hclsyntax.IndexExpr:
		return c.index(x)
	case *hclsyntax.SplatExpr:
		return c.splat(x)
	case *hclsyntax.ForExpr:
		return c.loop(x)
	case *hclsyntax.TupleConsExpr:
		out := &operand{rng: rng, items: []item{}}
		for _, elem := range x.Exprs {
			if o := c.operand(elem); o != nil {
				out.items = append(out.items, item{operand: o})
			}
		}
		return out
	case *hclsyntax.BinaryOpExpr:
		return c.binary(x)
	case *hclsyntax.UnaryOpExpr:
		return c.unary(x)
	case *hclsyntax.ConditionalExpr:
		return c.conditional(x)
	case *hclsyntax.FunctionCallExpr:
		return c.call(x)
	case *hclsyntax.TemplateWrapExpr:
		return c.operand(x.Wrapped)
	case *hclsyntax.TemplateExpr, *hclsyntax.TemplateJoinExpr:
		return c.complain(rng, "Unsupported expression",
			"A string cannot be built from facts; compare the fact itself, or use glob or regex.")
	}
	return c.complain(rng, "Unsupported expression", "This kind of expression is not part of the language over facts.")
}

// ordersHere says whether e puts two values in order. HCL orders numbers only;
// the language orders strings too, also two constant ones.
func ordersHere(e hclsyntax.Expression) bool {
	switch x := e.(type) {
	case *hclsyntax.ParenthesesExpr:
		return ordersHere(x.Expression)
	case *hclsyntax.UnaryOpExpr:
		return ordersHere(x.Val)
	case *hclsyntax.ConditionalExpr:
		return ordersHere(x.Condition) || ordersHere(x.TrueResult) || ordersHere(x.FalseResult)
	case *hclsyntax.TupleConsExpr:
		return slices.ContainsFunc(x.Exprs, ordersHere)
	case *hclsyntax.ForExpr:
		return ordersHere(x.ValExpr) || (x.CondExpr != nil && ordersHere(x.CondExpr))
	case *hclsyntax.BinaryOpExpr:
		op := comparisons[x.Op]
		return (op != "" && op != opEqual && op != opNotEqual) || ordersHere(x.LHS) || ordersHere(x.RHS)
	}
	return false
}

// isConstant says whether e mentions no fact and no function of the language,
// so that HCL can evaluate it.
func (c *compiler) isConstant(e hclsyntax.Expression) bool {
	for _, t := range hclsyntax.Variables(e) {
		if c.isVariable(t.RootName()) {
			return false
		}
	}
	constant := true
	_ = hclsyntax.VisitAll(e, func(n hclsyntax.Node) hcl.Diagnostics {
		switch x := n.(type) {
		case *hclsyntax.AnonSymbolExpr:
			constant = constant && c.anon[x] == nil
		case *hclsyntax.FunctionCallExpr:
			constant = constant && !c.isOwn(x.Name)
		}
		return nil
	})
	return constant
}

func (c *compiler) isVariable(name string) bool {
	return c.vars[name] != nil || slices.Contains(c.roots, name)
}

// ownFunctions are the functions of the language; contains and length give way
// to the site's functions of that name over constants.
var ownFunctions = []string{"all", "any", "changed", "contains", "glob", "length", "missing", "older", "regex"}

func (c *compiler) isOwn(name string) bool {
	if name == "contains" || name == "length" {
		for ctx := c.ctx; ctx != nil; ctx = ctx.Parent() {
			if _, ok := ctx.Functions[name]; ok {
				return false
			}
		}
	}
	return slices.Contains(ownFunctions, name)
}

// traversal compiles facts.memory.bytes and the like.
func (c *compiler) traversal(t hcl.Traversal) *operand {
	name, rng := t.RootName(), t[0].SourceRange()
	r := &ref{root: name, typ: rootTypes()[name], rng: rng}
	if v := c.vars[name]; v != nil {
		r = &ref{v: v, typ: v.typ, rng: rng}
	}
	return c.follow(r, t[1:])
}

func (c *compiler) relative(x *hclsyntax.RelativeTraversalExpr) *operand {
	source := c.operand(x.Source)
	if source == nil {
		return nil
	}
	if source.ref == nil {
		return c.complain(x.Range(), "Unsupported attribute", "A field is taken of %s, which has none.", source.describe())
	}
	return c.follow(source.ref, x.Traversal)
}

func (c *compiler) follow(r *ref, steps hcl.Traversal) *operand {
	for _, s := range steps {
		rng := s.SourceRange()
		switch s := s.(type) {
		case hcl.TraverseAttr:
			if r = c.attribute(r, s.Name, rng); r == nil {
				return nil
			}
		case hcl.TraverseIndex:
			if s.Key.Type() == cty.String {
				if r = c.attribute(r, s.Key.AsString(), rng); r == nil {
					return nil
				}
				continue
			}
			if r = c.element(r, s.Key, rng); r == nil {
				return nil
			}
		default:
			return c.complain(rng, "Unsupported expression", "This cannot follow a fact.")
		}
	}
	return refOperand(r)
}

func (c *compiler) attribute(r *ref, name string, rng hcl.Range) *ref {
	switch r.typ.kind {
	case kindObject:
		if r.typ.values != nil {
			return r.key(name, rng)
		}
	case kindList:
		c.complain(rng, "Unsupported attribute",
			"%s is a list: use any([for x in %s : x.%s …]), all(…), %s[*].%s or an index.", r, r, name, r, name)
		return nil
	default:
		c.complain(rng, "Unsupported attribute", "%s is %s and has no fields.", r, r.typ.kind)
		return nil
	}
	f, ok := r.typ.fields[name]
	if !ok {
		c.complain(hcl.RangeBetween(r.rng, rng), "Unknown field", "%s has no field %q. %s", r, name, suggest(name, r.typ.names()))
		return nil
	}
	c.asks.leases = c.asks.leases || f.index == leasesField
	c.asks.age = c.asks.age || f.typ.kind == kindTime
	c.asks.classes = c.asks.classes || f == rootTypes()["machine"].fields["classes"]
	return r.field(name, f, rng)
}

func (c *compiler) element(r *ref, key cty.Value, rng hcl.Range) *ref {
	if r.typ.kind != kindList {
		c.complain(rng, "Unsupported index", "%s is %s, not a list.", r, r.typ.kind)
		return nil
	}
	key, marks := key.UnmarkDeep()
	c.sensitive = c.sensitive || len(marks) > 0
	if key.Type() == cty.Number && key.IsKnown() && !key.IsNull() {
		if n, ok := numberOf(key); ok {
			if i, ok := index(n); ok {
				return r.at(i, rng)
			}
		}
	}
	c.complain(rng, "Unsupported index", "A list's index is a whole number, 0 for the first element.")
	return nil
}

func (c *compiler) index(x *hclsyntax.IndexExpr) *operand {
	source := c.operand(x.Collection)
	if source == nil {
		return nil
	}
	if source.list == nil || source.list.elem != nil || source.list.cond != nil {
		return c.complain(x.Range(), "Unsupported index", "Only a list of facts can be indexed.")
	}
	if !c.isConstant(x.Key) {
		return c.complain(x.Key.Range(), "Unsupported index", "A list's index must be known from declarations alone.")
	}
	key, diags := x.Key.Value(c.ctx)
	if diags.HasErrors() {
		c.diags = append(c.diags, diags...)
		return nil
	}
	r := c.element(source.list.source, key, x.Range())
	if r == nil {
		return nil
	}
	return refOperand(r)
}

// refOperand is a fact as the operand of its type.
func refOperand(r *ref) *operand {
	o := &operand{rng: r.rng}
	switch r.typ.kind {
	case kindBool:
		o.cond = flag{r}
	case kindNumber:
		o.num = &number{num: refInt{r}, den: constInt(1), show: r.String}
	case kindString:
		o.text = refText{r}
	case kindObject, kindTime:
		o.ref = r
	case kindList:
		o.list = &list{source: r, v: &variable{name: "x", typ: r.typ.elem, source: r}}
	}
	return o
}

// splat compiles facts.nics[*].driver.
func (c *compiler) splat(x *hclsyntax.SplatExpr) *operand {
	source := c.operand(x.Source)
	if source == nil {
		return nil
	}
	if source.list == nil || source.list.elem != nil || source.list.cond != nil {
		return c.complain(x.Range(), "Unsupported splat", "[*] can follow a list of facts only.")
	}
	if x.Each == hclsyntax.Expression(x.Item) {
		return source
	}
	l := source.list
	l.v.name = l.source.String() + "[*]"
	c.anon[x.Item] = l.v
	elem := c.operand(x.Each)
	if elem == nil {
		return nil
	}
	if elem.list != nil || elem.items != nil {
		return c.complain(x.Range(), "Unsupported splat", "The elements of a list over facts cannot be lists themselves; nest any([for …]) instead.")
	}
	return &operand{rng: x.Range(), list: &list{source: l.source, v: l.v, elem: elem, splat: true}}
}

// loop compiles [for d in LIST : VALUE if CONDITION].
func (c *compiler) loop(x *hclsyntax.ForExpr) *operand {
	switch {
	case x.KeyExpr != nil:
		return c.complain(x.Range(), "Unsupported expression", "Only a [for …] that makes a list is supported over facts.")
	case slices.Contains(c.roots, x.ValVar):
		return c.complain(x.Range(), "Unsupported name", "%q is the name of a root variable; give the loop's variable another one.", x.ValVar)
	}
	if c.isConstant(x.CollExpr) {
		return c.unroll(x)
	}
	if x.KeyVar != "" {
		return c.complain(x.Range(), "Unsupported expression", "A loop over facts has one variable; the order of a list carries no meaning.")
	}
	source := c.operand(x.CollExpr)
	if source == nil {
		return nil
	}
	if source.list == nil || source.list.elem != nil || source.list.cond != nil {
		return c.complain(x.CollExpr.Range(), "Not a list of facts", "A loop needs a list of facts or a constant one; this is %s.", source.describe())
	}
	r := source.list.source
	v := &variable{name: x.ValVar, typ: r.typ.elem, source: r}
	outer := c.vars[x.ValVar]
	c.vars[x.ValVar] = v
	defer func() { c.vars[x.ValVar] = outer }()
	l := &list{source: r, v: v}
	if x.CondExpr != nil {
		if l.cond = c.boolean(x.CondExpr); l.cond == nil {
			return nil
		}
	}
	elem := c.operand(x.ValExpr)
	if elem == nil {
		return nil
	}
	if elem.list != nil || elem.items != nil {
		return c.complain(x.ValExpr.Range(), "Unsupported expression", "The elements of a list over facts cannot be lists themselves; nest any([for …]) instead.")
	}
	l.elem = elem
	return &operand{rng: x.Range(), list: l}
}

// unroll writes out a loop over a constant list.
func (c *compiler) unroll(x *hclsyntax.ForExpr) *operand {
	coll, diags := x.CollExpr.Value(c.ctx)
	if diags.HasErrors() {
		return c.constant(x.CollExpr)
	}
	coll, marks := coll.UnmarkDeep()
	c.sensitive = c.sensitive || len(marks) > 0
	if !coll.IsKnown() || coll.IsNull() || !coll.CanIterateElements() {
		return c.complain(x.CollExpr.Range(), "Not a list", "A loop needs a list of facts or a constant one that is known from declarations alone.")
	}
	outerCtx, outerVars := c.ctx, c.vars
	defer func() { c.ctx, c.vars = outerCtx, outerVars }()
	out := &operand{rng: x.Range(), items: []item{}}
	for it := coll.ElementIterator(); it.Next(); {
		key, value := it.Element()
		c.ctx = outerCtx.NewChild()
		c.ctx.Variables = map[string]cty.Value{x.ValVar: value.WithMarks(marks)}
		c.vars = make(map[string]*variable, len(outerVars))
		for name, v := range outerVars {
			if name != x.ValVar && name != x.KeyVar {
				c.vars[name] = v
			}
		}
		if x.KeyVar != "" {
			c.ctx.Variables[x.KeyVar] = key
		}
		one := item{}
		if x.CondExpr != nil {
			if one.cond = c.boolean(x.CondExpr); one.cond == nil {
				return nil
			}
		}
		if one.operand = c.operand(x.ValExpr); one.operand == nil {
			return nil
		}
		out.items = append(out.items, one)
	}
	return out
}
