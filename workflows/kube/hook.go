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

// hookOf reads the annotations of a hook as Helm does (pkg/release/v1/util,
// manifest_sorter.go): in any case, a weight that is no number is 0, a policy that it does
// not know says nothing, and an object with an event that it does not know is not made at
// all, which odd says. Crd-install is Helm 2's way to order definitions, which are ordered here by their
// kind.
func hookOf(o Object) (h Hook, isHook bool, odd string) {
	value, ok := o.GetAnnotations()[hookAnnotation]
	if !ok || words(value)[0] == "crd-install" {
		return Hook{}, false, ""
	}
	h.Object = o
	for _, word := range words(value) {
		switch event := Event(word); event {
		case PreInstall, PostInstall, PreUpgrade, PostUpgrade, PreDelete, PostDelete:
			h.Events = append(h.Events, event)
		case "pre-rollback", "post-rollback", "test", "test-success":
		default:
			return Hook{Object: o}, true, fmt.Sprintf("%s is left out, as Helm does: %q is no event of its hooks", IDOf(o), event)
		}
	}
	if weight, err := strconv.Atoi(o.GetAnnotations()[hookWeightAnnotation]); err == nil {
		h.Weight = weight
	}
	policies := o.GetAnnotations()[hookDeleteAnnotation]
	for _, policy := range words(policies) {
		switch policy {
		case "before-hook-creation":
			h.BeforeCreation = true
		case "hook-succeeded":
			h.Succeeded = true
		case "hook-failed":
			h.Failed = true
		}
	}
	if policies == "" {
		h.BeforeCreation = true
	}
	return h, true, ""
}

// OddHooks says for a person which of some objects NewSet leaves out, because they are
// hooks of events that nobody knows.
func OddHooks(objects []Object) []string {
	var out []string
	for _, o := range objects {
		if _, _, odd := hookOf(o); odd != "" {
			out = append(out, odd)
		}
	}
	return out
}

// words are those of an annotation, apart by commas; one at least.
func words(annotation string) []string {
	var out []string
	for word := range strings.SplitSeq(annotation, ",") {
		out = append(out, strings.ToLower(strings.TrimSpace(word)))
	}
	return out
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
