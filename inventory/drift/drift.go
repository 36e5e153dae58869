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
// compared as soon as both have it, also when it is empty, and there a member that
// is missing is one that was taken out. Members are known by what is printed on them
// (a disk by its serial number, a port by its MAC), memory modules by their slot,
// and PCI functions are counted by kind, because a new card renumbers the others.
// Members that bear one name, such as disks on which nobody wrote a serial number,
// are compared as a whole: which of them comes first means nothing. What a port is
// connected to counts only where it was heard both times.
func Compare(was, is inventory.Facts) []inventory.Change {
	before, after := flatten(was), flatten(is)
	out := compareNeighbors(was.Neighbors, is.Neighbors)
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

func compareMembers(list string, was, is map[string][]values) []inventory.Change {
	var out []inventory.Change
	for key, old := range was {
		out = append(out, compareNamesakes(list, key, old, is[key])...)
	}
	for key, now := range is {
		if was[key] == nil {
			out = append(out, compareNamesakes(list, key, nil, now)...)
		}
	}
	return out
}

// compareNamesakes compares the members of a list that bear one name. What is in
// both is left out first, so that a change is told of the member that changed.
func compareNamesakes(list, key string, was, is []values) []inventory.Change {
	pair := pairUp(was, is)
	path := func(n int) string {
		name := key
		if n > 0 {
			name += "#" + strconv.Itoa(n+1)
		}
		return list + "[" + strconv.Quote(name) + "]"
	}
	var out []inventory.Change
	met := make([]bool, len(is))
	for i, old := range was {
		if pair[i] < 0 {
			out = append(out, inventory.Change{Path: path(i), Old: old.text()})
			continue
		}
		met[pair[i]] = true
		for name, v := range old {
			if w, observed := is[pair[i]][name]; observed && w != v {
				out = append(out, inventory.Change{Path: path(i) + "." + name, Old: v, New: w})
			}
		}
	}
	n := len(was)
	for i, now := range is {
		if !met[i] {
			out = append(out, inventory.Change{Path: path(n), New: now.text()})
			n++
		}
	}
	return out
}

// mostAlike bounds the members of one name that are compared each with each. Beyond
// it, which a report of a stranger can be and no machine is, they are paired in order.
const mostAlike = 64

// pairUp finds for each of was its place in is, or -1: first those that are equal,
// then those of which nothing says that they differ, then what is left, in order.
func pairUp(was, is []values) []int {
	pair := make([]int, len(was))
	equals := map[string][]int{}
	for j, now := range is {
		text := now.text()
		equals[text] = append(equals[text], j)
	}
	met := make([]bool, len(is))
	var left []int // of was
	for i, old := range was {
		text := old.text()
		if same := equals[text]; len(same) > 0 {
			pair[i], met[same[0]], equals[text] = same[0], true, same[1:]
			continue
		}
		pair[i] = -1
		left = append(left, i)
	}
	var free []int // of is
	for j := range is {
		if !met[j] {
			free = append(free, j)
		}
	}
	if len(left) <= mostAlike && len(free) <= mostAlike {
		left = slices.DeleteFunc(left, func(i int) bool {
			at := slices.IndexFunc(free, func(j int) bool { return !was[i].contradicts(is[j]) })
			if at >= 0 {
				pair[i] = free[at]
				free = slices.Delete(free, at, at+1)
			}
			return at >= 0
		})
	}
	for n := range min(len(left), len(free)) {
		pair[left[n]] = free[n]
	}
	return pair
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

// contradicts reports whether something that both hold differs.
func (v values) contradicts(other values) bool {
	for name, mine := range v {
		if its, both := other[name]; both && its != mine {
			return true
		}
	}
	return false
}

// view is what of a machine's facts counts.
type view struct {
	values values
	lists  map[string]map[string][]values // by path, then by what names members; those of one name in the order of their values
}

func flatten(f inventory.Facts) view {
	f.Neighbors = nil // compareNeighbors has them
	v := view{values: values{}, lists: map[string]map[string][]values{}}
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

// list takes the members of a list of objects.
func (v *view) list(path string, list []any) {
	known := names[path]
	if known == nil {
		return
	}
	members := map[string][]values{}
	for _, e := range list {
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
		key := nameOf(o, known)
		members[key] = append(members[key], member)
	}
	for key, namesakes := range members {
		members[key] = sorted(namesakes)
	}
	v.lists[path] = members
}

// sorted are members in the order of their values.
func sorted(members []values) []values {
	if len(members) == 1 {
		return members
	}
	byText := map[string][]values{}
	for _, m := range members {
		text := m.text()
		byText[text] = append(byText[text], m)
	}
	out := make([]values, 0, len(members))
	for _, text := range slices.Sorted(maps.Keys(byText)) {
		out = append(out, byText[text]...)
	}
	return out
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

// nameless is the name of members that have none: their makers, or those who
// flashed their firmware, wrote no number on them.
const nameless = "without a number"

// nameOf is the first of some fields that a member has and that tells it from
// others.
func nameOf(o map[string]any, fields []string) string {
	for _, f := range fields {
		if s, ok := o[f].(string); ok && s != "" && !placeholder(f, s) {
			return s
		}
	}
	return nameless
}

// placeholder reports whether a number is one that many members bear, because
// nobody wrote one: 00000000, eui.0000000000000000, To Be Filled By O.E.M.
func placeholder(field, number string) bool {
	switch field {
	case "serial":
		return inventory.JunkSerial(number)
	case "wwn":
		_, digits, _ := strings.Cut(number, ".")
		return inventory.JunkSerial(digits)
	}
	return false
}

// countFunction counts PCI functions of one kind.
func countFunction(members map[string][]values, o map[string]any) {
	vendor, _ := o["vendor"].(string)
	device, _ := o["device"].(string)
	class, _ := o["class"].(string)
	key := vendor + ":" + device + " class " + class
	n := 1
	if have := members[key]; have != nil {
		n, _ = strconv.Atoi(have[0]["count"])
		n++
	}
	members[key] = []values{{"count": strconv.Itoa(n)}}
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
	"disks": "disk", "memory.modules": "memory module", "nics": "network port", neighborList: "network port", "pci": "PCI function",
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
	case list == neighborList:
		return describeNeighbor(name, c)
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
