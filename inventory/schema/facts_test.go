package schema_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/schema"
)

func TestPublishedSchemaIsThatOfTheFacts(t *testing.T) {
	want, err := schema.Facts()
	if err != nil {
		t.Fatal(err)
	}
	compare(t, filepath.Join("..", "..", "docs", "facts.schema.json"), want)
}

// compiled is the schema in the hands of another program.
func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	raw, err := schema.Facts()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(schema.FactsID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(schema.FactsID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, document []byte) error {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	return s.Validate(v)
}

func TestDocumentsOfMachinesFitTheSchema(t *testing.T) {
	s := compiled(t)
	golden, err := filepath.Glob(filepath.Join("..", "probe", "testdata", "*.golden.json"))
	if err != nil || len(golden) == 0 {
		t.Fatalf("Glob = %v, %v; want the facts of captured machines", golden, err)
	}
	for _, file := range golden {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		f, err := inventory.DecodeFacts(raw)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		content, _, err := f.Canonical()
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(t, s, content); err != nil {
			t.Errorf("%s does not fit: %v", file, err)
		}
	}
	for _, document := range []string{`{"schema_version":1}`, `{"schema_version":1,"disks":[{"name":"sda","bytes":0,"signatures":null}]}`} {
		if err := validate(t, s, []byte(document)); err != nil {
			t.Errorf("%s does not fit: %v", document, err)
		}
	}
}

// TestSchemaRefusesWhatTheCatalogRefuses compares the schema with the decoder,
// where a schema can say what is wrong.
func TestSchemaRefusesWhatTheCatalogRefuses(t *testing.T) {
	s := compiled(t)
	for _, document := range []string{
		`{"schema_version":1,"colour":"red"}`,
		`{"schema_version":1,"memory":{"bytes":-1}}`,
		`{"schema_version":1,"memory":{"bytes":1.5}}`,
		`{"schema_version":1,"memory":{"bytes":"1"}}`,
		`{"schema_version":1,"disks":[{"name":"sda","bytes":1,"signatures":[],"owner":{"catalog":"x","colour":"red"}}]}`,
		`{"schema_version":1,"nics":[{"name":"eth0","mac":"nonsense"}]}`,
		`{"schema_version":2}`,
		`{"schema_version":1,"cpu":{"flags":["` + strings.Repeat("x", 5000) + `"]}}`,
		`{"schema_version":1,"cpu":{"flags":[` + strings.Repeat(`"x",`, 5000) + `"x"]}}`,
		`[]`,
	} {
		if _, err := inventory.DecodeFacts([]byte(document)); err == nil {
			t.Errorf("DecodeFacts(%.80s) = nil; want an error", document)
		}
		if err := validate(t, s, []byte(document)); err == nil {
			t.Errorf("the schema takes %.80s; want it refused, as the catalog does", document)
		}
	}
}

// TestEveryFactIsExplained also wants a unit for each number.
func TestEveryFactIsExplained(t *testing.T) {
	raw, err := schema.Facts()
	if err != nil {
		t.Fatal(err)
	}
	type property struct {
		Type        any
		Description string
	}
	type part struct {
		Description string
		Properties  map[string]property
	}
	var doc struct {
		part
		Defs map[string]part `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	parts := map[string]part{"Facts": doc.part}
	for name, p := range doc.Defs {
		parts[name] = p
	}
	if len(parts) < 10 {
		t.Fatalf("the schema has %d parts; want all of the facts", len(parts))
	}
	unit := regexp.MustCompile(`\bin (bytes|MHz|megabits per second|megatransfers per second)\b|\b(number|version) of\b`)
	for name, p := range parts {
		if p.Description == "" {
			t.Errorf("%s has no description", name)
		}
		for field, f := range p.Properties {
			if f.Description == "" {
				t.Errorf("%s.%s has no description", name, field)
			}
			if fmt.Sprint(f.Type) == "integer" && !unit.MatchString(f.Description) {
				t.Errorf("%s.%s is a number, and %q tells no unit", name, field, f.Description)
			}
		}
	}
}
