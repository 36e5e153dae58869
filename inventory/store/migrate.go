package store

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	atlas "ariga.io/atlas/sql/migrate"
	"entgo.io/ent/dialect"

	"github.com/edge-provision/edge-provision/ent/migrate/migrations"
)

// Keys of PostgreSQL's advisory locks, which keep programs apart that share one
// catalog. Their values mean nothing and must never change.
const (
	advisoryMigrate  int64 = 0x65_70_6d_69 // one program migrates
	advisoryIdentity int64 = 0x65_70_69_64 // one observation at a time decides who is who
)

// NewerSchemaError says that a newer program made, or migrated, the catalog.
type NewerSchemaError struct {
	// Have is the newest migration in the catalog, Know the newest that this
	// program brings.
	Have, Know string
}

// Error implements error.
func (e *NewerSchemaError) Error() string {
	return fmt.Sprintf("the catalog has schema %s and this edge-provision knows schemas up to %s: "+
		"run the newer edge-provision that last opened it, or restore a backup made before that", e.Have, e.Know)
}

// ChangedMigrationError says that a migration is not the one it was when it was
// released, or when it made this catalog.
type ChangedMigrationError struct {
	File string
	Err  error
}

// Error implements error.
func (e *ChangedMigrationError) Error() string {
	return fmt.Sprintf("migration %s was changed after its release: %v; use an unmodified build of edge-provision", e.File, e.Err)
}

// Unwrap gives the cause.
func (e *ChangedMigrationError) Unwrap() error { return e.Err }

// migration is one step of the schema.
type migration struct {
	version, name, checksum string
	script                  []byte
}

// loadMigrations reads a folder of migrations and proves that it is as it was
// released.
func loadMigrations(files fs.FS) ([]migration, error) {
	dir := &atlas.MemDir{}
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		content, err := fs.ReadFile(files, e.Name())
		if err == nil {
			err = dir.WriteFile(e.Name(), content)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := atlas.Validate(dir); err != nil {
		file := "folder"
		var sum *atlas.ChecksumError
		if errors.As(err, &sum) {
			file = sum.File
		}
		return nil, &ChangedMigrationError{File: file, Err: err}
	}
	ordered, err := dir.Files()
	if err != nil {
		return nil, err
	}
	out := make([]migration, len(ordered))
	for i, f := range ordered {
		digest := sha256.Sum256(f.Bytes())
		out[i] = migration{version: f.Version(), name: f.Desc(), checksum: hex.EncodeToString(digest[:]), script: f.Bytes()}
	}
	return out, nil
}

// migrate brings the catalog to this program's schema, in one transaction: a
// crash leaves the old schema or the new one.
func (s *Store) migrate(ctx context.Context) error {
	files, err := fs.Sub(migrations.Files, s.dialect)
	if err != nil {
		return fmt.Errorf("reading the migrations: %w", err)
	}
	return s.migrateWith(ctx, files)
}

func (s *Store) migrateWith(ctx context.Context, files fs.FS) error {
	const op = "migrating the catalog"
	known, err := loadMigrations(files)
	if err != nil {
		return s.explain("reading the migrations", err)
	}
	conn, err := s.main.db.Conn(ctx)
	if err != nil {
		return s.explain(op, err)
	}
	defer conn.Close()
	if s.dialect == dialect.SQLite {
		// ALTER TABLE in SQLite is often "copy, drop, rename", which would
		// cascade; the pragma is without effect inside a transaction.
		if _, err := conn.ExecContext(ctx, "PRAGMA foreign_keys = off"); err != nil {
			return s.explain(op, err)
		}
		defer func() {
			if _, err := conn.ExecContext(context.WithoutCancel(ctx), "PRAGMA foreign_keys = on"); err != nil {
				s.cfg.Log.Error("foreign keys stay off on one connection", "err", err)
			}
		}()
	}
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return s.explain(op, err)
	}
	if err := s.migrateTx(ctx, tx, known); err != nil {
		return errors.Join(s.explain(op, err), tx.Rollback())
	}
	return s.explain(op, tx.Commit())
}

func (s *Store) migrateTx(ctx context.Context, tx *sql.Tx, known []migration) error {
	if s.dialect == dialect.Postgres {
		if _, err := tx.ExecContext(ctx, "SELECT pg_advisory_xact_lock($1)", advisoryMigrate); err != nil {
			return err
		}
	}
	_, err := tx.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_migrations (
		version text NOT NULL PRIMARY KEY, name text NOT NULL, checksum text NOT NULL, applied_at text NOT NULL)`)
	if err != nil {
		return err
	}
	done, err := doneMigrations(ctx, tx)
	if err != nil {
		return err
	}
	for i, d := range done {
		at := slices.IndexFunc(known, func(m migration) bool { return m.version == d.version })
		switch {
		case at < 0:
			return &NewerSchemaError{Have: done[len(done)-1].version, Know: newest(known)}
		case at != i:
			return &ChangedMigrationError{File: d.version, Err: errors.New("an earlier migration is missing from the catalog")}
		case known[at].checksum != d.checksum:
			return &ChangedMigrationError{File: d.version + "_" + d.name, Err: errors.New("the catalog was made with another text of it")}
		}
	}
	for _, m := range known[len(done):] {
		if _, err := tx.ExecContext(ctx, string(bytes.TrimSpace(m.script))); err != nil {
			return fmt.Errorf("%s_%s: %w", m.version, m.name, err)
		}
		_, err := tx.ExecContext(ctx, fmt.Sprintf("INSERT INTO schema_migrations (version, name, checksum, applied_at) VALUES (%s, %s, %s, %s)",
			s.placeholder(1), s.placeholder(2), s.placeholder(3), s.placeholder(4)),
			m.version, m.name, m.checksum, s.now().Format("2006-01-02T15:04:05Z"))
		if err != nil {
			return err
		}
		s.cfg.Log.Info("catalog migrated", "version", m.version, "name", m.name)
	}
	if s.dialect == dialect.SQLite && len(known) > len(done) {
		return checkForeignKeys(ctx, tx)
	}
	return nil
}

func newest(known []migration) string {
	if len(known) == 0 {
		return "none"
	}
	return known[len(known)-1].version
}

// doneMigrations are the migrations that made the catalog, in order.
func doneMigrations(ctx context.Context, tx *sql.Tx) ([]migration, error) {
	rows, err := tx.QueryContext(ctx, "SELECT version, name, checksum FROM schema_migrations ORDER BY version")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var out []migration
	for rows.Next() {
		var m migration
		if err := rows.Scan(&m.version, &m.name, &m.checksum); err != nil {
			return nil, err
		}
		out = append(out, m)
	}
	return out, rows.Err()
}

// checkForeignKeys proves that no migration left a child without its parent.
func checkForeignKeys(ctx context.Context, tx *sql.Tx) error {
	rows, err := tx.QueryContext(ctx, "PRAGMA foreign_key_check")
	if err != nil {
		return err
	}
	defer rows.Close()
	if rows.Next() {
		var table, parent string
		var row, key sql.NullInt64
		if err := rows.Scan(&table, &row, &parent, &key); err != nil {
			return err
		}
		return fmt.Errorf("row %d of %s would lose its row of %s", row.Int64, table, parent)
	}
	return rows.Err()
}
