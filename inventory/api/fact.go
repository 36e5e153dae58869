package api

import (
	"net/http"
	"strconv"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
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
			method: http.MethodGet, path: "/v1/machines/{machine}/history", id: "listHistory", tag: "facts", need: resource.RoleReader,
			summary: "The reports of a machine, the newest first, with what changed",
			params: []param{
				paramMachine, {name: "source", summary: "only this source's", example: "agent"}, paramLimit, paramCursor,
			},
			reply: resource.Page[resource.Report]{}, problems: []string{"not-found", "ambiguous", "invalid-cursor"}, serve: s.listHistory,
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
