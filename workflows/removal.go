package workflows

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/workflows/site"
)

// Holding is an address at which this catalog applied something.
type Holding struct {
	Address string
	// DependsOn are the addresses that it needed when it was applied.
	DependsOn []string
}

// Removal is what destroy has to decide about: what this catalog applied, and
// what hangs on what, whether site.hcl still declares it or not.
type Removal struct {
	site     *site.Site
	holdings map[string]bool
	order    []string            // every address, in the order of declaration
	above    map[string][]string // address → what depends on it
}

// NewRemoval puts together what is declared and what is held.
func NewRemoval(s *site.Site, holdings []Holding) *Removal {
	r := &Removal{site: s, holdings: map[string]bool{}, above: map[string][]string{}}
	graph := s.Graph()
	r.order = slices.Clone(graph.Nodes)
	for _, e := range graph.Edges {
		r.above[e.To] = append(r.above[e.To], e.From)
	}
	for _, h := range holdings {
		r.holdings[h.Address] = true
		for _, a := range append([]string{h.Address}, h.DependsOn...) {
			if !slices.Contains(r.order, a) {
				r.order = append(r.order, a)
			}
		}
		for _, d := range h.DependsOn {
			r.above[d] = append(r.above[d], h.Address)
		}
	}
	return r
}

// Select lists what has to go, what depends on other things first: the targets
// with all that depends on them, or everything when no target is given. A
// target is an address, or the beginning of addresses up to a dot or a bracket,
// such as workflow.platform. Targets that name nothing are errors.
func (r *Removal) Select(targets []string) ([]string, hcl.Diagnostics) {
	var diags hcl.Diagnostics
	chosen := map[string]bool{}
	if len(targets) == 0 {
		targets = r.order
	}
	for _, t := range targets {
		found := false
		for _, a := range r.order {
			if covers(t, a) {
				found = true
				r.add(chosen, a)
			}
		}
		if !found {
			diags = append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError, Summary: "Unknown address",
				Detail: fmt.Sprintf("%s is neither declared in this site nor was anything applied there. An address looks like workflow.platform.step.file.motd or machine.node[\"a\"]; quote it for the shell.", t),
			})
		}
	}
	return r.sorted(chosen), diags
}

// covers reports whether a target names an address or what it is inside of.
func covers(target, address string) bool {
	rest, ok := strings.CutPrefix(address, target)
	return ok && target != "" && (rest == "" || rest[0] == '.' || rest[0] == '[')
}

func (r *Removal) add(chosen map[string]bool, address string) {
	if chosen[address] {
		return
	}
	chosen[address] = true
	for _, a := range r.above[address] {
		r.add(chosen, a)
	}
}

// sorted puts what is held of the chosen into the order of removal: nothing
// comes before what depends on it.
func (r *Removal) sorted(chosen map[string]bool) []string {
	var out []string
	placed := map[string]bool{}
	var place func(string)
	place = func(address string) {
		if placed[address] {
			return
		}
		placed[address] = true
		for _, a := range r.above[address] {
			place(a)
		}
		if r.holdings[address] && chosen[address] {
			out = append(out, address)
		}
	}
	for _, a := range slices.Backward(r.order) {
		place(a)
	}
	return out
}

// Dependents lists what is held and needs address, through whatever is between
// them.
func (r *Removal) Dependents(address string) []string {
	all := map[string]bool{}
	r.add(all, address)
	delete(all, address)
	var out []string
	for a := range all {
		if r.holdings[a] {
			out = append(out, a)
		}
	}
	slices.Sort(out)
	return out
}

// Plan makes the plan of a removal from what was found at each selected
// address. What could not be asked is left alone, with everything below it.
func (r *Removal) Plan(catalog string, selected []string, found map[string]Action) Plan {
	p := Plan{Version: PlanVersion, Site: r.site.Name, Catalog: catalog}
	for _, address := range selected {
		a := found[address]
		a.Address, a.DependsOn = address, r.Dependents(address)
		if len(a.Loss) > 0 && a.DataConsent == "" {
			a.DataConsent = ConsentNeeded
		}
		p.Actions = append(p.Actions, a)
	}
	return p.Block()
}
