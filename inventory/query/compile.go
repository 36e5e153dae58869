package query

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

type node interface{ String() string }

type compiler struct {
	ctx       *hcl.EvalContext
	root      Root
	diags     hcl.Diagnostics
	sensitive bool
}

func newCompiler(ctx *hcl.EvalContext, root Root) *compiler { return &compiler{ctx: ctx, root: root} }

func (c *compiler) checkDepth(hclsyntax.Expression) bool { return true }

func (c *compiler) boolean(e hclsyntax.Expression) node {
	c.diags = append(c.diags, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: "Unsupported expression",
		Detail: "This kind of expression is not part of the language.", Subject: e.Range().Ptr(),
	})
	return nil
}
