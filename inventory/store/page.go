package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"entgo.io/ent/dialect"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
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
	out := make([]inventory.Machine, 0, len(at))
	if len(at) == 0 {
		return out, nil
	}
	ids := make([]string, len(at))
	for i, p := range at {
		ids[i] = p.id.String()
	}
	loaded, err := s.load(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("loading the page: %w", err)
	}
	for _, p := range at {
		if m, ok := loaded[p.id]; ok {
			out = append(out, m)
		}
	}
	return out, nil
}

// load reads machines with all that belongs to them in one statement. ent would make
// four, of which each is a round trip and planned for itself; together they took
// PostgreSQL as long as it took to find the page.
func (s *Store) load(ctx context.Context, ids []string) (map[uuid.UUID]inventory.Machine, error) {
	list, object := "json_group_array", "json_group_object"
	if s.dialect == dialect.Postgres {
		list, object = "json_agg", "json_object_agg"
	}
	q := &sqlText{store: s}
	q.WriteString(`SELECT id, site, address, state, serial, smbios_uuid, image, host_key, first_seen, last_seen, drift, drift_digest, drift_since, looked_at`)
	for _, belongs := range []struct{ to, as string }{
		{"macs", list + "(mac)"}, {"tags", object + "(key, value)"}, {"memberships", list + "(class)"},
	} {
		fmt.Fprintf(q, ", (SELECT %s FROM %s WHERE machine_id = machines.id)", belongs.as, belongs.to)
	}
	q.WriteString(" FROM machines WHERE ")
	q.among("machines.id", ids)
	rows, err := s.page.db.QueryContext(ctx, q.String(), q.args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := make(map[uuid.UUID]inventory.Machine, len(ids))
	for rows.Next() {
		var r ent.Machine
		var macs, tags, classes []byte // nil or an empty list where nothing belongs to it
		err := rows.Scan(&r.ID, &r.Site, &r.Address, &r.State, &r.Serial, &r.SmbiosUUID, &r.Image, &r.HostKey, &r.FirstSeen, &r.LastSeen,
			&r.Drift, &r.DriftDigest, &r.DriftSince, &r.LookedAt, &macs, &tags, &classes)
		if err == nil {
			r.Edges, err = belongings(macs, tags, classes)
		}
		if err == nil {
			out[r.ID], err = machineOf(&r)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, rows.Err()
}

// belongings reads what belongs to a machine from JSON.
func belongings(macs, tags, classes []byte) (of ent.MachineEdges, err error) {
	var addresses, names []string
	var values map[string]string
	for _, part := range []struct {
		text []byte
		to   any
	}{{macs, &addresses}, {tags, &values}, {classes, &names}} {
		if len(part.text) == 0 {
			continue
		}
		if err := json.Unmarshal(part.text, part.to); err != nil {
			return of, err
		}
	}
	for _, address := range addresses {
		of.Macs = append(of.Macs, &ent.MAC{MAC: address})
	}
	for key, value := range values {
		of.Tags = append(of.Tags, &ent.Tag{Key: key, Value: value})
	}
	for _, name := range names {
		of.Memberships = append(of.Memberships, &ent.Membership{Class: name})
	}
	return of, nil
}
