package query

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// constant lets HCL evaluate e now.
func (c *compiler) constant(e hclsyntax.Expression) *operand {
	for _, t := range hclsyntax.Variables(e) {
		if !c.defines(t.RootName()) {
			rng := t.SourceRange()
			return c.complain(rng, "Unknown variable", "There is no variable named %q here. %s",
				t.RootName(), suggest(t.RootName(), c.roots))
		}
	}
	if call, ok := e.(*hclsyntax.FunctionCallExpr); ok && !c.hasFunction(call.Name) {
		return c.unknownFunction(call)
	}
	v, diags := e.Value(c.ctx)
	for _, d := range diags {
		// The context is the site's and may hold secrets that a renderer
		// of diagnostics would show.
		c.diags = append(c.diags, &hcl.Diagnostic{Severity: d.Severity, Summary: d.Summary, Detail: d.Detail, Subject: d.Subject})
	}
	if diags.HasErrors() {
		return nil
	}
	return c.fromValue(v, e.Range())
}

func (c *compiler) defines(name string) bool {
	for ctx := c.ctx; ctx != nil; ctx = ctx.Parent() {
		if _, ok := ctx.Variables[name]; ok {
			return true
		}
	}
	return false
}

func (c *compiler) hasFunction(name string) bool {
	for ctx := c.ctx; ctx != nil; ctx = ctx.Parent() {
		if _, ok := ctx.Functions[name]; ok {
			return true
		}
	}
	return false
}

func (c *compiler) unknownFunction(call *hclsyntax.FunctionCallExpr) *operand {
	known := slices.Clone(ownFunctions)
	for ctx := c.ctx; ctx != nil; ctx = ctx.Parent() {
		for name := range ctx.Functions {
			known = append(known, name)
		}
	}
	slices.Sort(known)
	return c.complain(call.NameRange, "Unknown function", "There is no function named %q. %s", call.Name, suggest(call.Name, known))
}

func (c *compiler) fromValue(v cty.Value, rng hcl.Range) *operand {
	v, marks := v.UnmarkDeep()
	secret := len(marks) > 0
	c.sensitive = c.sensitive || secret
	return c.fromPlain(v, secret, rng)
}

func (c *compiler) fromPlain(v cty.Value, secret bool, rng hcl.Range) *operand {
	if c.nodes++; c.nodes > MaxNodes {
		return c.complain(rng, "Expression too large", "A constant of the expression has more than %d parts.", MaxNodes)
	}
	switch {
	case !v.IsKnown():
		return c.complain(rng, "Value not known yet",
			"An expression over facts can only use values that are known from declarations alone; this one is known later.")
	case v.IsNull():
		return &operand{rng: rng, null: true}
	}
	t := v.Type()
	switch {
	case t == cty.Bool:
		return &operand{rng: rng, cond: constant(v.True())}
	case t == cty.String:
		if s := v.AsString(); strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
			return c.complain(rng, "Invalid string", "A string holds a NUL or is not valid UTF-8; no fact is like that.")
		}
		return &operand{rng: rng, text: constText{content: v.AsString(), sensitive: secret}}
	case t == cty.Number:
		r, ok := numberOf(v)
		if !ok {
			return c.complain(rng, "Number out of range",
				"Numbers compared with facts must fit 64 bits: whole ones from -2^63 to 2^63-1, decimals of up to 18 digits.")
		}
		n := constNumber(r, secret)
		return &operand{rng: rng, num: &n}
	case t.IsListType() || t.IsTupleType() || t.IsSetType():
		out := &operand{rng: rng, items: []item{}}
		for it := v.ElementIterator(); it.Next(); {
			_, elem := it.Element()
			o := c.fromPlain(elem, secret, rng)
			if o == nil {
				return nil
			}
			out.items = append(out.items, item{operand: o})
		}
		return out
	}
	return c.complain(rng, "Unsupported value", "A value of type %s cannot be compared with facts.", t.FriendlyName())
}
