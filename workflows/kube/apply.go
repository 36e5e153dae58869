package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// definitionsBound bounds the waiting for definitions to be established and
	// namespaces to be active, which take seconds.
	definitionsBound = 2 * time.Minute
	// schemaBound bounds the waiting until an API server holds objects to the schema
	// of a definition that was just changed, which it learns by its watch: a moment
	// after it took the change, and several servers each in theirs.
	schemaBound = 15 * time.Second
	// raceAttempts bounds how often an object is looked at again because
	// somebody else wrote it at the same moment.
	raceAttempts = 5
)

// Apply brings a set about: namespaces and definitions, then what is configured,
// workloads with objects of custom kinds that others serve and with webhooks, and
// objects of custom kinds that the set brings, each in the order of their kinds;
// then it waits until all of it works, and deletes what the owner applied before
// and declares no longer. Nothing is sent when a conflict is in sight or
// an object is refused. It can be called again at any time, also after it was
// cut off.
func (c *Cluster) Apply(ctx context.Context, set Set, opts Options) error {
	p, err := c.prepare(ctx, set, opts)
	if err != nil {
		return err
	}
	inv, err := c.inventory(ctx, opts.Owner)
	if err != nil {
		return err
	}
	diff, all, err := c.compareAll(ctx, p, inv, opts)
	if err != nil {
		return err
	}
	if err := diff.Conflicts(); err != nil {
		return err
	}
	a := &application{c: c, p: p, inv: inv, opts: opts, redefined: map[ID]bool{}}
	before, after := PreInstall, PostInstall
	if inv.Set != "" {
		before, after = PreUpgrade, PostUpgrade
	}
	// A repair of what somebody changed is no upgrade.
	hooks := inv.Set != p.digest || inv.Pending != ""
	if diff.Empty() {
		if err := a.note(ctx, all); err != nil || opts.NoWait {
			return err
		}
		return c.waitReady(ctx, p.items, inv, opts)
	}
	if err := a.begin(ctx, all); err != nil {
		return err
	}
	for phase, objects := range p.inPhases(all) {
		if phase == phaseConfiguration && hooks {
			if err := a.hooks(ctx, before); err != nil {
				return err
			}
		}
		if err := a.phase(ctx, phase, objects); err != nil {
			return err
		}
	}
	if !opts.NoWait {
		if err := c.waitReady(ctx, p.items, inv, opts); err != nil {
			return err
		}
	}
	if hooks {
		if err := a.hooks(ctx, after); err != nil {
			return err
		}
	}
	if err := a.prune(ctx); err != nil {
		return err
	}
	inv.Set, inv.Pending = p.digest, ""
	return c.save(ctx, inv)
}

// application is one Apply under way.
type application struct {
	c    *Cluster
	p    *prepared
	inv  *inventory
	opts Options
	// redefined are the definitions that this application has sent.
	redefined map[ID]bool
}

// note keeps the inventory true where nothing is to be applied: somebody may have
// made an object anew just as it is declared.
func (a *application) note(ctx context.Context, all []comparison) error {
	changed := false
	for _, cmp := range all {
		if cmp.live == nil {
			continue
		}
		e := entry{ID: cmp.id, APIVersion: cmp.o.GetAPIVersion(), UID: cmp.live.GetUID(), Digest: digestOf(cmp.o), Fields: owned(cmp.live)}
		if old := a.inv.find(cmp.id); old == nil || old.UID != e.UID || old.Digest != e.Digest {
			a.inv.put(e)
			changed = true
		}
	}
	if a.inv.Set != a.p.digest || a.inv.Removal != "" {
		a.inv.Set, a.inv.Removal, changed = a.p.digest, "", true
	}
	if !changed {
		return nil
	}
	return a.c.save(ctx, a.inv)
}

// begin writes down what is going to be applied, so that a run that is cut off
// leaves nothing that nobody remembers.
func (a *application) begin(ctx context.Context, all []comparison) error {
	a.inv.Pending, a.inv.Removal = a.p.digest, ""
	for _, cmp := range all {
		e := a.inv.find(cmp.id)
		if e == nil {
			a.inv.put(entry{ID: cmp.id, APIVersion: cmp.o.GetAPIVersion()})
			continue
		}
		e.Kept = false
	}
	return a.c.save(ctx, a.inv)
}

// phase applies the objects of one phase, and waits for what the next needs.
func (a *application) phase(ctx context.Context, phase int, all []comparison) error {
	if len(all) == 0 {
		return nil
	}
	if !a.opts.NoWait && (phase == phaseAdmission || phase == phaseCustom && len(a.of(phaseAdmission)) > 0) {
		// A webhook that nobody answers would keep the workloads from starting, and
		// what it is asked about from being made.
		if err := a.c.waitReady(ctx, a.before(phase), a.inv, a.opts); err != nil {
			return err
		}
	}
	var failed error
	for _, cmp := range all {
		if failed = a.one(ctx, cmp); failed != nil {
			break
		}
	}
	// What was sent is written down even when something after it failed.
	if err := a.c.save(context.WithoutCancel(ctx), a.inv); err != nil {
		return errors.Join(failed, err)
	}
	if failed != nil {
		return failed
	}
	if phase != phaseDefinition {
		return nil
	}
	opts := a.opts
	if opts.wait() > definitionsBound {
		opts.Wait = definitionsBound
	}
	if err := a.c.waitReady(ctx, a.of(phaseDefinition), a.inv, opts); err != nil {
		return err
	}
	return a.served(ctx)
}

func (a *application) of(phase int) []item {
	var out []item
	for _, i := range a.p.items {
		if at, _ := rank(i.o); at == phase {
			out = append(out, i)
		}
	}
	return out
}

func (a *application) before(phase int) []item {
	var out []item
	for _, i := range a.p.items {
		if at, _ := rank(i.o); at < phase {
			out = append(out, i)
		}
	}
	return out
}

// served waits until the kinds that the set defines can be asked for: the server
// says Established a moment before it serves them.
func (a *application) served(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, definitionsBound, fmt.Errorf("it is established, but was not served in %s", definitionsBound))
	defer cancel()
	for gk, d := range a.p.defs {
		for _, v := range d.crd.Spec.Versions {
			if !v.Served {
				continue
			}
			for {
				_, err := a.c.lookup(ctx, gk.WithVersion(v.Name))
				var unknown *UnknownKindError
				if err == nil {
					break
				}
				if !errors.As(err, &unknown) {
					return err
				}
				if err := a.c.sleep(ctx); err != nil {
					return fmt.Errorf("%s: %w", d.id, err)
				}
			}
		}
	}
	return nil
}

// one applies one object and remembers what was applied.
func (a *application) one(ctx context.Context, cmp comparison) error {
	i, err := a.waitKnown(ctx, cmp.item)
	if err != nil {
		return err
	}
	if i.id != cmp.id {
		a.inv.drop(cmp.id)
	}
	sent := cmp.live
	if sent == nil && cmp.change.Operation == None {
		return nil
	}
	if cmp.change.Operation != None {
		a.opts.say("applying %s", i.id)
		if sent, err = a.send(ctx, i); err != nil {
			return err
		}
		a.redefined[i.id] = i.id.groupKind() == crdKind
	}
	a.inv.put(entry{ID: i.id, APIVersion: i.o.GetAPIVersion(), UID: sent.GetUID(), Digest: digestOf(i.o), Fields: owned(sent)})
	for n := range a.p.items {
		if a.p.items[n].id == cmp.id {
			a.p.items[n] = i
		}
	}
	return nil
}

// waitKnown waits for a kind that an operator of the same set brings by itself.
func (a *application) waitKnown(ctx context.Context, i item) (item, error) {
	bound := definitionsBound
	if len(a.of(phaseWorkload)) == 0 || a.opts.NoWait {
		bound = 0
	}
	began := a.c.config.Clock.Now()
	for {
		known, err := a.c.known(ctx, i, a.opts)
		var unknown *UnknownKindError
		if err == nil || !errors.As(err, &unknown) || a.c.config.Clock.Now().Sub(began) >= min(bound, a.opts.wait()) {
			return known, err
		}
		if err := a.c.sleep(ctx); err != nil {
			return i, err
		}
	}
}

// send applies one object. What somebody changed since it was compared is judged
// anew, and our decision holds only for the very state that it was made for.
func (a *application) send(ctx context.Context, i item) (Object, error) {
	for n := 1; ; n++ {
		live, err := a.c.get(ctx, i.r, i.id)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		if err == nil && live.GetDeletionTimestamp() != nil {
			if err := a.c.gone(ctx, i.r, i.id, live.GetUID(), a.opts.gone()); err != nil {
				return nil, err
			}
			live = nil
		} else if err != nil {
			live = nil
		}
		sent, err := a.caughtUp(ctx, i, func() (Object, error) { return a.sendOnce(ctx, i, live) })
		raced := apierrors.IsConflict(err) && conflictPaths(err) == nil || live != nil && apierrors.IsNotFound(err)
		if err == nil || !raced || n == raceAttempts {
			return sent, a.explain(ctx, i, err)
		}
		if err := a.c.sleep(ctx); err != nil {
			return nil, err
		}
	}
}

// caughtUp sends an object until the API server is where it can take it, and its
// refusal is about the object.
func (a *application) caughtUp(ctx context.Context, i item, send func() (Object, error)) (Object, error) {
	began := a.c.config.Clock.Now()
	for {
		sent, err := send()
		if bound := a.behind(i, err); bound == 0 || a.c.config.Clock.Now().Sub(began) >= min(bound, a.opts.wait()) {
			return sent, err
		}
		if err := a.c.sleep(ctx); err != nil {
			return nil, err
		}
	}
}

// behind is how long a refusal may come from a server that has not caught up; zero
// when it is about the object. A pod waits for the service account that every
// namespace gets after it was made: in a moment, or when the controller manager of a
// control plane that has just started leads. An object fits the definition that was
// just sent, as it was compared with it, and a server may still have the one before.
func (a *application) behind(i item, err error) time.Duration {
	var status *apierrors.StatusError
	if !errors.As(err, &status) {
		return 0
	}
	d := a.p.defs[i.id.groupKind()]
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(err.Error(), "error looking up service account"):
		return definitionsBound
	case d != nil && a.redefined[d.id] && (apierrors.IsInvalid(err) || saysUnfit(status.ErrStatus.Message)):
		return schemaBound
	}
	return 0
}

func (a *application) sendOnce(ctx context.Context, i item, live Object) (Object, error) {
	if live == nil {
		sent, err := a.c.apply(ctx, i.r, i.o, false, false)
		if conflictPaths(err) == nil {
			return sent, err
		}
		// Somebody made it in between; it is looked at in the next round.
		return nil, apierrors.NewConflict(i.r.gvr.GroupResource(), i.id.Name, errors.New("it was made by somebody else just now"))
	}
	desired := a.p.settled(i, live)
	change := Change{ID: i.id}
	if err := a.c.claim(ctx, a.p, live, a.inv.find(i.id), a.opts, &change); err != nil {
		return nil, err
	}
	if err := (Diff{Changes: []Change{change}}).Conflicts(); err != nil {
		return nil, err
	}
	sent, err := a.c.apply(ctx, i.r, desired, false, false)
	paths := conflictPaths(err)
	if paths == nil {
		return sent, err
	}
	predicted, err := a.c.apply(ctx, i.r, desired, true, true)
	if err != nil {
		return nil, err
	}
	change.Fields = classify(i, a.inv.find(i.id), live, predicted, paths, a.opts)
	if err := (Diff{Changes: []Change{change}}).Conflicts(); err != nil {
		return nil, err
	}
	desired.SetResourceVersion(live.GetResourceVersion())
	return a.c.apply(ctx, i.r, desired, true, false)
}

// explain adds what to do to a refusal.
func (a *application) explain(ctx context.Context, i item, err error) error {
	if err == nil {
		return nil
	}
	var conflict *ConflictError
	if errors.As(err, &conflict) {
		return err
	}
	if apierrors.IsNotFound(err) && i.r.namespaced {
		return fmt.Errorf("%w; if namespace %s is missing, declare it or set `namespace` to one that is there", a.c.refused(ctx, i, err), i.id.Namespace)
	}
	return a.c.refused(ctx, i, err)
}

// hooks runs the hooks of one event, in order, each to its end.
func (a *application) hooks(ctx context.Context, event Event) error {
	var done []item
	for _, h := range a.p.hooksOf(event) {
		i, err := a.waitKnown(ctx, item{o: h.Object, id: IDOf(h.Object), withheld: a.opts.Sensitive || groupKind(h.Object) == secretKind})
		if err != nil {
			return fmt.Errorf("hook %s: %w", event, err)
		}
		a.opts.say("running the %s hook %s", event, i.id)
		err = a.hook(ctx, h, i)
		if err != nil {
			err = fmt.Errorf("hook %s: %w", event, err)
			if h.Failed {
				err = errors.Join(err, a.dropHook(context.WithoutCancel(ctx), i))
			}
			return err
		}
		if h.Succeeded {
			done = append(done, i)
		}
	}
	// Helm deletes them together, because later hooks may use earlier ones.
	for _, i := range done {
		if err := a.dropHook(ctx, i); err != nil {
			return fmt.Errorf("hook %s: %w", event, err)
		}
	}
	return nil
}

func (p *prepared) hooksOf(event Event) []Hook { return Set{Hooks: p.hooks}.hooks(event) }

func (a *application) hook(ctx context.Context, h Hook, i item) error {
	if h.BeforeCreation {
		if err := a.dropHook(ctx, i); err != nil {
			return err
		}
	}
	a.inv.put(entry{ID: i.id, APIVersion: i.o.GetAPIVersion(), Hook: true})
	if err := a.c.save(ctx, a.inv); err != nil {
		return err
	}
	sent, err := a.caughtUp(ctx, i, func() (Object, error) { return a.c.apply(ctx, i.r, i.o, true, false) })
	if err != nil {
		return a.explain(ctx, i, err)
	}
	a.inv.put(entry{ID: i.id, APIVersion: i.o.GetAPIVersion(), UID: sent.GetUID(), Hook: true})
	absent := notThere
	if expires(sent) {
		absent = Status{Done: true}
	}
	switch i.id.Kind {
	case "Job", "Pod":
		_, err = a.c.waitFor(ctx, i.r, i.id, a.opts.wait(), absent, ended)
	case "CustomResourceDefinition":
		_, err = a.c.waitFor(ctx, i.r, i.id, definitionsBound, absent, func(o Object) (Status, error) { return Ready(o), nil })
	}
	return err
}

// ended tells when a hook's work is done; a pod that runs is not.
func ended(o Object) (Status, error) {
	s := Ready(o)
	if s.Done && o.GetKind() == "Pod" && str(o, "status", "phase") != "Succeeded" {
		return Status{Reason: "it has not ended"}, nil
	}
	return s, nil
}

// dropHook deletes what a hook made, if it is ours, and waits until it is gone. A
// definition stays, because all objects of its kind would go with it; Helm leaves it
// alone as well (pkg/action/hooks.go, deleteHookByPolicy). Its operator may have written
// it anew, without our label.
func (a *application) dropHook(ctx context.Context, i item) error {
	live, err := a.c.get(ctx, i.r, i.id)
	if errors.Is(err, ErrNotFound) {
		a.inv.drop(i.id)
		return nil
	}
	if err != nil {
		return err
	}
	definition := i.id.groupKind() == crdKind
	label, labelled := live.GetLabels()[OwnerLabel]
	if label != a.p.owner && (labelled || !definition) {
		return fmt.Errorf("%s is there and is not of this step; delete it or rename the hook", i.id)
	}
	if definition {
		return nil
	}
	if err := a.c.delete(ctx, i.r, i.id, live.GetUID()); err != nil {
		return err
	}
	if err := a.c.gone(ctx, i.r, i.id, live.GetUID(), a.opts.gone()); err != nil {
		return err
	}
	a.inv.drop(i.id)
	return nil
}
