package store

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// putObserved keeps the facts of an observation. What the machine's ports are
// connected to becomes a document of its own, of source lldp: a later look that hears
// nothing, because it was short or the switch silent, takes nothing back.
//
// A fresh machine is one that this transaction has made: nothing was reported of it.
func (in *observer) putObserved(ctx context.Context, id uuid.UUID, o Observation, fresh bool) (newer bool, err error) {
	if o.Past && !fresh {
		return in.putPast(ctx, id, o)
	}
	facts := *o.Facts
	if o.Source == inventory.SourceAgent || o.Source == inventory.SourceLLDP {
		facts.Neighbors = nil
	}
	if o.Source != inventory.SourceLLDP {
		if fresh {
			newer, err = true, in.first(ctx, id, o.Source, facts, o.At)
		} else {
			newer, err = in.another(ctx, id, o.Source, facts, o.At)
		}
		if err != nil || o.Source != inventory.SourceAgent {
			return newer, err
		}
	}
	var before []inventory.Neighbor
	if !fresh {
		heard, err := documentAt(ctx, in.tx.Client(), id, inventory.SourceLLDP, time.Time{})
		if err != nil {
			return false, err
		}
		if heard != nil {
			before = heard.Facts.Neighbors
		}
	}
	now := carried(before, o.Facts.Neighbors, facts.NICs)
	if len(o.Facts.Neighbors) == 0 && len(now) == len(before) {
		return newer, nil
	}
	moved, err := in.another(ctx, id, inventory.SourceLLDP, inventory.Facts{SchemaVersion: inventory.SchemaVersion, Neighbors: now}, o.At)
	return newer || moved, err
}

// putPast keeps the facts of an observation of the past. Nothing is carried on from what
// was heard on ports at other times: a catalog that did so wrote it down as such.
func (in *observer) putPast(ctx context.Context, id uuid.UUID, o Observation) (newer bool, err error) {
	heard := inventory.Facts{SchemaVersion: inventory.SchemaVersion, Neighbors: o.Facts.Neighbors}
	if o.Source == inventory.SourceLLDP {
		return in.past(ctx, id, o.Source, heard, o.At)
	}
	facts := *o.Facts
	if o.Source == inventory.SourceAgent {
		facts.Neighbors = nil
	}
	newer, err = in.past(ctx, id, o.Source, facts, o.At)
	if err != nil || o.Source != inventory.SourceAgent || len(heard.Neighbors) == 0 {
		return newer, err
	}
	moved, err := in.past(ctx, id, inventory.SourceLLDP, heard, o.At)
	return newer || moved, err
}

// carried is what is known of all ports after one more look: what was heard now, and
// what was heard before of ports on which nothing was, or one that was heard there
// before: behind a hub not everybody is heard at each look. A port that is not among
// those of the machine any more, if they were observed, is connected to nothing.
func carried(before, now []inventory.Neighbor, ports []inventory.NIC) []inventory.Neighbor {
	out := slices.Clone(now)
	for _, n := range before {
		there := ports == nil || slices.ContainsFunc(ports, func(p inventory.NIC) bool { return p.MAC == n.MAC })
		same := func(other inventory.Neighbor) bool { return other.SameEnd(n) }
		if !there || slices.ContainsFunc(now, same) {
			continue
		}
		moved := slices.ContainsFunc(now, func(other inventory.Neighbor) bool { return other.MAC == n.MAC }) &&
			!slices.ContainsFunc(now, func(other inventory.Neighbor) bool {
				return other.MAC == n.MAC && slices.ContainsFunc(before, other.SameEnd)
			})
		if !moved && len(out) < inventory.MaxListLen {
			out = append(out, n)
		}
	}
	return out
}
