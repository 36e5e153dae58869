package query

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
// them; SERIAL_KEY and DATETIME are replaced for each dialect.
const schemaSQL = `
CREATE TABLE machines (id UUID PRIMARY KEY, site TEXT NOT NULL, address TEXT, state TEXT NOT NULL, serial TEXT, smbios_uuid TEXT, image TEXT, drift TEXT,
 first_seen DATETIME, last_seen DATETIME, looked_at DATETIME, drift_since DATETIME);
CREATE TABLE machine_facts (id SERIAL_KEY, machine_id UUID UNIQUE NOT NULL, memory_bytes BIGINT, cpu_model TEXT, cpu_vendor TEXT, cpu_architecture TEXT,
 cpu_cores BIGINT, cpu_threads BIGINT, cpu_sockets BIGINT, cpu_max_speed_mhz BIGINT, system_manufacturer TEXT, system_product TEXT, system_serial TEXT,
 bios_vendor TEXT, bios_version TEXT, bios_date TEXT, firmware_mode TEXT, secure_boot BOOL, tpm_version TEXT, bmc_address TEXT, kernel_release TEXT,
 disks_observed BOOL NOT NULL DEFAULT FALSE, nics_observed BOOL NOT NULL DEFAULT FALSE, memory_modules_observed BOOL NOT NULL DEFAULT FALSE,
 pci_functions_observed BOOL NOT NULL DEFAULT FALSE, neighbors_observed BOOL NOT NULL DEFAULT FALSE);
CREATE TABLE disks (id SERIAL_KEY, machine_id UUID NOT NULL, name TEXT NOT NULL, by_id TEXT, wwn TEXT, serial TEXT, vendor TEXT, model TEXT, firmware_rev TEXT,
 bytes BIGINT, logical_block_bytes BIGINT, physical_block_bytes BIGINT, rotational BOOL, bus TEXT, path TEXT);
CREATE TABLE nics (id SERIAL_KEY, machine_id UUID NOT NULL, name TEXT, mac TEXT, driver TEXT, pci TEXT, vendor TEXT, device TEXT, speed_mbps BIGINT, boot BOOL);
CREATE TABLE neighbors (id SERIAL_KEY, machine_id UUID NOT NULL, mac TEXT, chassis TEXT, port TEXT, port_description TEXT, system TEXT, address TEXT, vlan BIGINT);
CREATE TABLE memory_modules (id SERIAL_KEY, machine_id UUID NOT NULL, locator TEXT, bytes BIGINT, type TEXT, speed_mts BIGINT, manufacturer TEXT, part TEXT, serial TEXT, ecc BOOL);
CREATE TABLE pci_functions (id SERIAL_KEY, machine_id UUID NOT NULL, address TEXT NOT NULL, class TEXT, vendor TEXT, device TEXT, driver TEXT);
CREATE TABLE leases (id SERIAL_KEY, network TEXT NOT NULL, mac TEXT NOT NULL, address TEXT NOT NULL, client_id TEXT, hostname TEXT, state TEXT NOT NULL, expires DATETIME NOT NULL);
CREATE TABLE tags (id SERIAL_KEY, machine_id UUID NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL);
CREATE TABLE memberships (id SERIAL_KEY, machine_id UUID NOT NULL, class TEXT NOT NULL);
CREATE TABLE fact_changes (id SERIAL_KEY, machine_id UUID NOT NULL, path TEXT NOT NULL, at DATETIME NOT NULL);
CREATE TABLE macs (id SERIAL_KEY, machine_id UUID NOT NULL, mac TEXT UNIQUE NOT NULL);
CREATE INDEX memory ON machine_facts (memory_bytes);
CREATE INDEX disk_machine ON disks (machine_id);
CREATE INDEX nic_machine ON nics (machine_id);
CREATE INDEX neighbor_machine ON neighbors (machine_id);
CREATE INDEX module_machine ON memory_modules (machine_id);
CREATE INDEX pci_machine ON pci_functions (machine_id);
CREATE INDEX mac_machine ON macs (machine_id)`

// catalog is a database with the tables, filled with the projection of docs.
type catalog struct {
	dialect Dialect
	db      *sql.DB
	docs    []Doc // as of noon
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
	// Times as the catalog's connections write them.
	db, err := sql.Open("sqlite", "file::memory:?_time_format=sqlite&_timezone=UTC")
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

// openPostgres is a database whose locale orders strings otherwise than by code
// point, on the test binary's own server.
func openPostgres(t testing.TB) *sql.DB {
	t.Helper()
	dsn := storetest.PostgreSQL(t).DSN
	admin, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	name := fmt.Sprintf("locale%d", databases.Add(1))
	if _, err := admin.Exec("CREATE DATABASE " + name + " TEMPLATE template0 ENCODING 'UTF8' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'"); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("pgx", strings.Replace(dsn, "dbname=postgres", "dbname="+name, 1)[:strings.Index(dsn, " search_path")-len("postgres")+len(name)])
	if err != nil {
		t.Fatal(err)
	}
	db.SetMaxOpenConns(1)
	t.Cleanup(func() { db.Close() })
	return db
}

var databases atomic.Int64

func newCatalog(t testing.TB, dialect Dialect, subjects []inventory.Subject) *catalog {
	t.Helper()
	c := &catalog{dialect: dialect}
	key, datetime := "INTEGER PRIMARY KEY", "DATETIME"
	if dialect == Postgres {
		c.db, key, datetime = openPostgres(t), "BIGSERIAL PRIMARY KEY", "TIMESTAMPTZ"
	} else {
		c.db = openSQLite(t)
	}
	if _, err := c.db.Exec(strings.NewReplacer("SERIAL_KEY", key, "DATETIME", datetime).Replace(schemaSQL)); err != nil {
		t.Fatal(err)
	}
	tx, err := c.db.Begin()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range subjects {
		c.docs = append(c.docs, DocOf(s, noon))
		project(t, tx, dialect, s)
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	return c
}

// project writes the rows of a document. It goes by the JSON form, in which
// what was not observed is left out, and so knows nothing of document.go.
func project(t testing.TB, tx *sql.Tx, dialect Dialect, s inventory.Subject) {
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
	id := s.Machine.ID.String()
	machine := object(t, s.Machine)
	row := map[string]any{}
	for path, c := range columns {
		if name, ok := strings.CutPrefix(c.name, "machines."); ok {
			v := at(machine, strings.TrimPrefix(path, "machine."))
			if rootTypes()["machine"].fields[strings.TrimPrefix(path, "machine.")].typ.kind == kindTime {
				v = known(t, v)
			}
			if v != nil && v != "" && v != uuid.Nil.String() {
				row[name] = v
			}
		}
	}
	insert("machines", row)
	for _, m := range s.Machine.MACs {
		insert("macs", map[string]any{"machine_id": id, "mac": m.String()})
	}
	for key, value := range s.Machine.Tags {
		insert("tags", map[string]any{"machine_id": id, "key": key, "value": value})
	}
	for _, class := range s.Machine.Classes {
		insert("memberships", map[string]any{"machine_id": id, "class": class})
	}
	for _, l := range s.Leases {
		insert("leases", map[string]any{
			"network": l.Network, "mac": l.MAC.String(), "address": l.Address, "client_id": l.ClientID, "hostname": l.Hostname,
			"state": string(l.State), "expires": l.Expires,
		})
	}
	if s.Facts == nil {
		return
	}
	for _, c := range s.Changes {
		insert("fact_changes", map[string]any{"machine_id": id, "path": c.Path, "at": c.At})
	}
	facts := object(t, s.Facts)
	row = map[string]any{"machine_id": id}
	for path, c := range columns {
		if name, ok := strings.CutPrefix(c.name, "machine_facts."); ok {
			if v := at(facts, strings.TrimPrefix(path, "facts.")); v != nil {
				row[name] = v
			}
		}
	}
	for path, table := range tables {
		if name, ok := strings.CutPrefix(table.observed, "machine_facts."); ok {
			_, row[name] = at(facts, strings.TrimPrefix(path, "facts.")).([]any)
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

// known is a time of a JSON form; nil where there is none, or it is the zero time.
func known(t testing.TB, v any) any {
	t.Helper()
	text, ok := v.(string)
	if !ok {
		return nil
	}
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		t.Fatal(err)
	}
	if at.IsZero() {
		return nil
	}
	return at
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
	where, args, err := e.SQL(c.dialect, noon)
	if err != nil {
		return nil, err
	}
	return c.ids("SELECT machines.id FROM "+From+" WHERE "+where+" ORDER BY machines.id", args)
}

func (c *catalog) ids(query string, args []any) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	rows, err := c.db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("%w in %s", err, query)
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

func TestTableExpressionsAgreeInSQL(t *testing.T) {
	for name, dialect := range map[string]Dialect{"SQLite": SQLite, "PostgreSQL": Postgres} {
		t.Run(name, func(t *testing.T) {
			bare := inventory.Subject{Machine: inventory.Machine{ID: uuid.MustParse("0190f5fe-7c00-7a00-8abc-000000000002"), Site: "s", State: inventory.StateDeclared}}
			empty := inventory.Subject{Machine: inventory.Machine{ID: uuid.MustParse("0190f5fe-7c00-7a00-8abc-000000000003"), Site: "s", State: inventory.StateHeld}, Facts: &inventory.Facts{}}
			none := inventory.Subject{Machine: inventory.Machine{ID: uuid.MustParse("0190f5fe-7c00-7a00-8abc-000000000004"), Site: "s", State: inventory.StateHeld}, Facts: withoutMembers()}
			c := newCatalog(t, dialect, []inventory.Subject{storeSubject(t), bare, empty, none})
			for _, src := range []string{
				`facts.memory.bytes / GiB(1) == 7.5`,
				`facts.memory.bytes * facts.memory.bytes > 0`,
				`missing(facts.memory.bytes * facts.memory.bytes)`,
				`facts.cpu.cores / (facts.cpu.cores - 4) > 0 || true`,
				`missing(facts.cpu.cores / (facts.cpu.cores - 4))`,
				`(facts.cpu.cores - 9223372036854775807) % (3 - facts.cpu.cores) == 0`,
				`facts.cpu.cores / (2 - facts.cpu.cores) == -2`,
				"facts.cpu.cores" + strings.Repeat(" + facts.cpu.cores", 30) + " > 31",
				`machine.id == "0190f5fe-7c00-7a00-8abc-000000000002"`,
				`machine.id != "0190f5fe-7c00-7a00-8abc-000000000002"`,
				`machine.id > "0190f5fe-7c00-7a00-8abc-000000000002"`,
				`glob("0190*", machine.id)`,
				`contains(machine.macs, "52-54-00-04-21-01")`,
				`!contains(machine.macs, "52-54-00-04-21-01")`,
				`contains(machine.classes, "till")`, `!contains(machine.classes, "till")`, `length(machine.classes) == 2`, `missing(machine.classes)`,
				`missing(facts.tpm)`, `!missing(facts.tpm)`, `missing(facts.disks)`, `!missing(facts.disks)`,
				`length(facts.disks) == 0`, `any([for d in facts.disks : true])`, `all([for d in facts.disks : false])`,
				`missing(length(facts.disks))`, `missing(any([for d in facts.disks : true]))`, `!any([for d in facts.disks : true])`, `!all([for d in facts.disks : false])`,
				`!contains(facts.nics[*].driver, "igc")`, `length([for n in facts.nics : n if n.boot]) < 1`, `missing(facts.memory.modules)`, `length(facts.memory.modules) == 0`,
				`missing(facts)`, `!missing(facts)`, `missing(facts.cpu)`, `!missing(facts.cpu)`, `missing(facts.firmware)`, `missing(facts.kernel)`,
				`missing(facts.memory)`, `missing(facts.pci) || length(facts.pci) == 0`, `(length(facts.disks) == 0) == (length(facts.pci) == 0)`,
				`regex("(?i)größe [0-9]$", "${"a"}") || any([for d in facts.disks : regex("(?i)GRÖSSE|gröSSe|größe [[:digit:]]{1,3}$", d.model)])`,
				`regex("^(Edge|Rack)-.\\s?m[^aeou]n+i?i$", facts.system.product)`,
				`!regex("x*?y", facts.system.product)`,
				`regex("", facts.system.product)`,
				`any(facts.nics[*].boot)`, `all(facts.nics[*].boot)`,
				`machine.tags.location == "back room"`, `machine.tags["asset-1"] != "x"`, `missing(machine.tags.asset)`, `!missing(machine.tags)`, `missing(machine)`,
				`any([for l in machine.leases : l.network == "edge"])`, `length(machine.leases) == 1`, `all([for l in machine.leases : missing(l.hostname)])`,
				`changed(facts.bios.version, "7d")`, `changed(facts.bios, "30m")`, `!changed(facts.disks, "7d")`, `missing(changed(facts.cpu.flags, "1h"))`,
				`older(machine.last_seen, "1h")`, `!older(machine.last_seen, "1h")`, `older(machine.last_seen, "61m")`, `older(machine.looked_at, "7d")`, `!older(machine.looked_at, "7d")`,
				`older(machine.looked_at, "7d") || missing(machine.looked_at)`, `missing(older(machine.drift_since, "1s"))`, `machine.state == "held" && older(machine.last_seen, "1d")`,
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
					where, _, _ := e.SQL(dialect, noon)
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
		`missing(facts.system)`:                                       `facts.system`,
		`!missing(facts.chassis)`:                                     `facts.chassis`,
		`any([for d in facts.disks : missing(d)])`:                    `d`,
		`any([for d in facts.disks : !missing(d.owner)])`:             `d.owner`,
		`missing(facts.disks[0])`:                                     `facts.disks[0]`,
		`length(facts.cpu.flags) > 2`:                                 `facts.cpu.flags`,
		`missing(facts.cpu.flags)`:                                    `facts.cpu.flags`,
		`!any([for d in facts.disks : missing(d.signatures)])`:        `d.signatures`,
	} {
		e, diags := Parse(src, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%s): %v", src, diags)
			continue
		}
		where, _, err := e.SQL(SQLite, noon)
		if err == nil || where != "" {
			t.Errorf("SQL(%s) = %q, no error", src, where)
			continue
		}
		diags = asDiagnostics(t, err)
		if got := src[diags[0].Subject.Start.Byte:diags[0].Subject.End.Byte]; got != want || len(diags) != 1 {
			t.Errorf("SQL(%s) points %d times, at %q; want once, at %q", src, len(diags), got, want)
		}
	}
}

func TestSQLSaysWhatToAskInstead(t *testing.T) {
	for src, want := range map[string]string{
		`facts.system.uuid == "0190f5fe-7c00-7a00-8abc-012345678901"`: `Ask for machine.smbios_uuid`,
		`facts.chassis.asset_tag == "0042"`:                           `ask for machine.tags.asset`,
		`contains(facts.cpu.flags, "avx2")`:                           `contains(machine.classes, "NAME")`,
		`any([for d in facts.disks : missing(d.owner)])`:              `contains(machine.classes, "NAME")`,
		`missing(facts.bmc)`:                                          `Ask missing(facts.bmc.address). A class can`,
		`missing(facts.system)`:                                       `Ask missing(facts.system.manufacturer) && missing(facts.system.product) && missing(facts.system.serial).`,
		`facts.disks[0].bytes > 1`:                                    `any([for x in …])`,
	} {
		e, diags := Parse(src, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%s): %v", src, diags)
			continue
		}
		if _, _, err := e.SQL(SQLite, noon); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("SQL(%s): %v; want %q in it", src, err, want)
		}
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
		where, args, err := e.SQL(dialect, noon)
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
	if _, _, err := e.SQL(SQLite, noon); err == nil {
		t.Error("SQL of 60 nested equalities: no error")
	}
}

func TestSQLUsesIndexes(t *testing.T) {
	c := newCatalog(t, SQLite, []inventory.Subject{storeSubject(t)})
	e, _ := Parse(`facts.memory.bytes >= GiB(8) && any([for d in facts.disks : d.bytes >= TB(1)])`, Machine)
	where, args, err := e.SQL(SQLite, noon)
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

// TestSQLAsksForRowsOfOneMachineAtATime: a page looks at a hundred machines, and what
// belongs to a million others must not be gathered for it.
func TestSQLAsksForRowsOfOneMachineAtATime(t *testing.T) {
	c := newCatalog(t, Postgres, []inventory.Subject{storeSubject(t)})
	for _, src := range []string{
		`contains(facts.nics[*].driver, "igc")`, `!any([for d in facts.disks : d.rotational])`, `all([for d in facts.disks : d.bytes > 1])`,
		`missing(machine.tags)`, `changed(facts.bios.version, "7d")`, `length([for d in facts.disks : d if d.bus == "nvme"]) >= 2`,
	} {
		e, diags := Parse(src, Machine)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		where, args, err := e.SQL(Postgres, noon)
		if err != nil {
			t.Fatal(err)
		}
		// The planner is told nothing of how few machines there are.
		for _, query := range []string{"SELECT CASE WHEN " + where + " THEN 1 END FROM " + From, "SELECT machines.id FROM " + From + " WHERE " + where} {
			plan := explained(t, c, "EXPLAIN "+query, args)
			if !strings.Contains(plan, "machine_id = machines.id") || strings.Contains(plan, "hashed") || strings.Contains(plan, "Hash Semi") || strings.Contains(plan, "Hash Anti") {
				t.Errorf("plan of %s:\n%s\nwant rows asked for by their machine", query, plan)
			}
		}
	}
}

// explained is the plan of a query, a step a line.
func explained(t *testing.T, c *catalog, query string, args []any) string {
	t.Helper()
	rows, err := c.db.Query(query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var step string
		if err := rows.Scan(&step); err != nil {
			t.Fatal(err)
		}
		plan.WriteString(step + "\n")
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return plan.String()
}

func asDiagnostics(t *testing.T, err error) hcl.Diagnostics {
	t.Helper()
	var diags hcl.Diagnostics
	if !errors.As(err, &diags) {
		t.Fatalf("%T is not hcl.Diagnostics: %v", err, err)
	}
	return diags
}
