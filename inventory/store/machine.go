package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"entgo.io/ent/dialect"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/ent/mac"
	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/ent/predicate"
	"github.com/edge-provision/edge-provision/inventory"
)

// MachineFilter selects machines; zero fields select everything.
type MachineFilter struct {
	Site  string
	State inventory.State
}

// Machines returns the machines that f selects, by id, which is by the time they
// were first seen.
func (s *Store) Machines(ctx context.Context, f MachineFilter) ([]inventory.Machine, error) {
	var where []predicate.Machine
	if f.Site != "" {
		where = append(where, machine.Site(f.Site))
	}
	if f.State != "" {
		where = append(where, machine.State(string(f.State)))
	}
	return s.machines(ctx, "listing machines", where...)
}

func (s *Store) machines(ctx context.Context, op string, where ...predicate.Machine) ([]inventory.Machine, error) {
	rows, err := s.main.client.Machine.Query().Where(where...).WithMacs().WithTags().WithMemberships().Order(ent.Asc(machine.FieldID)).All(ctx)
	if err != nil {
		return nil, s.explain(op, err)
	}
	out, err := readMachines(rows)
	return out, s.explain(op, err)
}

func readMachines(rows []*ent.Machine) ([]inventory.Machine, error) {
	out := make([]inventory.Machine, len(rows))
	for i, r := range rows {
		var err error
		if out[i], err = machineOf(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Machine returns the machine with the id, or ErrNotFound.
func (s *Store) Machine(ctx context.Context, id uuid.UUID) (inventory.Machine, error) {
	return s.one(ctx, "reading machine "+id.String(), machine.ID(id))
}

// MachineByMAC returns the machine that was seen with the MAC, or ErrNotFound.
func (s *Store) MachineByMAC(ctx context.Context, m inventory.MAC) (inventory.Machine, error) {
	return s.one(ctx, "reading the machine with MAC "+m.String(), machine.HasMacsWith(mac.MAC(m.String())))
}

// MachineByAddress returns the machine bound to an address of site.hcl, or
// ErrNotFound.
func (s *Store) MachineByAddress(ctx context.Context, site, address string) (inventory.Machine, error) {
	return s.one(ctx, "reading "+address, machine.Site(site), machine.Address(address))
}

func (s *Store) one(ctx context.Context, op string, where ...predicate.Machine) (inventory.Machine, error) {
	r, err := s.main.client.Machine.Query().Where(where...).WithMacs().WithTags().WithMemberships().Only(ctx)
	if err != nil {
		return inventory.Machine{}, s.explain(op, err)
	}
	m, err := machineOf(r)
	return m, s.explain(op, err)
}

// SetState moves a machine to another state and records the event; workflows
// decides which moves are allowed. Setting the state it has changes nothing.
func (s *Store) SetState(ctx context.Context, id uuid.UUID, to inventory.State) error {
	var from string
	var m *ent.Machine
	err := s.write(ctx, fmt.Sprintf("setting machine %s to %s", id, to), func(tx *ent.Tx) error {
		var err error
		if m, err = tx.Machine.Query().Where(machine.ID(id)).WithMacs().Only(ctx); err != nil {
			return err
		}
		from = m.State
		if from == string(to) {
			return nil
		}
		if err := tx.Machine.UpdateOneID(id).SetState(string(to)).Exec(ctx); err != nil {
			return err
		}
		return s.changed(ctx, tx, "state", id)
	})
	if err != nil || from == string(to) {
		return err
	}
	e := inventory.Event{
		Site: m.Site, Machine: id, Kind: inventory.EventMachineState,
		Attrs: map[string]string{"from": from, "to": string(to)},
	}
	if seen, err := machineOf(m); err == nil && len(seen.MACs) > 0 {
		e.MAC = seen.MACs[0]
	}
	s.Record(e)
	return nil
}

// SetImage records the digest of the image whose write was last journaled as
// finished; empty when the disk was wiped.
func (s *Store) SetImage(ctx context.Context, id uuid.UUID, digest string) error {
	return s.write(ctx, "recording the image of machine "+id.String(), func(tx *ent.Tx) error {
		up := tx.Machine.UpdateOneID(id)
		if up.SetImage(digest); digest == "" {
			up.ClearImage()
		}
		if err := up.Exec(ctx); err != nil {
			return err
		}
		return s.changed(ctx, tx, "image", id)
	})
}

// SetHostKey records the SSH host key that was made on the machine, in
// authorized_keys form; empty when the machine was wiped.
func (s *Store) SetHostKey(ctx context.Context, id uuid.UUID, key string) error {
	return s.write(ctx, "recording the host key of machine "+id.String(), func(tx *ent.Tx) error {
		up := tx.Machine.UpdateOneID(id)
		if up.SetHostKey(key); key == "" {
			up.ClearHostKey()
		}
		if err := up.Exec(ctx); err != nil {
			return err
		}
		return s.changed(ctx, tx, "host_key", id)
	})
}

// Bind gives a site.hcl address to a machine and remembers it. The machine that
// had the address before keeps everything but the address.
func (s *Store) Bind(ctx context.Context, site, address string, id uuid.UUID) (inventory.Machine, error) {
	err := s.write(ctx, "binding "+address+" to machine "+id.String(), func(tx *ent.Tx) error {
		touched, err := bind(ctx, tx, site, address, id)
		if err != nil {
			return err
		}
		return s.changed(ctx, tx, "address", touched...)
	})
	if err != nil {
		return inventory.Machine{}, err
	}
	return s.Machine(ctx, id)
}

// Assign gives a site.hcl address that no machine has to a machine that has none, and
// remembers it. *TakenError says that one of them is no longer free, as when another
// program that shares the catalog was first, and that nothing was changed. Giving a
// machine the address that it has changes nothing.
func (s *Store) Assign(ctx context.Context, site, address string, id uuid.UUID) error {
	return s.write(ctx, "assigning "+address+" to machine "+id.String(), func(tx *ent.Tx) error {
		if err := s.lockIdentities(ctx, tx); err != nil {
			return err
		}
		row, err := tx.Machine.Query().Where(machine.ID(id), machine.Site(site)).Only(ctx)
		if err != nil {
			return err
		}
		if row.Address != nil {
			if *row.Address == address {
				return nil
			}
			return &TakenError{Machine: id, Address: *row.Address}
		}
		switch holder, err := tx.Machine.Query().Where(machine.Site(site), machine.Address(address)).OnlyID(ctx); {
		case err == nil:
			return &TakenError{Machine: holder, Address: address}
		case !ent.IsNotFound(err):
			return err
		}
		if err := tx.Machine.UpdateOneID(id).SetAddress(address).Exec(ctx); err != nil {
			return err
		}
		return s.changed(ctx, tx, "address", id)
	})
}

// bind returns the machines whose address changed.
func bind(ctx context.Context, tx *ent.Tx, site, address string, id uuid.UUID) ([]uuid.UUID, error) {
	touched, err := tx.Machine.Query().Where(machine.Site(site), machine.Address(address), machine.IDNEQ(id)).IDs(ctx)
	if err != nil {
		return nil, err
	}
	if len(touched) > 0 {
		if err := tx.Machine.Update().Where(machine.IDIn(touched...)).ClearAddress().Exec(ctx); err != nil {
			return nil, err
		}
	}
	row, err := tx.Machine.Query().Where(machine.ID(id), machine.Site(site)).Only(ctx)
	if err != nil {
		return nil, err
	}
	if row.Address != nil && *row.Address == address {
		return touched, nil
	}
	return append(touched, id), tx.Machine.UpdateOneID(id).SetAddress(address).Exec(ctx)
}

// Declare makes sure that a machine with these MACs is bound to an address of
// site.hcl: the one that was seen with any of them, or a new one in state
// declared. It returns *ConflictError when the MACs belong to two machines.
func (s *Store) Declare(ctx context.Context, site, address string, macs ...inventory.MAC) (inventory.Machine, error) {
	op := "declaring " + address
	if len(macs) == 0 {
		return inventory.Machine{}, fmt.Errorf("%s: no MAC is given", op)
	}
	var id uuid.UUID
	err := s.write(ctx, op, func(tx *ent.Tx) error {
		if err := s.lockIdentities(ctx, tx); err != nil {
			return err
		}
		found, owned, err := byMACs(ctx, tx, macs)
		if err != nil {
			return err
		}
		switch len(found) {
		case 0:
			id, err = s.newMachine(ctx, tx, site, inventory.StateDeclared)
		case 1:
			id, err = found[0].id, found[0].in(site)
		default:
			err = &ConflictError{A: found[0].id, B: found[1].id, By: "mac", Seen: found[1].mac}
		}
		if err != nil {
			return err
		}
		added, err := addMACs(ctx, tx, id, macs, owned)
		if err != nil {
			return err
		}
		touched, err := bind(ctx, tx, site, address, id)
		if err != nil {
			return err
		}
		if added > 0 && !slices.Contains(touched, id) {
			touched = append(touched, id)
		}
		return s.changed(ctx, tx, "declared", touched...)
	})
	if err != nil {
		return inventory.Machine{}, err
	}
	return s.Machine(ctx, id)
}

// Forget removes a machine with its facts from the catalog; its events stay
// until retention takes them. It resolves an identity conflict.
func (s *Store) Forget(ctx context.Context, id uuid.UUID) error { return s.ForgetIf(ctx, id, nil) }

// ForgetIf is Forget under a condition: check sees the machine as it is in the
// transaction that removes it, and its error leaves everything as it was. A nil
// check always agrees.
func (s *Store) ForgetIf(ctx context.Context, id uuid.UUID, check func(inventory.Machine) error) error {
	return s.write(ctx, "removing machine "+id.String(), func(tx *ent.Tx) error {
		m, err := s.locked(ctx, tx, id)
		if err == nil && check != nil {
			err = check(m)
		}
		if err != nil {
			return err
		}
		if err := tx.Machine.DeleteOneID(id).Exec(ctx); err != nil {
			return err
		}
		if err := dropOrphans(ctx, tx); err != nil {
			return err
		}
		return s.removed(ctx, tx, m.Site, id)
	})
}

// locked reads a machine that no other transaction can change before this one
// ends.
func (s *Store) locked(ctx context.Context, tx *ent.Tx, id uuid.UUID) (inventory.Machine, error) {
	if err := s.lockMachines(ctx, tx, id); err != nil {
		return inventory.Machine{}, err
	}
	row, err := tx.Machine.Query().Where(machine.ID(id)).WithMacs().WithTags().WithMemberships().Only(ctx)
	if err != nil {
		return inventory.Machine{}, err
	}
	return machineOf(row)
}

// lockMachines keeps other transactions from changing machines before this one ends.
func (s *Store) lockMachines(ctx context.Context, tx *ent.Tx, ids ...uuid.UUID) error {
	if s.dialect != dialect.Postgres {
		return nil // its transactions exclude each other
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = id
	}
	_, err := tx.ExecContext(ctx, "SELECT 1 FROM machines WHERE id IN ("+s.placeholders(1, len(ids))+") ORDER BY id FOR UPDATE", args...)
	return err
}

// Dialect is the SQL of the catalog: "sqlite3" or "postgres", as ent names them.
func (s *Store) Dialect() string { return s.dialect }

func (s *Store) placeholder(n int) string {
	if s.dialect == dialect.Postgres {
		return fmt.Sprintf("$%d", n)
	}
	return "?"
}

// belongings are what other tables say of a machine.
type belongings struct {
	macs    []string
	tags    map[string]string
	classes []string
}

// machineOf is a machine that was read with its edges.
func machineOf(r *ent.Machine) (inventory.Machine, error) {
	b := belongings{macs: make([]string, len(r.Edges.Macs))}
	for i, m := range r.Edges.Macs {
		b.macs[i] = m.MAC
	}
	for _, t := range r.Edges.Tags {
		if b.tags == nil {
			b.tags = make(map[string]string, len(r.Edges.Tags))
		}
		b.tags[t.Key] = t.Value
	}
	for _, c := range r.Edges.Memberships {
		b.classes = append(b.classes, c.Class)
	}
	return machineWith(r, b)
}

func machineWith(r *ent.Machine, b belongings) (inventory.Machine, error) {
	m := inventory.Machine{
		ID: r.ID, Site: r.Site, State: inventory.State(r.State), FirstSeen: r.FirstSeen.UTC(), LastSeen: r.LastSeen.UTC(),
		MACs: make([]inventory.MAC, len(b.macs)), Tags: b.tags, Classes: b.classes,
	}
	setString(&m.Address, r.Address)
	setString(&m.Serial, r.Serial)
	setString(&m.Image, r.Image)
	setString(&m.HostKey, r.HostKey)
	if r.Drift != nil {
		m.Drift = inventory.DriftState(*r.Drift)
	}
	setString(&m.DriftDigest, r.DriftDigest)
	m.DriftSince, m.LookedAt = timeOf(r.DriftSince), timeOf(r.LookedAt)
	slices.Sort(m.Classes)
	var err error
	for i, text := range b.macs {
		if m.MACs[i], err = inventory.ParseMAC(text); err != nil {
			return m, fmt.Errorf("machine %s: %w", r.ID, err)
		}
	}
	slices.SortFunc(m.MACs, func(a, b inventory.MAC) int { return bytes.Compare(a[:], b[:]) })
	if r.SmbiosUUID != nil {
		if m.SMBIOSUUID, err = uuid.Parse(*r.SmbiosUUID); err != nil {
			return m, fmt.Errorf("machine %s: SMBIOS UUID: %w", r.ID, err)
		}
	}
	return m, nil
}

func setString(to *string, from *string) {
	if from != nil {
		*to = *from
	}
}
