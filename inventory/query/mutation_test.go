package query

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

// The differential test is only worth what it would find. Here every rule of the
// translation is broken in turn, and the test must notice.

// mutation breaks one rule of the translation to SQL. Its functions return what
// they were given where the rule does not apply; what they return instead
// evaluates as before and is only written differently.
type mutation struct {
	name string
	node func(node) node
	text func(text) text
	int  func(integer) integer
	list func(*list) *list
	// during changes the tables of column.go while it runs; nil otherwise.
	during func() (undo func())
	// needs is what an expression must hold for the rule to matter.
	needs string
	only  []Dialect // nil for both
}

// mutant is e with a mutation in it, and whether the mutation found its rule.
func (m mutation) mutant(e *Expr) (*Expr, bool) {
	s := &surgeon{mutation: m}
	out := *e
	out.node = s.condition(e.node)
	return &out, s.cuts > 0
}

// broken are the mutations, at least one for each operator and function.
func broken() []mutation {
	out := []mutation{
		{name: "&& as ||", needs: "&&", node: func(n node) node {
			if l, ok := n.(*logic); ok && l.and {
				return as(n, &logic{and: false, args: l.args})
			}
			return n
		}},
		{name: "|| as &&", needs: "||", node: func(n node) node {
			if l, ok := n.(*logic); ok && !l.and {
				return as(n, &logic{and: true, args: l.args})
			}
			return n
		}},
		{name: "! left out", needs: "!(", node: func(n node) node {
			if x, ok := n.(*not); ok {
				return as(n, x.arg)
			}
			return n
		}},
		{name: "! takes absent for false", needs: "!(", node: func(n node) node {
			if x, ok := n.(*not); ok {
				return written{n, func(w *writer, want Result) {
					if want == True {
						w.isNot(x.arg, True)
					} else {
						x.arg.when(w, True)
					}
				}}
			}
			return n
		}},
		{name: "== of conditions as !=", needs: ") == (", node: func(n node) node {
			if x, ok := n.(*equality); ok && !x.negated {
				return as(n, &equality{negated: true, a: x.a, b: x.b})
			}
			return n
		}},
		{name: "!= of conditions as ==", needs: ") != (", node: func(n node) node {
			if x, ok := n.(*equality); ok && x.negated {
				return as(n, &equality{a: x.a, b: x.b})
			}
			return n
		}},
		{name: "? : the wrong way round", needs: " ? ", node: func(n node) node {
			if x, ok := n.(*choice); ok {
				return as(n, &choice{x.cond, x.b, x.a})
			}
			return n
		}},
		{name: "? : of strings the wrong way round", needs: " ? ", text: func(t text) text {
			if x, ok := t.(*choiceText); ok {
				return &choiceText{x.cond, x.b, x.a}
			}
			return t
		}},
		{name: "? : of numbers the wrong way round", needs: " ? ", int: func(i integer) integer {
			if x, ok := i.(*choiceInt); ok {
				return &choiceInt{x.cond, x.b, x.a}
			}
			return i
		}},
		{name: "+ as -", needs: " + ", int: arith('+', '-')},
		{name: "- as +", needs: " - ", int: arith('-', '+')},
		{name: "* as +", needs: " * ", int: arith('*', '+')},
		{name: "% as *", needs: " % ", int: arith('%', '*')},
		{name: "/ by a negative number without its sign", needs: " / ", int: func(i integer) integer {
			if s, ok := i.(*sign); ok {
				return writtenInt{i, func(w *writer) {
					w.put("CASE WHEN (")
					s.arg.write(w)
					w.put(") <> 0 THEN 1 END")
				}}
			}
			return i
		}},
		{name: "overflow not seen", needs: " * ", int: func(i integer) integer {
			if a, ok := i.(*arithmetic); ok && a.op == '*' {
				return writtenInt{i, func(w *writer) {
					w.put("(CAST(")
					a.a.write(w)
					w.put(" AS numeric) * ")
					a.b.write(w)
					w.put(")")
				}}
			}
			return i
		}},
		{name: "any as all", needs: "any([for v", node: func(n node) node {
			if q, ok := n.(*quantifier); ok && !q.all && q.contains == nil {
				return as(n, &quantifier{all: true, list: q.list, body: q.body})
			}
			return n
		}},
		{name: "all as any", needs: "all([for v", node: func(n node) node {
			if q, ok := n.(*quantifier); ok && q.all {
				return as(n, &quantifier{list: q.list, body: q.body})
			}
			return n
		}},
		{name: "any over a list that is absent is false", needs: "any([for v", node: func(n node) node {
			if q, ok := n.(*quantifier); ok && !q.all {
				return written{n, func(w *writer, want Result) {
					if want == True {
						q.when(w, True)
						return
					}
					w.put("NOT EXISTS (")
					w.rows(q.list, "1")
					w.put(" AND ")
					w.isNot(q.body, False)
					w.put(")")
				}}
			}
			return n
		}},
		{name: "if of a loop left out", needs: " if ", list: func(l *list) *list {
			if l.cond == nil {
				return l
			}
			c := *l
			c.cond = nil
			return &c
		}},
		{name: "if of a written-out loop keeps what is absent", needs: `"?"] : `, node: func(n node) node {
			if k, ok := n.(*kept); ok {
				return written{n, func(w *writer, want Result) {
					if want == True {
						w.isNot(k.arg, False)
					} else {
						k.arg.when(w, False)
					}
				}}
			}
			return n
		}},
		{name: "contains as its negation", needs: "contains(facts", node: func(n node) node {
			if q, ok := n.(*quantifier); ok && q.contains != nil {
				return as(n, &quantifier{list: q.list, body: &not{q.body}})
			}
			return n
		}},
		{name: "length counts one more", needs: "length(", int: func(i integer) integer {
			if c, ok := i.(*count); ok {
				return &arithmetic{'+', c, constInt(1)}
			}
			return i
		}},
		{name: "missing as its negation", needs: "missing(", node: func(n node) node {
			if m, ok := n.(*missing); ok {
				return as(n, &not{m})
			}
			return n
		}},
		{name: "missing takes an object for missing when a part of it is", needs: "missing(facts.", node: func(n node) node {
			if m, ok := n.(*missing); ok && m.ref != nil && m.ref.typ.kind == kindObject && !m.ref.isFacts() {
				return written{n, func(w *writer, want Result) {
					word := map[Result]string{True: "OR", False: "AND"}[want]
					var parts []func()
					for _, leaf := range m.ref.leaves() {
						parts = append(parts, func() { w.missingLeaf(leaf, want) })
					}
					w.all(word, parts...)
				}}
			}
			return n
		}},
		{name: "missing(facts) asks for one of them", needs: "missing(facts)", node: func(n node) node {
			if m, ok := n.(*missing); ok && m.ref != nil && m.ref.isFacts() {
				one, _ := Parse("missing(facts.memory.bytes)", Machine)
				return as(n, one.node)
			}
			return n
		}},
		{name: "regex as its negation", needs: "regex(", node: func(n node) node {
			if m, ok := n.(*match); ok && !m.glob {
				return as(n, &not{m})
			}
			return n
		}},
		{name: "regex must match the whole", needs: "regex(", node: func(n node) node {
			if m, ok := n.(*match); ok && !m.glob {
				b := *m
				b.pattern, b.postgres = "^(?:"+m.pattern+")$", `\A(?:`+m.postgres+`)\Z`
				return as(n, &b)
			}
			return n
		}},
		{name: "* of glob as ?", needs: "glob(", node: func(n node) node {
			if m, ok := n.(*match); ok && m.glob {
				b := *m
				b.parsed = slices.Clone(m.parsed)
				for i := range b.parsed {
					if b.parsed[i].kind == '*' {
						b.parsed[i].kind = '?'
					}
				}
				return as(n, &b)
			}
			return n
		}},
		{name: "changed looks back twice as far", needs: "changed(", node: func(n node) node {
			if c, ok := n.(*changed); ok {
				return as(n, &changed{ref: c.ref, window: 2 * c.window})
			}
			return n
		}},
		{name: "changed looks ahead", needs: "changed(", node: func(n node) node {
			if c, ok := n.(*changed); ok {
				return written{n, func(w *writer, want Result) {
					now := w.now
					w.now = now.Add(2 * c.window)
					(&changed{ref: c.ref, window: 3 * c.window}).when(w, want)
					w.now = now
				}}
			}
			return n
		}},
		{name: "older looks back twice as far", needs: "older(", node: func(n node) node {
			if o, ok := n.(*older); ok {
				return as(n, &older{ref: o.ref, window: 2 * o.window})
			}
			return n
		}},
		{name: "older leaves out what is exactly as old", needs: "older(", node: func(n node) node {
			if o, ok := n.(*older); ok {
				return as(n, &older{ref: o.ref, window: o.window + time.Microsecond})
			}
			return n
		}},
		{name: "a time that is not known is long ago", needs: "older(", node: func(n node) node {
			if o, ok := n.(*older); ok {
				return written{n, func(w *writer, want Result) {
					if want == True {
						w.isNot(o, False)
					} else {
						o.when(w, False)
					}
				}}
			}
			return n
		}},
		{name: "another tag", needs: "machine.tags", text: func(t text) text {
			if r, ok := t.(refText); ok {
				if key, ok := r.ref.tag(); ok {
					other := map[string]string{"a": "location", "location": "a", "asset-1": "a"}[key]
					return writtenText{t, refText{&ref{root: "machine", steps: []step{{name: "tags"}, {name: other, isKey: true}}}}.write}
				}
			}
			return t
		}},
		{name: "leases that ended count", needs: "machine.leases", during: func() func() {
			old := tables["machine.leases"]
			lasting := old
			lasting.lasting = false
			tables["machine.leases"] = lasting
			return func() { tables["machine.leases"] = old }
		}},
		{name: "a list that nobody looked for is empty", needs: "facts.disks", during: func() func() {
			return observed("facts.disks", "("+factsPresent+")")
		}},
		{name: "an empty list is one that nobody looked for", needs: "facts.disks", during: func() func() {
			return observed("facts.disks", "EXISTS (SELECT 1 FROM disks AS some WHERE some.machine_id = machines.id)")
		}},
		{name: "a list of modules goes by the list of disks", needs: "facts.memory.modules", during: func() func() {
			return observed("facts.memory.modules", "machine_facts.disks_observed")
		}},
		{name: "an empty string of a lease is a string", needs: "leases", during: func() func() {
			return mark("machine.leases", "hostname", func(c *column) { c.maybeEmpty = false })
		}},
		{name: "a NIC without boot says nothing", needs: "boot", during: func() func() {
			return mark("facts.nics", "boot", func(c *column) { c.neverNull = false })
		}},
		{name: "strings in the order of a language", needs: "<", only: []Dialect{Postgres}, node: func(n node) node {
			if c, ok := n.(*compareTexts); ok && c.op != opEqual && c.op != opNotEqual {
				return written{n, func(w *writer, want Result) {
					inner := *w
					inner.b = strings.Builder{}
					c.when(&inner, want)
					w.args, w.serial, w.diags = inner.args, inner.serial, inner.diags
					w.put(strings.TrimSuffix(inner.b.String(), ` COLLATE "C"`))
				}}
			}
			return n
		}},
	}
	for _, pair := range [][2]operator{
		{opEqual, opNotEqual}, {opNotEqual, opEqual}, {opLess, opLessEq}, {opLessEq, opLess}, {opMore, opMoreEq}, {opMoreEq, opMore}, {opLess, opMore},
	} {
		out = append(out,
			mutation{name: fmt.Sprintf("%s of numbers as %s", pair[0], pair[1]), needs: " " + string(pair[0]) + " ", node: ints(pair[0], pair[1])},
			mutation{name: fmt.Sprintf("%s of strings as %s", pair[0], pair[1]), needs: " " + string(pair[0]) + " ", node: texts(pair[0], pair[1])})
	}
	return out
}

// observed changes for a while by what a list is known not to be absent.
func observed(list, condition string) func() {
	old := tables[list]
	broken := old
	broken.observed = condition
	tables[list] = broken
	return func() { tables[list] = old }
}

// mark changes a column of a table for a while.
func mark(list, fact string, change func(*column)) func() {
	old := tables[list].columns[fact]
	c := old
	change(&c)
	tables[list].columns[fact] = c
	return func() { tables[list].columns[fact] = old }
}

// TestDifferentialTestCatchesEveryBrokenRule breaks the translation, one rule at
// a time, and wants the same comparison that TestMemoryAndDatabasesAgree makes
// to notice it.
func TestDifferentialTestCatchesEveryBrokenRule(t *testing.T) {
	// A rule about what is rare, such as a lease without a name, shows in no
	// expression over a catalog that has none of it: in one of twenty.
	const (
		catalogs = 8
		most     = 1000 // expressions with the operator in each, until one tells
	)
	s := seed(t)
	t.Logf("EDGE_TEST_SEED=%d", s)
	arenas := map[Dialect][]*arena{}
	nth := func(d Dialect, i int) *arena {
		if i == len(arenas[d]) {
			arenas[d] = append(arenas[d], newArena(t, newGenerator(s, uint64(i)).subjects(machinesPerCatalog), d))
		}
		return arenas[d][i]
	}
	slowest, slowestName := 0, ""
	for _, m := range broken() {
		dialects := m.only
		if dialects == nil {
			dialects = []Dialect{SQLite, Postgres}
		}
		for _, d := range dialects {
			took, ok := 0, false
			for i := 0; i < catalogs && !ok; i++ {
				var asked int
				asked, ok = m.caught(nth(d, i), s+uint64(i), most)
				took += asked
			}
			if !ok {
				t.Errorf("%s on %s: not noticed in %d expressions over %d catalogs", m.name, d, took, catalogs)
			}
			if took > slowest {
				slowest, slowestName = took, m.name
			}
		}
	}
	t.Logf("%d broken rules were noticed, the last (%s) after %d expressions", len(broken()), slowestName, slowest)
}

// caught asks expressions to which the mutation applies until one is answered
// otherwise than in memory.
func (m mutation) caught(a *arena, seed uint64, most int) (asked int, ok bool) {
	if m.during != nil {
		defer m.during()()
	}
	choose := rand.New(rand.NewPCG(seed, 7))
	for i := 0; asked < most; i++ {
		g := newGenerator(seed, uint64(1000+i))
		src := g.condition(1+choose.IntN(3), nil)
		if !strings.Contains(src, m.needs) {
			continue
		}
		applied := m.during != nil
		change := func(e *Expr) *Expr {
			if m.during != nil {
				return e
			}
			mutant, cut := m.mutant(e)
			applied = applied || cut
			return mutant
		}
		for _, form := range forms[:2] {
			if v := a.ask(fmt.Sprintf(form, src), change); v.difference != "" {
				return asked + 1, true
			}
		}
		if applied {
			asked++
		}
	}
	return asked, false
}

// TestDisagreementBecomesSmall breaks a rule and wants the disagreement down to
// one machine and little more than the operator.
func TestDisagreementBecomesSmall(t *testing.T) {
	var m mutation
	for _, b := range broken() {
		if b.name == "|| as &&" {
			m = b
		}
	}
	const s = 42
	a := newArena(t, newGenerator(s, 0).subjects(machinesPerCatalog), SQLite)
	change := func(e *Expr) *Expr { mutant, _ := m.mutant(e); return mutant }
	for i := uint64(0); ; i++ {
		g := newGenerator(s, i)
		if src := g.condition(4, nil); a.ask(src, change).difference == "" || len(src) < 200 {
			continue
		}
		k := shrink(t, a, g, "%s", change)
		if len(k.Expression) > 80 || !strings.Contains(k.Expression, "||") || k.Subject.Machine.Site == "" {
			t.Errorf("made small: %s about %+v; want a short || about one machine", k.Expression, k.Subject.Machine)
		}
		return
	}
}
