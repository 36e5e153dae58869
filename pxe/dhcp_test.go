package pxe

import (
	"bytes"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/edge-provision/edge-provision/inventory"
)

var addressA = netip.MustParseAddr("172.22.77.11")

func reservedLeases() *memoryLeases {
	return &memoryLeases{reserved: []Reservation{{MAC: macA, Address: addressA, Hostname: "node-a"}}}
}

func with(o dhcpv4.Options, more dhcpv4.Options) dhcpv4.Options {
	o = maps.Clone(o)
	maps.Copy(o, more)
	return o
}

func TestReservedMachineGetsAddressAndBootFile(t *testing.T) {
	w := newWire(t, Config{
		Leases: reservedLeases(), Booter: always(Answer{Kind: KindInstall}),
		Gateway: netip.MustParseAddr("172.22.77.254"), DNS: []netip.Addr{netip.MustParseAddr("172.22.77.253")},
	})
	echoed := dhcpv4.Options{61: {1, 2, 3, 4, 5, 6, 7}, 82: {1, 3, 'e', 't', '1'}}
	offer, to := w.ask(request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: with(uefiPXE(), echoed)})
	if offer == nil || offer.MessageType() != dhcpv4.MessageTypeOffer || addrOf(offer.YourIPAddr) != addressA {
		t.Fatalf("DISCOVER got %v; want an offer of %s", offer, addressA)
	}
	if to != macA.String() {
		t.Errorf("the offer went to %s; want a frame to %s", to, macA)
	}
	if len(w.leases.commits) != 0 {
		t.Errorf("an offer wrote %d leases; want none", len(w.leases.commits))
	}
	ack, _ := w.ask(request{
		typ: dhcpv4.MessageTypeRequest, mac: macA,
		options: with(uefiPXE(), with(echoed, dhcpv4.Options{50: address("172.22.77.11"), 54: address("172.22.77.1")})),
	})
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("REQUEST got %v; want an ACK", ack)
	}
	if len(w.leases.commits) != 1 || w.leases.commits[0].Address != "172.22.77.11" || w.leases.commits[0].ClientID != "01020304050607" {
		t.Errorf("committed %v; want one lease of 172.22.77.11 with its client id", w.leases.commits)
	}
	for code, want := range map[uint8][]byte{
		1: {255, 255, 255, 0}, 3: address("172.22.77.254"), 6: address("172.22.77.253"), 12: []byte("node-a"),
		51: {0, 0, 0x0e, 0x10}, 54: address("172.22.77.1"), 61: echoed[61], 82: echoed[82], 97: uefiPXE()[97], 67: []byte("ipxe.efi"),
	} {
		if got := ack.Options[code]; !bytes.Equal(got, want) {
			t.Errorf("option %d = %v; want %v", code, got, want)
		}
	}
	if ack.BootFileName != "ipxe.efi" || addrOf(ack.ServerIPAddr) != testServer {
		t.Errorf("boot file %q from %s; want ipxe.efi from %s", ack.BootFileName, ack.ServerIPAddr, testServer)
	}
	want := []inventory.EventKind{inventory.EventDHCPDiscover, inventory.EventDHCPOffer, inventory.EventDHCPRequest, inventory.EventDHCPAck}
	if got := w.log.kinds(); !slices.Equal(got, want) {
		t.Errorf("events %v; want %v", got, want)
	}
	if mac, ok := w.s.MACOf(addressA); !ok || mac != macA {
		t.Errorf("MACOf(%s) = %s, %t; want %s", addressA, mac, ok, macA)
	}
}

func TestAckLeavesOnlyAfterTheLeaseIsOnDisk(t *testing.T) {
	leases := reservedLeases()
	w := newWire(t, Config{Leases: leases, Booter: always(Answer{Kind: KindInstall})})
	req := request{typ: dhcpv4.MessageTypeRequest, mac: macA, options: with(uefiPXE(), dhcpv4.Options{50: address("172.22.77.11"), 54: address("172.22.77.1")})}
	leases.onCommit = func(inventory.Lease) {
		if len(w.dhcp.out)+len(w.ipv4.out) > 0 {
			t.Error("an answer left before Commit returned")
		}
	}
	leases.fail = errors.New("disk full")
	if r, _ := w.ask(req); r != nil {
		t.Fatalf("REQUEST whose commit failed got %v; want silence", r.MessageType())
	}
	if e, ok := w.log.find(ofKind(inventory.EventDHCPNak)); !ok || !strings.Contains(e.Attrs["reason"], "disk full") {
		t.Errorf("events %v; want one that says why nothing was given", w.log.kinds())
	}
	leases.fail = nil
	if r, _ := w.ask(req); r == nil || r.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("the next REQUEST got %v; want an ACK", r)
	}
}

func TestDHCPConversations(t *testing.T) {
	const own, other = "172.22.77.1", "172.22.77.9"
	tests := []struct {
		name  string
		kind  Kind
		ask   request
		want  dhcpv4.MessageType // none: silence
		to    string
		event inventory.EventKind
	}{
		{
			"a machine that is not ours gets nothing", KindIgnore,
			request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: uefiPXE()},
			dhcpv4.MessageTypeNone, "", inventory.EventDHCPIgnored,
		},
		{
			"a REQUEST for another server is not answered", KindInstall,
			request{typ: dhcpv4.MessageTypeRequest, mac: macA, options: dhcpv4.Options{50: address("172.22.77.11"), 54: address(other)}},
			dhcpv4.MessageTypeNone, "", inventory.EventDHCPForeign,
		},
		{
			"INIT-REBOOT with an address of another network is refused, by broadcast", KindAddressOnly,
			request{typ: dhcpv4.MessageTypeRequest, mac: macB, options: dhcpv4.Options{50: address("10.0.0.7")}},
			dhcpv4.MessageTypeNak, "255.255.255.255:68", inventory.EventDHCPNak,
		},
		{
			"INIT-REBOOT of a client without record is met with silence", KindAddressOnly,
			request{typ: dhcpv4.MessageTypeRequest, mac: macB, options: dhcpv4.Options{50: address("172.22.77.100")}},
			dhcpv4.MessageTypeNone, "", inventory.EventDHCPRequest,
		},
		{
			"a stranger's INIT-REBOOT from another network is left alone", KindIgnore,
			request{typ: dhcpv4.MessageTypeRequest, mac: macB, options: dhcpv4.Options{50: address("10.0.0.7")}},
			dhcpv4.MessageTypeNone, "", inventory.EventDHCPIgnored,
		},
		{
			"a renewal is answered at the client's address", KindAddressOnly,
			request{typ: dhcpv4.MessageTypeRequest, mac: macA, ciaddr: "172.22.77.11"},
			dhcpv4.MessageTypeAck, "172.22.77.11:68", inventory.EventDHCPAck,
		},
		{
			"a client that asks for broadcast gets broadcast", KindAddressOnly,
			request{typ: dhcpv4.MessageTypeDiscover, mac: macA, flags: 0x8000},
			dhcpv4.MessageTypeOffer, "255.255.255.255:68", inventory.EventDHCPOffer,
		},
		{
			"a relay on the network is answered at its port 67", KindAddressOnly,
			request{typ: dhcpv4.MessageTypeDiscover, mac: macA, giaddr: "172.22.77.254"},
			dhcpv4.MessageTypeOffer, "172.22.77.254:67", inventory.EventDHCPOffer,
		},
		{
			"a relay anywhere else is not, or we would be a reflector", KindAddressOnly,
			request{typ: dhcpv4.MessageTypeDiscover, mac: macA, giaddr: "192.0.2.1"},
			dhcpv4.MessageTypeNone, "", inventory.EventDHCPIgnored,
		},
		{
			"INFORM gets parameters and no address", KindAddressOnly,
			request{typ: dhcpv4.MessageTypeInform, mac: macA, ciaddr: "172.22.77.11"},
			dhcpv4.MessageTypeAck, "172.22.77.11:68", inventory.EventDHCPAck,
		},
		{
			"INFORM in the name of a host elsewhere is ignored", KindAddressOnly,
			request{typ: dhcpv4.MessageTypeInform, mac: macA, ciaddr: "192.0.2.1"},
			dhcpv4.MessageTypeNone, "", inventory.EventDHCPIgnored,
		},
		{
			"DECLINE and RELEASE are not answered", KindAddressOnly,
			request{typ: dhcpv4.MessageTypeDecline, mac: macA, options: dhcpv4.Options{50: address("172.22.77.11"), 54: address(own)}},
			dhcpv4.MessageTypeNone, "", inventory.EventDHCPDecline,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWire(t, Config{Leases: reservedLeases(), Booter: always(Answer{Kind: tt.kind}), Range: poolConfig().Range})
			r, to := w.ask(tt.ask)
			got := dhcpv4.MessageTypeNone
			if r != nil {
				got = r.MessageType()
			}
			if got != tt.want || to != tt.to {
				t.Errorf("answer = %v to %q; want %v to %q", got, to, tt.want, tt.to)
			}
			if _, ok := w.log.find(ofKind(tt.event)); !ok {
				t.Errorf("events %v; want one %s", w.log.kinds(), tt.event)
			}
			if tt.ask.typ == dhcpv4.MessageTypeInform && r != nil && (addrOf(r.YourIPAddr).IsValid() || r.Options[51] != nil) {
				t.Error("an answer to INFORM gave an address or a lease")
			}
		})
	}
}

func TestAddressThatAnswersARPIsNotOffered(t *testing.T) {
	w := newWire(t, Config{Booter: always(Answer{Kind: KindInstall}), Range: poolConfig().Range})
	squatter := mustMAC("02:00:00:00:00:99")
	w.arp.answer = func(f frame) (frame, bool) {
		if f.b[27] != 100 {
			return frame{}, false
		}
		reply := arpRequest(squatter, netip.Addr{})
		reply[7] = 2
		copy(reply[14:], f.b[24:28])
		return frame{squatter, reply}, true
	}
	w.serve()
	offer, _ := w.ask(request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: romIPXE()})
	if offer == nil || offer.YourIPAddr.String() != "172.22.77.101" {
		t.Fatalf("offer = %v; want 172.22.77.101, because .100 is in use", offer)
	}
	if e, ok := w.log.find(ofKind(inventory.EventDHCPDecline)); !ok || e.MAC != squatter || e.Attrs["address"] != "172.22.77.100" {
		t.Errorf("events %v; want the squatter's name", w.log.all())
	}
}

func TestProxyNeverGivesAddresses(t *testing.T) {
	w := newWire(t, Config{Mode: ModeProxy, Booter: always(Answer{Kind: KindInstall})})
	offer, to := w.ask(request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: uefiPXE()})
	if offer == nil || addrOf(offer.YourIPAddr).IsValid() || offer.Options[51] != nil || offer.Options[1] != nil {
		t.Fatalf("proxy offer = %v; want no address, no lease, no mask", offer)
	}
	if string(offer.Options[60]) != "PXEClient" || !bytes.Equal(offer.Options[43], []byte{6, 1, 8, 255}) || offer.BootFileName != "ipxe.efi" || to != "255.255.255.255:68" {
		t.Errorf("proxy offer has class %q, option 43 %v, file %q, to %s", offer.Options[60], offer.Options[43], offer.BootFileName, to)
	}
	if r, _ := w.ask(request{typ: dhcpv4.MessageTypeRequest, mac: macA, options: with(uefiPXE(), dhcpv4.Options{50: address("172.22.77.150"), 54: address("172.22.77.2")})}); r != nil {
		t.Errorf("a REQUEST for the other server got %v; want silence", r.MessageType())
	}
	if r, _ := w.ask(request{typ: dhcpv4.MessageTypeDiscover, mac: macA}); r != nil {
		t.Errorf("an operating system's DISCOVER got %v; want silence", r.MessageType())
	}
	if r, _ := w.ask(request{typ: dhcpv4.MessageTypeInform, mac: macA, ciaddr: "172.22.77.150", options: uefiPXE()}); r != nil {
		t.Errorf("an INFORM on port 67 got %v; want silence", r.MessageType())
	}
	r, to := w.askOn(request{typ: dhcpv4.MessageTypeRequest, mac: macA, ciaddr: "172.22.77.150", options: uefiPXE()}, pxePort, "172.22.77.150:4011")
	if r == nil || r.MessageType() != dhcpv4.MessageTypeAck || r.BootFileName != "ipxe.efi" || to != "172.22.77.150:4011" {
		t.Errorf("port 4011 answered %v to %s; want an ACK with ipxe.efi", r, to)
	}
	if r, _ := w.askOn(request{typ: dhcpv4.MessageTypeRequest, mac: macA, options: uefiPXE()}, pxePort, "192.0.2.1:4011"); r != nil {
		t.Error("port 4011 answered a source outside the network")
	}
}

func TestOptionsInOverloadedFieldsAreRead(t *testing.T) {
	b := request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: dhcpv4.Options{52: {3}}}.bytes()
	copy(b[offFile:], "\x3c\x09PXEClient\xff")
	copy(b[offSName:], "\x5d\x02\x00\x0b\xff")
	m, err := parseMessage(b)
	if err != nil {
		t.Fatal(err)
	}
	if m.client.VendorClass != "PXEClient" || m.client.Arch != ArchUEFIArm64 || m.client.Stage != StageUEFI {
		t.Errorf("client = %+v; want class PXEClient and architecture 11", m.client)
	}
	copy(b[offFile:], "\x3c\xf0too long")
	if _, err := parseMessage(b); err == nil {
		t.Error("parseMessage accepted an overloaded field that ends within an option")
	}
}

func TestReplyFitsWhatTheClientTakes(t *testing.T) {
	big := bytes.Repeat([]byte{'x'}, 250)
	w := newWire(t, Config{Leases: reservedLeases(), Booter: always(Answer{Kind: KindInstall}), Domain: "store-0421.edge.example"})
	r, _ := w.ask(request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: with(uefiPXE(), dhcpv4.Options{57: {2, 0x40}, 61: big, 82: big})})
	if r == nil {
		t.Fatal("no answer")
	}
	if got := len(r.ToBytes()) + headers; got > minMessage {
		t.Errorf("the answer's datagram has %d bytes; want at most %d", got, minMessage)
	}
	for _, code := range []uint8{1, 51, 53, 54} {
		if r.Options[code] == nil {
			t.Errorf("option %d was dropped", code)
		}
	}
}

func TestRateLimitSilencesOneMachineNotOthers(t *testing.T) {
	w := newWire(t, Config{
		Leases: reservedLeases(), Booter: always(Answer{Kind: KindAddressOnly}), Range: poolConfig().Range,
		Now: func() time.Time { return noon },
	})
	answers := 0
	for range 3 * packetsPerClient {
		if r, _ := w.ask(request{typ: dhcpv4.MessageTypeDiscover, mac: macA}); r != nil {
			answers++
		}
	}
	if answers != packetsPerClient {
		t.Errorf("%d answers in one second; want %d", answers, packetsPerClient)
	}
	if r, _ := w.ask(request{typ: dhcpv4.MessageTypeRequest, mac: macB, ciaddr: "172.22.77.100"}); r == nil {
		t.Error("another machine was silenced too")
	}
}

func TestServeAnswersAndSurvivesGarbage(t *testing.T) {
	w := newWire(t, Config{Leases: reservedLeases(), Booter: bootFunc(func(c Client) (Answer, error) {
		if c.MAC == macB {
			panic("a handler that breaks")
		}
		return Answer{Kind: KindInstall}, nil
	})}).serve()
	from := netip.MustParseAddrPort("0.0.0.0:68")
	w.dhcp.in <- datagram{[]byte("garbage"), from}
	w.dhcp.in <- datagram{make([]byte, 400), from}
	w.dhcp.in <- datagram{request{typ: dhcpv4.MessageTypeDiscover, mac: macB}.bytes(), from}
	w.dhcp.in <- datagram{request{typ: dhcpv4.MessageTypeDiscover, mac: macA, flags: 0x8000}.bytes(), from}
	select {
	case d := <-w.dhcp.out:
		if r, err := dhcpv4.FromBytes(d.b); err != nil || r.MessageType() != dhcpv4.MessageTypeOffer {
			t.Errorf("answer %v, %v; want an offer", r, err)
		}
	case <-time.After(eventBound):
		t.Fatal("no offer after garbage")
	}
}

func TestBooterThatFailsLeavesThePacketUnanswered(t *testing.T) {
	w := newWire(t, Config{Leases: reservedLeases(), Booter: bootFunc(func(Client) (Answer, error) { return Answer{}, errors.New("catalog locked") })})
	if r, _ := w.ask(request{typ: dhcpv4.MessageTypeDiscover, mac: macA, options: uefiPXE()}); r != nil {
		t.Errorf("got %v; want silence", r.MessageType())
	}
}
