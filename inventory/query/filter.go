package query

import (
	"cmp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/edge-provision/edge-provision/inventory"
)

// DialectOf is the dialect that the catalog names: "sqlite3" or "postgres".
func DialectOf(name string) Dialect {
	if name == "postgres" {
		return Postgres
	}
	return SQLite
}

// mostNarrowings bounds how many indexes are tried for one page.
const mostNarrowings = 4

// Filter translates the expression for pages of the catalog: the condition of
// SQL, with the ways in which indexes lead to the machines that fulfil it. text
// is the expression as it was written. The error is that of SQL.
func (e *Expr) Filter(dialect Dialect, text string, now time.Time) (inventory.Filter, error) {
	where, args, err := e.SQL(dialect, now)
	if err != nil {
		return inventory.Filter{}, err
	}
	f := inventory.Filter{Text: text, Where: inventory.Condition{SQL: where, Args: args}}
	nd := narrower{dialect: dialect}
	parts := conjuncts(e.node)
	parts = slices.DeleteFunc(parts, func(n node) bool { return nd.rank(n) == useless })
	slices.SortStableFunc(parts, func(a, b node) int { return cmp.Compare(nd.rank(b), nd.rank(a)) })
	for _, n := range parts[:min(mostNarrowings, len(parts))] {
		w := newWriter(dialect, now)
		narrowing := nd.write(w, n)
		narrowing.Where.Args = w.args
		f.Narrow = append(f.Narrow, narrowing)
	}
	return f, nil
}

// conjuncts are the conditions that must all be true for n to be.
func conjuncts(n node) []node {
	if l, ok := n.(*logic); ok && l.and {
		var out []node
		for _, a := range l.args {
			out = append(out, conjuncts(a)...)
		}
		return out
	}
	return []node{n}
}

// rank says how well an index finds the machines for which a condition is true.
type rank int

const (
	useless      rank = iota
	byRange           // all values on one side, or with one beginning
	byEquality        // one value
	inMachineIDs      // one value, its rows in the order of machines
)

// narrower finds the parts of conditions that indexes answer.
type narrower struct {
	dialect Dialect
	// loop is the list around, whose rows are searched; nil for machines.
	loop *list
}

// indexOf is the index of a column that a fact is kept in, and its table.
func (nd narrower) indexOf(r *ref) (i indexed, table string) {
	if r.hasIndex() {
		return notIndexed, ""
	}
	if nd.loop != nil {
		t := tables[nd.loop.source.String()]
		if r.v != nd.loop.v {
			return notIndexed, ""
		}
		return t.columns[r.path()].index, t.name
	}
	if r.v != nil {
		return notIndexed, ""
	}
	c := columns[r.root+"."+r.path()]
	table, _, _ = strings.Cut(c.name, ".")
	return c.index, table
}

// comparison is a fact compared with a constant; ok is false for other nodes.
func comparison(n node) (r *ref, op operator, ok bool) {
	switch n := n.(type) {
	case *compareInts:
		if fact, ok := n.a.(refInt); ok {
			_, ok = n.b.(constInt)
			return fact.ref, n.op, ok
		}
		if fact, ok := n.b.(refInt); ok {
			_, ok = n.a.(constInt)
			return fact.ref, n.op.mirrored(), ok
		}
	case *compareTexts:
		if fact, ok := n.a.(refText); ok {
			_, ok = n.b.(constText)
			return fact.ref, n.op, ok
		}
		if fact, ok := n.b.(refText); ok {
			_, ok = n.a.(constText)
			return fact.ref, n.op.mirrored(), ok
		}
	}
	return nil, "", false
}

func (nd narrower) rank(n node) rank {
	switch n := n.(type) {
	case *compareInts, *compareTexts:
		return nd.rankComparison(n)
	case *match:
		r, ok := n.arg.(refText)
		if !ok || n.prefix() == "" {
			return useless
		}
		i, _ := nd.indexOf(r.ref)
		if i == notIndexed || nd.dialect == Postgres && !columns[r.ref.root+"."+r.ref.path()].prefixes {
			return useless
		}
		return byRange
	case *changed:
		return byRange
	case *older:
		if i, _ := nd.indexOf(n.ref); i == notIndexed {
			return useless
		}
		return byRange
	case *quantifier:
		if n.all || nd.loop != nil {
			return useless
		}
		_, best := narrower{nd.dialect, n.list}.best(n.parts())
		return best
	case *logic:
		if n.and {
			_, best := nd.best(n.args)
			return best
		}
		if nd.loop != nil {
			return useless
		}
		worst := byEquality
		for _, a := range n.args {
			worst = min(worst, nd.rank(a))
		}
		return worst
	}
	return useless
}

func (nd narrower) rankComparison(n node) rank {
	r, op, ok := comparison(n)
	if !ok || op == opNotEqual {
		return useless
	}
	_, isText := n.(*compareTexts)
	if _, isTag := r.tag(); isTag {
		if op != opEqual || nd.loop != nil {
			return useless
		}
		return inMachineIDs
	}
	i, _ := nd.indexOf(r)
	switch {
	case i == notIndexed:
		return useless
	case op == opEqual && i == byValueAndMachine:
		return inMachineIDs
	case op == opEqual:
		return byEquality
	case isText && nd.dialect == Postgres:
		return useless
	}
	return byRange
}

// best is the condition that an index answers best.
func (nd narrower) best(of []node) (best node, at rank) {
	for _, n := range of {
		if r := nd.rank(n); r > at {
			best, at = n, r
		}
	}
	return best, at
}

// parts are the conditions that one element of any(…) must fulfil.
func (n *quantifier) parts() []node {
	parts := conjuncts(n.body)
	if n.list.cond != nil {
		parts = append(parts, conjuncts(n.list.cond)...)
	}
	return parts
}

// write makes the narrowing of a condition that is not useless. Its arguments
// are left in w.
func (nd narrower) write(w *writer, n node) inventory.Narrowing {
	out := inventory.Narrowing{Ordered: nd.rank(n) == inMachineIDs}
	start := w.b.Len()
	switch n := n.(type) {
	case *changed:
		out.Table, out.ID = "fact_changes", "fact_changes.machine_id"
		w.changedSince(n)
	case *older:
		out.Table, out.ID = nd.place(n.ref)
		n.when(w, True)
	case *quantifier:
		inner := narrower{nd.dialect, n.list}
		best, _ := inner.best(n.parts())
		w.aliases[n.list.v] = tables[n.list.source.String()].name
		return inner.write(w, best)
	case *logic:
		if n.and {
			best, _ := nd.best(n.args)
			return nd.write(w, best)
		}
		var arms []string
		for _, a := range n.args {
			arm := nd.write(w, a)
			arms = append(arms, "SELECT "+arm.ID+" AS machine_id FROM "+arm.Table+" WHERE "+arm.Where.SQL)
		}
		out.Table, out.ID = "("+union(arms)+") AS narrowed", "narrowed.machine_id"
		out.Where.SQL = "TRUE"
		return out
	case *match:
		out.Table, out.ID = nd.place(n.arg.(refText).ref)
		// The tildes compare by code point; they go with text_pattern_ops.
		least, below := " >= ", " < "
		if nd.dialect == Postgres {
			least, below = " ~>=~ ", " ~<~ "
		}
		n.arg.write(w)
		w.put(least)
		w.arg(n.prefix(), "text")
		if end := after(n.prefix()); end != "" {
			w.put(" AND ")
			n.arg.write(w)
			w.put(below)
			w.arg(end, "text")
		}
	default:
		r, _, _ := comparison(n)
		if key, isTag := r.tag(); isTag {
			out.Table, out.ID = "tags", "tags.machine_id"
			w.put("tags.key = ")
			w.arg(key, "text")
			w.put(" AND tags.value = ")
			w.arg(constantOf(n), "text")
			break
		}
		out.Table, out.ID = nd.place(r)
		n.when(w, True)
	}
	out.Where.SQL = w.b.String()[start:]
	return out
}

// mostArms bounds what one UNION ALL joins: SQLite takes 500.
const mostArms = 256

// union joins queries of machine_id, however many.
func union(arms []string) string {
	for len(arms) > mostArms {
		var joined []string
		for part := range slices.Chunk(arms, mostArms) {
			joined = append(joined, "SELECT machine_id FROM ("+strings.Join(part, " UNION ALL ")+") AS part")
		}
		arms = joined
	}
	return strings.Join(arms, " UNION ALL ")
}

// constantOf is the constant string that a fact is compared with.
func constantOf(n node) string {
	c, ok := n.(*compareTexts)
	if !ok {
		return ""
	}
	if t, ok := c.a.(constText); ok {
		return t.content
	}
	if t, ok := c.b.(constText); ok {
		return t.content
	}
	return ""
}

// place is the table of a fact and its column of machine ids.
func (nd narrower) place(r *ref) (table, id string) {
	_, table = nd.indexOf(r)
	switch {
	case table == "machines":
		return table, "machines.id"
	case nd.loop != nil && tables[nd.loop.source.String()].ofMAC:
		return table + " JOIN macs ON macs.mac = " + table + ".mac", "macs.machine_id"
	}
	return table, table + ".machine_id"
}

// after is the first string behind all that begin with prefix, by code point;
// empty when there is none.
func after(prefix string) string {
	runes := []rune(prefix)
	for len(runes) > 0 {
		last := len(runes) - 1
		switch r := runes[last]; r {
		case utf8.MaxRune:
			runes = runes[:last]
			continue
		case 0xd7ff:
			runes[last] = 0xe000 // what lies between are surrogates
		default:
			runes[last] = r + 1
		}
		return string(runes)
	}
	return ""
}

// prefix is what every string that matches begins with; empty when nothing
// certain is known.
func (n *match) prefix() string {
	if n.glob {
		var b strings.Builder
		for _, t := range n.parsed {
			if t.kind != 'l' {
				break
			}
			b.WriteRune(t.char)
		}
		return b.String()
	}
	tree, err := syntax.Parse(n.pattern, syntax.Perl)
	if err != nil {
		return ""
	}
	tree = tree.Simplify()
	if tree.Op != syntax.OpConcat || len(tree.Sub) < 2 || tree.Sub[0].Op != syntax.OpBeginText {
		return ""
	}
	if lit := tree.Sub[1]; lit.Op == syntax.OpLiteral && lit.Flags&syntax.FoldCase == 0 {
		return string(lit.Rune)
	}
	return ""
}
