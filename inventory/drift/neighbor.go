package drift

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// neighborList is the path of the neighbors, which have a comparison of their own:
// nobody can tell that nothing is connected, only what is.
const neighborList = "neighbors"

// cable is the end of a cable, as a change has it.
type cable struct {
	Chassis     string `json:"chassis,omitempty"`
	Port        string `json:"port,omitempty"`
	Description string `json:"port_description,omitempty"`
	System      string `json:"system,omitempty"`
}

// compareNeighbors lists the ports that are connected to something else. A port on
// which nothing was heard, then or now, is not compared. Behind a hub are several, of
// whom each look hears some: it is another place only where none of them is heard.
func compareNeighbors(was, is []inventory.Neighbor) []inventory.Change {
	before, after := byMAC(was), byMAC(is)
	var out []inventory.Change
	for _, mac := range slices.Sorted(maps.Keys(after)) {
		old := before[mac]
		if len(old) == 0 {
			continue
		}
		now := after[mac]
		known := slices.ContainsFunc(now, func(n cable) bool {
			return slices.ContainsFunc(old, func(o cable) bool { return o.Chassis == n.Chassis && o.Port == n.Port })
		})
		if !known {
			out = append(out, inventory.Change{Path: neighborList + "[" + strconv.Quote(mac) + "]", Old: cables(old), New: cables(now)})
		}
	}
	return out
}

// byMAC are the neighbors of each port, in one order.
func byMAC(all []inventory.Neighbor) map[string][]cable {
	out := map[string][]cable{}
	for _, n := range all {
		mac := n.MAC.String()
		out[mac] = append(out[mac], cable{Chassis: n.Chassis, Port: n.Port, Description: n.PortDescription, System: n.System})
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b cable) int { return strings.Compare(a.Chassis+"\x00"+a.Port, b.Chassis+"\x00"+b.Port) })
	}
	return out
}

// cables is a JSON list.
func cables(list []cable) string {
	raw, err := json.Marshal(list)
	if err != nil {
		return "[]" // strings always marshal
	}
	return string(raw)
}

// describeNeighbor is one line for a person about a change of compareNeighbors; mac
// is quoted.
func describeNeighbor(mac string, c inventory.Change) string {
	var old, now []cable
	if json.Unmarshal([]byte(c.Old), &old) != nil || json.Unmarshal([]byte(c.New), &now) != nil || len(old) == 0 || len(now) == 0 {
		return fmt.Sprintf("network port %s is connected to %s; it was to %s", mac, c.New, c.Old)
	}
	return fmt.Sprintf("network port %s is connected to %s; it was to %s", mac, ends(now, old), ends(old, now))
}

// ends names the ends of cables: port "Gi1/0/7" of "sw-1". Where others have the
// same name for another switch, it says which.
func ends(list, others []cable) string {
	parts := make([]string, len(list))
	for i, c := range list {
		port := strconv.Quote(c.Port)
		if c.Description != "" && c.Description != c.Port {
			port += " (" + c.Description + ")"
		}
		system := strconv.Quote(c.System)
		twin := slices.ContainsFunc(others, func(o cable) bool { return o.System == c.System && o.Chassis != c.Chassis })
		if c.System == "" {
			system = "switch " + c.Chassis
		} else if twin {
			system += " (" + c.Chassis + ")"
		}
		parts[i] = "port " + port + " of " + system
	}
	return strings.Join(parts, ", ")
}

// Learn completes a snapshot's facts with what its network ports are connected to
// now, as far as the snapshot says nothing of that port. more is false when there is
// nothing to add.
func Learn(frozen, now inventory.Facts) (facts inventory.Facts, more bool) {
	facts = frozen
	facts.Neighbors = slices.Clone(frozen.Neighbors)
	for _, n := range now.Neighbors {
		same := func(other inventory.Neighbor) bool { return other.MAC == n.MAC }
		port := slices.ContainsFunc(frozen.NICs, func(p inventory.NIC) bool { return p.MAC == n.MAC })
		if port && !slices.ContainsFunc(frozen.Neighbors, same) {
			facts.Neighbors, more = append(facts.Neighbors, n), true
		}
	}
	return facts, more
}
