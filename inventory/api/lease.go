package api

import (
	"net/http"
	"strconv"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (s *Server) leaseRoutes() []route {
	return []route{{
		method: http.MethodGet, path: "/v1/leases", id: "listLeases", tag: "leases", need: resource.RoleReader,
		summary: "List leases, ended ones too",
		params: []param{
			{name: "network", summary: "only this network's, by its address in site.hcl", example: "network.edge"},
			{name: "machine", summary: "only this machine's; named as in a path"},
			{name: "state", summary: "only those in this state", enum: []string{string(inventory.LeaseActive), string(inventory.LeaseReleased), string(inventory.LeaseDeclined)}},
			paramLimit, paramCursor,
		},
		reply: resource.Page[inventory.Lease]{}, problems: []string{"not-found", "ambiguous", "invalid-cursor"}, serve: s.listLeases,
	}}
}

func (s *Server) listLeases(x *exchange) error {
	limit, err := x.limit()
	if err != nil {
		return err
	}
	after, err := x.cursorID()
	if err != nil {
		return err
	}
	f := store.LeaseFilter{Network: x.query["network"], State: inventory.LeaseState(x.query["state"])}
	page := resource.Page[inventory.Lease]{Items: []inventory.Lease{}}
	if name, ok := x.query["machine"]; ok {
		m, err := s.find(x.ctx(), name)
		if err != nil {
			return err
		}
		if f.MACs = m.MACs; len(f.MACs) == 0 {
			return x.send(page)
		}
	}
	leases, ids, err := s.cfg.Catalog.LeasePage(x.ctx(), f, int(after), limit+1)
	if err != nil {
		return err
	}
	if len(leases) > limit {
		leases = leases[:limit]
		if page.Next, err = x.next(strconv.Itoa(ids[limit-1])); err != nil {
			return err
		}
	}
	page.Items = append(page.Items, leases...)
	return x.send(page)
}
