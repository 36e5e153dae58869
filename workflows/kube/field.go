package kube

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// difference is one place at which two objects differ.
type difference struct {
	path string // for a person: .spec.containers[name="web"].image
	// place is the same with plain indices, for comparison with other places.
	place    []string
	old, new any // nil when absent
}

// serverFields are set by the server at each write and say nothing.
var serverFields = []string{"managedFields", "resourceVersion", "generation", "uid", "creationTimestamp", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"}

// differences are the places at which now is not as old, but for what the server
// keeps by itself.
func differences(old, now Object) []difference {
	strip := func(o Object) map[string]any {
		m := map[string]any{}
		for k, v := range o.Object {
			if k != "status" {
				m[k] = v
			}
		}
		if meta, ok := m["metadata"].(map[string]any); ok {
			clean := map[string]any{}
			for k, v := range meta {
				if !slices.Contains(serverFields, k) {
					clean[k] = v
				}
			}
			m["metadata"] = clean
		}
		return m
	}
	var w walk
	w.compare("", nil, strip(old), strip(now))
	return w.found
}

type walk struct{ found []difference }

func (w *walk) compare(path string, place []string, old, now any) {
	switch o := old.(type) {
	case map[string]any:
		if n, ok := now.(map[string]any); ok {
			w.maps(path, place, o, n)
			return
		}
	case []any:
		if n, ok := now.([]any); ok && objectsOnly(o) && objectsOnly(n) && len(o)+len(n) > 0 {
			w.lists(path, place, o, n)
			return
		}
	}
	if !equalValues(old, now) {
		w.found = append(w.found, difference{path, slices.Clone(place), old, now})
	}
}

func (w *walk) maps(path string, place []string, old, now map[string]any) {
	keys := map[string]bool{}
	for k := range old {
		keys[k] = true
	}
	for k := range now {
		keys[k] = true
	}
	for _, k := range sortedKeys(keys) {
		name := "." + k
		if strings.ContainsAny(k, "./[]") {
			name = fmt.Sprintf("[%q]", k)
		}
		w.compare(path+name, append(place, k), old[k], now[k])
	}
}

// lists compares lists of objects by their names where each has one, else by
// index.
func (w *walk) lists(path string, place []string, old, now []any) {
	oldNames, okOld := names(old)
	newNames, okNew := names(now)
	if !okOld || !okNew {
		for i := range max(len(old), len(now)) {
			w.compare(fmt.Sprintf("%s[%d]", path, i), append(place, "#"+strconv.Itoa(i)), at(old, i), at(now, i))
		}
		return
	}
	for i, name := range newNames {
		w.compare(fmt.Sprintf("%s[name=%q]", path, name), append(place, "#"+strconv.Itoa(i)), at(old, slices.Index(oldNames, name)), now[i])
	}
	for i, name := range oldNames {
		if !slices.Contains(newNames, name) {
			w.compare(fmt.Sprintf("%s[name=%q]", path, name), append(place, "#old"+strconv.Itoa(i)), old[i], nil)
		}
	}
}

func at(list []any, i int) any {
	if i < 0 || i >= len(list) {
		return nil
	}
	return list[i]
}

func objectsOnly(list []any) bool {
	return !slices.ContainsFunc(list, func(e any) bool { _, ok := e.(map[string]any); return !ok })
}

// names are the names of all items, if they have different ones.
func names(list []any) ([]string, bool) {
	var out []string
	for _, e := range list {
		name, ok := e.(map[string]any)["name"].(string)
		if !ok || slices.Contains(out, name) {
			return nil, false
		}
		out = append(out, name)
	}
	return out, true
}

func equalValues(a, b any) bool {
	if reflect.DeepEqual(a, b) {
		return true
	}
	// 1 and 1.0 are one number in JSON.
	x, okX := number(a)
	y, okY := number(b)
	return okX && okY && x == y
}

func number(v any) (float64, bool) {
	switch n := v.(type) {
	case int64:
		return float64(n), true
	case float64:
		return n, true
	}
	return 0, false
}

// maxShownBytes bounds a value in a line.
const maxShownBytes = 120

// shown is a value for a person.
func shown(v any, withheld bool) string {
	if v == nil {
		return "(absent)"
	}
	if withheld {
		return "(sensitive)"
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return "(unreadable)"
	}
	s := strings.TrimSpace(b.String())
	if len(s) > maxShownBytes {
		s = strings.ToValidUTF8(s[:maxShownBytes], "") + fmt.Sprintf("… (%d bytes)", len(s))
	}
	return s
}

// isSecret reports whether values at a path of the object are withheld. The
// annotation of `kubectl apply` repeats the whole object.
func isSecret(o Object, path string) bool {
	if groupKind(o) != secretKind {
		return false
	}
	return !strings.HasPrefix(path, ".metadata.") && path != ".type" && path != ".immutable" ||
		strings.HasPrefix(path, ".metadata.annotations")
}

// writer is one entry of metadata.managedFields.
type writer struct {
	manager string
	time    time.Time
	apply   bool // by server-side apply, and not by an update
	fields  *fieldpath.Set
}

// writers are those who wrote an object's fields but for its status.
func writers(o Object) []writer {
	var out []writer
	for _, e := range o.GetManagedFields() {
		if e.Subresource == "status" || e.FieldsV1 == nil {
			continue
		}
		set := &fieldpath.Set{}
		if set.FromJSON(bytes.NewReader(e.FieldsV1.GetRawBytes())) != nil {
			continue
		}
		w := writer{manager: e.Manager, apply: e.Operation == metav1.ManagedFieldsOperationApply, fields: set}
		if e.Time != nil {
			w.time = e.Time.Time
		}
		out = append(out, w)
	}
	return out
}

func (w writer) ours() bool { return w.manager == Manager && w.apply }

// lastOther is who of the others wrote last.
func lastOther(all []writer) (last writer) {
	for _, w := range all {
		if !w.ours() && w.time.After(last.time) {
			last = w
		}
	}
	return last
}

// owned is the set of fields, in the words of the API server, that we own in o
// by server-side apply; nil when none.
func owned(o Object) json.RawMessage {
	for _, e := range o.GetManagedFields() {
		if e.Manager == Manager && e.Operation == metav1.ManagedFieldsOperationApply && e.Subresource == "" && e.FieldsV1 != nil {
			return json.RawMessage(e.FieldsV1.GetRawBytes())
		}
	}
	return nil
}

// record is a set of fields that can be asked by the paths that the server
// prints.
type record map[string]fieldpath.Path

func recordOf(set *fieldpath.Set) record {
	r := record{}
	if set != nil {
		set.Iterate(func(p fieldpath.Path) { r[p.String()] = p.Copy() })
	}
	return r
}

func readRecord(raw json.RawMessage) record {
	set := &fieldpath.Set{}
	if len(raw) == 0 || set.FromJSON(bytes.NewReader(raw)) != nil {
		return record{}
	}
	return recordOf(set)
}

// resolve follows a path of the server into an object: the place with plain
// indices and the value, which is nil when there is none.
func resolve(o Object, path fieldpath.Path) (place []string, found any) {
	var v any = o.Object
	for _, e := range path {
		switch {
		case e.FieldName != nil:
			m, _ := v.(map[string]any)
			v = m[*e.FieldName]
			place = append(place, *e.FieldName)
		default:
			list, _ := v.([]any)
			i := slices.IndexFunc(list, func(item any) bool { return selects(e, item) })
			if e.Index != nil {
				i = *e.Index
			}
			v = at(list, i)
			place = append(place, "#"+strconv.Itoa(i))
		}
	}
	return place, v
}

// selects reports whether an element of a path is about a list's item.
func selects(e fieldpath.PathElement, item any) bool {
	if e.Value != nil {
		return value.Equals(*e.Value, value.NewValueInterface(item))
	}
	m, ok := item.(map[string]any)
	if !ok || e.Key == nil {
		return false
	}
	for _, f := range *e.Key {
		v, there := m[f.Name]
		// A key that is left out has its default, which is not known here.
		if there && !value.Equals(f.Value, value.NewValueInterface(v)) {
			return false
		}
	}
	return true
}

// within reports whether one place is the other, or above or below it.
func within(a, b []string) bool {
	n := min(len(a), len(b))
	return slices.Equal(a[:n], b[:n])
}
