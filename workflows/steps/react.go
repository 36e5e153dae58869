package steps

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
	// can consent to is left undone. It waits while another run is under way or the
	// site cannot be opened, and returns when this one has ended, with the last
	// plan that was made. The error is context.Canceled when ctx, or the program, ended
	// before the run, and never else: a run that a person stopped has failed.
	Carry(ctx context.Context, w Work) (workflows.Plan, error)
}

// Work is what a Carrier is to carry out.
type Work struct {
	Why     string   // for people and the log: class "nuc"
	Targets []string // addresses
	// Approve sees each stage before it is carried out, and its error ends the run.
	Approve func(stage workflows.Plan) error
	// Waits hears why the site cannot be opened, each time that this was tried, and an
	// empty reason once it could be.
	Waits func(reason string)
}

// Reactor starts what the classes of a site say, as machines come.
type Reactor struct {
	// Site is the site as it is served now; it is asked at each pass.
	Site func() *site.Site
	// Turn is held while what machines are is recorded by that site; nil: the site
	// never changes.
	Turn sync.Locker
	// Withheld says that nothing is to start for now, nor to be kept; nil: never.
	Withheld func() bool
	Catalog  *store.Store
	Keys     class.Digester // of rules with a sensitive value
	Carrier  Carrier
	Tell     func(Progress)   // may be called by several goroutines at once
	Now      func() time.Time // time.Now when nil

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
// starts what may start now. Machines that cannot be told are an error in the end,
// and keep nothing else from being done.
func (r *Reactor) Pass(ctx context.Context) error {
	var unbound Unbound
	s, err := recordNow(r.Turn, r.Site, func(s *site.Site) (err error) {
		unbound, err = Bind(ctx, s, r.Catalog, r.Keys)
		return err
	})
	if err != nil {
		return err
	}
	return errors.Join(unbound.Err(), r.react(ctx, s))
}

// react keeps what is due by a site, and starts what may start now.
func (r *Reactor) react(ctx context.Context, s *site.Site) error {
	if r.Withheld != nil && r.Withheld() {
		return nil
	}
	rules := class.Rules(s.Classes, r.Keys)
	kept, err := r.kept(ctx, s.Name, rules)
	if err != nil || len(rules)+len(kept) == 0 {
		return err
	}
	members, err := members(ctx, s, r.Catalog, nil)
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
		if err := r.move(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// kept are the reactions of the site, with the digests that its rules have now.
func (r *Reactor) kept(ctx context.Context, siteName string, rules []class.Rule) ([]inventory.Reaction, error) {
	kept, err := r.Catalog.Reactions(ctx, store.ReactionFilter{Site: siteName})
	if err != nil {
		return nil, err
	}
	kept, renewed := class.Renew(rules, kept)
	for _, rule := range renewed {
		if err := r.Catalog.RenewReactions(ctx, siteName, rule.Class, rule.Former, rule.Digest); err != nil {
			return nil, err
		}
	}
	return kept, nil
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

// members are the machines of a site as classes see them.
func members(ctx context.Context, s *site.Site, catalog *store.Store, f *Foresight) ([]class.Member, error) {
	rows, err := f.machines(ctx, catalog, s.Name)
	if err != nil {
		return nil, err
	}
	out := make([]class.Member, len(rows))
	for i, row := range rows {
		if out[i], err = memberOf(ctx, s, catalog, f, row); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ClassViews are what a plan tells of the classes of a site.
func ClassViews(ctx context.Context, s *site.Site, catalog *store.Store, keys class.Digester, f *Foresight, now time.Time) ([]workflows.ClassView, error) {
	if len(s.Classes) == 0 {
		return nil, nil
	}
	members, err := members(ctx, s, catalog, f)
	if err != nil {
		return nil, err
	}
	kept, err := catalog.Reactions(ctx, store.ReactionFilter{Site: s.Name})
	if err != nil {
		return nil, err
	}
	rules := class.Rules(s.Classes, keys)
	kept, _ = class.Renew(rules, kept)
	out := make([]workflows.ClassView, len(s.Classes))
	for i, c := range s.Classes {
		out[i].Name = c.Name
		for _, m := range members {
			if slices.Contains(m.Classes, c.Name) {
				out[i].Machines++
			}
		}
		for _, p := range class.Previews(now, s.Name, rules, members, kept) {
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

// memberOf is a machine as classes see it. What was installed is recorded by
// address, for an apply; that it was this machine is what its own row says.
func memberOf(ctx context.Context, s *site.Site, catalog *store.Store, f *Foresight, row inventory.Machine) (class.Member, error) {
	out := class.Member{Machine: row.ID, Classes: row.Classes, Address: row.Address}
	m := s.MachineByAddress(row.Address)
	switch {
	case m == nil:
		return out, nil
	case m.Adopted():
		out.Installed = true
		return out, nil
	}
	record, err := loadRecord(ctx, catalog, s.Name, f.recorded(row.Address))
	if err != nil || record == nil {
		return out, err
	}
	out.Installed = row.State == inventory.StateInstalled || row.Image == record.Image
	// The end of an installation is recorded at the address before the machine's
	// row tells it.
	out.Taken = !out.Installed && row.State != inventory.StateInstalling
	return out, nil
}

// installedAs reports whether the machine that is at an address now runs as it is
// declared: an apply then never installs it by itself.
func installedAs(ctx context.Context, s *site.Site, catalog *store.Store, address string) (bool, error) {
	if m := s.MachineByAddress(address); m == nil || m.Adopted() {
		return m != nil, nil
	}
	row, err := catalog.MachineByAddress(ctx, s.Name, address)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	m, err := memberOf(ctx, s, catalog, nil, row)
	return m.Installed, err
}

// move does what was decided about one reaction.
func (r *Reactor) move(ctx context.Context, m class.Move) error {
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
			r.start(ctx, m)
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
func (r *Reactor) start(ctx context.Context, m class.Move) {
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
		state, reason, err := r.carry(ctx, m)
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
func (r *Reactor) carry(ctx context.Context, m class.Move) (inventory.ReactionState, string, error) {
	why := fmt.Sprintf("class %q", m.Rule.Class)
	w := &warrant{reactor: r, move: m}
	provisions := slices.Contains(m.Rule.Provision, m.Address)
	var done []string
	if provisions {
		if state, reason, err := w.carry(ctx, why, []string{m.Address}); state != "" || err != nil {
			return state, reason, err
		}
		done = append(done, m.Address+" is installed")
	}
	if m.Rule.Workflow != "" {
		s := r.Site()
		var failed error
		steps := class.Steps(s, m.Rule.Workflow, m.Address, func(address string) bool {
			is, err := installedAs(ctx, s, r.Catalog, address)
			failed = errors.Join(failed, err)
			return is
		})
		if failed != nil {
			return "", "", failed
		}
		if len(steps) == 0 {
			done = append(done, "no step of "+m.Rule.Workflow+" can run yet: they wait for other machines, or for none of this")
		} else {
			if state, reason, err := w.carry(ctx, why, steps); state != "" || err != nil {
				return state, reason, err
			}
			done = append(done, fmt.Sprintf("steps of %s that are as declared: %d", m.Rule.Workflow, len(steps)))
		}
	}
	if len(done) == 0 {
		return inventory.ReactionDropped, "the class has nothing for " + m.Address, nil
	}
	return inventory.ReactionDone, strings.Join(done, "; "), nil
}

// warrant is what a reaction may do, as long as it may.
type warrant struct {
	reactor *Reactor
	move    class.Move
	lapsed  string // why it may not go on; empty: it may
	counted bool   // that it began is kept
}

// carry is one run of the reaction. The state is how the reaction ends with it;
// empty: it goes on.
func (w *warrant) carry(ctx context.Context, why string, targets []string) (inventory.ReactionState, string, error) {
	approved := false
	plan, err := w.reactor.Carrier.Carry(ctx, Work{
		Why: why, Targets: targets,
		Approve: func(stage workflows.Plan) error {
			approved = true
			return w.approve(ctx, stage)
		},
		Waits: func(reason string) { w.waits(ctx, reason) },
	})
	if !approved && err == nil {
		// Nothing was to be done, and that nobody has looked at.
		err = w.check(ctx)
	}
	if w.lapsed != "" {
		return inventory.ReactionDropped, w.lapsed + "; `edge-provision apply` finishes what is declared", nil
	}
	for _, target := range targets {
		if refusal := refusalOf(plan, target); refusal != "" {
			return inventory.ReactionRefused, refusal, nil
		}
	}
	if err != nil {
		about := "provisioning " + w.move.Address
		if !slices.Contains(targets, w.move.Address) {
			about = "running " + w.move.Rule.Workflow
		}
		return "", "", fmt.Errorf("%s: %w", about, err)
	}
	return "", "", nil
}

// waits keeps what the reaction waits for, where people look for it.
func (w *warrant) waits(ctx context.Context, reason string) {
	_, err := w.reactor.Catalog.DelayReaction(ctx, w.move.Reaction.ID, reason)
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrReactionMoved) {
		w.reactor.Tell(Progress{Address: w.move.Address, Phase: "error", Message: err.Error()})
	}
}

// check looks whether the class, the machine and its address are still those that
// the reaction was started for. What it waited for, and each stage of its own
// run, may have taken hours.
func (w *warrant) check(ctx context.Context) error {
	catalog := w.reactor.Catalog
	s, err := recordNow(w.reactor.Turn, w.reactor.Site, func(s *site.Site) error { return Classify(ctx, s, catalog, w.reactor.Keys) })
	if err != nil {
		return err
	}
	var now class.Member
	switch row, err := catalog.Machine(ctx, w.move.Reaction.Machine); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return err
	case row.Site == s.Name:
		now = class.Member{Machine: row.ID, Classes: row.Classes, Address: row.Address}
	}
	if w.lapsed = w.move.Lapsed(class.Rules(s.Classes, w.reactor.Keys), now); w.lapsed != "" {
		return errors.New(w.lapsed)
	}
	return nil
}

// approve lets a stage be carried out while the reaction may go on, if it
// installs, boots or switches on no machine but its own, and erases nothing that a
// person has to consent to. Before the first one it is kept that the work begins.
func (w *warrant) approve(ctx context.Context, stage workflows.Plan) error {
	if err := w.check(ctx); err != nil {
		return err
	}
	for _, a := range stage.Actions {
		if refusal := refusalOf(stage, a.Address); refusal != "" {
			return errors.New(refusal)
		}
		if err := w.allows(a); err != nil {
			return err
		}
	}
	if w.counted {
		return nil
	}
	if _, err := w.reactor.Catalog.CountReaction(ctx, w.move.Reaction.ID); err != nil {
		return err
	}
	w.counted = true
	return nil
}

// allows refuses what is done to a machine that is not the reaction's own, or
// that the class does not start.
func (w *warrant) allows(a workflows.Action) error {
	own := a.Address == w.move.Address
	switch a.Kind {
	case workflows.KindInstall, workflows.KindInspect:
		if own && !slices.Contains(w.move.Rule.Provision, a.Address) {
			return fmt.Errorf("%s would be booted into the installer (%s), and the class does not provision it; `edge-provision apply` does", a.Address, a.Kind)
		}
	case workflows.KindPowerOn, workflows.KindBoot:
	default:
		return nil
	}
	if !own {
		return fmt.Errorf("%s would be booted too (%s), and only a person starts that, with `edge-provision apply`", a.Address, a.Kind)
	}
	return nil
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
