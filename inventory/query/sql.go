package query

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Dialect is the SQL that a filter is written in.
type Dialect int

// Dialects of the catalog.
const (
	SQLite Dialect = iota
	Postgres
)

// maxSQLBytes bounds the text of a condition. Comparing conditions with each
// other doubles the text at every level.
const maxSQLBytes = 256 << 10

// SQL translates the expression to a condition for a WHERE clause over From,
// with its arguments. The condition is true exactly for the machines for which
// Eval answers True; for the others it is false or NULL. Every value of the
// expression is an argument; the text is made of fixed parts only. Placeholders
// are ? for SQLite and $1, $2 and so on for Postgres. On SQLite the condition may
// call the function regexp(pattern, text), which the catalog registers with Match.
//
// What changed lately, how long ago something was, and which leases are in force,
// is meant as of now.
//
// The error is an hcl.Diagnostics that points at the parts of the expression
// that the catalog cannot answer; nothing is ever left to a scan in memory.
func (e *Expr) SQL(dialect Dialect, now time.Time) (where string, args []any, err error) {
	w := newWriter(dialect, now)
	if e.root == Disk {
		return "", nil, hcl.Diagnostics{{
			Severity: hcl.DiagError, Summary: "Unsupported in a query",
			Detail: "An expression over a disk selects among one machine's disks; the catalog is asked about machines.",
		}}
	}
	e.node.when(w, True)
	if w.diags.HasErrors() {
		return "", nil, w.diags
	}
	return w.b.String(), w.args, nil
}

// writer collects the text of a condition and its arguments in one order.
type writer struct {
	dialect Dialect
	now     time.Time
	b       strings.Builder
	args    []any
	aliases map[*variable]string
	serial  int
	diags   hcl.Diagnostics
}

func newWriter(dialect Dialect, now time.Time) *writer {
	return &writer{dialect: dialect, now: stamp(now), aliases: map[*variable]string{}}
}

func (w *writer) put(parts ...string) {
	for _, p := range parts {
		w.b.WriteString(p)
	}
}

// full stops a translation that has failed or grown too long.
func (w *writer) full() bool {
	if w.b.Len() > maxSQLBytes && !w.diags.HasErrors() {
		w.diags = append(w.diags, &hcl.Diagnostic{
			Severity: hcl.DiagError, Summary: "Expression too large",
			Detail: fmt.Sprintf("The query of the catalog would be longer than %d bytes. Compare conditions by && and || rather than by == and !=.", maxSQLBytes),
		})
	}
	return w.diags.HasErrors()
}

func (w *writer) refuse(rng hcl.Range, format string, args ...any) {
	w.diags = append(w.diags, &hcl.Diagnostic{
		Severity: hcl.DiagError, Summary: "Unsupported in a query",
		Detail: fmt.Sprintf(format, args...), Subject: &rng,
	})
}

func (w *writer) arg(v any, postgresType string) {
	w.args = append(w.args, v)
	if w.dialect == SQLite {
		w.put("?")
		return
	}
	w.put("CAST($", strconv.Itoa(len(w.args)), " AS ", postgresType, ")")
}

// column finds where a fact is kept; name is qualified.
func (w *writer) column(r *ref) (c column, ok bool) {
	if r.hasIndex() {
		w.refuse(r.rng, "%s names an element by its place, and the catalog keeps no order of lists. Use any([for x in …]).", r)
		return c, false
	}
	if c, ok = columnOf(r); !ok {
		w.notKept(r)
	}
	if r.v != nil {
		c.name = w.aliases[r.v] + "." + c.name
	}
	return c, ok
}

// notKept refuses what the catalog has no column or table of.
func (w *writer) notKept(r *ref) {
	what, advice := r.String(), instead[r.String()]
	if r.v != nil {
		what += " of " + r.v.source.String()
	}
	if advice == "" {
		advice = askClass
	}
	w.refuse(r.rng, "%s is not kept in the catalog's index of facts. %s", what, advice)
}

// fact writes a fact's value; NULL when absent.
func (w *writer) fact(r *ref) {
	if key, ok := r.tag(); ok {
		w.put("(SELECT tags.value FROM tags WHERE tags.machine_id = machines.id AND tags.key = ")
		w.arg(key, "text")
		w.put(")")
		return
	}
	c, ok := w.column(r)
	switch {
	case !ok:
	case c.neverNull:
		w.put("COALESCE(", c.name, ", FALSE)")
	case c.maybeEmpty:
		w.put("NULLIF(", c.name, ", '')")
	case c.uuid && w.dialect == Postgres:
		w.put("CAST(", c.name, " AS text)")
	default:
		w.put(c.name)
	}
}

// rows writes the query of a list's elements that its condition keeps, left
// open for one more AND. It reports false after a complaint.
func (w *writer) rows(l *list, selection string) bool {
	t, ok := tables[l.source.String()]
	if !ok {
		w.notKept(l.source)
		return false
	}
	w.serial++
	alias := "q" + strconv.Itoa(w.serial)
	w.aliases[l.v] = alias
	if t.ofMAC {
		owner := alias + "m"
		w.put("SELECT ", selection, " FROM macs AS ", owner, " JOIN ", t.name, " AS ", alias, " ON ", alias, ".mac = ", owner, ".mac WHERE ", owner, ".machine_id = machines.id")
	} else {
		w.put("SELECT ", selection, " FROM ", t.name, " AS ", alias, " WHERE ", alias, ".machine_id = machines.id")
	}
	if t.lasting {
		w.put(" AND ", alias, ".state = 'active' AND ", alias, ".expires > ")
		w.arg(w.now, "timestamptz")
	}
	if l.cond != nil {
		w.put(" AND ")
		l.cond.when(w, True)
	}
	return true
}

// present is the condition that a list of the catalog is not absent.
func present(r *ref) string {
	if observed := tables[r.String()].observed; observed != "" {
		return observed + " IS TRUE"
	}
	return "TRUE"
}

// mostTerms is how many conditions stand beside each other. SQLite nests each of them
// in those before it, and refuses what is nested more than 1,000 deep: more are put
// in parentheses by halves.
const mostTerms = 4

// all writes conditions in parentheses, with a word between them.
func (w *writer) all(word string, writes ...func()) {
	if len(writes) > mostTerms {
		half := len(writes) / 2
		w.all(word, func() { w.all(word, writes[:half]...) }, func() { w.all(word, writes[half:]...) })
		return
	}
	w.put("(")
	for i, write := range writes {
		if i > 0 {
			w.put(" ", word, " ")
		}
		write()
	}
	w.put(")")
}

// is defers n.when, for all.
func (w *writer) is(n node, want Result) func() {
	return func() { n.when(w, want) }
}

// isNot writes that n is not want, which NULL is not either.
func (w *writer) isNot(n node, want Result) {
	w.put("(")
	n.when(w, want)
	w.put(") IS NOT TRUE")
}

func (n constant) when(w *writer, want Result) {
	if answer(bool(n)) == want {
		w.put("TRUE")
	} else {
		w.put("FALSE")
	}
}

func (n flag) when(w *writer, want Result) {
	if want == False {
		w.put("NOT ")
	}
	w.fact(n.ref)
}

func (n *not) when(w *writer, want Result) { n.arg.when(w, want.inverse()) }

func (n *kept) when(w *writer, want Result) {
	if want == False {
		w.isNot(n.arg, True)
		return
	}
	n.arg.when(w, True)
}

func (n *logic) when(w *writer, want Result) {
	if w.full() {
		return
	}
	word := "OR"
	if n.and == (want == True) {
		word = "AND"
	}
	parts := make([]func(), len(n.args))
	for i, a := range n.args {
		parts[i] = w.is(a, want)
	}
	w.all(word, parts...)
}

func (n *equality) when(w *writer, want Result) {
	if w.full() {
		return
	}
	second := answer((want == True) != n.negated)
	w.all("OR",
		func() { w.all("AND", w.is(n.a, True), w.is(n.b, second)) },
		func() { w.all("AND", w.is(n.a, False), w.is(n.b, second.inverse())) })
}

func (o operator) sql() string {
	switch o {
	case opEqual:
		return " = "
	case opNotEqual:
		return " <> "
	}
	return " " + string(o) + " "
}

func (n *compareInts) when(w *writer, want Result) {
	op := n.op
	if want == False {
		op = op.negated()
	}
	n.a.write(w)
	w.put(op.sql())
	n.b.write(w)
}

func (n *compareTexts) when(w *writer, want Result) {
	op := n.op
	if want == False {
		op = op.negated()
	}
	if w.compareUUID(op, n.a, n.b) || w.compareUUID(op, n.b, n.a) {
		return
	}
	n.a.write(w)
	w.put(op.sql())
	n.b.write(w)
	if w.dialect == Postgres && op != opEqual && op != opNotEqual {
		// Code points, whatever the database's locale.
		w.put(` COLLATE "C"`)
	}
}

// compareUUID writes the equality of a uuid column and a constant so that
// PostgreSQL can use the column's index.
func (w *writer) compareUUID(op operator, a, b text) bool {
	r, ok1 := a.(refText)
	k, ok2 := b.(constText)
	if !ok1 || !ok2 || w.dialect != Postgres || r.ref.v != nil || (op != opEqual && op != opNotEqual) {
		return false
	}
	c, ok := columns[r.ref.root+"."+r.ref.path()]
	if !ok || !c.uuid {
		return false
	}
	w.put(c.name, op.sql())
	w.arg(k.content, "uuid")
	return true
}

// when: an any is true when one row is, and false when the list is there and no
// row is anything but false. For an all it is the other way round.
func (n *quantifier) when(w *writer, want Result) {
	if w.full() {
		return
	}
	if decisive := answer(!n.all); want == decisive {
		w.exists(func() {
			if w.rows(n.list, "1") {
				w.put(" AND ")
				n.body.when(w, want)
			}
		})
		return
	}
	w.put("(", present(n.list.source), " AND NOT ")
	w.exists(func() {
		if w.rows(n.list, "1") {
			w.put(" AND ")
			w.isNot(n.body, want)
		}
	})
	w.put(")")
}

// exists writes that there are rows. PostgreSQL would at times gather those of all
// machines, be they a million, to ask them about the few of a page: the offset keeps
// it to each machine's own rows, by their index.
func (w *writer) exists(rows func()) {
	w.put("EXISTS (")
	rows()
	if w.dialect == Postgres {
		w.put(" OFFSET 0")
	}
	w.put(")")
}

func (n *changed) when(w *writer, want Result) {
	if want == False {
		w.put("(", factsPresent, " AND NOT ")
	}
	w.exists(func() {
		w.put("SELECT 1 FROM fact_changes WHERE fact_changes.machine_id = machines.id AND ")
		w.changedSince(n)
	})
	if want == False {
		w.put(")")
	}
}

// changedSince is the condition on the rows of fact_changes.
func (w *writer) changedSince(n *changed) {
	w.put("fact_changes.path = ")
	w.arg(n.ref.path(), "text")
	w.put(" AND fact_changes.at > ")
	w.arg(w.now.Add(-n.window), "timestamptz")
	w.put(" AND fact_changes.at <= ")
	w.arg(w.now, "timestamptz")
}

func (n *older) when(w *writer, want Result) {
	w.fact(n.ref)
	if want == True {
		w.put(" <= ")
	} else {
		w.put(" > ")
	}
	w.arg(w.now.Add(-n.window), "timestamptz")
}

func (n *choice) when(w *writer, want Result) {
	if w.full() {
		return
	}
	w.all("OR",
		func() { w.all("AND", w.is(n.cond, True), w.is(n.a, want)) },
		func() { w.all("AND", w.is(n.cond, False), w.is(n.b, want)) })
}

// either writes a value that depends on a condition; NULL when it is absent.
func (w *writer) either(cond node, a, b func(*writer)) {
	if w.full() {
		return
	}
	w.put("CASE WHEN ")
	cond.when(w, True)
	w.put(" THEN ")
	a(w)
	w.put(" WHEN ")
	cond.when(w, False)
	w.put(" THEN ")
	b(w)
	w.put(" END")
}

func (t constText) write(w *writer)   { w.arg(t.content, "text") }
func (t refText) write(w *writer)     { w.fact(t.ref) }
func (t *choiceText) write(w *writer) { w.either(t.cond, t.a.write, t.b.write) }

func (i constInt) write(w *writer)   { w.arg(int64(i), "bigint") }
func (i refInt) write(w *writer)     { w.fact(i.ref) }
func (i *choiceInt) write(w *writer) { w.either(i.cond, i.a.write, i.b.write) }

func (i *count) write(w *writer) {
	w.put("CASE WHEN ", present(i.list.source), " THEN (")
	w.rows(i.list, "COUNT(*)")
	w.put(") END")
}

// write makes the result NULL where it does not fit 64 bits. SQLite turns such
// a result into a REAL; PostgreSQL computes in numeric and is asked for the range.
// Without OFFSET 0 PostgreSQL would put the operation in the place of each v, which
// makes a sum of n parts 3 to the power of n of them.
func (i *arithmetic) write(w *writer) {
	if w.full() {
		return
	}
	if w.dialect == SQLite {
		w.put("(SELECT CASE typeof(v) WHEN 'integer' THEN v END FROM (SELECT (")
		i.a.write(w)
		w.put(") ", string(i.op), " (")
		i.b.write(w)
		w.put(") AS v))")
		return
	}
	w.put("(SELECT CASE WHEN v BETWEEN -9223372036854775808 AND 9223372036854775807 THEN v END FROM (SELECT CAST(")
	i.a.write(w)
	w.put(" AS numeric) ", string(i.op), " ")
	if i.op == '%' {
		w.put("NULLIF(")
	}
	w.put("CAST(")
	i.b.write(w)
	w.put(" AS numeric)")
	if i.op == '%' {
		w.put(", 0)")
	}
	w.put(" AS v OFFSET 0) AS t)")
}

func (i *sign) write(w *writer) {
	if w.full() {
		return
	}
	w.put("CASE WHEN (")
	i.arg.write(w)
	w.put(") > 0 THEN 1 WHEN (")
	i.arg.write(w)
	w.put(") < 0 THEN -1 END")
}

func (n *match) when(w *writer, want Result) {
	negated := ""
	if want == False {
		negated = "NOT "
	}
	if n.glob {
		n.arg.write(w)
		if w.dialect == SQLite {
			w.put(" ", negated, "GLOB ")
			w.arg(n.parsed.sqlite(), "text")
			return
		}
		w.put(" ", negated, "LIKE ")
		w.arg(n.parsed.like(), "text")
		return
	}
	if w.dialect == SQLite {
		w.put("CASE WHEN ")
		n.arg.write(w)
		w.put(" IS NOT NULL THEN ", negated, "regexp(")
		w.arg(n.pattern, "text")
		w.put(", ")
		n.arg.write(w)
		w.put(") END")
		return
	}
	n.arg.write(w)
	if want == False {
		w.put(" !~ ")
	} else {
		w.put(" ~ ")
	}
	w.arg(n.postgres, "text")
}
