package query

import (
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

var comparisons = map[*hclsyntax.Operation]operator{
	hclsyntax.OpEqual: opEqual, hclsyntax.OpNotEqual: opNotEqual,
	hclsyntax.OpLessThan: opLess, hclsyntax.OpLessThanOrEqual: opLessEq,
	hclsyntax.OpGreaterThan: opMore, hclsyntax.OpGreaterThanOrEqual: opMoreEq,
}

var arithmetics = map[*hclsyntax.Operation]byte{
	hclsyntax.OpAdd: '+', hclsyntax.OpSubtract: '-', hclsyntax.OpMultiply: '*',
	hclsyntax.OpDivide: '/', hclsyntax.OpModulo: '%',
}

func (c *compiler) binary(x *hclsyntax.BinaryOpExpr) *operand {
	if isLogical(x.Op) {
		return c.logic(x)
	}
	a, b := c.operand(x.LHS), c.operand(x.RHS)
	if a == nil || b == nil {
		return nil
	}
	rng := x.Range()
	if op, ok := comparisons[x.Op]; ok {
		return c.compare(op, a, b, rng)
	}
	if op, ok := arithmetics[x.Op]; ok {
		return c.calculate(op, a, b, rng)
	}
	return c.complain(rng, "Unsupported operator", "This operator is not part of the language over facts.")
}

func isLogical(op *hclsyntax.Operation) bool {
	return op == hclsyntax.OpLogicalAnd || op == hclsyntax.OpLogicalOr
}

// logic compiles a chain of && or of || to one condition.
func (c *compiler) logic(x *hclsyntax.BinaryOpExpr) *operand {
	out := &logic{and: x.Op == hclsyntax.OpLogicalAnd}
	failed := false
	for i, e := range c.chain(x) {
		cond := c.boolean(e)
		failed = failed || cond == nil
		if l, ok := cond.(*logic); ok && i == 0 && l.and == out.and {
			out.args = slices.Clone(l.args)
			continue
		}
		out.args = append(out.args, cond)
	}
	if failed {
		return nil
	}
	return &operand{rng: x.Range(), cond: out}
}

// chain are the operands of a chain of one operator, which HCL nests to the left. Those
// at its beginning that are constant stay together, for HCL to evaluate.
func (c *compiler) chain(x *hclsyntax.BinaryOpExpr) []hclsyntax.Expression {
	links := []*hclsyntax.BinaryOpExpr{x}
	for left, ok := inChain(x); ok; left, ok = inChain(left) {
		links = append(links, left)
	}
	slices.Reverse(links)
	out := []hclsyntax.Expression{links[0].LHS}
	constant := c.isConstant(links[0].LHS)
	for _, link := range links {
		constant = constant && link != x && c.isConstant(link.RHS)
		if constant {
			out[0] = link
			continue
		}
		out = append(out, link.RHS)
	}
	return out
}

// inChain is what x goes on with to the left, if that is of the same logical operator.
func inChain(x *hclsyntax.BinaryOpExpr) (left *hclsyntax.BinaryOpExpr, ok bool) {
	left, ok = x.LHS.(*hclsyntax.BinaryOpExpr)
	return left, ok && isLogical(x.Op) && left.Op == x.Op
}

// compare compiles a comparison of two operands of one type.
func (c *compiler) compare(op operator, a, b *operand, rng hcl.Range) *operand {
	if a.null || b.null {
		other := a
		if a.null {
			other = b
		}
		return c.complain(rng, "Comparison with null",
			"A fact is never null: it was observed or it is absent. Use missing(%s) to test for that.", other)
	}
	for _, o := range []*operand{a, b} {
		if o.kind() == kindTime {
			return c.complain(rng, "Unsupported comparison", "%s is a time, which is asked for its age: older(%s, \"7d\") is true when it was 7 days ago or earlier.", o, o)
		}
	}
	if a.kind() != b.kind() {
		return c.complain(rng, "Comparison of different types", "%s is %s, but %s is %s.", a, a.kind(), b, b.kind())
	}
	switch a.kind() {
	case kindBool:
		if op != opEqual && op != opNotEqual {
			return c.complain(rng, "Unsupported comparison", "Conditions are equal or not; they have no order.")
		}
		return &operand{rng: rng, cond: &equality{negated: op == opNotEqual, a: a.cond, b: b.cond}}
	case kindNumber:
		var k calculator
		x, y, _ := k.level(*a.num, *b.num)
		if k.failed {
			return c.tooLarge(rng)
		}
		return &operand{rng: rng, cond: &compareInts{op: op, a: x, b: y, left: *a.num, right: *b.num}}
	case kindString:
		x, y := c.canonical(a, b), c.canonical(b, a)
		if x == nil || y == nil {
			return nil
		}
		return &operand{rng: rng, cond: &compareTexts{op: op, a: x, b: y}}
	}
	return c.complain(rng, "Unsupported comparison", "%s is %s; compare one of its values.", a, a.kind())
}

// canonical brings the constants of o to the text form of the fact that it is
// compared with; nil after a complaint.
func (c *compiler) canonical(o, other *operand) text {
	fact, ok := other.text.(refText)
	if !ok || fact.ref.typ.form == formPlain {
		return o.text
	}
	return c.inForm(o.text, fact, o.rng)
}

func (c *compiler) inForm(t text, fact refText, rng hcl.Range) text {
	switch t := t.(type) {
	case constText:
		content, err := fact.ref.typ.form.parse(t.content)
		if err != nil {
			c.complain(rng, "Invalid "+fact.ref.typ.form.String(), "%s is compared with %s: %s.", t, fact.ref.subject(), c.hide(t, err))
			return nil
		}
		return constText{content: content, sensitive: t.sensitive}
	case *choiceText:
		a, b := c.inForm(t.a, fact, rng), c.inForm(t.b, fact, rng)
		if a == nil || b == nil {
			return nil
		}
		return &choiceText{cond: t.cond, a: a, b: b}
	}
	return t
}

// hide keeps a sensitive value out of a complaint about it.
func (c *compiler) hide(t constText, err error) string {
	if t.sensitive {
		return "it is malformed"
	}
	return err.Error()
}

func (c *compiler) tooLarge(rng hcl.Range) *operand {
	return c.complain(rng, "Number out of range", "The constants of this arithmetic do not fit 64 bits.")
}

func (c *compiler) calculate(op byte, a, b *operand, rng hcl.Range) *operand {
	for _, o := range []*operand{a, b} {
		if o.num == nil {
			return c.complain(o.rng, "Not a number", "Arithmetic needs numbers; this is %s.", o.describe())
		}
	}
	var k calculator
	var n number
	switch op {
	case '+', '-':
		n = k.add(*a.num, *b.num, op)
	case '*':
		n = k.multiply(*a.num, *b.num)
	case '/':
		if b.num.num == constInt(0) {
			return c.complain(rng, "Division by zero", "The divisor is the constant 0.")
		}
		n = k.divide(*a.num, *b.num)
	case '%':
		if a.num.den != constInt(1) || b.num.den != constInt(1) {
			return c.complain(rng, "Unsupported arithmetic", "%% needs whole numbers; a quotient or decimal is none.")
		}
		if b.num.num == constInt(0) {
			return c.complain(rng, "Division by zero", "The divisor is the constant 0.")
		}
		n = number{num: k.op('%', a.num.num, b.num.num), den: constInt(1)}
	}
	if k.failed {
		return c.tooLarge(rng)
	}
	left, right := *a.num, *b.num
	n.show = func() string { return "(" + left.String() + " " + string(op) + " " + right.String() + ")" }
	return &operand{rng: rng, num: &n}
}

func (c *compiler) unary(x *hclsyntax.UnaryOpExpr) *operand {
	o := c.operand(x.Val)
	if o == nil {
		return nil
	}
	if x.Op == hclsyntax.OpLogicalNot {
		cond := c.asCondition(o)
		if cond == nil {
			return nil
		}
		return &operand{rng: x.Range(), cond: &not{cond}}
	}
	if o.num == nil {
		return c.complain(o.rng, "Not a number", "Arithmetic needs numbers; this is %s.", o.describe())
	}
	var k calculator
	inner := *o.num
	n := number{num: k.op('-', constInt(0), inner.num), den: inner.den, show: func() string { return "-" + inner.String() }}
	if k.failed {
		return c.tooLarge(x.Range())
	}
	return &operand{rng: x.Range(), num: &n}
}

func (c *compiler) conditional(x *hclsyntax.ConditionalExpr) *operand {
	cond, a, b := c.boolean(x.Condition), c.operand(x.TrueResult), c.operand(x.FalseResult)
	if cond == nil || a == nil || b == nil {
		return nil
	}
	rng := x.Range()
	if a.null || b.null || a.kind() != b.kind() {
		return c.complain(rng, "Different types", "Both results of a conditional must be of one type; these are %s and %s.", a.describe(), b.describe())
	}
	switch a.kind() {
	case kindBool:
		return &operand{rng: rng, cond: &choice{cond: cond, a: a.cond, b: b.cond}}
	case kindString:
		return &operand{rng: rng, text: &choiceText{cond: cond, a: a.text, b: b.text}}
	case kindNumber:
		var k calculator
		an, bn, den := k.level(*a.num, *b.num)
		if k.failed {
			return c.tooLarge(rng)
		}
		left, right := *a.num, *b.num
		n := number{num: &choiceInt{cond: cond, a: an, b: bn}, den: den}
		n.show = func() string {
			return fmt.Sprintf("(%s ? %s : %s)", group(cond), left, right)
		}
		return &operand{rng: rng, num: &n}
	}
	return c.complain(rng, "Unsupported expression", "The results of a conditional cannot be lists, objects or times.")
}
