package kube

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// comparison is one object as it is, and what Apply would do to it.
type comparison struct {
	item
	live   Object // nil when it is not there, as a Job that has ended may be
	change Change
}

// Diff compares a cluster with a set by asking the API server what an
// application would give (dry run), so that its defaults and webhooks are taken
// into account. It changes nothing. An *InvalidError is about an object that the
// server or a schema refuses, an *UnreachableError about a server that could not
// be asked. Conflicts are no error here; Diff.Conflicts makes one of them.
func (c *Cluster) Diff(ctx context.Context, set Set, opts Options) (Diff, error) {
	p, err := c.prepare(ctx, set, opts)
	if err != nil {
		return Diff{}, err
	}
	inv, err := c.inventory(ctx, opts.Owner)
	if err != nil {
		return Diff{}, err
	}
	d, _, err := c.compareAll(ctx, p, inv, opts)
	return d, err
}

// parallel bounds the requests of one comparison at a time.
const parallel = 4

func (c *Cluster) compareAll(ctx context.Context, p *prepared, inv *inventory, opts Options) (Diff, []comparison, error) {
	all := make([]comparison, len(p.items))
	errs := make([]error, len(p.items))
	changing := map[ID]bool{} // definitions of the set that are there and change
	// Definitions come first, so that what is of a changing one is known.
	begin := 0
	for _, phase := range byPhase(p.objects()) {
		var wg sync.WaitGroup
		slots := make(chan struct{}, parallel)
		for n := begin; n < begin+len(phase); n++ {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				all[n], errs[n] = c.compare(ctx, p, p.items[n], inv, opts, changing)
			})
		}
		wg.Wait()
		for n := begin; n < begin+len(phase); n++ {
			if all[n].change.Operation != None && groupKind(p.items[n].o) == crdKind {
				changing[p.items[n].id] = true
			}
		}
		begin += len(phase)
	}
	if err := errors.Join(errs...); err != nil {
		return Diff{}, nil, err
	}
	// Without hooks it does not matter how the declaration was worded.
	d := Diff{Installed: inv.Pending == "" && inv.Set != "" && (len(p.hooks) == 0 || inv.Set == p.digest)}
	for _, cmp := range all {
		if cmp.change.Operation == None {
			d.Unchanged++
			continue
		}
		d.Changes = append(d.Changes, cmp.change)
	}
	leaving, err := c.leaving(ctx, p, inv, opts)
	if err != nil {
		return Diff{}, nil, err
	}
	for _, l := range leaving {
		switch {
		case l.change.Operation == None && l.kept:
			d.Kept = append(d.Kept, l.change.ID)
		case l.change.Operation != None:
			d.Changes = append(d.Changes, l.change)
		}
	}
	return d, all, nil
}

func (p *prepared) objects() []Object {
	var out []Object
	for _, i := range p.items {
		out = append(out, i.o)
	}
	return out
}

// maxLooks bounds how often an object is looked at that others write all the
// time: then the last difference is told as it is.
const maxLooks = 3

// compare looks at one object. What it is and what an application would make of
// it are two answers of the server, and a controller that writes in between would
// show as a difference: so one is believed only while the object stays the same.
func (c *Cluster) compare(ctx context.Context, p *prepared, i item, inv *inventory, opts Options, changing map[ID]bool) (comparison, error) {
	for look := 1; ; look++ {
		out, err := c.compareOnce(ctx, p, i, inv, opts, changing)
		if err != nil || out.live == nil || len(out.change.Fields) == 0 || look == maxLooks {
			return out, err
		}
		now, err := c.get(ctx, i.r, i.id)
		switch {
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return out, err
		case now.GetResourceVersion() == out.live.GetResourceVersion():
			return out, nil
		}
	}
}

func (c *Cluster) compareOnce(ctx context.Context, p *prepared, i item, inv *inventory, opts Options, changing map[ID]bool) (comparison, error) {
	out := comparison{item: i, change: Change{ID: i.id, Operation: Create}}
	if !i.served {
		out.change.Note = "the cluster does not know its kind yet"
		if i.def != nil {
			out.change.Note = "its kind comes with " + i.def.id.String()
		}
		return out, nil
	}
	live, err := c.get(ctx, i.r, i.id)
	if errors.Is(err, ErrNotFound) && inv.spent(i) {
		out.change.Operation = None
		return out, nil
	}
	if errors.Is(err, ErrNotFound) {
		if e := inv.find(i.id); e != nil && e.UID != "" && !expires(i.o) {
			out.change.Note = "somebody deleted it"
		}
		if i.def != nil && changing[i.def.id] {
			return out, nil
		}
		return out, c.tryNew(ctx, p, i, &out.change)
	}
	if err != nil {
		return out, err
	}
	out.live = live
	if live.GetDeletionTimestamp() != nil {
		out.change.Note = "it is being deleted"
		return out, nil
	}
	out.change.Operation = None
	if err := c.claim(ctx, p, live, inv.find(i.id), opts, &out.change); err != nil {
		return out, err
	}
	desired := p.settled(i, live)
	if i.def != nil && changing[i.def.id] {
		// The server would judge by the old schema.
		out.change.Fields = append(out.change.Fields, fieldsOf(subset(live, desired), live, Declared, opts)...)
	} else {
		predicted, conflicts, err := c.try(ctx, i, desired)
		if err != nil {
			return out, err
		}
		out.change.Fields = append(out.change.Fields, classify(i, inv.find(i.id), live, predicted, conflicts, opts)...)
	}
	if len(out.change.Fields) > 0 || out.change.Note != "" {
		out.change.Operation = Update
	}
	return out, nil
}

// claim finds out whose the object is; what is not ours yet is noted, and what
// belongs to another catalog is a conflict.
func (c *Cluster) claim(ctx context.Context, p *prepared, live Object, e *entry, opts Options, change *Change) error {
	if e.unlabelled(live) {
		return nil
	}
	label := live.GetLabels()[OwnerLabel]
	switch label {
	case p.owner:
		return nil
	case "":
		change.Note = "it is there already, and is taken over"
		return nil
	}
	other, err := c.readInventory(ctx, label)
	switch {
	case errors.Is(err, ErrNotFound):
		change.Note = "it is there already, from a step that is gone, and is taken over"
	case err != nil:
		return fmt.Errorf("%s: finding out whose it is: %w", change.ID, err)
	case other.Catalog == opts.Owner.Catalog:
		change.Note = "it moves here from " + other.Address
	default:
		f := Field{
			Path: fmt.Sprintf(".metadata.labels[%q]", OwnerLabel), Old: shown(label, false), New: shown(p.owner, false), Cause: Conflict,
			Manager: fmt.Sprintf("%s of catalog %s", other.Address, other.Catalog),
		}
		if opts.Force {
			f.Cause = Taken
		}
		change.Fields = append(change.Fields, f)
	}
	return nil
}

// apply sends an object to the server.
func (c *Cluster) apply(ctx context.Context, r resource, o Object, force, dryRun bool) (Object, error) {
	body, err := json.Marshal(o.Object)
	if err != nil {
		return nil, err
	}
	options := metav1.PatchOptions{FieldManager: Manager, Force: &force, FieldValidation: metav1.FieldValidationStrict}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	return c.at(r, o.GetNamespace()).Patch(ctx, o.GetName(), types.ApplyPatchType, body, options)
}

// try asks what an application would give, and which fields others own.
func (c *Cluster) try(ctx context.Context, i item, desired Object) (predicted Object, conflicts []string, err error) {
	predicted, err = c.apply(ctx, i.r, desired, false, true)
	if paths := conflictPaths(err); paths != nil {
		conflicts = paths
		predicted, err = c.apply(ctx, i.r, desired, true, true)
	}
	return predicted, conflicts, c.refused(ctx, i, err)
}

// conflictPaths are the fields of a conflict of server-side apply.
func conflictPaths(err error) []string {
	var status *apierrors.StatusError
	if !errors.As(err, &status) || status.ErrStatus.Details == nil || !apierrors.IsConflict(err) {
		return nil
	}
	var out []string
	for _, cause := range status.ErrStatus.Details.Causes {
		if cause.Type == metav1.CauseTypeFieldManagerConflict && !slices.Contains(out, cause.Field) {
			out = append(out, cause.Field)
		}
	}
	return out
}

// goValue is how the server's messages write a value.
var goValue = regexp.MustCompile(`&value\.valueUnstructured\{Value:(.*?)\}`)

// strangeField is how the server says that it does not know a field; nothing in
// it is a value.
var strangeField = regexp.MustCompile(`(\.[A-Za-z0-9_.-]+): field not declared in schema`)

// refused puts the server's refusal of an object into an InvalidError.
func (c *Cluster) refused(ctx context.Context, i item, err error) error {
	var status *apierrors.StatusError
	about := errors.As(err, &status) &&
		(apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || saysUnfit(status.ErrStatus.Message))
	if !about {
		return c.asked(ctx, "applying "+i.id.String(), err)
	}
	e := &InvalidError{ID: i.id}
	if d := status.ErrStatus.Details; d != nil {
		for _, cause := range d.Causes {
			if i.withheld {
				cause.Message = string(cause.Type)
			}
			if cause.Field == "<nil>" { // a rule about the whole object
				cause.Field = ""
			}
			e.Problems = append(e.Problems, strings.TrimPrefix(cause.Field+": "+cause.Message, ": "))
		}
	}
	if len(e.Problems) == 0 {
		e.Problems = []string{shorten(goValue.ReplaceAllString(status.ErrStatus.Message, "$1"))}
		if i.withheld {
			e.Problems = []string{"the server refuses it; what it says is not shown, because it may repeat values that are secret"}
			if m := strangeField.FindStringSubmatch(status.ErrStatus.Message); m != nil {
				e.Problems = []string{m[1] + ": there is no such field"}
			}
		}
	}
	return e
}

// tryNew lets the server check an object that is not there. Where its namespace
// is not there either, it is checked in the namespace default.
func (c *Cluster) tryNew(ctx context.Context, p *prepared, i item, change *Change) error {
	_, err := c.apply(ctx, i.r, i.o, false, true)
	if err == nil || strings.Contains(err.Error(), "does not support dry run") {
		return nil
	}
	if !apierrors.IsNotFound(err) || !i.r.namespaced {
		return c.refused(ctx, i, err)
	}
	declared := slices.ContainsFunc(p.items, func(o item) bool { return o.id == ID{Kind: "Namespace", Name: i.id.Namespace} })
	if !declared {
		change.Note = fmt.Sprintf("its namespace %s is not there yet", i.id.Namespace)
	}
	elsewhere := i
	elsewhere.o = i.o.DeepCopy()
	elsewhere.o.SetNamespace("default")
	if _, err := c.get(ctx, i.r, IDOf(elsewhere.o)); !errors.Is(err, ErrNotFound) {
		return err
	}
	_, err = c.apply(ctx, i.r, elsewhere.o, false, true)
	var invalid *InvalidError
	if errors.As(c.refused(ctx, i, err), &invalid) {
		return invalid
	}
	return nil // policies of the namespace default say nothing about the other
}

// classify says of each difference why it is one.
func classify(i item, e *entry, live, predicted Object, conflicts []string, opts Options) []Field {
	found := differences(live, predicted)
	found = slices.DeleteFunc(found, ownership)
	if len(found) == 0 && len(conflicts) == 0 {
		return nil
	}
	all := writers(live)
	applied := record{}
	if e != nil {
		applied = readRecord(e.Fields)
	}
	var out []Field
	for _, path := range conflicts {
		f := Field{Path: path, Old: "(unknown)", New: "(unknown)", Cause: Conflict}
		if _, ours := applied[path]; ours || ownedBy(all, path) {
			f.Cause = Drift
		} else if opts.Force {
			f.Cause = Taken
		}
		w, p := writerOf(all, path)
		if p != nil {
			f.Manager, f.Time = w.manager, w.time
			_, old := resolve(live, p)
			place, now := resolve(predicted, p)
			withheld := opts.Sensitive || isSecret(live, path)
			f.Old, f.New = shown(old, withheld), shown(now, withheld)
			found = slices.DeleteFunc(found, func(d difference) bool { return within(d.place, place) })
		}
		out = append(out, f)
	}
	cause := Declared
	if e != nil && e.Digest != "" && e.Digest == digestOf(i.o) {
		cause = Drift
	}
	rest := fieldsOf(found, live, cause, opts)
	if cause == Drift {
		last := lastOther(all)
		for n := range rest {
			rest[n].Manager, rest[n].Time = last.manager, last.time
		}
	}
	return append(out, rest...)
}

// ownership reports whether a difference is our label alone, of which claim tells.
func ownership(d difference) bool {
	if slices.Equal(d.place, []string{"metadata", "labels"}) && d.old == nil {
		labels, _ := d.new.(map[string]any)
		return len(labels) == 1 && labels[OwnerLabel] != nil
	}
	return slices.Equal(d.place, []string{"metadata", "labels", OwnerLabel})
}

func fieldsOf(found []difference, live Object, cause Cause, opts Options) []Field {
	var out []Field
	for _, d := range found {
		withheld := opts.Sensitive || isSecret(live, d.path)
		out = append(out, Field{Path: d.path, Old: shown(d.old, withheld), New: shown(d.new, withheld), Cause: cause})
	}
	return out
}

// ownedBy reports whether we own the field now.
func ownedBy(all []writer, path string) bool {
	for _, w := range all {
		if w.ours() {
			if _, ok := recordOf(w.fields)[path]; ok {
				return true
			}
		}
	}
	return false
}

// writerOf finds the other manager that owns a field.
func writerOf(all []writer, path string) (writer, fieldpath.Path) {
	for _, w := range all {
		if w.ours() {
			continue
		}
		if p, ok := recordOf(w.fields)[path]; ok {
			return w, p
		}
	}
	return writer{}, nil
}

// subset are the places at which live lacks what is declared, by plain
// comparison.
func subset(live, declared Object) []difference {
	all := differences(live, declared)
	return slices.DeleteFunc(all, func(d difference) bool { return d.new == nil })
}
