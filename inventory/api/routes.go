package api

import (
	"net/http"
	"slices"

	"github.com/edge-provision/edge-provision/inventory/resource"
)

// table is everything that the server answers, in the order of the document that
// describes it.
func (s *Server) table() []route {
	return slices.Concat(
		s.machineRoutes(), s.factRoutes(), s.driftRoutes(), s.leaseRoutes(), s.imageRoutes(), s.runRoutes(), s.reactionRoutes(), s.eventRoutes(), s.timelineRoutes(),
		s.watchRoutes(), s.exportRoutes(), s.actionRoutes(), s.carryRoutes(), s.webhookRoutes(), s.sessionRoutes(), s.tokenRoutes(), s.healthRoutes(),
		[]route{
			s.problemRoute(),
			{
				method: http.MethodGet, path: "/v1/openapi.json", id: "getOpenAPI", tag: "meta", need: resource.RolePublic,
				summary: "This document", reply: resource.Document{}, etag: true,
				serve: func(x *exchange) error { return x.sendRaw(s.openAPI) },
			},
		},
	)
}
