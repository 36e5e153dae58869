package kube

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ignored is one parsed entry of Options.IgnoreFields.
type ignored struct {
	kind, namespace, name string // empty: any
	path                  []element
}

// element is one step of a path: a key of an object, or items of a list.
type element struct {
	key        string
	list       bool
	index      int    // of a list, -1 when not by index
	match      string // key of an item that must have the value of key
	everything bool   // every item
}

func (i ignored) applies(id ID) bool {
	return (i.kind == "" || i.kind == id.Kind) && (i.namespace == "" || i.namespace == id.Namespace) && (i.name == "" || i.name == id.Name)
}

// CheckIgnoreField says what is wrong with an entry of Options.IgnoreFields.
func CheckIgnoreField(s string) error {
	_, err := parseIgnored(s)
	return err
}

func parseIgnored(s string) (ignored, error) {
	var out ignored
	object, path, ok := strings.Cut(strings.TrimSpace(s), " ")
	if !ok || strings.ContainsAny(object, "[\"") {
		object, path = "", strings.TrimSpace(s)
	}
	if object != "" {
		parts := strings.Split(object, "/")
		switch {
		case slices.Contains(parts, ""):
			return out, fmt.Errorf("%q names no object; write KIND/NAME or KIND/NAMESPACE/NAME before the path", s)
		case len(parts) == 2:
			out.kind, out.name = parts[0], parts[1]
		case len(parts) == 3:
			out.kind, out.namespace, out.name = parts[0], parts[1], parts[2]
		default:
			return out, fmt.Errorf("%q names no object; write KIND/NAME or KIND/NAMESPACE/NAME before the path", s)
		}
	}
	var err error
	if out.path, err = parsePath(strings.TrimSpace(path)); err != nil {
		return out, fmt.Errorf("%q is no path of a field: %w; write it like spec.replicas or metadata.annotations[\"a.b/c\"]", s, err)
	}
	first := out.path[0].key
	if first == "apiVersion" || first == "kind" || first == "metadata" && len(out.path) == 1 ||
		first == "metadata" && slices.Contains([]string{"name", "namespace", "labels"}, out.path[1].key) && len(out.path) == 2 {
		return out, fmt.Errorf("%q says which object it is; it cannot be ignored", s)
	}
	return out, nil
}

// maxPathElements bounds a path; no schema is as deep.
const maxPathElements = 100

func parsePath(s string) ([]element, error) {
	var out []element
	s = strings.TrimPrefix(s, ".")
	for s != "" {
		if len(out) == maxPathElements {
			return nil, errors.New("it is too long")
		}
		if s[0] == '[' {
			e, rest, err := parseBracket(s[1:])
			if err != nil {
				return nil, err
			}
			out, s = append(out, e), rest
		} else {
			end := strings.IndexAny(s, ".[")
			if end < 0 {
				end = len(s)
			}
			if end == 0 || strings.ContainsAny(s[:end], " \t\"]") {
				return nil, errors.New("a name is missing or has characters that need [\"…\"]")
			}
			out, s = append(out, element{key: s[:end], index: -1}), s[end:]
		}
		if strings.HasPrefix(s, ".") {
			if s = s[1:]; s == "" {
				return nil, errors.New("it ends in a dot")
			}
		}
	}
	if len(out) == 0 || out[0].list {
		return nil, errors.New("it must begin with the name of a field")
	}
	return out, nil
}

// parseBracket reads what follows an opening bracket.
func parseBracket(s string) (element, string, error) {
	if strings.HasPrefix(s, "\"") {
		quoted, err := strconv.QuotedPrefix(s)
		if err != nil || !strings.HasPrefix(s[len(quoted):], "]") {
			return element{}, "", errors.New("a bracket with a quoted key does not end")
		}
		key, err := strconv.Unquote(quoted)
		return element{key: key, index: -1}, s[len(quoted)+1:], err
	}
	inside, rest, ok := strings.Cut(s, "]")
	if !ok {
		return element{}, "", errors.New("a bracket does not end")
	}
	if inside == "*" {
		return element{list: true, index: -1, everything: true}, rest, nil
	}
	if k, v, ok := strings.Cut(inside, "="); ok && k != "" {
		return element{list: true, index: -1, match: k, key: strings.Trim(v, "\"")}, rest, nil
	}
	n, err := strconv.Atoi(inside)
	if err != nil || n < 0 {
		return element{}, "", fmt.Errorf("[%s] is neither an index nor a name=value nor *", inside)
	}
	return element{list: true, index: n}, rest, nil
}

// settle gives the ignored fields of a declaration the values that the object
// has: left out, they would be given up, and the server removes what nobody
// owns.
func (i ignored) settle(declared, live map[string]any) { settle(declared, live, i.path) }

func settle(declared, live any, path []element) {
	e, last := path[0], len(path) == 1
	if !e.list {
		d, ok := declared.(map[string]any)
		if !ok {
			return
		}
		l, _ := live.(map[string]any)
		switch v, there := l[e.key]; {
		case !last:
			if next, declares := d[e.key]; declares {
				settle(next, v, path[1:])
			}
		case there:
			if _, declares := d[e.key]; declares {
				d[e.key] = v
			}
		default:
			delete(d, e.key)
		}
		return
	}
	d, ok := declared.([]any)
	if !ok {
		return
	}
	l, _ := live.([]any)
	for n, item := range d {
		if !e.fits(n, item) {
			continue
		}
		other := counterpart(l, n, item)
		switch {
		case !last:
			settle(item, other, path[1:])
		case other != nil:
			d[n] = other
		}
	}
}

// fits reports whether the element means item n of a list.
func (e element) fits(n int, item any) bool {
	switch {
	case e.everything:
		return true
	case e.match != "":
		m, _ := item.(map[string]any)
		return m[e.match] != nil && fmt.Sprint(m[e.match]) == e.key
	}
	return e.index == n
}

// counterpart is the item of a list that is the same as one of another list: by
// name where it has one.
func counterpart(list []any, n int, item any) any {
	m, _ := item.(map[string]any)
	if name, ok := m["name"]; ok {
		for _, other := range list {
			if o, ok := other.(map[string]any); ok && o["name"] == name {
				return other
			}
		}
		return nil
	}
	return at(list, n)
}
