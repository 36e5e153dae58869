package main

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// cable is UDP port 67 of a served network with one machine on it: a machine
// without an address cannot be reached over loopback.
type cable struct {
	in, out chan []byte
	once    sync.Once
	closed  chan struct{}
}

func newCable() *cable {
	return &cable{in: make(chan []byte, 16), out: make(chan []byte, 16), closed: make(chan struct{})}
}

func (c *cable) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case d := <-c.in:
		return copy(b, d), &net.UDPAddr{IP: net.IPv4zero, Port: 68}, nil
	case <-c.closed:
		return 0, nil, net.ErrClosed
	}
}

func (c *cable) WriteTo(b []byte, _ net.Addr) (int, error) {
	c.out <- bytes.Clone(b)
	return len(b), nil
}

func (c *cable) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}
func (c *cable) LocalAddr() net.Addr              { return &net.UDPAddr{Port: 67} }
func (c *cable) SetDeadline(time.Time) error      { return nil }
func (c *cable) SetReadDeadline(time.Time) error  { return nil }
func (c *cable) SetWriteDeadline(time.Time) error { return nil }

// station is a machine that boots only as far as a test takes it. It speaks the
// real protocols: DHCP messages, TFTP and HTTP from its own address.
type station struct {
	t       *testing.T
	mac     inventory.MAC
	address netip.Addr
	cable   *cable
	tftp    *net.UDPAddr
	script  string // URL, once iPXE was told
}

// sockets are those of the network that the machine is on: its cable, and TFTP and
// HTTP on the network's own loopback addresses.
func (s *station) sockets(n *site.Network) (*pxe.Sockets, netip.Addr) {
	host := n.CIDR.Addr().Next()
	tftp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: host.AsSlice()})
	if err != nil {
		s.t.Fatal(err)
	}
	web, err := net.Listen("tcp4", netip.AddrPortFrom(host, 0).String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.tftp = tftp.LocalAddr().(*net.UDPAddr)
	return &pxe.Sockets{DHCP: s.cable, TFTP: tftp, HTTP: web}, host
}

// Programs that ask for an address, by what they send.
var (
	byFirmware = dhcpv4.Options{60: []byte("PXEClient:Arch:00007:UNDI:003000"), 93: {0, 7}, 94: {1, 3, 0}}
	byOurIPXE  = dhcpv4.Options{60: []byte("PXEClient:Arch:00007:UNDI:003010"), 77: []byte("edge-provision"), 93: {0, 7}, 175: {0x13, 1, 1}}
	byAgent    = dhcpv4.Options{60: []byte("edge-agent")}
)

// send puts a DHCP message on the wire.
func (s *station) send(typ dhcpv4.MessageType, by, more dhcpv4.Options) {
	d := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootRequest, HWType: 1, ClientHWAddr: s.mac[:], TransactionID: [4]byte{1, 2, 3, 4},
		ClientIPAddr: net.IPv4zero, YourIPAddr: net.IPv4zero, ServerIPAddr: net.IPv4zero, GatewayIPAddr: net.IPv4zero,
		Options: dhcpv4.Options{53: {byte(typ)}},
	}
	for _, options := range []dhcpv4.Options{by, more} {
		for code, value := range options {
			d.Options[code] = value
		}
	}
	s.cable.in <- d.ToBytes()
}

// hear waits for an answer of a type.
func (s *station) hear(typ dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	s.t.Helper()
	select {
	case b := <-s.cable.out:
		d, err := dhcpv4.FromBytes(b)
		if err != nil || d.MessageType() != typ {
			s.t.Fatalf("the controller answered %v, %v; want %s", d, err, typ)
		}
		return d
	case <-time.After(awaitBound):
		s.t.Fatalf("no %s within %s", typ, awaitBound)
		return nil
	}
}

// lease takes an address for one of the machine's programs.
func (s *station) lease(by dhcpv4.Options) *dhcpv4.DHCPv4 {
	s.t.Helper()
	s.send(dhcpv4.MessageTypeDiscover, by, nil)
	offer := s.hear(dhcpv4.MessageTypeOffer)
	s.send(dhcpv4.MessageTypeRequest, by, dhcpv4.Options{50: offer.YourIPAddr.To4(), 54: offer.Options[54]})
	ack := s.hear(dhcpv4.MessageTypeAck)
	s.address, _ = netip.AddrFromSlice(ack.YourIPAddr.To4())
	if strings.HasPrefix(ack.BootFileName, "http") {
		s.script = ack.BootFileName
	}
	return ack
}

// tftpBlock is the block size that the station asks for.
const tftpBlock = 1428

// fetch reads a file by TFTP (RFC 1350, 2347, 2348) and stops, without a word,
// after so many blocks; 0 is the whole file.
func (s *station) fetch(name string, blocks int) {
	s.t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: s.address.AsSlice()})
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(awaitBound)); err != nil {
		s.t.Fatal(err)
	}
	if err := s.blocks(conn, name, func(got int) bool { return got != blocks }); err != nil {
		s.t.Fatal(err)
	}
}

// dawdle fetches a file so slowly that it does not end before the test.
func (s *station) dawdle(name string) {
	s.t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: s.address.AsSlice()})
	if err != nil {
		s.t.Fatal(err)
	}
	// One block in a third of the time after which it would be sent again.
	pause := time.NewTicker(300 * time.Millisecond)
	left, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- s.blocks(conn, name, func(int) bool {
			select {
			case <-pause.C:
				return true
			case <-left:
				return false
			}
		})
	}()
	s.t.Cleanup(func() {
		close(left)
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
		pause.Stop()
		conn.Close()
	})
}

// blocks takes the blocks of a file, each of which it acknowledges when more says
// so; otherwise it goes away without a word.
func (s *station) blocks(conn net.PacketConn, name string, more func(got int) bool) error {
	ask := []byte("\x00\x01" + name + "\x00octet\x00blksize\x001428\x00")
	if _, err := conn.WriteTo(ask, s.tftp); err != nil {
		return err
	}
	buf := make([]byte, 2000)
	for got := 0; ; {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return fmt.Errorf("fetching %s: %w", name, err)
		}
		block := uint16(0)
		switch code := binary.BigEndian.Uint16(buf); code {
		case 6: // options are acknowledged as block 0
		case 3:
			block = binary.BigEndian.Uint16(buf[2:])
			if got++; !more(got) {
				return nil
			}
		default:
			return fmt.Errorf("fetching %s: answer %d %q", name, code, buf[2:n])
		}
		ack := binary.BigEndian.AppendUint16([]byte{0, 4}, block)
		if _, err := conn.WriteTo(ack, from); err != nil {
			return err
		}
		if block > 0 && n < tftpBlock+4 {
			return nil
		}
	}
}

// http is a client that calls from the machine's address.
func (s *station) http() *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: s.address.AsSlice()}, Timeout: awaitBound}
	return &http.Client{Timeout: awaitBound, Transport: &http.Transport{
		DialContext: dialer.DialContext, DisableKeepAlives: true,
		// The pin of the kernel command line is what an agent trusts; that it
		// holds is tested with the real agent.
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
}

func (s *station) get(url string) string {
	s.t.Helper()
	resp, err := s.http().Get(url)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		s.t.Fatalf("GET %s: %s, %v: %s", url, resp.Status, err, b)
	}
	return string(b)
}

// boot goes as far as the kernel: firmware, iPXE, script, kernel and initramfs.
// It returns the arguments on the kernel's command line.
func (s *station) boot() map[string]string {
	s.t.Helper()
	s.fetch(s.lease(byFirmware).BootFileName, 0)
	s.lease(byOurIPXE)
	args := map[string]string{}
	for _, word := range strings.Fields(s.get(s.script)) {
		if strings.Contains(word, "/asset/") && strings.HasPrefix(word, "http") {
			s.get(word)
		}
		if key, value, ok := strings.Cut(word, "="); ok {
			args[key] = value
		}
	}
	return args
}

// installer is the machine's agent after its session was opened.
type installer struct {
	s           *station
	url, bearer string
}

// agent opens a session with the token of the command line.
func (s *station) agent(args map[string]string) *installer {
	s.t.Helper()
	s.lease(byAgent)
	secret := make([]byte, 32)
	_, _ = rand.Read(secret)
	session := base64.RawURLEncoding.EncodeToString(secret)
	i := &installer{s: s, url: args["edge.url"]}
	var reply agent.SessionReply
	raw := i.post(agent.PathSession, agent.SessionRequest{
		Version: agent.ProtocolVersion, Token: args["edge.token"], Session: session, Boot: args["edge.boot"], MAC: s.mac, Agent: "test",
	})
	if err := json.Unmarshal(raw, &reply); err != nil {
		s.t.Fatal(err)
	}
	i.bearer = agent.Bearer(reply.Machine, session)
	return i
}

func (i *installer) post(path string, body any) []byte {
	i.s.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		i.s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(i.s.t.Context(), http.MethodPost, i.url+path, bytes.NewReader(raw))
	if err != nil {
		i.s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+i.bearer)
	resp, err := i.s.http().Do(req)
	if err != nil {
		i.s.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		i.s.t.Fatalf("POST %s: %s, %v: %s", path, resp.Status, err, answer)
	}
	return answer
}
