// Package query is the one expression language of edge-provision: a subset of
// HCL's expressions over the facts of a machine or the fields of one of its
// disks. The same expression selects a machine or a disk in site.hcl, is what
// `inventory query` takes, and classifies new hardware.
//
// An expression is compiled once and then either evaluated in memory (Eval) or
// translated for the catalog (SQL); both give the same answer. Its logic has
// three values (Kleene): whatever depends on a fact that was not observed is
// Absent, and a filter keeps only True. That is why this package has its own
// evaluator: HCL's Value() knows no absent.
//
// The package imports no database; the tables it translates to are data in
// column.go.
package query

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Limits on what a stranger may send as an expression.
const (
	// MaxSourceBytes bounds the text that Parse accepts.
	MaxSourceBytes = 16 << 10
	// MaxDepth bounds the nesting of an expression.
	MaxDepth = 128
	// MaxNodes bounds the compiled expression, with its loops over constant
	// lists written out.
	MaxNodes = 10_000
	// MaxPatternBytes bounds the pattern of regex and glob.
	MaxPatternBytes = 512
)

// Filename is the name that Parse gives to its source in diagnostics.
const Filename = "<expression>"

// Root says what an expression selects, and so which variables it sees.
type Root int

// Roots of expressions.
const (
	// Machine sees facts.* (inventory.Facts by its JSON names) and machine.*
	// (the identity, state and tags of inventory.Machine, and machine.leases).
	Machine Root = iota
	// Disk sees disk.* (inventory.Disk) beside what Machine sees. It has no
	// SQL form.
	Disk
)

// String is "machine" or "disk".
func (r Root) String() string {
	if r == Disk {
		return "disk"
	}
	return "machine"
}

// Result is one of the three answers of an expression.
type Result int8

// The three answers. Absent is the zero value: nothing observed, nothing said.
const (
	Absent Result = iota
	False
	True
)

// String is "true", "false" or "absent".
func (r Result) String() string {
	switch r {
	case True:
		return "true"
	case False:
		return "false"
	}
	return "absent"
}

// Expr is a compiled expression. It is immutable and safe for concurrent use.
type Expr struct {
	root      Root
	node      node
	sensitive bool
	asks      asks
}

// asks says what an expression needs of a document beyond a machine and its
// facts.
type asks struct{ history, age, leases, classes bool }

// Parse compiles the text of an expression in which only the roots and
// Functions are known. A diagnostic's Subject counts bytes of src; Format prints
// it with the source and a caret.
func Parse(src string, root Root) (*Expr, hcl.Diagnostics) {
	if diags := checkSource(src); diags.HasErrors() {
		return nil, diags
	}
	expr, diags := hclsyntax.ParseExpression([]byte(src), Filename, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	return Compile(expr, &hcl.EvalContext{Functions: Functions()}, root)
}

// Compile checks an expression of site.hcl against the schema of facts and
// prepares it for Eval and SQL. Every part that mentions none of the root's
// variables is evaluated by HCL with ctx, once, now: var.x, local.x, each.value
// and the functions of the site work as anywhere else, and their value must be
// known. The names of the root (facts, machine, disk) and of the language's own
// functions (any, all, changed, contains, length, regex, glob, missing, older) shadow
// those of ctx.
func Compile(expr hcl.Expression, ctx *hcl.EvalContext, root Root) (*Expr, hcl.Diagnostics) {
	syn, ok := hcl.UnwrapExpressionUntil(expr, func(e hcl.Expression) bool {
		_, native := e.(hclsyntax.Expression)
		return native
	}).(hclsyntax.Expression)
	if !ok {
		return nil, hcl.Diagnostics{{
			Severity: hcl.DiagError,
			Summary:  "Unsupported expression",
			Detail:   "An expression over facts must be written in HCL's native syntax; JSON syntax is not supported here.",
			Subject:  expr.Range().Ptr(),
		}}
	}
	if ctx == nil {
		ctx = &hcl.EvalContext{Functions: Functions()}
	}
	c := newCompiler(ctx, root)
	if !c.checkDepth(syn) {
		return nil, c.diags
	}
	n := c.boolean(syn)
	if c.diags.HasErrors() {
		return nil, c.diags
	}
	return &Expr{root: root, node: n, sensitive: c.sensitive, asks: c.asks}, c.diags
}

// Root says what the expression selects.
func (e *Expr) Root() Root { return e.root }

// Sensitive reports whether a sensitive value of the site went into the
// expression. String and Reason do not show it; the arguments of SQL hold it.
func (e *Expr) Sensitive() bool { return e.sensitive }

// NeedsCatalog reports whether the expression asks what only the catalog knows:
// when facts changed, how long ago something was as of now, or which leases a
// machine holds. Eval then takes documents of DocOf only.
func (e *Expr) NeedsCatalog() bool { return e.asks.history || e.asks.age || e.asks.leases }

// AsksClasses reports whether the expression asks which classes a machine is in.
func (e *Expr) AsksClasses() bool { return e.asks.classes }

// String is the expression as it was understood, with constants in place of
// what HCL evaluated.
func (e *Expr) String() string { return e.node.String() }

// checkSource refuses text that is too long or nested too deeply before HCL's
// recursive parser sees it.
func checkSource(src string) hcl.Diagnostics {
	refuse := func(pos int, summary, detail string) hcl.Diagnostics {
		at := hcl.Pos{Line: 1, Column: pos + 1, Byte: pos}
		return hcl.Diagnostics{{
			Severity: hcl.DiagError, Summary: summary, Detail: detail,
			Subject: &hcl.Range{Filename: Filename, Start: at, End: at},
		}}
	}
	if len(src) > MaxSourceBytes {
		return refuse(0, "Expression too long",
			fmt.Sprintf("The expression has %d bytes; at most %d are accepted.", len(src), MaxSourceBytes))
	}
	depth := 0
	for i := range len(src) {
		switch src[i] {
		case 0:
			return refuse(i, "Invalid character", "The expression holds a NUL byte.")
		case '(', '[', '{':
			if depth++; depth > MaxDepth {
				return refuse(i, "Expression nested too deeply",
					fmt.Sprintf("Brackets are nested more than %d deep.", MaxDepth))
			}
		case ')', ']', '}':
			depth = max(0, depth-1)
		}
	}
	return nil
}
