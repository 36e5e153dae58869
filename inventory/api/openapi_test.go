package api_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// description is the OpenAPI document that a server serves.
func (s *shop) description() *openapi3.T {
	s.Helper()
	doc, err := openapi3.NewLoader().LoadFromData(s.get("/v1/openapi.json").body)
	if err != nil {
		s.Fatal(err)
	}
	return doc
}

func TestOpenAPIDocumentIsValid(t *testing.T) {
	s := open(t)
	doc := s.description()
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	if doc.OpenAPI != "3.1.0" || doc.Info.Version != "1.2.3" {
		t.Errorf("openapi = %s of version %s; want 3.1.0 of the program's version 1.2.3", doc.OpenAPI, doc.Info.Version)
	}
	seen := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			if op.OperationID == "" || op.Summary == "" || seen[op.OperationID] {
				t.Errorf("%s %s has the operationId %q and summary %q; want one of its own, and a summary", method, path, op.OperationID, op.Summary)
			}
			seen[op.OperationID] = true
			for _, m := range regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(path, -1) {
				if op.Parameters.GetByInAndName("path", m[1]) == nil {
					t.Errorf("%s %s does not describe %s", method, path, m[1])
				}
			}
		}
	}
	if len(seen) < 20 {
		t.Errorf("%d operations are described; want 20 or more", len(seen))
	}
}

// TestHeadersAndStatusesAreDescribed looks for those that a client acts upon.
func TestHeadersAndStatusesAreDescribed(t *testing.T) {
	doc := open(t).description()
	for _, want := range []struct {
		path, method string
		status       int
		header       string
	}{
		{"/v1/machines/{machine}", http.MethodGet, 200, "ETag"},
		{"/v1/machines/{machine}", http.MethodGet, 503, "Retry-After"},
		{"/v1/machines/{machine}/power", http.MethodPost, 202, "Location"},
		{"/readyz", http.MethodGet, 503, ""},
	} {
		answer := doc.Paths.Value(want.path).GetOperation(want.method).Responses.Status(want.status)
		if answer == nil || want.header != "" && answer.Value.Headers[want.header] == nil {
			t.Errorf("%s %s with %d: %+v; want it described, with the header %q", want.method, want.path, want.status, answer, want.header)
		}
	}
}

// TestAnswersAreAsDescribed holds real answers to the schemas of the document.
func TestAnswersAreAsDescribed(t *testing.T) {
	s := open(t)
	s.fill()
	doc := s.description()
	checked := map[string]bool{}
	for path, item := range doc.Paths.Map() {
		op := item.Get
		if op == nil || strings.HasPrefix(path, "/v1/watch/") || path == "/metrics" {
			continue
		}
		r := s.do(call{path: s.sample(path), role: "admin"})
		if r.status != http.StatusOK {
			t.Errorf("%s = %d: %s", path, r.status, r.body)
			continue
		}
		var v any
		if err := json.Unmarshal(r.body, &v); err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		content := op.Responses.Status(http.StatusOK).Value.Content.Get(r.header.Get("Content-Type"))
		if content == nil {
			t.Errorf("%s answers with %s, which is not described", path, r.header.Get("Content-Type"))
			continue
		}
		schema := content.Schema
		if err := doc.ValidateSchemaJSON(schema.Value, v); err != nil {
			t.Errorf("%s: %v\n%s", path, err, r.body)
		}
		checked[path] = true
	}
	problem := doc.Components.Schemas["Problem"]
	for _, path := range []string{"/v1/machines?filter=x", "/v1/machines/nobody"} {
		var v any
		if err := json.Unmarshal(s.get(path).body, &v); err != nil {
			t.Fatal(err)
		}
		if err := doc.ValidateSchemaJSON(problem.Value, v); err != nil {
			t.Errorf("the problem of %s: %v", path, err)
		}
	}
	if len(checked) < 15 {
		t.Errorf("answers of %d paths were compared (%v); want 15 or more", len(checked), slices.Sorted(maps.Keys(checked)))
	}
}

// sample is a path with its parameters filled from what fill made.
func (s *shop) sample(path string) string {
	return strings.NewReplacer(
		"{machine}", mac(1).String(), "{source}", "agent", "{digest}", sampleDigest, "{run}", s.journal.runs[0].ID.String(),
		"{problem}", "not-found", "{token}", "abcdefghijklmnop", "{operation}", s.operation.String(),
		"{reaction}", strconv.FormatInt(s.reaction, 10),
	).Replace(path)
}

func TestDescriptionNamesThePatternOfMACs(t *testing.T) {
	s := open(t)
	mac := s.description().Components.Schemas["Machine"].Value.Properties["macs"].Value.Items.Value
	if !regexp.MustCompile(mac.Pattern).MatchString(fmt.Sprint(inventoryMAC)) {
		t.Errorf("the pattern %q does not match %s", mac.Pattern, inventoryMAC)
	}
}
