package store

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"time"

	"entgo.io/ent/dialect"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

const (
	// fewMachines is how many machines a narrowing may leave for all of them to
	// be looked at. Above it the machines that fit are common enough to be met
	// in the order of the page.
	fewMachines = 1_000
	// entriesOfMachine is how many entries of an index are read, and sorted by id, in
	// the time of looking at a machine: 8 of a million machines on PostgreSQL.
	entriesOfMachine = 8
	// unknownMachines is for how many a catalog is taken that PostgreSQL has not
	// analyzed yet.
	unknownMachines = 100_000
	// firstChunk and lastChunk bound how many machines one query looks at: few
	// at first, for filters that nearly all machines pass.
	firstChunk, lastChunk = 128, 4_096
)

// pager finds the machines of one page.
type pager struct {
	store    *Store
	site     string
	filter   inventory.Filter
	order    order
	query    string // fingerprint
	limit    int
	budget   int
	deadline time.Duration
	chunk    int // firstChunk but in tests
	size     int // of the next chunk
	sorted   int // up to how many entries of a narrowing are sorted by id

	last     position // looked at last; meaningless until started
	started  bool
	hits     []position // at most limit+1
	examined int
	partial  bool
}

func (s *Store) newPager(r PageRequest) (*pager, error) {
	o, err := parseSort(r.Sort)
	if err != nil {
		return nil, err
	}
	if r.Limit < 0 || r.Limit > MaxPageLimit {
		return nil, &RequestError{Field: "limit", Reason: fmt.Sprintf("a page has 1 to %d machines, not %d", MaxPageLimit, r.Limit)}
	}
	p := &pager{store: s, site: r.Site, filter: r.Filter, order: o, limit: r.Limit, budget: r.RowBudget, deadline: r.Deadline, chunk: firstChunk, size: firstChunk}
	defaultTo(&p.limit, DefaultPageLimit)
	defaultTo(&p.budget, DefaultRowBudget)
	defaultTo(&p.deadline, DefaultPageDeadline)
	if p.filter.Where.SQL == "" {
		// Each machine fits: the first chunk is the page, and one to prove the next.
		p.filter.Where, p.size = inventory.Condition{SQL: "TRUE"}, min(p.size, p.limit+1)
	}
	p.query = fingerprint(r.Site, r.Filter.Text, o)
	if r.Cursor != "" {
		if p.last, err = openPosition(p.query, r.Cursor); err != nil {
			return nil, err
		}
		p.started = true
	}
	return p, nil
}

func (p *pager) cursor(at position) string { return sealPosition(p.query, at) }

// full says that the page needs nothing more: it has one hit beyond its limit,
// which proves that there is a next page.
func (p *pager) full() bool { return len(p.hits) > p.limit }

// run looks for hits, the cheapest way.
func (p *pager) run(ctx context.Context) error {
	narrow := p.filter.Narrow
	if p.site != "" {
		narrow = append([]inventory.Narrowing{{
			Table: "machines", ID: "id", Where: inventory.Condition{SQL: "machines.site = " + p.store.placeholder(1), Args: []any{p.site}},
		}}, narrow...)
	}
	walked, byID := -1, p.order.kind == keyID && !p.order.desc
	if byID {
		walked = slices.IndexFunc(narrow, func(n inventory.Narrowing) bool { return n.Ordered })
	}
	if walked >= 0 {
		// The first of them are often enough for the page: sooner looked at than
		// the other narrowings are compared with this one.
		more, err := p.step(ctx, p.along(narrow[walked]))
		if err != nil || !more {
			return err
		}
	}
	for i, n := range narrow {
		if i == walked && i == len(narrow)-1 {
			break // and nothing else is left to be compared with
		}
		count, err := p.countTo(ctx, n, p.store.few)
		switch {
		case err != nil:
			return err
		case count > p.store.few:
			continue
		case i == walked:
			return p.chunks(ctx, p.along(n))
		}
		return p.fewOf(ctx, n)
	}
	if walked >= 0 {
		return p.chunks(ctx, p.along(narrow[walked]))
	}
	if !byID || len(narrow) == 0 {
		return p.scan(ctx)
	}
	return p.sortOrScan(ctx, narrow)
}

// sortOrScan looks along the first of the narrowings that leaves so few machines that
// it is sooner to sort them by id, each time, than to meet enough of them in that
// order; or at all machines.
func (p *pager) sortOrScan(ctx context.Context, narrow []inventory.Narrowing) error {
	machines, err := p.machines(ctx)
	if err != nil {
		return err
	}
	// One in machines/n fits: n entries cost less than (limit+1)*machines/n machines.
	p.sorted = int(math.Sqrt(entriesOfMachine * float64(p.limit+1) * machines))
	for _, n := range narrow {
		count, err := p.countTo(ctx, n, p.sorted)
		if err != nil {
			return err
		}
		if count <= p.sorted {
			return p.chunks(ctx, p.along(n))
		}
	}
	return p.scan(ctx)
}

// machines is about how many machines the catalog has: SQLite tells its last row, and
// PostgreSQL what it found when it last analyzed the table.
func (p *pager) machines(ctx context.Context) (float64, error) {
	query := "SELECT COALESCE(MAX(rowid), 0) FROM machines"
	if p.store.dialect == dialect.Postgres {
		query = "SELECT reltuples FROM pg_class WHERE oid = CAST('machines' AS regclass)"
	}
	var about float64
	if err := p.store.page.db.QueryRowContext(ctx, query).Scan(&about); err != nil {
		return 0, err
	}
	if about <= 0 {
		about = unknownMachines
	}
	return about, nil
}

// countTo is how many rows a narrowing leaves, or one more than most.
func (p *pager) countTo(ctx context.Context, n inventory.Narrowing, most int) (count int, err error) {
	err = p.store.page.db.QueryRowContext(ctx,
		fmt.Sprintf("SELECT COUNT(*) FROM (SELECT 1 FROM %s WHERE (%s) LIMIT %d) AS found", n.Table, n.Where.SQL, most+1), n.Where.Args...).Scan(&count)
	return count, err
}

// fewOf looks at the machines for which a narrowing is true, which are few.
func (p *pager) fewOf(ctx context.Context, n inventory.Narrowing) error {
	q := &sqlText{store: p.store, args: n.Where.Args}
	fmt.Fprintf(q, "SELECT %s FROM %s WHERE (%s)", n.ID, n.Table, n.Where.SQL)
	ids, err := p.ids(ctx, q)
	if err != nil {
		return err
	}
	slices.SortFunc(ids, compareIDs)
	return p.few(ctx, slices.Compact(ids))
}

// behindIn is the query of at most limit machines behind p.last for which a
// narrowing is true, in the order of their ids, with the filter's answer beside
// each: one query, because asking for the ids first costs as much again. Where the
// narrowing is not ordered they are those of limit rows, which may be fewer: to
// make thousands of rows distinct costs more than to take the first of them.
func (p *pager) behindIn(n inventory.Narrowing, limit int) *sqlText {
	const withFacts = "machines LEFT JOIN machine_facts ON machine_facts.machine_id = machines.id WHERE "
	q := &sqlText{store: p.store}
	if n.Ordered && n.Table == "machines" {
		p.verdictsWithin(q)
		q.WriteString(withFacts)
		q.condition(n.Where)
		q.WriteString(" AND machines.id > ")
		q.arg(p.last.id)
		fmt.Fprintf(q, " ORDER BY machines.id LIMIT %d", limit)
		return q
	}
	id := n.ID
	if n.Ordered {
		fmt.Fprintf(q, "WITH next AS (SELECT DISTINCT %s AS id FROM %s WHERE ", id, n.Table)
		q.condition(n.Where)
	} else {
		// The limit, which countTo has proven to cut nothing, keeps SQLite from
		// taking an index on the machine in place of the narrowing's.
		id = "found.id"
		fmt.Fprintf(q, "WITH next AS (SELECT DISTINCT id FROM (SELECT found.id AS id FROM (SELECT %s AS id FROM %s WHERE ", n.ID, n.Table)
		q.condition(n.Where)
		fmt.Fprintf(q, " LIMIT %d) AS found WHERE TRUE", p.sorted+1)
	}
	fmt.Fprintf(q, " AND %s > ", id)
	q.arg(p.last.id)
	fmt.Fprintf(q, " ORDER BY 1 LIMIT %d) ", limit)
	if !n.Ordered {
		q.WriteString("AS nearest) ")
	}
	p.verdictsWithin(q)
	// CROSS JOIN makes SQLite begin with the ids.
	q.WriteString("next CROSS JOIN " + withFacts + "machines.id = next.id ORDER BY machines.id")
	return q
}

// verdictsWithin is verdicts for a page in the order of ids, where a machine of
// another site is one that does not fit.
func (p *pager) verdictsWithin(q *sqlText) {
	q.WriteString("SELECT machines.id, CASE WHEN ")
	q.condition(p.filter.Where)
	p.within(q, "machines.site")
	q.WriteString(" THEN TRUE ELSE FALSE END FROM ")
}

// ids runs a query of ids.
func (p *pager) ids(ctx context.Context, q *sqlText) ([]uuid.UUID, error) {
	rows, err := p.store.page.db.QueryContext(ctx, q.String(), q.args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []uuid.UUID
	var id uuid.UUID
	for rows.Next() {
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, rows.Err()
}

// few looks at few machines: in the order of their ids until the page is full, or,
// in another order, at all of them.
func (p *pager) few(ctx context.Context, ids []uuid.UUID) error {
	if p.order.kind == keyID {
		return p.fewByID(ctx, ids)
	}
	if len(ids) == 0 {
		return nil
	}
	q := p.selection(ids)
	if p.started {
		q.WriteString(" AND ")
		p.behind(q)
	}
	fmt.Fprintf(q, " ORDER BY %s LIMIT %d", p.orderBy(), p.limit+1)
	if err := p.collect(ctx, q); err != nil {
		return err
	}
	p.examined += len(ids)
	return nil
}

// collect takes all machines of a query, or none when it fails: p.last, from
// which the next page goes on, moves behind all of them at once.
func (p *pager) collect(ctx context.Context, q *sqlText) error {
	var found []position
	if err := p.read(ctx, q, func(at position, _ bool) { found = append(found, at) }); err != nil {
		return err
	}
	p.hits = append(p.hits, found...)
	return nil
}

// fewByID is few for ids in their order.
func (p *pager) fewByID(ctx context.Context, ids []uuid.UUID) error {
	if p.order.desc {
		slices.Reverse(ids)
	}
	if p.started {
		ids = slices.DeleteFunc(ids, func(id uuid.UUID) bool {
			side := compareIDs(id, p.last.id)
			return side == 0 || (side < 0) != p.order.desc
		})
	}
	return p.chunks(ctx, func(ctx context.Context, most int) (int, bool, error) {
		part := ids[:min(most, len(ids))]
		ids = ids[len(part):]
		looked, err := p.lookAmong(ctx, part)
		return looked, len(ids) == 0, err
	})
}

// lookAmong looks at the machines with the ids, which are in the order of the
// page, by id.
func (p *pager) lookAmong(ctx context.Context, ids []uuid.UUID) (int, error) {
	if len(ids) == 0 {
		return 0, nil
	}
	q := p.selection(ids)
	fmt.Fprintf(q, " ORDER BY %s LIMIT %d", p.orderBy(), p.limit+1-len(p.hits))
	if err := p.collect(ctx, q); err != nil {
		return 0, err
	}
	p.last.id = ids[len(ids)-1]
	return len(ids), nil
}

// selection is the query of the machines among ids that fit.
func (p *pager) selection(ids []uuid.UUID) *sqlText {
	q := &sqlText{store: p.store, args: p.filter.Where.Args[:len(p.filter.Where.Args):len(p.filter.Where.Args)]}
	fmt.Fprintf(q, "SELECT %s, TRUE FROM machines LEFT JOIN machine_facts ON machine_facts.machine_id = machines.id WHERE (%s)", p.columns("machines.id"), p.filter.Where.SQL)
	p.within(q, "machines.site")
	q.WriteString(" AND ")
	q.among("machines.id", ids)
	return q
}

// within keeps the page in its site.
func (p *pager) within(q *sqlText, column string) {
	if p.site == "" {
		return
	}
	q.WriteString(" AND " + column + " = ")
	q.arg(p.site)
}

// columns are the id and the sort key of a row.
func (p *pager) columns(id string) string {
	if p.order.kind == keyID {
		return id
	}
	return id + ", " + p.order.column
}

func (p *pager) orderBy() string {
	direction := ""
	if p.order.desc {
		direction = " DESC"
	}
	if p.order.kind == keyID {
		return "machines.id" + direction
	}
	return fmt.Sprintf("%[1]s IS NULL, %[1]s%[2]s, machines.id%[2]s", p.order.column, direction)
}

// behind is the condition of being behind p.last in the order of the page.
func (p *pager) behind(q *sqlText) {
	switch {
	case p.order.kind == keyID:
		q.WriteString("machines.id" + p.beyond())
		q.arg(p.last.id)
	case p.last.atAbsent():
		q.WriteString(p.order.column + " IS NULL")
	case p.last.absent:
		q.WriteString("(" + p.order.column + " IS NULL AND machines.id" + p.beyond())
		q.arg(p.last.id)
		q.WriteString(")")
	default:
		q.WriteString("(" + p.order.column + " IS NULL OR ")
		p.behindKey(q, "machines.id")
		q.WriteString(")")
	}
}

// behindKey compares sort key and id with those of p.last.
func (p *pager) behindKey(q *sqlText, id string) {
	q.WriteString("(" + p.order.column + ", " + id + ")" + p.beyond() + "(")
	q.arg(p.order.key(p.last))
	q.WriteString(", ")
	q.arg(p.last.id)
	q.WriteString(")")
}

func (p *pager) beyond() string {
	if p.order.desc {
		return " < "
	}
	return " > "
}

// read runs a query of columns and a verdict.
func (p *pager) read(ctx context.Context, q *sqlText, row func(at position, fits bool)) error {
	rows, err := p.store.page.db.QueryContext(ctx, q.String(), q.args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	targets, done := p.order.scan()
	var fits sql.NullBool
	targets = append(targets, &fits)
	for rows.Next() {
		if err := rows.Scan(targets...); err != nil {
			return err
		}
		row(done(), fits.Bool)
	}
	return rows.Err()
}

// looker looks at no more than most machines that come next, and says at how many it
// has, and whether none are behind them. What it has looked at counts also when it
// fails: p.last is behind it.
type looker func(ctx context.Context, most int) (looked int, end bool, err error)

// chunks calls look with growing numbers of machines to look at, until the page
// is full, there is nothing more, or the budget is used up.
func (p *pager) chunks(ctx context.Context, look looker) error {
	for {
		if more, err := p.step(ctx, look); err != nil || !more {
			return err
		}
	}
}

// step is one of chunks; more says that it was not the last.
func (p *pager) step(ctx context.Context, look looker) (more bool, err error) {
	most := min(p.size, p.probablyEnough(), p.budget-p.examined)
	if most <= 0 {
		p.partial = true
		return false, nil
	}
	p.size = min(4*p.size, lastChunk)
	looked, end, err := look(ctx, most)
	p.examined += looked
	return err == nil && !end && !p.full(), err
}

// probablyEnough is how many machines to look at next to fill the page, if as many
// of them fit as until now.
func (p *pager) probablyEnough() int {
	if len(p.hits) == 0 {
		return lastChunk
	}
	wanted := p.limit + 1 - len(p.hits)
	return min(lastChunk, p.chunk/4+wanted*p.examined/len(p.hits))
}

// along looks at the machines of a narrowing in the order of their ids.
func (p *pager) along(n inventory.Narrowing) looker {
	return func(ctx context.Context, most int) (int, bool, error) {
		looked, err := p.look(ctx, p.behindIn(n, most))
		return looked, looked == 0 || n.Ordered && looked < most, err
	}
}

// scan looks at all machines in the order of the page: first those that have
// the sort key, by its index, then those that lack it, by their ids.
func (p *pager) scan(ctx context.Context) error {
	if !p.last.absent {
		if err := p.chunks(ctx, p.lookAtKey); err != nil || p.full() || p.partial || !p.order.nullable {
			return err
		}
		p.last, p.started = position{absent: true}, true
	}
	return p.chunks(ctx, p.lookAtAbsent)
}

// lookAtKey looks at machines that have the sort key.
func (p *pager) lookAtKey(ctx context.Context, most int) (looked int, end bool, err error) {
	id := "machines.id"
	var q *sqlText
	if p.order.ofFacts {
		// CROSS JOIN makes SQLite begin with the table whose index is in order.
		id = "machine_facts.machine_id"
		q = p.verdicts(id)
		q.WriteString("machine_facts CROSS JOIN machines WHERE machines.id = machine_facts.machine_id")
	} else {
		q = p.verdicts(id)
		p.withFacts(q)
	}
	p.withinSite(q)
	if p.order.kind != keyID && p.order.nullable {
		q.WriteString(" AND " + p.order.column + " IS NOT NULL")
	}
	if p.started {
		q.WriteString(" AND ")
		if p.order.kind == keyID {
			q.WriteString("machines.id" + p.beyond())
			q.arg(p.last.id)
		} else {
			p.behindKey(q, id)
		}
	}
	direction := ""
	if p.order.desc {
		direction = " DESC"
	}
	if p.order.kind == keyID {
		fmt.Fprintf(q, " ORDER BY %s%s LIMIT %d", id, direction, most)
	} else {
		fmt.Fprintf(q, " ORDER BY %s%s, %s%s LIMIT %d", p.order.column, direction, id, direction, most)
	}
	looked, err = p.look(ctx, q)
	return looked, looked < most, err
}

// lookAtAbsent looks at the machines that lack the sort key. Those that have it
// are skipped at the cost of reading it, and so count as looked at.
func (p *pager) lookAtAbsent(ctx context.Context, most int) (looked int, end bool, err error) {
	q := p.verdicts("machines.id")
	p.withFacts(q)
	p.withinSite(q)
	if !p.last.atAbsent() {
		q.WriteString(" AND machines.id" + p.beyond())
		q.arg(p.last.id)
	}
	direction := ""
	if p.order.desc {
		direction = " DESC"
	}
	fmt.Fprintf(q, " ORDER BY machines.id%s LIMIT %d", direction, most)
	looked, err = p.look(ctx, q)
	return looked, looked < most, err
}

// verdicts is the beginning of a query of machines with the filter's answer beside
// each; from where follows.
func (p *pager) verdicts(id string) *sqlText {
	q := &sqlText{store: p.store, args: p.filter.Where.Args[:len(p.filter.Where.Args):len(p.filter.Where.Args)]}
	fmt.Fprintf(q, "SELECT %s, CASE WHEN %s THEN TRUE ELSE FALSE END FROM ", p.columns(id), p.filter.Where.SQL)
	return q
}

// withFacts joins machines and their facts.
func (p *pager) withFacts(q *sqlText) {
	q.WriteString("machines LEFT JOIN machine_facts ON machine_facts.machine_id = machines.id")
	if p.started && (p.order.kind == keyID || p.last.absent) && !p.last.atAbsent() {
		// It follows from what is asked of the machines, but PostgreSQL would not
		// see it and merge both tables from their beginning.
		q.WriteString(" AND machine_facts.machine_id" + p.beyond())
		q.arg(p.last.id)
	}
	q.WriteString(" WHERE TRUE")
}

// withinSite keeps the page in its site. The sum keeps the databases from choosing
// the site's index, after which they would have to sort.
func (p *pager) withinSite(q *sqlText) { p.within(q, "machines.site || ''") }

func (p *pager) look(ctx context.Context, q *sqlText) (int, error) {
	wantAbsent, looked := p.last.absent, 0
	err := p.read(ctx, q, func(at position, fits bool) {
		looked++
		absent := at.absent
		at.absent = wantAbsent
		p.last, p.started = at, true
		if fits && absent == wantAbsent && !p.full() {
			p.hits = append(p.hits, at)
		}
	})
	return looked, err
}
