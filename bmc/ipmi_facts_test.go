package bmc_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
)

func TestIPMIFacts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fru  sim.FRU
		want *inventory.System
		tag  *inventory.Chassis
		lack int
	}{
		"written": {
			sim.FRU{Manufacturer: "edge-provision", Product: "virtual rack machine", Serial: "PAIR-bios", AssetTag: "store 7"},
			&inventory.System{Manufacturer: "edge-provision", Product: "virtual rack machine", Serial: "PAIR-bios"}, &inventory.Chassis{AssetTag: "store 7"}, 0,
		},
		"placeholders": {sim.FRU{Manufacturer: "Default string", Product: "PX-1", Serial: "0000000"}, &inventory.System{Product: "PX-1"}, nil, 0},
		"none":         {sim.FRU{}, nil, nil, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, config := ipmiRig(t, "secret", func(c *sim.IPMIConfig) { c.FRU = tt.fru })
			c, err := bmc.Open(config, bmc.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			got, err := c.Facts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			// The simulator is of version 9.8 and of OpenIPMI's IANA number.
			want := inventory.Facts{SchemaVersion: inventory.SchemaVersion, System: tt.want, Chassis: tt.tag, BMC: &inventory.BMCFacts{Firmware: "9.08"}}
			if diff := cmp.Diff(want, got.Facts); diff != "" || len(got.Missing) != tt.lack || got.Source != inventory.SourceIPMI {
				t.Errorf("Facts are of %s, lack %q and differ (-want +got):\n%s", got.Source, got.Missing, diff)
			}
			if n := len(m.Actions()); n > 0 {
				t.Errorf("Facts caused %d power actions; want none", n)
			}
		})
	}
}
