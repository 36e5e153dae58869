package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
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
	if out.Machines, err = p.store.load(ctx, hits); err != nil {
		err = fmt.Errorf("loading the page: %w", err)
	}
	return out, p.store.explain(op, err)
}

// load reads the machines of positions, in their order, with all that belongs to
// them in one statement. ent would make four, of which each is a round trip and
// planned for itself; together they took PostgreSQL as long as it took to find the
// page. A machine that was removed in between is left out.
func (s *Store) load(ctx context.Context, at []position) ([]inventory.Machine, error) {
	if len(at) == 0 {
		return []inventory.Machine{}, nil
	}
	ids, place := make([]uuid.UUID, len(at)), make(map[uuid.UUID]int, len(at))
	for i, p := range at {
		ids[i], place[p.id] = p.id, i
	}
	q := s.loading(ids)
	rows, err := s.page.db.QueryContext(ctx, q.String(), q.args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	out := make([]inventory.Machine, len(at))
	var r ent.Machine // one for all: a page is read often, and its rows are large
	var macs, tags, classes sql.NullString
	for rows.Next() {
		r = ent.Machine{}
		err := rows.Scan(&r.ID, &r.Site, &r.Address, &r.State, &r.Serial, &r.SmbiosUUID, &r.Image, &r.HostKey, &r.FirstSeen, &r.LastSeen,
			&r.Drift, &r.DriftDigest, &r.DriftSince, &r.LookedAt, &macs, &tags, &classes)
		if err != nil {
			return nil, err
		}
		b, err := parseBelongings(macs.String, tags.String, classes.String)
		if err == nil {
			out[place[r.ID]], err = machineWith(&r, b)
		}
		if err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(out, func(m inventory.Machine) bool { return m.ID == uuid.Nil }), rows.Err()
}

// loading is the query of load.
func (s *Store) loading(ids []uuid.UUID) *sqlText {
	joined, list, object := "group_concat(mac)", "json_group_array", "json_group_object"
	if s.dialect == dialect.Postgres {
		joined, list, object = "string_agg(mac, ',')", "json_agg", "json_object_agg"
	}
	q := &sqlText{store: s}
	q.WriteString(`SELECT id, site, address, state, serial, smbios_uuid, image, host_key, first_seen, last_seen, drift, drift_digest, drift_since, looked_at`)
	for _, belongs := range []struct{ to, as string }{
		{"macs", joined}, {"tags", object + "(key, value)"}, {"memberships", list + "(class)"},
	} {
		fmt.Fprintf(q, ", (SELECT %s FROM %s WHERE machine_id = machines.id)", belongs.as, belongs.to)
	}
	q.WriteString(" FROM machines WHERE ")
	q.among("machines.id", ids)
	return q
}

// parseBelongings reads what loading gives: MACs with commas between them, tags and
// classes as JSON. Each is empty, or JSON of nothing, where nothing belongs to the
// machine.
func parseBelongings(macs, tags, classes string) (b belongings, err error) {
	if macs != "" {
		b.macs = strings.Split(macs, ",")
	}
	if len(tags) > len("{}") {
		err = json.Unmarshal([]byte(tags), &b.tags)
	}
	if len(classes) > len("[]") {
		err = errors.Join(err, json.Unmarshal([]byte(classes), &b.classes))
	}
	return b, err
}
