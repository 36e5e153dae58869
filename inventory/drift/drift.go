// Package drift tells how the hardware of a machine differs from a snapshot of
// it: which facts count, what changed, and whether a snapshot is genuine. It is
// pure; inventory/store keeps the snapshots.
package drift

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// Compare lists what counts as changed from one merged view of a machine to a
// later one, by path.
//
// What only one of them observed is not compared: a user who may not read
// everything, or a source that joins later, changes no hardware. A list is
// compared as soon as both have it, and there a member that is missing is one
// that was taken out. Members are known by what is printed on them (a disk by its
// serial number, a port by its MAC), memory modules by their slot, and PCI
// functions are counted by kind, because a new card renumbers the others.
func Compare(was, is inventory.Facts) []inventory.Change {
	before, after := flatten(was), flatten(is)
	var out []inventory.Change
	for path, old := range before.values {
		if now, both := after.values[path]; both && now != old {
			out = append(out, inventory.Change{Path: path, Old: old, New: now})
		}
	}
	for list, old := range before.lists {
		if now, both := after.lists[list]; both {
			out = append(out, compareMembers(list, old, now)...)
		}
	}
	slices.SortFunc(out, func(a, b inventory.Change) int { return strings.Compare(a.Path, b.Path) })
	return out
}

func compareMembers(list string, was, is map[string]values) []inventory.Change {
	var out []inventory.Change
	for key, old := range was {
		path := list + "[" + strconv.Quote(key) + "]"
		now, both := is[key]
		if !both {
			out = append(out, inventory.Change{Path: path, Old: old.text()})
			continue
		}
		for name, v := range old {
			if w, observed := now[name]; observed && w != v {
				out = append(out, inventory.Change{Path: path + "." + name, Old: v, New: w})
			}
		}
	}
	for key, now := range is {
		if _, both := was[key]; !both {
			out = append(out, inventory.Change{Path: list + "[" + strconv.Quote(key) + "]", New: now.text()})
		}
	}
	return out
}

// values are facts that count, as JSON, by their path.
type values map[string]string

// text is a JSON object of values.
func (v values) text() string {
	var b strings.Builder
	b.WriteByte('{')
	for i, name := range slices.Sorted(maps.Keys(v)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(name) + ":" + v[name])
	}
	b.WriteByte('}')
	return b.String()
}

// view is what of a machine's facts counts.
type view struct {
	values values
	lists  map[string]map[string]values // by path, then by what names a member
}

func flatten(f inventory.Facts) view {
	v := view{values: values{}, lists: map[string]map[string]values{}}
	raw, err := json.Marshal(f)
	if err != nil {
		return v // Facts hold nothing that cannot be marshalled
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var tree map[string]any
	if err := d.Decode(&tree); err != nil {
		return v
	}
	v.object("", tree)
	return v
}

func (v *view) object(path string, o map[string]any) {
	for name, value := range o {
		at := name
		if path != "" {
			at = path + "." + name
		}
		switch value := value.(type) {
		case map[string]any:
			v.object(at, value)
		case []any:
			v.list(at, value)
		default:
			if counted[at] {
				v.values[at] = text(value)
			}
		}
	}
}

// list takes the members of a list of objects. Two that bear one name, as the
// paths to one disk do, are told apart by their order.
func (v *view) list(path string, list []any) {
	known := names[path]
	if known == nil {
		return
	}
	members := map[string]values{}
	for i, e := range list {
		o, isObject := e.(map[string]any)
		if !isObject {
			continue
		}
		if path == "pci" {
			countFunction(members, o)
			continue
		}
		member := values{}
		member.take(path+"[]", "", o)
		key := nameOf(o, known, i)
		for n := 2; members[key] != nil; n++ {
			key = fmt.Sprintf("%s#%d", nameOf(o, known, i), n)
		}
		members[key] = member
	}
	v.lists[path] = members
}

// take adds the facts of one member; what is nested in it has a dotted name.
func (v values) take(path, prefix string, o map[string]any) {
	for name, value := range o {
		at := prefix + name
		if inner, nested := value.(map[string]any); nested {
			v.take(path, at+".", inner)
		} else if counted[path+"."+at] {
			v[at] = text(value)
		}
	}
}

// nameOf is the first of some fields that a member has; else its place.
func nameOf(o map[string]any, fields []string, place int) string {
	for _, f := range fields {
		if s, ok := o[f].(string); ok && s != "" {
			return s
		}
	}
	return strconv.Itoa(place)
}

// countFunction counts PCI functions of one kind.
func countFunction(members map[string]values, o map[string]any) {
	vendor, _ := o["vendor"].(string)
	device, _ := o["device"].(string)
	class, _ := o["class"].(string)
	key := vendor + ":" + device + " class " + class
	n := 1
	if have := members[key]; have != nil {
		n, _ = strconv.Atoi(have["count"])
		n++
	}
	members[key] = values{"count": strconv.Itoa(n)}
}

func text(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(raw)
}

// Digest names a difference: "sha256:" and hex over its changes; empty for none.
func Digest(changes []inventory.Change) string {
	if len(changes) == 0 {
		return ""
	}
	raw, err := json.Marshal(changes)
	if err != nil {
		return "" // three strings always marshal
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// things are what the lists hold, for a person.
var things = map[string]string{
	"disks": "disk", "memory.modules": "memory module", "nics": "network port", "pci": "PCI function",
}

// Describe is one line for a person: disk "S4EVNX0N" is gone (bytes 960197124096).
func Describe(c inventory.Change) string {
	list, rest, isMember := strings.Cut(c.Path, "[")
	thing := things[list]
	if !isMember || thing == "" {
		return fmt.Sprintf("%s is %s; it was %s", c.Path, c.New, c.Old)
	}
	name, field := rest, ""
	if end := strings.LastIndex(rest, `"]`); end >= 0 {
		name, field = rest[:end+1], strings.TrimPrefix(rest[end+2:], ".")
	}
	switch {
	case c.New == "":
		return fmt.Sprintf("%s %s is gone%s", thing, name, details(c.Old))
	case c.Old == "":
		return fmt.Sprintf("%s %s is new%s", thing, name, details(c.New))
	}
	return fmt.Sprintf("%s %s: %s is %s; it was %s", thing, name, field, c.New, c.Old)
}

// details are the values of an object in parentheses.
func details(object string) string {
	d := json.NewDecoder(strings.NewReader(object))
	d.UseNumber()
	var o map[string]any
	if d.Decode(&o) != nil || len(o) == 0 {
		return ""
	}
	parts := make([]string, 0, len(o))
	for _, name := range slices.Sorted(maps.Keys(o)) {
		parts = append(parts, name+" "+text(o[name]))
	}
	return " (" + strings.Join(parts, ", ") + ")"
}
