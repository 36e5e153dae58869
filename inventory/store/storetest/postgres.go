// Package storetest gives tests catalogs to work on: a SQLite file always, and a
// PostgreSQL of their own where Debian's package is installed.
package storetest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver named pgx
)

// ErrNotInstalled says that this host has no PostgreSQL server.
var ErrNotInstalled = errors.New("no PostgreSQL server is installed under /usr/lib/postgresql (Debian package postgresql)")

// stopBound is how long a server may take to stop before it is killed; it has
// nothing to save. PostgreSQL itself kills those of its processes that have not
// ended after 5 s, and one that outlives it would go on writing into the folder.
const stopBound = 15 * time.Second

// Postgres is a throw-away PostgreSQL server on a Unix socket in a folder of its
// own. It keeps nothing and syncs nothing.
type Postgres struct {
	dir    string
	server *exec.Cmd
	log    *bytes.Buffer
	exited chan struct{}
	next   atomic.Int64
	stop   sync.Once
}

// Start makes a new cluster and starts its server, with settings such as
// "fsync=on" over those of a throw-away server. PostgreSQL refuses to run as
// root; under root it runs as the user postgres, or nobody.
func Start(ctx context.Context, settings ...string) (*Postgres, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "edge-pg-") // short: a socket's path has 107 bytes
	if err != nil {
		return nil, fmt.Errorf("starting PostgreSQL: %w", err)
	}
	p := &Postgres{dir: dir, log: &bytes.Buffer{}, exited: make(chan struct{})}
	if err := p.start(ctx, bin, settings); err != nil {
		return nil, errors.Join(fmt.Errorf("starting PostgreSQL: %w", err), os.RemoveAll(dir))
	}
	return p, nil
}

// binaries is the folder of the newest installed server.
func binaries() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if err != nil || len(found) == 0 {
		return "", ErrNotInstalled
	}
	version := func(path string) int {
		n, err := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		if err != nil {
			return 0
		}
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return version(a) - version(b) })), nil
}

func (p *Postgres) start(ctx context.Context, bin string, settings []string) error {
	attr, err := p.owner()
	if err != nil {
		return err
	}
	data := filepath.Join(p.dir, "data")
	initdb := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", data, "-U", "edge", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
	initdb.SysProcAttr, initdb.Dir = attr, p.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	p.server = exec.Command(filepath.Join(bin, "postgres"), "-D", data, "-k", p.dir, "-c", "listen_addresses=",
		"-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off", "-c", "max_connections=200", "-c", "shared_buffers=32MB")
	for _, s := range settings {
		p.server.Args = append(p.server.Args, "-c", s)
	}
	p.server.SysProcAttr, p.server.Dir = attr, p.dir
	p.server.Stdout, p.server.Stderr = p.log, p.log
	if err := p.server.Start(); err != nil {
		return err
	}
	go func() {
		defer close(p.exited)
		_ = p.server.Wait() // it was told to stop, or ready says that it ended
	}()
	if err := p.ready(ctx); err != nil {
		p.Stop()
		return fmt.Errorf("%w: %s", err, p.log)
	}
	return nil
}

// owner gives the folder to the user that the server runs as. The server must
// end with the test, however that ends.
func (p *Postgres) owner() (*syscall.SysProcAttr, error) {
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGQUIT}
	if os.Geteuid() != 0 {
		return attr, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return nil, err
		}
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return attr, os.Chown(p.dir, int(uid), int(gid))
}

// ready waits until the server answers.
func (p *Postgres) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	db, err := sql.Open("pgx", p.dsn("postgres"))
	if err != nil {
		return err
	}
	defer db.Close()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-p.exited:
			return errors.New("the server ended")
		case <-ctx.Done():
			return fmt.Errorf("the server does not answer: %w", err)
		case <-tick.C:
		}
	}
}

func (p *Postgres) dsn(database string) string {
	return fmt.Sprintf("host=%s user=edge dbname=%s", p.dir, database)
}

// NewDatabase makes an empty database and returns its connection string.
func (p *Postgres) NewDatabase(ctx context.Context) (string, error) {
	name, err := p.create(ctx, "DATABASE")
	return p.dsn(name), err
}

// NewSchema makes an empty schema, which is made ten times faster than a
// database and serves as one, and returns the connection string that stays
// within it.
func (p *Postgres) NewSchema(ctx context.Context) (string, error) {
	name, err := p.create(ctx, "SCHEMA")
	return p.dsn("postgres") + " search_path=" + name, err
}

func (p *Postgres) create(ctx context.Context, what string) (name string, err error) {
	db, err := sql.Open("pgx", p.dsn("postgres"))
	if err != nil {
		return "", err
	}
	defer db.Close()
	name = fmt.Sprintf("edge%d", p.next.Add(1))
	if _, err := db.ExecContext(ctx, "CREATE "+what+" "+name); err != nil {
		return "", fmt.Errorf("making %s %s: %w", what, name, err)
	}
	return name, nil
}

// Stop ends the server and removes all it kept.
func (p *Postgres) Stop() {
	p.stop.Do(func() {
		_ = p.server.Process.Signal(syscall.SIGQUIT) // immediate shutdown; gone already is fine
		t := time.NewTimer(stopBound)
		defer t.Stop()
		select {
		case <-p.exited:
		case <-t.C:
			_ = p.server.Process.Kill()
			<-p.exited
		}
		_ = os.RemoveAll(p.dir) // a leftover in the temporary folder harms nobody
	})
}
