package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent/machine"
	"github.com/edge-provision/edge-provision/inventory"
)

// Bounds of a page.
const (
	// DefaultPageLimit and MaxPageLimit bound PageRequest.Limit.
	DefaultPageLimit = 50
	MaxPageLimit     = 1_000
	// DefaultRowBudget is how many machines one page may look at.
	DefaultRowBudget = 100_000
	// DefaultPageDeadline is how long one page may take.
	DefaultPageDeadline = 5 * time.Second
)

// PageRequest asks for one page of machines. The zero value asks for the first
// page of all machines in the order of their ids, which is the order in which
// they were first seen.
type PageRequest struct {
	// Site selects one site's machines; empty selects all.
	Site string
	// Filter selects among them; see inventory/query's Expr.Filter.
	Filter inventory.Filter
	// Sort is one of SortFields, with a minus before it for the greatest
	// first; "id" when empty. Machines with equal values come by id, and
	// machines that lack the value come last.
	Sort string
	// Cursor is the Next of the page before; empty asks for the first page.
	// It belongs to one Site, Filter.Text and Sort.
	Cursor string
	// Limit is the greatest number of machines; DefaultPageLimit when zero, at
	// most MaxPageLimit.
	Limit int
	// RowBudget is the greatest number of machines that are looked at;
	// DefaultRowBudget when zero.
	RowBudget int
	// Deadline bounds the time; DefaultPageDeadline when zero.
	Deadline time.Duration
}

// Page is the answer to a PageRequest.
type Page struct {
	Machines []inventory.Machine
	// Next is the Cursor of the page after this one; empty on the last.
	Next string
	// Examined is the number of machines for which the filter was computed.
	Examined int
	// Partial says that the row budget or the deadline ended the page before it
	// was full. Next leads on from there.
	Partial bool
}

// RequestError says that a PageRequest cannot be answered as it was put.
type RequestError struct {
	// Field is what is wrong: "cursor", "sort" or "limit".
	Field string
	// Reason is a sentence for a person.
	Reason string
}

// Error implements error.
func (e *RequestError) Error() string { return e.Field + ": " + e.Reason }

// BudgetError says that the deadline passed before a page could look at
// anything: the catalog is too busy, or the expression too costly.
type BudgetError struct {
	Deadline time.Duration
}

// Error implements error.
func (e *BudgetError) Error() string {
	return fmt.Sprintf("no answer within %s: ask with a condition on an indexed fact (docs/query.md lists them) or on a site, or ask again when the catalog is less busy", e.Deadline)
}

// Page returns one page of the machines that a filter selects. When the filter
// has an indexed condition that few machines fulfil, only those are looked at;
// otherwise machines are looked at in the order of Sort until the page is full,
// the row budget is used up or the deadline is near. Errors for the caller to
// tell are *RequestError and *BudgetError.
func (s *Store) Page(ctx context.Context, r PageRequest) (Page, error) {
	p, err := s.newPager(r)
	if err != nil {
		return Page{}, err
	}
	within, cancel := context.WithTimeout(ctx, p.deadline)
	defer cancel()
	return p.page(ctx, within)
}

// page looks for the page until within ends, which is ctx with the deadline.
func (p *pager) page(ctx, within context.Context) (Page, error) {
	const op = "reading a page of machines"
	err := p.run(within)
	if err != nil {
		if within.Err() == nil || ctx.Err() != nil {
			return Page{}, p.store.explain(op, err)
		}
		if p.examined == 0 {
			return Page{}, p.store.explain(op, &BudgetError{Deadline: p.deadline})
		}
		p.partial = true
	}
	out := Page{Examined: p.examined, Partial: p.partial}
	hits := p.hits
	switch {
	case len(hits) > p.limit:
		hits = hits[:p.limit]
		out.Next, out.Partial = p.cursor(hits[p.limit-1]), false
	case p.partial:
		out.Next = p.cursor(p.last)
	}
	out.Machines, err = p.store.inOrder(ctx, hits)
	return out, p.store.explain(op, err)
}

// inOrder loads the machines of positions in their order. One that was removed
// in between is left out.
func (s *Store) inOrder(ctx context.Context, at []position) ([]inventory.Machine, error) {
	ids := make([]uuid.UUID, len(at))
	for i, p := range at {
		ids[i] = p.id
	}
	loaded := make(map[uuid.UUID]inventory.Machine, len(ids))
	for part := range slices.Chunk(ids, 500) { // both databases bound the number of arguments
		machines, err := s.machines(ctx, "loading the page", machine.IDIn(part...))
		if err != nil {
			return nil, err
		}
		for _, m := range machines {
			loaded[m.ID] = m
		}
	}
	out := make([]inventory.Machine, 0, len(ids))
	for _, id := range ids {
		if m, ok := loaded[id]; ok {
			out = append(out, m)
		}
	}
	return out, nil
}
