package kube

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Event is a moment at which hooks run, named as in Helm's annotation
// helm.sh/hook (https://helm.sh/docs/topics/charts_hooks/).
type Event string

// The events. Rollbacks do not exist here, and tests are for people: such hooks
// are dropped.
const (
	PreInstall  Event = "pre-install"
	PostInstall Event = "post-install"
	PreUpgrade  Event = "pre-upgrade"
	PostUpgrade Event = "post-upgrade"
	PreDelete   Event = "pre-delete"
	PostDelete  Event = "post-delete"
)

const (
	hookAnnotation       = "helm.sh/hook"
	hookWeightAnnotation = "helm.sh/hook-weight"
	hookDeleteAnnotation = "helm.sh/hook-delete-policy"
)

// Hook is an object that is made at certain moments and awaited.
type Hook struct {
	Object Object
	Events []Event
	// Weight orders the hooks of one event, lowest first.
	Weight int
	// BeforeCreation deletes what an earlier run left, before the hook is made;
	// it holds where no policy is given, as in Helm. Succeeded and Failed
	// delete it afterwards.
	BeforeCreation, Succeeded, Failed bool
}

// hookOf reads the annotations of a hook. Crd-install is Helm 2's way to order
// definitions, which are ordered here by their kind.
func hookOf(o Object) (Hook, bool, error) {
	value, ok := o.GetAnnotations()[hookAnnotation]
	if !ok || strings.TrimSpace(value) == "crd-install" {
		return Hook{}, false, nil
	}
	h := Hook{Object: o}
	for _, e := range strings.Split(value, ",") {
		switch event := Event(strings.TrimSpace(e)); event {
		case PreInstall, PostInstall, PreUpgrade, PostUpgrade, PreDelete, PostDelete:
			h.Events = append(h.Events, event)
		case "pre-rollback", "post-rollback", "test", "test-success", "test-failure":
		default:
			return Hook{}, false, fmt.Errorf("%s: %q is not a hook of Helm", hookAnnotation, event)
		}
	}
	if w := o.GetAnnotations()[hookWeightAnnotation]; w != "" {
		var err error
		if h.Weight, err = strconv.Atoi(strings.TrimSpace(w)); err != nil {
			return Hook{}, false, fmt.Errorf("%s: %q is not a number", hookWeightAnnotation, w)
		}
	}
	policies := o.GetAnnotations()[hookDeleteAnnotation]
	for _, p := range strings.Split(policies, ",") {
		switch strings.TrimSpace(p) {
		case "before-hook-creation":
			h.BeforeCreation = true
		case "hook-succeeded":
			h.Succeeded = true
		case "hook-failed":
			h.Failed = true
		case "":
		default:
			return Hook{}, false, fmt.Errorf("%s: %q is not a policy of Helm", hookDeleteAnnotation, p)
		}
	}
	if policies == "" {
		h.BeforeCreation = true
	}
	return h, true, nil
}

func compareHooks(a, b Hook) int {
	return cmp.Or(cmp.Compare(a.Weight, b.Weight), compareObjects(a.Object, b.Object))
}

// hooks are the set's hooks of one event, in order.
func (s Set) hooks(event Event) []Hook {
	var out []Hook
	for _, h := range s.Hooks {
		if slices.Contains(h.Events, event) {
			out = append(out, h)
		}
	}
	return out
}
