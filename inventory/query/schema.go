package query

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/agext/levenshtein"
	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
)

// kind is the static type of an expression's part.
type kind int

const (
	kindBool kind = iota
	kindNumber
	kindString
	kindObject
	kindList
	kindTime
)

func (k kind) String() string {
	return [...]string{"a condition", "a number", "a string", "an object", "a list", "a time"}[k]
}

// form is a string's canonical text form; constants that meet such a string
// are brought to the form first.
type form int

const (
	formPlain form = iota
	formMAC
	formUUID
)

func (f form) String() string { return [...]string{"string", "MAC address", "UUID"}[f] }

// parse is s in the form; the error says why it has none.
func (f form) parse(s string) (string, error) {
	switch f {
	case formMAC:
		mac, err := inventory.ParseMAC(s)
		return mac.String(), err
	case formUUID:
		id, err := uuid.Parse(s)
		return id.String(), err
	}
	return s, nil
}

// formsOf are those of facts that their struct holds as plain strings, by their JSON
// names. A list has the form of its elements.
var formsOf = map[reflect.Type]map[string]form{
	reflect.TypeFor[inventory.System]():   {"uuid": formUUID},
	reflect.TypeFor[inventory.BMCFacts](): {"mac": formMAC},
	reflect.TypeFor[inventory.Disk]():     {"part_uuids": formUUID},
}

// dataType is the type of a fact, taken from the Go struct that holds it.
type dataType struct {
	kind kind
	form form
	elem *dataType // of a list
	// always marks a list that is never absent: one of a machine, or one whose JSON
	// form does not tell that it is empty from that nobody looked for it.
	always bool
	fields map[string]*field // of an object
	// values is the type of each value of an object whose keys are anything:
	// machine.tags. Such an object has no fields.
	values *dataType
}

// field is one field of an object, by its JSON name.
type field struct {
	index int // in the Go struct
	typ   *dataType
}

// unlisted are JSON names that are no facts about the machine.
var unlisted = []string{"schema_version", "host_key", "drift_digest"}

// rootTypes are the types of the root variables, reflected once.
var rootTypes = sync.OnceValue(func() map[string]*dataType {
	machine := reflectType(reflect.TypeFor[inventory.Machine]())
	lease := reflectType(reflect.TypeFor[inventory.Lease]())
	for _, name := range []string{"state", "starts", "expires"} {
		delete(lease.fields, name) // those in force are listed, and no others
	}
	machine.fields["leases"] = &field{index: leasesField, typ: &dataType{kind: kindList, elem: lease}}
	for _, f := range machine.fields {
		f.typ.always = f.typ.kind == kindList
	}
	return map[string]*dataType{
		"facts":   reflectType(reflect.TypeFor[inventory.Facts]()),
		"machine": machine,
		"disk":    reflectType(reflect.TypeFor[inventory.Disk]()),
	}
})

// leasesField stands for machine.leases, which are no field of
// inventory.Machine: see Doc.
const leasesField = -1

// rootNames are the variables that an expression over r sees.
func rootNames(r Root) []string {
	if r == Disk {
		return []string{"disk", "facts", "machine"}
	}
	return []string{"facts", "machine"}
}

// reflectType is nil for a type that has no place in the language.
func reflectType(t reflect.Type) *dataType {
	switch t {
	case reflect.TypeFor[inventory.MAC]():
		return &dataType{kind: kindString, form: formMAC}
	case reflect.TypeFor[uuid.UUID]():
		return &dataType{kind: kindString, form: formUUID}
	case reflect.TypeFor[time.Time]():
		return &dataType{kind: kindTime}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return reflectType(t.Elem())
	case reflect.Bool:
		return &dataType{kind: kindBool}
	case reflect.Int, reflect.Int64:
		return &dataType{kind: kindNumber}
	case reflect.String:
		return &dataType{kind: kindString}
	case reflect.Map:
		return &dataType{kind: kindObject, values: reflectType(t.Elem())}
	case reflect.Slice:
		elem := reflectType(t.Elem())
		if elem == nil {
			return nil
		}
		return &dataType{kind: kindList, elem: elem}
	case reflect.Struct:
		out := &dataType{kind: kindObject, fields: map[string]*field{}}
		for i := range t.NumField() {
			name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "" || slices.Contains(unlisted, name) {
				continue
			}
			if ft := reflectType(t.Field(i).Type); ft != nil {
				ft.always = ft.kind == kindList && strings.Contains(options, "omitempty")
				if f := formsOf[t][name]; ft.kind == kindList {
					ft.elem.form = max(ft.elem.form, f)
				} else {
					ft.form = max(ft.form, f)
				}
				out.fields[name] = &field{index: i, typ: ft}
			}
		}
		if len(out.fields) == 0 {
			return nil
		}
		return out
	}
	return nil
}

// names are the object's field names, sorted.
func (t *dataType) names() []string {
	out := make([]string, 0, len(t.fields))
	for name := range t.fields {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// suggest is a sentence that names the candidate nearest to what was written,
// or all of them when none is near and they are few.
func suggest(written string, candidates []string) string {
	best, distance := "", len(written)/2+1
	for _, c := range candidates {
		if d := levenshtein.Distance(written, c, nil); d < distance {
			best, distance = c, d
		}
	}
	if best != "" {
		return fmt.Sprintf("Did you mean %q?", best)
	}
	if len(candidates) <= 16 {
		return "Known: " + strings.Join(candidates, ", ") + "."
	}
	return ""
}
