package steps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"sync"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Destroyer takes away what a site's runs applied, whether site.hcl still
// declares it or not: it works from the applied records.
type Destroyer struct {
	Site    *site.Site
	Catalog *store.Store
	Runner  *Runner
	Powers  Powers
	// Forget drops the records and touches nothing else.
	Forget bool
	// Foresight is what moved blocks will rename once the removal is approved; nil:
	// it is recorded.
	Foresight *Foresight
	// PowerOff switches machines off before they are given up.
	PowerOff bool
	// FailPoint is told when a removal is done and its record still stands.
	FailPoint workflows.FailPoint
}

// kindMachine is the kind of an applied record that is no step's.
const kindMachine = "machine"

// Holdings lists the addresses of the site at which something was applied, or
// begun.
func (d *Destroyer) Holdings(ctx context.Context) ([]workflows.Holding, error) {
	records, err := d.Catalog.AppliedAll(ctx, d.Site.Name)
	if err != nil {
		return nil, err
	}
	var out []workflows.Holding
	for _, a := range records {
		h := workflows.Holding{Address: d.Foresight.called(a.Address)}
		for _, on := range a.DependsOn {
			h.DependsOn = append(h.DependsOn, d.Foresight.called(on))
		}
		out = append(out, h)
	}
	for _, m := range d.Site.Machines {
		if slices.ContainsFunc(records, func(a store.Applied) bool { return d.Foresight.called(a.Address) == m.Address }) {
			continue
		}
		cut, err := d.cutOff(ctx, m.Address)
		if err != nil {
			return nil, err
		}
		if cut {
			out = append(out, workflows.Holding{Address: m.Address})
		}
	}
	return out, nil
}

// cutOff reports whether an installation was begun at address and never ended.
func (d *Destroyer) cutOff(ctx context.Context, address string) (bool, error) {
	last, err := loadInstallation(ctx, d.Catalog.Settings(), d.Site.Name, d.Foresight.recorded(address))
	return err == nil && last != nil && (last.Phase == phaseBegun || last.Phase == phaseWritten), err
}

// Find asks what the removal of each address would do and lose. It changes
// nothing.
func (d *Destroyer) Find(ctx context.Context, addresses []string) (map[string]workflows.Action, error) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		out  = map[string]workflows.Action{}
		errs []error
	)
	defer d.Runner.declared.observe()()
	slots := make(chan struct{}, 16)
	for _, address := range addresses {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			a, err := d.find(ctx, address)
			mu.Lock()
			defer mu.Unlock()
			out[address] = a
			errs = append(errs, err)
		})
	}
	wg.Wait()
	return out, errors.Join(errs...)
}

func (d *Destroyer) find(ctx context.Context, address string) (workflows.Action, error) {
	a := workflows.Action{Kind: workflows.KindForget}
	record, err := d.Catalog.Applied(ctx, d.Site.Name, d.Foresight.recorded(address))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	switch {
	case d.machine(record, address):
		a.Reason = "its disk is left as it is, and it goes on running; apply would look at it anew and ask before anything is erased"
		if d.PowerOff && !d.Forget {
			a.Power = workflows.PowerDown
			a.Reason = "its disk is left as it is; apply would look at it anew and ask before anything is erased"
		}
		return a, nil
	case d.Forget:
		a.Reason = "as asked: what it brought to its machines stays there"
		return a, nil
	}
	ctx, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	made, err := d.steps(ctx, record)
	if err != nil {
		a.Kind, a.Reason = workflows.KindRefused, err.Error()
		return a, nil
	}
	a.Inputs = record.Digest
	a.Reason = "there is nothing to take away for a step of type " + record.Kind
	for _, step := range made {
		remover, ok := step.(Remover)
		if !ok {
			continue
		}
		a.Kind, a.Reason = workflows.KindRemove, ""
		if d.Site.StepByAddress(address) == nil {
			a.Reason = "no longer declared"
		}
		loss, err := remover.Loss(ctx)
		if err != nil {
			a.Kind, a.Reason, a.Loss = workflows.KindUnreachable, err.Error(), nil
			return a, nil
		}
		for _, l := range loss {
			if !slices.Contains(a.Loss, l) {
				a.Loss = append(a.Loss, l)
			}
		}
	}
	return a, nil
}

// machine reports whether a record is a machine's. Those of older programs do
// not say what they are.
func (d *Destroyer) machine(record store.Applied, address string) bool {
	if record.Kind != "" || record.Address == "" {
		return record.Kind == kindMachine || record.Address == ""
	}
	return d.Site.MachineByAddress(address) != nil || bytes.HasPrefix(record.Outputs, []byte(`{"image":`))
}

// steps makes the step of a record again: with the inputs of work that began
// and did not end well, and with those of the last success.
func (d *Destroyer) steps(ctx context.Context, record store.Applied) ([]Step, error) {
	if record.Kind == "" {
		return d.declared(ctx, record)
	}
	t, ok := Find(record.Kind)
	if !ok {
		return nil, fmt.Errorf("%s: step type %q is not known to this program", record.Address, record.Kind)
	}
	var out []Step
	made := map[string]bool{} // by digest of inputs
	for _, sealed := range [][]byte{record.Attempt, record.Inputs} {
		if len(sealed) == 0 {
			continue
		}
		inputs, former, err := d.Runner.unkeep(record.Address, t, sealed)
		if err != nil {
			return nil, err
		}
		env := d.Runner.env(record.Address, "remove")
		if d.Runner.SSH != nil {
			reach := formerSSH{SSH: d.Runner.SSH, former: former}
			env.Hosts, env.Machines = reach, reach
		}
		env.Applied = record.Digest
		if env.Inputs, err = d.Runner.digest(record.Address, inputs); err != nil {
			return nil, err
		}
		if made[env.Inputs] {
			continue
		}
		made[env.Inputs] = true
		step, err := t.New(inputs, env)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", record.Address, err)
		}
		out = append(out, step)
	}
	return out, nil
}

// declared makes a step from its declaration, for a record without inputs: only
// one that was applied as it is declared now can be known.
func (d *Destroyer) declared(ctx context.Context, record store.Applied) ([]Step, error) {
	s := d.Site.StepByAddress(d.Foresight.called(record.Address))
	if s == nil {
		return nil, noInputs(record.Address)
	}
	known, err := d.Runner.Known(ctx)
	if err != nil {
		return nil, err
	}
	inputs, diags := d.Site.StepInputs(s, known)
	if diags.HasErrors() || !inputs.IsWhollyKnown() {
		return nil, noInputs(record.Address)
	}
	step, env, err := d.Runner.make(ctx, s, inputs)
	if err != nil {
		return nil, err
	}
	if env.Inputs != record.Digest {
		return nil, noInputs(record.Address)
	}
	return []Step{step}, nil
}

// errNoInputs is about a record from before inputs were kept.
var errNoInputs = errors.New("an older program applied it and did not keep what it was applied with")

// noInputs says what to do about a record from before inputs were kept.
func noInputs(address string) error {
	return fmt.Errorf("%s: %w. Declare it again as it was, or take away by hand what it brought to its machines, and then: edge-provision destroy --forget --target='%s' SITE.hcl",
		address, errNoInputs, address)
}

// Nodes lists what a run of a removal does. One that fails does not stop the
// others; what it depends on stays, because the plan's dependencies say so.
func (d *Destroyer) Nodes(run uuid.UUID, p workflows.Plan) []workflows.Node {
	var nodes []workflows.Node
	for _, a := range p.Actions {
		if !a.Kind.Changes() {
			continue
		}
		nodes = append(nodes, workflows.Node{
			Address: a.Address, DependsOn: a.DependsOn, Inputs: a.Inputs, Timeout: stepTimeout, OnFailure: workflows.OnFailureContinue,
			Do: func(ctx context.Context, _ int) (workflows.Outputs, error) {
				err := d.remove(ctx, a)
				d.FailPoint.Pass(a.Address, workflows.AfterDo)
				if err != nil {
					return nil, err
				}
				return nil, d.Catalog.DeleteApplied(context.WithoutCancel(ctx), d.Site.Name, a.Address)
			},
		})
	}
	return nodes
}

// remove takes one address away, and leaves its record to the caller. It may
// begin anywhere: what is gone already is no error.
func (d *Destroyer) remove(ctx context.Context, a workflows.Action) error {
	record, err := d.Catalog.Applied(ctx, d.Site.Name, a.Address)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Removed before, or a machine that was never wholly installed.
		return d.release(ctx, a)
	case err != nil:
		return err
	case d.machine(record, a.Address):
		return d.release(ctx, a)
	case a.Kind == workflows.KindForget:
		return nil
	}
	made, err := d.steps(ctx, record)
	if err != nil {
		return workflows.GiveUp(err)
	}
	for _, step := range made {
		remover, ok := step.(Remover)
		if !ok {
			continue
		}
		// What would be lost is looked at again: nobody consented to more.
		loss, err := remover.Loss(ctx)
		if err != nil {
			return fmt.Errorf("%s: looking at what would be lost: %w", a.Address, err)
		}
		for _, l := range loss {
			if a.DestroysData() && !slices.ContainsFunc(a.Loss, func(shown string) bool { return withoutAmount(shown) == withoutAmount(l) }) {
				return workflows.GiveUp(fmt.Errorf("%s: it holds data that was not shown when its loss was consented to: %s; run destroy again", a.Address, l))
			}
		}
		if err := remover.Remove(ctx, a.DestroysData()); err != nil {
			return fmt.Errorf("%s: %w", a.Address, err)
		}
	}
	return nil
}

// amount is what a line about a loss may end with.
var amount = regexp.MustCompile(` \(\d+\)$`)

// withoutAmount is what a line about a loss is about: how much there is of it gets less
// while that goes which depends on it.
func withoutAmount(line string) string { return amount.ReplaceAllString(line, "") }

// release gives a machine up: nothing of it is known as installed any more, its
// disk is left as it is. The installation's phase goes first, so that from then
// on nothing is erased there without a typed word.
func (d *Destroyer) release(ctx context.Context, a workflows.Action) error {
	if a.Power == workflows.PowerDown {
		if err := d.powerOff(ctx, a.Address); err != nil {
			return err
		}
	}
	values := d.Catalog.Settings()
	last, err := loadInstallation(ctx, values, d.Site.Name, a.Address)
	if err != nil || last == nil {
		return err
	}
	last.Phase = phaseReleased
	if err := last.save(ctx, values, d.Site.Name, a.Address); err != nil {
		return err
	}
	row, err := d.Catalog.MachineByAddress(ctx, d.Site.Name, a.Address)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := errors.Join(d.Catalog.SetImage(ctx, row.ID, ""), d.Catalog.SetHostKey(ctx, row.ID, "")); err != nil {
		return err
	}
	if _, err := workflows.Transition(row.State, inventory.StateDeclared); err != nil {
		return nil // on its way through the installer; the next run finds it there
	}
	return d.Catalog.SetState(ctx, row.ID, inventory.StateDeclared)
}

func (d *Destroyer) powerOff(ctx context.Context, address string) error {
	controller, err := d.Powers.BMC(address)
	if err != nil {
		return fmt.Errorf("%s: it cannot be switched off: %w", address, err)
	}
	is, err := controller.PowerState(ctx)
	if err != nil || is == bmc.PowerOff {
		return err
	}
	return controller.SetPower(ctx, bmc.Off)
}
