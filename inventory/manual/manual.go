// Package manual reads facts that people write, one at a time: where the fact is
// in the document, and its value as text. They are kept as a source of their own,
// inventory.SourceManual.
package manual

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/agext/levenshtein"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Error says that a fact cannot be written as it was given.
type Error struct {
	// Path is the fact, as it was written.
	Path string
	// Reason is a sentence for a person.
	Reason string
}

// Error implements error.
func (e *Error) Error() string { return fmt.Sprintf("fact %q: %s", clip(e.Path), e.Reason) }

// Set writes the fact at a path such as chassis.asset_tag, with or without
// "facts." before it. Text is taken as it is; a number is decimal, in the unit that
// the fact has; a condition is true or false; a list is JSON and replaces the whole
// list. The error is an *Error: the path is no fact, or the value is not of its
// type.
func Set(f *inventory.Facts, path, value string) error {
	// The value is decoded like any stranger's report, apart from f, so that
	// nothing enters that a source could not report.
	names, t, err := lookup(path)
	if err != nil {
		return err
	}
	raw, err := encode(names, t, value)
	if err != nil {
		return &Error{Path: path, Reason: err.Error()}
	}
	for i := len(names) - 1; i >= 0; i-- {
		raw = fmt.Appendf(nil, "{%q:%s}", names[i], raw)
	}
	one, err := inventory.DecodeFacts(raw)
	if err != nil {
		return &Error{Path: path, Reason: plain(err)}
	}
	at(f, names, true).Set(at(&one, names, true))
	return nil
}

// Unset removes the fact at a path, or all facts below it. Removing what is not
// there is no error; a path that is no fact is an *Error.
func Unset(f *inventory.Facts, path string) error {
	names, _, err := lookup(path)
	if err != nil {
		return err
	}
	if v := at(f, names, false); v.IsValid() {
		v.SetZero()
	}
	// A part of which nothing is left was not observed.
	parts := reflect.ValueOf(f).Elem()
	for i := range parts.NumField() {
		if p := parts.Field(i); p.Kind() == reflect.Pointer && !p.IsNil() && p.Elem().IsZero() {
			p.SetZero()
		}
	}
	return nil
}

// Apply takes the facts at the paths of remove away, and then writes those of set,
// by path; what is in both is written. The error is an *Error, and f is then partly
// changed.
func Apply(f *inventory.Facts, set map[string]string, remove []string) error {
	for _, path := range remove {
		if err := Unset(f, path); err != nil {
			return err
		}
	}
	for _, path := range slices.Sorted(maps.Keys(set)) {
		if err := Set(f, path, set[path]); err != nil {
			return err
		}
	}
	return nil
}

// Fact is one fact that somebody wrote.
type Fact struct {
	Path string
	// Value is as Set takes it.
	Value string
}

// List is what f holds, by path.
func List(f inventory.Facts) []Fact {
	var out []Fact
	for _, path := range Paths() {
		names, t, err := lookup(path)
		if err != nil {
			continue // Paths are those that lookup knows
		}
		v := at(&f, names, false)
		if !v.IsValid() || v.IsZero() {
			continue
		}
		if v.Kind() == reflect.Pointer {
			v = v.Elem()
		}
		text := fmt.Sprint(v.Interface())
		if t.Kind() == reflect.Slice {
			raw, err := json.Marshal(v.Interface())
			if err != nil {
				continue // a list of facts can be marshalled
			}
			text = string(raw)
		}
		out = append(out, Fact{Path: path, Value: text})
	}
	return out
}

// Paths are the facts that Set writes, sorted.
func Paths() []string {
	out := paths(nil, "", reflect.TypeFor[inventory.Facts]())
	slices.Sort(out)
	return out
}

func paths(out []string, prefix string, t reflect.Type) []string {
	for name, f := range fields(t) {
		if f.Kind() == reflect.Struct {
			out = paths(out, prefix+name+".", f)
			continue
		}
		out = append(out, prefix+name)
	}
	return out
}

// fields are the types of a struct's facts by their JSON names, without pointers.
func fields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "schema_version" {
			continue // not of the machine, but of the document
		}
		t := f.Type
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		out[name] = t
	}
	return out
}

// lookup takes a path apart and finds the type of its fact.
func lookup(path string) (names []string, t reflect.Type, err error) {
	names = strings.Split(strings.TrimPrefix(path, "facts."), ".")
	t = reflect.TypeFor[inventory.Facts]()
	for i, name := range names {
		if t.Kind() != reflect.Struct {
			return nil, nil, &Error{Path: path, Reason: strings.Join(names[:i], ".") + " has no parts that could be written by themselves; write all of it"}
		}
		known := fields(t)
		below, ok := known[name]
		if !ok {
			return nil, nil, &Error{Path: path, Reason: "there is no such fact. " + suggest(strings.Join(names, "."), name, names[:i], known)}
		}
		t = below
	}
	return names, t, nil
}

// suggest names the fact that was probably meant.
func suggest(path, name string, before []string, known map[string]reflect.Type) string {
	prefix := strings.Join(append(slices.Clone(before), ""), ".")
	if near := nearest(name, slices.Collect(keys(known))); near != "" {
		return fmt.Sprintf("Did you mean %q?", prefix+near)
	}
	if near := nearest(path, Paths()); near != "" {
		return fmt.Sprintf("Did you mean %q?", near)
	}
	return "Known here: " + strings.Join(slices.Sorted(keys(known)), ", ") + "."
}

func keys(m map[string]reflect.Type) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

// nearest is the candidate that differs least from what was written; empty when
// all are far.
func nearest(written string, candidates []string) string {
	if len(written) > 128 {
		return ""
	}
	slices.Sort(candidates)
	best, distance := "", len(written)/3+1
	for _, c := range candidates {
		if d := levenshtein.Distance(written, c, nil); d < distance {
			best, distance = c, d
		}
	}
	return best
}

// at is the field that names lead to. What is missing on the way is made, or the
// result is not valid.
func at(f *inventory.Facts, names []string, grow bool) reflect.Value {
	v := reflect.ValueOf(f).Elem()
	for _, name := range names {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				if !grow {
					return reflect.Value{}
				}
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		for i := range v.NumField() {
			if tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ","); tag == name {
				v = v.Field(i)
				break
			}
		}
	}
	return v
}

// encode is the value as JSON of a type.
func encode(names []string, t reflect.Type, value string) ([]byte, error) {
	if value == "" {
		return nil, errors.New("the value is empty; remove the fact instead")
	}
	if !utf8.ValidString(value) { // JSON would put U+FFFD in its place
		return nil, errors.New("the value is not valid UTF-8")
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n <= 0 {
			return nil, fmt.Errorf("%q is no whole number above zero", clip(value))
		}
		return strconv.AppendInt(nil, n, 10), nil
	case reflect.Bool:
		if value != "true" && value != "false" {
			return nil, fmt.Errorf("%q is neither true nor false", clip(value))
		}
		return []byte(value), nil
	case reflect.Slice:
		if !json.Valid([]byte(value)) || !strings.HasPrefix(strings.TrimSpace(value), "[") {
			return nil, fmt.Errorf(`%q is no list in JSON, such as ["a", "b"]`, clip(value))
		}
		return []byte(value), nil
	case reflect.Struct:
		return nil, fmt.Errorf("it has parts, which are written one by one: %s", strings.Join(slices.Sorted(keys(fields(t))), ", "))
	}
	if strings.Join(names, ".") == "system.uuid" {
		u, err := uuid.Parse(value)
		if err != nil {
			return nil, fmt.Errorf("%q is no UUID, such as 4c4c4544-0058-4b10-8032-b7c04f513933", clip(value))
		}
		value = u.String()
	}
	return json.Marshal(value)
}

// plain leaves out what only says that a document is read.
func plain(err error) string {
	if inner := errors.Unwrap(err); inner != nil {
		err = inner
	}
	return err.Error()
}

// clip keeps a stranger's string from filling an error message.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "…"
	}
	return s
}
