//go:build ignore

// Command main drafts the migrations that lead from the newest one on file to
// the schema in ent/schema, for both databases:
//
//	go run ent/migrate/main.go NAME
//
// It starts a PostgreSQL of its own to compare with. Review what it wrote, edit
// it where data must move, and then run it with -hash to renew the checksums.
package main

import (
	"context"
	"database/sql"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"text/template"
	"time"

	atlas "ariga.io/atlas/sql/migrate"
	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"entgo.io/ent/dialect/sql/schema"
	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"github.com/edge-provision/edge-provision/ent/migrate"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

func main() {
	hash := flag.Bool("hash", false, "only renew the checksum files")
	flag.Parse()
	if err := run(flag.Arg(0), *hash); err != nil {
		log.Fatal(err)
	}
}

func run(name string, hashOnly bool) error {
	if name == "" && !hashOnly {
		return fmt.Errorf("a migration needs a name")
	}
	version := time.Now().UTC().Format("20060102150405") // one for both
	for _, d := range []string{dialect.SQLite, dialect.Postgres} {
		folder := filepath.Join("ent", "migrate", "migrations", d)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		dir, err := atlas.NewLocalDir(folder)
		if err != nil {
			return err
		}
		if hashOnly {
			sum, err := dir.Checksum()
			if err == nil {
				err = atlas.WriteSumFile(dir, sum)
			}
			if err != nil {
				return err
			}
			continue
		}
		if err := draft(d, dir, version, name); err != nil {
			return fmt.Errorf("%s: %w", d, err)
		}
	}
	return nil
}

func draft(d string, dir atlas.Dir, version, name string) error {
	db, done, err := open(d)
	if err != nil {
		return err
	}
	defer done()
	drv := entsql.OpenDB(d, db)
	file, err := template.New("name").Parse(version + "_{{ .Name }}.sql")
	if err != nil {
		return err
	}
	text, err := template.New("text").Parse("{{ range .Changes }}{{ with .Comment }}-- {{ . }}\n{{ end }}{{ .Cmd }};\n{{ end }}")
	if err != nil {
		return err
	}
	format, err := atlas.NewTemplateFormatter(file, text)
	if err != nil {
		return err
	}
	m, err := schema.NewMigrate(drv,
		schema.WithDir(dir), schema.WithMigrationMode(schema.ModeReplay), schema.WithDialect(d),
		schema.WithFormatter(format), schema.WithForeignKeys(true), schema.WithDropColumn(true), schema.WithDropIndex(true))
	if err != nil {
		return err
	}
	return m.NamedDiff(context.Background(), name, migrate.Tables...)
}

// open gives an empty database to replay the migrations on.
func open(d string) (*sql.DB, func(), error) {
	if d == dialect.SQLite {
		db, err := sql.Open("sqlite", "file:draft?mode=memory&cache=shared&_pragma=foreign_keys(1)")
		return db, func() { db.Close() }, err
	}
	pg, err := storetest.Start(context.Background())
	if err != nil {
		return nil, nil, err
	}
	dsn, err := pg.NewDatabase(context.Background())
	if err != nil {
		return nil, nil, err
	}
	db, err := sql.Open("pgx", dsn)
	return db, func() { db.Close(); pg.Stop() }, err
}
