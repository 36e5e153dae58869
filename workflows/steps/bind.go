package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/class"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Bind records in which classes the machines are, gives the address of each
// machine that is declared by what it is to the one machine whose facts match,
// and remembers it. A match that fits several is an error that names them. One
// that is declared by a class gets the machine of the class that came first
// among those that have no address. What another program has given meanwhile is
// not taken from it: *store.TakenError.
func Bind(ctx context.Context, s *site.Site, catalog *store.Store, keys class.Digester) error {
	if err := Classify(ctx, s, catalog, keys); err != nil {
		return err
	}
	rows, err := catalog.Machines(ctx, store.MachineFilter{Site: s.Name})
	if err != nil {
		return err
	}
	return assign(ctx, s, catalog, rows, func(address string, id uuid.UUID) error {
		return catalog.Assign(ctx, s.Name, address, id)
	})
}

// recordNow has record, which is Bind or Classify, go by a site as it is now, in
// its turn, and returns the site.
func recordNow(
	ctx context.Context, turn sync.Locker, now func() *site.Site, catalog *store.Store, keys class.Digester,
	record func(context.Context, *site.Site, *store.Store, class.Digester) error,
) (*site.Site, error) {
	if turn != nil {
		turn.Lock()
		defer turn.Unlock()
	}
	s := now()
	return s, record(ctx, s, catalog, keys)
}

// assign gives the addresses that are declared by what a machine is to the rows,
// which are all machines of the site in the order in which they were first seen.
// bind is told of each.
func assign(ctx context.Context, s *site.Site, catalog *store.Store, rows []inventory.Machine, bind func(address string, id uuid.UUID) error) error {
	bound := map[string]bool{}
	for _, row := range rows {
		bound[row.Address] = true
	}
	var errs []error
	for _, m := range s.Machines {
		if m.Match == nil || bound[m.Address] {
			continue
		}
		var row *inventory.Machine
		var err error
		if m.Class != nil {
			row = firstOf(m, rows)
		} else {
			row, err = onlyOne(ctx, catalog, m, rows)
		}
		if row != nil && err == nil {
			// A machine that is bound is no candidate for the next declaration.
			row.Address = m.Address
			err = bind(m.Address, row.ID)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// firstOf is the machine that one which is declared by a class is; nil: none yet.
func firstOf(m *site.Machine, rows []inventory.Machine) *inventory.Machine {
	for i := range rows {
		if row := &rows[i]; row.Address == "" && slices.Contains(row.Classes, m.Class.Name) {
			return row
		}
	}
	return nil
}

// onlyOne is the machine that fits a match. None that does is no error: it has
// yet to be discovered.
func onlyOne(ctx context.Context, catalog *store.Store, m *site.Machine, rows []inventory.Machine) (*inventory.Machine, error) {
	var found []*inventory.Machine
	for i := range rows {
		row := &rows[i]
		if row.Address != "" {
			continue
		}
		facts, err := ownFacts(ctx, catalog, row.ID)
		if err != nil {
			return nil, err
		}
		result, err := m.Match.Eval(query.NewDoc(*row, facts))
		if err != nil {
			return nil, fmt.Errorf("%s: evaluating its match: %w", m.Address, err)
		}
		if result == query.True {
			found = append(found, row)
		}
	}
	switch len(found) {
	case 0:
		return nil, nil
	case 1:
		return found[0], nil
	}
	var names []string
	for _, row := range found {
		names = append(names, fmt.Sprintf("%s (serial %q, %v)", row.ID, row.Serial, row.MACs))
	}
	return nil, fmt.Errorf("%s: its match fits %d machines and must fit one: %s; make it narrower, or name the machine by mac",
		m.Address, len(found), strings.Join(names, "; "))
}
