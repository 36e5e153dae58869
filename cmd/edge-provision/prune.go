package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/edge-provision/edge-provision/inventory/store"
)

// pruneInterval is how often a daemon bounds its catalog. Where nothing is too old or
// too much that takes some reads.
const pruneInterval = time.Hour

// pruner bounds the catalog's growth for as long as a daemon serves, which may be
// months.
type pruner struct {
	prune    func(context.Context) (store.Pruned, error)
	stderr   io.Writer
	failures prometheus.Counter
}

func newPruner(catalog *store.Store, stderr io.Writer) *pruner {
	return &pruner{prune: catalog.Prune, stderr: stderr, failures: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "edge_catalog_prune_failures_total", Help: "Times that what the catalog need not keep any more could not be removed from it.",
	})}
}

// run removes the past until ctx ends, at once and then again and again. A failure is
// told, and is tried again like everything else.
func (p *pruner) run(ctx context.Context) {
	ticker := time.NewTicker(pruneInterval)
	defer ticker.Stop()
	for {
		if _, err := p.prune(ctx); err != nil && ctx.Err() == nil {
			p.failures.Inc()
			fmt.Fprintf(p.stderr, "The catalog keeps more of the past than it should, which is tried again in %.0f minutes: %v\n", pruneInterval.Minutes(), err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// prune bounds the catalog's growth by commands. A failure, or a prune that is not
// done in a few seconds, is no reason to fail one: the next one goes on.
func (w *world) prune(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := w.catalog.Prune(ctx); err != nil {
		w.app.logger().Warn("removing old events from the catalog", "error", err)
	}
}
