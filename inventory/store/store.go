// Package store keeps machines, facts, leases, events and whatever else must
// outlive the controller in a database: one SQLite file, or PostgreSQL. With
// workflows/journal it is the only door to the generated ent client.
//
// A method that returns nil has made its change durable, except Record, whose
// events are written in batches behind it. Lease writes have their own
// connection and pass every other waiting write.
package store

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"sync"
	"sync/atomic"
	"time"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent"
)

// Config says where the catalog is and how much of the past it keeps.
type Config struct {
	// Path is the SQLite file; its directory is created with mode 0700, the
	// file with mode 0600. Ignored when DSN is set.
	Path string
	// DSN is a PostgreSQL connection string, such as
	// postgres://user@host/name or host=/run/postgresql dbname=edge.
	DSN string
	// Now is the clock; time.Now when nil.
	Now func() time.Time
	// Log receives what no caller can be told; nil discards it.
	Log *slog.Logger
	// Match reports whether text holds a match of an RE2 pattern; it is what
	// regexp(pattern, text) does in a condition of Query on SQLite. Give
	// query.Match, which keeps compiled patterns; regexp.MatchString when nil.
	Match func(pattern, text string) (bool, error)
	// Progress hears, every few seconds, how many of all machines Open has projected
	// anew: a program that projects facts in another way does this with a catalog the
	// first time that it opens it, and all of a large one takes minutes. nil: nobody
	// waits.
	Progress func(done, total int)
	// BusyTimeout bounds the wait for another program that is writing to the
	// same catalog; 10 s when zero.
	BusyTimeout time.Duration
	// EventRetention is the age at which Prune removes events; 30 days when
	// zero, never when negative.
	EventRetention time.Duration
	// EventLimit is the greatest number of events that Prune leaves;
	// 1,000,000 when zero.
	EventLimit int
	// RunLimit is the greatest number of finished runs, with their steps,
	// that Prune leaves; 1,000 when zero.
	RunLimit int
	// FactsLimit is the greatest number of observations per machine and
	// source that Prune leaves; 1,000 when zero.
	FactsLimit int
	// EventQueue is how many events may wait to be written before the oldest
	// is dropped and counted; 8,192 when zero.
	EventQueue int
}

// Store is an open catalog. Its methods may be called from several goroutines.
type Store struct {
	cfg     Config
	dialect string
	// main serves everything but leases and events, which have connections
	// of their own so that neither waits for the other's transaction.
	main, lease, event *pool
	// page finds the machines of a page: with more of the file in memory on SQLite,
	// and on PostgreSQL with a planner that goes by the indexes.
	page *pool
	// gate orders writers of this process; nil under PostgreSQL, whose
	// writers do not exclude each other.
	gate *gate
	// few is how many machines a narrowing of a page may leave for all of them
	// to be looked at; fewMachines but in tests.
	few     int
	events  *recorder
	catalog uuid.UUID
	// snapshots is the key of UseSnapshotKey; nil without one.
	snapshots atomic.Pointer[ed25519.PrivateKey]
	close     sync.Once
	closed    error
}

// pool is a set of connections with the ent client over them.
type pool struct {
	db     *sql.DB
	client *ent.Client
}

// Open opens the catalog, creating it or migrating it to this program's schema
// first. It returns *CorruptError for a damaged SQLite file, *NewerSchemaError
// for a catalog of a newer program, and *ChangedMigrationError when a migration
// is not the one that made the catalog.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	s := &Store{cfg: cfg, dialect: dialect.SQLite, few: fewMachines}
	if cfg.DSN != "" {
		s.dialect = dialect.Postgres
	}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	if err := s.migrate(ctx); err != nil {
		return nil, errors.Join(err, s.disconnect())
	}
	s.events = newRecorder(s)
	if err := s.identify(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.upgradeProjection(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (c Config) withDefaults() Config {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Match == nil {
		c.Match = regexp.MatchString
	}
	defaultTo(&c.BusyTimeout, 10*time.Second)
	defaultTo(&c.EventRetention, 30*24*time.Hour)
	defaultTo(&c.EventLimit, 1_000_000)
	defaultTo(&c.RunLimit, 1_000)
	defaultTo(&c.FactsLimit, 1_000)
	defaultTo(&c.EventQueue, 8_192)
	return c
}

func defaultTo[T int | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Close writes the events that still wait and closes the catalog. It may be
// called more than once.
func (s *Store) Close() error {
	s.close.Do(func() { s.closed = errors.Join(s.events.stop(), s.disconnect()) })
	return s.closed
}

// Client is the ent client over the store's connections, for
// workflows/journal alone.
func (s *Store) Client() *ent.Client { return s.main.client }

// CatalogID is this catalog's own identity, made when it was created. A
// machine that carries another one belongs to another catalog.
func (s *Store) CatalogID() uuid.UUID { return s.catalog }

// now is the time as the catalog keeps it: PostgreSQL has microseconds.
func (s *Store) now() time.Time { return stamp(s.cfg.Now()) }

func stamp(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// identify reads the catalog's identity, or makes it.
func (s *Store) identify(ctx context.Context) error {
	const key = "catalog.id"
	return s.write(ctx, "identifying the catalog", func(tx *ent.Tx) error {
		row, err := tx.Setting.Get(ctx, key)
		if ent.IsNotFound(err) {
			s.catalog = uuid.Must(uuid.NewV7())
			return tx.Setting.Create().SetID(key).SetValue(s.catalog[:]).SetUpdatedAt(s.now()).Exec(ctx)
		}
		if err != nil {
			return err
		}
		s.catalog, err = uuid.FromBytes(row.Value)
		return err
	})
}

// Write runs fn in a transaction that is durable when Write returns nil. fn may
// be run again when PostgreSQL asks for it, so it must have no effect beyond the
// transaction. It is for workflows/journal.
func (s *Store) Write(ctx context.Context, op string, fn func(*ent.Tx) error) error {
	return s.write(ctx, op, fn)
}

func (s *Store) write(ctx context.Context, op string, fn func(*ent.Tx) error) error {
	return s.writeOn(ctx, s.main, normal, op, fn)
}

// writeTries bounds how often a transaction is repeated that PostgreSQL broke
// off in favour of another.
const writeTries = 20

func (s *Store) writeOn(ctx context.Context, p *pool, pr priority, op string, fn func(*ent.Tx) error) error {
	var err error
	for range writeTries {
		if err = s.once(ctx, p, pr, fn); err == nil {
			return nil
		}
		if !repeatable(err) || ctx.Err() != nil {
			break
		}
	}
	return s.explain(op, err)
}

func (s *Store) once(ctx context.Context, p *pool, pr priority, fn func(*ent.Tx) error) (err error) {
	if s.gate != nil {
		release, err := s.gate.enter(ctx, pr)
		if err != nil {
			return err
		}
		defer release()
	}
	tx, err := p.client.Tx(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if v := recover(); v != nil {
			_ = tx.Rollback()
			panic(v)
		}
	}()
	if err := fn(tx); err != nil {
		if back := tx.Rollback(); back != nil && !errors.Is(back, sql.ErrTxDone) {
			return fmt.Errorf("%w (and the transaction could not be undone: %v)", err, back)
		}
		return err
	}
	return tx.Commit()
}

func newPool(d string, db *sql.DB) *pool {
	return &pool{db: db, client: ent.NewClient(ent.Driver(entsql.OpenDB(d, db)))}
}
