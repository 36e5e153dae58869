package api

import (
	"context"
	"maps"
	"net/http"
	"reflect"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

var paramMachine = param{
	name: "machine", in: "path", summary: "its id or the beginning of it, an address in site.hcl, a MAC in any usual form, a leased IP address, a serial number or a name",
	example: "52:54:00:04:21:01",
}

func (s *Server) machineRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/machines", id: "listMachines", tag: "machines", need: resource.RoleReader,
			summary: "List machines, page by page",
			detail: "A filter that an index can answer looks at few machines. Any other has a budget of rows and time for each page; a page that " +
				"used it up says `partial` and leads on with `next`.",
			params: []param{
				paramFilter, paramSite,
				{name: "sort", summary: "what to order by, with a minus for the greatest first; default `id`. Machines that lack it come last", enum: sortValues()},
				paramFields, paramLimit, paramCursor,
			},
			reply: resource.Page[resource.Machine]{}, problems: []string{"invalid-filter", "invalid-cursor", "too-expensive"},
			serve: s.listMachines,
		},
		{
			method: http.MethodGet, path: "/v1/count/machines", id: "countMachines", tag: "machines", need: resource.RoleReader,
			summary: "Count machines by state and drift", detail: "Of all sites. `/metrics` has the same by site.",
			reply: resource.MachineCounts{}, serve: s.countMachines,
		},
		{
			method: http.MethodGet, path: "/v1/machines/{machine}", id: "getMachine", tag: "machines", need: resource.RoleReader,
			summary: "Show one machine", params: []param{paramMachine, paramFields}, reply: resource.Machine{}, etag: true,
			problems: []string{"not-found", "ambiguous"}, serve: s.getMachine,
		},
		{
			method: http.MethodDelete, path: "/v1/machines/{machine}", id: "forgetMachine", tag: "machines", need: resource.RoleAdmin,
			summary: "Forget what is known of a machine's identity and hardware",
			detail:  "For a machine whose hardware was changed, or that is gone. The machine is not touched. Needs If-Match with the ETag of getMachine without `fields`.",
			params:  []param{paramMachine}, status: http.StatusNoContent, match: matchRequired,
			problems: []string{"not-found", "ambiguous", "changed", "precondition-required"}, serve: s.forgetMachine,
		},
		{
			method: http.MethodPatch, path: "/v1/machines/{machine}/tags", id: "changeTags", tag: "machines", need: resource.RoleOperator,
			summary: "Write tags on a machine, or take them off", detail: "Tags that are not named stay. With If-Match only if the machine is as it was read.",
			params: []param{paramMachine}, body: resource.TagChange{}, reply: resource.Machine{}, match: matchOptional, tagged: true,
			problems: []string{"not-found", "ambiguous", "changed", "invalid-body", "unsupported-media-type", "too-large"}, serve: s.changeTags,
		},
	}
}

// sortValues are the values of the parameter sort.
func sortValues() []string {
	var out []string
	for _, f := range store.SortFields() {
		out = append(out, f, "-"+f)
	}
	return out
}

func (s *Server) listMachines(x *exchange) error {
	fields, err := x.fields(reflect.TypeFor[resource.Machine]())
	if err != nil {
		return err
	}
	limit, err := x.limit()
	if err != nil {
		return err
	}
	_, f, err := x.filter()
	if err != nil {
		return err
	}
	page, err := s.cfg.Catalog.Page(x.ctx(), store.PageRequest{
		Site: x.query["site"], Filter: f, Sort: x.query["sort"], Cursor: x.query["cursor"], Limit: limit,
	})
	if err != nil {
		return pageProblem(err)
	}
	machines, err := s.complete(x.ctx(), fields, page.Machines)
	if err != nil {
		return err
	}
	items, err := choose(fields, machines)
	if err != nil {
		return err
	}
	return x.send(resource.Page[resource.Document]{Items: items, Next: page.Next, Examined: int64(page.Examined), Partial: page.Partial})
}

func (s *Server) countMachines(x *exchange) error {
	counts, err := s.cfg.Catalog.Count(x.ctx())
	if err != nil {
		return err
	}
	out := resource.MachineCounts{States: counts.States, Drift: counts.Drift}
	for _, n := range counts.States {
		out.Machines += n
	}
	return x.send(out)
}

// complete adds the facts to machines where fields asks for them.
func (s *Server) complete(ctx context.Context, fields selection, machines []inventory.Machine) ([]resource.Machine, error) {
	out := make([]resource.Machine, len(machines))
	ids := make([]uuid.UUID, len(machines))
	for i, m := range machines {
		out[i].Machine, ids[i] = m, m.ID
	}
	if !fields.names("facts") || len(ids) == 0 {
		return out, nil
	}
	facts, err := s.cfg.Catalog.FactsOf(ctx, ids...)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if f, ok := facts[out[i].ID]; ok {
			out[i].Facts = &f
		}
	}
	return out, nil
}

// machine finds the machine that the path names.
func (x *exchange) machine() (inventory.Machine, error) {
	m, err := x.server.find(x.ctx(), x.PathValue("machine"))
	if err == nil {
		x.target = m.ID.String()
	}
	return m, err
}

// find finds a machine by any of its names, at whatever site.
func (s *Server) find(ctx context.Context, name string) (inventory.Machine, error) {
	return s.cfg.Catalog.Find(ctx, "", name)
}

func (s *Server) getMachine(x *exchange) error {
	fields, err := x.fields(reflect.TypeFor[resource.Machine]())
	if err != nil {
		return err
	}
	m, err := x.machine()
	if err != nil {
		return err
	}
	out, err := s.complete(x.ctx(), fields, []inventory.Machine{m})
	if err != nil {
		return err
	}
	items, err := choose(fields, out)
	if err != nil {
		return err
	}
	return x.sendRaw(items[0])
}

// machineTag is the entity tag of getMachine without fields.
func machineTag(m inventory.Machine) (string, error) {
	raw, err := encode(resource.Machine{Machine: m})
	return etagOf(raw), err
}

// unchanged checks If-Match against a machine.
func (x *exchange) unchanged(m inventory.Machine) error {
	tag, err := machineTag(m)
	if err != nil {
		return err
	}
	if !matches(x.Request.Header.Get("If-Match"), tag, false) {
		return problem("changed", "Machine %s has changed since it was read; its ETag is %s now.", m.ID, tag).at("If-Match")
	}
	return nil
}

func (s *Server) changeTags(x *exchange) error {
	var want resource.TagChange
	if err := x.read(&want); err != nil {
		return err
	}
	m, err := x.machine()
	if err != nil {
		return err
	}
	for key, value := range want.Set {
		if err := inventory.CheckTag(key, value); err != nil {
			return problem("invalid-body", "%v.", err)
		}
	}
	m, err = s.cfg.Catalog.SetTags(x.ctx(), m.ID, want.Set, want.Remove, func(now inventory.Machine) error {
		if x.Request.Header.Get("If-Match") != "" {
			if err := x.unchanged(now); err != nil {
				return err
			}
		}
		if n := tagsAfter(now.Tags, want); n > inventory.MaxTags {
			return problem("invalid-body", "It would have %d tags; a machine has at most %d.", n, inventory.MaxTags)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return x.send(resource.Machine{Machine: m})
}

// tagsAfter is how many tags a machine has after a change.
func tagsAfter(tags map[string]string, change resource.TagChange) int {
	after := maps.Clone(tags)
	for _, key := range change.Remove {
		delete(after, key)
	}
	n := len(after)
	for key := range change.Set {
		if _, had := after[key]; !had {
			n++
		}
	}
	return n
}

func (s *Server) forgetMachine(x *exchange) error {
	m, err := x.machine()
	if err != nil {
		return err
	}
	if err := s.cfg.Catalog.ForgetIf(x.ctx(), m.ID, x.unchanged); err != nil {
		return err
	}
	x.WriteHeader(http.StatusNoContent)
	return nil
}
