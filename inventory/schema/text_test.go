package schema_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write text.json and docs/facts.schema.json anew")

// described are the packages whose types are described, by their name.
var described = map[string]string{"inventory": "..", "resource": filepath.Join("..", "resource")}

// comments are the comments of a package's types and their fields.
func comments(t *testing.T, name, dir string, out map[string]string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			group, ok := decl.(*ast.GenDecl)
			if !ok || group.Tok != token.TYPE {
				continue
			}
			for _, spec := range group.Specs {
				typ, ok := spec.(*ast.TypeSpec)
				if !ok || !typ.Name.IsExported() {
					continue
				}
				structure, ok := typ.Type.(*ast.StructType)
				if !ok {
					continue
				}
				key := name + "." + typ.Name.Name
				note(out, key, group.Doc, typ.Doc, typ.Comment)
				for _, field := range structure.Fields.List {
					for _, n := range field.Names {
						if n.IsExported() {
							note(out, key+"."+n.Name, field.Doc, field.Comment)
						}
					}
				}
			}
		}
	}
}

func note(out map[string]string, key string, groups ...*ast.CommentGroup) {
	var words []string
	for _, g := range groups {
		words = append(words, strings.Fields(g.Text())...)
	}
	if len(words) > 0 {
		out[key] = strings.Join(words, " ")
	}
}

func TestTextsAreThoseOfTheSource(t *testing.T) {
	source := map[string]string{}
	for name, dir := range described {
		comments(t, name, dir, source)
	}
	var want bytes.Buffer
	e := json.NewEncoder(&want)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(source); err != nil {
		t.Fatal(err)
	}
	compare(t, "text.json", want.Bytes())
}

// compare holds a generated file to what it should be.
func compare(t *testing.T, file string, want []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is not that of the source: run make generate", file)
	}
}
