package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"modernc.org/sqlite"
	sqlitelib "modernc.org/sqlite/lib"

	"github.com/edge-provision/edge-provision/ent"
	"github.com/edge-provision/edge-provision/inventory"
)

// ErrNotFound says that the catalog has no such thing. It satisfies
// errors.Is(err, fs.ErrNotExist).
var ErrNotFound = fmt.Errorf("not in the catalog: %w", fs.ErrNotExist)

// ConflictError says that what was observed points at two machines, or
// contradicts all that is known of the one it points at, or that another site has
// that one. Nothing was changed; a person decides, because merging two computers
// loses one.
type ConflictError struct {
	// A is the machine that the MAC (or the stronger identifier) points to,
	// B the other one; B is zero when the rest is known of no machine.
	A, B uuid.UUID
	// By is the identifier that points to B: "mac", "uuid" or "serial".
	By string
	// Seen is the identifier's value.
	Seen string
	// Site is the other site that has A; empty otherwise.
	Site string
}

// Error implements error.
func (e *ConflictError) Error() string {
	if e.Site != "" {
		return fmt.Sprintf("MAC %s belongs to machine %s of site %s; forget it there before it can join another site", e.Seen, e.A, e.Site)
	}
	if e.B == uuid.Nil {
		return fmt.Sprintf("the machine seen is known as %s by one of its identifiers, but its %s %s is not that machine's; "+
			"if a network card was moved or a board replaced, remove the stale machine from the catalog", e.A, e.By, e.Seen)
	}
	return fmt.Sprintf("the machine seen is %s by one of its identifiers and %s by its %s %s; "+
		"they are never merged: remove the stale one from the catalog", e.A, e.B, e.By, e.Seen)
}

// TakenError says that a machine has got an address of site.hcl meanwhile.
type TakenError struct {
	Machine uuid.UUID
	Address string
}

// Error implements error.
func (e *TakenError) Error() string {
	return fmt.Sprintf("machine %s has become %s meanwhile, by another program that uses this catalog: plan again", e.Machine, e.Address)
}

// AmbiguousError says that a name fits several machines.
type AmbiguousError struct {
	Name string
	// Candidates are the machines, the first ten by id when there are More.
	Candidates []inventory.Machine
	More       bool
}

// Error implements error.
func (e *AmbiguousError) Error() string {
	var b strings.Builder
	than := ""
	if e.More {
		than = "more than "
	}
	fmt.Fprintf(&b, "%q names %s%d machines; use one of their ids:", e.Name, than, len(e.Candidates))
	for _, m := range e.Candidates {
		fmt.Fprintf(&b, " %s", m.ID)
		if m.Address != "" {
			fmt.Fprintf(&b, " (%s)", m.Address)
		}
	}
	return b.String()
}

// CorruptError says that the SQLite file is damaged. The program never deletes
// or repairs it.
type CorruptError struct {
	Path string
	Err  error
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("catalog %s is damaged and was left as it is: %v; "+
		"stop edge-provision, keep a copy of the file with its -wal and -shm companions, and restore the last backup", e.Path, e.Err)
}

// Unwrap gives the database's own error.
func (e *CorruptError) Unwrap() error { return e.Err }

// FullError says that the catalog's filesystem has no room left.
type FullError struct {
	Path string
	Err  error
}

// Error implements error.
func (e *FullError) Error() string {
	return fmt.Sprintf("no space left for catalog %s: %v; free some space on its filesystem and run again: nothing written before is lost", e.Path, e.Err)
}

// Unwrap gives the database's own error.
func (e *FullError) Unwrap() error { return e.Err }

// explain says which operation failed, and turns the database's errors that a
// person can act on into advice.
func (s *Store) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", op, s.advise(err))
}

func (s *Store) advise(err error) error {
	if ent.IsNotFound(err) {
		return ErrNotFound
	}
	if errors.Is(err, syscall.ENOSPC) {
		return &FullError{Path: s.cfg.Path, Err: err}
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "53100" { // disk_full
		return &FullError{Path: "in PostgreSQL", Err: err}
	}
	var lite *sqlite.Error
	if !errors.As(err, &lite) {
		return err
	}
	switch lite.Code() & 0xff {
	case sqlitelib.SQLITE_CORRUPT, sqlitelib.SQLITE_NOTADB:
		return &CorruptError{Path: s.cfg.Path, Err: err}
	case sqlitelib.SQLITE_FULL:
		return &FullError{Path: s.cfg.Path, Err: err}
	case sqlitelib.SQLITE_IOERR, sqlitelib.SQLITE_CANTOPEN:
		if noRoom(s.cfg.Path) {
			return &FullError{Path: s.cfg.Path, Err: err}
		}
	case sqlitelib.SQLITE_BUSY:
		return fmt.Errorf("catalog %s was held by another program for %s; let that program finish or stop it: %w", s.cfg.Path, s.cfg.BusyTimeout, err)
	case sqlitelib.SQLITE_READONLY, sqlitelib.SQLITE_PERM:
		return fmt.Errorf("catalog %s cannot be written by this user; check the owner of the file and of its directory: %w", s.cfg.Path, err)
	}
	return err
}

// repeatable reports whether a transaction that failed with err may succeed
// when it is run again: PostgreSQL chose another one over it.
func repeatable(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "40001", "40P01", // serialization_failure, deadlock_detected
		"23505": // unique_violation: the row was inserted in between
		return true
	}
	return false
}
