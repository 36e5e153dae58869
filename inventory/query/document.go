package query

import (
	"slices"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// Doc is what an expression is evaluated against: a machine, what was observed
// of it, and for Root Disk one of its disks. It keeps references to what it was
// made of; the caller must not change that while it is in use.
type Doc struct {
	machine inventory.Machine
	facts   *inventory.Facts
	disk    *inventory.Disk
	// ofCatalog is set when leases, changes and now are known.
	ofCatalog bool
	leases    []inventory.Lease // in force
	changes   []inventory.FactChange
	now       time.Time
}

// NewDoc makes the document of one machine. With nil facts (not yet inspected)
// everything under facts is absent, and so is a list that is nil. A list that is
// empty is a list: none was found, so that any(…) over it is false and length(…) is
// 0. It knows neither leases nor history: see Expr.NeedsCatalog.
func NewDoc(m inventory.Machine, f *inventory.Facts) Doc {
	return Doc{machine: m, facts: f}
}

// DocOf makes the document of one machine with all that the catalog knows of it,
// as it is at now.
func DocOf(s inventory.Subject, now time.Time) Doc {
	d := Doc{machine: s.Machine, facts: s.Facts, ofCatalog: true, changes: s.Changes, now: stamp(now)}
	d.leases = slices.DeleteFunc(slices.Clone(s.Leases), func(l inventory.Lease) bool {
		return l.State != inventory.LeaseActive || !stamp(l.Expires).After(d.now)
	})
	return d
}

// WithDisk is the document with one disk of the machine as disk.*, for Root Disk.
func (d Doc) WithDisk(disk inventory.Disk) Doc {
	d.disk = &disk
	return d
}

// stamp is a time as the catalog keeps it: in UTC, to the microsecond.
func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }
