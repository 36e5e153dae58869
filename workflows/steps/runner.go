package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/google/uuid"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Sealer keeps outputs of steps at rest, and makes digests that tell nothing of
// short secrets. The keyring implements it.
type Sealer interface {
	Seal(name string, value []byte) ([]byte, error)
	Unseal(name string, sealed []byte) ([]byte, error)
	Digest(name string, value []byte) string
}

// Runner makes steps from their declarations and remembers what they did.
type Runner struct {
	Site    *site.Site
	Catalog *store.Store
	Keys    Sealer
	Hosts   Hosts
	Powers  Powers
	// Machines and Artifacts are handed on to each step.
	Machines  Machines
	Artifacts Artifacts
	Clock     workflows.Clock
	Tell      func(Progress)

	mu   sync.Mutex
	done map[string][]Step // by address, one for each attempt, for Undo
}

// known is what step inputs can refer to, as far as it is known now.
func (r *Runner) known(machines map[string]workflows.MachineView) site.Known {
	k := site.Known{Machines: map[string]site.KnownMachine{}, Steps: map[string]cty.Value{}}
	for address, v := range machines {
		m := site.KnownMachine{Facts: v.Facts}
		if v.Applied != nil {
			m.HostKey, m.IP = v.Applied.HostKey, v.Applied.Address
		}
		if v.Machine != nil && len(v.Machine.MACs) > 0 {
			m.MAC = v.Machine.MACs[0]
		}
		k.Machines[address] = m
	}
	return k
}

// Known asks the catalog what is known of all machines and finished steps.
func (r *Runner) Known(ctx context.Context) (site.Known, error) {
	views := map[string]workflows.MachineView{}
	for _, m := range r.Site.Machines {
		var v workflows.MachineView
		row, err := r.Catalog.MachineByAddress(ctx, r.Site.Name, m.Address)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return site.Known{}, err
		default:
			v.Machine = &row
			if v.Facts, err = KnownFacts(ctx, r.Catalog, row.ID); err != nil {
				return site.Known{}, err
			}
		}
		if v.Applied, err = loadRecord(ctx, r.Catalog, r.Site.Name, m.Address); err != nil {
			return site.Known{}, err
		}
		views[m.Address] = v
	}
	known := r.known(views)
	for _, w := range r.Site.Workflows {
		for _, s := range w.Steps {
			outputs, err := r.applied(ctx, s)
			if err != nil {
				return known, err
			}
			if outputs != cty.NilVal {
				known.Steps[s.Address] = outputs
			}
		}
	}
	return known, nil
}

// KnownFacts is the merged view of a machine's facts; nil while there are none.
func KnownFacts(ctx context.Context, catalog *store.Store, id uuid.UUID) (*inventory.Facts, error) {
	facts, err := catalog.MergedFacts(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &facts, nil
}

// applied returns the outputs of the step's last success, or NilVal.
func (r *Runner) applied(ctx context.Context, s *site.Step) (cty.Value, error) {
	a, err := r.Catalog.Applied(ctx, r.Site.Name, s.Address)
	if errors.Is(err, fs.ErrNotExist) {
		return cty.NilVal, nil
	}
	if err != nil {
		return cty.NilVal, err
	}
	plain, err := r.Keys.Unseal(sealName(s.Address), a.Outputs)
	if err != nil {
		return cty.NilVal, fmt.Errorf("%s: reading its outputs: %w", s.Address, err)
	}
	t, ok := Find(s.Type)
	if !ok {
		return cty.NilVal, fmt.Errorf("%s: step type %q is not known", s.Address, s.Type)
	}
	v, err := ctyjson.Unmarshal(plain, cty.Object(t.Shape.Outputs))
	if err != nil {
		return cty.NilVal, fmt.Errorf("%s: reading its outputs: %w", s.Address, err)
	}
	return v, nil
}

func sealName(address string) string { return "outputs/" + address }

// Inspect asks a step what there is. While its inputs are not all known, the
// answer only says what they wait for.
func (r *Runner) Inspect(ctx context.Context, s *site.Step, known site.Known) (workflows.StepView, error) {
	when, diags := r.Site.StepWhen(s, known)
	if diags.HasErrors() {
		return workflows.StepView{}, diags
	}
	if when.IsKnown() && !when.IsNull() && when.False() {
		return workflows.StepView{Skipped: true}, nil
	}
	inputs, diags := r.Site.StepInputs(s, known)
	if diags.HasErrors() {
		return workflows.StepView{}, diags
	}
	if !inputs.IsWhollyKnown() || !when.IsKnown() {
		return workflows.StepView{After: slices.Clone(s.DependsOn)}, nil
	}
	if waits := r.notInstalled(s, known); len(waits) > 0 {
		return workflows.StepView{After: waits}, nil
	}
	step, env, err := r.make(ctx, s, inputs)
	if err != nil {
		return workflows.StepView{}, err
	}
	bounded, cancel := context.WithTimeout(ctx, inspectTimeout)
	defer cancel()
	f, err := step.Inspect(bounded)
	if ctx.Err() != nil {
		return workflows.StepView{}, fmt.Errorf("%s: inspecting: %w", s.Address, context.Cause(ctx))
	}
	if err != nil {
		// One host that refuses an answer must not cost the plan of all others.
		f = Finding{Presence: workflows.Unreachable, Detail: err.Error()}
	}
	return workflows.StepView{Presence: f.Presence, Changes: f.Changes, Detail: f.Detail, Inputs: env.Inputs}, nil
}

// notInstalled lists the machines that the step needs and that have no system
// of ours yet, so that asking them is idle.
func (r *Runner) notInstalled(s *site.Step, known site.Known) []string {
	var out []string
	for _, d := range s.DependsOn {
		i := slices.IndexFunc(r.Site.Machines, func(m *site.Machine) bool { return m.Address == d })
		if i >= 0 && !r.Site.Machines[i].Adopted() && r.Site.Machines[i].Image != nil && known.Machines[d].HostKey == "" {
			out = append(out, d)
		}
	}
	return out
}

// make builds the step and what it may use.
func (r *Runner) make(ctx context.Context, s *site.Step, inputs cty.Value) (Step, Env, error) {
	t, ok := Find(s.Type)
	if !ok {
		return nil, Env{}, fmt.Errorf("%s: step type %q is not known", s.Address, s.Type)
	}
	env := Env{
		Address: s.Address, Hosts: r.Hosts, Power: r.Powers, Machines: r.Machines, Artifacts: r.Artifacts, Clock: r.Clock,
		Marks: marks{r.Catalog.Settings()},
		Say: func(format string, args ...any) {
			r.Tell(Progress{Address: s.Address, Phase: "run", Message: fmt.Sprintf(format, args...)})
		},
	}
	plain, _ := inputs.UnmarkDeep()
	b, err := ctyjson.Marshal(plain, plain.Type())
	if err != nil {
		return nil, env, fmt.Errorf("%s: its inputs cannot be kept: %w", s.Address, err)
	}
	env.Inputs = r.Keys.Digest("inputs", b)
	a, err := r.Catalog.Applied(ctx, r.Site.Name, s.Address)
	if err == nil {
		env.Applied = a.Digest
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, env, err
	}
	step, err := t.New(inputs, env)
	if err != nil {
		return nil, env, fmt.Errorf("%s: %w", s.Address, err)
	}
	return step, env, nil
}

// Do runs one approved step: inspect, do what is missing, verify, remember. It
// stops when what it would do now is more than what was approved.
func (r *Runner) Do(ctx context.Context, run uuid.UUID, s *site.Step) (workflows.Outputs, error) {
	known, err := r.Known(ctx)
	if err != nil {
		return nil, err
	}
	inputs, diags := r.Site.StepInputs(s, known)
	if diags.HasErrors() {
		return nil, workflows.GiveUp(diags)
	}
	if !inputs.IsWhollyKnown() {
		return nil, workflows.GiveUp(fmt.Errorf("%s: its inputs are still not known: %#v", s.Address, site.Redact(inputs)))
	}
	step, env, err := r.make(ctx, s, inputs)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	if r.done == nil {
		r.done = map[string][]Step{}
	}
	r.done[s.Address] = append(r.done[s.Address], step)
	r.mu.Unlock()
	outputs, err := step.Do(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Address, err)
	}
	if err := step.Verify(ctx); err != nil {
		return nil, fmt.Errorf("%s: verifying: %w", s.Address, err)
	}
	return r.remember(ctx, run, s, env, outputs)
}

// remember keeps what the step was applied with and what came of it.
func (r *Runner) remember(ctx context.Context, run uuid.UUID, s *site.Step, env Env, outputs cty.Value) (workflows.Outputs, error) {
	plain, _ := outputs.UnmarkDeep()
	b, err := ctyjson.Marshal(plain, plain.Type())
	if err != nil {
		return nil, fmt.Errorf("%s: its outputs cannot be kept: %w", s.Address, err)
	}
	sealed, err := r.Keys.Seal(sealName(s.Address), b)
	if err != nil {
		return nil, err
	}
	return sealed, r.Catalog.PutApplied(context.WithoutCancel(ctx), store.Applied{
		Site: r.Site.Name, Address: s.Address, Digest: env.Inputs, Outputs: sealed, SchemaVersion: 1, Run: run.String(),
	})
}

// Undo takes back what a step created in this process, where its type can.
func (r *Runner) Undo(ctx context.Context, s *site.Step) error {
	r.mu.Lock()
	attempts := r.done[s.Address]
	r.mu.Unlock()
	if len(attempts) == 0 {
		return nil
	}
	for _, step := range slices.Backward(attempts) {
		undoer, ok := step.(Undoer)
		if !ok {
			return fmt.Errorf("%s: a %s step cannot be undone", s.Address, s.Type)
		}
		if err := undoer.Undo(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.Address, err)
		}
	}
	return r.Catalog.DeleteApplied(ctx, r.Site.Name, s.Address)
}

// marks keeps Marks in the catalog's settings.
type marks struct{ values Values }

// Marked implements Marks.
func (m marks) Marked(ctx context.Context, key string) (bool, error) {
	_, err := m.values.Get(ctx, "mark/"+key)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Mark implements Marks.
func (m marks) Mark(ctx context.Context, key string) error {
	return m.values.Put(ctx, "mark/"+key, []byte(`"done"`))
}

// MachineFacts is the sink of facts reports: it keeps them, and says when the
// machine that reported is not the one that it booted as.
func MachineFacts(s *site.Site, catalog *store.Store) func(ctx context.Context, machine uuid.UUID, boot string, f inventory.Facts) error {
	return func(ctx context.Context, machine uuid.UUID, _ string, f inventory.Facts) error {
		_, _, err := catalog.Observe(ctx, s.Name, store.Observation{Machine: machine, Source: inventory.SourceAgent, Facts: &f})
		return err
	}
}
