package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/class"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Carrier carries out work that nobody sits before.
type Carrier interface {
	// Carry is an apply of some addresses with nobody to ask: what only a person
	// can consent to is left undone. approve sees each stage before it is carried
	// out, and its error ends the run. Carry waits while another run is under way,
	// and returns when this one has ended, with the last plan that was made. The
	// error is context.Canceled when ctx, or the program, ended before the run.
	Carry(ctx context.Context, why string, targets []string, approve func(stage workflows.Plan) error) (workflows.Plan, error)
}

// Reactor starts what the classes of a site say, as machines come.
type Reactor struct {
	// Site is the site as it is served now; it is asked at each pass.
	Site    func() *site.Site
	Catalog *store.Store
	Carrier Carrier
	Tell    func(Progress)   // may be called by several goroutines at once
	Now     func() time.Time // time.Now when nil

	mu      sync.Mutex
	running map[int64]bool // reactions under way in this process
	work    sync.WaitGroup
}

// reactInterval is how often the catalog is looked at; a machine has taken
// minutes to come this far.
const reactInterval = 2 * time.Second

// Run works until ctx ends, and returns when what it started has ended. What was
// cut off with it is kept as started, and the next Run goes on with it.
func (r *Reactor) Run(ctx context.Context) {
	defer r.work.Wait()
	ticker := time.NewTicker(reactInterval)
	defer ticker.Stop()
	said := ""
	for {
		text := ""
		if err := r.Pass(ctx); err != nil && ctx.Err() == nil {
			text = err.Error()
		}
		if text != said && text != "" {
			r.Tell(Progress{Address: "reactions", Phase: "error", Message: text})
		}
		said = text
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Wait returns when nothing is under way that a Pass has started.
func (r *Reactor) Wait() { r.work.Wait() }

// Pass looks once at which machines are in which classes, keeps what is due, and
// starts what may start now.
func (r *Reactor) Pass(ctx context.Context) error {
	s := r.Site()
	if err := Bind(ctx, s, r.Catalog); err != nil {
		return err
	}
	rules := class.Rules(s.Classes)
	kept, err := r.Catalog.Reactions(ctx, store.ReactionFilter{Site: s.Name})
	if err != nil || len(rules)+len(kept) == 0 {
		return err
	}
	members, err := Members(ctx, s, r.Catalog)
	if err != nil {
		return err
	}
	due := class.Due(s.Name, rules, members, kept)
	for _, d := range due {
		if _, err := r.Catalog.QueueReaction(ctx, d); err != nil {
			return err
		}
	}
	if len(due) > 0 {
		if kept, err = r.Catalog.Reactions(ctx, store.ReactionFilter{Site: s.Name}); err != nil {
			return err
		}
	}
	for _, m := range class.Decide(r.now(), rules, members, kept, r.underWay()) {
		if err := r.move(ctx, s, m); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reactor) now() time.Time {
	if r.Now == nil {
		return time.Now()
	}
	return r.Now()
}

func (r *Reactor) underWay() map[int64]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make(map[int64]bool, len(r.running))
	for id := range r.running {
		out[id] = true
	}
	return out
}

// Members are the machines of a site as classes see them.
func Members(ctx context.Context, s *site.Site, catalog *store.Store) ([]class.Member, error) {
	rows, err := catalog.Machines(ctx, store.MachineFilter{Site: s.Name})
	if err != nil {
		return nil, err
	}
	out := make([]class.Member, len(rows))
	for i, row := range rows {
		out[i] = class.Member{Machine: row.ID, Classes: row.Classes, Address: row.Address}
		if row.Address == "" || len(row.Classes) == 0 {
			continue
		}
		if out[i].Installed, err = installedAs(ctx, s, catalog, row.Address); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ClassViews are what a plan tells of the classes of a site.
func ClassViews(ctx context.Context, s *site.Site, catalog *store.Store, now time.Time) ([]workflows.ClassView, error) {
	if len(s.Classes) == 0 {
		return nil, nil
	}
	members, err := Members(ctx, s, catalog)
	if err != nil {
		return nil, err
	}
	kept, err := catalog.Reactions(ctx, store.ReactionFilter{Site: s.Name})
	if err != nil {
		return nil, err
	}
	out := make([]workflows.ClassView, len(s.Classes))
	for i, c := range s.Classes {
		out[i].Name = c.Name
		for _, m := range members {
			if slices.Contains(m.Classes, c.Name) {
				out[i].Machines++
			}
		}
		for _, p := range class.Previews(now, s.Name, class.Rules(s.Classes), members, kept) {
			if p.Class == c.Name {
				out[i].Reactions = append(out[i].Reactions, sentenceOf(p))
			}
		}
	}
	return out, nil
}

// sentenceOf says for a person what a class starts for a machine.
func sentenceOf(p class.Preview) string {
	who := p.Address
	if who == "" {
		who = p.Machine.String()
	}
	switch p.State {
	case "":
		return who + ": not started yet; `serve` " + p.Text
	case inventory.ReactionQueued:
		return who + ": queued; " + p.Text
	}
	return who + ": " + string(p.State) + "; " + p.Text
}

// installedAs reports whether a machine runs as it is declared at an address: an
// apply then never installs it by itself.
func installedAs(ctx context.Context, s *site.Site, catalog *store.Store, address string) (bool, error) {
	m := s.MachineByAddress(address)
	if m == nil || m.Adopted() {
		return m != nil, nil
	}
	record, err := loadRecord(ctx, catalog, s.Name, address)
	return record != nil, err
}

// move does what was decided about one reaction.
func (r *Reactor) move(ctx context.Context, s *site.Site, m class.Move) error {
	var err error
	var now inventory.Reaction
	switch m.To {
	case inventory.ReactionQueued:
		if m.Reaction.Reason == m.Reason {
			return nil
		}
		now, err = r.Catalog.HoldReaction(ctx, m.Reaction.ID, m.Reason)
	case inventory.ReactionStarted:
		// Kept before anything is done: what a kill leaves here goes on.
		if now, err = r.Catalog.StartReaction(ctx, m.Reaction.ID, m.Address); err == nil {
			r.start(ctx, s, m)
		}
	default:
		now, err = r.Catalog.FinishReaction(ctx, m.Reaction.ID, m.To, m.Reason)
	}
	if errors.Is(err, store.ErrReactionMoved) {
		return nil // the next pass sees it as it is
	}
	if err == nil {
		r.tell(now)
	}
	return err
}

func (r *Reactor) tell(now inventory.Reaction) {
	address := now.Address
	if address == "" {
		address = now.Machine.String()
	}
	text := "class " + now.Class
	if now.Reason != "" {
		text += ": " + now.Reason
	}
	r.Tell(Progress{Address: address, Phase: "reaction " + string(now.State), Message: text})
}

// start works on a reaction beside the others.
func (r *Reactor) start(ctx context.Context, s *site.Site, m class.Move) {
	id := m.Reaction.ID
	r.mu.Lock()
	if r.running == nil {
		r.running = map[int64]bool{}
	}
	r.running[id] = true
	r.mu.Unlock()
	r.work.Go(func() {
		defer func() {
			r.mu.Lock()
			delete(r.running, id)
			r.mu.Unlock()
		}()
		state, reason, err := r.carry(ctx, s, m)
		if err != nil && (ctx.Err() != nil || errors.Is(err, context.Canceled)) {
			return // it stays started, and goes on when somebody serves again
		}
		if err != nil {
			state, reason = inventory.ReactionFailed, err.Error()
		}
		now, err := r.Catalog.FinishReaction(context.WithoutCancel(ctx), id, state, reason)
		switch {
		case errors.Is(err, store.ErrReactionMoved):
		case err != nil:
			r.Tell(Progress{Address: m.Address, Phase: "error", Message: err.Error()})
		default:
			r.tell(now)
		}
	})
}

// carry does the work of one reaction, and says how it ended.
func (r *Reactor) carry(ctx context.Context, s *site.Site, m class.Move) (inventory.ReactionState, string, error) {
	why := fmt.Sprintf("class %q", m.Rule.Class)
	var done []string
	for _, address := range m.Rule.Provision {
		if address != m.Address {
			continue
		}
		plan, err := r.Carrier.Carry(ctx, why, []string{address}, onlyOn(address))
		if refusal := refusalOf(plan, address); refusal != "" {
			return inventory.ReactionRefused, refusal, nil
		}
		if err != nil {
			return "", "", fmt.Errorf("provisioning %s: %w", address, err)
		}
		done = append(done, address+" is installed")
	}
	if m.Rule.Workflow != "" {
		var failed error
		steps := class.Steps(s, m.Rule.Workflow, m.Address, func(address string) bool {
			is, err := installedAs(ctx, s, r.Catalog, address)
			failed = errors.Join(failed, err)
			return is
		})
		switch {
		case failed != nil:
			return "", "", failed
		case len(steps) == 0:
			done = append(done, "no step of "+m.Rule.Workflow+" can run yet: they wait for other machines, or for none of this")
		default:
			plan, err := r.Carrier.Carry(ctx, why, steps, onlyOn(""))
			for _, step := range steps {
				if refusal := refusalOf(plan, step); refusal != "" {
					return inventory.ReactionRefused, refusal, nil
				}
			}
			if err != nil {
				return "", "", fmt.Errorf("running %s: %w", m.Rule.Workflow, err)
			}
			done = append(done, fmt.Sprintf("steps of %s that are as declared: %d", m.Rule.Workflow, len(steps)))
		}
	}
	return inventory.ReactionDone, strings.Join(done, "; "), nil
}

// onlyOn approves what installs, or boots into the installer, no machine but one,
// and erases nothing that a person has to consent to.
func onlyOn(address string) func(workflows.Plan) error {
	return func(stage workflows.Plan) error {
		for _, a := range stage.Actions {
			if refusal := refusalOf(stage, a.Address); refusal != "" {
				return errors.New(refusal)
			}
			if (a.Kind == workflows.KindInstall || a.Kind == workflows.KindInspect) && a.Address != address {
				return fmt.Errorf("%s would be booted into the installer too (%s), and only a person starts that, with `edge-provision apply`", a.Address, a.Kind)
			}
		}
		return nil
	}
}

// refusalOf is why a plan would not do what it is about without a person, and
// what the person does; empty when it would.
func refusalOf(plan workflows.Plan, address string) string {
	a, _ := plan.Find(address)
	switch {
	case a.Kind == workflows.KindRefused:
		return fmt.Sprintf("%s; then `edge-provision apply` installs it", strings.TrimSuffix(a.Reason, "."))
	case a.Erase != nil && a.Erase.Consent == workflows.ConsentNeeded:
		return fmt.Sprintf("%s carries %s: say wipe = true for %s in site.hcl, or type the machine's serial in `edge-provision apply`",
			workflows.DescribeDisk(a.Erase.Disk), strings.Join(a.Erase.Signatures, ", "), address)
	}
	return ""
}
