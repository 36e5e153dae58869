package api_test

import (
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/timeline"
)

// boot records a machine that is switched on and asks for an address.
func (s *shop) boot(m inventory.Machine, at time.Time) {
	for _, e := range []inventory.Event{
		{Kind: inventory.EventBMCPower, Attrs: map[string]string{"driver": "redfish", "address": "172.22.1.11", "action": "on", "state": "on"}},
		{Kind: inventory.EventDHCPDiscover, Attrs: map[string]string{"firmware": "uefi"}},
		{Kind: inventory.EventAgentRefused, Attrs: map[string]string{"reason": "bad \x1b[31mtoken"}},
	} {
		e.Time, e.Site, e.Machine, e.MAC = at, m.Site, m.ID, m.MACs[0]
		s.catalog.Record(e)
		at = at.Add(2 * time.Second)
	}
}

func TestTimelineTellsPhasesTextsAndFindings(t *testing.T) {
	s := open(t)
	m := s.machine(1)
	empty := read[resource.MachineTimeline](t, s.get("/v1/machines/"+m.ID.String()+"/timeline"))
	if len(empty.Attempts) != 0 || len(empty.Findings) != 0 || empty.Attempts == nil || empty.Findings == nil {
		t.Errorf("timeline of a machine that was never heard = %+v; want empty lists", empty)
	}
	now := time.Now()
	for _, ago := range []time.Duration{3 * time.Hour, 2 * time.Hour, time.Hour} {
		s.boot(m, now.Add(-ago))
	}
	got := read[resource.MachineTimeline](t, s.get("/v1/machines/"+m.ID.String()+"/timeline?attempts=2"))
	if len(got.Attempts) != 2 || got.Earlier != 1 || got.Machine != m.ID {
		t.Fatalf("timeline = %d attempts of machine %s with %d earlier; want the newest 2 of 3 of %s", len(got.Attempts), got.Machine, got.Earlier, m.ID)
	}
	last := got.Attempts[1]
	if d := now.Add(-time.Hour).Sub(last.Began); d.Abs() > time.Second {
		t.Errorf("the last attempt began at %s; want an hour ago", last.Began)
	}
	if len(last.Phases) == 0 || last.Phases[0].Name != timeline.PhaseFirmware || last.Phases[0].Milliseconds != 2000 {
		t.Errorf("phases = %+v; want firmware first, 2 s", last.Phases)
	}
	entry := last.Entries[len(last.Entries)-1]
	if entry.Text != "session refused, bad \ufffd[31mtoken" || entry.Level != timeline.Problem || entry.Count != 1 {
		t.Errorf("last entry = %q, level %q, count %d; want the refusal, harmless, as a problem, once", entry.Text, entry.Level, entry.Count)
	}
	if len(got.Findings) == 0 || got.Findings[0].Hop != timeline.HopAgent || got.Findings[0].Level != timeline.Problem {
		t.Errorf("findings = %+v; want the refused session", got.Findings)
	}
	if p := refused(t, s.get("/v1/machines/"+m.ID.String()+"/timeline?attempts=0"), "invalid-parameter"); p.Parameter != "attempts" {
		t.Errorf("problem names the parameter %q; want attempts", p.Parameter)
	}
}
