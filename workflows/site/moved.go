package site

import (
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// decodeMoved reads a moved block. Both ends are addresses, not values.
func (e *evaluator) decodeMoved(block *hclsyntax.Block) Moved {
	m := Moved{Decl: Decl{DeclRange: block.DefRange(), Ranges: make(map[string]hcl.Range)}}
	for _, attr := range sortedAttributes(block.Body) {
		m.Ranges[attr.Name] = attr.Expr.Range()
		traversal, diags := hcl.AbsTraversalForExpr(attr.Expr)
		text := ""
		if !diags.HasErrors() {
			text = traversalText(traversal)
		}
		switch {
		case attr.Name != "from" && attr.Name != "to":
			e.add(failure("Unsupported argument", attr.NameRange.Ptr(), "A moved block has no %q.%s", attr.Name, suggest(attr.Name, []string{"from", "to"})))
		case text == "" || len(traversal) < 2 || traversal.RootName() != kindMachine && traversal.RootName() != kindNetwork && traversal.RootName() != kindImage && traversal.RootName() != "workflow" && traversal.RootName() != "module":
			e.add(failure("Invalid address", attr.Expr.Range().Ptr(), "%q is an address such as machine.node[\"a\"] or workflow.platform.step.ssh.setup, written without quotes.", attr.Name))
		case attr.Name == "from":
			m.From = e.m.path + text
		default:
			m.To = e.m.path + text
		}
	}
	if block.Body.Attributes["from"] == nil || block.Body.Attributes["to"] == nil {
		e.add(failure("Missing required argument", block.DefRange().Ptr(), "A moved block has from and to."))
	}
	return m
}

// stands reports whether address is node, or a name without key, a workflow or a
// module that node is in.
func stands(address, node string) bool {
	rest, ok := strings.CutPrefix(node, address)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

// Select lists the declared addresses that one stands for: itself, or all that
// are below the name of a block with for_each or count, a workflow or a module.
func (s *Site) Select(address string) []string {
	var out []string
	for _, node := range s.Graph().Nodes {
		if stands(address, node) {
			out = append(out, node)
		}
	}
	return out
}

// expandMoved makes one rename of each thing that is moved with the block, the
// workflow or the module that it is in.
func (s *Site) expandMoved() {
	var all []Moved
	for _, m := range s.Moved {
		below := s.Select(m.To)
		if m.From == "" || m.To == "" || len(below) == 0 {
			all = append(all, m)
			continue
		}
		for _, node := range below {
			one := m
			one.From, one.To = m.From+strings.TrimPrefix(node, m.To), node
			all = append(all, one)
		}
	}
	s.Moved = all
}

// validateMoved checks that renames lead from something that is gone to
// something that is there.
func (s *Site) validateMoved() hcl.Diagnostics {
	declared := make(map[string]bool)
	var names []string
	for _, node := range s.Graph().Nodes {
		declared[node] = true
		names = append(names, node)
	}
	c := &claims{owners: make(map[string]owner)}
	var diags hcl.Diagnostics
	// A block inside a module moves what some of its instances may not have.
	reached := make(map[hcl.Range]bool)
	for _, m := range s.Moved {
		reached[m.DeclRange] = reached[m.DeclRange] || declared[m.To]
	}
	for _, m := range s.Moved {
		if m.From == "" || m.To == "" {
			continue
		}
		switch {
		case declared[m.From]:
			diags = append(diags, failure("Moved from something declared", m.at("from"), "%s is still declared, so it cannot have been renamed to %s.", m.From, m.To)...)
		case !reached[m.DeclRange]:
			diags = append(diags, failure("Moved to nothing", m.at("to"), "%s is not declared.%s", m.To, suggest(m.To, names))...)
		}
		c.take(m.From, "the rename of "+m.From, m.From, m.Range("from"), "Moved twice", "A thing is renamed once.")
	}
	return append(diags, c.diags...)
}
