package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"

	"entgo.io/ent/dialect"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"modernc.org/sqlite"
)

// CutPages makes the store find its pages through connections that CutPage can
// cut.
func (s *Store) CutPages() (*PageCutter, error) {
	c := &PageCutter{store: s}
	if s.dialect == dialect.Postgres {
		cfg, err := pgx.ParseConfig(s.cfg.DSN)
		if err != nil {
			return nil, err
		}
		c.Connector = stdlib.GetConnector(*cfg, stdlib.OptionAfterConnect(searchByIndex))
		if err := s.page.db.Close(); err != nil {
			return nil, err
		}
	} else {
		own, isSQLite := s.main.db.Driver().(*sqlite.Driver)
		if !isSQLite {
			return nil, fmt.Errorf("the driver is %T", s.main.db.Driver())
		}
		c.Connector = connector{dsn: s.sqliteDSN(), driver: own, patience: s.cfg.BusyTimeout}
	}
	s.page = newPool(s.dialect, sql.OpenDB(c))
	return c, nil
}

// PageCutter ends the time of a page at a chosen row of a chosen query.
type PageCutter struct {
	driver.Connector
	store *Store

	query, row int // those to cut; query counts from one, row 0 is before the first
	queries    int // that found the page
	all        int // with those that read it
	deadline   context.CancelFunc
	cut        bool
}

// Page is Store.Page with small chunks and a deadline that passes when a query
// has given some rows. It reports whether that came to pass.
func (c *PageCutter) Page(ctx context.Context, r PageRequest, query, row int) (Page, bool, error) {
	p, err := c.store.newPager(r)
	if err != nil {
		return Page{}, false, err
	}
	p.chunk, p.size = 4, 4
	within, cancel := context.WithCancel(context.WithValue(ctx, finding{}, true))
	defer cancel()
	c.query, c.row, c.queries, c.all, c.deadline, c.cut = query, row, 0, 0, cancel, false
	out, err := p.page(ctx, within)
	c.query = 0
	return out, c.cut, err
}

// finding marks the contexts that have a page's deadline: what was found by then is
// read also when it has passed.
type finding struct{}

// Statements is how many there were for the last Page.
func (c *PageCutter) Statements() int { return c.all }

// CloseMain closes the connections that are for everything but pages.
func (s *Store) CloseMain() error { return s.main.db.Close() }

// end lets the deadline pass.
func (c *PageCutter) end() error {
	c.cut = true
	c.deadline()
	return context.DeadlineExceeded
}

// Connect implements driver.Connector.
func (c *PageCutter) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	return &cutConn{Conn: conn, cutter: c}, err
}

type cutConn struct {
	driver.Conn
	cutter *PageCutter
}

// CheckNamedValue implements driver.NamedValueChecker.
func (c *cutConn) CheckNamedValue(v *driver.NamedValue) error {
	if checker, ok := c.Conn.(driver.NamedValueChecker); ok {
		return checker.CheckNamedValue(v)
	}
	return driver.ErrSkip
}

// QueryContext implements driver.QueryerContext.
func (c *cutConn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	queryer, ok := c.Conn.(driver.QueryerContext)
	if !ok {
		return nil, driver.ErrSkip
	}
	c.cutter.all++
	if ctx.Value(finding{}) == nil {
		return queryer.QueryContext(ctx, query, args)
	}
	c.cutter.queries++
	chosen := c.cutter.queries == c.cutter.query
	if chosen && c.cutter.row == 0 {
		return nil, c.cutter.end()
	}
	rows, err := queryer.QueryContext(ctx, query, args)
	if err != nil || !chosen {
		return rows, err
	}
	return &cutRows{Rows: rows, cutter: c.cutter, left: c.cutter.row}, nil
}

type cutRows struct {
	driver.Rows
	cutter *PageCutter
	left   int
}

// Next implements driver.Rows.
func (r *cutRows) Next(dest []driver.Value) error {
	if r.left == 0 {
		return r.cutter.end()
	}
	r.left--
	return r.Rows.Next(dest)
}
