package query

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// The differential test compares three ways to answer one random expression over
// random machines: in memory, in SQLite and in PostgreSQL. It makes
// differentialCatalogs catalogs and differentialExpressions expressions, unless
// EDGE_TEST_EXPRESSIONS says how many expressions; each is asked as it is,
// negated, and for its being absent. EDGE_TEST_SEED repeats a run.
//
// What they disagree about is made as small as it gets and kept in
// testdata/differential, where TestKeptDisagreements finds it.
const (
	differentialExpressions = 240
	differentialCatalogs    = 2
	machinesPerCatalog      = 32
)

// arena is one set of machines in every database.
type arena struct {
	subjects []inventory.Subject
	catalogs []*catalog
}

func newArena(t testing.TB, subjects []inventory.Subject, dialects ...Dialect) *arena {
	t.Helper()
	a := &arena{subjects: subjects}
	for _, d := range dialects {
		a.catalogs = append(a.catalogs, newCatalog(t, d, subjects))
	}
	return a
}

// verdict is what came out of asking one expression everywhere.
type verdict struct {
	// difference says how the ways disagree; empty when they do not.
	difference string
	refused    bool // by all of them, with one and the same complaint
	selected   int
	narrowed   bool // an index leads to what is selected
}

// overlooked says which of the machines that an expression selects one of its
// narrowings leaves out.
func (c *catalog) overlooked(e *Expr, want []string) (difference string, narrowed bool) {
	f, err := e.Filter(c.dialect, "", noon)
	if err != nil {
		return "Filter: " + err.Error(), false
	}
	for _, n := range f.Narrow {
		found, err := c.ids("SELECT DISTINCT CAST("+n.ID+" AS text) FROM "+n.Table+" WHERE "+n.Where.SQL, n.Where.Args)
		if err != nil {
			return fmt.Sprintf("narrowing on %s: %v", c.dialect, err), false
		}
		for _, id := range want {
			if !slices.Contains(found, id) {
				return fmt.Sprintf("%s selects %s, which is not in %+v", c.dialect, id, n), false
			}
		}
	}
	return "", len(f.Narrow) > 0
}

// ask answers src in every way. change, when not nil, is applied to what SQL is
// made of, but not to what is evaluated in memory.
func (a *arena) ask(src string, change func(*Expr) *Expr) verdict {
	e, diags := Parse(src, Machine)
	if diags.HasErrors() {
		return verdict{refused: true}
	}
	translated := e
	if change != nil {
		translated = change(e)
	}
	var v verdict
	complaints := make([]string, len(a.catalogs))
	for i, c := range a.catalogs {
		want, err := c.eval(e)
		if err != nil {
			return verdict{difference: "Eval: " + err.Error()}
		}
		v.selected = len(want)
		where, args, err := translated.SQL(c.dialect, noon)
		if err != nil {
			complaints[i] = err.Error()
			v.refused = true
			continue
		}
		got, err := c.query(translated)
		if err != nil {
			v.difference = fmt.Sprintf("%s fails: %v", c.dialect, err)
		} else if !slices.Equal(got, want) {
			v.difference = fmt.Sprintf("%s selects %v\nEval selects %v\n%s %v", c.dialect, got, want, where, args)
		}
		if v.difference == "" {
			v.difference, v.narrowed = c.overlooked(e, want)
		}
		if v.difference != "" {
			return v
		}
	}
	for _, c := range complaints {
		if c != complaints[0] {
			v.difference = fmt.Sprintf("the dialects complain differently: %q", complaints)
		}
	}
	return v
}

// String is the name of the dialect.
func (d Dialect) String() string {
	if d == Postgres {
		return "PostgreSQL"
	}
	return "SQLite"
}

var forms = []string{"%s", "!(%s)", "missing(%s)"}

// seed is time's unless EDGE_TEST_SEED repeats a run.
func seed(t testing.TB) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if env := os.Getenv("EDGE_TEST_SEED"); env != "" {
		if _, err := fmt.Sscan(env, &s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestMemoryAndDatabasesAgree(t *testing.T) {
	count, catalogs := differentialExpressions, differentialCatalogs
	if env := os.Getenv("EDGE_TEST_EXPRESSIONS"); env != "" {
		if _, err := fmt.Sscan(env, &count); err != nil {
			t.Fatal(err)
		}
		catalogs = max(catalogs, count/500)
	}
	s := seed(t)
	t.Logf("EDGE_TEST_SEED=%d", s)
	asked, telling, refused, narrowed := 0, 0, 0, 0
	for i := range catalogs {
		a := newArena(t, newGenerator(s, uint64(i)).subjects(machinesPerCatalog), SQLite, Postgres)
		for j := range (count + catalogs - 1) / catalogs {
			g := newGenerator(s, uint64(1+i)<<32|uint64(j))
			src := g.expression()
			for _, form := range forms {
				v := a.ask(fmt.Sprintf(form, src), nil)
				asked++
				if v.narrowed {
					narrowed++
				}
				switch {
				case v.difference != "":
					keep(t, a, g, form, v.difference)
				case v.refused:
					refused++
				case v.selected > 0 && v.selected < len(a.subjects):
					telling++
				}
			}
		}
	}
	t.Logf("%d expressions in %d forms over %d catalogs of %d machines, in memory, SQLite and PostgreSQL: %d of %d select neither none nor all; %d are narrowed by an index; %d were refused by all alike",
		asked/len(forms), len(forms), catalogs, machinesPerCatalog, telling, asked-refused, narrowed, refused)
	if 3*telling < asked-refused {
		t.Errorf("%d of %d expressions select some machines but not all; want a third", telling, asked-refused)
	}
}

// TestRandomCatalogsHoldEveryKindOfList wants lists that nobody looked for, left out
// or null, lists that are empty, and others, in what the ways are compared over.
func TestRandomCatalogsHoldEveryKindOfList(t *testing.T) {
	g := newGenerator(1, 0)
	kinds := map[string][3]int{}
	count := func(list string, missing bool, members int) {
		k := kinds[list]
		switch {
		case missing:
			k[0]++
		case members == 0:
			k[1]++
		default:
			k[2]++
		}
		kinds[list] = k
	}
	uninspected := 0
	for _, s := range g.subjects(4 * machinesPerCatalog) {
		f := s.Facts
		if f == nil {
			uninspected++
			continue
		}
		count("disks", f.Disks == nil, len(f.Disks))
		count("nics", f.NICs == nil, len(f.NICs))
		count("pci", f.PCI == nil, len(f.PCI))
		count("neighbors", f.Neighbors == nil, len(f.Neighbors))
		if f.Memory != nil {
			count("memory.modules", f.Memory.Modules == nil, len(f.Memory.Modules))
		}
	}
	t.Logf("absent, empty and filled: %v; %d given as null; %d machines never inspected", kinds, g.nulls, uninspected)
	for list, k := range kinds {
		if slices.Min(k[:]) < 3 {
			t.Errorf("%s is absent, empty and filled %v times; want each more than a few times", list, k)
		}
	}
	if g.nulls < 3 || uninspected < 3 || len(kinds) != 5 {
		t.Errorf("%d lists were null, %d machines never inspected, %d lists looked at; want more than a few of each", g.nulls, uninspected, len(kinds))
	}
}

// disagreement is one that was found, made small.
type disagreement struct {
	Expression string            `json:"expression"`
	Now        time.Time         `json:"now"`
	Subject    inventory.Subject `json:"subject"`
	Difference string            `json:"difference"`
}

// keep makes a disagreement small, writes it down and fails the test.
func keep(t *testing.T, a *arena, g *generator, form, difference string) {
	t.Helper()
	k := shrink(t, a, g, form, nil)
	k.Difference = difference
	raw, err := json.MarshalIndent(k, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", "differential", fmt.Sprintf("%x.json", seedOf(k.Expression)))
	if err := os.WriteFile(path, append(raw, '\n'), 0o644); err != nil {
		t.Error(err)
	}
	t.Fatalf("%s\n%s\nkept in %s: fix what is wrong and leave the file there", k.Expression, difference, path)
}

func seedOf(s string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// shrinkTries bounds the work of making one disagreement small.
const shrinkTries = 600

// shrink looks for the shortest expression, and the one machine, about which the
// ways still disagree.
func shrink(t testing.TB, a *arena, g *generator, form string, change func(*Expr) *Expr) disagreement {
	t.Helper()
	tries := 0
	fails := func(decisions []int) (string, bool) {
		tries++
		src := fmt.Sprintf(form, (&generator{past: slices.Clone(decisions)}).expression())
		return src, tries < shrinkTries && a.ask(src, change).difference != ""
	}
	best := slices.Clone(g.past)
	src, _ := fails(best)
	try := func(next []int) bool {
		if s, ok := fails(next); ok && len(s) <= len(src) {
			best, src = next, s
			return true
		}
		return false
	}
	for again := true; again && tries < shrinkTries; {
		again = false
		for size := 16; size > 0; size /= 2 {
			for at := 0; at+size <= len(best); at++ {
				next := slices.Delete(slices.Clone(best), at, at+size)
				before := len(src)
				if try(next) && len(src) < before {
					again = true
					at--
				}
			}
		}
		for at := range best {
			if best[at] == 0 {
				continue
			}
			next := slices.Clone(best)
			next[at] = 0
			before := len(src)
			if try(next) && len(src) < before {
				again = true
			}
		}
	}
	k := disagreement{Expression: src, Now: noon}
	for _, s := range a.subjects {
		if alone := newArena(t, []inventory.Subject{s}, dialectsOf(a)...); alone.ask(src, change).difference != "" {
			k.Subject = s
			break
		}
	}
	return k
}

func dialectsOf(a *arena) []Dialect {
	var out []Dialect
	for _, c := range a.catalogs {
		out = append(out, c.dialect)
	}
	return out
}

// TestKeptDisagreements asks again what was once answered differently.
func TestKeptDisagreements(t *testing.T) {
	paths, err := filepath.Glob(filepath.Join("testdata", "differential", "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no kept disagreements: %v", err)
	}
	var subjects []inventory.Subject
	var expressions []string
	for i, path := range paths {
		raw, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var k disagreement
		if err := json.Unmarshal(raw, &k); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if !k.Now.Equal(noon) {
			t.Errorf("%s is as of %v; want %v", path, k.Now, noon)
		}
		k.Subject.Machine.ID[14] = byte(i) // two cases may have one machine
		for j := range k.Subject.Machine.MACs {
			k.Subject.Machine.MACs[j][3] = byte(i + 1)
		}
		for j := range k.Subject.Leases {
			k.Subject.Leases[j].MAC[3] = byte(i + 1)
		}
		subjects = append(subjects, k.Subject)
		expressions = append(expressions, k.Expression)
	}
	a := newArena(t, subjects, SQLite, Postgres)
	for i, src := range expressions {
		if v := a.ask(src, nil); v.difference != "" || v.refused {
			t.Errorf("%s: %s: refused %t, %s", paths[i], src, v.refused, v.difference)
		}
	}
}

// expression is a condition over facts, or now and then something that is none.
func (g *generator) expression() string {
	switch g.IntN(20) {
	case 19:
		return g.mistake()
	case 15, 16, 17, 18:
		return g.indexed(1) + " && " + g.condition(3, nil)
	}
	return g.condition(4, nil)
}

// indexed is a condition that an index of the catalog answers.
func (g *generator) indexed(depth int) string {
	number := func() string { return pick(g, []string{" == ", " >= ", " < "}) + fmt.Sprint(pick(g, numbers)) }
	switch g.IntN(14) {
	case 13:
		return `older(machine.last_seen, "` + pick(g, windows) + `")`
	case 12:
		return "contains(machine.classes, " + strconv.Quote(pick(g, classNames)) + ")"
	case 0:
		return "facts.memory.bytes" + number()
	case 1:
		return "facts.cpu.cores" + number()
	case 2:
		return pick(g, []string{"facts.system.product", "facts.bios.version", "machine.serial", "machine.address"}) + pick(g, []string{" == ", " > ", " <= "}) + g.literal()
	case 3:
		return g.literal() + " == machine.tags[" + strconv.Quote(pick(g, tagKeys)) + "]"
	case 4:
		return "contains(facts.nics[*].driver, " + g.literal() + ")"
	case 5:
		return "any([for d in facts.disks : d.bytes" + number() + " if !d.rotational])"
	case 6:
		return "any([for d in facts.disks : true if d.model == " + g.literal() + " && " + g.condition(1, nil) + "])"
	case 7:
		return "any([for l in machine.leases : l.address == \"172.22.0." + fmt.Sprint(g.IntN(4)) + "\"])"
	case 8:
		return "changed(facts." + pick(g, changePaths) + `, "7d")`
	case 9:
		return "glob(" + pick(g, []string{`"a*"`, `"Gr*"`, `"z\U0010ffff*"`, `"日*"`, `"a\\*\\?*"`}) + ", " + pick(g, []string{"facts.system.product", "facts.bios.version"}) + ")"
	case 10:
		return "regex(" + pick(g, []string{`"^a"`, `"^Gr.*e$"`, `"^(?i)k"`, `"^ab|^b"`, `"^x%"`}) + ", " + pick(g, []string{"facts.system.product", "machine.serial"}) + ")"
	}
	if depth == 0 {
		return `machine.state == "held"`
	}
	return "(" + g.indexed(depth-1) + " || " + g.indexed(depth-1) + ")"
}

// mistake is an expression that is refused, by Parse or by SQL.
func (g *generator) mistake() string {
	return pick(g, []string{
		g.text(0, nil) + g.comparison() + g.number(0, nil),
		"facts.disks[" + fmt.Sprint(g.IntN(3)) + "].bytes" + g.comparison() + g.number(0, nil),
		"contains(facts.cpu.flags, " + g.text(0, nil) + ")",
		"facts.chassis.type == " + g.literal() + " || " + g.condition(2, nil),
		"facts.memory.byts > 1", "facts.disks.bytes > 1", "any(facts.disks)",
		`regex("\\bx", ` + g.text(0, nil) + ")", `regex("(a", ` + g.text(0, nil) + ")", `glob("[a]", ` + g.text(0, nil) + ")",
		`facts.system.product == "\u0000"`, `changed(machine.state, "7d")`, `changed(facts.bios.version, "soon")`, `older(machine.state, "7d")`, `machine.last_seen == machine.looked_at`,
		strings.Repeat("!", 200) + "true", g.number(0, nil) + " / 0 > 1",
	})
}
