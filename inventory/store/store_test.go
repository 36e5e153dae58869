package store_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

func TestMain(m *testing.M) {
	if os.Getenv(crashEnv) != "" {
		crash()
		return
	}
	if os.Getenv(upgradeEnv) != "" {
		upgradeUntilKilled()
		return
	}
	os.Exit(storetest.Run(m))
}

const site = "store-0421"

// must unwraps a result that the test takes for granted.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mac makes the MAC 52:54:00:00:hi:lo.
func mac(n int) inventory.MAC { return inventory.MAC{0x52, 0x54, 0, 0, byte(n >> 8), byte(n)} }

func TestCatalogKeepsItsIdentity(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		first := must[*store.Store](t)(store.Open(t.Context(), cfg))
		id := first.CatalogID()
		ok(t, first.Close())
		second := storetest.Open(t, cfg)
		if got := second.CatalogID(); got != id || got.Version() != 7 {
			t.Errorf("CatalogID() after reopening = %s; want %s, a version 7 UUID", got, id)
		}
	})
}

func TestCatalogFileIsPrivate(t *testing.T) {
	cfg := store.Config{Path: filepath.Join(t.TempDir(), "data", "catalog.db")}
	s := storetest.Open(t, cfg)
	ok(t, s.Settings().Put(t.Context(), "k", []byte("v")))
	for name, want := range map[string]os.FileMode{"": 0o700, "catalog.db": 0o600, "catalog.db-wal": 0o600, "catalog.db-shm": 0o600} {
		path := filepath.Join(filepath.Dir(cfg.Path), name)
		if got := must[os.FileInfo](t)(os.Stat(path)).Mode().Perm(); got != want {
			t.Errorf("mode of %s = %o; want %o", path, got, want)
		}
	}
}

func TestEveryConnectionIsDurable(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal", "foreign_keys": "1", "busy_timeout": "10000"} {
		for name, got := range s.Pragmas(t, pragma) {
			if got != want {
				t.Errorf("%s of the %s connections = %s; want %s", pragma, name, got, want)
			}
		}
	}
}

func TestDamagedFileIsNamedAndKept(t *testing.T) {
	cases := map[string]func(t *testing.T, path string){
		"no database at all": func(t *testing.T, path string) {
			ok(t, os.WriteFile(path, []byte(strings.Repeat("these are somebody's notes\n", 400)), 0o600))
		},
		"pages overwritten": func(t *testing.T, path string) {
			s := must[*store.Store](t)(store.Open(t.Context(), store.Config{Path: path}))
			for i := range 50 {
				ok(t, s.Settings().Put(t.Context(), fmt.Sprint(i), make([]byte, 3000)))
			}
			ok(t, s.Close())
			f := must[*os.File](t)(os.OpenFile(path, os.O_WRONLY, 0))
			_, err := f.WriteAt([]byte(strings.Repeat("\xa5", 200<<10)), 4096*4)
			ok(t, errors.Join(err, f.Close()))
		},
		"cut short": func(t *testing.T, path string) {
			s := must[*store.Store](t)(store.Open(t.Context(), store.Config{Path: path}))
			ok(t, s.Close())
			ok(t, os.Truncate(path, 3*4096+100))
		},
	}
	for name, damage := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "catalog.db")
			damage(t, path)
			before := must[[]byte](t)(os.ReadFile(path))
			_, err := store.Open(t.Context(), store.Config{Path: path})
			var corrupt *store.CorruptError
			if !errors.As(err, &corrupt) {
				t.Fatalf("Open(damaged) = %v; want a *CorruptError", err)
			}
			for _, word := range []string{path, "damaged", "backup"} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("Open(damaged) = %q; want it to say %q", err, word)
				}
			}
			if after := must[[]byte](t)(os.ReadFile(path)); string(after) != string(before) {
				t.Error("Open(damaged) changed the file; want it left as it was")
			}
		})
	}
}

func TestOpenSaysWhatIsMissing(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(blocked, nil, 0o600))
	l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
	ok(t, l.Close())
	cases := map[string]struct {
		cfg  store.Config
		want string
	}{
		"nothing given":      {store.Config{}, "neither a file nor a PostgreSQL DSN"},
		"directory is file":  {store.Config{Path: filepath.Join(blocked, "catalog.db")}, blocked},
		"path is directory":  {store.Config{Path: filepath.Dir(blocked)}, filepath.Dir(blocked)},
		"bad DSN":            {store.Config{DSN: "postgres://%zz"}, "PostgreSQL"},
		"no server at DSN":   {store.Config{DSN: "postgres://edge@" + l.Addr().String() + "/edge?sslmode=disable"}, "PostgreSQL"},
		"password in errors": {store.Config{DSN: "postgres://edge:hunter2@" + l.Addr().String() + "/edge?sslmode=disable"}, "PostgreSQL"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := store.Open(t.Context(), c.cfg)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("Open(%+v) = %v; want an error that says %q", c.cfg, err, c.want)
			}
			if strings.Contains(err.Error(), "hunter2") {
				t.Errorf("Open = %q; want no password in it", err)
			}
		})
	}
}

func TestSecondProgramWaitsBounded(t *testing.T) {
	cfg := storetest.SQLite(t)
	cfg.BusyTimeout = 300 * time.Millisecond
	first, second := storetest.Open(t, cfg), storetest.Open(t, cfg)
	// A Store has its own gate, so two of them meet at SQLite's lock as two
	// programs do.
	held, release, done := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		done <- first.HoldWrite(t.Context(), func() { close(held); <-release })
	}()
	<-held
	start := time.Now()
	err := second.Settings().Put(t.Context(), "k", []byte("v"))
	if waited := time.Since(start); waited < 200*time.Millisecond || waited > 5*time.Second {
		t.Errorf("Put waited %s for the other program; want about %s", waited, cfg.BusyTimeout)
	}
	if err == nil || !strings.Contains(err.Error(), "held by another program") {
		t.Errorf("Put while another program writes = %v; want an error that says who holds the catalog", err)
	}
	close(release)
	ok(t, <-done)
	ok(t, second.Settings().Put(t.Context(), "k", []byte("v")))
}

func TestFullCatalogSaysSoAndLosesNothing(t *testing.T) {
	cfg := storetest.SQLite(t)
	s := storetest.Open(t, cfg)
	ok(t, s.Settings().Put(t.Context(), "before", []byte("kept")))
	// SQLite's own page limit gives the very SQLITE_FULL of a full
	// filesystem; it stands for one because tests run unprivileged.
	ok(t, s.LimitPages(t.Context()))
	var full *store.FullError
	err := s.Settings().Put(t.Context(), "big", make([]byte, 1<<20))
	if !errors.As(err, &full) || !strings.Contains(err.Error(), cfg.Path) {
		t.Fatalf("Put(1 MiB) into a full catalog = %v; want a *FullError that names %s", err, cfg.Path)
	}
	if got := must[[]byte](t)(s.Settings().Get(t.Context(), "before")); string(got) != "kept" {
		t.Errorf("Get(before) = %q; want kept", got)
	}
}

// A command that reads events waits for those that are not written yet.
func TestEventsForWhichThereIsNoRoomHoldNobodyUp(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	ok(t, s.LimitEventPages(t.Context()))
	for range 1000 {
		s.Record(inventory.Event{Kind: inventory.EventAgentLog, Message: strings.Repeat("x", 4000)})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // four batches that are tried five times each take longer
	defer cancel()
	if err := s.Flush(ctx); err != nil {
		t.Errorf("Flush with a full catalog = %v; want it to return soon", err)
	}
	if s.EventsDropped() == 0 {
		t.Error("no event was dropped; want those for which there is no room counted")
	}
}

func TestNewSettingIsWrittenByOneOfMany(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, a, b := t.Context(), storetest.Open(t, cfg).Settings(), storetest.Open(t, cfg).Settings()
		const racers = 6
		got := make([]string, racers)
		var wg sync.WaitGroup
		for i := range racers {
			wg.Go(func() {
				kept, err := []store.Settings{a, b}[i%2].PutNew(ctx, "k", fmt.Append(nil, i))
				if err != nil {
					t.Error(err)
				}
				got[i] = string(kept)
			})
		}
		wg.Wait()
		stored := string(must[[]byte](t)(a.Get(ctx, "k")))
		for i, kept := range got {
			if kept != stored || stored == "" {
				t.Errorf("racer %d was told that %q is kept; want %q, which is", i, kept, stored)
			}
		}
		ok(t, b.Put(ctx, "k", []byte("replaced")))
		if kept := must[[]byte](t)(a.PutNew(ctx, "k", []byte("late"))); string(kept) != "replaced" {
			t.Errorf("PutNew over a value keeps %q; want that value", kept)
		}
	})
}

func TestSettings(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, v := t.Context(), storetest.Open(t, cfg).Settings()
		if _, err := v.Get(ctx, "absent"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("Get(absent) = %v; want fs.ErrNotExist", err)
		}
		ok(t, v.Put(ctx, "ca/key", []byte{0, 1, 2, 0xff}))
		ok(t, v.Put(ctx, "ca/key", []byte{3, 0, 4}))
		ok(t, v.Put(ctx, "ca/cert", nil))
		if got := must[[]byte](t)(v.Get(ctx, "ca/key")); string(got) != "\x03\x00\x04" {
			t.Errorf("Get(ca/key) = %v; want the value put last", got)
		}
		if got := must[[]string](t)(v.Keys(ctx, "ca/")); strings.Join(got, " ") != "ca/cert ca/key" {
			t.Errorf("Keys(ca/) = %v; want ca/cert ca/key", got)
		}
		ok(t, v.Delete(ctx, "ca/key"))
		ok(t, v.Delete(ctx, "ca/key"))
		if _, err := v.Get(ctx, "ca/key"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get(deleted) = %v; want ErrNotFound", err)
		}
	})
}

func TestRefusedCredentialIsRememberedAcrossRestarts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx := t.Context()
		first := must[*store.Store](t)(store.Open(ctx, cfg))
		ok(t, first.RefuseCredential(ctx, "digest-of-old", "172.22.1.11"))
		ok(t, first.Close())
		s := storetest.Open(t, cfg)
		refused := func(key string) bool {
			_, r, err := s.CredentialRefused(ctx, key)
			ok(t, err)
			return r
		}
		if !refused("digest-of-old") || refused("digest-of-new") {
			t.Error("CredentialRefused: want the refused credential remembered, and another one tried")
		}
		ok(t, s.AllowCredential(ctx, "digest-of-old"))
		if refused("digest-of-old") {
			t.Error("CredentialRefused after AllowCredential = true; want false")
		}
	})
}

func TestImages(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		want := store.Image{
			Digest: "sha256:aa", Name: "edge-os", Architecture: "amd64", SpecDigest: "sha256:bb", Path: "/images/aa",
			RawBytes: 3 << 40, StoredBytes: 1 << 30, CreatedAt: time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC),
		}
		ok(t, s.PutImage(ctx, want))
		ok(t, s.PutImage(ctx, want))
		if got := must[store.Image](t)(s.Image(ctx, want.Digest)); got != want {
			t.Errorf("Image = %+v; want %+v", got, want)
		}
		if all := must[[]store.Image](t)(s.Images(ctx)); len(all) != 1 {
			t.Errorf("Images() = %d; want 1", len(all))
		}
		if _, err := s.Image(ctx, "sha256:cc"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Image(unknown) = %v; want ErrNotFound", err)
		}
	})
}

func TestAppliedRecords(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		const a, b = `machine.node["a"]`, `machine.node["b"]`
		rec := store.Applied{Site: site, Address: a, Digest: "one", Outputs: []byte{0, 1}, SchemaVersion: 2, Run: "r1"}
		ok(t, s.PutApplied(ctx, rec))
		rec.Digest = "two"
		ok(t, s.PutApplied(ctx, rec))
		got := must[store.Applied](t)(s.Applied(ctx, site, a))
		if got.Digest != "two" || string(got.Outputs) != "\x00\x01" || got.SchemaVersion != 2 || got.Run != "r1" || got.Time.IsZero() {
			t.Errorf("Applied(a) = %+v; want the record put last", got)
		}
		began := store.Applied{Site: site, Address: a, Kind: "file", Attempt: []byte{9}, DependsOn: []string{"machine.x"}, Run: "r2"}
		ok(t, s.BeginApplied(ctx, began))
		got = must[store.Applied](t)(s.Applied(ctx, site, a))
		if got.Digest != "two" || string(got.Outputs) != "\x00\x01" || got.Run != "r1" || got.Kind != "file" || string(got.Attempt) != "\x09" || got.DependsOn[0] != "machine.x" {
			t.Errorf("Applied(a) after BeginApplied = %+v; want the success as it was, and the attempt", got)
		}
		rec.Inputs, rec.Kind = []byte{9}, "file"
		ok(t, s.PutApplied(ctx, rec))
		if got = must[store.Applied](t)(s.Applied(ctx, site, a)); len(got.Attempt) != 0 || string(got.Inputs) != "\x09" || len(got.DependsOn) != 0 {
			t.Errorf("Applied(a) after its success = %+v; want no attempt any more", got)
		}
		ok(t, s.BeginApplied(ctx, store.Applied{Site: site, Address: "machine.new", Kind: "file", Attempt: []byte{1}}))
		if got = must[store.Applied](t)(s.Applied(ctx, site, "machine.new")); got.Digest != "" || got.Time.IsZero() {
			t.Errorf("Applied(only begun) = %+v; want no digest", got)
		}
		ok(t, s.DeleteApplied(ctx, site, "machine.new"))
		ok(t, s.MoveApplied(ctx, site, a, b))
		if _, err := s.Applied(ctx, site, a); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Applied(moved away) = %v; want ErrNotFound", err)
		}
		if err := s.MoveApplied(ctx, site, a, b); err == nil {
			t.Error("MoveApplied onto a record = nil; want an error")
		}
		if err := s.MoveApplied(ctx, site, a, "machine.c"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("MoveApplied(unknown) = %v; want ErrNotFound", err)
		}
		if all := must[[]store.Applied](t)(s.AppliedAll(ctx, site)); len(all) != 1 || all[0].Address != b {
			t.Errorf("AppliedAll = %+v; want b alone", all)
		}
		ok(t, s.DeleteApplied(ctx, site, b))
		if all := must[[]store.Applied](t)(s.AppliedAll(ctx, site)); len(all) != 0 {
			t.Errorf("AppliedAll after DeleteApplied = %+v; want none", all)
		}
	})
}

func TestCancelledContextChangesNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Settings().Put(ctx, "k", []byte("v")); !errors.Is(err, context.Canceled) {
			t.Errorf("Put with an ended context = %v; want context.Canceled", err)
		}
		if _, err := s.Settings().Get(t.Context(), "k"); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Get after a cancelled Put = %v; want ErrNotFound", err)
		}
	})
}
