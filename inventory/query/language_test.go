package query

import (
	"os"
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
		case v.Type == "object":
			continue // by itself it can only be missing: see TestEveryObjectCanBeMissingOrIsRefusedOnce
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

// TestEveryObjectCanBeMissingOrIsRefusedOnce asks the catalog for each object by itself.
func TestEveryObjectCanBeMissingOrIsRefusedOnce(t *testing.T) {
	for _, v := range Describe(Machine).Variables {
		if v.Type != "object" || strings.Contains(v.Path, "[*]") {
			continue
		}
		source := "missing(" + v.Path + ")"
		expr, diags := Parse(source, Machine)
		if diags.HasErrors() {
			t.Errorf("Parse(%s): %v", source, diags)
			continue
		}
		_, err := expr.Filter(SQLite, source, time.Time{})
		if whole := v.Keys || slices.Contains(wholes, v.Path); whole != (err == nil) {
			t.Errorf("Filter(%s): %v; want it answered: %t", source, err, whole)
		}
		if err != nil && len(asDiagnostics(t, err)) != 1 {
			t.Errorf("Filter(%s) complains %d times; want once", source, len(asDiagnostics(t, err)))
		}
	}
}

// TestDocsListWhatQueriesRefuse finds every fact that the catalog does not keep in
// docs/query.md, by itself or by the object that it is in.
func TestDocsListWhatQueriesRefuse(t *testing.T) {
	docs, err := os.ReadFile("../../docs/query.md")
	if err != nil {
		t.Fatal(err)
	}
	named := func(path string) bool { return strings.Contains(string(docs), "`"+path+"`") }
	whole := ""
	for _, v := range Describe(Machine).Variables {
		if v.Queried || whole != "" && strings.HasPrefix(v.Path, whole+".") {
			continue
		}
		if !named(v.Path) {
			t.Errorf("docs/query.md does not say that the catalog refuses `%s`", v.Path)
		}
		if v.Type == "object" {
			whole = v.Path
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
		"machine.last_seen":         {Type: "time", Indexed: true, Queried: true},
		"machine.looked_at":         {Type: "time", Queried: true},
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
