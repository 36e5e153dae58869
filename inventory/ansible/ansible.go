// Package ansible writes machines as an inventory of Ansible: the JSON that a
// dynamic inventory script prints for --list and --host
// (https://docs.ansible.com/ansible/latest/dev_guide/developing_inventory.html).
package ansible

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// Host is a machine with what Ansible wants to know of it.
type Host struct {
	inventory.Machine
	Facts *inventory.Facts
	// Name is what playbooks call it: its host name, where a site declares one.
	// Made of the machine's address or id when empty.
	Name string
	// Address is where it answers; the zero address when that is not known, so
	// that Ansible resolves the name.
	Address netip.Addr
}

// Inventory is what --list prints.
type Inventory struct {
	groups map[string]*group
	vars   map[string]map[string]any
}

type group struct {
	Hosts    []string `json:"hosts,omitempty"`
	Children []string `json:"children,omitempty"`
}

// New puts machines into groups: site_NAME by site, state_NAME by state, and the
// name of their block in site.hcl with _ for what is no letter or digit. Two hosts
// that would have one name get the end of their ids after it.
func New(hosts []Host) (Inventory, error) {
	inv := Inventory{groups: map[string]*group{}, vars: map[string]map[string]any{}}
	names := map[string]int{}
	for _, h := range hosts {
		names[nameOf(h)]++
	}
	for _, h := range hosts {
		name := nameOf(h)
		if names[name] > 1 {
			name += "-" + h.ID.String()[len(h.ID.String())-12:]
		}
		var err error
		if inv.vars[name], err = vars(h); err != nil {
			return Inventory{}, err
		}
		for _, g := range groupsOf(h) {
			if inv.groups[g] == nil {
				inv.groups[g] = &group{}
			}
			inv.groups[g].Hosts = append(inv.groups[g].Hosts, name)
		}
	}
	for _, g := range inv.groups {
		slices.Sort(g.Hosts)
	}
	return inv, nil
}

// MarshalJSON is the answer to --list. With _meta in it Ansible does not ask for
// each host.
func (i Inventory) MarshalJSON() ([]byte, error) {
	all := &group{Children: []string{"ungrouped"}}
	out := map[string]any{"all": all, "_meta": map[string]any{"hostvars": i.vars}}
	for name, g := range i.groups {
		out[name] = g
		all.Children = append(all.Children, name)
	}
	slices.Sort(all.Children)
	return json.Marshal(out)
}

// Host is the answer to --host NAME.
func (i Inventory) Host(name string) (map[string]any, error) {
	v, ok := i.vars[name]
	if !ok {
		return nil, fmt.Errorf("the inventory has no host %q; --list shows those it has", name)
	}
	return v, nil
}

func nameOf(h Host) string {
	switch {
	case h.Name != "":
		return h.Name
	case h.Address.IsValid() && h.Machine.Address == "":
		return h.Address.String()
	case h.Machine.Address != "":
		return strings.Trim(word(strings.TrimPrefix(h.Machine.Address, "machine."), '-'), "-")
	}
	return "machine-" + h.ID.String()
}

// word replaces what is neither a letter nor a digit.
func word(s string, by rune) string {
	last := rune(0)
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			last = r
			return r
		}
		if last == by {
			return -1
		}
		last = by
		return by
	}, s)
}

func groupsOf(h Host) []string {
	groups := []string{"site_" + word(h.Site, '_'), "state_" + word(string(h.State), '_')}
	if h.Machine.Address != "" {
		block, _, _ := strings.Cut(h.Machine.Address, "[")
		groups = append(groups, strings.Trim(word(block, '_'), "_"))
	}
	return groups
}

// vars are what a playbook sees of a host. Its keys begin with edge_, but for
// those that Ansible itself reads. Ansible takes a string with {{ }} in a variable
// for a template, and a template runs commands on the computer of whoever plays the
// book; so what a machine says of itself goes out as data.
func vars(h Host) (map[string]any, error) {
	out := map[string]any{
		"edge_id": h.ID, "edge_site": h.Site, "edge_state": h.State, "edge_macs": h.MACs,
	}
	add := func(key string, empty bool, value any) {
		if !empty {
			out[key] = value
		}
	}
	add("edge_address", h.Machine.Address == "", h.Machine.Address)
	add("edge_serial", h.Serial == "", asData(h.Serial))
	add("edge_image", h.Image == "", h.Image)
	add("edge_host_key", h.HostKey == "", asData(h.HostKey))
	add("ansible_host", !h.Address.IsValid(), h.Address)
	if h.Facts == nil {
		return out, nil
	}
	facts, err := plain(h.Facts)
	if err != nil {
		return nil, fmt.Errorf("facts of machine %s: %w", h.ID, err)
	}
	out["edge_facts"] = asData(facts)
	return out, nil
}
