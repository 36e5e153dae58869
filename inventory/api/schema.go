package api

import (
	"encoding"
	"encoding/json"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
)

// schemas makes JSON Schemas (2020-12, as OpenAPI 3.1 uses it) of Go types, a
// component for each struct.
type schemas struct {
	components map[string]any
	// partial are the types of which only some fields may be sent.
	partial map[reflect.Type]bool
}

// object is a JSON object of the document.
type object = map[string]any

var textType = reflect.TypeFor[encoding.TextMarshaler]()

// isText reports whether a type's JSON form is a string.
func isText(t reflect.Type) bool {
	return t.Implements(textType) || reflect.PointerTo(t).Implements(textType)
}

// formats are the schemas of types whose JSON form reflection does not show.
var formats = map[reflect.Type]object{
	reflect.TypeFor[time.Time]():       {"type": "string", "format": "date-time"},
	reflect.TypeFor[uuid.UUID]():       {"type": "string", "format": "uuid"},
	reflect.TypeFor[inventory.MAC]():   {"type": "string", "pattern": "^([0-9a-f]{2}:){5}[0-9a-f]{2}$"},
	reflect.TypeFor[netip.Addr]():      {"type": "string"},
	reflect.TypeFor[json.RawMessage](): {},
	reflect.TypeFor[inventory.State](): {"type": "string", "enum": states},
	reflect.TypeFor[inventory.LeaseState](): {"type": "string", "enum": []inventory.LeaseState{
		inventory.LeaseActive, inventory.LeaseReleased, inventory.LeaseDeclined,
	}},
	reflect.TypeFor[resource.Role](): {"type": "string", "enum": resource.Roles()},
}

// of is the schema of a type; structs are referred to.
func (s *schemas) of(t reflect.Type) object {
	if f, ok := formats[t]; ok {
		return f
	}
	if isText(t) {
		return object{"type": "string"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return s.of(t.Elem())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return object{"type": "integer"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Slice:
		return object{"type": []string{"array", "null"}, "items": s.of(t.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.of(t.Elem())}
	case reflect.Struct:
		name := nameOf(t)
		if _, ok := s.components[name]; !ok {
			s.components[name] = object{} // a type may hold itself
			s.components[name] = s.structure(t)
		}
		return object{"$ref": "#/components/schemas/" + name}
	}
	return object{}
}

func (s *schemas) structure(t reflect.Type) object {
	properties, required := object{}, []string{}
	s.collect(t, properties, &required)
	out := object{"type": "object", "properties": properties}
	if len(required) > 0 && !s.partial[t] {
		out["required"] = required
	}
	return out
}

// collect adds the fields of a struct, those of embedded ones after its own.
func (s *schemas) collect(t reflect.Type, properties object, required *[]string) {
	var embedded []reflect.Type
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			embedded = append(embedded, element(f.Type))
		case !f.IsExported() || name == "" || name == "-" || properties[name] != nil:
		default:
			properties[name] = s.of(f.Type)
			if !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero") {
				*required = append(*required, name)
			}
		}
	}
	for _, e := range embedded {
		s.collect(e, properties, required)
	}
}

// mayBePartial notes a type and all that it holds.
func (s *schemas) mayBePartial(t reflect.Type) {
	if t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t = element(t); t.Kind() != reflect.Struct || s.partial[t] || isText(t) {
		return
	}
	s.partial[t] = true
	for f := range t.Fields() {
		s.mayBePartial(f.Type)
	}
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
