package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/ent/disk"
	"github.com/edge-provision/edge-provision/ent/factchange"
	"github.com/edge-provision/edge-provision/ent/machinefacts"
	"github.com/edge-provision/edge-provision/ent/memorymodule"
	"github.com/edge-provision/edge-provision/ent/neighbor"
	"github.com/edge-provision/edge-provision/ent/nic"
	"github.com/edge-provision/edge-provision/ent/pcifunction"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// anewTables are all tables that are made anew from documents.
var anewTables = append([]string{"neighbors", "fact_changes"}, projections...)

// columnsBesides are the columns of an entity but those of every child of a machine.
func columnsBesides(all []string) []string {
	out := slices.DeleteFunc(slices.Clone(all), func(c string) bool { return c == "id" || c == "machine_id" })
	slices.Sort(out)
	return out
}

func TestProjectionHoldsEveryColumn(t *testing.T) {
	have := store.ProjectedColumns()
	for name, want := range map[string][]string{
		machinefacts.Table: machinefacts.Columns, disk.Table: disk.Columns, nic.Table: nic.Columns, neighbor.Table: neighbor.Columns,
		memorymodule.Table: memorymodule.Columns, pcifunction.Table: pcifunction.Columns, factchange.Table: factchange.Columns,
	} {
		if got := columnsBesides(have[name]); !slices.Equal(got, columnsBesides(want)) {
			t.Errorf("columns of %s that are projected = %q; want those of ent/schema: %q", name, got, columnsBesides(want))
		}
	}
}

// fill makes machines of every kind: with one source and several, with a history, with
// neighbors, without lists, and, as the fourth of each five, without any facts. The
// ids are in order.
func fill(t *testing.T, s *store.Store, count int) []uuid.UUID {
	t.Helper()
	var ids []uuid.UUID
	for i := range count {
		f := full
		f.System = &inventory.System{Manufacturer: "Dell Inc.", Product: "PowerEdge XR12", Serial: fmt.Sprintf("SN%05d", i)}
		f.NICs = []inventory.NIC{{Name: "eno1", MAC: mac(100 + i), Driver: "igc"}, {Name: "eno2", MAC: mac(10_000 + i)}}
		f.Neighbors = nil
		o := store.Observation{MACs: []inventory.MAC{mac(100 + i)}, Source: inventory.SourceAgent, Facts: &f, At: noon}
		switch i % 5 {
		case 1:
			f.Neighbors = []inventory.Neighbor{{MAC: mac(100 + i), Chassis: "switch", Port: "7", VLAN: 20}}
		case 2:
			f.Disks, f.PCI, f.Memory = []inventory.Disk{}, nil, nil
		case 3:
			o.Facts = nil
		}
		m, _, err := s.Observe(t.Context(), site, o)
		ok(t, err)
		put := func(source inventory.Source, g inventory.Facts, minutes int) {
			t.Helper()
			_, _, err := s.PutFacts(t.Context(), m.ID, source, g, noon.Add(time.Duration(minutes)*time.Minute))
			ok(t, err)
		}
		version := func(version string, minutes int) {
			if i%5 == 4 {
				f.BIOS = &inventory.BIOS{Vendor: "Dell Inc.", Version: version}
				put(inventory.SourceAgent, f, minutes)
			}
		}
		version("2", 1)
		if i%5 == 1 || i%5 == 4 {
			put(inventory.SourceRedfish, inventory.Facts{BMC: &inventory.BMCFacts{Address: "172.22.1.12"}, System: &inventory.System{SKU: "XR12"}}, 2)
			put(inventory.SourceRedfish, inventory.Facts{BMC: &inventory.BMCFacts{Address: "172.22.1.13"}}, 3)
		}
		version("3", 4)
		version("2", 5)
		ids = append(ids, m.ID)
	}
	if !slices.IsSortedFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }) {
		t.Fatal("machines got ids that are not in order")
	}
	return ids
}

// age makes the projection that of an older program, which knew fewer facts and other
// ones.
func age(t *testing.T, s *store.Store) {
	t.Helper()
	for _, query := range []string{
		"UPDATE machine_facts SET disks_observed = FALSE, nics_observed = FALSE, bios_version = 'of old', cpu_cores = NULL",
		"UPDATE disks SET model = 'of old'", "DELETE FROM nics WHERE name = 'eno2'", "DELETE FROM neighbors", "DELETE FROM fact_changes",
		"INSERT INTO pci_functions (machine_id, address) SELECT id, 'of old' FROM machines",
	} {
		ok(t, s.Exec(t.Context(), query))
	}
	ok(t, s.Settings().Put(t.Context(), "projection.version", []byte("3")))
}

// projectionOf are the rows of machines in all tables that are made anew.
func projectionOf(t *testing.T, s *store.Store) map[uuid.UUID]string {
	t.Helper()
	out := map[uuid.UUID]string{}
	for _, table := range anewTables {
		all, err := s.Rows(t.Context(), "SELECT * FROM "+table+" ORDER BY id")
		ok(t, err)
		for _, r := range all {
			text, isText := r["machine_id"].(string)
			if !isText {
				t.Fatalf("%s.machine_id = %#v; want a string", table, r["machine_id"])
			}
			out[uuid.MustParse(text)] += fmt.Sprintln(table, r)
		}
	}
	return out
}

func projectionVersion(t *testing.T, s *store.Store) string {
	t.Helper()
	v, err := s.Settings().Get(t.Context(), "projection.version")
	ok(t, err)
	return string(v)
}

func TestOlderProjectionIsMadeAnewInBatches(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := must[*store.Store](t)(store.Open(t.Context(), cfg))
		ids := fill(t, s, 11)
		fresh := projectionOf(t, s)
		age(t, s)
		old := projectionOf(t, s)

		// Interrupted behind the second batch, and behind the third.
		for _, stop := range []struct {
			behind int
			want   string
		}{{6, "[3 6]"}, {9, "[9]"}} {
			ctx, cancel := context.WithCancel(t.Context())
			var batches []int
			err := s.UpgradeProjection(ctx, 3, 1<<20, func(done, total int) {
				if batches = append(batches, done); done >= stop.behind {
					cancel()
				}
				if total != len(ids) {
					t.Errorf("%d of %d machines; want of %d", done, total, len(ids))
				}
			})
			cancel()
			if want := fmt.Sprintf("%d of 11 machines are done", stop.behind); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), want) {
				t.Errorf("interrupted behind machine %d: error %v; want context.Canceled with %q", stop.behind, err, want)
			}
			if got := fmt.Sprint(batches); got != stop.want {
				t.Errorf("batches end behind machines %s; want %s", got, stop.want)
			}
			now := projectionOf(t, s)
			for i, id := range ids {
				if want := fresh[id]; i < stop.behind && now[id] != want {
					t.Errorf("machine %d of %d that are done:\n%swant\n%s", i, stop.behind, now[id], want)
				}
				if want := old[id]; i >= stop.behind && now[id] != want {
					t.Errorf("machine %d, behind %d that are done:\n%swant as before\n%s", i, stop.behind, now[id], want)
				}
			}
			if got, want := projectionVersion(t, s), fmt.Sprintf("%s after %d machines to %s", store.ProjectionVersion, stop.behind, ids[stop.behind-1]); got != want {
				t.Errorf("projection.version = %q; want %q, which no other program takes for its own", got, want)
			}
		}

		ok(t, s.Close())
		s = storetest.Open(t, cfg)
		if now := projectionOf(t, s); !reflect.DeepEqual(now, fresh) {
			t.Errorf("projection after Open = %v; want that of the ingest: %v", now, fresh)
		}
		if got := projectionVersion(t, s); got != store.ProjectionVersion {
			t.Errorf("projection.version after Open = %q; want %s", got, store.ProjectionVersion)
		}
	})
}

func TestRowsThatStayAreNotWritten(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		fill(t, s, 10)
		sums := func() map[string]int64 {
			out := map[string]int64{}
			for _, table := range anewTables {
				out[table] = must[int64](t)(s.Number(ctx, "SELECT SUM(id) FROM "+table))
			}
			return out
		}
		before := sums()
		ok(t, s.RebuildProjection(ctx))
		if got := sums(); !reflect.DeepEqual(got, before) {
			t.Errorf("sums of the rows' ids after all is projected as it was = %v; want the same rows: %v", got, before)
		}
		ok(t, s.Exec(ctx, "UPDATE disks SET bytes = 1 WHERE name = 'sda'"))
		ok(t, s.RebuildProjection(ctx))
		after := sums()
		if after["disks"] == before["disks"] || must[int64](t)(s.Number(ctx, "SELECT COUNT(*) FROM disks WHERE bytes = 1")) != 0 {
			t.Error("disks are as they were damaged; want them written anew")
		}
		if after["disks"] = before["disks"]; !reflect.DeepEqual(after, before) {
			t.Errorf("sums of the rows' ids after the disks were damaged = %v; want other disks only than %v", after, before)
		}
	})
}

func TestLongHistoriesMakeSmallBatches(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		fill(t, s, 7)
		fresh := projectionOf(t, s)
		age(t, s)
		var batches []int
		ok(t, s.UpgradeProjection(t.Context(), 4, 1, func(done, _ int) { batches = append(batches, done) }))
		// The machine without facts is with the one before it, after which all bytes
		// are read.
		if got, want := fmt.Sprint(batches), "[1 2 4 5 6 7]"; got != want {
			t.Errorf("batches end behind machines %s; want %s", got, want)
		}
		if now := projectionOf(t, s); !reflect.DeepEqual(now, fresh) {
			t.Errorf("projection = %v; want that of the ingest: %v", now, fresh)
		}
	})
}

// upgradeEnv makes the test binary a program that projects the machines of a catalog
// one by one until it is killed, and upgradeLimit says how many: who kills it may be
// slower than it.
const (
	upgradeEnv   = "EDGE_TEST_UPGRADE_CATALOG"
	upgradeLimit = "EDGE_TEST_UPGRADE_LIMIT"
)

func upgradeUntilKilled() {
	s, err := store.OpenBare(context.Background(), store.Config{Path: os.Getenv(upgradeEnv)})
	if err == nil {
		err = s.UpgradeProjection(context.Background(), 1, 1<<20, func(done, _ int) {
			fmt.Println(done)
			if fmt.Sprint(done) == os.Getenv(upgradeLimit) {
				_, _ = io.Copy(io.Discard, os.Stdin) // which stays open until then
			}
		})
	}
	fmt.Println("end:", err)
}

func TestUpgradeThatIsKilledGoesOn(t *testing.T) {
	cfg := storetest.SQLite(t)
	s := must[*store.Store](t)(store.Open(t.Context(), cfg))
	ids := fill(t, s, 40)
	fresh := projectionOf(t, s)
	age(t, s)
	old := projectionOf(t, s)
	ok(t, s.Close())
	for round, kill := range []int{3, 12, 20} {
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), upgradeEnv+"="+cfg.Path, fmt.Sprintf("%s=%d", upgradeLimit, kill+8))
		in := must[io.Closer](t)(cmd.StdinPipe())
		out := must[interface{ Read([]byte) (int, error) }](t)(cmd.StdoutPipe())
		ok(t, cmd.Start())
		var first, last string
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if last = lines.Text(); first == "" {
				first = last
			}
			if last == fmt.Sprint(kill) {
				ok(t, cmd.Process.Kill())
			}
		}
		_ = cmd.Wait() // killed
		_ = in.Close()
		var told int
		if _, err := fmt.Sscan(last, &told); err != nil || told < kill || told >= len(ids) {
			t.Fatalf("round %d: the last word is %q; want a number of at least %d machines and fewer than %d", round, last, kill, len(ids))
		}
		if round > 0 && first == "1" {
			t.Errorf("round %d began with the first machine; want it to go on", round)
		}
		bare := must[*store.Store](t)(store.OpenBare(t.Context(), cfg))
		now, mark := projectionOf(t, bare), projectionVersion(t, bare)
		ok(t, bare.Disconnect())
		// One more may be done than it could say.
		done := slices.IndexFunc(ids, func(id uuid.UUID) bool { return strings.HasSuffix(mark, " machines to "+id.String()) }) + 1
		if done < told || done > told+1 {
			t.Errorf("round %d: projection.version = %q, which is %d machines; want the %d that were told", round, mark, done, told)
		}
		for i, id := range ids {
			want := old[id]
			if i < done {
				want = fresh[id]
			}
			if now[id] != want {
				t.Errorf("round %d: machine %d of %d that are done:\n%swant\n%s", round, i, done, now[id], want)
			}
		}
	}
	if now := projectionOf(t, storetest.Open(t, cfg)); !reflect.DeepEqual(now, fresh) {
		t.Errorf("projection after Open = %v; want that of the ingest: %v", now, fresh)
	}
}

func TestProgramsThatUpgradeAtOnceShareTheMachines(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		ids := fill(t, s, 20)
		fresh := projectionOf(t, s)
		age(t, s)
		var wg sync.WaitGroup
		var batches, last [3]int
		for i := range batches {
			wg.Go(func() {
				bare, err := store.OpenBare(context.WithoutCancel(t.Context()), cfg)
				if err == nil {
					err = bare.UpgradeProjection(context.WithoutCancel(t.Context()), 1, 1<<20, func(done, _ int) { batches[i], last[i] = batches[i]+1, done })
				}
				if err := errors.Join(err, bare.Disconnect()); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if got := batches[0] + batches[1] + batches[2]; got != len(ids) {
			t.Errorf("%v machines were projected; want each of the %d once", batches, len(ids))
		}
		if slices.Max(last[:]) != len(ids) {
			t.Errorf("the last of them told of machines %v; want one to tell of all %d, whoever did them", last, len(ids))
		}
		if now := projectionOf(t, s); !reflect.DeepEqual(now, fresh) {
			t.Errorf("projection = %v; want that of the ingest: %v", now, fresh)
		}
	})
}

// TestTheLatestVersionProjects has a program of another version begin in the middle.
func TestTheLatestVersionProjects(t *testing.T) {
	for mark, want := range map[string]struct{ batches, after string }{
		"999 after 0 machines to 00000000-0000-0000-0000-000000000000": {"[2 4]", "999 after 0 machines to 00000000-0000-0000-0000-000000000000"},
		"999":                   {"[2 4]", "999"},
		store.ProjectionVersion: {"[2 4]", store.ProjectionVersion},
		"3":                     {"[2 4 2 4 5]", store.ProjectionVersion},
		"3 after 0 machines to 00000000-0000-0000-0000-000000000000": {"[2 4 2 4 5]", store.ProjectionVersion},
		store.ProjectionVersion + " after nobody":                    {"[2 4 2 4 5]", store.ProjectionVersion},
	} {
		t.Run(mark, func(t *testing.T) {
			s := storetest.Open(t, storetest.SQLite(t))
			fill(t, s, 5)
			age(t, s)
			var batches []int
			ok(t, s.UpgradeProjection(t.Context(), 2, 1<<20, func(done, _ int) {
				if batches = append(batches, done); done == 4 && len(batches) == 2 {
					ok(t, s.Settings().Put(t.Context(), "projection.version", []byte(mark)))
				}
			}))
			if got := fmt.Sprint(batches); got != want.batches || projectionVersion(t, s) != want.after {
				t.Errorf("batches end behind machines %s, projection.version = %q; want %s and %q", got, projectionVersion(t, s), want.batches, want.after)
			}
		})
	}
}

func TestOpenTellsProgressEveryFewSeconds(t *testing.T) {
	cfg := storetest.SQLite(t)
	var seconds, step atomic.Int64 // the clock, and by how much a look at it moves it
	cfg.Now = func() time.Time { return noon.Add(time.Duration(seconds.Add(step.Load())) * time.Second) }
	var told []string
	cfg.Progress = func(done, total int) { told = append(told, fmt.Sprintf("%d/%d", done, total)) }
	s := must[*store.Store](t)(store.Open(t.Context(), cfg))
	fill(t, s, 6)
	ok(t, s.RebuildProjection(t.Context()))
	if len(told) > 0 {
		t.Errorf("progress in no time = %q; want nothing said", told)
	}
	ok(t, s.Close())
	step.Store(1)
	s = storetest.Open(t, cfg)
	ok(t, s.RebuildProjection(t.Context()))
	if len(told) != 1 || told[0] != "6/6" {
		t.Errorf("progress = %q; want 6/6", told)
	}
}

// TestSourcesThatReportAtOnceAreProjectedTogether has two transactions of which each
// would not see the report of the other.
func TestSourcesThatReportAtOnceAreProjectedTogether(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		ctx, s := t.Context(), storetest.Open(t, cfg)
		id := observe(t, s, seen("", uuidA, 1)).ID
		put := func(source inventory.Source, f inventory.Facts) {
			if _, _, err := s.PutFacts(ctx, id, source, f, time.Time{}); err != nil {
				t.Error(err)
			}
		}
		for round := range 30 {
			// The agent hides what Redfish says, until it says nothing.
			put(inventory.SourceAgent, inventory.Facts{BIOS: &inventory.BIOS{Version: "agent"}, Kernel: &inventory.Kernel{Release: fmt.Sprint(round)}})
			put(inventory.SourceRedfish, inventory.Facts{BIOS: &inventory.BIOS{Version: "before"}})
			redfish := fmt.Sprint("redfish ", round)
			var wg sync.WaitGroup
			wg.Go(func() {
				put(inventory.SourceAgent, inventory.Facts{Kernel: &inventory.Kernel{Release: fmt.Sprint(round)}})
			})
			wg.Go(func() { put(inventory.SourceRedfish, inventory.Facts{BIOS: &inventory.BIOS{Version: redfish}}) })
			wg.Wait()
			if n := must[int64](t)(s.Number(ctx, "SELECT COUNT(*) FROM machine_facts WHERE bios_version = '"+redfish+"'")); n != 1 {
				t.Fatalf("round %d: machine_facts = %s; want %s", round, rows(t, s, "machine_facts"), redfish)
			}
		}
	})
}
