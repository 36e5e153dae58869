package site

import (
	"reflect"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// Bounds of what for expressions and splats make. Three of them inside each
// other over range(1024) would otherwise take all memory of this host, on which
// other sites may be served.
const (
	maxRepeatBytes = 16 << 20  // within one argument or block
	maxLoadBytes   = 512 << 20 // within one reading of the site
	stepBytes      = 64        // what one round costs beside its result
)

// budgetName is where an evaluation context keeps its budget: no expression can
// refer to a name with a space.
const budgetName = "repeat budget"

// budget is what the for expressions of one evaluation may still make.
type budget struct {
	left  int
	total *int // of all evaluations of this reading; nil: none is kept
	rng   hcl.Range
}

func (b *budget) spend(n int) bool {
	b.left -= n
	if b.total != nil {
		*b.total -= n
		return b.left >= 0 && *b.total >= 0
	}
	return b.left >= 0
}

var budgetType = cty.Capsule("budget", reflect.TypeFor[budget]())

// withBudget gives a context a budget of its own.
func withBudget(ctx *hcl.EvalContext, total *int) *hcl.EvalContext {
	ctx.Variables[budgetName] = cty.CapsuleVal(budgetType, &budget{left: maxRepeatBytes, total: total})
	return ctx
}

// budgetOf finds the budget in a context or those around it.
func budgetOf(ctx *hcl.EvalContext) *budget {
	for c := ctx; c != nil; c = c.Parent() {
		if v, ok := c.Variables[budgetName]; ok {
			if b, ok := v.EncapsulatedValue().(*budget); ok {
				return b
			}
		}
	}
	return nil
}

// counted is the part of a for expression or splat that is evaluated once per
// element. It is parentheses to everybody who walks over it.
type counted struct {
	*hclsyntax.ParenthesesExpr
	// own is the budget of the whole argument where the context has none:
	// that of a variable's default, which is evaluated while loading.
	own *budget
}

func count(e hclsyntax.Expression, own *budget) hclsyntax.Expression {
	if e == nil {
		return nil
	}
	if c, done := e.(*counted); done {
		return c
	}
	return &counted{&hclsyntax.ParenthesesExpr{Expression: e, SrcRange: e.Range()}, own}
}

// Value implements hclsyntax.Expression.
func (c *counted) Value(ctx *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	b := budgetOf(ctx)
	if b == nil {
		b = c.own
	}
	if !b.spend(stepBytes) {
		return cty.DynamicVal, c.refuse(b)
	}
	v, diags := c.ParenthesesExpr.Value(ctx)
	if !b.spend(valueSize(v)) {
		return cty.DynamicVal, append(diags, c.refuse(b)...)
	}
	return v, diags
}

// refuse is given by every round that is left over, so that try does not take
// what is missing for a value; whoever shows diagnostics drops repetitions.
func (c *counted) refuse(b *budget) hcl.Diagnostics {
	rng := c.own.rng // one place for all rounds, so that it is said once
	if b.total != nil && *b.total < 0 {
		return failure("Too many repetitions", &rng,
			"The for expressions of this site make more than %d MiB together. Repeat over fewer elements, or compute the value once in a local.", maxLoadBytes>>20)
	}
	return failure("Too many repetitions", &rng,
		"The for expressions here make more than %d MiB, or %d elements. Repeat over fewer elements; loops inside each other multiply.",
		maxRepeatBytes>>20, maxRepeatBytes/stepBytes)
}

// countBody makes every for expression and splat below a body countable.
func countBody(body *hclsyntax.Body, blockType string) {
	for name, attr := range body.Attributes {
		countExpression(attr.Expr, queryAttributes[blockType] == name)
	}
	for _, b := range body.Blocks {
		countBody(b.Body, b.Type)
	}
}

// countExpression does so within one expression. Where the expression belongs
// to the query language, only what is constant to it is counted: the rest is
// translated by its form, and runs over the few elements of a machine's facts.
func countExpression(e hclsyntax.Expression, isQuery bool) {
	own := &budget{left: maxRepeatBytes, rng: e.Range()}
	// The visit reports nothing of its own.
	_ = hclsyntax.VisitAll(e, func(n hclsyntax.Node) hcl.Diagnostics {
		switch n := n.(type) {
		case *hclsyntax.ForExpr:
			if isQuery && constant(n) {
				countExpression(n, false) // with the loops inside, which refer to its variables
			} else if !isQuery {
				n.KeyExpr, n.ValExpr, n.CondExpr = count(n.KeyExpr, own), count(n.ValExpr, own), count(n.CondExpr, own)
			}
		case *hclsyntax.SplatExpr:
			if isQuery && constant(n) {
				countExpression(n, false)
			} else if !isQuery {
				n.Each = count(n.Each, own)
			}
		}
		return nil
	})
}

// constant says whether an expression in the query language refers only to what
// the site declares.
func constant(e hclsyntax.Expression) bool {
	declared := []string{"var", "local", "site", "each", "count", kindNetwork, kindImage}
	return !slices.ContainsFunc(e.Variables(), func(t hcl.Traversal) bool { return !slices.Contains(declared, t.RootName()) })
}
