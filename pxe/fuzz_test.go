package pxe

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// FuzzHandle throws datagrams at every part of the conversation. Whatever
// comes, an answer goes only to the local network, is no larger than a frame,
// and no address is leased to a machine that the Booter does not admit.
func FuzzHandle(f *testing.F) {
	for _, o := range []dhcpv4.Options{nil, uefiPXE(), romIPXE(), {52: {3}}, {82: {1, 1, 1}, 61: {1}}} {
		for _, typ := range []dhcpv4.MessageType{1, 3, 4, 7, 8, 13} {
			f.Add(request{typ: typ, mac: macA, options: o}.bytes(), false, uint16(67))
			f.Add(request{typ: typ, mac: macA, ciaddr: "172.22.77.11", options: o}.bytes(), true, uint16(4011))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte, proxy bool, port uint16) {
		mode := ModeServer
		if proxy {
			mode = ModeProxy
		}
		w := newWire(t, Config{Mode: mode, Leases: reservedLeases(), Range: poolConfig().Range, Booter: bootFunc(func(c Client) (Answer, error) {
			if c.MAC != macA {
				return Answer{Kind: KindIgnore}, nil
			}
			return Answer{Kind: KindInstall}, nil
		})})
		w.s.arp = nil // its silence would cost 300 ms each time
		p := 67
		if proxy && port == pxePort {
			p = pxePort
		}
		w.s.handle(t.Context(), b, netip.MustParseAddrPort("172.22.77.200:68"), p)
		outs := []*packetPipe{w.dhcp}
		if w.proxy != nil {
			outs = append(outs, w.proxy)
		}
		for _, out := range outs {
			for len(out.out) > 0 {
				d := <-out.out
				if to := d.from.Addr(); !testPrefix.Contains(to) && to.String() != "255.255.255.255" {
					t.Errorf("an answer went to %s", to)
				}
				if len(d.b) > maxMessage-headers {
					t.Errorf("an answer has %d bytes", len(d.b))
				}
			}
		}
		for _, l := range w.leases.commits {
			if l.MAC != macA {
				t.Errorf("leased %s to %s", l.Address, l.MAC)
			}
		}
	})
}

func FuzzParseMessage(f *testing.F) {
	f.Add(request{typ: 1, mac: macA, options: uefiPXE()}.bytes())
	f.Add(request{typ: 1, mac: macA, options: dhcpv4.Options{52: {3}, 175: {0x13, 1, 1}, 77: []byte("\x04iPXE")}}.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseMessage(b)
		if err != nil {
			return
		}
		if m.mac.IsZero() || len(m.client.VendorClass) > 255 || len(m.client.UserClass) > 255 || m.client.Stage == "" {
			t.Errorf("parseMessage accepted %+v", m.client)
		}
	})
}

func FuzzProbeAnswer(f *testing.F) {
	xid := dhcpv4.TransactionID{1, 2, 3, 4}
	r := &dhcpv4.DHCPv4{
		OpCode: 2, HWType: 1, ClientHWAddr: macA[:], TransactionID: xid, YourIPAddr: address("172.22.77.9"),
		Options: dhcpv4.Options{53: {2}, 54: address("172.22.77.2")},
	}
	f.Add(udpPacket(netip.MustParseAddrPort("172.22.77.2:67"), netip.MustParseAddrPort("255.255.255.255:68"), r.ToBytes()))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, ok := parseOffer(b, macA, xid); ok && !s.Address.IsValid() {
			t.Errorf("parseOffer accepted %+v", s)
		}
	})
}

func FuzzTFTPName(f *testing.F) {
	for _, s := range []string{"ipxe.efi", "/ipxe.efi", "undionly.kpxe\xff", "../../etc/passwd", "\x00", "C:\\ipxe.efi"} {
		f.Add(s)
	}
	table := newFiles(map[string][]byte{"ipxe.efi": []byte("x")})
	f.Fuzz(func(t *testing.T, s string) {
		name := cleanName(s)
		if len(name) > maxTFTPName || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("cleanName(%q) = %q", s, name)
		}
		if _, ok := table.program(name); ok != (name == "ipxe.efi") {
			t.Errorf("program(%q) = %t", name, ok)
		}
	})
}

func FuzzHTTPPath(f *testing.F) {
	for _, s := range []string{"/asset/a", "/asset/../a", "/asset/%2e%2e/x", "/boot/52:54:00:00:00:0a/script.ipxe", "/ipxe/ipxe.efi", "//", "/asset/a?x=y"} {
		f.Add(s)
	}
	s, err := Listen(f.Context(), Config{Network: "edge", Prefix: testPrefix, Address: testServer, Booter: always(Answer{Kind: KindInstall}), Sockets: &Sockets{}})
	if err != nil {
		f.Fatal(err)
	}
	if _, err := s.Register(Asset{Name: "a", Content: []byte("asset"), Size: 5}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, path string) {
		r, err := http.NewRequest(http.MethodGet, "http://h"+path, nil)
		if err != nil || !strings.HasPrefix(path, "/") {
			return
		}
		r.RemoteAddr = "172.22.77.9:1"
		w := httptest.NewRecorder()
		s.web.Handler.ServeHTTP(w, r)
		if w.Code == http.StatusOK && w.Body.String() != "asset" && !strings.HasPrefix(r.URL.Path, "/ipxe/") {
			t.Errorf("GET %q = %.40q", path, w.Body.String())
		}
	})
}

func FuzzSolicitation(f *testing.F) {
	f.Add(solicitation("fe80::5054:ff:fe00:a"))
	f.Add([]byte{0x60})
	f.Fuzz(func(t *testing.T, b []byte) {
		if src, ok := parseSolicitation(b); ok && !src.IsUnspecified() && !src.IsLinkLocalUnicast() {
			t.Errorf("parseSolicitation accepted source %s", src)
		}
		parseARP(b)
	})
}

func FuzzRuleset(f *testing.F) {
	f.Add([]byte(`{"nftables":[{"chain":{"family":"inet","table":"t","name":"input","hook":"input","prio":0,"policy":"drop","type":"filter"}}]}`), "eth1")
	f.Add([]byte(`{"nftables":[{"rule":{"family":"ip","table":"t","chain":"c","expr":[{"jump":{"target":"c"}}]}}]}`), "eth1")
	f.Fuzz(func(_ *testing.T, b []byte, iface string) {
		if rs, err := parseRuleset(b); err == nil {
			rs.findings(iface, netbootPorts(nil))
		}
	})
}
