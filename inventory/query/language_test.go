package query

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestDescribeListsWhatParseAccepts(t *testing.T) {
	l := Describe(Machine)
	if !slices.IsSortedFunc(l.Variables, func(a, b Variable) int { return strings.Compare(a.Path, b.Path) }) {
		t.Error("variables are not sorted by path")
	}
	for _, v := range l.Variables {
		var source string
		list, field, inList := strings.Cut(v.Path, "[*]")
		switch {
		case strings.Contains(field, "[*]"):
			t.Fatalf("%s: a list in a list needs another expression in this test", v.Path)
		case inList:
			source = "any([for x in " + list + " : missing(x" + field + ")])"
		case v.Type == "list":
			source = "length(" + v.Path + ") > 0"
		case v.Keys:
			source = "missing(" + v.Path + ".a)"
		case !strings.Contains(v.Path, "."):
			continue // a root by itself is no fact
		case v.Type == "object":
			continue // the catalog is asked for its parts
		default:
			source = "missing(" + v.Path + ")"
		}
		expr, diags := Parse(source, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%s): %v", source, diags)
			continue
		}
		if _, err := expr.Filter(SQLite, source, time.Time{}); (err == nil) != v.Queried {
			t.Errorf("%s: Queried = %t; Filter says %v", v.Path, v.Queried, err)
		}
	}
	for _, f := range l.Functions {
		if _, diags := Parse(f.Name+"(1, 2, 3, 4) == 1", Machine); !diags.HasErrors() || strings.Contains(diags.Error(), "no function") {
			t.Errorf("Parse(%s(…)) = %v; want a complaint about its arguments", f.Name, diags)
		}
	}
}

func TestDescribeTellsIndexedFacts(t *testing.T) {
	want := map[string]Variable{
		"facts.memory.bytes":        {Type: "number", Indexed: true, Queried: true},
		"facts.disks[*].model":      {Type: "string", Indexed: true, Queried: true},
		"facts.disks[*].vendor":     {Type: "string", Queried: true},
		"facts.cpu.flags":           {Type: "list"},
		"facts.disks":               {Type: "list", Queried: true},
		"machine.macs":              {Type: "list", Indexed: true, Queried: true},
		"machine.classes":           {Type: "list", Indexed: true, Queried: true},
		"machine.tags":              {Type: "object", Queried: true, Keys: true},
		"facts.system":              {Type: "object", Queried: true},
		"facts.chassis.asset_tag":   {Type: "string"},
		"machine.leases[*].address": {Type: "string", Indexed: true, Queried: true},
	}
	for _, v := range Describe(Machine).Variables {
		w, ok := want[v.Path]
		if !ok {
			continue
		}
		delete(want, v.Path)
		w.Path = v.Path
		if v != w {
			t.Errorf("Describe: %+v; want %+v", v, w)
		}
	}
	for path := range want {
		t.Errorf("Describe does not list %s", path)
	}
}
