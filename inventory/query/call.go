package query

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// call compiles a function call that has facts in its arguments, or that is one
// of the language's own functions.
func (c *compiler) call(x *hclsyntax.FunctionCallExpr) *operand {
	if x.ExpandFinal {
		return c.complain(x.Range(), "Unsupported expression", "Arguments over facts cannot be expanded with \"...\".")
	}
	if factor, ok := units[x.Name]; ok {
		return c.unit(x, factor)
	}
	arity := map[string]int{"any": 1, "all": 1, "changed": 2, "contains": 2, "length": 1, "missing": 1, "older": 2, "regex": 2, "glob": 2}
	want, ok := arity[x.Name]
	if !ok {
		if c.hasFunction(x.Name) {
			return c.complain(x.NameRange, "Unsupported function", "%s cannot be applied to facts, only to values of the site.", x.Name)
		}
		return c.unknownFunction(x)
	}
	if len(x.Args) != want {
		return c.complain(x.Range(), "Wrong number of arguments", "%s takes %d, not %d.", x.Name, want, len(x.Args))
	}
	args := make([]*operand, want)
	for i, a := range x.Args {
		args[i] = c.operand(a)
	}
	for _, a := range args {
		if a == nil {
			return nil
		}
	}
	rng := x.Range()
	switch x.Name {
	case "any", "all":
		return c.quantify(x.Name == "all", args[0], rng)
	case "changed":
		return c.changed(args[0], args[1], rng)
	case "contains":
		return c.contains(args[0], args[1], rng)
	case "length":
		return c.length(args[0], rng)
	case "missing":
		return c.missing(args[0], rng)
	case "older":
		return c.older(args[0], args[1], rng)
	}
	return c.match(x.Name == "glob", args[0], args[1], rng)
}

// unit applies GiB and the like to a fact.
func (c *compiler) unit(x *hclsyntax.FunctionCallExpr, factor int64) *operand {
	if len(x.Args) != 1 {
		return c.complain(x.Range(), "Wrong number of arguments", "%s takes 1, not %d.", x.Name, len(x.Args))
	}
	arg := c.operand(x.Args[0])
	if arg == nil {
		return nil
	}
	if arg.num == nil {
		return c.complain(arg.rng, "Not a number", "%s needs a number; this is %s.", x.Name, arg.describe())
	}
	var k calculator
	inner := *arg.num
	n := k.multiply(inner, constNumber(big.NewRat(factor, 1), false))
	if k.failed {
		return c.tooLarge(x.Range())
	}
	name := x.Name
	n.show = func() string { return name + "(" + inner.String() + ")" }
	return &operand{rng: x.Range(), num: &n}
}

func (c *compiler) quantify(all bool, arg *operand, rng hcl.Range) *operand {
	if arg.items != nil {
		return c.quantifyItems(all, arg, rng)
	}
	if arg.list == nil {
		return c.complain(arg.rng, "Not a list", "any and all take a list of conditions, such as [for d in facts.disks : d.bytes > GB(100)]; this is %s.", arg.describe())
	}
	l := *arg.list
	elem := l.element()
	if elem.cond == nil {
		return c.complain(elem.rng, "Not a condition", "any and all take a list of conditions; the elements here are %s.", elem.kind())
	}
	return &operand{rng: rng, cond: &quantifier{all: all, list: &l, body: elem.cond}}
}

// quantifyItems writes any as || and all as &&.
func (c *compiler) quantifyItems(all bool, arg *operand, rng hcl.Range) *operand {
	out := &logic{and: all}
	for _, it := range arg.items {
		cond := c.asCondition(it.operand)
		if cond == nil {
			return nil
		}
		out.args = append(out.args, it.guard(cond, all))
	}
	return &operand{rng: rng, cond: fold(out)}
}

// guard makes a condition count only if the item is kept.
func (it item) guard(cond node, all bool) node {
	switch {
	case it.cond == nil:
		return cond
	case all:
		return &logic{args: []node{&not{&kept{it.cond}}, cond}}
	}
	return &logic{and: true, args: []node{&kept{it.cond}, cond}}
}

// fold is an empty logic's value: any([]) is false, all([]) is true.
func fold(n *logic) node {
	switch len(n.args) {
	case 0:
		return constant(n.and)
	case 1:
		return n.args[0]
	}
	return n
}

// element is what each element of the list contributes.
func (l *list) element() *operand {
	if l.elem != nil {
		return l.elem
	}
	return refOperand(&ref{v: l.v, typ: l.v.typ, rng: l.source.rng})
}

func (c *compiler) contains(in, x *operand, rng hcl.Range) *operand {
	if in.items != nil {
		out := &logic{}
		for _, it := range in.items {
			eq := c.compare(opEqual, x, it.operand, rng)
			if eq == nil {
				return nil
			}
			out.args = append(out.args, it.guard(eq.cond, false))
		}
		return &operand{rng: rng, cond: fold(out)}
	}
	if in.list == nil {
		return c.complain(in.rng, "Not a list", "contains takes a list first; this is %s.", in.describe())
	}
	l := *in.list
	eq := c.compare(opEqual, l.element(), x, rng)
	if eq == nil {
		return nil
	}
	q := &quantifier{list: &l, body: eq.cond, contains: x}
	return &operand{rng: rng, cond: q}
}

func (c *compiler) length(arg *operand, rng hcl.Range) *operand {
	if arg.items != nil {
		for _, it := range arg.items {
			if it.cond != nil {
				return c.complain(rng, "Unsupported expression", "length counts facts; a constant list with a condition over facts cannot be counted.")
			}
		}
		n := constNumber(big.NewRat(int64(len(arg.items)), 1), false)
		return &operand{rng: rng, num: &n}
	}
	if arg.list == nil {
		return c.complain(arg.rng, "Not a list", "length counts the elements of a list; this is %s.", arg.describe())
	}
	l := arg.list
	n := number{num: &count{l}, den: constInt(1), show: func() string { return "length(" + l.String() + ")" }}
	return &operand{rng: rng, num: &n}
}

func (c *compiler) missing(arg *operand, rng hcl.Range) *operand {
	n := &missing{ref: arg.ref, cond: arg.cond, num: arg.num, text: arg.text}
	switch {
	case arg.items != nil || arg.null:
		return c.complain(arg.rng, "Not a fact", "missing asks whether a fact was observed; this is a constant.")
	case arg.list != nil && (arg.list.elem != nil || arg.list.cond != nil):
		return c.complain(arg.rng, "Not a fact", "missing takes the list itself, %s.", arg.list.source)
	case arg.list != nil:
		n.ref = arg.list.source
	}
	return &operand{rng: rng, cond: n}
}

// changed compiles changed(fact, window).
func (c *compiler) changed(arg, window *operand, rng hcl.Range) *operand {
	r := arg.fact()
	switch {
	case r == nil:
		return c.complain(arg.rng, "Not a fact", "changed asks when a fact, a list or a part of facts got another value; this is %s.", arg.describe())
	case r.v != nil || r.hasIndex() || r.root != "facts" || len(r.steps) == 0:
		return c.complain(arg.rng, "No history", "The history tells when a part of facts changed, and of a list when any of it did: changed(facts.bios.version, …), changed(facts.disks, …). %s has none.", r)
	}
	span, shown, ok := c.window(window)
	if !ok {
		return nil
	}
	c.asks.history = true
	return &operand{rng: rng, cond: &changed{ref: r, window: span, shown: shown}}
}

// older compiles older(time, window).
func (c *compiler) older(arg, window *operand, rng hcl.Range) *operand {
	if arg.kind() != kindTime {
		return c.complain(arg.rng, "Not a time", "older asks how long ago a time was, such as machine.last_seen or machine.looked_at; this is %s.", arg.describe())
	}
	span, shown, ok := c.window(window)
	if !ok {
		return nil
	}
	return &operand{rng: rng, cond: &older{ref: arg.ref, window: span, shown: shown}}
}

// window is how far to look back; ok is false after a complaint.
func (c *compiler) window(o *operand) (span time.Duration, shown string, ok bool) {
	text, ok := o.text.(constText)
	if !ok {
		c.complain(o.rng, "Window must be constant", "The second argument is how far to look back, such as \"7d\", and must be known from declarations alone.")
		return 0, "", false
	}
	span, err := ParseDuration(text.content)
	if err != nil || span == 0 {
		c.complain(o.rng, "Invalid window", "%s is no time to look back: write a number with a unit, such as \"90m\", \"12h\" or \"7d\".", text)
		return 0, "", false
	}
	return span, text.content, true
}

// fact is the path that the operand is, and nothing but that; nil otherwise.
func (o *operand) fact() *ref {
	switch {
	case o.ref != nil:
		return o.ref
	case o.list != nil && o.list.elem == nil && o.list.cond == nil:
		return o.list.source
	case o.num != nil:
		if i, ok := o.num.num.(refInt); ok && o.num.den == constInt(1) {
			return i.ref
		}
	case o.text != nil:
		if t, ok := o.text.(refText); ok {
			return t.ref
		}
	case o.cond != nil:
		if f, ok := o.cond.(flag); ok {
			return f.ref
		}
	}
	return nil
}

func (c *compiler) match(isGlob bool, pattern, arg *operand, rng hcl.Range) *operand {
	p, ok := pattern.text.(constText)
	if !ok {
		return c.complain(pattern.rng, "Pattern must be constant", "The pattern must be a string that is known from declarations alone; the fact comes second.")
	}
	if arg.text == nil {
		return c.complain(arg.rng, "Not a string", "A pattern is matched against a string; this is %s.", arg.describe())
	}
	if len(p.content) > MaxPatternBytes {
		return c.complain(pattern.rng, "Pattern too long", "The pattern has %d bytes; at most %d are accepted.", len(p.content), MaxPatternBytes)
	}
	source := p.content
	var parsed glob
	if isGlob {
		var err error
		if parsed, err = parseGlob(p.content); err != nil {
			return c.complain(pattern.rng, "Invalid pattern", "%s.", c.hide(p, err))
		}
		source = parsed.regex()
	}
	re, err := regexp.Compile(source)
	if err != nil {
		return c.complain(pattern.rng, "Invalid pattern", "%s. Patterns are RE2 (no backreferences, no lookaround).",
			strings.TrimPrefix(c.hide(p, err), "error parsing regexp: "))
	}
	n := &match{glob: isGlob, parsed: parsed, pattern: p.content, shown: p.String(), re: re, arg: arg.text}
	if !isGlob {
		// What PostgreSQL would take for something else is refused everywhere: the
		// language is one.
		if n.postgres, err = postgresPattern(p.content); err != nil {
			return c.complain(pattern.rng, "Unsupported pattern", "Patterns are the part of RE2 that means the same in PostgreSQL: %s.", c.hide(p, err))
		}
	}
	return &operand{rng: rng, cond: n}
}

// glob is a parsed glob pattern: * is any run of characters, ? any one, and \
// takes the next character as it is.
type glob []globToken

type globToken struct {
	kind rune // 'l' literal, '*' or '?'
	char rune
}

func parseGlob(s string) (glob, error) {
	var out glob
	escaped := false
	for _, r := range s {
		switch {
		case escaped:
			out = append(out, globToken{'l', r})
			escaped = false
		case r == '\\':
			escaped = true
		case r == '*' || r == '?':
			out = append(out, globToken{kind: r})
		case r == '[' || r == ']' || r == '{' || r == '}':
			return nil, fmt.Errorf("a glob knows * and ? only; write \\%c for the character itself, or use regex", r)
		default:
			out = append(out, globToken{'l', r})
		}
	}
	if escaped {
		return nil, fmt.Errorf("the pattern ends in a single backslash")
	}
	return out, nil
}

func (g glob) regex() string {
	var b strings.Builder
	b.WriteString(`\A(?s:`)
	for _, t := range g {
		switch t.kind {
		case '*':
			b.WriteString(".*")
		case '?':
			b.WriteByte('.')
		default:
			b.WriteString(regexp.QuoteMeta(string(t.char)))
		}
	}
	b.WriteString(`)\z`)
	return b.String()
}
