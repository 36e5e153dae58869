package drift

import (
	"slices"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
)

func TestACableInAnotherPortIsTold(t *testing.T) {
	one, two := inventory.MAC{2, 0, 0, 0, 0, 1}, inventory.MAC{2, 0, 0, 0, 0, 2}
	end := func(mac inventory.MAC, system, port string) inventory.Neighbor {
		return inventory.Neighbor{MAC: mac, Chassis: "id of " + system, Port: port, System: system}
	}
	was := []inventory.Neighbor{end(one, "sw-1", "Gi1/0/7")}
	for _, test := range []struct {
		name    string
		was, is []inventory.Neighbor
		want    string
	}{
		{"it is where it was", was, was, ""},
		{"nothing was heard", was, nil, ""},
		{"nothing was heard on that port", was, []inventory.Neighbor{end(two, "sw-1", "Gi1/0/8")}, ""},
		{"nothing was heard before", nil, was, ""},
		{
			"it is in another port", was,
			[]inventory.Neighbor{end(one, "sw-1", "Gi1/0/8")},
			`network port "02:00:00:00:00:01" is connected to port "Gi1/0/8" of "sw-1"; it was to port "Gi1/0/7" of "sw-1"`,
		},
		{
			"it is in another switch", was,
			[]inventory.Neighbor{end(one, "sw-2", "Gi1/0/7")},
			`network port "02:00:00:00:00:01" is connected to port "Gi1/0/7" of "sw-2"; it was to port "Gi1/0/7" of "sw-1"`,
		},
		{
			"another one is heard there too", was, []inventory.Neighbor{was[0], end(one, "sw-2", "Gi1/0/7")}, "",
		},
		{
			"the switch was replaced by one of its name", was,
			[]inventory.Neighbor{{MAC: one, Chassis: "00:1b:21:00:00:0a", Port: "Gi1/0/7", System: "sw-1"}},
			`network port "02:00:00:00:00:01" is connected to port "Gi1/0/7" of "sw-1" (00:1b:21:00:00:0a); it was to port "Gi1/0/7" of "sw-1" (id of sw-1)`,
		},
		{
			"two cables were swapped",
			append(slices.Clone(was), end(two, "sw-1", "Gi1/0/8")),
			[]inventory.Neighbor{end(one, "sw-1", "Gi1/0/8"), end(two, "sw-1", "Gi1/0/7")},
			"network port \"02:00:00:00:00:01\" is connected to port \"Gi1/0/8\" of \"sw-1\"; it was to port \"Gi1/0/7\" of \"sw-1\"\n" +
				"network port \"02:00:00:00:00:02\" is connected to port \"Gi1/0/7\" of \"sw-1\"; it was to port \"Gi1/0/8\" of \"sw-1\"",
		},
		{
			"a switch without a name, and ports with one",
			[]inventory.Neighbor{{MAC: one, Chassis: "00:17:d1:a8:35:bf", Port: "3", PortDescription: "rack 3"}},
			[]inventory.Neighbor{{MAC: one, Chassis: "00:17:d1:a8:35:bf", Port: "4", PortDescription: "rack 4"}},
			`network port "02:00:00:00:00:01" is connected to port "4" (rack 4) of switch 00:17:d1:a8:35:bf; it was to port "3" (rack 3) of switch 00:17:d1:a8:35:bf`,
		},
		{
			"settings of the switch", was,
			[]inventory.Neighbor{{MAC: one, Chassis: "id of sw-1", Port: "Gi1/0/7", PortDescription: "server", System: "core", Address: "10.0.0.1", VLAN: 20}},
			"",
		},
		{"one of two behind a hub is silent", append(slices.Clone(was), end(one, "phone", "1")), was, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			changes := Compare(server(func(f *inventory.Facts) { f.Neighbors = test.was }), server(func(f *inventory.Facts) { f.Neighbors = test.is }))
			var got []string
			for _, c := range changes {
				got = append(got, Describe(c))
			}
			if strings.Join(got, "\n") != test.want || (Digest(changes) == "") != (test.want == "") {
				t.Errorf("Compare() =\n%s\nwant\n%s", strings.Join(got, "\n"), test.want)
			}
		})
	}
}

func TestLearnCompletesASnapshot(t *testing.T) {
	one, two, other := inventory.MAC{2, 0, 0, 0, 0, 1}, inventory.MAC{2, 0, 0, 0, 0, 2}, inventory.MAC{2, 0, 0, 0, 0, 3}
	frozen := inventory.Facts{NICs: []inventory.NIC{{MAC: one}, {MAC: two}}, Neighbors: []inventory.Neighbor{{MAC: one, Port: "1"}}}
	now := inventory.Facts{Neighbors: []inventory.Neighbor{{MAC: one, Port: "9"}, {MAC: two, Port: "2"}, {MAC: other, Port: "3"}}}
	got, more := Learn(frozen, now)
	if want := []inventory.Neighbor{{MAC: one, Port: "1"}, {MAC: two, Port: "2"}}; !more || !slices.Equal(got.Neighbors, want) {
		t.Errorf("Learn() = %+v, %t; want %+v: what was frozen stays, and a port that came later is none of it", got.Neighbors, more, want)
	}
	if len(frozen.Neighbors) != 1 {
		t.Errorf("Learn changed the snapshot: %+v", frozen.Neighbors)
	}
	if got, more := Learn(got, now); more {
		t.Errorf("Learn() once more = %+v; want nothing to add", got.Neighbors)
	}
}
