package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"entgo.io/ent/dialect"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"
)

// checkLimitBytes is the size up to which a SQLite file is read through at
// start in search of damage; a greater one would make every start slow.
const checkLimitBytes = 256 << 20

// pagers is how many pages of a SQLite catalog are found at once.
const pagers = 4

// idleTime is how long a connection to PostgreSQL is kept that nobody uses.
const idleTime = time.Minute

// connect opens the pools and proves that the catalog answers.
func (s *Store) connect(ctx context.Context) error {
	if s.dialect == dialect.Postgres {
		return s.connectPostgres(ctx)
	}
	if s.cfg.Path == "" {
		return errors.New("opening the catalog: neither a file nor a PostgreSQL DSN is given")
	}
	return s.connectSQLite(ctx)
}

func (s *Store) connectPostgres(ctx context.Context) error {
	cfg, err := pgx.ParseConfig(s.cfg.DSN)
	if err != nil {
		return fmt.Errorf("opening the catalog: the PostgreSQL DSN is not valid: %w", err)
	}
	open := func(conns int, options ...stdlib.OptionOpenDB) *pool {
		db := stdlib.OpenDB(*cfg, options...)
		db.SetMaxOpenConns(conns)
		// A new connection is a process that has to read the schema and to prepare
		// every statement anew, for many times what a page costs.
		db.SetMaxIdleConns(conns)
		db.SetConnMaxIdleTime(idleTime)
		return newPool(dialect.Postgres, db)
	}
	s.main, s.lease, s.event = open(8), open(2), open(1)
	s.page = open(8, stdlib.OptionAfterConnect(searchByIndex))
	if err := s.main.db.PingContext(ctx); err != nil {
		return errors.Join(fmt.Errorf("opening the catalog in PostgreSQL: %w", err), s.disconnect())
	}
	return nil
}

// searchByIndex makes PostgreSQL use the index of a narrowing. Its planner expects
// that a third of all rows are beyond a value that it does not know, because the
// statement is a prepared one or nobody has analyzed the table since machines were
// imported, and would read the whole table to find the first thousand of them.
// Compiling a statement to machine code and starting other processes for a part of
// it, which it does where it expects many rows, each takes longer than the few
// hundred rows that a page looks at.
func searchByIndex(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "SET enable_seqscan = off; SET plan_cache_mode = force_custom_plan; SET jit = off; SET max_parallel_workers_per_gather = 0")
	return err
}

func (s *Store) connectSQLite(ctx context.Context) error {
	path, err := filepath.Abs(s.cfg.Path)
	if err != nil {
		return fmt.Errorf("opening catalog %s: %w", s.cfg.Path, err)
	}
	s.cfg.Path = path
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("making the catalog's directory: %w", err)
	}
	// SQLite gives -wal and -shm the mode of the database file.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the catalog: %w", err)
	}
	info, err := f.Stat()
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("opening catalog %s: %w", path, err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		s.cfg.Log.Warn("catalog can be read by other users of this host", "path", path, "mode", mode.String())
	}

	s.gate = &gate{}
	// A driver of our own: its functions are not the whole process's.
	driver := &sqlite.Driver{}
	if err := driver.RegisterDeterministicScalarFunction("regexp", 2, s.regexp); err != nil {
		return fmt.Errorf("opening catalog %s: %w", path, err)
	}
	open := func(conns int, pragmas ...string) *pool {
		db := sql.OpenDB(connector{dsn: s.sqliteDSN(pragmas...), driver: driver, patience: s.cfg.BusyTimeout})
		db.SetMaxOpenConns(conns)
		return newPool(dialect.SQLite, db)
	}
	s.main, s.lease, s.event = open(8), open(2), open(1)
	// A page of a large catalog visits some thousand pages of the file, and with
	// SQLite's 2 MiB, or 16, it reads them anew each time: at 100,000 machines 64 MiB
	// for them take up to half of the processor's time off a page. They are used as
	// the file grows.
	s.page = open(pagers, "cache_size(-65536)")
	s.page.db.SetMaxIdleConns(pagers) // or what they have read goes with them
	if err := s.check(ctx, info.Size()); err != nil {
		return errors.Join(s.explain("opening the catalog", err), s.disconnect())
	}
	return nil
}

// sqliteDSN is the data source name of the modernc driver. synchronous=FULL
// makes a commit survive a power cut under WAL; NORMAL would lose leases.
func (s *Store) sqliteDSN(pragmas ...string) string {
	q := url.Values{}
	for _, p := range append([]string{
		fmt.Sprintf("busy_timeout(%d)", s.cfg.BusyTimeout.Milliseconds()),
		"journal_mode(WAL)", "synchronous(FULL)", "foreign_keys(1)",
	}, pragmas...) {
		q.Add("_pragma", p)
	}
	q.Set("_txlock", "immediate")
	q.Set("_time_format", "sqlite") // sorts as text does while everything is UTC
	q.Set("_timezone", "UTC")
	return (&url.URL{Scheme: "file", OmitHost: true, Path: s.cfg.Path, RawQuery: q.Encode()}).String()
}

// connector opens connections of one SQLite driver.
type connector struct {
	dsn    string
	driver *sqlite.Driver
	// patience bounds the wait for another program that opens the same file.
	patience time.Duration
}

// Connect implements driver.Connector. Two programs that switch a new file to WAL
// at once exclude each other, and SQLite's busy handler is not asked then
// (sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY In WAL Mode").
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	for {
		conn, err := c.driver.Open(c.dsn)
		var lite *sqlite.Error
		if err == nil || !errors.As(err, &lite) || lite.Code()&0xff != sqlitelib.SQLITE_BUSY {
			return conn, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(busyPause):
		}
	}
}

// busyPause is the wait between two tries to open a file that is being switched.
const busyPause = 10 * time.Millisecond

// Driver implements driver.Connector.
func (c connector) Driver() driver.Driver { return c.driver }

// regexp is what inventory/query's conditions call in SQLite.
func (s *Store) regexp(_ *sqlite.FunctionContext, args []driver.Value) (driver.Value, error) {
	pattern, isText := args[0].(string)
	text, isTextToo := args[1].(string)
	if !isText || !isTextToo {
		return nil, nil // NULL matches nothing
	}
	return s.cfg.Match(pattern, text)
}

// check asks SQLite whether the file is whole.
func (s *Store) check(ctx context.Context, sizeBytes int64) error {
	if sizeBytes > checkLimitBytes {
		return s.main.db.PingContext(ctx)
	}
	var verdict string
	if err := s.main.db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return &CorruptError{Path: s.cfg.Path, Err: errors.New(verdict)}
	}
	return nil
}

func (s *Store) disconnect() error {
	var errs []error
	for _, p := range []*pool{s.event, s.lease, s.page, s.main} {
		if p != nil {
			errs = append(errs, p.db.Close())
		}
	}
	return errors.Join(errs...)
}
