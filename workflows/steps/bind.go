package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Bind records in which classes the machines are, gives the address of each
// machine that is declared by what it is to the one machine whose facts match,
// and remembers it. A match that fits several is an error that names them. One
// that is declared by a class gets the machine of the class that came first
// among those that have no address.
func Bind(ctx context.Context, s *site.Site, catalog *store.Store) error {
	if err := Classify(ctx, s, catalog); err != nil {
		return err
	}
	rows, err := catalog.Machines(ctx, store.MachineFilter{Site: s.Name})
	if err != nil {
		return err
	}
	bound := map[string]bool{}
	for _, row := range rows {
		bound[row.Address] = true
	}
	var errs []error
	for _, m := range s.Machines {
		switch {
		case m.Match == nil || bound[m.Address]:
		case m.Class != nil:
			errs = append(errs, bindFirst(ctx, s, catalog, m, rows))
		default:
			errs = append(errs, bindOne(ctx, s, catalog, m, rows))
		}
	}
	return errors.Join(errs...)
}

// bindFirst binds a machine that is declared by a class. Machines are in the
// order in which they were first seen.
func bindFirst(ctx context.Context, s *site.Site, catalog *store.Store, m *site.Machine, rows []inventory.Machine) error {
	for i := range rows {
		if row := &rows[i]; row.Address == "" && slices.Contains(row.Classes, m.Class.Name) {
			row.Address = m.Address
			_, err := catalog.Bind(ctx, s.Name, m.Address, row.ID)
			return err
		}
	}
	return nil
}

// bindOne binds one machine that is declared by a match. None that matches is
// no error: it has yet to be discovered.
func bindOne(ctx context.Context, s *site.Site, catalog *store.Store, m *site.Machine, rows []inventory.Machine) error {
	var found []*inventory.Machine
	for i := range rows {
		row := &rows[i]
		if row.Address != "" {
			continue
		}
		facts, err := KnownFacts(ctx, catalog, row.ID)
		if err != nil {
			return err
		}
		result, err := m.Match.Eval(query.NewDoc(*row, facts))
		if err != nil {
			return fmt.Errorf("%s: evaluating its match: %w", m.Address, err)
		}
		if result == query.True {
			found = append(found, row)
		}
	}
	switch len(found) {
	case 0:
		return nil
	case 1:
		// A machine that is bound is no candidate for the next declaration.
		found[0].Address = m.Address
		_, err := catalog.Bind(ctx, s.Name, m.Address, found[0].ID)
		return err
	}
	var names []string
	for _, row := range found {
		names = append(names, fmt.Sprintf("%s (serial %q, %v)", row.ID, row.Serial, row.MACs))
	}
	return fmt.Errorf("%s: its match fits %d machines and must fit one: %s; make it narrower, or name the machine by mac",
		m.Address, len(found), strings.Join(names, "; "))
}
