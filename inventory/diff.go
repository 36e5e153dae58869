package inventory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Change is one difference between two facts documents.
type Change struct {
	// Path leads to the value, such as disks["S4EVNX0N"].firmware_rev.
	Path string `json:"path"`
	// Old and New are the values as JSON; empty when there was, or is, none.
	Old string `json:"old,omitempty"`
	New string `json:"new,omitempty"`
}

// String is one line for a person.
func (c Change) String() string {
	switch {
	case c.Old == "":
		return fmt.Sprintf("+ %s: %s", c.Path, c.New)
	case c.New == "":
		return fmt.Sprintf("- %s: %s", c.Path, c.Old)
	}
	return fmt.Sprintf("~ %s: %s -> %s", c.Path, c.Old, c.New)
}

// Diff lists what is different in b against a, by path. Members of a list are
// matched by what identifies them (a disk by serial or wwn, a NIC by MAC, a
// memory module by locator, a PCI function by address), not by their place. That a
// list is empty is a value of its own, []: without it, the list was not observed.
func Diff(a, b Facts) []Change {
	var out []Change
	walk("", tree(a), tree(b), &out)
	return out
}

// tree is the document as generic JSON. Facts hold nothing that cannot be
// marshalled, so the errors cannot occur; an empty tree would then be all that
// is compared.
func tree(f Facts) any {
	raw, err := json.Marshal(f.canonical())
	if err != nil {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil
	}
	return v
}

func walk(path string, a, b any, out *[]Change) {
	am, aObject := members(a)
	bm, bObject := members(b)
	if (aObject || bObject) && (aObject || nothing(a)) && (bObject || nothing(b)) {
		if old, now := none(a), none(b); old != now {
			*out = append(*out, Change{Path: path, Old: old, New: now})
		}
		keys := slices.Sorted(maps.Keys(am))
		for k := range bm {
			if _, both := am[k]; !both {
				keys = append(keys, k)
			}
		}
		slices.Sort(keys)
		for _, k := range keys {
			walk(join(path, k), am[k], bm[k], out)
		}
		return
	}
	if old, now := text(a), text(b); old != now {
		*out = append(*out, Change{Path: path, Old: old, New: now})
	}
}

// nothing is what has no members: an absent value, or an empty list.
func nothing(v any) bool { return v == nil || none(v) != "" }

// none is the text of an empty list; empty for anything else.
func none(v any) string {
	if list, isList := v.([]any); isList && len(list) == 0 {
		return text(v)
	}
	return ""
}

func join(path, key string) string {
	if path == "" || strings.HasPrefix(key, "[") {
		return path + key
	}
	return path + "." + key
}

func text(v any) string {
	if v == nil {
		return ""
	}
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return string(raw)
}

// identifiers are the fields that name a member of a list, best first.
var identifiers = []string{"serial", "wwn", "mac", "address", "locator", "by_id", "name"}

// members are the parts of an object, or of a list of objects by identifier.
func members(v any) (map[string]any, bool) {
	switch v := v.(type) {
	case map[string]any:
		return v, true
	case []any:
		if len(v) == 0 {
			return nil, false // it says that there are none, which is a value
		}
		out := make(map[string]any, len(v))
		for i, e := range v {
			m, ok := e.(map[string]any)
			if !ok {
				return nil, false // a list of plain values is one value
			}
			key := identifier(m, i)
			if _, twice := out[key]; twice {
				key = fmt.Sprintf("[%d]", i)
			}
			out[key] = m
		}
		return out, true
	}
	return nil, false
}

func identifier(m map[string]any, i int) string {
	for _, f := range identifiers {
		if s, ok := m[f].(string); ok && s != "" {
			return fmt.Sprintf("[%q]", s)
		}
	}
	return fmt.Sprintf("[%d]", i)
}
