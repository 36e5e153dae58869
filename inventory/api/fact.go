package api

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/manual"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (s *Server) factRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/machines/{machine}/facts", id: "getFacts", tag: "facts", need: resource.RoleReader,
			summary: "The current facts of a machine, merged and by source", params: []param{paramMachine}, reply: resource.MachineFacts{}, etag: true,
			problems: []string{"not-found", "ambiguous"}, serve: s.getFacts,
		},
		{
			method: http.MethodGet, path: "/v1/machines/{machine}/facts/{source}", id: "getSourceFacts", tag: "facts", need: resource.RoleReader,
			summary: "What one source saw last",
			params:  []param{paramMachine, {name: "source", in: "path", summary: "agent, redfish, ipmi, lldp, cluster or manual", example: "agent"}},
			reply:   inventory.Document{}, etag: true, problems: []string{"not-found", "ambiguous"}, serve: s.getSourceFacts,
		},
		{
			method: http.MethodPatch, path: "/v1/machines/{machine}/facts/manual", id: "changeFacts", tag: "facts", need: resource.RoleOperator,
			summary: "Write facts that no program observed, or take them away",
			detail: "They are the source `manual`; docs/catalog.md says where it is believed before others. Facts that are not named stay. The answer has all that " +
				"people wrote. With If-Match only if that is as getSourceFacts of `manual` answered it.",
			params: []param{paramMachine}, body: resource.FactEdit{}, reply: inventory.Facts{}, match: matchOptional,
			problems: []string{"not-found", "ambiguous", "conflict", "changed", "invalid-body", "unsupported-media-type", "too-large"}, serve: s.changeFacts,
		},
		{
			method: http.MethodGet, path: "/v1/machines/{machine}/history", id: "listHistory", tag: "facts", need: resource.RoleReader,
			summary: "The reports of a machine, the newest first, with what changed",
			params: []param{
				paramMachine, {name: "source", summary: "only this source's", example: "agent"}, paramLimit, paramCursor,
			},
			reply: resource.Page[resource.Report]{}, problems: []string{"not-found", "ambiguous", "invalid-cursor"}, serve: s.listHistory,
		},
		{
			method: http.MethodGet, path: "/v1/schemas/facts", id: "getFactsSchema", tag: "facts", need: resource.RolePublic,
			summary: "The JSON Schema (2020-12) of a facts document", reply: resource.Document{}, media: "application/schema+json", etag: true,
			serve: func(x *exchange) error { return x.sendRaw(s.factsSchema) },
		},
	}
}

func (s *Server) getFacts(x *exchange) error {
	m, err := x.machine()
	if err != nil {
		return err
	}
	documents, err := s.cfg.Catalog.Facts(x.ctx(), m.ID)
	if err != nil {
		return err
	}
	bySource := map[inventory.Source]inventory.Facts{}
	for source, d := range documents {
		bySource[source] = d.Facts
	}
	return x.send(resource.MachineFacts{Machine: m.ID, Facts: inventory.Merge(bySource), Sources: documents})
}

func (s *Server) getSourceFacts(x *exchange) error {
	m, err := x.machine()
	if err != nil {
		return err
	}
	documents, err := s.cfg.Catalog.Facts(x.ctx(), m.ID)
	if err != nil {
		return err
	}
	d, ok := documents[inventory.Source(x.PathValue("source"))]
	if !ok {
		return problem("not-found", "Nothing was seen of machine %s by %q. %s", m.ID, clip(x.PathValue("source")), seenBy(documents))
	}
	return x.send(d)
}

func (s *Server) changeFacts(x *exchange) error {
	var want resource.FactEdit
	if err := x.read(&want); err != nil {
		return err
	}
	m, err := x.machine()
	if err != nil {
		return err
	}
	written, _, err := s.cfg.Catalog.EditFacts(x.ctx(), m.ID, func(f *inventory.Facts) error {
		return manual.Apply(f, texts(want.Set), want.Remove)
	}, x.unwritten(m))
	var refused *manual.Error
	var conflict *store.ConflictError
	switch {
	case errors.As(err, &refused):
		return problem("invalid-body", "%v.", refused)
	case errors.As(err, &conflict):
		return problem("conflict", "Machine %s of this site has the serial number %q.", conflict.B, clip(conflict.Seen))
	case err != nil:
		return err
	}
	return x.send(written)
}

// texts are values of facts as manual.Set takes them: a string is its content, all
// else stands as in JSON.
func texts(values map[string]json.RawMessage) map[string]string {
	out := make(map[string]string, len(values))
	for path, raw := range values {
		out[path] = string(raw)
		var s string
		if json.Unmarshal(raw, &s) == nil { // null is the empty text, which Set refuses
			out[path] = s
		}
	}
	return out
}

// unwritten checks If-Match against what people wrote of a machine, which is
// answered by getSourceFacts.
func (x *exchange) unwritten(m inventory.Machine) func(*inventory.Document) error {
	given := x.Request.Header.Get("If-Match")
	if given == "" {
		return nil
	}
	return func(written *inventory.Document) error {
		if written == nil {
			return problem("changed", "Nothing is written of machine %s, so there is nothing that If-Match could be the ETag of.", m.ID).at("If-Match")
		}
		raw, err := encode(*written)
		if err != nil {
			return err
		}
		if tag := etagOf(raw); !matches(given, tag, false) {
			return problem("changed", "The facts that are written of machine %s have changed since they were read; their ETag is %s now.", m.ID, tag).at("If-Match")
		}
		return nil
	}
}

func seenBy(documents map[inventory.Source]inventory.Document) string {
	if len(documents) == 0 {
		return "It was never inspected."
	}
	text := "It was seen by"
	for i, name := range sortedKeys(byName(documents)) {
		if i > 0 {
			text += ","
		}
		text += " " + name
	}
	return text + "."
}

func byName(documents map[inventory.Source]inventory.Document) map[string]bool {
	out := map[string]bool{}
	for source := range documents {
		out[string(source)] = true
	}
	return out
}

// maxHistory bounds a page of history: each report is a whole document.
const maxHistory = 100

func (s *Server) listHistory(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	limit = min(limit, maxHistory)
	before, err := x.cursorID()
	if err != nil {
		return err
	}
	m, err := x.machine()
	if err != nil {
		return err
	}
	reports, err := s.cfg.Catalog.Reports(x.ctx(), m.ID, inventory.Source(x.query["source"]), int(before), limit+1)
	if err != nil {
		return err
	}
	kept := reports[:min(limit, len(reports))]
	page := resource.Page[resource.Report]{Items: make([]resource.Report, len(kept))}
	for i, r := range kept {
		page.Items[i].Document = r.Document
		if r.Before != nil {
			page.Items[i].Changes = inventory.Diff(*r.Before, r.Facts)
		}
	}
	if len(reports) > limit {
		if page.Next, err = x.next(strconv.Itoa(kept[limit-1].ID)); err != nil {
			return err
		}
	}
	return x.send(page)
}
