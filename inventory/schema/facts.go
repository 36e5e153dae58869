package schema

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"

	"github.com/edge-provision/edge-provision/inventory"
)

// FactsID names the schema of facts documents of this version.
const FactsID = "urn:edge-provision:facts:1"

// Facts is the JSON Schema (2020-12) of a facts document in its canonical form, as
// the API serves it and docs/facts.schema.json publishes it.
func Facts() ([]byte, error) {
	s := &Set{Refs: "#/$defs/", Strict: true}
	s.Of(reflect.TypeFor[inventory.Facts]())
	root, _ := s.Components["Facts"].(Object)
	delete(s.Components, "Facts")
	doc := maps.Clone(root)
	doc["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	doc["$id"] = FactsID
	doc["title"] = "Facts of a machine"
	doc["$defs"] = s.Components
	if properties, ok := doc["properties"].(Object); ok {
		if version, ok := properties["schema_version"].(Object); ok {
			version["const"] = inventory.SchemaVersion
			delete(version, "minimum")
		}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(doc)
	return b.Bytes(), err
}
