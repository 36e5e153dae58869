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
	// edited says that the site was edited and is taken up at the end of the run
	// under way.
	edited func() bool
	// withheld says that nothing is started for now; nil: never.
	withheld func() bool
	// served is the version of the site that a run works on.
	served func() *world
	// hinders is told why that could not be opened, and nil when it could.
	hinders func(why error)
}

// busyInterval is how often it is tried again while another run is under way.
const busyInterval = time.Second

// A site that could not be opened is tried again after firstPause, and after twice
// as long each time, up to lastPause: a file that is missing is put back by hand.
const (
	firstPause = 10 * time.Second
	lastPause  = 5 * time.Minute
)

// unopenedError says that a site could not be opened, so that nothing was planned.
type unopenedError struct{ error }

// Unwrap returns why.
func (e *unopenedError) Unwrap() error { return e.error }

// Carry implements steps.Carrier. A site that cannot be opened is no end: that is
// waited for, too.
func (c carrier) Carry(ctx context.Context, w steps.Work) (workflows.Plan, error) {
	waits := false
	opened := func() {
		if waits {
			w.Waits("")
		}
		waits = false
	}
	for pause := firstPause; ; {
		stale, version := false, c.served()
		run, err := c.await(ctx, runRequest{Why: w.Why, Target: w.Targets, Approve: func(stage workflows.Plan) error {
			opened()
			if stale = c.edited(); stale {
				return errors.New("the site was edited; it is read again first")
			}
			if stale = c.withheld != nil && c.withheld(); stale {
				return errors.New("somebody said no to a part of the site; this waits until it is applied")
			}
			return w.Approve(stage)
		}})
		if err != nil {
			return workflows.Plan{}, err
		}
		// The daemon ends its runs before itself.
		<-run.Done()
		err = run.Err()
		var unopened *unopenedError
		if !errors.As(err, &unopened) {
			opened()
			c.hinders(nil)
		}
		switch {
		case err == nil:
			return run.Plan(), nil
		case c.stops() || ctx.Err() != nil:
			return run.Plan(), fmt.Errorf("%w: %w", context.Canceled, err)
		case run.stopped():
			return run.Plan(), errStoppedByHand
		case stale:
			continue // the end of the run has read it, or it is withheld until it is read
		case unopened != nil:
			c.hinders(unopened)
			waits = true
			w.Waits("the site could not be opened, which is tried again: " + unopened.Error())
			if err := c.outwait(ctx, version, pause); err != nil {
				return run.Plan(), err
			}
			pause = min(2*pause, lastPause)
			continue
		}
		// As text: no error of a run may look as though serve had ended.
		return run.Plan(), errors.New(err.Error())
	}
}

// outwait waits for a while, or until another version than this one is served. The
// error is context.Canceled when the program is about to end.
func (c carrier) outwait(ctx context.Context, version *world, pause time.Duration) error {
	ticker := time.NewTicker(busyInterval)
	defer ticker.Stop()
	for until := time.Now().Add(pause); time.Now().Before(until) && c.served() == version; {
		select {
		case <-ctx.Done():
			return context.Canceled
		case <-ticker.C:
		}
		if c.stops() {
			return context.Canceled
		}
	}
	return nil
}

// errStoppedByHand says that a person cancelled what a class had started.
var errStoppedByHand = errors.New("somebody stopped it; `edge-provision apply` continues it")

// stopped reports whether somebody asked for the run's end.
func (r *daemonRun) stopped() bool { return asked(r.stop) }

// edited reports whether the site is to be read again when the run under way has
// ended.
func (d *daemon) edited() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.due
}

// await starts a run when no other is under way.
func (c carrier) await(ctx context.Context, r runRequest) (*daemonRun, error) {
	ticker := time.NewTicker(busyInterval)
	defer ticker.Stop()
	for {
		if c.withheld == nil || !c.withheld() {
			run, err := c.Start(ctx, r)
			var busy *busyError
			switch {
			case errors.Is(err, errDaemonStops):
				return nil, context.Canceled
			case !errors.As(err, &busy):
				return run, err
			}
		} else if c.stops != nil && c.stops() {
			return nil, context.Canceled
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

// hinders says why the site cannot be opened for what classes start, once for each
// version that is served and until it could be again; nil: it could be.
func (d *daemon) hinders(why error) {
	d.mu.Lock()
	news := why != nil && !d.hindered
	d.hindered = why != nil
	d.mu.Unlock()
	switch {
	case news:
		fmt.Fprintf(d.app.stderr, "What classes start waits, because the site could not be opened for it: %v\n"+
			"It is tried again, every %s at the latest: put back what is missing, or have another version served, by SIGHUP or apply.\n", why, lastPause)
	case why != nil:
		d.app.logger().Warn("opening the site for what a class starts", "error", why)
	}
}

// react starts what the classes of the site say, until ctx ends.
func (d *daemon) react(ctx context.Context) {
	r := &steps.Reactor{
		Site: func() *site.Site { return d.current().site }, Turn: d.turn.RLocker(), Withheld: d.withholds, Catalog: d.catalog, Keys: d.current().keys,
		Carrier: carrier{starter: d, stops: d.ends, edited: d.edited, withheld: d.withholds, served: d.current, hinders: d.hinders},
		Tell:    func(p steps.Progress) { d.current().tell(p) },
	}
	r.Run(ctx)
}
