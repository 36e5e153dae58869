package site

import (
	"github.com/hashicorp/hcl/v2"
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
