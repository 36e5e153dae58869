package pxe

import (
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// discardPackets is a socket whose answers go nowhere.
type discardPackets struct{ *packetPipe }

func (discardPackets) WriteTo(b []byte, _ net.Addr) (int, error) { return len(b), nil }

// BenchmarkConversation is one machine's DISCOVER and REQUEST, without sockets
// and disk: what a boot storm costs in processor time per machine.
func BenchmarkConversation(b *testing.B) {
	leases := reservedLeases()
	s, err := Listen(b.Context(), Config{
		Mode: ModeServer, Network: "edge", Prefix: testPrefix, Address: testServer,
		Leases: leases, Booter: always(Answer{Kind: KindInstall}), Sockets: &Sockets{DHCP: discardPackets{newPacketPipe()}},
	})
	if err != nil {
		b.Fatal(err)
	}
	from := netip.MustParseAddrPort("0.0.0.0:68")
	discover := request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: uefiPXE()}.bytes()
	ask := request{
		typ: dhcpv4.MessageTypeRequest, mac: macA,
		options: with(uefiPXE(), dhcpv4.Options{50: address("172.22.77.11"), 54: address("172.22.77.1")}),
	}.bytes()
	b.ReportAllocs()
	for b.Loop() {
		s.packets = newPacketLimiter()
		s.handle(b.Context(), discover, from, 67)
		s.handle(b.Context(), ask, from, 67)
	}
	if len(leases.commits) != b.N {
		b.Errorf("%d leases committed in %d conversations", len(leases.commits), b.N)
	}
}
