package api

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// paramsEvents select events, of a list or a watch.
var paramsEvents = []param{
	{name: "machine", summary: "only this machine's, also from before it was known; named as in a path"},
	{name: "mac", summary: "only of this MAC, in any usual form", example: "52-54-00-04-21-01"},
	paramSite,
	{name: "run", summary: "only of this run"},
	{name: "kind", summary: "comma-separated kinds; default all but `machine.changed` and `machine.removed`. The kinds are " + strings.Join(kindNames(), ", "), example: "dhcp.ack,agent.facts"},
}

func (s *Server) eventRoutes() []route {
	list := append([]param{
		{name: "order", summary: "`oldest` (default) or `newest` first", enum: []string{"oldest", "newest"}},
		{name: "since", kind: moment, summary: "only what happened then or later", example: "2026-11-21T12:00:00Z"},
		{name: "until", kind: moment, summary: "only what happened then or earlier", example: "2026-11-21T18:00:00Z"},
		paramLimit, paramCursor,
	}, paramsEvents...)
	return []route{{
		method: http.MethodGet, path: "/v1/events", id: "listEvents", tag: "events", need: resource.RoleReader,
		summary: "List events in the order they were committed", params: list,
		reply: resource.Page[inventory.Event]{}, problems: []string{"not-found", "ambiguous", "invalid-cursor"}, serve: s.listEvents,
	}}
}

// eventFilter reads the parameters that select events.
func (x *exchange) eventFilter() (f store.EventFilter, err error) {
	f.Site = x.query["site"]
	if id, ok := x.query["run"]; ok {
		run, err := uuid.Parse(id)
		if err != nil {
			return f, problem("invalid-parameter", "run=%q is no id of a run.", clip(id)).at("run")
		}
		f.Run = run.String()
	}
	if text, ok := x.query["mac"]; ok {
		if f.MAC, err = inventory.ParseMAC(text); err != nil {
			return f, problem("invalid-parameter", "%v.", err).at("mac")
		}
	}
	if name, ok := x.query["machine"]; ok {
		m, err := x.server.find(x.ctx(), name)
		if err != nil {
			return f, err
		}
		f.Machine = m.ID
	}
	if kinds, ok := x.query["kind"]; ok {
		for kind := range strings.SplitSeq(kinds, ",") {
			f.Kinds = append(f.Kinds, inventory.EventKind(strings.TrimSpace(kind)))
		}
		if complaint := misspelt(f.Kinds); complaint != "" {
			return f, problem("invalid-parameter", "kind: %s", complaint).at("kind")
		}
	}
	if f.Since, err = x.moment("since"); err != nil {
		return f, err
	}
	f.Until, err = x.moment("until")
	return f, err
}

// misspelt says what is wrong with the kinds that a client names, which would select
// nothing for ever; nothing where they are right.
func misspelt(kinds []inventory.EventKind) string {
	if len(kinds) > maxFields {
		return fmt.Sprintf("%d kinds are more than the %d that are accepted.", len(kinds), maxFields)
	}
	for _, k := range kinds {
		if !slices.Contains(inventory.EventKinds(), k) {
			return strings.TrimSpace(fmt.Sprintf("%q is no kind of events. %s", clip(string(k)), suggest(string(k), kindNames())))
		}
	}
	return ""
}

func kindNames() []string {
	names := make([]string, len(inventory.EventKinds()))
	for i, k := range inventory.EventKinds() {
		names[i] = string(k)
	}
	return names
}

func (s *Server) listEvents(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	cursor, err := x.cursorID()
	if err != nil {
		return err
	}
	f, err := x.eventFilter()
	if err != nil {
		return err
	}
	events, err := s.cfg.Catalog.EventPage(x.ctx(), f, cursor, limit+1, x.query["order"] == "newest")
	if err != nil {
		return err
	}
	page := resource.Page[inventory.Event]{}
	page.Items, page.Next, err = pageOf(x, events, limit, func(e inventory.Event) string { return strconv.FormatInt(e.ID, 10) })
	if err != nil {
		return err
	}
	return x.send(page)
}
