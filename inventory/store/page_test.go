package store_test

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// where is a filter with one argument, without a way through an index.
func where(sql string, args ...any) inventory.Filter {
	return inventory.Filter{Text: fmt.Sprint(sql, args), Where: inventory.Condition{SQL: sql, Args: args}}
}

// fleet are n machines of two sites; every third has no facts, and of the rest
// every second has no memory.
func fleet(t *testing.T, s *store.Store, n int) []inventory.Machine {
	t.Helper()
	out := make([]inventory.Machine, n)
	for i := range out {
		o := seen("", uuid.Nil, i+1)
		o.At = noon.Add(time.Duration(i*7%n) * time.Minute)
		if i%3 > 0 {
			o.Source, o.Facts = inventory.SourceAgent, &inventory.Facts{CPU: &inventory.CPU{Cores: 1 + i%4}, NICs: []inventory.NIC{{Name: "eth0", Driver: "igc"}}}
			if i%2 == 0 {
				o.Facts.Memory = &inventory.Memory{Bytes: int64(i/4+1) << 30}
			}
		}
		in := site
		if i%5 == 0 {
			in = "elsewhere"
		}
		m, _, err := s.Observe(t.Context(), in, o)
		ok(t, err)
		out[i] = m
	}
	return out
}

// pages follows the cursors to the end; most is the greatest number of machines
// that one page looked at.
func pages(t *testing.T, s *store.Store, r store.PageRequest) (ids []uuid.UUID, most int) {
	t.Helper()
	for range 1000 {
		p, err := s.Page(t.Context(), r)
		ok(t, err)
		if len(p.Machines) > r.Limit && r.Limit > 0 {
			t.Fatalf("Page = %d machines; want at most %d", len(p.Machines), r.Limit)
		}
		for _, m := range p.Machines {
			ids = append(ids, m.ID)
		}
		most = max(most, p.Examined)
		if p.Next == "" {
			return ids, most
		}
		r.Cursor = p.Next
	}
	t.Fatal("the pages do not end")
	return nil, 0
}

func TestPagesHoldEveryMachineOnceInOrder(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		all := fleet(t, s, 20)
		facts, err := s.FactsOf(t.Context(), idsOf(all)...)
		ok(t, err)
		memory := func(m inventory.Machine) int64 {
			if f := facts[m.ID]; f.Memory != nil {
				return f.Memory.Bytes
			}
			return 0
		}
		keys := map[string]func(a, b inventory.Machine) int{
			"id":        func(a, b inventory.Machine) int { return 0 },
			"last_seen": func(a, b inventory.Machine) int { return a.LastSeen.Compare(b.LastSeen) },
			"state":     func(a, b inventory.Machine) int { return strings.Compare(string(a.State), string(b.State)) },
			"facts.memory.bytes": func(a, b inventory.Machine) int {
				x, y := memory(a), memory(b)
				if x == 0 || y == 0 {
					return 0 // decided by absence
				}
				return cmp.Compare(x, y)
			},
		}
		absent := map[string]func(inventory.Machine) bool{"facts.memory.bytes": func(m inventory.Machine) bool { return memory(m) == 0 }}
		for name, compare := range keys {
			for _, desc := range []bool{false, true} {
				for _, in := range []string{"", site} {
					want := slices.DeleteFunc(slices.Clone(all), func(m inventory.Machine) bool { return in != "" && m.Site != in })
					slices.SortFunc(want, func(a, b inventory.Machine) int {
						if lacks := absent[name]; lacks != nil && lacks(a) != lacks(b) {
							if lacks(a) {
								return 1
							}
							return -1
						}
						c := cmp.Or(compare(a, b), strings.Compare(a.ID.String(), b.ID.String()))
						if desc {
							return -c
						}
						return c
					})
					sort := name
					if desc {
						sort = "-" + name
					}
					for _, few := range []int{0, 1000} { // all of them in order, or those of the site
						s.SetFewMachines(few)
						for _, limit := range []int{1, 7, 1000} {
							got, _ := pages(t, s, store.PageRequest{Site: in, Sort: sort, Limit: limit})
							if !slices.Equal(got, idsOf(want)) {
								t.Errorf("pages of %d by %s in %q:\n%v\nwant\n%v", limit, sort, in, got, idsOf(want))
							}
						}
					}
				}
			}
		}
	})
}

func idsOf(machines []inventory.Machine) []uuid.UUID {
	out := make([]uuid.UUID, len(machines))
	for i, m := range machines {
		out[i] = m.ID
	}
	return out
}

// TestPageFindsTheSameOnEveryWay asks one question with a narrowing that leaves
// few machines, with one that can be walked, and with none.
func TestPageFindsTheSameOnEveryWay(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		fleet(t, s, 40)
		mark := func(n int) string {
			if s.Dialect() == "postgres" {
				return fmt.Sprintf("$%d", n)
			}
			return "?"
		}
		f := where("EXISTS (SELECT 1 FROM nics WHERE nics.machine_id = machines.id AND nics.driver = "+mark(1)+") AND machine_facts.cpu_cores >= "+mark(2), "igc", int64(2))
		want, looked := pages(t, s, store.PageRequest{Filter: f, Limit: 4})
		if len(want) < 10 || looked != 40 {
			t.Fatalf("without a narrowing %d machines, %d looked at; want more than 10 of 40", len(want), looked)
		}
		driver := inventory.Narrowing{Table: "nics", ID: "nics.machine_id", Where: inventory.Condition{SQL: "nics.driver = " + mark(1), Args: []any{"igc"}}, Ordered: true}
		f.Narrow = []inventory.Narrowing{driver}
		for name, few := range map[string]int{"few": 1000, "walk": 3, "sorted walk": 3} {
			s.SetFewMachines(few)
			f.Narrow[0].Ordered = name == "walk"
			got, examined := pages(t, s, store.PageRequest{Filter: f, Limit: 4})
			if !slices.Equal(got, want) {
				t.Errorf("%s: pages = %v; want %v", name, got, want)
			}
			if examined != 26 {
				t.Errorf("%s: a page looked at %d machines; want the 26 that have the driver", name, examined)
			}
			sorted, _ := pages(t, s, store.PageRequest{Filter: f, Limit: 4, Sort: "-facts.cpu.cores"})
			if slices.SortFunc(sorted, byID); !slices.Equal(sorted, want) {
				t.Errorf("%s, by cores: pages = %v; want %v", name, sorted, want)
			}
		}
		none := f
		none.Narrow = []inventory.Narrowing{{Table: "nics", ID: "nics.machine_id", Where: inventory.Condition{SQL: "nics.driver = " + mark(1), Args: []any{"e1000e"}}}}
		if p := must[store.Page](t)(s.Page(t.Context(), store.PageRequest{Filter: none})); len(p.Machines) != 0 || p.Examined != 0 || p.Next != "" {
			t.Errorf("page behind an empty narrowing = %+v; want nothing, looked at nothing", p)
		}
	})
}

func byID(a, b uuid.UUID) int { return strings.Compare(a.String(), b.String()) }

func TestPageStopsAtItsRowBudgetAndGoesOn(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		all := fleet(t, s, 40)
		last := where("machines.id = '" + all[39].ID.String() + "'")
		p := must[store.Page](t)(s.Page(t.Context(), store.PageRequest{Filter: last, RowBudget: 30}))
		if len(p.Machines) != 0 || p.Examined != 30 || !p.Partial || p.Next == "" {
			t.Errorf("page with a budget of 30 = %+v; want none found, 30 looked at, partial, with a cursor", p)
		}
		p = must[store.Page](t)(s.Page(t.Context(), store.PageRequest{Filter: last, RowBudget: 30, Cursor: p.Next}))
		if len(p.Machines) != 1 || p.Examined != 10 || p.Partial || p.Next != "" {
			t.Errorf("the page behind = %+v; want the machine, 10 looked at, and the end", p)
		}
	})
}

func TestPageRefusesWhatItCannotAnswer(t *testing.T) {
	s := storetest.Open(t, storetest.SQLite(t))
	fleet(t, s, 5)
	first := must[store.Page](t)(s.Page(t.Context(), store.PageRequest{Filter: where("TRUE"), Limit: 2}))
	nowhere := string(must[[]byte](t)(base64.RawURLEncoding.DecodeString(first.Next)))
	nowhere = strings.Replace(nowhere, first.Machines[1].ID.String(), uuid.Nil.String(), 1)
	for name, c := range map[string]struct {
		r           store.PageRequest
		field, want string
	}{
		"another filter": {store.PageRequest{Filter: where("1 = 1"), Cursor: first.Next}, "cursor", "another query"},
		"another sort":   {store.PageRequest{Filter: where("TRUE"), Sort: "-id", Cursor: first.Next}, "cursor", "another query"},
		"another site":   {store.PageRequest{Filter: where("TRUE"), Site: site, Cursor: first.Next}, "cursor", "another query"},
		"no base64":      {store.PageRequest{Cursor: "%%%"}, "cursor", "start again"},
		"no JSON":        {store.PageRequest{Cursor: base64.RawURLEncoding.EncodeToString([]byte("{"))}, "cursor", "start again"},
		"no machine":     {store.PageRequest{Filter: where("TRUE"), Cursor: base64.RawURLEncoding.EncodeToString([]byte(nowhere))}, "cursor", "start again"},
		"huge":           {store.PageRequest{Cursor: strings.Repeat("A", 100_000)}, "cursor", "start again"},
		"unknown sort":   {store.PageRequest{Sort: "-colour\x1b"}, "sort", "facts.memory.bytes"},
		"huge page":      {store.PageRequest{Limit: 1_000_000}, "limit", "1 to 1000"},
		"negative page":  {store.PageRequest{Limit: -1}, "limit", "1 to 1000"},
	} {
		_, err := s.Page(t.Context(), c.r)
		var bad *store.RequestError
		if !errors.As(err, &bad) || bad.Field != c.field || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: Page = %v; want a *RequestError about %s that says %q", name, err, c.field, c.want)
		}
	}
}

func TestPageHasADeadline(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		fleet(t, s, 3)
		endless := "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT COUNT(*) FROM n) > 0"
		began := time.Now()
		_, err := s.Page(t.Context(), store.PageRequest{Filter: where(endless), Deadline: 50 * time.Millisecond})
		var late *store.BudgetError
		if !errors.As(err, &late) || !strings.Contains(err.Error(), "50ms") {
			t.Errorf("Page = %v; want a *BudgetError that names the deadline", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("Page took %v; want it stopped at its deadline", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Page(ctx, store.PageRequest{}); !errors.Is(err, context.Canceled) {
			t.Errorf("Page with a cancelled context = %v; want that it was cancelled", err)
		}
	})
}

// TestPageIsFoundAndReadInTwoStatements: on PostgreSQL each statement is a round trip
// and is planned, which takes longer than what it looks at.
func TestPageIsFoundAndReadInTwoStatements(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s, full := frozen(t, cfg)
		ctx := t.Context()
		report(t, s, full, withDisk("another")) // drift
		ok(t, s.SetImage(ctx, full, "sha256:0f"))
		ok(t, s.SetHostKey(ctx, full, "ssh-ed25519 AAAA"))
		must[inventory.Machine](t)(s.Bind(ctx, site, `machine.node["a"]`, full))
		must[inventory.Machine](t)(s.SetTags(ctx, full, map[string]string{"place": `café "\u0041" \ <b>`, "asset": "1"}, nil, nil))
		must[bool](t)(s.SetClasses(ctx, full, []string{"till", "small"}))
		for n := range 4 {
			observe(t, s, seen("", uuid.Nil, 100+n))
		}
		want := must[[]inventory.Machine](t)(s.Machines(ctx, store.MachineFilter{}))
		cutter := must[*store.PageCutter](t)(s.CutPages())
		ok(t, s.CloseMain())
		for _, sort := range []string{"id", "state"} {
			p, _, err := cutter.Page(ctx, store.PageRequest{Sort: sort, Limit: 3}, 0, 0)
			ok(t, err)
			if got := cutter.Statements(); got != 2 || len(p.Machines) != 3 {
				t.Errorf("page by %s: %d machines in %d statements; want 3 in 2", sort, len(p.Machines), got)
			}
			for _, m := range p.Machines {
				i := slices.IndexFunc(want, func(w inventory.Machine) bool { return w.ID == m.ID })
				if !reflect.DeepEqual(m, want[i]) {
					t.Errorf("page by %s: machine\n%+v\nwant\n%+v", sort, m, want[i])
				}
			}
		}
	})
}

// TestPageFollowsMachinesOfManyRows: a machine can have more rows that a narrowing
// finds than one query reads of them.
func TestPageFollowsMachinesOfManyRows(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		s.SetFewMachines(3)
		var want []uuid.UUID
		for i := range 5 {
			o := seen("", uuid.Nil, i+1)
			o.Source, o.Facts = inventory.SourceAgent, &inventory.Facts{}
			for d := range 150 {
				o.Facts.Disks = append(o.Facts.Disks, inventory.Disk{Name: fmt.Sprintf("sd%d", d), Bytes: 1 << 40})
			}
			want = append(want, observe(t, s, o).ID)
		}
		f := where("EXISTS (SELECT 1 FROM disks WHERE disks.machine_id = machines.id)")
		f.Narrow = []inventory.Narrowing{{Table: "disks", ID: "disks.machine_id", Where: inventory.Condition{SQL: "disks.bytes > 1"}}}
		if got, _ := pages(t, s, store.PageRequest{Filter: f, Limit: 2}); !slices.Equal(got, want) {
			t.Errorf("pages = %v; want %v", got, want)
		}
	})
}
