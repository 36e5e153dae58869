package query

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/hcl/v2"
	_ "github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// schemaSQL are the tables of the catalog that column.go names, as ent makes
// them; BOOL and INT are replaced for each dialect.
const schemaSQL = `
CREATE TABLE machines (id UUID PRIMARY KEY, site TEXT NOT NULL, address TEXT, state TEXT NOT NULL, serial TEXT, smbios_uuid TEXT, image TEXT);
CREATE TABLE machine_facts (id SERIAL_KEY, machine_id UUID UNIQUE NOT NULL, memory_bytes BIGINT, cpu_model TEXT, cpu_vendor TEXT, cpu_architecture TEXT,
 cpu_cores BIGINT, cpu_threads BIGINT, cpu_sockets BIGINT, cpu_max_speed_mhz BIGINT, system_manufacturer TEXT, system_product TEXT, system_serial TEXT,
 bios_vendor TEXT, bios_version TEXT, bios_date TEXT, firmware_mode TEXT, secure_boot BOOL, tpm_version TEXT, bmc_address TEXT, kernel_release TEXT);
CREATE TABLE disks (id SERIAL_KEY, machine_id UUID NOT NULL, name TEXT NOT NULL, by_id TEXT, wwn TEXT, serial TEXT, vendor TEXT, model TEXT, firmware_rev TEXT,
 bytes BIGINT, logical_block_bytes BIGINT, physical_block_bytes BIGINT, rotational BOOL, bus TEXT, path TEXT);
CREATE TABLE nics (id SERIAL_KEY, machine_id UUID NOT NULL, name TEXT, mac TEXT, driver TEXT, pci TEXT, vendor TEXT, device TEXT, speed_mbps BIGINT, boot BOOL);
CREATE TABLE memory_modules (id SERIAL_KEY, machine_id UUID NOT NULL, locator TEXT, bytes BIGINT, type TEXT, speed_mts BIGINT, manufacturer TEXT, part TEXT, serial TEXT, ecc BOOL);
CREATE TABLE pci_functions (id SERIAL_KEY, machine_id UUID NOT NULL, address TEXT NOT NULL, class TEXT, vendor TEXT, device TEXT, driver TEXT);
CREATE TABLE macs (id SERIAL_KEY, machine_id UUID NOT NULL, mac TEXT UNIQUE NOT NULL);
CREATE INDEX memory ON machine_facts (memory_bytes);
CREATE INDEX disk_machine ON disks (machine_id);
CREATE INDEX nic_machine ON nics (machine_id);
CREATE INDEX module_machine ON memory_modules (machine_id);
CREATE INDEX pci_machine ON pci_functions (machine_id);
CREATE INDEX mac_machine ON macs (machine_id)`

// catalog is a database with the tables, filled with the projection of docs.
type catalog struct {
	dialect Dialect
	db      *sql.DB
	docs    []Doc
}

// registerRegexp gives SQLite the function regexp; the driver takes functions
// for the whole process only.
var registerRegexp = sync.OnceFunc(func() {
	sqlite.MustRegisterDeterministicScalarFunction("regexp", 2, func(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
		pattern, _ := args[0].(string)
		text, _ := args[1].(string)
		return Match(pattern, text)
	})
})

func openSQLite(t testing.TB) *sql.DB {
	t.Helper()
	registerRegexp()
	db, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// openPostgres is a schema of the test binary's own server.
func openPostgres(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", storetest.PostgreSQL(t).DSN)
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

func newCatalog(t testing.TB, dialect Dialect, docs []Doc) *catalog {
	t.Helper()
	c := &catalog{dialect: dialect, docs: docs}
	key := "INTEGER PRIMARY KEY"
	if dialect == Postgres {
		c.db, key = openPostgres(t), "BIGSERIAL PRIMARY KEY"
	} else {
		c.db = openSQLite(t)
	}
	if _, err := c.db.Exec(strings.ReplaceAll(schemaSQL, "SERIAL_KEY", key)); err != nil {
		t.Fatal(err)
	}
	tx, err := c.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		project(t, tx, dialect, d)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return c
}

// project writes the rows of a document. It goes by the JSON form, in which
// what was not observed is left out, and so knows nothing of document.go.
func project(t testing.TB, tx *sql.Tx, dialect Dialect, d Doc) {
	t.Helper()
	insert := func(table string, row map[string]any) {
		var names, marks []string
		var args []any
		for _, name := range slices.Sorted(keys(row)) {
			names = append(names, name)
			args = append(args, row[name])
			if dialect == Postgres {
				marks = append(marks, fmt.Sprintf("$%d", len(args)))
			} else {
				marks = append(marks, "?")
			}
		}
		q := fmt.Sprintf("INSERT INTO %s (%s) VALUES (%s)", table, strings.Join(names, ", "), strings.Join(marks, ", "))
		if _, err := tx.Exec(q, args...); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	id := d.machine.ID.String()
	machine := object(t, d.machine)
	row := map[string]any{}
	for path, c := range columns {
		if name, ok := strings.CutPrefix(c.name, "machines."); ok {
			if v := at(machine, strings.TrimPrefix(path, "machine.")); v != nil && v != "" && v != uuid.Nil.String() {
				row[name] = v
			}
		}
	}
	insert("machines", row)
	for _, m := range d.machine.MACs {
		insert("macs", map[string]any{"machine_id": id, "mac": m.String()})
	}
	if d.facts == nil {
		return
	}
	facts := object(t, d.facts)
	row = map[string]any{"machine_id": id}
	for path, c := range columns {
		if name, ok := strings.CutPrefix(c.name, "machine_facts."); ok {
			if v := at(facts, strings.TrimPrefix(path, "facts.")); v != nil {
				row[name] = v
			}
		}
	}
	insert("machine_facts", row)
	for path, table := range tables {
		path, ok := strings.CutPrefix(path, "facts.")
		if !ok {
			continue
		}
		elems, _ := at(facts, path).([]any)
		for _, elem := range elems {
			row := map[string]any{"machine_id": id}
			for fact, c := range table.columns {
				if v := at(elem, fact); v != nil {
					row[c.name] = v
				}
			}
			insert(table.name, row)
		}
	}
}

func keys(m map[string]any) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func object(t testing.TB, v any) any {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out any
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	if err := dec.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

func at(v any, path string) any {
	for _, name := range strings.Split(path, ".") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	if n, ok := v.(json.Number); ok {
		i, err := n.Int64()
		if err != nil {
			panic(err)
		}
		return i
	}
	return v
}

// query are the machines for which the SQL form is true.
func (c *catalog) query(e *Expr) ([]string, error) {
	where, args, err := e.SQL(c.dialect)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rows, err := c.db.QueryContext(ctx, "SELECT machines.id FROM "+From+" WHERE "+where+" ORDER BY machines.id", args...)
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, where)
	}
	defer rows.Close()
	var out []string
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			return nil, err
		}
		out = append(out, id)
	}
	return out, rows.Err()
}

// eval are the machines for which Eval answers True.
func (c *catalog) eval(e *Expr) ([]string, error) {
	var out []string
	for _, d := range c.docs {
		r, err := e.Eval(d)
		if err != nil {
			return nil, err
		}
		if r == True {
			out = append(out, d.machine.ID.String())
		}
	}
	slices.Sort(out)
	return out, nil
}

// seed is time's unless EDGE_TEST_SEED repeats a failure.
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

func TestSQLAndEvalAgreeOnSQLite(t *testing.T) { differential(t, SQLite, 1000) }

func TestSQLAndEvalAgreeOnPostgres(t *testing.T) { differential(t, Postgres, 200) }

// differential compares the two forms of random expressions over random
// machines: for the expression, for its negation, and for its being absent.
// EDGE_TEST_EXPRESSIONS says how many (each in three forms).
func differential(t *testing.T, dialect Dialect, count int) {
	if env := os.Getenv("EDGE_TEST_EXPRESSIONS"); env != "" {
		if _, err := fmt.Sscan(env, &count); err != nil {
			t.Fatal(err)
		}
	}
	s := seed(t)
	t.Logf("EDGE_TEST_SEED=%d", s)
	g := &generator{rand.New(rand.NewPCG(s, 1))}
	c := newCatalog(t, dialect, g.docs(40))
	telling, refused := 0, 0
	for range count {
		src := g.condition(4, nil)
		for _, form := range []string{"%s", "!(%s)", "missing(%s)"} {
			src := fmt.Sprintf(form, src)
			e, diags := Parse(src, Machine)
			if diags.HasErrors() {
				if !strings.Contains(diags.Error(), "64 bits") {
					t.Fatalf("Parse(%s): %v", src, diags)
				}
				refused++
				continue
			}
			want, err := c.eval(e)
			if err != nil {
				t.Fatalf("Eval(%s): %v", src, err)
			}
			got, err := c.query(e)
			if err != nil {
				t.Fatalf("SQL(%s): %v", src, err)
			}
			if !slices.Equal(got, want) {
				where, args, _ := e.SQL(dialect)
				t.Fatalf("EDGE_TEST_SEED=%d: %s\nSQL selects %v\nEval     %v\n%s %v", s, src, got, want, where, args)
			}
			if len(want) > 0 && len(want) < len(c.docs) {
				telling++
			}
		}
	}
	t.Logf("%d expressions, %d select neither none nor all, %d refused for the size of a constant", 3*count, telling, refused)
	if telling < count {
		t.Errorf("%d of %d expressions select some machines but not all; want a third", telling, 3*count)
	}
}

func TestTableExpressionsAgreeInSQL(t *testing.T) {
	for name, dialect := range map[string]Dialect{"SQLite": SQLite, "PostgreSQL": Postgres} {
		t.Run(name, func(t *testing.T) {
			bare := NewDoc(inventory.Machine{ID: uuid.MustParse("0190f5fe-7c00-7a00-8abc-000000000002"), Site: "s", State: inventory.StateDeclared}, nil)
			empty := NewDoc(inventory.Machine{ID: uuid.MustParse("0190f5fe-7c00-7a00-8abc-000000000003"), Site: "s", State: inventory.StateHeld}, &inventory.Facts{})
			c := newCatalog(t, dialect, []Doc{storeNode(t), bare, empty})
			for _, src := range []string{
				`facts.memory.bytes / GiB(1) == 7.5`,
				`facts.memory.bytes * facts.memory.bytes > 0`,
				`missing(facts.memory.bytes * facts.memory.bytes)`,
				`facts.cpu.cores / (facts.cpu.cores - 4) > 0 || true`,
				`missing(facts.cpu.cores / (facts.cpu.cores - 4))`,
				`(facts.cpu.cores - 9223372036854775807) % (3 - facts.cpu.cores) == 0`,
				`facts.cpu.cores / (2 - facts.cpu.cores) == -2`,
				`machine.id == "0190f5fe-7c00-7a00-8abc-000000000002"`,
				`machine.id != "0190f5fe-7c00-7a00-8abc-000000000002"`,
				`machine.id > "0190f5fe-7c00-7a00-8abc-000000000002"`,
				`glob("0190*", machine.id)`,
				`contains(machine.macs, "52-54-00-04-21-01")`,
				`!contains(machine.macs, "52-54-00-04-21-01")`,
				`missing(facts.tpm)`, `!missing(facts.tpm)`, `missing(facts.disks)`, `!missing(facts.disks)`,
				`length(facts.disks) == 0`, `any([for d in facts.disks : true])`, `all([for d in facts.disks : false])`,
				`regex("(?i)größe [0-9]$", "${"a"}") || any([for d in facts.disks : regex("(?i)GRÖSSE|gröSSe|größe [[:digit:]]{1,3}$", d.model)])`,
				`regex("^(Edge|Rack)-.\\s?m[^aeou]n+i?i$", facts.system.product)`,
				`!regex("x*?y", facts.system.product)`,
				`regex("", facts.system.product)`,
				`any(facts.nics[*].boot)`, `all(facts.nics[*].boot)`,
				`(facts.cpu.cores == 4) == (facts.firmware.secure_boot == false)`,
			} {
				e, diags := Parse(src, Machine)
				if diags.HasErrors() {
					t.Errorf("Parse(%s): %v", src, diags)
					continue
				}
				want, _ := c.eval(e)
				got, err := c.query(e)
				if err != nil || !slices.Equal(got, want) {
					where, _, _ := e.SQL(dialect)
					t.Errorf("SQL(%s) selects %v, %v; want %v: %s", src, got, err, want, where)
				}
			}
		})
	}
}

func TestSQLRefusesWhatTheCatalogCannotAnswer(t *testing.T) {
	for src, want := range map[string]string{
		`facts.disks[0].bytes > 1`:                                    `facts.disks[0].bytes`,
		`contains(facts.cpu.flags, "avx2")`:                           `facts.cpu.flags`,
		`facts.chassis.type == "x" || facts.memory.bytes > 1`:         `facts.chassis.type`,
		`any([for d in facts.disks : contains(d.signatures, "gpt")])`: `d.signatures`,
		`missing(facts.bmc)`:                                          `facts.bmc`,
		`length(facts.cpu.flags) > 2`:                                 `facts.cpu.flags`,
		`!any([for d in facts.disks : missing(d.signatures)])`:        `d.signatures`,
	} {
		e, diags := Parse(src, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%s): %v", src, diags)
			continue
		}
		where, _, err := e.SQL(SQLite)
		if err == nil || where != "" {
			t.Errorf("SQL(%s) = %q, no error", src, where)
			continue
		}
		diags = asDiagnostics(t, err)
		if got := src[diags[0].Subject.Start.Byte:diags[0].Subject.End.Byte]; got != want {
			t.Errorf("SQL(%s) points at %q; want %q", src, got, want)
		}
	}
	e, _ := Parse(`regex("\\bx", facts.system.product)`, Machine)
	if _, _, err := e.SQL(Postgres); err == nil {
		t.Error(`SQL of regex("\\bx") for PostgreSQL: no error, though its word boundary is another`)
	}
}

func TestSQLHoldsNoValueInItsText(t *testing.T) {
	evil := `x'; DROP TABLE machines; --`
	src := fmt.Sprintf(`facts.system.product == %q || glob(%q, machine.serial) || regex(%q, machine.site) || any([for d in facts.disks : d.model == %q])`, evil, evil, evil, evil)
	for _, dialect := range []Dialect{SQLite, Postgres} {
		e, diags := Parse(src, Machine)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		where, args, err := e.SQL(dialect)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(where, "DROP") || strings.Contains(where, "'") || len(args) != 4 {
			t.Errorf("SQL = %s with %d arguments; want the values as arguments", where, len(args))
		}
	}
}

func TestSQLOfComparedConditionsIsBounded(t *testing.T) {
	src := "facts.cpu.cores == 1"
	for range 60 {
		src = "(" + src + ") == facts.firmware.secure_boot"
	}
	e, diags := Parse(src, Machine)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if _, _, err := e.SQL(SQLite); err == nil {
		t.Error("SQL of 60 nested equalities: no error")
	}
}

func TestSQLUsesIndexes(t *testing.T) {
	c := newCatalog(t, SQLite, []Doc{storeNode(t)})
	e, _ := Parse(`facts.memory.bytes >= GiB(8) && any([for d in facts.disks : d.bytes >= TB(1)])`, Machine)
	where, args, err := e.SQL(SQLite)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := c.db.Query("EXPLAIN QUERY PLAN SELECT machines.id FROM "+From+" WHERE "+where, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var a, b, c int
		var detail string
		if err := rows.Scan(&a, &b, &c, &detail); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(detail + "\n")
	}
	if !strings.Contains(plan.String(), "INDEX memory (memory_bytes>") || strings.Contains(plan.String(), "SCAN") {
		t.Errorf("plan of %s:\n%s\nwant a search by memory_bytes and no scan", where, plan.String())
	}
}

func asDiagnostics(t *testing.T, err error) hcl.Diagnostics {
	t.Helper()
	var diags hcl.Diagnostics
	if !errors.As(err, &diags) {
		t.Fatalf("%T is not hcl.Diagnostics: %v", err, err)
	}
	return diags
}
