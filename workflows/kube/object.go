package kube

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Object is one Kubernetes object as it is declared or as the API server told.
type Object = *unstructured.Unstructured

// ID names one object in a cluster, whatever version of its API is used. It is
// comparable.
type ID struct {
	Group     string `json:"group,omitempty"`
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"` // empty for what has none
	Name      string `json:"name"`
}

// IDOf is the ID of o as it stands; before namespaces are injected that can lack
// one.
func IDOf(o Object) ID {
	gk := o.GroupVersionKind().GroupKind()
	return ID{Group: gk.Group, Kind: gk.Kind, Namespace: o.GetNamespace(), Name: o.GetName()}
}

// String is how a person and `prune_data` name the object: KIND/NAME or
// KIND/NAMESPACE/NAME.
func (id ID) String() string {
	if id.Namespace == "" {
		return id.Kind + "/" + id.Name
	}
	return id.Kind + "/" + id.Namespace + "/" + id.Name
}

func (id ID) groupKind() schema.GroupKind { return schema.GroupKind{Group: id.Group, Kind: id.Kind} }

// holdsData reports whether deleting such an object can destroy what no new run
// brings back: a namespace takes everything in it along, a definition all
// objects of its kind, and a volume its content.
func (id ID) holdsData() bool {
	switch id.groupKind() {
	case schema.GroupKind{Kind: "Namespace"}, schema.GroupKind{Kind: "PersistentVolume"},
		schema.GroupKind{Kind: "PersistentVolumeClaim"}, crdKind:
		return true
	}
	return false
}

var (
	crdKind       = schema.GroupKind{Group: "apiextensions.k8s.io", Kind: "CustomResourceDefinition"}
	namespaceKind = schema.GroupKind{Kind: "Namespace"}
	secretKind    = schema.GroupKind{Kind: "Secret"}
)

func groupKind(o Object) schema.GroupKind { return o.GroupVersionKind().GroupKind() }

// Set is the objects that one step declares, in the order in which they are
// applied, and the hooks of the charts among them.
type Set struct {
	Objects []Object
	Hooks   []Hook
}

// NewSet sorts objects into a set: hooks apart, namespaces and definitions
// first. It refuses what is not an object and what is declared twice. The
// objects belong to the set from then on.
func NewSet(objects ...Object) (Set, error) {
	var s Set
	var errs []error
	for i, o := range objects {
		if err := wellFormed(o); err != nil {
			errs = append(errs, fmt.Errorf("object %d: %w", i+1, err))
			continue
		}
		hook, isHook, _ := hookOf(o)
		if !isHook {
			s.Objects = append(s.Objects, o)
		} else if len(hook.Events) > 0 {
			s.Hooks = append(s.Hooks, hook)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Set{}, err
	}
	if err := s.unique(); err != nil {
		return Set{}, err
	}
	s.sort()
	return s, nil
}

// Join makes one set of several.
func Join(sets ...Set) (Set, error) {
	var out Set
	for _, s := range sets {
		out.Objects = append(out.Objects, s.Objects...)
		out.Hooks = append(out.Hooks, s.Hooks...)
	}
	if err := out.unique(); err != nil {
		return Set{}, err
	}
	out.sort()
	return out, nil
}

func (s *Set) sort() {
	slices.SortStableFunc(s.Objects, compareObjects)
	slices.SortStableFunc(s.Hooks, compareHooks)
}

// unique refuses objects that are declared twice: the second would silently
// replace the first.
func (s *Set) unique() error {
	seen := map[ID]bool{}
	var errs []error
	for _, o := range s.Objects {
		id := IDOf(o)
		if seen[id] {
			errs = append(errs, fmt.Errorf("%s is declared twice in one step; remove one of the two", id))
		}
		seen[id] = true
	}
	return errors.Join(errs...)
}

// wellFormed says what keeps o from being an object that can be applied.
func wellFormed(o Object) error {
	if o == nil || o.Object == nil {
		return errors.New("it is empty")
	}
	for _, field := range []string{"apiVersion", "kind"} {
		if v, ok := o.Object[field].(string); !ok || v == "" {
			return fmt.Errorf("it has no %s; it is not a Kubernetes object", field)
		}
	}
	if _, err := schema.ParseGroupVersion(o.GetAPIVersion()); err != nil {
		return fmt.Errorf("apiVersion: %w", err)
	}
	meta, ok := o.Object["metadata"].(map[string]any)
	if !ok {
		return fmt.Errorf("%s: it has no metadata", o.GetKind())
	}
	name, ok := meta["name"].(string)
	switch {
	case !ok && meta["generateName"] != nil:
		return fmt.Errorf("%s: generateName makes another object each time; give it a name", o.GetKind())
	case !ok || name == "":
		return fmt.Errorf("%s: it has no metadata.name", o.GetKind())
	case len(name) > 253 || strings.ContainsAny(name, "/%") || name == "." || name == "..":
		return fmt.Errorf("%s: %.80q is no name of an object", o.GetKind(), name)
	}
	if ns, there := meta["namespace"]; there {
		if s, ok := ns.(string); !ok || len(s) > 63 || strings.ContainsAny(s, "/%.") {
			return fmt.Errorf("%s/%s: metadata.namespace %.80q is no name of a namespace", o.GetKind(), name, fmt.Sprint(ns))
		}
	}
	for _, field := range []string{"labels", "annotations"} {
		if err := stringMap(meta[field]); err != nil {
			return fmt.Errorf("%s/%s: metadata.%s%w", o.GetKind(), name, field, err)
		}
	}
	return nil
}

// stringMap refuses maps with values that are no strings, a frequent slip in
// YAML ("on", 1) that the server would answer with a riddle.
func stringMap(v any) error {
	if v == nil {
		return nil
	}
	m, ok := v.(map[string]any)
	if !ok {
		return errors.New(" is not a map")
	}
	for k, e := range m {
		if _, ok := e.(string); !ok {
			return fmt.Errorf("[%q] is %v, not a string; put it in quotes", k, e)
		}
	}
	return nil
}

// copySet is a set that can be changed without changing s.
func (s Set) copySet() Set {
	out := Set{Hooks: slices.Clone(s.Hooks)}
	for _, o := range s.Objects {
		out.Objects = append(out.Objects, o.DeepCopy())
	}
	for i := range out.Hooks {
		out.Hooks[i].Object = out.Hooks[i].Object.DeepCopy()
	}
	return out
}

// Digest names the content of the set; equal declarations have equal digests.
func (s Set) Digest() string {
	h := sha256.New()
	for _, o := range s.Objects {
		h.Write([]byte(digestOf(o)))
	}
	for _, hook := range s.Hooks {
		h.Write([]byte(digestOf(hook.Object)))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// digestOf is the digest of one object's declaration.
func digestOf(o Object) string {
	// Maps are marshalled with sorted keys. A value that JSON cannot hold does
	// not come out of a parser; such an object is refused when it is sent.
	b, err := json.Marshal(o.Object)
	if err != nil {
		b = fmt.Append(nil, o.Object)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// sortedKeys are the keys of m in order.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
