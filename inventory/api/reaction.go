package api

import (
	"net/http"
	"reflect"
	"strconv"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (s *Server) reactionRoutes() []route {
	states := make([]string, len(inventory.ReactionStates()))
	for i, state := range inventory.ReactionStates() {
		states[i] = string(state)
	}
	fields := param{name: "fields", summary: "comma-separated paths of the fields to send; default all", example: "id,machine,class,state"}
	return []route{
		{
			method: http.MethodGet, path: "/v1/reactions", id: "listReactions", tag: "reactions", need: resource.RoleReader,
			summary: "List what classes started or will start, the newest first",
			detail:  "Each change of one is an event of kind `machine.reaction`, whose `reaction` is the id.",
			params: []param{
				paramSite,
				{name: "machine", summary: "only this machine's; named as in a path"},
				{name: "class", summary: "only this class's, by its name in site.hcl", example: "till"},
				{name: "state", summary: "only those in this state", enum: states},
				fields, paramLimit, paramCursor,
			},
			reply: resource.Page[inventory.Reaction]{}, problems: []string{"not-found", "ambiguous", "invalid-cursor"}, serve: s.listReactions,
		},
		{
			method: http.MethodGet, path: "/v1/reactions/{reaction}", id: "getReaction", tag: "reactions", need: resource.RoleReader,
			summary: "Show one of them",
			params:  []param{{name: "reaction", in: "path", summary: "the id of a reaction", example: "42"}, fields},
			reply:   inventory.Reaction{}, etag: true, problems: []string{"not-found"}, serve: s.getReaction,
		},
	}
}

func (s *Server) listReactions(x *exchange) error {
	fields, err := x.fields(reflect.TypeFor[inventory.Reaction]())
	if err != nil {
		return err
	}
	limit, err := x.limit()
	if err != nil {
		return err
	}
	before, err := x.cursorID()
	if err != nil {
		return err
	}
	f := store.ReactionFilter{Site: x.query["site"], Class: x.query["class"], State: inventory.ReactionState(x.query["state"])}
	if name, ok := x.query["machine"]; ok {
		m, err := s.find(x.ctx(), name)
		if err != nil {
			return err
		}
		f.Machine = m.ID
	}
	rows, err := s.cfg.Catalog.ReactionPage(x.ctx(), f, before, limit+1)
	if err != nil {
		return err
	}
	kept, next, err := pageOf(x, rows, limit, func(r inventory.Reaction) string { return strconv.FormatInt(r.ID, 10) })
	if err != nil {
		return err
	}
	items, err := choose(fields, kept)
	if err != nil {
		return err
	}
	return x.send(resource.Page[resource.Document]{Items: items, Next: next})
}

func (s *Server) getReaction(x *exchange) error {
	fields, err := x.fields(reflect.TypeFor[inventory.Reaction]())
	if err != nil {
		return err
	}
	name := x.PathValue("reaction")
	id, err := strconv.ParseInt(name, 10, 64)
	if err != nil {
		return problem("not-found", "%q is no id of a reaction.", clip(name)).at("reaction")
	}
	r, err := s.cfg.Catalog.Reaction(x.ctx(), id)
	if err != nil {
		return err
	}
	items, err := choose(fields, []inventory.Reaction{r})
	if err != nil {
		return err
	}
	return x.sendRaw(items[0])
}
