package storetest

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"

	"github.com/edge-provision/edge-provision/inventory/store"
)

// shared is the one PostgreSQL of a test binary.
var shared struct {
	once sync.Once
	pg   *Postgres
	err  error
}

// Run runs a package's tests and stops the PostgreSQL that Each may have
// started. It is for TestMain: os.Exit(storetest.Run(m)).
func Run(m *testing.M) int {
	defer func() {
		if shared.pg != nil {
			shared.pg.Stop()
		}
	}()
	return m.Run()
}

// Each runs test once per database: on a new SQLite file, and on a new schema
// of a real PostgreSQL, which is skipped where none is installed. The Config
// that test receives opens an empty catalog, the same one every time.
func Each(t *testing.T, test func(t *testing.T, cfg store.Config)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) { test(t, SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { test(t, PostgreSQL(t)) })
}

// SQLite is a new catalog file in a folder that goes with the test.
func SQLite(t testing.TB) store.Config {
	t.Helper()
	return store.Config{Path: filepath.Join(t.TempDir(), "catalog.db")}
}

// PostgreSQL is a new schema of this test binary's own server. It skips the test
// where no server is installed.
func PostgreSQL(t testing.TB) store.Config {
	t.Helper()
	return postgreSQL(t, (*Postgres).NewSchema)
}

// PostgreSQLDatabase is as PostgreSQL with a whole database, for what looks
// beyond the schema.
func PostgreSQLDatabase(t testing.TB) store.Config {
	t.Helper()
	return postgreSQL(t, (*Postgres).NewDatabase)
}

func postgreSQL(t testing.TB, make func(*Postgres, context.Context) (string, error)) store.Config {
	t.Helper()
	shared.once.Do(func() { shared.pg, shared.err = Start(context.Background()) })
	if errors.Is(shared.err, ErrNotInstalled) {
		t.Skip(shared.err)
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	dsn, err := make(shared.pg, t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return store.Config{DSN: dsn}
}

// Open opens a catalog for the length of the test.
func Open(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(fmt.Errorf("closing the catalog: %w", err))
		}
	})
	return s
}
