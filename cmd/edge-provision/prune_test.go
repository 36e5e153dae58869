package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func TestADaemonBoundsItsCatalogForAsLongAsItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		var at []time.Duration
		began := time.Now()
		p := newPruner(nil, &out)
		p.prune = func(context.Context) (store.Pruned, error) {
			if at = append(at, time.Since(began)); len(at) == 2 {
				return store.Pruned{}, errors.New("the disk is full")
			}
			return store.Pruned{}, nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*pruneInterval+time.Minute)
		defer cancel()
		p.run(ctx)
		if len(at) != 4 || at[0] != 0 || at[3] != 3*pruneInterval {
			t.Errorf("the catalog was bounded after %s; want at once, and then every %s", at, pruneInterval)
		}
		if n := counted(t, p.failures); n != 1 || !strings.Contains(out.String(), "the disk is full") {
			t.Errorf("%v failures are counted, and told is %q; want the one", n, &out)
		}
	})
}

func counted(t *testing.T, c prometheus.Collector) float64 {
	t.Helper()
	r := prometheus.NewRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func TestServeBoundsItsCatalog(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	past := time.Now().AddDate(-1, 0, 0)
	p.catalog(func(s *store.Store) {
		s.Record(inventory.Event{Time: past, Site: "plant", Kind: inventory.EventDHCPDiscover})
	})
	p.serve(nil)
	p.await("the removal of an event that is a year old", func() (gone bool) {
		p.catalog(func(s *store.Store) {
			old, err := s.Events(t.Context(), store.EventFilter{Until: past.Add(time.Hour)})
			if err != nil {
				t.Fatal(err)
			}
			gone = len(old) == 0
		})
		return gone
	})
}
