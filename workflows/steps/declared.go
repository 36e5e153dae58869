package steps

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Declared knows which step of a run declares which object of which cluster. Two
// steps that declare one object would undo each other's work with every apply,
// and an object that one step drops because another has taken it must not be
// deleted.
type Declared struct {
	mu sync.Mutex
	by map[string]map[kube.ID]string // by server, then object: the step's address
	// answers are those of API servers while a site is observed: nil, or why
	// there was none. It is nil otherwise, because a server may come back while
	// a run works.
	answers map[string]error
}

// observe begins a time in which each API server is asked once whether it
// answers. end ends it.
func (d *Declared) observe() (end func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.answers = map[string]error{}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.answers = nil
	}
}

// reach asks the API server, unless the answer is known or nothing is observed.
func (d *Declared) reach(ctx context.Context, c *kube.Cluster) error {
	d.mu.Lock()
	err, asked := d.answers[c.Server()]
	observing := d.answers != nil
	d.mu.Unlock()
	if asked || !observing {
		return err
	}
	err = c.Reach(ctx)
	// Only the caller's own end says nothing about the server.
	var gone *kube.UnreachableError
	if err == nil || errors.As(err, &gone) {
		d.heard(c.Server(), err)
	}
	return err
}

// heard notes that a server answers, or why it does not.
func (d *Declared) heard(server string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.answers != nil {
		d.answers[server] = err
	}
}

// doubt forgets that a server answers, so that it is asked anew before it is used
// again. That one step got no answer does not make it silent: the step can have
// more objects than there was time for, wait for a file from elsewhere, or ask
// for what a broken webhook guards.
func (d *Declared) doubt(server string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.answers[server] == nil {
		delete(d.answers, server)
	}
}

// declare notes the objects of a step in place of what it declared before. The
// error names objects that another step declares too.
func (d *Declared) declare(server, address string, set kube.Set) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.by == nil {
		d.by = map[string]map[kube.ID]string{}
	}
	if d.by[server] == nil {
		d.by[server] = map[kube.ID]string{}
	}
	objects := d.by[server]
	maps.DeleteFunc(objects, func(_ kube.ID, by string) bool { return by == address })
	var errs []error
	for _, o := range set.Objects {
		id := kube.IDOf(o)
		if by, taken := objects[id]; taken {
			errs = append(errs, fmt.Errorf("%s is declared by %s too; one of the two steps must leave it out", id, by))
			continue
		}
		objects[id] = address
	}
	return errors.Join(errs...)
}

// elsewhere names the step other than address that declares an object.
func (d *Declared) elsewhere(server, address string, id kube.ID) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if by := d.by[server][id]; by != address {
		return by
	}
	return ""
}

// noAnswer reports whether an error says that a cluster may not answer: it gave
// none, or time ran out.
func noAnswer(err error) bool {
	var gone *kube.UnreachableError
	return errors.As(err, &gone) || errors.Is(err, context.DeadlineExceeded)
}

// announcer is a step that tells Declared what it declares.
type announcer interface {
	announce(ctx context.Context)
}

// announce lets every step whose inputs are known say what it declares, before
// the first one is inspected: an object that moves to a later step is otherwise
// seen as one to delete. What goes wrong here the inspection says; a cluster that
// does not answer is not asked for every step (Declared.reach).
func (r *Runner) announce(ctx context.Context, known site.Known) error {
	for _, s := range r.ordered() {
		when, diags := r.Site.StepWhen(s, known)
		if diags.HasErrors() {
			return diags
		}
		inputs, diags := r.Site.StepInputs(s, known)
		if diags.HasErrors() {
			return diags
		}
		if when.IsKnown() && !when.IsNull() && when.True() && inputs.IsWhollyKnown() {
			if step, _, err := r.make(ctx, s, inputs); err == nil {
				if a, ok := step.(announcer); ok {
					a.announce(ctx)
				}
			}
		}
		if err := r.learn(ctx, s, &known); err != nil {
			return err
		}
	}
	return nil
}
