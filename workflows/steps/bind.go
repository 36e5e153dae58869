package steps

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// UnboundError says why a machine that is declared by what it is cannot be told.
// It is that declaration's failure, and no other's.
type UnboundError struct {
	Machine *site.Machine
	Reason  string
}

// Error implements error.
func (e *UnboundError) Error() string {
	return fmt.Sprintf("%s (%s): %s", e.Machine.Address, e.Machine.Range("match"), e.Reason)
}

// Unbound are the addresses whose machines cannot be told, with why.
type Unbound map[string]*UnboundError

// Err is all of them as one error; nil: there are none.
func (u Unbound) Err() error {
	var errs []error
	for _, address := range slices.Sorted(maps.Keys(u)) {
		errs = append(errs, u[address])
	}
	return errors.Join(errs...)
}

// Bind records in which classes the machines are, gives the address of each
// machine that is declared by what it is to the one machine whose facts match,
// and remembers it. A match that fits several leaves its address unbound. One
// that is declared by a class gets the machine of the class that came first
// among those that have no address. What another program has given meanwhile is
// not taken from it.
func Bind(ctx context.Context, s *site.Site, catalog *store.Store, keys class.Digester) (Unbound, error) {
	if err := Classify(ctx, s, catalog, keys); err != nil {
		return nil, err
	}
	rows, err := catalog.Machines(ctx, store.MachineFilter{Site: s.Name})
	if err != nil {
		return nil, err
	}
	return assign(ctx, s, catalog, rows, func(address string, id uuid.UUID) error {
		err := catalog.Assign(ctx, s.Name, address, id)
		if taken := (*store.TakenError)(nil); errors.As(err, &taken) {
			return nil // whoever looks next goes by what the other program made of it
		}
		return err
	})
}

// recordNow has record go by a site as it is now, in its turn, and returns the
// site.
func recordNow(turn sync.Locker, now func() *site.Site, record func(*site.Site) error) (*site.Site, error) {
	if turn != nil {
		turn.Lock()
		defer turn.Unlock()
	}
	s := now()
	return s, record(s)
}

// assign gives the addresses that are declared by what a machine is to the rows,
// which are all machines of the site in the order in which they were first seen.
// bind is told of each.
func assign(ctx context.Context, s *site.Site, catalog *store.Store, rows []inventory.Machine, bind func(address string, id uuid.UUID) error) (Unbound, error) {
	bound := map[string]bool{}
	for _, row := range rows {
		bound[row.Address] = true
	}
	unbound := Unbound{}
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
		var why *UnboundError
		if errors.As(err, &why) {
			unbound[m.Address], err = why, nil
		}
		if row != nil && err == nil {
			// A machine that is bound is no candidate for the next declaration.
			row.Address = m.Address
			err = bind(m.Address, row.ID)
		}
		errs = append(errs, err)
	}
	return unbound, errors.Join(errs...)
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
// yet to be discovered. Several are an *UnboundError.
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
	for _, row := range found[:min(len(found), maxNamed)] {
		names = append(names, fmt.Sprintf("%s (serial %q, %v)", row.ID, row.Serial, row.MACs))
	}
	if more := len(found) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return nil, &UnboundError{Machine: m, Reason: fmt.Sprintf(
		"its match fits %d machines and must fit one: %s; make it narrower, or name the machine by mac", len(found), strings.Join(names, "; "))}
}

// maxNamed is how many machines that fit one match are named.
const maxNamed = 5
