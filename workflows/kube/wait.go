package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// NotReadyError says which object does not work, and what the cluster tells of
// it.
type NotReadyError struct {
	ID ID
	// Reason is what was seen last.
	Reason string
	// Waited is how long; Failed says that waiting longer was idle.
	Waited time.Duration
	Failed bool
	// Hints are its newest events and the trouble of its pods.
	Hints []string
}

func (e *NotReadyError) Error() string {
	s := fmt.Sprintf("%s is not ready after %s: %s", e.ID, e.Waited.Round(time.Second), e.Reason)
	if e.Failed {
		s = fmt.Sprintf("%s failed: %s", e.ID, e.Reason)
	}
	if len(e.Hints) > 0 {
		s += "\n  " + strings.Join(e.Hints, "\n  ")
	}
	return s
}

// WaitFor looks at an object until done says yes or that it failed, for as long as
// bound, and once at least. An object that is not there yet is waited for as well.
func (c *Cluster) WaitFor(ctx context.Context, apiVersion, kind, namespace, name string, bound time.Duration, done func(Object) (Status, error)) (Object, error) {
	r, err := c.kind(ctx, apiVersion, kind)
	if err != nil {
		return nil, err
	}
	return c.waitFor(ctx, r, ID{Group: r.gvr.Group, Kind: kind, Namespace: namespace, Name: name}, bound, notThere, done)
}

// notThere is how far an object has come that is not there.
var notThere = Status{Reason: "it is not there"}

var errBound = errors.New("the time for it is over")

// waitFor is WaitFor for an object of a known kind; absent is how far it has come where
// it is not there.
func (c *Cluster) waitFor(ctx context.Context, r resource, id ID, bound time.Duration, absent Status, done func(Object) (Status, error)) (Object, error) {
	began := c.config.Clock.Now()
	bounded, cancel := context.WithTimeoutCause(ctx, bound, errBound)
	defer cancel()
	last := Status{Reason: "it was never seen"}
	var o Object
	// The first look has the time that any request has: of objects that share one
	// bound the last may work although the others have used it up.
	for look := ctx; ; look = bounded {
		there, err := c.get(look, r, id)
		switch {
		case errors.Is(err, ErrNotFound):
			last = absent
		case err != nil && look.Err() != nil:
		case err != nil:
			return nil, err
		default:
			o = there
			if last, err = done(o); err != nil {
				return o, fmt.Errorf("%s: %w", id, err)
			}
		}
		if last.Done {
			return o, nil
		}
		if last.Failed || c.sleep(bounded) != nil {
			if ctx.Err() != nil {
				return o, fmt.Errorf("waiting for %s: %w; seen last: %s", id, context.Cause(ctx), last.Reason)
			}
			e := &NotReadyError{ID: id, Reason: last.Reason, Waited: c.config.Clock.Now().Sub(began), Failed: last.Failed}
			if o != nil {
				e.Hints = c.hints(ctx, o)
			}
			return o, e
		}
	}
}

// Wait waits until all objects of the set work, as Ready tells.
func (c *Cluster) Wait(ctx context.Context, set Set, opts Options) error {
	p, err := c.prepare(ctx, set, opts)
	if err != nil {
		return err
	}
	inv := &inventory{}
	if slices.ContainsFunc(p.items, func(i item) bool { return expires(i.o) }) {
		if inv, err = c.inventory(ctx, opts.Owner); err != nil {
			return err
		}
	}
	return c.waitReady(ctx, p.items, inv, opts)
}

// waitReady waits for objects one after the other under one bound: they come up
// side by side meanwhile. The inventory tells which have been applied.
func (c *Cluster) waitReady(ctx context.Context, items []item, inv *inventory, opts Options) error {
	deadline := c.config.Clock.Now().Add(opts.wait())
	for _, i := range items {
		if !hasStatus(i.id) {
			continue
		}
		if i.id.groupKind() == claimKind {
			late, err := c.bindsLate(ctx, i.o)
			if err != nil {
				return err
			}
			if late {
				continue
			}
		}
		left := max(deadline.Sub(c.config.Clock.Now()), c.config.PollInterval)
		told, before, looked := "", "", false
		absent := notThere
		if inv.spent(i) {
			absent = Status{Done: true}
		}
		_, err := c.waitFor(ctx, i.r, i.id, left, absent, func(o Object) (Status, error) {
			s := Ready(o)
			// A Deployment that was given up before this wait may work now, because an
			// image or a node has come: Kubernetes goes on with it, and says that it was
			// given up until all of it works.
			if !looked && s.Failed && i.id.Kind == "Deployment" {
				before = s.Reason
			}
			looked = true
			s.Failed = s.Failed && s.Reason != before
			if !s.Done && s.Reason != told {
				told = s.Reason
				opts.say("waiting for %s: %s", i.id, s.Reason)
			}
			return s, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// expires reports whether an object is a Job that Kubernetes removes some time after its
// end (https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/).
func expires(o Object) bool {
	ttl, _, _ := unstructured.NestedFieldNoCopy(o.Object, "spec", "ttlSecondsAfterFinished")
	return ttl != nil && groupKind(o) == schema.GroupKind{Group: "batch", Kind: "Job"}
}

// spent reports whether an object is, as it is declared, a Job that was applied and may
// have gone since, because it has ended.
func (i *inventory) spent(it item) bool {
	e := i.find(it.id)
	return e != nil && expires(it.o) && e.UID != "" && e.Digest == digestOf(it.o)
}

var claimKind = schema.GroupKind{Kind: "PersistentVolumeClaim"}

// hasStatus reports whether the kind can be anything but ready.
func hasStatus(id ID) bool {
	switch id.groupKind() {
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}, schema.GroupKind{Group: "apps", Kind: "StatefulSet"},
		schema.GroupKind{Group: "apps", Kind: "DaemonSet"}, schema.GroupKind{Group: "apps", Kind: "ReplicaSet"},
		schema.GroupKind{Kind: "ReplicationController"}, schema.GroupKind{Group: "batch", Kind: "Job"}, schema.GroupKind{Kind: "Pod"},
		claimKind, namespaceKind, crdKind, schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		return true
	}
	return !builtin(id.Group)
}

// bindsLate reports whether a claim waits for the first pod that uses it, as its
// class says, so that waiting for it could be for ever.
func (c *Cluster) bindsLate(ctx context.Context, claim Object) (bool, error) {
	classes := resource{schema.GroupVersionResource{Group: "storage.k8s.io", Version: "v1", Resource: "storageclasses"}, false}
	name, declared, _ := unstructured.NestedString(claim.Object, "spec", "storageClassName")
	if declared && name == "" {
		return false, nil
	}
	all, err := c.list(ctx, classes, "StorageClass", "", metav1.ListOptions{})
	if err != nil {
		return false, err
	}
	for _, class := range all {
		if class.GetName() == name || !declared && class.GetAnnotations()["storageclass.kubernetes.io/is-default-class"] == "true" {
			return str(class, "volumeBindingMode") == "WaitForFirstConsumer", nil
		}
	}
	return false, nil
}

const (
	maxHints   = 6
	hintsBound = 10 * time.Second
)

// hints are what the cluster tells of an object that does not work. They are
// taken when something failed already, so that no error comes of them.
func (c *Cluster) hints(ctx context.Context, o Object) []string {
	ctx, cancel := context.WithTimeoutCause(ctx, hintsBound, errBound)
	defer cancel()
	var out []string
	for _, cond := range conditions(o) {
		if cond.status != "True" || strings.Contains(cond.kind, "Fail") {
			out = append(out, "condition "+cond.String())
		}
	}
	out = append(out, c.events(ctx, o)...)
	for _, pod := range c.podsOf(ctx, o) {
		if s := podReady(pod); !s.Done {
			out = append(out, fmt.Sprintf("%s: %s", IDOf(pod), s.Reason))
			out = append(out, c.events(ctx, pod)...)
			out = append(out, c.logTail(ctx, pod)...)
		}
		if len(out) >= maxHints {
			break
		}
	}
	return out[:min(len(out), maxHints)]
}

// events are the newest warnings about an object.
func (c *Cluster) events(ctx context.Context, o Object) []string {
	r := resource{schema.GroupVersionResource{Version: "v1", Resource: "events"}, true}
	namespace := cmp.Or(o.GetNamespace(), "default")
	all, err := c.list(ctx, r, "Event", namespace, metav1.ListOptions{
		FieldSelector: "type=Warning,involvedObject.uid=" + string(o.GetUID()),
	})
	if err != nil {
		return nil
	}
	slices.SortFunc(all, func(a, b Object) int { return cmp.Compare(str(b, "lastTimestamp"), str(a, "lastTimestamp")) })
	var out []string
	for _, e := range all[:min(len(all), 2)] {
		out = append(out, fmt.Sprintf("event of %s: %s: %s", IDOf(o), str(e, "reason"), shorten(str(e, "message"))))
	}
	return out
}

// podsOf are the pods that a workload selects.
func (c *Cluster) podsOf(ctx context.Context, o Object) []Object {
	selector, _, _ := unstructured.NestedStringMap(o.Object, "spec", "selector", "matchLabels")
	if len(selector) == 0 {
		return nil
	}
	r := resource{schema.GroupVersionResource{Version: "v1", Resource: "pods"}, true}
	pods, err := c.list(ctx, r, "Pod", o.GetNamespace(), metav1.ListOptions{LabelSelector: labels.SelectorFromSet(selector).String()})
	if err != nil {
		return nil
	}
	return pods
}

// logTail is the last lines of a failed pod's log.
func (c *Cluster) logTail(ctx context.Context, pod Object) []string {
	if str(pod, "status", "phase") != "Failed" {
		return nil
	}
	body, err := c.raw(ctx, fmt.Sprintf("/api/v1/namespaces/%s/pods/%s/log", pod.GetNamespace(), pod.GetName()), url.Values{"tailLines": {"3"}})
	if err != nil || len(body) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("log of %s: %s", IDOf(pod), shorten(string(body)))}
}
