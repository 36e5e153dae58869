package pxe

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/edge-provision/edge-provision/inventory"
)

// solicitation is an ICMPv6 router solicitation (RFC 4861 section 4.1) in its
// IPv6 header.
func solicitation(src string) []byte {
	b := make([]byte, ipv6Header+8)
	b[0], b[5], b[6], b[7] = 0x60, 8, 58, 255
	s, d := netip.MustParseAddr(src).As16(), netip.MustParseAddr("ff02::2").As16()
	copy(b[8:], s[:])
	copy(b[24:], d[:])
	b[ipv6Header] = icmpRouterSolicitation
	return b
}

func TestRouterAdvertisementIsEmptyAndUnicast(t *testing.T) {
	pipe := newFramePipe()
	a := &advertiser{conn: pipe, mac: func() inventory.MAC { return mustMAC("02:00:00:00:00:01") }, booting: func(m inventory.MAC) bool { return m == macA }}
	done := make(chan error, 1)
	go func() { done <- a.serve() }()
	wrong := solicitation("fe80::b")
	wrong[7] = 64 // it came through a router
	pipe.in <- frame{macB, solicitation("fe80::b")}
	pipe.in <- frame{macA, wrong}
	pipe.in <- frame{macA, solicitation("2001:db8::1")}
	pipe.in <- frame{macA, solicitation("fe80::a")}
	var got frame
	select {
	case got = <-pipe.out:
	case <-time.After(eventBound):
		t.Fatal("no advertisement")
	}
	pipe.Close()
	if err := <-done; err == nil {
		t.Error("serve returned nil after its socket was closed; want the error")
	}
	if len(pipe.out) > 0 {
		t.Error("a machine that is not being booted, or a bad solicitation, was answered")
	}
	if got.mac != macA {
		t.Errorf("the advertisement went to %s; want %s alone", got.mac, macA)
	}
	icmp := got.b[ipv6Header:]
	if icmp[0] != icmpRouterAdvertisement || icmp[5] != 0 || binary.BigEndian.Uint16(icmp[6:]) != 0 || len(icmp) != 16 {
		t.Errorf("advertisement %x; want no flags, lifetime 0 and no options", icmp)
	}
	if got.b[7] != 255 || netip.AddrFrom16([16]byte(got.b[24:40])) != netip.MustParseAddr("fe80::a") {
		t.Errorf("IPv6 header %x; want hop limit 255 and the asker's address", got.b[:40])
	}
	pseudo := sum16(58+16, got.b[8:40])
	if sum16(uint32(pseudo), icmp) != 0xffff {
		t.Error("the checksum is wrong")
	}
}

func TestUDPPacketRoundTrip(t *testing.T) {
	src, dst := netip.MustParseAddrPort("172.22.77.1:67"), netip.MustParseAddrPort("172.22.77.11:68")
	b := udpPacket(src, dst, []byte("payload"))
	if payload, from := udpPayload(b, 68); string(payload) != "payload" || from != src.Addr() {
		t.Errorf("udpPayload = %q from %s", payload, from)
	}
	if payload, _ := udpPayload(b, 67); payload != nil {
		t.Error("udpPayload returned a datagram for another port")
	}
	if sum16(0, b[:20]) != 0xffff || sum16(uint32(sum16(17+15, b[12:20])), b[20:]) != 0xffff {
		t.Error("a checksum is wrong")
	}
	for n := range b {
		if payload, _ := udpPayload(b[:n], 68); payload != nil {
			t.Errorf("udpPayload accepted a packet cut to %d bytes", n)
		}
	}
}

func TestProbeNamesForeignServers(t *testing.T) {
	pipe := newFramePipe()
	pipe.answer = func(f frame) (frame, bool) {
		payload, _ := udpPayload(f.b, 67)
		q, err := dhcpv4.FromBytes(payload)
		if err != nil || q.MessageType() != dhcpv4.MessageTypeDiscover || !q.IsBroadcast() || q.ClientHWAddr[0]&3 != 2 {
			t.Errorf("the probe sent %v, %v; want a broadcast DISCOVER of a locally administered MAC", q, err)
			return frame{}, false
		}
		r := &dhcpv4.DHCPv4{
			OpCode: dhcpv4.OpcodeBootReply, HWType: 1, ClientHWAddr: q.ClientHWAddr, TransactionID: q.TransactionID,
			Options: dhcpv4.Options{53: {2}},
		}
		from := "172.22.77.2:67"
		if q.Options[60] == nil {
			r.YourIPAddr, r.Options[54] = address("172.22.77.150"), address("172.22.77.2")
		} else {
			from = "172.22.77.3:67" // no server identifier: its address counts
			r.BootFileName = "pxelinux.0"
		}
		return frame{macB, udpPacket(netip.MustParseAddrPort(from), netip.MustParseAddrPort("255.255.255.255:68"), r.ToBytes())}, true
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, err := probe(ctx, &readTwice{framePipe: pipe, after: cancel})
	if err != nil || len(got) != 2 {
		t.Fatalf("probe() = %v, %v; want two servers", got, err)
	}
	if want := (ForeignServer{Address: netip.MustParseAddr("172.22.77.2"), Offered: netip.MustParseAddr("172.22.77.150")}); got[0] != want {
		t.Errorf("first server %+v; want %+v", got[0], want)
	}
	if want := (ForeignServer{Address: netip.MustParseAddr("172.22.77.3"), Proxy: true, BootFile: "pxelinux.0"}); got[1] != want {
		t.Errorf("second server %+v; want %+v", got[1], want)
	}
}

// readTwice ends something when it is read for the third time.
type readTwice struct {
	*framePipe
	reads int
	after func()
}

func (p *readTwice) ReadFrame(b []byte) (int, inventory.MAC, error) {
	if p.reads++; p.reads > 2 {
		p.after()
	}
	return p.framePipe.ReadFrame(b)
}

func TestProbeIgnoresAnswersToOthers(t *testing.T) {
	r := &dhcpv4.DHCPv4{
		OpCode: 2, HWType: 1, ClientHWAddr: macA[:], TransactionID: [4]byte{1}, YourIPAddr: address("172.22.77.9"),
		Options: dhcpv4.Options{53: {2}, 54: address("172.22.77.2")},
	}
	p := udpPacket(netip.MustParseAddrPort("172.22.77.2:67"), netip.MustParseAddrPort("255.255.255.255:68"), r.ToBytes())
	if _, ok := parseOffer(p, macA, [4]byte{1}); !ok {
		t.Error("parseOffer refused its own answer")
	}
	if _, ok := parseOffer(p, macB, [4]byte{1}); ok {
		t.Error("parseOffer took an answer to another MAC")
	}
	if _, ok := parseOffer(p, macA, [4]byte{2}); ok {
		t.Error("parseOffer took an answer to another transaction")
	}
}

func TestNeighborTable(t *testing.T) {
	const table = `IP address       HW type     Flags       HW address            Mask     Device
172.22.77.11     0x1         0x2         52:54:00:00:00:0a     *        eth1
172.22.77.12     0x1         0x0         00:00:00:00:00:00     *        eth1
172.22.77.13     0x1         0x2         52:54:00:00:00:0b     *        eth2
`
	tests := []struct {
		addr string
		want inventory.MAC
		ok   bool
	}{
		{"172.22.77.11", macA, true},
		{"172.22.77.12", inventory.MAC{}, false},
		{"172.22.77.13", inventory.MAC{}, false},
		{"172.22.77.1", inventory.MAC{}, false},
	}
	for _, tt := range tests {
		got, ok := parseNeighbors(strings.NewReader(table), "eth1", netip.MustParseAddr(tt.addr))
		if got != tt.want || ok != tt.ok {
			t.Errorf("neighbor(%s) = %s, %t; want %s, %t", tt.addr, got, ok, tt.want, tt.ok)
		}
	}
}

func TestPortOwner(t *testing.T) {
	proc := t.TempDir()
	write := func(path, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(proc, path)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("net/udp", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"+
		"  12: 00000000:0043 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4242 2 0 0\n"+
		"  13: 00000000:0044 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4343 2 0 0\n")
	write("net/tcp", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"+
		"   0: 0100007F:2120 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4444 1\n"+
		"   1: 0100007F:2121 0100007F:0050 01 00000000:00000000 00:00000000 00000000     0        0 4444 1\n")
	write("812/comm", "dnsmasq\n")
	if err := os.Mkdir(filepath.Join(proc, "812/fd"), 0o755); err != nil {
		t.Fatal(err)
	}
	for fd, to := range map[string]string{"4": "socket:[4242]", "5": "/dev/null", "6": "socket:[4444]"} {
		if err := os.Symlink(to, filepath.Join(proc, "812/fd", fd)); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		proto string
		port  uint16
		want  string
	}{{"udp", 67, "dnsmasq (pid 812)"}, {"udp", 68, ""}, {"udp", 69, ""}, {"tcp", 8480, "dnsmasq (pid 812)"}, {"tcp", 8481, ""}} {
		if got := portOwner(proc, tt.proto, tt.port); got != tt.want {
			t.Errorf("portOwner(%s %d) = %q; want %q", tt.proto, tt.port, got, tt.want)
		}
	}
}

func TestListenRefuses(t *testing.T) {
	good := Config{Network: "edge", Prefix: testPrefix, Booter: always(Answer{}), Interface: "nosuch0"}
	tests := []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"an interface that does not exist", func(*Config) {}, `interface "nosuch0" does not exist: this host has`},
		{"an interface without address in the network", func(c *Config) { c.Interface = "lo" }, "interface lo needs an address in 172.22.77.0/24, but it has 127.0.0.1/8"},
		{"no Booter", func(c *Config) { c.Booter = nil }, "Booter is required"},
		{"server mode without leases", func(c *Config) { c.Mode = ModeServer }, "Leases is required"},
		{"an unknown mode", func(c *Config) { c.Mode = "relay" }, `"relay" is not one of`},
		{"an IPv6 prefix", func(c *Config) { c.Prefix = netip.MustParsePrefix("2001:db8::/64") }, "not an IPv4 prefix"},
		{"a lease of seconds", func(c *Config) { c.LeaseTime = time.Second }, "shorter than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := good
			tt.change(&c)
			_, err := Listen(t.Context(), c)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Listen() = %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestLimiterForgetsAfterItsWindow(t *testing.T) {
	l := newLimiter[string](1, 2, time.Second)
	got := []bool{l.allow("a", noon), l.allow("a", noon), l.allow("b", noon), l.allow("c", noon), l.allow("a", noon.Add(time.Second)), l.allow("a", noon)}
	want := []bool{true, false, true, false, true, true} // a clock that goes back opens a new window
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("allow #%d = %t; want %t", i, got[i], want[i])
		}
	}
}

func TestARPIgnoresWhatIsNotARP(t *testing.T) {
	good := arpRequest(macA, testServer)
	copy(good[14:], testServer.AsSlice())
	if mac, addr, ok := parseARP(good); !ok || mac != macA || addr != testServer {
		t.Errorf("parseARP = %s, %s, %t", mac, addr, ok)
	}
	for _, b := range [][]byte{nil, good[:27], bytes.Repeat([]byte{0}, 28), arpRequest(macA, testServer)} {
		if _, _, ok := parseARP(b); ok {
			t.Errorf("parseARP(%x) = ok; want it ignored", b)
		}
	}
}
