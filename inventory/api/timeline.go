package api

import (
	"net/http"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/timeline"
)

// Bounds of how many attempts a timeline shows.
const (
	defaultAttempts = 5
	maxAttempts     = 100
)

func (s *Server) timelineRoutes() []route {
	return []route{{
		method: http.MethodGet, path: "/v1/machines/{machine}/timeline", id: "getTimeline", tag: "events", need: resource.RoleReader,
		summary: "The attempts to bring a machine up, with the time each phase took, and where the machine stands",
		detail:  "From the newest 10,000 events of the machine. Attempts come oldest first, and the findings are about the newest.",
		params: []param{
			paramMachine,
			{name: "attempts", kind: number, summary: "only this many of the newest attempts, at most 100; default 5", example: "1"},
		},
		reply: resource.MachineTimeline{}, etag: true, problems: []string{"not-found", "ambiguous"}, serve: s.getTimeline,
	}}
}

func (s *Server) getTimeline(x *exchange) error {
	most, err := x.integer("attempts", defaultAttempts, 1, maxAttempts)
	if err != nil {
		return err
	}
	m, err := x.machine()
	if err != nil {
		return err
	}
	events, err := s.cfg.Catalog.Events(x.ctx(), store.EventFilter{Machine: m.ID})
	if err != nil {
		return err
	}
	out := resource.MachineTimeline{Machine: m.ID, Timeline: timeline.Trace(events), Findings: []timeline.Finding{}}
	out.Earlier = max(0, len(out.Attempts)-int(most))
	out.Attempts = out.Attempts[out.Earlier:]
	if len(events) > 0 {
		in := timeline.Input{Events: events, Now: s.cfg.Now(), Declared: m.Address != "", State: m.State}
		in.BMC, in.BMCAddress = lastBMC(events)
		out.Findings = timeline.Diagnose(in)
	}
	return x.send(out)
}

// lastBMC is the driver and address of the BMC that was called last: the API
// knows no site.hcl that would say which BMC a machine has.
func lastBMC(events []inventory.Event) (driver, address string) {
	for _, e := range slices.Backward(events) {
		if strings.HasPrefix(string(e.Kind), "bmc.") {
			return e.Attrs["driver"], e.Attrs["address"]
		}
	}
	return "", ""
}
