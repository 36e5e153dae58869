package site

import (
	"fmt"
	"strings"
	"testing"
)

func TestRepetitionsAreBounded(t *testing.T) {
	const nest = `[for x in range(1024) : [for y in range(1024) : [for z in range(1024) : x + y + z]]]`
	literal := "[" + strings.Repeat("1,", 300) + "]"
	tests := map[string]string{
		"lists":         `locals { a = ` + nest + ` }`,
		"objects":       `locals { a = { for x in range(1024) : "${x}" => { for y in range(1024) : "${y}" => [for z in range(1024) : z] } } }`,
		"conditions":    `locals { a = [for x in range(1024) : x if length([for y in range(1024) : y if length([for z in range(1024) : z if false]) > 0]) > 0] }`,
		"templates":     `locals { a = "%{for x in range(1024)}%{for y in range(1024)}%{for z in range(1024)}${z}%{endfor}%{endfor}%{endfor}" }`,
		"splat keys":    "locals {\n l = range(1024)\n m = [local.l]\n a = local.l[*][length(local.l[*][length(local.l[*][0])])]\n b = [for x in local.l : [for y in local.l : local.l[*]]]\n}",
		"large results": `locals { a = [for x in range(1024) : join("", [for y in range(1024) : format("%0512d", y)])] }`,
		"swallowed":     `locals { a = try(` + nest + `, ` + nest + `) }`,
		"default":       `variable "v" { default = [for x in ` + literal + ` : [for y in ` + literal + ` : [for z in ` + literal + ` : z]]] }`,
		"requirement":   "machine \"m\" {\n address = \"10.0.0.1\"\n ssh {}\n require {\n condition = length(" + nest + ") > 0\n message = \"m\"\n }\n}",
	}
	for name, text := range tests {
		t.Run(name, func(t *testing.T) {
			_, diags := loadText(t, "site \"s\" {}\n"+text+"\n", testOptions())
			if !diags.HasErrors() {
				t.Fatal("the site loads; want an error")
			}
			if len(diags) > 3 {
				t.Errorf("%d diagnostics; want it said once", len(diags))
			}
			if got := fmt.Sprint(diags); name != "splat keys" && !strings.Contains(got, "Too many repetitions") {
				t.Errorf("diagnostics = %s; want too many repetitions", got)
			}
		})
	}
}

func TestOrdinaryRepetitionsAreNotRefused(t *testing.T) {
	text := `
site "s" {}
locals {
  grid = [for x in range(100) : [for y in range(100) : "${x}-${y}"]]
  flat = { for p in flatten(local.grid) : p => upper(p) if p != "1-1" }
  keys = local.grid[*][0]
}
output "n" {
  value = "${length(local.flat)} ${length(local.keys)}"
}
`
	s := mustLoad(t, text, testOptions())
	values, diags := s.OutputValues(Known{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	if got, want := Text(values["n"]), "9999 100"; strings.Trim(got, `"`) != want {
		t.Errorf("output = %s; want %s", got, want)
	}
}
