//go:build e2e

package scenario

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/rack"
)

// TestWhyNamesThisHostsFirewall switches a machine on that the controller's own
// packet filter keeps from being heard, asks why, and takes the rule away.
func TestWhyNamesThisHostsFirewall(t *testing.T) {
	l := newLab(t, "nobmc.hcl")
	l.raise(l.site)
	l.nft("add table inet guard")
	l.nft("add chain inet guard input { type filter hook input priority 0; policy accept; }")
	l.nft("add rule inet guard input udp dport 67 drop")
	stop := l.serve()
	l.power(node, rack.PowerOn)
	var said string
	l.eventually("why names the firewall of this host", commandLimit, func() bool {
		said = strings.Join(strings.Fields(l.must(commandLimit, "why", "--site", l.site, node).stdout), " ")
		return strings.Contains(said, "firewall blocks port 67")
	})
	for _, want := range []string{"eth1", "inet guard input", "Allow what netboot needs"} {
		if !strings.Contains(said, want) {
			t.Errorf("why says %q; want %q in it", said, want)
		}
	}
	if n := count(l.events(node), inventory.EventDHCPDiscover); n != 0 {
		t.Errorf("%d DISCOVER were heard through a rule that drops them; want none", n)
	}
	// That it was the rule, and nothing else, shows when it is gone.
	l.nft("delete table inet guard")
	l.power(node, rack.PowerCycle)
	l.eventually("the machine is heard without the rule", settleLimit, func() bool {
		return count(l.events(node), inventory.EventDHCPAck) > 0
	})
	if r := l.must(commandLimit, "why", "--site", l.site, node); strings.Contains(r.stdout, "firewall blocks") {
		t.Errorf("why says %q; want nothing of a rule that is gone", r.stdout)
	}
	stop()
}

// nft changes the packet filter of the rack's own namespace, where the
// controller runs.
func (l *lab) nft(command string) {
	l.t.Helper()
	out, err := exec.CommandContext(l.t.Context(), "ip", "netns", "exec", l.rack.Namespace(), "nft", command).CombinedOutput()
	if err != nil {
		l.t.Fatalf("nft %s = %v, %s", command, err, out)
	}
}
