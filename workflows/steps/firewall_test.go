package steps

import (
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/timeline"
	"github.com/edge-provision/edge-provision/pxe"
)

func TestWhyTellsOfThisHostsFirewall(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	events := firewallEvents("s", []pxe.Finding{
		{Port: 67, Proto: "udp", Rule: "inet filter input policy drop", Sure: true},
		{Port: 69, Proto: "udp", Rule: "depends on the source", Sure: false},
	}, now)
	if len(events) != 1 || events[0].Site != "s" || !events[0].MAC.IsZero() {
		t.Fatalf("firewallEvents() = %+v; want the one sure finding, for the site as a whole", events)
	}
	on := inventory.Event{Time: now.Add(time.Second), Kind: inventory.EventBMCPower, Attrs: map[string]string{"action": "on", "state": "on"}}
	// An earlier attempt, which came to its end, is another story.
	for _, kind := range []inventory.EventKind{inventory.EventBMCPower, inventory.EventSSHUp} {
		events = append(events, inventory.Event{Time: now.Add(-time.Minute), Kind: kind, Attrs: map[string]string{"action": "on", "state": "on"}})
	}
	got := timeline.Diagnose(timeline.Input{Events: append(events, on), Now: now.Add(time.Hour), Declared: true, BMC: "redfish", Interface: "eth1"})
	if len(got) == 0 || !strings.Contains(got[0].Summary, "firewall blocks port 67") {
		t.Errorf("Diagnose() = %+v; want the firewall first", got)
	}
}
