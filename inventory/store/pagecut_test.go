package store_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
)

// TestPagesCutByTheirDeadlineHoldEveryMachineOnce lets the deadline of each page
// pass at the same query, before its first row or behind its second, for every
// query that a page makes.
func TestPagesCutByTheirDeadlineHoldEveryMachineOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		fleet(t, s, 18)
		cutter := must[*store.PageCutter](t)(s.CutPages())
		mark := "?"
		if s.Dialect() == "postgres" {
			mark = "$1"
		}
		driver := func(ordered bool) inventory.Filter {
			f := where("EXISTS (SELECT 1 FROM nics WHERE nics.machine_id = machines.id AND nics.driver = "+mark+")", "igc")
			f.Narrow = []inventory.Narrowing{{Table: "nics", ID: "nics.machine_id", Where: inventory.Condition{SQL: "nics.driver = " + mark, Args: []any{"igc"}}, Ordered: ordered}}
			return f
		}
		for name, way := range map[string]struct {
			r   store.PageRequest
			few []int // in turn
			by  []string
		}{
			"all":         {store.PageRequest{}, []int{3}, store.SortFields()},
			"few":         {store.PageRequest{Site: site}, []int{1000}, store.SortFields()},
			"many or few": {store.PageRequest{Site: site}, []int{3, 1000}, store.SortFields()},
			"walk":        {store.PageRequest{Filter: driver(true)}, []int{3}, []string{"id", "facts.memory.bytes"}},
			"sorted walk": {store.PageRequest{Filter: driver(false)}, []int{3}, []string{"id", "facts.memory.bytes"}},
		} {
			for _, field := range way.by {
				for _, sort := range []string{field, "-" + field} {
					r := way.r
					r.Sort, r.Limit = sort, 11
					s.SetFewMachines(way.few[0])
					want, _ := pages(t, s, r)
					if len(want) < 12 {
						t.Fatalf("%s by %s: %d machines; want at least the 12 that have facts", name, sort, len(want))
					}
					for query, cut := 1, true; cut; query++ {
						cut = false
						for _, row := range []int{0, 2} {
							got, was := cutPages(t, s, cutter, r, way.few, query, row)
							cut = cut || was
							if !slices.Equal(got, want) {
								t.Errorf("%s by %s, cut at row %d of query %d:\n%v\nwant\n%v", name, sort, row, query, got, want)
							}
						}
					}
				}
			}
		}
	})
}

// cutPages follows the cursors to the end, each page cut at a row of a query. One
// that could look at nothing until then is asked for again, without the cut.
func cutPages(t *testing.T, s *store.Store, cutter *store.PageCutter, r store.PageRequest, few []int, query, row int) (ids []uuid.UUID, cut bool) {
	t.Helper()
	for turn := range 100 {
		s.SetFewMachines(few[turn%len(few)])
		p, was, err := cutter.Page(t.Context(), r, query, row)
		var late *store.BudgetError
		if errors.As(err, &late) {
			p, _, err = cutter.Page(t.Context(), r, 0, 0)
		} else if err == nil && p.Partial && p.Examined == 0 {
			t.Errorf("cut at row %d of query %d: a partial page that looked at nothing; want a *BudgetError", row, query)
		}
		ok(t, err)
		cut = cut || was
		for _, m := range p.Machines {
			ids = append(ids, m.ID)
		}
		if p.Next == "" {
			return ids, cut
		}
		r.Cursor = p.Next
	}
	t.Errorf("cut at row %d of query %d, the pages do not end", row, query)
	return ids, cut
}

func TestPageCutByItsDeadlineKeepsWhatItLookedAt(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		s := storetest.Open(t, cfg)
		fleet(t, s, 4)
		cutter := must[*store.PageCutter](t)(s.CutPages())
		p, cut, err := cutter.Page(t.Context(), store.PageRequest{}, 1, 2)
		ok(t, err)
		if !cut || len(p.Machines) != 2 || p.Examined != 2 || !p.Partial || p.Next == "" {
			t.Errorf("page cut behind two machines = %+v; want both, partial, with a cursor", p)
		}
		var late *store.BudgetError
		if _, _, err := cutter.Page(t.Context(), store.PageRequest{}, 1, 0); !errors.As(err, &late) {
			t.Errorf("page cut before its first machine = %v; want a *BudgetError", err)
		}
	})
}
