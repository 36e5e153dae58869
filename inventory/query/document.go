package query

import "github.com/edge-provision/edge-provision/inventory"

// Doc is what an expression is evaluated against: a machine, what was observed
// of it, and for Root Disk one of its disks. It keeps references to what it was
// made of; the caller must not change that while it is in use.
type Doc struct {
	machine inventory.Machine
	facts   *inventory.Facts
	disk    *inventory.Disk
}

// NewDoc makes the document of one machine. With nil facts (not yet inspected)
// everything under facts is absent. With facts, a list that is empty is a list:
// none was found, so that any(…) over it is false and length(…) is 0.
func NewDoc(m inventory.Machine, f *inventory.Facts) Doc {
	return Doc{machine: m, facts: f}
}

// WithDisk is the document with one disk of the machine as disk.*, for Root Disk.
func (d Doc) WithDisk(disk inventory.Disk) Doc {
	d.disk = &disk
	return d
}
