package host

import (
	"net/netip"
	"strings"
	"testing"
)

// frames are made by hand of RFC 791, 768 and 1035: a question for a name, a TCP
// segment, and what is none of both.
func frameOf(kind string, packet ...byte) []byte {
	return append([]byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02"+kind), packet...)
}

func packetOf(protocol byte, offset byte, payload string) []byte {
	header := []byte{0x45, 0, 0, 0, 0, 0, 0, offset, 64, protocol, 0, 0, 172, 24, 0, 11, 192, 0, 2, 1}
	return append(header, payload...)
}

const (
	askedPort = "\x80\x00\x00\x35\x00\x00\x00\x00"
	asked     = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04quay\x02io\x00\x00\x01\x00\x01"
)

func TestWhatLeavesALabIsDescribed(t *testing.T) {
	for _, c := range []struct {
		frame []byte
		want  string
		query bool
	}{
		{frameOf("\x08\x00", packetOf(17, 0, askedPort+asked)...), "UDP from 172.24.0.11 to 192.0.2.1:53, which asks for quay.io. TypeA", true},
		{frameOf("\x08\x00", packetOf(17, 0, askedPort+"xx")...), "UDP from 172.24.0.11 to 192.0.2.1:53, which is no DNS message", true},
		{frameOf("\x08\x00", packetOf(17, 0, askedPort+"\x12\x34\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")...), "UDP from 172.24.0.11 to 192.0.2.1:53, which asks nothing", true},
		{frameOf("\x08\x00", packetOf(6, 0, askedPort)...), "TCP from 172.24.0.11 to 192.0.2.1:53", true},
		{frameOf("\x08\x00", packetOf(6, 0, "\x80\x00\x01\xbb\x00\x00\x00\x00")...), "TCP from 172.24.0.11 to 192.0.2.1:443", false},
		{frameOf("\x08\x00", packetOf(17, 3, askedPort)...), "IPv4 protocol 17 from 172.24.0.11 to 192.0.2.1", false},
		{frameOf("\x08\x00", packetOf(1, 0, "")...), "IPv4 protocol 1 from 172.24.0.11 to 192.0.2.1", false},
		{frameOf("\x08\x00", 0x4f, 0, 0), "a cut IPv4 packet", false},
		{frameOf("\x08\x06"), "a frame of type 0x0806", false},
		{[]byte("short"), "a frame of 5 bytes", false},
	} {
		line, to, query := describe(c.frame)
		if line != c.want || query != c.query || to.IsValid() != strings.Contains(c.want, "192.0.2.1") {
			t.Errorf("describe(%x) = %q, %v, %v; want %q, %v", c.frame, line, to, query, c.want, c.query)
		}
	}
}

func TestTrafficIsCountedByWhereItIsFor(t *testing.T) {
	question := frameOf("\x08\x00", packetOf(17, 0, askedPort+asked)...)
	segment := frameOf("\x08\x00", packetOf(6, 0, "\x80\x00\x01\xbb\x00\x00\x00\x00")...)
	for _, c := range []struct {
		own  string
		want Traffic
	}{
		{"10.43.0.0/16", Traffic{Packets: 4, Queries: 2}},
		{"192.0.2.0/24", Traffic{Packets: 1, Strays: 3}},
	} {
		s := &Sink{own: []netip.Prefix{netip.MustParsePrefix(c.own)}}
		var got Traffic
		for _, frame := range [][]byte{question, question, segment, []byte("short")} {
			s.count(&got, frame)
		}
		if got.Packets != c.want.Packets || got.Queries != c.want.Queries || got.Strays != c.want.Strays || len(got.Lines) != 3 {
			t.Errorf("with %s as the lab's own: count() = %+v; want %+v and three lines", c.own, got, c.want)
		}
	}
}

func FuzzDescribe(f *testing.F) {
	f.Add(frameOf("\x08\x00", packetOf(17, 0, askedPort+asked)...))
	f.Add(frameOf("\x08\x00", packetOf(6, 0, askedPort)...))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, frame []byte) {
		line, _, query := describe(frame)
		if line == "" || len(line) > 2000 || query && !strings.Contains(line, ":53") {
			t.Errorf("describe(%x) = %q, %v", frame, line, query)
		}
	})
}
