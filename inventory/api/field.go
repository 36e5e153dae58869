package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/inventory/schema"
)

// selection says which fields of a resource are sent: a tree of JSON names, in
// which nil is everything below.
type selection map[string]selection

// maxFields bounds the parameter fields.
const maxFields = 100

// fields reads the parameter of that name for items of a type; nil without one.
func (x *exchange) fields(item reflect.Type) (selection, error) {
	given, ok := x.query["fields"]
	if !ok {
		return nil, nil
	}
	paths := strings.Split(given, ",")
	if len(paths) > maxFields {
		return nil, problem("invalid-parameter", "fields names %d paths; at most %d are accepted.", len(paths), maxFields).at("fields")
	}
	out := selection{}
	for _, path := range paths {
		if err := out.add(strings.TrimSpace(path), item); err != nil {
			return nil, problem("invalid-parameter", "fields: %v", err).at("fields")
		}
	}
	return out, nil
}

// add notes a path such as facts.memory.bytes. A list's elements are meant by its
// own name.
func (s selection) add(path string, t reflect.Type) error {
	at := s
	names := strings.Split(path, ".")
	for i, name := range names {
		t = schema.Element(t)
		if t.Kind() == reflect.Map {
			t = t.Elem()
		} else {
			known := jsonFields(t)
			f, ok := known[name]
			if !ok {
				return fmt.Errorf("%q has no field %q. %s", clip(path), clip(name), suggest(name, sortedKeys(known)))
			}
			t = f
		}
		below, seen := at[name]
		switch {
		case i == len(names)-1:
			at[name] = nil
			return nil
		case seen && below == nil:
			return nil // all of it is sent already
		case !seen:
			below = selection{}
			at[name] = below
		}
		at = below
	}
	return nil
}

// names reports whether the selection sends a top-level field.
func (s selection) names(field string) bool {
	_, ok := s[field]
	return ok
}

// jsonFields are the fields of a struct by their JSON names, those of embedded
// structs among them.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	if t.Kind() != reflect.Struct || schema.IsText(t) {
		return out
	}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			for n, below := range jsonFields(schema.Element(f.Type)) {
				if _, own := out[n]; !own {
					out[n] = below
				}
			}
		case f.IsExported() && name != "" && name != "-":
			out[name] = f.Type
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// apply keeps the selected fields of a JSON value.
func (s selection) apply(raw json.RawMessage) (json.RawMessage, error) {
	if s == nil {
		return raw, nil
	}
	switch raw = bytes.TrimSpace(raw); {
	case bytes.HasPrefix(raw, []byte("{")):
		var all map[string]json.RawMessage
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, err
		}
		kept := map[string]json.RawMessage{}
		for name, below := range s {
			value, ok := all[name]
			if !ok {
				continue
			}
			part, err := below.apply(value)
			if err != nil {
				return nil, err
			}
			kept[name] = part
		}
		return json.Marshal(kept)
	case bytes.HasPrefix(raw, []byte("[")):
		var all []json.RawMessage
		if err := json.Unmarshal(raw, &all); err != nil {
			return nil, err
		}
		for i := range all {
			var err error
			if all[i], err = s.apply(all[i]); err != nil {
				return nil, err
			}
		}
		return json.Marshal(all)
	}
	return raw, nil
}

// choose is a resource with the selected fields only.
func choose[T any](s selection, items []T) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, len(items))
	for i, item := range items {
		raw, err := encode(item)
		if err != nil {
			return nil, err
		}
		if out[i], err = s.apply(raw); err != nil {
			return nil, err
		}
	}
	return out, nil
}
