package inventory

import "time"

// Subject is everything that an expression may ask of one machine.
type Subject struct {
	Machine Machine
	// Facts are the merged current facts; nil for a machine that was never
	// inspected.
	Facts *Facts
	// Leases are all leases of the machine's MACs, whatever their state.
	Leases []Lease
	// Changes say when its facts changed, in any order.
	Changes []FactChange
}

// FactChange says that a source reported another value of a fact than it had
// reported before. The first report of a source changes nothing.
type FactChange struct {
	// Path leads to the fact as in an expression, without "facts.":
	// bios.version. A list changes as a whole: disks. Each part of Facts that
	// holds what changed has a FactChange too: bios. What counts as a change of a list
	// of hardware is drift.ChangedPaths's to say.
	Path string    `json:"path"`
	At   time.Time `json:"at"`
}
