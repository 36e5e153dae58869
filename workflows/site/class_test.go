package site

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClassesBelongToTheSite(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"site.hcl":   "site \"shop\" {}\nclass \"till\" {\n  match = facts.cpu.cores > 1\n}\nmodule \"m\" {\n  source = \"./m\"\n}\n",
		"m/main.hcl": "class \"own\" {\n  match = facts.cpu.cores > 1\n}\nmachine \"x\" {\n  match = class.till\n  address = \"10.0.0.1\"\n  ssh {}\n}\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s, diags := Load(filepath.Join(dir, "site.hcl"), testOptions())
	text := render(s, diags)
	for _, want := range []string{"Classes belong to the whole site, so they are declared beside its site block", "a module cannot refer to them"} {
		if !strings.Contains(strings.ReplaceAll(text, "\n", " "), want) {
			t.Errorf("Load() =\n%s\nwant %q", text, want)
		}
	}
}

func TestARuleIsShownWithItsCaret(t *testing.T) {
	s, diags := load([]source{{name: "site.hcl", bytes: []byte("site \"shop\" {}\nclass \"till\" {\n  match = facts.memory.byts > 1\n}\n")}}, "", testOptions())
	if text := render(s, diags); !strings.Contains(text, "site.hcl line 3") || !strings.Contains(text, "match = facts.memory.byts > 1") || !strings.Contains(text, `Did you mean "bytes"?`) {
		t.Errorf("Load() =\n%s\nwant the line, and what was meant", text)
	}
}
