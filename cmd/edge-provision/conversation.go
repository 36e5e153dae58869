package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/edge-provision/edge-provision/workflows/control"
)

// converse carries out what one client wants. It returns when the client has
// seen the end, or has left.
func (d *daemon) converse(ctx context.Context, c *control.Conn, m control.Message) {
	var r request
	err := m.Into(&r)
	if err == nil {
		err = d.carryOut(ctx, c, r)
	}
	if err != nil && ctx.Err() == nil {
		d.app.logger().Debug("a conversation with a client ended", "error", err)
	}
}

func (d *daemon) carryOut(ctx context.Context, c *control.Conn, r request) error {
	run, err := d.carrying(ctx, caller{&r, c})
	if err == nil && run == nil {
		return d.inspect(ctx, c, r)
	}
	if err != nil {
		return d.refuse(ctx, c, r, err)
	}
	client := run.client
	if r.Command == "attach" {
		client = run.session.Follow()
	}
	return control.Relay(ctx, c, client, run.stopper())
}

// carrying is the run that a request is about, which it may begin; nil: it is
// about none.
func (d *daemon) carrying(ctx context.Context, c caller) (*daemonRun, error) {
	r := c.request
	if !r.isCommand() {
		return nil, fmt.Errorf("serve knows no command %q", r.Command)
	}
	if r.Command == "attach" {
		run := d.underway()
		if run == nil || !run.is(r.Run) {
			return nil, fmt.Errorf("serve is not carrying out run %s; see what became of it with: edge-provision runs show %s", r.Run, r.Run)
		}
		return run, nil
	}
	if err := errors.Join(d.expect(r.Path), sameFilesSeen(r.Files)); err != nil {
		return nil, err
	}
	switch r.Command {
	case "apply":
		return d.begin(ctx, "apply", c, func(ctx context.Context, b *app) error {
			return b.apply(ctx, d.path, applyFlags{
				planFlags: planFlags{target: r.Target, replace: r.Replace, stale: r.Stale}, autoApprove: r.AutoApprove, json: r.JSON,
				parallelism: r.Parallelism, agent: r.Agent, saved: r.Saved,
			}, r.Resumed)
		})
	case "destroy":
		return d.begin(ctx, "destroy", c, func(ctx context.Context, b *app) error {
			return b.destroy(ctx, d.path, destroyFlags{
				target: r.Target, data: r.DestroyData, autoApprove: r.AutoApprove, json: r.JSON,
				forget: r.Forget, powerOff: r.PowerOff, parallelism: r.Parallelism,
			}, r.Resumed)
		})
	}
	return nil, nil
}

// is reports whether the daemon's run has a run of the journal among its stages.
func (r *daemonRun) is(id fmt.Stringer) bool {
	for _, own := range r.IDs() {
		if own.String() == id.String() {
			return true
		}
	}
	return false
}

// inspect carries out a plan, which ends when its client leaves.
func (d *daemon) inspect(ctx context.Context, c *control.Conn, r request) error {
	ctx, cancel := context.WithCancelCause(ctx)
	run := &daemonRun{command: r.Command, session: control.NewSession(), stop: make(chan struct{}), cancel: cancel}
	client := run.session.Follow()
	b := d.command(&r, run)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := b.planSite(ctx, d.path, planOptions{
			planFlags: planFlags{target: r.Target, replace: r.Replace, stale: r.Stale}, out: r.Out, agent: r.Agent,
			json: r.JSON, detailed: r.Detailed, all: r.All,
		})
		run.session.End(b.exit(err))
	}()
	err := control.Relay(ctx, c, client, func() { cancel(errInterrupted) })
	cancel(errors.New("the client left"))
	<-done
	return err
}

// refuse tells a client why nothing is done.
func (d *daemon) refuse(ctx context.Context, c *control.Conn, r request, why error) error {
	run := &daemonRun{session: control.NewSession()}
	b := d.command(&r, run)
	run.session.End(b.exit(why))
	return control.Relay(ctx, c, run.session.Follow(), func() {})
}
