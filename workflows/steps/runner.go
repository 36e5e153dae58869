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
	"github.com/edge-provision/edge-provision/workflows/artifact"
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
	// Foresight is what the site would make of the machines and of what was
	// applied; nil: it is recorded. Steps are inspected with one, and never run.
	Foresight *Foresight
	Keys      Sealer
	Hosts     Hosts
	Powers    Powers
	// Machines and Artifacts are handed on to each step.
	Machines  Machines
	Artifacts Artifacts
	Preload   []artifact.Ref
	// SSH remembers how machines are reached, for a removal after they have
	// vanished from the site; nil remembers nothing.
	SSH   *SSH
	Clock workflows.Clock
	Tell  func(Progress)
	// FailPoint is told when a step's work is done and not recorded yet.
	FailPoint workflows.FailPoint

	declared Declared

	mu     sync.Mutex
	done   map[string][]Step         // by address, one for each attempt, for Undo
	before map[string]*store.Applied // by address, of before the first attempt; nil: nothing
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
		row, err := r.Foresight.Machine(ctx, r.Catalog, r.Site.Name, m.Address)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return site.Known{}, err
		default:
			v.Machine = &row
			if v.Facts, err = InspectedFacts(ctx, r.Catalog, row.ID); err != nil {
				return site.Known{}, err
			}
		}
		if v.Applied, err = loadRecord(ctx, r.Catalog, r.Site.Name, r.Foresight.recorded(m.Address)); err != nil {
			return site.Known{}, err
		}
		views[m.Address] = v
	}
	known := r.known(views)
	for _, s := range r.ordered() {
		if err := r.learn(ctx, s, &known); err != nil {
			return known, err
		}
	}
	return known, nil
}

// ordered lists the declared steps, each after those that it depends on.
func (r *Runner) ordered() []*site.Step {
	var out []*site.Step
	placed := map[string]bool{}
	var place func(*site.Step)
	place = func(s *site.Step) {
		if placed[s.Address] {
			return
		}
		placed[s.Address] = true
		for _, d := range s.DependsOn {
			if below := r.Site.StepByAddress(d); below != nil {
				place(below)
			}
		}
		out = append(out, s)
	}
	for _, w := range r.Site.Workflows {
		for _, s := range w.Steps {
			place(s)
		}
	}
	return out
}

// learn adds to known what is known of a step's outputs: those of its last
// success, or null ones where its `when` is false.
func (r *Runner) learn(ctx context.Context, s *site.Step, known *site.Known) error {
	when, diags := r.Site.StepWhen(s, *known)
	if diags.HasErrors() {
		return diags
	}
	if when.IsKnown() && !when.IsNull() && when.False() {
		known.Steps[s.Address] = cty.NullVal(cty.EmptyObject)
		return nil
	}
	outputs, err := r.applied(ctx, s)
	if err == nil && outputs != cty.NilVal {
		known.Steps[s.Address] = outputs
	}
	return err
}

// KnownFacts is the merged view of a machine's facts, whoever they come from; nil
// while there are none. What is decided about a machine goes by InspectedFacts.
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
	a, err := r.record(ctx, s.Address)
	if err != nil || a.Digest == "" {
		return cty.NilVal, err
	}
	plain, err := r.Keys.Unseal(sealName(r.Foresight.recorded(s.Address)), a.Outputs)
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
	record, recordErr := r.record(ctx, s.Address)
	return workflows.StepView{
		Presence: f.Presence, Changes: f.Changes, Detail: f.Detail, Refused: workflows.Final(err), Inputs: env.Inputs,
		Unfinished: len(record.Attempt) > 0, Unrecorded: record.Digest == "",
	}, recordErr
}

// record is what the catalog keeps of a step; zero when that is nothing.
func (r *Runner) record(ctx context.Context, address string) (store.Applied, error) {
	a, err := r.Catalog.Applied(ctx, r.Site.Name, r.Foresight.recorded(address))
	if errors.Is(err, fs.ErrNotExist) {
		return store.Applied{}, nil
	}
	return a, err
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
	env := r.env(s.Address, "run")
	var err error
	if env.Inputs, err = r.digest(s.Address, inputs); err != nil {
		return nil, env, err
	}
	a, err := r.record(ctx, s.Address)
	if err != nil {
		return nil, env, err
	}
	// Work that began after the last success, or is due since, has made that
	// success the past.
	if len(a.Attempt) == 0 {
		env.Applied = a.Digest
	}
	step, err := t.New(inputs, env)
	if err != nil {
		return nil, env, fmt.Errorf("%s: %w", s.Address, err)
	}
	return step, env, nil
}

// env is what every step may use.
func (r *Runner) env(address, phase string) Env {
	return Env{
		Address: address, Catalog: r.Catalog.CatalogID().String(), Site: r.Site.Name, Declared: &r.declared, Hosts: r.Hosts, Power: r.Powers, Machines: r.Machines, Artifacts: r.Artifacts, Preload: r.Preload, Clock: r.Clock,
		Marks: marks{r.Catalog.Settings()},
		Say: func(format string, args ...any) {
			r.Tell(Progress{Address: address, Phase: phase, Message: fmt.Sprintf(format, args...)})
		},
	}
}

// digest names a step's inputs.
func (r *Runner) digest(address string, inputs cty.Value) (string, error) {
	plain, _ := inputs.UnmarkDeep()
	plain = withoutNulls(plain)
	b, err := ctyjson.Marshal(plain, plain.Type())
	if err != nil {
		return "", fmt.Errorf("%s: its inputs cannot be kept: %w", address, err)
	}
	return r.Keys.Digest("inputs", b), nil
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
	sealed, err := r.begin(ctx, run, s, inputs)
	if err != nil {
		return nil, err
	}
	r.mu.Lock()
	r.done[s.Address] = append(r.done[s.Address], step)
	r.mu.Unlock()
	outputs, err := step.Do(ctx)
	r.FailPoint.Pass(s.Address, workflows.AfterDo)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Address, err)
	}
	if err := step.Verify(ctx); err != nil {
		return nil, fmt.Errorf("%s: verifying: %w", s.Address, err)
	}
	return r.remember(ctx, run, s, env, sealed, outputs)
}

// begin records what the step is about to be applied with, before it is: what a
// failure or a crash leaves behind can be taken away as well. It returns the
// sealed inputs.
func (r *Runner) begin(ctx context.Context, run uuid.UUID, s *site.Step, inputs cty.Value) ([]byte, error) {
	before, err := r.Catalog.Applied(ctx, r.Site.Name, s.Address)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r.mu.Lock()
	if r.done == nil {
		r.done, r.before = map[string][]Step{}, map[string]*store.Applied{}
	}
	if _, again := r.before[s.Address]; !again {
		r.before[s.Address] = nil
		if err == nil {
			r.before[s.Address] = &before
		}
	}
	r.mu.Unlock()
	sealed, err := r.keep(ctx, s.Address, inputs)
	if err != nil {
		return nil, err
	}
	return sealed, r.Catalog.BeginApplied(ctx, store.Applied{
		Site: r.Site.Name, Address: s.Address, Kind: s.Type, Attempt: sealed, DependsOn: s.DependsOn,
		SchemaVersion: 1, Run: run.String(),
	})
}

// Due records that a step which was applied has to run again, because what it
// depends on is about to change. It holds until the step succeeds.
func (r *Runner) Due(ctx context.Context, address string) error {
	a, err := r.record(ctx, address)
	if err != nil || len(a.Attempt) > 0 || len(a.Inputs) == 0 {
		return err
	}
	a.Attempt = a.Inputs
	return r.Catalog.BeginApplied(ctx, a)
}

// remember keeps what the step was applied with and what came of it.
func (r *Runner) remember(ctx context.Context, run uuid.UUID, s *site.Step, env Env, inputs []byte, outputs cty.Value) (workflows.Outputs, error) {
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
		Kind: s.Type, Inputs: inputs, DependsOn: s.DependsOn,
	})
}

// Undo takes back what a step created in this process, where its type can, and
// puts the record of what was there before in its place.
func (r *Runner) Undo(ctx context.Context, s *site.Step) error {
	r.mu.Lock()
	attempts, before := r.done[s.Address], r.before[s.Address]
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
	if before != nil {
		return r.Catalog.PutApplied(ctx, *before)
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

// MachineNeighbors is the sink of what the ports of machines are connected to.
func MachineNeighbors(s *site.Site, catalog *store.Store) func(ctx context.Context, machine uuid.UUID, neighbors []inventory.Neighbor) error {
	return func(ctx context.Context, machine uuid.UUID, neighbors []inventory.Neighbor) error {
		f := inventory.Facts{SchemaVersion: inventory.SchemaVersion, Neighbors: neighbors}
		_, _, err := catalog.Observe(ctx, s.Name, store.Observation{Machine: machine, Source: inventory.SourceLLDP, Facts: &f})
		return err
	}
}
