package api

import (
	"net/http"
	"strconv"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory/resource"
)

var paramRun = param{name: "run", in: "path", summary: "the id of a run", example: "01968f3c-1111-7000-8000-000000000001"}

func (s *Server) runRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/runs", id: "listRuns", tag: "runs", need: resource.RoleReader,
			summary: "List runs, the newest first", params: []param{paramSite, paramLimit, paramCursor},
			reply: resource.Page[resource.Run]{}, problems: []string{"invalid-cursor"}, serve: s.listRuns,
		},
		{
			method: http.MethodGet, path: "/v1/runs/{run}", id: "getRun", tag: "runs", need: resource.RoleReader,
			summary: "Show one run", params: []param{paramRun}, reply: resource.Run{}, etag: true,
			problems: []string{"not-found"}, serve: s.getRun,
		},
		{
			method: http.MethodGet, path: "/v1/runs/{run}/steps", id: "listSteps", tag: "runs", need: resource.RoleReader,
			summary: "The attempts of a run at its addresses, in the order they were started",
			detail:  "What steps put out is not shown: it can be secret.",
			params:  []param{paramRun, {name: "address", summary: "only attempts at this address", example: `machine.node["a"]`}, paramLimit, paramCursor},
			reply:   resource.Page[resource.Step]{}, problems: []string{"not-found", "invalid-cursor"}, serve: s.listSteps,
		},
	}
}

func (s *Server) listRuns(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	at, err := x.cursor()
	if err != nil {
		return err
	}
	var before uuid.UUID
	if at != "" {
		if before, err = uuid.Parse(at); err != nil {
			return problem("invalid-cursor", "This is no cursor of this server.").at("cursor")
		}
	}
	runs, err := s.cfg.Runs.Runs(x.ctx(), x.query["site"], before, limit+1)
	if err != nil {
		return err
	}
	page := resource.Page[resource.Run]{}
	page.Items, page.Next, err = pageOf(x, runs, limit, func(r resource.Run) string { return r.ID.String() })
	if err != nil {
		return err
	}
	return x.send(page)
}

// run reads the run that the path names.
func (x *exchange) run() (resource.Run, []resource.Step, error) {
	id, err := uuid.Parse(x.PathValue("run"))
	if err != nil {
		return resource.Run{}, nil, problem("not-found", "%q is no id of a run.", clip(x.PathValue("run"))).at("run")
	}
	return x.server.cfg.Runs.Run(x.ctx(), id)
}

func (s *Server) getRun(x *exchange) error {
	run, _, err := x.run()
	if err != nil {
		return err
	}
	return x.send(run)
}

func (s *Server) listSteps(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	after, err := x.cursorID()
	if err != nil {
		return err
	}
	_, steps, err := x.run()
	if err != nil {
		return err
	}
	// Steps are only ever appended, so their place in the list is a cursor.
	type placed struct {
		resource.Step
		place int64
	}
	var items []placed
	for i, st := range steps {
		place := int64(i + 1)
		if place > after && (x.query["address"] == "" || x.query["address"] == st.Address) {
			items = append(items, placed{st, place})
		}
	}
	kept, next, err := pageOf(x, items, limit, func(p placed) string { return strconv.FormatInt(p.place, 10) })
	if err != nil {
		return err
	}
	page := resource.Page[resource.Step]{Items: make([]resource.Step, len(kept)), Next: next}
	for i, p := range kept {
		page.Items[i] = p.Step
	}
	return x.send(page)
}
