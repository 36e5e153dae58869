package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	atlas "ariga.io/atlas/sql/migrate"
	"entgo.io/ent/dialect/sql/schema"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent/migrate"
	"github.com/edge-provision/edge-provision/ent/migrate/migrations"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/drift"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows/journal"
)

func TestMigrationsLeadToTheSchema(t *testing.T) {
	check := func(t *testing.T, cfg store.Config) {
		bare := must[*store.Store](t)(store.OpenBare(t.Context(), cfg))
		defer bare.Disconnect()
		dir := &atlas.MemDir{}
		for _, path := range must[[]string](t)(fs.Glob(migrations.Files, bare.Dialect()+"/*")) {
			ok(t, dir.WriteFile(filepath.Base(path), must[[]byte](t)(fs.ReadFile(migrations.Files, path))))
		}
		before := len(must[[]atlas.File](t)(dir.Files()))
		m := must[*schema.Atlas](t)(schema.NewMigrate(bare.Driver(), schema.WithDir(dir), schema.WithMigrationMode(schema.ModeReplay), schema.WithDropColumn(true), schema.WithDropIndex(true)))
		ok(t, m.NamedDiff(t.Context(), "missing", migrate.Tables...))
		for _, f := range must[[]atlas.File](t)(dir.Files())[before:] {
			t.Errorf("the migrations leave this of ent/schema to be made:\n%s", f.Bytes())
		}
	}
	t.Run("sqlite", func(t *testing.T) { check(t, storetest.SQLite(t)) })
	t.Run("postgres", func(t *testing.T) { check(t, storetest.PostgreSQLDatabase(t)) })
}

// dumps are the filled catalogs of older schemas, by version.
func dumps(t *testing.T, dialect string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, path := range must[[]string](t)(filepath.Glob(filepath.Join("testdata", dialect+"-*.sql"))) {
		version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), dialect+"-"), ".sql")
		out[version] = string(must[[]byte](t)(os.ReadFile(path)))
	}
	return out
}

func TestEveryOlderSchemaHasADump(t *testing.T) {
	for _, dialect := range []string{"sqlite3", "postgres"} {
		files := must[[]string](t)(fs.Glob(migrations.Files, dialect+"/*.sql"))
		if len(files) < 2 {
			t.Errorf("%s has %d migrations; want at least two", dialect, len(files))
		}
		kept := dumps(t, dialect)
		for _, f := range files[:len(files)-1] {
			version, _, _ := strings.Cut(filepath.Base(f), "_")
			if kept[version] == "" {
				t.Errorf("testdata/%s-%s.sql is missing; want a filled dump of every schema but the newest", dialect, version)
			}
		}
	}
}

// TestOlderCatalogIsUpgraded opens a filled catalog that the program of an older
// schema wrote, and reads everything that was in it.
func TestOlderCatalogIsUpgraded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		dialect, fresh := "sqlite3", storetest.SQLite
		if cfg.DSN != "" {
			dialect, fresh = "postgres", storetest.PostgreSQL
		}
		all := dumps(t, dialect)
		if len(all) == 0 {
			t.Fatal("no dumps of older schemas")
		}
		for version, dump := range all {
			t.Run(version, func(t *testing.T) {
				own := fresh(t)
				bare := must[*store.Store](t)(store.OpenBare(ctx, own))
				err := bare.Load(ctx, dump)
				ok(t, errors.Join(err, bare.Disconnect()))
				s := storetest.Open(t, own)
				do := must[inventory.Machine](t)
				m := do(s.MachineByAddress(ctx, site, nodeA))
				if m.Serial != "7XK2Q93" || m.SMBIOSUUID != uuidA || len(m.MACs) != 2 || m.State != inventory.StateInstalled || !strings.HasPrefix(m.Image, "sha256:5f70") || m.HostKey != "" {
					t.Errorf("machine = %+v; want node a as it was, without host key", m)
				}
				ok(t, s.SetHostKey(ctx, m.ID, "ssh-ed25519 AAAA"))
				if got := do(s.MachineByMAC(ctx, mac(2))); got.HostKey != "ssh-ed25519 AAAA" || got.ID != m.ID {
					t.Errorf("machine of MAC 2 = %+v; want node a with its new host key", got)
				}
				if n := len(must[[]inventory.Machine](t)(s.Machines(ctx, store.MachineFilter{}))); n != 3 {
					t.Errorf("machines = %d; want 3", n)
				}
				h := must[[]inventory.Document](t)(s.FactsHistory(ctx, m.ID, inventory.SourceAgent))
				if len(h) != 2 || fmt.Sprint(inventory.Diff(h[0].Facts, h[1].Facts)) != `[~ bios.date: "11/17/2023" -> "03/05/2024" ~ bios.version: "1.9.2" -> "1.12.1"]` {
					t.Errorf("history = %+v; want two documents that differ in the BIOS", h)
				}
				before := rows(t, s, "disks")
				ok(t, s.RebuildProjection(ctx))
				if got := rows(t, s, "disks"); got != before {
					t.Errorf("disks rebuilt from the old documents = %s; want %s", got, before)
				}
				leases := must[[]inventory.Lease](t)(s.Leases(ctx, "edge"))
				var states []string
				for _, l := range leases {
					states = append(states, string(l.State))
				}
				if slices.Sort(states); strings.Join(states, " ") != "active declined released" {
					t.Errorf("leases = %+v; want an active, a declined and a released one", leases)
				}
				a := must[store.Applied](t)(s.Applied(ctx, site, nodeA))
				if string(a.Outputs) != "\x00sealed'\xff" || !a.Time.Equal(noon) {
					t.Errorf("applied record = %+v; want its outputs and time as they were", a)
				}
				if version < "20261121145525" {
					if a.Kind != "" || a.Inputs != nil || a.Attempt != nil || a.DependsOn != nil {
						t.Errorf("applied record = %+v; want that nothing is known of its inputs", a)
					}
				} else if a.Kind != "machine" || string(a.Inputs) != "\x00inputs'\xff" || string(a.Attempt) != "\x01try" || len(a.DependsOn) != 1 {
					t.Errorf("applied record = %+v; want its inputs as they were", a)
				}
				changes := must[inventory.Subject](t)(s.Subject(ctx, m.ID)).Changes
				if len(changes) != 3 || changes[0].Path != "bios" || changes[1].Path != "bios.date" || changes[2].Path != "bios.version" || !changes[0].At.Equal(h[1].ObservedAt) {
					t.Errorf("changes = %+v; want those of the BIOS, found in the old documents", changes)
				}
				other := do(s.MachineByAddress(ctx, site, `machine.node["b"]`))
				if want := version >= "20261121121453"; (other.HostKey != "") != want {
					t.Errorf("host key of node b = %q; want one: %v", other.HostKey, want)
				}
				if version >= "20261121190018" {
					tokens := must[[]store.Token](t)(s.Tokens(ctx))
					hooks := must[[]store.Webhook](t)(s.Webhooks(ctx))
					if other.Tags["location"] != "back room" || len(tokens) != 1 || string(tokens[0].Hash) != "\x00hash'\xff" || len(hooks) != 1 || hooks[0].Kinds[0] != inventory.EventMachineState {
						t.Errorf("node b = %+v, tokens = %+v, webhooks = %+v; want the tags, the token and the webhook as they were", other, tokens, hooks)
					}
				}
				seen := "SELECT count(*) FROM machine_facts WHERE disks_observed AND nics_observed AND memory_modules_observed AND pci_functions_observed AND NOT neighbors_observed"
				if n := must[int64](t)(s.Number(ctx, seen)); n != 1 {
					t.Errorf("machines whose lists are known to be looked for = %d; want node a, as its old documents say", n)
				}
				if version >= "20261121221752" {
					s.UseSnapshotKey(snapshotKey)
					r := must[drift.Report](t)(s.Drift(ctx, other.ID))
					waiting := must[[]inventory.Reaction](t)(s.Reactions(ctx, store.ReactionFilter{Site: site}))
					if strings.Join(other.Classes, " ") != "old till" || other.Drift != inventory.DriftChanged || r.State != inventory.DriftChanged || len(r.Changes) != 2 ||
						len(waiting) != 1 || waiting[0].Digest != "sha256:react" || waiting[0].State != inventory.ReactionQueued {
						t.Errorf("node b = %+v, drift = %+v, reactions = %+v; want its classes, a swapped disk and what waits for it as they were", other, r, waiting)
					}
					if n := must[int64](t)(s.Number(ctx, "SELECT count(*) FROM machine_facts WHERE disks_observed AND NOT nics_observed")); n != 1 {
						t.Errorf("machines with disks, and ports that no document tells of = %d; want node b", n)
					}
				}
				runs := must[[]journal.Run](t)(journal.New(s, nil).Unfinished(ctx, site))
				if len(runs) != 1 || runs[0].ID != uuid.MustParse("019aa5c2-7c00-7000-8000-000000000001") || len(runs[0].InFlight()) != 1 || len(runs[0].Notes) != 1 || len(runs[0].Steps) != 2 {
					t.Errorf("unfinished runs = %+v; want one with a step in flight and a note", runs)
				}
				events := must[[]inventory.Event](t)(s.Events(ctx, store.EventFilter{Machine: m.ID}))
				if len(events) != 2 || events[0].Attrs["arch"] != "7" {
					t.Errorf("events = %+v; want a DISCOVER of arch 7 and a change of state", events)
				}
				if v := must[[]byte](t)(s.Settings().Get(ctx, "keyring/ca")); string(v) != "age-encryption.org/v1\n\x00" {
					t.Errorf("setting = %q; want it as it was", v)
				}
				if _, refused, err := s.CredentialRefused(ctx, "hmac:1"); err != nil || !refused {
					t.Errorf("CredentialRefused = %v, %v; want true", refused, err)
				}
				if i := must[[]store.Image](t)(s.Images(ctx)); len(i) != 1 || i[0].RawBytes != 1<<30 {
					t.Errorf("images = %+v; want one of 1 GiB", i)
				}
				held := must[[]store.Held](t)(s.Locks(ctx, site))
				if len(held) != 1 || held[0].Owner.Host != "controller-1" || held[0].Fence != 1 {
					t.Errorf("locks = %+v; want the one of controller-1", held)
				}
				// New rows get ids beyond the old ones.
				observe(t, s, store.Observation{MACs: []inventory.MAC{mac(77)}, Source: inventory.SourceAgent, Facts: &inventory.Facts{Disks: full.Disks}})
			})
		}
	})
}

// altered is the program's migrations with one more, or one changed.
func altered(t *testing.T, dialect string, change func(fstest.MapFS), resum bool) fs.FS {
	t.Helper()
	out := fstest.MapFS{}
	for _, path := range must[[]string](t)(fs.Glob(migrations.Files, dialect+"/*")) {
		out[filepath.Base(path)] = &fstest.MapFile{Data: must[[]byte](t)(fs.ReadFile(migrations.Files, path))}
	}
	change(out)
	if !resum {
		return out
	}
	delete(out, "atlas.sum")
	dir := &atlas.MemDir{}
	for name, f := range out {
		ok(t, dir.WriteFile(name, f.Data))
	}
	sum := must[atlas.HashFile](t)(dir.Checksum())
	out["atlas.sum"] = &fstest.MapFile{Data: must[[]byte](t)(sum.MarshalText())}
	return out
}

func TestMigrationIsRefused(t *testing.T) {
	first := func(m fstest.MapFS) *fstest.MapFile {
		for name, f := range m {
			if strings.HasSuffix(name, "_initial.sql") {
				return f
			}
		}
		t.Fatal("no initial migration")
		return nil
	}
	changed := func(m fstest.MapFS) { f := first(m); f.Data = append(slices.Clone(f.Data), "\n-- edited\n"...) }
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		var edited *store.ChangedMigrationError
		t.Run("file edited after its release", func(t *testing.T) {
			err := s.MigrateWith(ctx, altered(t, s.Dialect(), changed, false))
			if !errors.As(err, &edited) || !strings.Contains(err.Error(), "_initial") {
				t.Errorf("migrate = %v; want a *ChangedMigrationError that names the file", err)
			}
		})
		t.Run("file edited with its checksum", func(t *testing.T) {
			err := s.MigrateWith(ctx, altered(t, s.Dialect(), changed, true))
			if !errors.As(err, &edited) || !strings.Contains(err.Error(), "_initial") {
				t.Errorf("migrate = %v; want a *ChangedMigrationError that names the file", err)
			}
		})
		t.Run("catalog of a newer program", func(t *testing.T) {
			newer := altered(t, s.Dialect(), func(m fstest.MapFS) {
				m["29990101000000_later.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE later (id int);\n")}
			}, true)
			ok(t, s.MigrateWith(ctx, newer))
			ok(t, s.MigrateWith(ctx, newer))
			_, err := store.Open(ctx, cfg)
			var tooNew *store.NewerSchemaError
			if !errors.As(err, &tooNew) || tooNew.Have != "29990101000000" || !strings.Contains(err.Error(), "backup") {
				t.Errorf("Open(newer catalog) = %v; want a *NewerSchemaError with advice", err)
			}
		})
	})
}

func TestFailedMigrationLeavesTheOldSchema(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		observe(t, s, seen("", uuidA, 1))
		err := s.MigrateWith(ctx, altered(t, s.Dialect(), func(m fstest.MapFS) {
			m["29990101000000_half.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE half (id int);\nDROP TABLE macs;\nCREATE TABLE no such syntax;\n")}
		}, true))
		if err == nil || !strings.Contains(err.Error(), "29990101000000_half") {
			t.Fatalf("migrate = %v; want an error that names the migration", err)
		}
		if err := s.Exec(ctx, "SELECT * FROM half"); err == nil {
			t.Error("table half exists after a failed migration; want it undone")
		}
		must[inventory.Machine](t)(s.MachineByMAC(ctx, mac(1)))
	})
}

func TestMigrationThatOrphansRowsIsUndone(t *testing.T) {
	ctx, s := t.Context(), storetest.Open(t, storetest.SQLite(t))
	observe(t, s, seen("", uuidA, 1))
	err := s.MigrateWith(ctx, altered(t, "sqlite3", func(m fstest.MapFS) {
		m["29990101000000_orphan.sql"] = &fstest.MapFile{Data: []byte("DELETE FROM machines;\n")}
	}, true))
	if err == nil || !strings.Contains(err.Error(), "macs") {
		t.Fatalf("migrate = %v; want an error that names the orphaned table", err)
	}
	must[inventory.Machine](t)(s.MachineByMAC(ctx, mac(1)))
}

func TestProgramsThatOpenANewCatalogAtOnceMigrateItOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		var wg sync.WaitGroup
		ids := make([]uuid.UUID, 4)
		for i := range ids {
			wg.Go(func() {
				s, err := store.Open(context.WithoutCancel(t.Context()), cfg)
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = s.CatalogID()
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, id := range ids {
			if id != ids[0] || id == uuid.Nil {
				t.Errorf("catalog ids = %v; want one", ids)
			}
		}
	})
}
