package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/class"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Record writes down in the catalog what machines are by a site that is approved,
// or served: what was renamed (Move), the machines that are declared by their MAC,
// in which classes all are, and which are declared by what they are (Bind).
func Record(ctx context.Context, s *site.Site, catalog *store.Store, keys Sealer) (Unbound, error) {
	if err := Move(ctx, s, catalog, keys); err != nil {
		return nil, err
	}
	for _, m := range s.Machines {
		if m.Match == nil && !m.Adopted() {
			if _, err := catalog.Declare(ctx, s.Name, m.Address, m.MAC); err != nil {
				return nil, fmt.Errorf("%s (%s): %w", m.Address, m.DeclRange, err)
			}
		}
	}
	return Bind(ctx, s, catalog, keys)
}

// Foresight is what Record would write down, worked out and not written. A plan
// goes by it: a site that nobody has approved must not change what machines are,
// least of all beside a `serve` that goes by another version of the site. A nil
// Foresight goes by the catalog.
type Foresight struct {
	// rows are the machines of the site, in the order in which they were first
	// seen, with the addresses and classes that they would have.
	rows []inventory.Machine
	// applied are the addresses with an applied record, and under which address
	// the catalog has it now.
	applied map[string]string
	// unbound are the addresses whose machines could not be told.
	unbound Unbound
}

// Unbound are the addresses whose machines could not be told.
func (f *Foresight) Unbound() Unbound { return f.unbound }

// Foresee works out what Record would write down. It writes nothing.
func Foresee(ctx context.Context, s *site.Site, catalog *store.Store, keys class.Digester) (*Foresight, error) {
	f, was, err := foreseeMoves(ctx, s, catalog)
	if err != nil {
		return nil, err
	}
	for _, m := range s.Machines {
		if m.Match == nil && !m.Adopted() {
			if err := f.declare(ctx, catalog, s.Name, m); err != nil {
				return nil, fmt.Errorf("%s (%s): %w", m.Address, m.DeclRange, err)
			}
		}
	}
	if err := f.classify(ctx, s, catalog, keys, was); err != nil {
		return nil, err
	}
	f.unbound, err = assign(ctx, s, catalog, f.rows, func(string, uuid.UUID) error { return nil })
	return f, err
}

// ForeseeMoves works out only what Move would write down.
func ForeseeMoves(ctx context.Context, s *site.Site, catalog *store.Store) (*Foresight, error) {
	f, _, err := foreseeMoves(ctx, s, catalog)
	return f, err
}

// foreseeMoves is ForeseeMoves; was are the addresses that machines have now.
func foreseeMoves(ctx context.Context, s *site.Site, catalog *store.Store) (f *Foresight, was map[uuid.UUID]string, err error) {
	rows, err := catalog.Machines(ctx, store.MachineFilter{Site: s.Name})
	if err != nil {
		return nil, nil, err
	}
	applied, err := catalog.AppliedAll(ctx, s.Name)
	if err != nil {
		return nil, nil, err
	}
	f = &Foresight{rows: rows, applied: map[string]string{}}
	was = map[uuid.UUID]string{}
	for _, row := range rows {
		was[row.ID] = row.Address
	}
	for _, a := range applied {
		f.applied[a.Address] = a.Address
	}
	for _, m := range s.Moved {
		f.move(m, s.StepByAddress(m.To) != nil)
	}
	return f, was, nil
}

// move is Move of one block.
func (f *Foresight) move(m site.Moved, step bool) {
	recorded, known := f.applied[m.From]
	if known {
		delete(f.applied, m.From)
		f.applied[m.To] = recorded
	}
	row := f.find(m.From)
	if row == nil || step || !known && f.find(m.To) != nil {
		return
	}
	f.bind(row, m.To)
}

// declare is store.Store.Declare. What was never seen has no row.
func (f *Foresight) declare(ctx context.Context, catalog *store.Store, siteName string, m *site.Machine) error {
	for i := range f.rows {
		for _, mac := range f.rows[i].MACs {
			if mac == m.MAC {
				f.bind(&f.rows[i], m.Address)
				return nil
			}
		}
	}
	switch row, err := catalog.MachineByMAC(ctx, m.MAC); {
	case err == nil:
		return fmt.Errorf("MAC %s belongs to machine %s of site %s; remove it there before it can join site %s", m.MAC, row.ID, row.Site, siteName)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	// The new one takes the address of whatever had it.
	if row := f.find(m.Address); row != nil {
		row.Address = ""
	}
	return nil
}

// classify is Classify. Machines that kept the address that was theirs are looked
// at only where the catalog's record does not tell.
func (f *Foresight) classify(ctx context.Context, s *site.Site, catalog *store.Store, keys class.Digester, was map[uuid.UUID]string) error {
	u, err := unclassify(ctx, s, catalog, keys)
	if err != nil || u.never {
		return err
	}
	due := map[uuid.UUID]bool{}
	for _, id := range u.ids {
		due[id] = true
	}
	var rows []inventory.Machine
	at := map[uuid.UUID]int{}
	for i, row := range f.rows {
		if at[row.ID] = i; u.all || due[row.ID] || row.Address != was[row.ID] {
			rows = append(rows, row)
		}
	}
	return classify(ctx, s, catalog, rows, func(id uuid.UUID, classes []string) error {
		f.rows[at[id]].Classes = classes
		return nil
	})
}

// bind gives an address to a row, and takes it from the one that had it.
func (f *Foresight) bind(row *inventory.Machine, address string) {
	if had := f.find(address); had != nil {
		had.Address = ""
	}
	row.Address = address
}

// find is the row at an address; nil: none.
func (f *Foresight) find(address string) *inventory.Machine {
	for i := range f.rows {
		if f.rows[i].Address == address {
			return &f.rows[i]
		}
	}
	return nil
}

// Machine is the machine at an address, read anew, or an error that wraps
// fs.ErrNotExist.
func (f *Foresight) Machine(ctx context.Context, catalog *store.Store, siteName, address string) (inventory.Machine, error) {
	if f == nil {
		return catalog.MachineByAddress(ctx, siteName, address)
	}
	row := f.find(address)
	if row == nil {
		// One that was entered since, because it was looked at for the first time.
		entered, err := catalog.MachineByAddress(ctx, siteName, address)
		if err == nil && slices.ContainsFunc(f.rows, func(r inventory.Machine) bool { return r.ID == entered.ID }) {
			err = fmt.Errorf("reading %s: %w", address, store.ErrNotFound)
		}
		return entered, err
	}
	now, err := catalog.Machine(ctx, row.ID)
	now.Address, now.Classes = row.Address, row.Classes
	return now, err
}

// machines are all machines of the site.
func (f *Foresight) machines(ctx context.Context, catalog *store.Store, siteName string) ([]inventory.Machine, error) {
	if f == nil {
		return catalog.Machines(ctx, store.MachineFilter{Site: siteName})
	}
	return f.rows, nil
}

// recorded is the address under which the catalog has what was applied at one,
// how far its installation came, and its sealed values.
func (f *Foresight) recorded(address string) string {
	if f != nil {
		if was, known := f.applied[address]; known {
			return was
		}
	}
	return address
}

// called is what recorded undoes.
func (f *Foresight) called(recorded string) string {
	if f != nil {
		for now, was := range f.applied {
			if was == recorded {
				return now
			}
		}
	}
	return recorded
}
