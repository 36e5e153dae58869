package steps

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// stepTimeout bounds a step that declares none: longer than any step of ours
// takes on slow hardware, short enough that a hung command ends the same day.
const stepTimeout = 30 * time.Minute

// Executor turns the actions of a plan into nodes that the engine runs.
type Executor struct {
	Site        *site.Site
	Provisioner *Provisioner
	Runner      *Runner
	// BuildImage makes an image that is not in the cache.
	BuildImage func(ctx context.Context, i *site.Image) error
	// FailPoint is told when the work of a machine or an image is done; steps
	// tell the Runner's.
	FailPoint workflows.FailPoint
}

// Nodes lists what a run of the plan does, in the plan's order. Actions that
// change nothing have no node.
func (e *Executor) Nodes(run uuid.UUID, p workflows.Plan) ([]workflows.Node, error) {
	machines := map[string]*site.Machine{}
	for _, m := range e.Site.Machines {
		machines[m.Address] = m
	}
	images := map[string]*site.Image{}
	for _, i := range e.Site.Images {
		images[i.Address] = i
	}
	declared := map[string]*site.Step{}
	for _, w := range e.Site.Workflows {
		for _, s := range w.Steps {
			declared[s.Address] = s
		}
	}
	var nodes []workflows.Node
	for _, a := range p.Actions {
		if !a.Kind.Changes() {
			continue
		}
		n := workflows.Node{Address: a.Address, DependsOn: a.DependsOn, Inputs: a.Inputs, OnFailure: workflows.OnFailureContinue}
		switch m, i, s := machines[a.Address], images[a.Address], declared[a.Address]; {
		case m != nil:
			e.machine(run, m, a, &n)
			n.Do = e.announcing(p, a.Address, n.Do)
		case i != nil:
			n.Do = func(ctx context.Context, _ int) (workflows.Outputs, error) {
				err := e.BuildImage(ctx, i)
				e.FailPoint.Pass(i.Address, workflows.AfterDo)
				return nil, err
			}
		case s != nil:
			e.step(run, s, &n)
			n.Do = e.announcing(p, a.Address, n.Do)
		default:
			return nil, fmt.Errorf("the plan names %s, which this site does not declare", a.Address)
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

// announcing records first that the steps which wait for address are due: they run
// because it changes, and a crash after it has changed must not lose that.
func (e *Executor) announcing(p workflows.Plan, address string, do func(context.Context, int) (workflows.Outputs, error)) func(context.Context, int) (workflows.Outputs, error) {
	var waiting []string
	for _, a := range p.Actions {
		if a.Kind == workflows.KindRun && slices.Contains(a.DependsOn, address) {
			waiting = append(waiting, a.Address)
		}
	}
	return func(ctx context.Context, attempt int) (workflows.Outputs, error) {
		for _, w := range waiting {
			if err := e.Runner.Due(ctx, w); err != nil {
				return nil, err
			}
		}
		return do(ctx, attempt)
	}
}

// machine fills the node of a machine. One machine's failure never stops the
// others.
func (e *Executor) machine(run uuid.UUID, m *site.Machine, a workflows.Action, n *workflows.Node) {
	if m.BMC.Driver != site.BMCNone {
		n.Limits = []string{"bmc " + m.BMC.Address}
	}
	do := map[workflows.Kind]func(context.Context) error{
		workflows.KindInspect: func(ctx context.Context) error { return e.Provisioner.Inspect(ctx, m, a) },
		workflows.KindInstall: func(ctx context.Context) error { return e.Provisioner.Install(ctx, run, m, a) },
		workflows.KindPowerOn: func(ctx context.Context) error { return e.Provisioner.Boot(ctx, run, m, a) },
		workflows.KindBoot:    func(ctx context.Context) error { return e.Provisioner.Boot(ctx, run, m, a) },
	}[a.Kind]
	n.Do = func(ctx context.Context, _ int) (workflows.Outputs, error) {
		err := do(ctx)
		e.FailPoint.Pass(m.Address, workflows.AfterDo)
		return nil, err
	}
}

// step fills the node of a step.
func (e *Executor) step(run uuid.UUID, s *site.Step, n *workflows.Node) {
	n.OnFailure = workflows.OnFailure(s.OnFailure)
	n.Retry = workflows.Retry{Attempts: s.Retry.Attempts, Backoff: s.Retry.Backoff}
	n.Timeout = s.Timeout
	if n.Timeout == 0 {
		n.Timeout = stepTimeout
	}
	n.Do = func(ctx context.Context, _ int) (workflows.Outputs, error) { return e.Runner.Do(ctx, run, s) }
	if s.OnFailure == site.OnFailureRollback || canUndo(s) {
		n.Undo = func(ctx context.Context) error { return e.Runner.Undo(ctx, s) }
	}
}

func canUndo(s *site.Step) bool {
	t, ok := Find(s.Type)
	return ok && t.Shape.CanUndo
}
