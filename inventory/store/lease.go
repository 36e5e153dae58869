package store

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/lease"
	"github.com/edge-provision/edge-provision/inventory"
)

// AddressTakenError says that an address cannot be leased because another MAC
// holds it, or because it was declined and rests.
type AddressTakenError struct {
	// Holder is the lease that stands in the way.
	Holder inventory.Lease
}

// Error implements error.
func (e *AddressTakenError) Error() string {
	if e.Holder.State == inventory.LeaseDeclined {
		return fmt.Sprintf("address %s on network %s was declined by %s and rests until %s",
			e.Holder.Address, e.Holder.Network, e.Holder.MAC, e.Holder.Expires.Format(time.RFC3339))
	}
	return fmt.Sprintf("address %s on network %s is leased to %s until %s",
		e.Holder.Address, e.Holder.Network, e.Holder.MAC, e.Holder.Expires.Format(time.RFC3339))
}

// Leases returns every lease kept for the network, expired, released and
// declined ones too, by address.
func (s *Store) Leases(ctx context.Context, network string) ([]inventory.Lease, error) {
	op := "reading the leases of network " + network
	rows, err := s.lease.client.Lease.Query().Where(lease.Network(network)).All(ctx)
	if err != nil {
		return nil, s.explain(op, err)
	}
	return leasesOf(rows)
}

// Commit stores l and returns nil only when it would survive a power cut. It
// replaces what was kept for the same network and MAC, or for the same network
// and address when l is declined. It never gives an address to a second MAC:
// that is *AddressTakenError. It does not wait behind event writes.
func (s *Store) Commit(ctx context.Context, l inventory.Lease) error {
	op := fmt.Sprintf("leasing %s to %s on network %s", l.Address, l.MAC, l.Network)
	if err := checkLease(l); err != nil {
		return fmt.Errorf("%s: %w", op, err)
	}
	return s.writeOn(ctx, s.lease, urgent, op, func(tx *ent.Tx) error {
		if l.State != inventory.LeaseReleased {
			if err := s.vacate(ctx, tx, l); err != nil {
				return err
			}
		}
		if l.State == inventory.LeaseDeclined {
			return newLease(tx, l).Exec(ctx)
		}
		n, err := tx.Lease.Update().
			Where(lease.Network(l.Network), lease.MAC(l.MAC.String()), lease.StateNEQ(string(inventory.LeaseDeclined))).
			SetAddress(l.Address).SetClientID(clean(l.ClientID)).SetHostname(clean(l.Hostname)).
			SetState(string(l.State)).SetStarts(stamp(l.Starts)).SetExpires(stamp(l.Expires)).Save(ctx)
		if err != nil || n > 0 {
			return err
		}
		return newLease(tx, l).Exec(ctx)
	})
}

func checkLease(l inventory.Lease) error {
	switch a, err := netip.ParseAddr(l.Address); {
	case err != nil || !a.Is4():
		return fmt.Errorf("%q is not an IPv4 address", l.Address)
	case l.MAC.IsZero() || l.Network == "":
		return fmt.Errorf("a lease needs a network and a MAC")
	case l.Expires.Before(l.Starts):
		return fmt.Errorf("the lease would end (%s) before it starts (%s)", l.Expires.Format(time.RFC3339), l.Starts.Format(time.RFC3339))
	}
	switch l.State {
	case inventory.LeaseActive, inventory.LeaseReleased, inventory.LeaseDeclined:
		return nil
	}
	return fmt.Errorf("%q is not a state of a lease", l.State)
}

func newLease(tx *ent.Tx, l inventory.Lease) *ent.LeaseCreate {
	return tx.Lease.Create().SetNetwork(l.Network).SetMAC(l.MAC.String()).SetAddress(l.Address).
		SetClientID(clean(l.ClientID)).SetHostname(clean(l.Hostname)).SetState(string(l.State)).
		SetStarts(stamp(l.Starts)).SetExpires(stamp(l.Expires))
}

// vacate makes l.Address free for l, or says who holds it.
func (s *Store) vacate(ctx context.Context, tx *ent.Tx, l inventory.Lease) error {
	rows, err := tx.Lease.Query().
		Where(lease.Network(l.Network), lease.Address(l.Address), lease.StateNEQ(string(inventory.LeaseReleased))).All(ctx)
	if err != nil {
		return err
	}
	for _, r := range rows {
		active := r.State == string(inventory.LeaseActive)
		own := active && r.MAC == l.MAC.String()
		again := !active && l.State == inventory.LeaseDeclined
		switch {
		case own && l.State == inventory.LeaseActive:
			continue // renewed by the caller
		case !own && !again && r.Expires.After(s.now()):
			holder, err := leaseOf(r)
			if err != nil {
				return err
			}
			return &AddressTakenError{Holder: holder}
		case active && !own:
			// The old holder keeps its memory of the address, not its claim.
			err = tx.Lease.UpdateOne(r).SetState(string(inventory.LeaseReleased)).Exec(ctx)
		default:
			err = tx.Lease.DeleteOne(r).Exec(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// LeaseOf returns the lease of a MAC on a network, whatever its state, or
// ErrNotFound.
func (s *Store) LeaseOf(ctx context.Context, network string, mac inventory.MAC) (inventory.Lease, error) {
	op := fmt.Sprintf("reading the lease of %s on network %s", mac, network)
	r, err := s.lease.client.Lease.Query().
		Where(lease.Network(network), lease.MAC(mac.String()), lease.StateNEQ(string(inventory.LeaseDeclined))).Only(ctx)
	if err != nil {
		return inventory.Lease{}, s.explain(op, err)
	}
	l, err := leaseOf(r)
	return l, s.explain(op, err)
}

func leaseOf(r *ent.Lease) (inventory.Lease, error) {
	m, err := inventory.ParseMAC(r.MAC)
	return inventory.Lease{
		Network: r.Network, MAC: m, Address: r.Address, ClientID: r.ClientID, Hostname: r.Hostname,
		Starts: r.Starts.UTC(), Expires: r.Expires.UTC(), State: inventory.LeaseState(r.State),
	}, err
}

func leasesOf(rows []*ent.Lease) ([]inventory.Lease, error) {
	out := make([]inventory.Lease, len(rows))
	for i, r := range rows {
		var err error
		if out[i], err = leaseOf(r); err != nil {
			return nil, fmt.Errorf("reading the lease of %s: %w", r.Address, err)
		}
	}
	return out, nil
}

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
