package workflows

// Boundary is a point of a node's life at which a crash leaves the journal in
// another state than at the one before.
type Boundary string

// Boundaries of a node, in the order in which it passes them.
const (
	BeforeIntent Boundary = "before-intent" // nothing is written of it
	AfterIntent  Boundary = "after-intent"  // the journal has its start, nothing was done
	AfterDo      Boundary = "after-do"      // its work is done, and neither verified nor recorded
	BeforeResult Boundary = "before-result" // recorded in the catalog, but the journal has no result
	AfterResult  Boundary = "after-result"  // the journal has its result
)

// Boundaries lists them all, in order.
func Boundaries() []Boundary {
	return []Boundary{BeforeIntent, AfterIntent, AfterDo, BeforeResult, AfterResult}
}

// FailPoint is called at each boundary of each node, by whoever reaches it, so
// that a test can end the process there. Nil does nothing.
type FailPoint func(address string, at Boundary)

// Pass tells f that the node at address is at a boundary.
func (f FailPoint) Pass(address string, at Boundary) {
	if f != nil {
		f(address, at)
	}
}
