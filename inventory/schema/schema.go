// Package schema describes Go types as JSON Schemas (2020-12), with the meaning of
// their fields in the words of their own comments. inventory/api describes its
// answers by it, and Facts is the published schema of facts documents.
package schema

import (
	"encoding"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// Object is a JSON object.
type Object = map[string]any

// Set collects the schemas of types, one for each struct; a struct within another
// refers to it.
type Set struct {
	// Refs is what references begin with, such as "#/$defs/".
	Refs string
	// Formats are the schemas of types whose JSON form reflection does not show,
	// beside those that the set knows itself.
	Formats map[reflect.Type]Object
	// Strict describes what a decoder takes that refuses unknown fields, numbers
	// below zero and long texts; else, what a reader must bear with.
	Strict bool
	// Components are the structs by name.
	Components Object

	partial map[reflect.Type]bool
}

var textType = reflect.TypeFor[encoding.TextMarshaler]()

// IsText reports whether a type's JSON form is a string.
func IsText(t reflect.Type) bool {
	return t.Implements(textType) || reflect.PointerTo(t).Implements(textType)
}

// formats are the schemas that every set knows.
var formats = map[reflect.Type]Object{
	reflect.TypeFor[time.Time]():       {"type": "string", "format": "date-time"},
	reflect.TypeFor[uuid.UUID]():       {"type": "string", "format": "uuid"},
	reflect.TypeFor[inventory.MAC]():   {"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"},
	reflect.TypeFor[netip.Addr]():      {"type": "string"},
	reflect.TypeFor[json.RawMessage](): {},
}

// Of is the schema of a type.
func (s *Set) Of(t reflect.Type) Object {
	if f, ok := s.Formats[t]; ok {
		return f
	}
	if f, ok := formats[t]; ok {
		return f
	}
	if IsText(t) {
		return Object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.Of(t.Elem())
	case reflect.Bool:
		return Object{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return s.bounded(Object{"type": "integer"}, "minimum", 0)
	case reflect.Float64:
		return Object{"type": "number"}
	case reflect.String:
		// A character has a byte or more, so longer ones are always refused.
		return s.bounded(Object{"type": "string"}, "maxLength", inventory.MaxTextBytes)
	case reflect.Slice:
		return s.bounded(Object{"type": []string{"array", "null"}, "items": s.Of(t.Elem())}, "maxItems", inventory.MaxListLen)
	case reflect.Map:
		return Object{"type": "object", "additionalProperties": s.Of(t.Elem())}
	case reflect.Struct:
		name := nameOf(t)
		if s.Components == nil {
			s.Components = Object{}
		}
		if _, ok := s.Components[name]; !ok {
			s.Components[name] = Object{} // a type may hold itself
			s.Components[name] = s.structure(t)
		}
		return Object{"$ref": s.Refs + name}
	}
	return Object{}
}

func (s *Set) bounded(o Object, key string, bound int) Object {
	if s.Strict {
		o[key] = bound
	}
	return o
}

func (s *Set) structure(t reflect.Type) Object {
	properties, required := Object{}, []string{}
	s.collect(t, properties, &required)
	out := Object{"type": "object", "properties": properties}
	if text := Text(t, ""); text != "" {
		out["description"] = text
	}
	if len(required) > 0 && !s.partial[t] {
		out["required"] = required
	}
	if s.Strict {
		out["additionalProperties"] = false
	}
	return out
}

// collect adds the fields of a struct, those of embedded ones after its own.
func (s *Set) collect(t reflect.Type, properties Object, required *[]string) {
	var embedded []reflect.Type
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			embedded = append(embedded, Element(f.Type))
		case !f.IsExported() || name == "" || name == "-" || properties[name] != nil:
		default:
			left := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
			properties[name] = s.field(t, f, left)
			if !left {
				*required = append(*required, name)
			}
		}
	}
	for _, e := range embedded {
		s.collect(e, properties, required)
	}
}

// field is the schema of a struct's field, with its meaning.
func (s *Set) field(owner reflect.Type, f reflect.StructField, leftOut bool) Object {
	out := Object{}
	for key, value := range s.Of(f.Type) { // what Of gives may be shared
		out[key] = value
	}
	if leftOut && s.Strict && f.Type.Kind() == reflect.Slice {
		out["type"] = "array" // no list is left out, and never null
	}
	if text := Text(owner, f.Name); text != "" {
		out["description"] = text
	}
	return out
}

// MayBePartial notes that of a type, and of all that it holds, only some fields may
// be sent.
func (s *Set) MayBePartial(t reflect.Type) {
	if t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t = Element(t); t.Kind() != reflect.Struct || s.partial[t] || IsText(t) {
		return
	}
	if s.partial == nil {
		s.partial = map[reflect.Type]bool{}
	}
	s.partial[t] = true
	for f := range t.Fields() {
		s.MayBePartial(f.Type)
	}
}

// Element is the type of a pointer's or list's element.
func Element(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Array && t.Elem().Kind() != reflect.Uint8 {
		t = t.Elem()
	}
	return t
}

// nameOf is a type's name as a component; Page[Machine] is MachinePage.
func nameOf(t reflect.Type) string {
	name, of, generic := strings.Cut(t.Name(), "[")
	if !generic {
		return name
	}
	of = strings.TrimSuffix(of, "]")
	return of[strings.LastIndexByte(of, '.')+1:] + name
}
