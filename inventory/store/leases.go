package store

import (
	"context"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/lease"
	"github.com/edge-provision/edge-provision/inventory"
)

// LeaseFilter selects leases; zero fields select everything.
type LeaseFilter struct {
	Network string
	MACs    []inventory.MAC
	State   inventory.LeaseState
}

// LeasePage returns at most limit leases that f selects, expired ones too, beyond
// the one with the id after, and the ids by which to go on. Zero begins with the
// first.
func (s *Store) LeasePage(ctx context.Context, f LeaseFilter, after, limit int) (leases []inventory.Lease, ids []int, err error) {
	const op = "listing leases"
	q := s.lease.client.Lease.Query().Where(lease.IDGT(after)).Order(ent.Asc(lease.FieldID)).Limit(limit)
	if f.Network != "" {
		q.Where(lease.Network(f.Network))
	}
	if f.State != "" {
		q.Where(lease.State(string(f.State)))
	}
	if len(f.MACs) > 0 {
		macs := make([]string, len(f.MACs))
		for i, m := range f.MACs {
			macs[i] = m.String()
		}
		q.Where(lease.MACIn(macs...))
	}
	rows, err := q.All(ctx)
	if err != nil {
		return nil, nil, s.explain(op, err)
	}
	for _, r := range rows {
		ids = append(ids, r.ID)
	}
	leases, err = leasesOf(rows)
	return leases, ids, s.explain(op, err)
}
