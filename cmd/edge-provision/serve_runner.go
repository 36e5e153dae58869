package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// runner begins and cancels runs for clients of the API.
type runner struct{ *daemon }

// CancelRun implements api.Runner.
func (r runner) CancelRun(ctx context.Context, id uuid.UUID) (string, error) {
	w := r.current()
	row, err := w.journal.Show(ctx, id)
	if err != nil {
		return "", err
	}
	run := r.underway()
	if row.Site != w.site.Name || run == nil || !run.is(id) {
		return "", fmt.Errorf("this controller is not carrying out run %s", id)
	}
	if err := w.journal.Cancel(ctx, id); err != nil {
		return "", err
	}
	select {
	case <-run.Done():
	case <-ctx.Done():
		return "", fmt.Errorf("it was asked to stop, and what runs had not finished yet: %w", context.Cause(ctx))
	}
	if row, err = w.journal.Show(ctx, id); err != nil {
		return "", err
	}
	return fmt.Sprintf("The run ended as %s.", row.State), nil
}

// Reprovision implements api.Runner.
func (r runner) Reprovision(ctx context.Context, m inventory.Machine, serial, who string) (string, error) {
	w := r.current()
	d := w.declaredMachine(m)
	switch {
	case d == nil:
		return "", fmt.Errorf("site %s declares no machine with the id %s", w.site.Name, m.ID)
	case d.Adopted() || d.Image == nil:
		return "", fmt.Errorf("site %s declares no image for %s, which was never installed from here", w.site.Name, m.Address)
	}
	facts, err := steps.InspectedFacts(ctx, r.catalog, m.ID)
	if err != nil {
		return "", err
	}
	switch known := workflows.TypedName(workflows.MachineView{Machine: &m, Facts: facts}); known {
	case "":
		return "", fmt.Errorf("the catalog knows neither a serial nor an SMBIOS UUID of %s, so that its erasure cannot be consented to; use edge-provision apply -replace", m.Address)
	case serial:
	default:
		return "", fmt.Errorf("%s has another serial than the one that was sent; nothing was done", m.Address)
	}
	run, err := r.Start(ctx, runRequest{
		Why: who, Target: []string{m.Address}, Replace: []string{m.Address}, Consent: map[string]string{m.Address: serial},
		Approve: r.only(m),
	})
	if err != nil {
		return "", err
	}
	select {
	case <-run.Done():
	case <-ctx.Done():
		return "", fmt.Errorf("run %s goes on: %w", run.ID(), context.Cause(ctx))
	}
	if err := run.Err(); err != nil {
		return "", err
	}
	if run.ID() == uuid.Nil {
		return "", errors.New("nothing was to be done")
	}
	return fmt.Sprintf("Run %s installed it anew.", run.ID()), nil
}

// only approves what a stage does to one machine, and to no other: neither to one
// beside it, nor to the one that its address has come to mean in a version of the site
// that was taken up since the request. That the machine's disk needs consent is no
// objection: it is asked for after the approval.
func (r runner) only(m inventory.Machine) func(workflows.Plan) error {
	return func(stage workflows.Plan) error {
		// The run goes on when the request is given up, and so does this question.
		row, err := r.catalog.MachineByAddress(r.ctx, m.Site, m.Address)
		if err != nil {
			return err
		}
		if row.ID != m.ID {
			return fmt.Errorf("%s: %w", m.Address, steps.ErrOtherMachine)
		}
		for _, a := range stage.Actions {
			switch {
			case !a.Kind.Changes() || a.Kind == workflows.KindBuild || a.Address == m.Address:
			default:
				return fmt.Errorf("%s comes before %s (%s: %s), and a request about one machine approves nothing else: "+
					"carry that out with `edge-provision apply -target='%s'` and ask again", a.Address, m.Address, a.Kind, a.Reason, a.Address)
			}
		}
		return nil
	}
}
