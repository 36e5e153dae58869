package steps

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/pxe"
)

// checkFirewall records what of this host's own packet filter stops a network's
// machines from being heard, so that why can tell. It is a best effort: without
// the program nft nothing is known, and booting goes on.
func (s *Service) checkFirewall(ctx context.Context, seg *segment) {
	log := s.cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	found, err := pxe.FirewallCheck(ctx, seg.network.Interface, s.cfg.HTTPPort, s.cfg.AgentPort)
	if err != nil {
		log.Info("the packet filter of this host was not checked", "network", seg.network.Address, "error", err)
		return
	}
	for _, e := range firewallEvents(s.cfg.Site.Name, found, s.cfg.Now()) {
		log.Warn("this host's packet filter stops netboot", "network", seg.network.Address, "port", e.Attrs["port"], "rule", e.Attrs["rule"])
		s.cfg.Catalog.Record(e)
	}
}

// firewallEvents are the events of what certainly stops traffic; a rule that
// also depends on what the ruleset does not tell would accuse wrongly.
func firewallEvents(siteName string, found []pxe.Finding, now time.Time) []inventory.Event {
	var out []inventory.Event
	for _, f := range found {
		if !f.Sure {
			continue
		}
		out = append(out, inventory.Event{
			Time: now, Site: siteName, Kind: inventory.EventHostFirewall,
			Attrs: map[string]string{"port": strconv.Itoa(int(f.Port)), "rule": f.Rule},
		})
	}
	return out
}
