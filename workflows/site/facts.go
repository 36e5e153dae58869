package site

import (
	"encoding/json"
	"reflect"
	"strings"
	"sync"

	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/edge-provision/edge-provision/inventory"
)

// factsType is the type of machine.NAME.facts, taken from inventory.Facts by
// its JSON names, so that a misspelt fact is an error before anything runs.
var factsType = sync.OnceValue(func() cty.Type { return typeOf(reflect.TypeFor[inventory.Facts]()) })

// typeOf translates a Go type of a facts document.
func typeOf(t reflect.Type) cty.Type {
	if t == reflect.TypeFor[inventory.MAC]() {
		return cty.String
	}
	switch t.Kind() {
	case reflect.Pointer:
		return typeOf(t.Elem())
	case reflect.Slice:
		return cty.List(typeOf(t.Elem()))
	case reflect.String:
		return cty.String
	case reflect.Bool:
		return cty.Bool
	case reflect.Int, reflect.Int64:
		return cty.Number
	case reflect.Struct:
		attrs := make(map[string]cty.Type)
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "" && name != "-" {
				attrs[name] = typeOf(f.Type)
			}
		}
		return cty.Object(attrs)
	}
	return cty.DynamicPseudoType
}

// factsValue is a facts document as a value; what was not observed is null.
func factsValue(f *inventory.Facts) cty.Value {
	b, err := json.Marshal(f)
	if err != nil {
		return cty.UnknownVal(factsType())
	}
	v, err := ctyjson.Unmarshal(b, factsType())
	if err != nil {
		return cty.UnknownVal(factsType())
	}
	return v
}
