package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// busy refuses some runs, as a daemon that carries out another.
type busy struct {
	left int
	err  error
}

func (b *busy) Start(context.Context, runRequest) (*daemonRun, error) {
	if b.left--; b.left >= 0 {
		return nil, &busyError{Command: "apply"}
	}
	return nil, b.err
}

// carrierOf begins runs by a starter, of a version of the site that stays.
func carrierOf(s starter) carrier {
	never := func() bool { return false }
	return carrier{starter: s, stops: never, edited: never, served: func() *world { return nil }, hinders: func(error) {}}
}

func TestTheCarrierWaitsForItsTurn(t *testing.T) {
	fails := errors.New("the site cannot be read")
	b := &busy{left: 1, err: fails}
	approve := func(workflows.Plan) error { return nil }
	if _, err := carrierOf(b).Carry(t.Context(), steps.Work{Approve: approve}); !errors.Is(err, fails) || b.left != -1 {
		t.Errorf("Carry() = %v after %d refusals; want it tried again once", err, 1-b.left)
	}
	if _, err := carrierOf(&busy{err: errDaemonStops}).Carry(t.Context(), steps.Work{Approve: approve}); !errors.Is(err, context.Canceled) {
		t.Errorf("Carry(while stopping) = %v; want context.Canceled", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := carrierOf(&busy{left: 10}).Carry(ctx, steps.Work{Approve: approve}); !errors.Is(err, context.Canceled) {
		t.Errorf("Carry(ended) = %v; want context.Canceled", err)
	}
}

// shortRuns begins runs that have ended, one after the other.
type shortRuns struct {
	runs  []func(runRequest, *daemonRun) error
	begun int
}

func (e *shortRuns) Start(_ context.Context, r runRequest) (*daemonRun, error) {
	run := &daemonRun{done: make(chan struct{}), stop: make(chan struct{}), cancel: func(error) {}}
	run.finish(e.runs[e.begun](r, run))
	e.begun++
	close(run.done)
	return run, nil
}

func TestARunOfAClassThatWasStoppedIsNotBegunAgain(t *testing.T) {
	cut := fmt.Errorf("its work was cut off: %w", context.Canceled)
	stopped := func(_ runRequest, run *daemonRun) error { run.Stop(); return cut }
	broken := func(runRequest, *daemonRun) error { return cut }
	ended, end := context.WithCancel(t.Context())
	end()
	for name, c := range map[string]struct {
		run      func(runRequest, *daemonRun) error
		stops    bool
		ctx      context.Context
		canceled bool
		want     string
	}{
		"a person stops it":            {run: stopped, want: "somebody stopped it"},
		"serve stops":                  {run: stopped, stops: true, canceled: true, want: "cut off"},
		"it breaks by itself":          {run: broken, want: "its work was cut off"},
		"it breaks while serve stops":  {run: broken, stops: true, canceled: true, want: "cut off"},
		"reacting ends while it works": {run: broken, ctx: ended, canceled: true, want: "cut off"},
	} {
		t.Run(name, func(t *testing.T) {
			e := &shortRuns{runs: []func(runRequest, *daemonRun) error{c.run}}
			ctx := t.Context()
			if c.ctx != nil {
				ctx = c.ctx
			}
			carry := carrierOf(e)
			carry.stops = func() bool { return c.stops }
			_, err := carry.Carry(ctx, steps.Work{})
			if err == nil || errors.Is(err, context.Canceled) != c.canceled || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Carry() = %v; want %q, and canceled: %t", err, c.want, c.canceled)
			}
		})
	}
}

// An edited site is taken up when no run is under way, so before a class does
// anything by the one that it was edited from.
func TestARunOfAClassMakesRoomForAnEditedSite(t *testing.T) {
	for name, hold := range map[string]func(carry *carrier, holds func() bool){
		"it was edited":                    func(carry *carrier, holds func() bool) { carry.edited = holds },
		"somebody said no to a part of it": func(carry *carrier, holds func() bool) { carry.withheld = holds },
	} {
		t.Run(name, func(t *testing.T) {
			held, approved := false, 0
			ask := func(r runRequest, _ *daemonRun) error { return r.Approve(workflows.Plan{}) }
			e := &shortRuns{runs: []func(runRequest, *daemonRun) error{
				func(r runRequest, run *daemonRun) error {
					held = true // after it was begun
					err := ask(r, run)
					held = false // the end of a run reads the site
					return err
				},
				ask,
			}}
			carry := carrierOf(e)
			hold(&carry, func() bool { return held })
			_, err := carry.Carry(t.Context(), steps.Work{Approve: func(workflows.Plan) error {
				approved++
				return nil
			}})
			if err != nil || e.begun != 2 || approved != 1 {
				t.Errorf("Carry() = %v after %d runs, of which %d were approved; want the one after the edit", err, e.begun, approved)
			}
		})
	}
}
