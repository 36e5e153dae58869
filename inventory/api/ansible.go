package api

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/ansible"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (s *Server) exportRoutes() []route {
	return []route{
		{
			method: http.MethodGet, path: "/v1/ansible/inventory", id: "getAnsibleInventory", tag: "export", need: resource.RoleReader,
			summary: "Machines as a dynamic inventory of Ansible",
			detail:  "What an inventory script prints for `--list`, host variables included; with `host` what it prints for `--host`.",
			params: []param{
				paramFilter, paramSite, {name: "host", summary: "only the variables of this host"},
			},
			reply: resource.Document{}, etag: true, problems: []string{"invalid-filter", "not-found", "too-expensive"}, serve: s.getAnsible,
		},
		{
			method: http.MethodGet, path: "/v1/prometheus/targets", id: "listTargets", tag: "export", need: resource.RoleReader,
			summary: "HTTP service discovery for Prometheus",
			detail: "Without `port` the one target is this server's own /metrics. With it the machines that a filter selects, each at that port of the address at which " +
				"it answers; one whose address is not known is left out.",
			params: []param{
				{name: "port", kind: number, summary: "TCP port to scrape on machines", example: "9100"}, paramFilter, paramSite,
			},
			reply: []resource.Target{}, problems: []string{"invalid-filter", "too-expensive"}, serve: s.listTargets,
		},
	}
}

// maxExport bounds what is written as one document without pages.
const maxExport = 20_000

// each reads every machine that the request's filter selects.
func (s *Server) each(x *exchange) ([]inventory.Machine, error) {
	_, f, err := x.filter()
	if err != nil {
		return nil, err
	}
	var out []inventory.Machine
	for cursor := ""; ; {
		page, err := s.cfg.Catalog.Page(x.ctx(), store.PageRequest{Site: x.query["site"], Filter: f, Cursor: cursor, Limit: store.MaxPageLimit})
		if err != nil {
			return nil, pageProblem(err)
		}
		out = append(out, page.Machines...)
		if len(out) > maxExport {
			return nil, problem("too-expensive", "More than %d machines are selected, and this form has no pages. Give a site or a filter.", maxExport)
		}
		if cursor = page.Next; cursor == "" {
			return out, nil
		}
	}
}

// addresses finds where machines answer: at the address that the site declares,
// else at the one that they leased last.
func (s *Server) addresses(ctx context.Context, machines []inventory.Machine) ([]netip.Addr, error) {
	leased, err := LeasedAddresses(ctx, s.cfg.Catalog, machines)
	if err != nil {
		return nil, err
	}
	for i, m := range machines {
		if declared := s.cfg.Address(m); declared.IsValid() {
			leased[i] = declared
		}
	}
	return leased, nil
}

// LeasedAddresses are the addresses that machines leased last, also when the lease
// has ended since: an installed machine keeps its address by itself. The zero
// address is of one that never leased any.
func LeasedAddresses(ctx context.Context, catalog *store.Store, machines []inventory.Machine) ([]netip.Addr, error) {
	type held struct {
		at netip.Addr
		by time.Time
	}
	of := map[inventory.MAC]held{}
	for after := 0; ; {
		leases, ids, err := catalog.LeasePage(ctx, store.LeaseFilter{State: inventory.LeaseActive}, after, store.MaxPageLimit)
		if err != nil {
			return nil, err
		}
		for _, l := range leases {
			if at, err := netip.ParseAddr(l.Address); err == nil && l.Starts.After(of[l.MAC].by) {
				of[l.MAC] = held{at, l.Starts}
			}
		}
		if len(ids) < store.MaxPageLimit {
			break
		}
		after = ids[len(ids)-1]
	}
	out := make([]netip.Addr, len(machines))
	for i, m := range machines {
		var best held
		for _, mac := range m.MACs {
			if h := of[mac]; h.by.After(best.by) {
				best = h
			}
		}
		out[i] = best.at
	}
	return out, nil
}

func (s *Server) getAnsible(x *exchange) error {
	machines, err := s.each(x)
	if err != nil {
		return err
	}
	addresses, err := s.addresses(x.ctx(), machines)
	if err != nil {
		return err
	}
	complete, err := s.complete(x.ctx(), selection{"facts": nil}, machines)
	if err != nil {
		return err
	}
	hosts := make([]ansible.Host, len(machines))
	for i, m := range machines {
		hosts[i] = ansible.Host{Machine: m, Facts: complete[i].Facts, Name: s.cfg.Hostname(m), Address: addresses[i]}
	}
	list, err := ansible.New(hosts)
	if err != nil {
		return err
	}
	name, one := x.query["host"]
	if !one {
		return x.send(list)
	}
	vars, err := list.Host(name)
	if err != nil {
		return problem("not-found", "%v.", err).at("host")
	}
	return x.send(vars)
}
