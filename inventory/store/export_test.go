package store

import (
	"context"
	"io/fs"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/edge-provision/edge-provision/ent"
)

// HoldWrite keeps a write transaction open while fn runs.
func (s *Store) HoldWrite(ctx context.Context, fn func()) error {
	return s.write(ctx, "holding the catalog", func(tx *ent.Tx) error {
		err := tx.Setting.Create().SetID("held").SetValue([]byte{}).SetUpdatedAt(s.now()).Exec(ctx)
		fn()
		return err
	})
}

// HoldEvents keeps the writer of events busy while fn runs.
func (s *Store) HoldEvents(ctx context.Context, fn func()) error {
	return s.writeOn(ctx, s.event, idle, "holding the events", func(tx *ent.Tx) error {
		fn()
		return nil
	})
}

// LimitPages forbids the SQLite file to grow.
func (s *Store) LimitPages(ctx context.Context) error {
	s.main.db.SetMaxOpenConns(1)
	_, err := s.main.db.ExecContext(ctx, "PRAGMA max_page_count = 1")
	return err
}

// LimitEventPages does that for the writer of events.
func (s *Store) LimitEventPages(ctx context.Context) error {
	_, err := s.event.db.ExecContext(ctx, "PRAGMA max_page_count = 1")
	return err
}

// Exec runs SQL past the API, to look at tables or to damage them.
func (s *Store) Exec(ctx context.Context, query string, args ...any) error {
	_, err := s.main.db.ExecContext(ctx, query, args...)
	return err
}

// Number reads one number past the API.
func (s *Store) Number(ctx context.Context, query string, args ...any) (int64, error) {
	var n int64
	err := s.main.db.QueryRowContext(ctx, query, args...).Scan(&n)
	return n, err
}

// MigrateWith migrates with other files than the program's.
func (s *Store) MigrateWith(ctx context.Context, files fs.FS) error { return s.migrateWith(ctx, files) }

// OpenBare opens a database without migrating it.
func OpenBare(ctx context.Context, cfg Config) (*Store, error) {
	s := &Store{cfg: cfg.withDefaults(), dialect: "sqlite3"}
	if cfg.DSN != "" {
		s.dialect = "postgres"
	}
	return s, s.connect(ctx)
}

// Disconnect closes what OpenBare opened.
func (s *Store) Disconnect() error { return s.disconnect() }

// AwaitWaiting returns when n writers stand before the gate.
func (s *Store) AwaitWaiting(n int) {
	for {
		s.gate.mu.Lock()
		waiting := 0
		for _, q := range s.gate.waiting {
			waiting += len(q)
		}
		s.gate.mu.Unlock()
		if waiting >= n {
			return
		}
		runtime.Gosched()
	}
}

// Rows reads rows past the API, without their ids.
func (s *Store) Rows(ctx context.Context, query string) ([]map[string]any, error) {
	rows, err := s.main.db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	var out []map[string]any
	for rows.Next() {
		values, row := make([]any, len(names)), map[string]any{}
		targets := make([]any, len(names))
		for i := range values {
			targets[i] = &values[i]
		}
		if err := rows.Scan(targets...); err != nil {
			return nil, err
		}
		for i, n := range names {
			if n != "id" {
				row[n] = values[i]
			}
		}
		out = append(out, row)
	}
	return out, rows.Err()
}

// PIDStart is when a process started.
var PIDStart = pidStart

// Load runs a dump on one connection, which its settings spoil.
func (s *Store) Load(ctx context.Context, dump string) error {
	conn, err := s.main.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.ExecContext(ctx, dump)
	return err
}

// Driver is ent's driver over the catalog.
func (s *Store) Driver() dialect.Driver { return entsql.OpenDB(s.dialect, s.main.db) }

// Pragmas reads a pragma on each pool.
func (s *Store) Pragmas(t *testing.T, name string) map[string]string {
	out := map[string]string{}
	for pool, p := range map[string]*pool{"main": s.main, "lease": s.lease, "event": s.event} {
		var v string
		if err := p.db.QueryRowContext(t.Context(), "PRAGMA "+name).Scan(&v); err != nil {
			t.Fatal(err)
		}
		out[pool] = v
	}
	return out
}

// SetFewMachines changes how many machines a narrowing may leave.
func (s *Store) SetFewMachines(n int) { s.few = n }

// HoldChange keeps a transaction open, in which a machine changed, while fn runs.
func (s *Store) HoldChange(ctx context.Context, id uuid.UUID, fn func()) error {
	return s.write(ctx, "holding a change", func(tx *ent.Tx) error {
		err := s.changed(ctx, tx, "state", id)
		fn()
		return err
	})
}

// RebuildProjection makes the projection of every machine anew from its documents.
func (s *Store) RebuildProjection(ctx context.Context) error {
	if err := s.Settings().Delete(ctx, projectionKey); err != nil {
		return err
	}
	return s.newUpgrade().run(ctx)
}

// UpgradeProjection makes the projection anew in batches of another size, and tells of
// each of them.
func (s *Store) UpgradeProjection(ctx context.Context, machines, bytes int, told func(done, total int)) error {
	return upgrade{s: s, machines: machines, bytes: bytes, told: told}.run(ctx)
}

// ProjectionVersion is what a catalog says whose projection is this program's.
var ProjectionVersion = strconv.Itoa(projectionVersion)

// ProjectedColumns are the columns of the tables of the projection.
func ProjectedColumns() map[string][]string {
	out := map[string][]string{changeTable.name: changeTable.columns}
	for _, t := range tables {
		out[t.name] = t.columns
	}
	return out
}

// CountStatements makes a catalog in PostgreSQL count the statements that it sends, but
// for those that find pages and that write leases and events.
func (s *Store) CountStatements() (func() int, error) {
	cfg, err := pgx.ParseConfig(s.cfg.DSN)
	if err != nil {
		return nil, err
	}
	var count statements
	cfg.Tracer = &count
	if err := s.main.db.Close(); err != nil {
		return nil, err
	}
	s.main = newPool(s.dialect, stdlib.OpenDB(*cfg))
	return func() int { return int(count.Load()) }, nil
}

type statements struct{ atomic.Int64 }

// TraceQueryStart implements pgx.QueryTracer.
func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	s.Add(1)
	return ctx
}

// TraceQueryEnd implements pgx.QueryTracer.
func (s *statements) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}
