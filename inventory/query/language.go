package query

import (
	"maps"
	"slices"
	"strings"
)

// Language is what an expression can be made of, for programs that help a person
// write one.
type Language struct {
	// Variables are all paths that an expression over the root may name, sorted.
	Variables []Variable `json:"variables"`
	// Functions are those of the language, sorted by name.
	Functions []Function `json:"functions"`
}

// Variable is a path that an expression may name.
type Variable struct {
	// Path is as written in an expression: facts.memory.bytes. The fields of a
	// list's elements follow a "[*]": facts.disks[*].bytes.
	Path string `json:"path"`
	// Type is "condition", "number", "string", "object", "list" or "time".
	Type string `json:"type"`
	// Indexed says that a comparison with it narrows what the catalog looks at.
	Indexed bool `json:"indexed,omitempty"`
	// Queried says that the catalog can be asked for it; the others can be used
	// in site.hcl only. An object is Queried when any part of it is; by itself it can
	// only be missing, which the catalog tells when it keeps all of its values.
	Queried bool `json:"queried"`
	// Keys says that what follows is any key: machine.tags.KEY.
	Keys bool `json:"keys,omitempty"`
}

// Function is one function of the language.
type Function struct {
	Name string `json:"name"`
	// Arguments are as documentation writes them: "list, value".
	Arguments string `json:"arguments"`
	// Summary is one line about what it gives.
	Summary string `json:"summary"`
}

// Describe lists what an expression over a root can be made of.
func Describe(root Root) Language {
	var out Language
	types := rootTypes()
	for _, name := range rootNames(root) {
		out.Variables = describe(out.Variables, name, types[name], nil, "")
	}
	for _, name := range slices.Sorted(maps.Keys(units)) {
		out.Functions = append(out.Functions, Function{Name: name, Arguments: "number", Summary: unitSummary(name)})
	}
	out.Functions = append(out.Functions, ownHelp...)
	slices.SortFunc(out.Functions, func(a, b Function) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(out.Variables, func(a, b Variable) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// ownHelp are the language's own functions.
var ownHelp = []Function{
	{"all", "[for x in list : condition]", "true when the condition holds for every element"},
	{"any", "[for x in list : condition]", "true when the condition holds for some element"},
	{"changed", `facts.PATH, "7d"`, "true when the fact changed within that time"},
	{"contains", "list, value", "true when the list holds the value"},
	{"glob", "pattern, text", "true when all of the text matches: * is any run of characters, ? any one"},
	{"length", "list", "the number of elements"},
	{"missing", "facts.PATH", "true when it was not observed; missing(facts): no source ever reported anything"},
	{"older", `machine.TIME, "7d"`, "true when the time was that long ago or earlier: machine.last_seen, machine.looked_at"},
	{"regex", "pattern, text", "true when some part of the text matches (RE2)"},
}

func unitSummary(name string) string {
	switch name {
	case "MHz", "GHz":
		return "a frequency, in MHz"
	case "Mbps", "Gbps":
		return "a rate, in Mb/s"
	}
	return "a size, in bytes"
}

// describe appends a variable and all below it. in is the list that it is an
// element of, and field its path within the element.
func describe(out []Variable, path string, t *dataType, in *table, field string) []Variable {
	v := Variable{Path: path, Type: [...]string{"condition", "number", "string", "object", "list", "time"}[t.kind], Keys: t.values != nil}
	c, single := columns[path]
	if in != nil {
		c, single = in.columns[field]
	}
	v.Queried, v.Indexed = single || t.values != nil, single && c.index != notIndexed
	at := len(out)
	out = append(out, v)
	switch t.kind {
	case kindObject:
		for _, name := range t.names() {
			below := name
			if field != "" {
				below = field + "." + name
			}
			out = describe(out, path+"."+name, t.fields[name].typ, in, below)
		}
	case kindList:
		rows, kept := tables[path]
		out[at].Queried = kept
		if t.elem.kind == kindObject {
			for _, name := range t.elem.names() {
				out = describe(out, path+"[*]."+name, t.elem.fields[name].typ, &rows, name)
			}
		} else if kept {
			out[at].Indexed = rows.columns[""].index != notIndexed
		}
	}
	out[at].Queried = out[at].Queried || slices.ContainsFunc(out[at+1:], func(b Variable) bool { return b.Queried })
	return out
}
