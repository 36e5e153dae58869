package kube

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
)

// item is one object of a set with all that is known of its kind.
type item struct {
	o  Object
	id ID
	r  resource
	// served is whether the cluster knows the kind now. If not, r is from def,
	// or empty when the definition is nowhere to be seen.
	served bool
	def    *definition
	// withheld keeps its values out of lines and errors.
	withheld bool
}

// prepared is a set that was checked as far as it can be without its objects in
// the cluster.
type prepared struct {
	items   []item
	hooks   []Hook
	defs    definitions // of the set itself
	ignored []ignored
	owner   string
	digest  string
}

// Resolve checks a set against the kinds that the cluster and the set know,
// gives namespaces to what needs one, and labels the objects. It changes nothing
// in the cluster, nor in set.
func (c *Cluster) Resolve(ctx context.Context, set Set, opts Options) (Set, error) {
	p, err := c.prepare(ctx, set, opts)
	if err != nil {
		return Set{}, err
	}
	out := Set{Hooks: p.hooks}
	for _, i := range p.items {
		out.Objects = append(out.Objects, i.o)
	}
	return out, nil
}

func (c *Cluster) prepare(ctx context.Context, set Set, opts Options) (*prepared, error) {
	set = set.copySet()
	p := &prepared{owner: opts.Owner.Label(), hooks: set.Hooks}
	var errs []error
	for _, s := range opts.IgnoreFields {
		i, err := parseIgnored(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("ignore_fields: %w", err))
			continue
		}
		p.ignored = append(p.ignored, i)
	}
	var err error
	if p.defs, err = define(set.Objects); err != nil {
		errs = append(errs, err)
	}
	all, err := define(opts.Definitions)
	if err != nil {
		errs = append(errs, err)
	}
	all.add(p.defs)
	for _, o := range set.Objects {
		i, err := c.place(ctx, o, all, opts, p.owner)
		var unreachable *UnreachableError
		if errors.As(err, &unreachable) || ctx.Err() != nil {
			return nil, err
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.items = append(p.items, i)
	}
	for _, h := range p.hooks {
		if _, err := c.place(ctx, h.Object, all, opts, p.owner); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	out := Set{Hooks: p.hooks}
	for _, i := range p.items {
		out.Objects = append(out.Objects, i.o)
	}
	p.digest = out.Digest()
	// Two objects can become one when both get the default namespace.
	return p, out.unique()
}

// place finds out how an object is addressed, completes it, and checks it
// against its definition where that is at hand.
func (c *Cluster) place(ctx context.Context, o Object, all definitions, opts Options, owner string) (item, error) {
	i := item{o: o, def: all[groupKind(o)], withheld: opts.Sensitive || groupKind(o) == secretKind}
	r, err := c.lookup(ctx, o.GroupVersionKind())
	var unknown *UnknownKindError
	switch {
	case err == nil:
		i.r, i.served = r, true
	case !errors.As(err, &unknown):
		return i, err
	case i.def != nil:
		if i.r, err = i.def.resource(o.GroupVersionKind().Version); err != nil {
			return i, fmt.Errorf("%s: %w", IDOf(o), err)
		}
	case len(unknown.Versions) > 0 && builtin(groupKind(o).Group):
		return i, fmt.Errorf("%s: %w", IDOf(o), err)
	}
	if i.r.gvr.Resource != "" {
		if !i.r.namespaced {
			o.SetNamespace("")
		} else if o.GetNamespace() == "" {
			o.SetNamespace(cmp.Or(opts.Namespace, "default"))
		}
	}
	// What `kubectl get -o yaml` prints has fields that only the server sets.
	meta, _ := o.Object["metadata"].(map[string]any)
	for _, field := range serverFields {
		delete(meta, field)
	}
	if groupKind(o) == secretKind {
		encode(o.Object)
	}
	labels := o.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels[OwnerLabel] = owner
	o.SetLabels(labels)
	i.id = IDOf(o)
	if i.def != nil {
		return i, i.def.check(o, opts.Sensitive)
	}
	return i, nil
}

// encode moves stringData of a Secret into its data, as the server does when it writes
// it. The server only ever adds what is in stringData: a key that is left out of it would
// stay in data for good (https://kubernetes.io/docs/concepts/configuration/secret/). What
// is of another type is left for the server to refuse.
func encode(secret map[string]any) {
	written, ok := secret["stringData"].(map[string]any)
	if !ok || stringMap(secret["stringData"]) != nil {
		return
	}
	data, ok := secret["data"].(map[string]any)
	if !ok && secret["data"] != nil {
		return
	}
	if data == nil {
		data = map[string]any{}
	}
	for k, v := range written {
		data[k] = base64.StdEncoding.EncodeToString([]byte(v.(string)))
	}
	secret["data"] = data
	delete(secret, "stringData")
}

// known asks again for a kind that was not served before.
func (c *Cluster) known(ctx context.Context, i item, opts Options) (item, error) {
	if i.served {
		return i, nil
	}
	r, err := c.lookup(ctx, i.o.GroupVersionKind())
	if err != nil {
		return i, fmt.Errorf("%s: %w", i.id, err)
	}
	i.r, i.served = r, true
	if r.namespaced && i.o.GetNamespace() == "" {
		i.o.SetNamespace(cmp.Or(opts.Namespace, "default"))
		i.id = IDOf(i.o)
	}
	return i, nil
}

// settled is the object as it is sent: fields that are ignored have the values
// that they have in live.
func (p *prepared) settled(i item, live Object) Object {
	o := i.o.DeepCopy()
	for _, ign := range p.ignored {
		if ign.applies(i.id) {
			ign.settle(o.Object, live.Object)
		}
	}
	return o
}
