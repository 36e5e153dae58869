package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// starter begins runs that nobody sits before, one at a time: the daemon.
type starter interface {
	Start(ctx context.Context, r runRequest) (*daemonRun, error)
}

// carrier carries out what classes start.
type carrier struct {
	starter
	// stops says that the program is about to end, which stops what runs.
	stops func() bool
}

// busyInterval is how often it is tried again while another run is under way.
const busyInterval = time.Second

// Carry implements steps.Carrier.
func (c carrier) Carry(ctx context.Context, why string, targets []string, approve func(workflows.Plan) error) (workflows.Plan, error) {
	run, err := c.await(ctx, runRequest{Why: why, Target: targets, Approve: approve})
	if err != nil {
		return workflows.Plan{}, err
	}
	// The daemon ends its runs before itself.
	<-run.Done()
	if err := run.Err(); err != nil && c.stops() {
		return run.Plan(), fmt.Errorf("%w: %w", context.Canceled, err)
	}
	return run.Plan(), run.Err()
}

// await starts a run when no other is under way.
func (c carrier) await(ctx context.Context, r runRequest) (*daemonRun, error) {
	ticker := time.NewTicker(busyInterval)
	defer ticker.Stop()
	for {
		run, err := c.Start(ctx, r)
		var busy *busyError
		switch {
		case errors.Is(err, errDaemonStops):
			return nil, context.Canceled
		case !errors.As(err, &busy):
			return run, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ticker.C:
		}
	}
}

// ends reports whether no run begins any more.
func (d *daemon) ends() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stopping
}

// react starts what the classes of the site say, until ctx ends.
func (d *daemon) react(ctx context.Context) {
	r := &steps.Reactor{
		Site: func() *site.Site { return d.current().site }, Catalog: d.catalog, Carrier: carrier{d, d.ends},
		Tell: func(p steps.Progress) { d.current().tell(p) },
	}
	r.Run(ctx)
}
