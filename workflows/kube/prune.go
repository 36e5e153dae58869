package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
)

// departure is an object of the inventory that is declared no longer.
type departure struct {
	entry
	r      resource
	live   Object // nil when it is gone or not ours
	change Change
	kept   bool
}

// leaving finds what the owner applied and declares no longer, and decides what
// becomes of it. Only what carries the owner's label and is the very object that
// was applied is deleted.
func (c *Cluster) leaving(ctx context.Context, p *prepared, inv *inventory, opts Options) ([]departure, error) {
	declared := map[ID]bool{}
	for _, i := range p.items {
		declared[i.id] = true
	}
	for _, h := range p.hooks {
		declared[IDOf(h.Object)] = true
	}
	var out []departure
	for _, e := range inv.Objects {
		if declared[e.ID] {
			continue
		}
		d, err := c.departure(ctx, e, p.owner, opts, slices.Contains(opts.PruneData, e.ID.String()))
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	slices.SortStableFunc(out, func(a, b departure) int { return compareObjects(b.object(), a.object()) })
	return out, nil
}

// keepAnnotation with the value "keep" leaves an object when its chart goes
// (https://helm.sh/docs/howto/charts_tips_and_tricks/).
const keepAnnotation = "helm.sh/resource-policy"

// object is a bare object with the entry's identity, for the order.
func (e entry) object() Object {
	o := &unstructured.Unstructured{Object: map[string]any{}}
	o.SetAPIVersion(e.APIVersion)
	o.SetKind(e.Kind)
	o.SetNamespace(e.Namespace)
	o.SetName(e.Name)
	return o
}

func (c *Cluster) departure(ctx context.Context, e entry, owner string, opts Options, consent bool) (departure, error) {
	d := departure{entry: e, change: Change{ID: e.ID, Operation: None}}
	r, err := c.kind(ctx, e.APIVersion, e.Kind)
	if errors.Is(err, ErrNotFound) {
		if r, err = c.anyVersion(ctx, e); errors.Is(err, ErrNotFound) {
			return d, nil
		}
	}
	if err != nil {
		return d, err
	}
	d.r = r
	live, err := c.get(ctx, r, e.ID)
	if errors.Is(err, ErrNotFound) {
		return d, nil
	}
	if err != nil {
		return d, err
	}
	switch label := live.GetLabels()[OwnerLabel]; {
	case label != owner && !e.unlabelled(live):
		d.change.Operation, d.change.Note = Release, "it no longer carries the label of this step, and is left alone"
		if other, err := c.readInventory(ctx, label); label != "" && err == nil {
			d.change.Note = "it now belongs to " + other.Address
		}
		return d, nil
	case e.UID != "" && e.UID != live.GetUID():
		d.change.Operation, d.change.Note = Release, "it is another object of the same name, and is left alone"
		return d, nil
	}
	if opts.Elsewhere != nil {
		if other := opts.Elsewhere(e.ID); other != "" {
			d.change.Operation, d.change.Note = Release, "it moves to "+other
			return d, nil
		}
	}
	d.live = live
	why := ""
	switch {
	case live.GetAnnotations()[keepAnnotation] == "keep" && !slices.Contains(opts.PruneData, e.ID.String()):
		why = "it says so itself (" + keepAnnotation + ")"
	case e.ID.holdsData() && !consent:
		why = "its deletion can destroy data"
	}
	if why != "" {
		d.kept = true
		if !e.Kept {
			d.change.Operation = Release
			d.change.Note = fmt.Sprintf("it is declared no longer and is kept, because %s; prune_data = [%q] deletes it", why, e.ID)
		}
		return d, nil
	}
	d.change.Operation, d.change.Note = Delete, "it is declared no longer"
	return d, nil
}

// anyVersion finds a kind of which the cluster no longer serves the version that
// was applied.
func (c *Cluster) anyVersion(ctx context.Context, e entry) (resource, error) {
	versions, err := c.versions(ctx, e.Group)
	if err != nil {
		return resource{}, err
	}
	for _, v := range versions {
		r, err := c.lookup(ctx, e.groupKind().WithVersion(v))
		var unknown *UnknownKindError
		if !errors.As(err, &unknown) {
			return r, err
		}
	}
	return resource{}, ErrNotFound
}

// prune deletes what is declared no longer, what came last first.
func (a *application) prune(ctx context.Context) error {
	leaving, err := a.c.leaving(ctx, a.p, a.inv, a.opts)
	if err != nil {
		return err
	}
	return a.take(ctx, leaving)
}

// take carries out departures and strikes them from the inventory. The deletions
// of one phase are all asked for before they are waited for.
func (a *application) take(ctx context.Context, leaving []departure) error {
	phaseOf := func(d departure) int { p, _ := rank(d.object()); return p }
	for begin := 0; begin < len(leaving); {
		end := begin
		for end < len(leaving) && phaseOf(leaving[end]) == phaseOf(leaving[begin]) {
			end++
		}
		batch := leaving[begin:end]
		begin = end
		for _, d := range batch {
			if d.change.Operation == Delete {
				a.opts.say("deleting %s", d.ID)
				if err := a.c.part(ctx, d, a.opts.Parting[d.ID.String()]); err != nil {
					return err
				}
				if err := a.c.delete(ctx, d.r, d.ID, d.live.GetUID()); err != nil {
					return err
				}
			}
		}
		for _, d := range batch {
			switch {
			case d.change.Operation == Delete:
				if err := a.c.gone(ctx, d.r, d.ID, d.live.GetUID(), a.opts.gone()); err != nil {
					return errors.Join(err, a.c.save(context.WithoutCancel(ctx), a.inv))
				}
				a.inv.drop(d.ID)
			case d.kept:
				a.inv.find(d.ID).Kept = true
			default:
				a.inv.drop(d.ID)
			}
		}
	}
	return nil
}

// part changes an object that is about to be deleted. The UID in the patch keeps
// another object of its name from it.
func (c *Cluster) part(ctx context.Context, d departure, patch map[string]any) error {
	if patch == nil {
		return nil
	}
	o := &unstructured.Unstructured{Object: runtime.DeepCopyJSON(patch)}
	o.SetUID(d.live.GetUID())
	body, err := json.Marshal(o.Object)
	if err != nil {
		return err
	}
	_, err = c.at(d.r, d.Namespace).Patch(ctx, d.Name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: Manager})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return c.asked(ctx, "telling "+d.ID.String()+" how to go", err)
}

// delete asks for the deletion of the very object. That it is gone, or that
// another has its name, is no error.
func (c *Cluster) delete(ctx context.Context, r resource, id ID, uid types.UID) error {
	policy := metav1.DeletePropagationBackground
	err := c.at(r, id.Namespace).Delete(ctx, id.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &policy,
	})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return c.asked(ctx, "deleting "+id.String(), err)
}

// gone waits until an object is deleted; the error names what holds it.
func (c *Cluster) gone(ctx context.Context, r resource, id ID, uid types.UID, bound time.Duration) error {
	began := c.config.Clock.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, bound, errBound)
	defer cancel()
	reason := "it was never seen after that"
	// As in waitFor the first look has the time that any request has.
	for look := ctx; ; look = bounded {
		o, err := c.get(look, r, id)
		switch {
		case errors.Is(err, ErrNotFound):
			return nil
		case err != nil && look.Err() != nil:
		case err != nil:
			return err
		case o.GetUID() != uid:
			return nil
		default:
			reason = "it is still there"
			if f := o.GetFinalizers(); len(f) > 0 {
				reason = "its finalizers " + strings.Join(f, ", ") + " wait for their controllers"
			}
			for _, cond := range conditions(o) {
				if cond.status == "True" && cond.message != "" {
					reason += "; " + cond.String()
				}
			}
		}
		if c.sleep(bounded) == nil {
			continue
		}
		if ctx.Err() != nil {
			return fmt.Errorf("waiting until %s is gone: %w; %s", id, context.Cause(ctx), reason)
		}
		return &NotReadyError{ID: id, Reason: "it was deleted, but " + reason, Waited: c.config.Clock.Now().Sub(began)}
	}
}

// Loss lists what Remove with data would destroy for good: namespaces with what
// is in them, definitions with their objects, and volumes.
func (c *Cluster) Loss(ctx context.Context, _ Set, opts Options) ([]string, error) {
	inv, err := c.inventory(ctx, opts.Owner)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range inv.Objects {
		if !e.holdsData() {
			continue
		}
		d, err := c.departure(ctx, e, opts.Owner.Label(), opts, true)
		if err != nil {
			return nil, err
		}
		if d.change.Operation != Delete {
			continue
		}
		lines, err := c.worth(ctx, d)
		if err != nil {
			return nil, err
		}
		out = append(out, lines...)
	}
	slices.Sort(out)
	return out, nil
}

// worth says what goes with an object.
func (c *Cluster) worth(ctx context.Context, d departure) ([]string, error) {
	switch d.groupKind() {
	case namespaceKind:
		claims, err := c.List(ctx, "v1", "PersistentVolumeClaim", d.Name, "")
		if err != nil {
			return nil, err
		}
		lines := []string{d.ID.String() + " with everything in it"}
		for _, claim := range claims {
			lines = append(lines, fmt.Sprintf("%s with its %s", IDOf(claim), d.ID))
		}
		return lines, nil
	case crdKind:
		n, err := c.instances(ctx, d.live)
		if err != nil {
			return nil, err
		}
		return []string{fmt.Sprintf("%s with all objects of its kind (%d)", d.ID, n)}, nil
	}
	size := str(d.live, "status", "capacity", "storage")
	if size == "" {
		size = str(d.live, "spec", "capacity", "storage")
	}
	return []string{strings.TrimSuffix(fmt.Sprintf("%s %s", d.ID, size), " ")}, nil
}

// instances counts the objects of a definition.
func (c *Cluster) instances(ctx context.Context, crd Object) (int, error) {
	defs, err := define([]Object{crd})
	if err != nil {
		return 0, err
	}
	for gk, def := range defs {
		for _, v := range def.crd.Spec.Versions {
			if v.Served {
				all, err := c.List(ctx, gk.WithVersion(v.Name).GroupVersion().String(), gk.Kind, "", "")
				return len(all), err
			}
		}
	}
	return 0, nil
}

// Remove takes away everything that was applied for the owner, what came last
// first, custom objects and what waits for them before the operators that
// release them, namespaces and definitions after the hooks. The set is used for its delete hooks alone and may be empty.
// What Loss lists is kept unless data is true.
func (c *Cluster) Remove(ctx context.Context, set Set, opts Options, data bool) error {
	inv, err := c.inventory(ctx, opts.Owner)
	if err != nil {
		return err
	}
	if inv.resourceVersion == "" {
		return nil
	}
	p, err := c.prepare(ctx, set, opts)
	if err != nil {
		return err
	}
	a := &application{c: c, p: p, inv: inv, opts: opts}
	// What is left of a removal that came to its end was kept.
	removed := inv.Set == "" && inv.Pending == ""
	if inv.Set != "" && inv.Removal == "" {
		if err := a.lastHooks(ctx, PreDelete); err != nil {
			return err
		}
	}
	if err := a.takeAll(ctx, data, func(e entry) bool { return !e.Hook && !e.ground() }); err != nil {
		return err
	}
	if err := c.save(ctx, inv); err != nil {
		return err
	}
	if !removed && inv.Removal != PostDelete {
		if err := a.lastHooks(ctx, PostDelete); err != nil {
			return err
		}
	}
	if err := a.takeAll(ctx, data, func(e entry) bool { return e.Hook || e.ground() }); err != nil {
		return err
	}
	if len(inv.Objects) > 0 {
		inv.Set, inv.Pending, inv.Removal = "", "", ""
		return c.save(ctx, inv)
	}
	return c.forget(ctx, inv)
}

// lastHooks runs the hooks of a removal, and notes that they have: a removal that is cut
// off after that must not run them without what they need.
func (a *application) lastHooks(ctx context.Context, event Event) error {
	if err := a.hooks(ctx, event); err != nil {
		return err
	}
	a.inv.Removal = event
	return a.c.save(ctx, a.inv)
}

// ground reports whether other objects are in this one or of it, those of hooks too.
func (e entry) ground() bool {
	phase, _ := rank(e.object())
	return phase == phaseDefinition
}

// takeAll deletes the objects of the inventory that which chooses.
func (a *application) takeAll(ctx context.Context, data bool, which func(entry) bool) error {
	var leaving []departure
	for _, e := range a.inv.Objects {
		if !which(e) {
			continue
		}
		d, err := a.c.departure(ctx, e, a.p.owner, a.opts, data)
		if err != nil {
			return err
		}
		leaving = append(leaving, d)
	}
	slices.SortStableFunc(leaving, func(x, y departure) int { return compareObjects(y.object(), x.object()) })
	return a.take(ctx, leaving)
}
