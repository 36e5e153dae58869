package store

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/lease"
	"github.com/edge-provision/edge-provision/ent/mac"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/ent/predicate"
	"github.com/edge-provision/edge-provision/inventory"
)

// maxCandidates bounds the machines that an AmbiguousError names.
const maxCandidates = 10

// Find returns the machine that a person names: by its id or at least eight
// characters of its beginning, its address in site.hcl, a MAC, an IP address it
// leases, its serial number, or the name or key at the end of its address.
// It returns ErrNotFound when nothing fits and *AmbiguousError when several do.
// An empty site looks in all of them.
//
// Each way asks an index, but for a serial number in other letters than it was
// reported, and for the end of an address: they read every machine's serial or
// address in the database, and come only when no index has led anywhere.
func (s *Store) Find(ctx context.Context, site, name string) (inventory.Machine, error) {
	op := fmt.Sprintf("looking for machine %q", name)
	if len(name) > 512 || name == "" {
		return inventory.Machine{}, s.explain(op, ErrNotFound)
	}
	n := naming{store: s, site: site, name: name}
	// The exact ways come first: a key "a" must not compete with a serial "a".
	for _, way := range []func(context.Context) (predicate.Machine, error){
		n.byIDOrAddress, n.byMAC, n.byLease, n.bySerial, n.byFoldedSerial, n.byEndOfAddress, n.byBeginningOfID,
	} {
		found, err := n.try(ctx, way)
		switch {
		case err != nil:
			return inventory.Machine{}, s.explain(op, err)
		case len(found) == 1:
			return found[0], nil
		case len(found) > 1:
			kept := found[:min(len(found), maxCandidates)]
			return inventory.Machine{}, &AmbiguousError{Name: name, Candidates: kept, More: len(found) > len(kept)}
		}
	}
	return inventory.Machine{}, s.explain(op, ErrNotFound)
}

// naming is what a person calls a machine.
type naming struct {
	store      *Store
	site, name string
}

// query is that of machines of the site, by id.
func (n naming) query(fits predicate.Machine) *ent.MachineQuery {
	q := n.store.main.client.Machine.Query().Where(fits).Order(ent.Asc(machine.FieldID))
	if n.site != "" {
		q.Where(machine.Site(n.site))
	}
	return q
}

// try returns the machines that one way leads to, at most one more than
// candidates are shown. A way without a condition leads nowhere.
func (n naming) try(ctx context.Context, way func(context.Context) (predicate.Machine, error)) ([]inventory.Machine, error) {
	fits, err := way(ctx)
	if err != nil || fits == nil {
		return nil, err
	}
	rows, err := n.query(fits).Limit(maxCandidates + 1).WithMacs().WithTags().WithMemberships().All(ctx)
	if err != nil {
		return nil, err
	}
	return readMachines(rows)
}

// uuidLength is that of the text form of RFC 9562; uuid.Parse takes others, which
// may be serial numbers.
const uuidLength = 36

func (n naming) byIDOrAddress(context.Context) (predicate.Machine, error) {
	if len(n.name) == uuidLength {
		if id, err := uuid.Parse(n.name); err == nil {
			return machine.ID(id), nil
		}
	}
	return machine.Address(n.name), nil
}

func (n naming) byMAC(context.Context) (predicate.Machine, error) {
	m, err := inventory.ParseMAC(n.name)
	if err != nil {
		return nil, nil // it is no MAC
	}
	return machine.HasMacsWith(mac.MAC(m.String())), nil
}

func (n naming) byLease(ctx context.Context) (predicate.Machine, error) {
	holders, err := n.store.main.client.Lease.Query().
		Where(lease.Address(n.name), lease.State(string(inventory.LeaseActive))).Select(lease.FieldMAC).Strings(ctx)
	if err != nil || len(holders) == 0 {
		return nil, err
	}
	return machine.HasMacsWith(mac.MACIn(holders...)), nil
}

func (n naming) bySerial(context.Context) (predicate.Machine, error) {
	return machine.SerialIn(n.name, strings.ToUpper(n.name), strings.ToLower(n.name)), nil
}

func (n naming) byFoldedSerial(context.Context) (predicate.Machine, error) {
	return machine.SerialEqualFold(n.name), nil
}

// addressKey takes the name and the key from the end of an address such as
// module.m.machine.node["a"].
var addressKey = regexp.MustCompile(`([^.\[\]"]+)(?:\[(?:"([^"]*)"|(\d+))\])?$`)

// byEndOfAddress finds "node", "a" and node["a"].
func (n naming) byEndOfAddress(ctx context.Context) (predicate.Machine, error) {
	var rows []struct {
		ID      uuid.UUID `json:"id"`
		Address string    `json:"address"`
	}
	// Perhaps more than fit: LIKE does not tell letters of either case apart on
	// SQLite.
	err := n.query(machine.Or(
		machine.AddressHasSuffix(`["`+n.name+`"]`), machine.AddressHasSuffix("["+n.name+"]"), machine.AddressHasSuffix("."+n.name), machine.AddressContains("."+n.name+"["),
	)).Select(machine.FieldID, machine.FieldAddress).Scan(ctx, &rows)
	if err != nil {
		return nil, err
	}
	var ids []uuid.UUID
	for _, r := range rows {
		if k := addressKey.FindStringSubmatch(r.Address); slices.Contains(k, n.name) {
			ids = append(ids, r.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	return machine.IDIn(ids[:min(len(ids), maxCandidates+1)]...), nil
}

// byBeginningOfID finds ids by at least eight characters.
func (n naming) byBeginningOfID(context.Context) (predicate.Machine, error) {
	const least, greatest = "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff"
	if len(n.name) < 8 || len(n.name) > uuidLength {
		return nil, nil
	}
	from, err := uuid.Parse(n.name + least[len(n.name):])
	if err != nil {
		return nil, nil // no id begins like this
	}
	to, err := uuid.Parse(n.name + greatest[len(n.name):])
	if err != nil {
		return nil, nil
	}
	return machine.And(machine.IDGTE(from), machine.IDLTE(to)), nil
}
