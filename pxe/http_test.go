package pxe

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/pin/tftp/v3"

	"github.com/edge-provision/edge-provision/inventory"
)

// local is a Server whose TFTP and HTTP are real sockets on 127.0.0.1, and
// whose one machine has that address.
type local struct {
	t     *testing.T
	s     *Server
	log   *eventLog
	tftp  string
	cards map[netip.Addr]inventory.MAC // the host's ARP table
}

var loopback = netip.MustParseAddr("127.0.0.1")

func newLocal(t *testing.T, c Config) *local {
	t.Helper()
	l := &local{t: t, log: newEventLog(), cards: map[netip.Addr]inventory.MAC{loopback: macA}}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	web, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.tftp = udp.LocalAddr().String()
	c.Network, c.Prefix, c.Address, c.Mode, c.Recorder = "edge", netip.MustParsePrefix("127.0.0.0/8"), loopback, ModeOff, l.log
	c.Sockets = &Sockets{TFTP: udp, HTTP: web, Neighbor: func(a netip.Addr) (inventory.MAC, bool) {
		mac, ok := l.cards[a]
		return mac, ok
	}}
	if l.s, err = Listen(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.s.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Serve() = %v; want nil", err)
			}
		case <-time.After(eventBound):
			t.Error("Serve did not return after its context ended")
		}
	})
	return l
}

func (l *local) get(path, byteRange string) (int, string, http.Header) {
	l.t.Helper()
	req, err := http.NewRequestWithContext(l.t.Context(), http.MethodGet, l.s.URL()+path, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	r, err := http.DefaultClient.Do(req)
	if err != nil {
		l.t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return r.StatusCode, string(b), r.Header
}

func scriptPath(mac inventory.MAC) string { return "/boot/" + mac.String() + "/script.ipxe" }

func TestScriptGoesOnlyToTheAddressOfItsMachine(t *testing.T) {
	asked := 0
	l := newLocal(t, Config{Booter: bootFunc(func(c Client) (Answer, error) {
		asked++
		if !c.WantsScript || c.Address != loopback {
			t.Errorf("Boot(%+v); want WantsScript and the address", c)
		}
		return Answer{Kind: KindInstall, Kernel: "vmlinuz", Initramfs: "http://elsewhere/i", CommandLine: "edge.token=secret"}, nil
	})})
	if _, err := l.s.Register(Asset{Name: "vmlinuz", Kind: AssetKernel, Content: []byte("kernel"), Size: 6}); err != nil {
		t.Fatal(err)
	}
	status, body, _ := l.get(scriptPath(macA), "")
	if status != 200 || !strings.Contains(body, "kernel "+l.s.URL()+"/asset/vmlinuz initrd=initramfs edge.token=secret ||") ||
		!strings.Contains(body, "initrd --name initramfs http://elsewhere/i ||") {
		t.Errorf("script = %d %s", status, body)
	}
	status, body, _ = l.get(scriptPath(macB), "")
	if status != http.StatusForbidden || strings.Contains(body, "secret") || asked != 1 {
		t.Errorf("another machine's script = %d %q after %d decisions; want 403, no secret, and nothing minted", status, body, asked)
	}
	delete(l.cards, loopback)
	if status, _, _ = l.get(scriptPath(macA), ""); status != http.StatusForbidden {
		t.Errorf("script for an address that nobody answers for = %d; want 403", status)
	}
	for _, e := range l.log.all() {
		for _, v := range e.Attrs {
			if strings.Contains(v, "secret") {
				t.Errorf("event %v holds a secret", e)
			}
		}
	}
}

func TestScriptNeedsTheLeaseInServerMode(t *testing.T) {
	w := newWire(t, Config{Leases: reservedLeases(), Booter: always(Answer{Kind: KindLocal})})
	if w.s.holds(macA, addressA) {
		t.Error("the address is the machine's before it was leased")
	}
	w.ask(request{typ: dhcpv4.MessageTypeRequest, mac: macA, options: dhcpv4.Options{50: address("172.22.77.11"), 54: address("172.22.77.1")}})
	if !w.s.holds(macA, addressA) || w.s.holds(macB, addressA) {
		t.Error("the leased address is not its machine's, or is another's too")
	}
	w.s.sock.Neighbor = func(netip.Addr) (inventory.MAC, bool) { return macB, true }
	if w.s.holds(macA, addressA) {
		t.Error("a card that took the address over passes for the machine")
	}
}

func TestScriptPerAnswer(t *testing.T) {
	tests := []struct {
		name   string
		answer Answer
		err    error
		status int
		body   string
	}{
		{"local", Answer{Kind: KindLocal, BIOSDrive: 0x82}, nil, 200, "--drive 0x82"},
		{"an address alone goes back to the disk too", Answer{Kind: KindAddressOnly}, nil, 200, "exit 1"},
		{"ignored", Answer{Kind: KindIgnore}, nil, 404, ""},
		{"no decision", Answer{}, errors.New("catalog: password=hunter2"), 503, "no decision, ask again"},
		{"a command line that iPXE would change", Answer{Kind: KindInstall, Kernel: "http://h/k", Initramfs: "http://h/i", CommandLine: "a || b"}, nil, 500, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLocal(t, Config{Booter: bootFunc(func(Client) (Answer, error) { return tt.answer, tt.err })})
			status, body, _ := l.get(scriptPath(macA), "")
			if status != tt.status || !strings.Contains(body, tt.body) || strings.Contains(body, "hunter2") {
				t.Errorf("script = %d %q; want %d with %q", status, body, tt.status, tt.body)
			}
		})
	}
}

func TestAssetsByRange(t *testing.T) {
	l := newLocal(t, Config{Booter: always(Answer{})})
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	url, err := l.s.Register(Asset{Name: "sha256-ab.img", Kind: AssetImage, Path: path, Size: 10, SHA256: "ab"})
	if err != nil || url != l.s.URL()+"/asset/sha256-ab.img" {
		t.Fatalf("Register() = %q, %v", url, err)
	}
	if status, body, h := l.get("/asset/sha256-ab.img", ""); status != 200 || body != "0123456789" || h.Get("ETag") != `"ab"` {
		t.Errorf("whole = %d %q ETag %s", status, body, h.Get("ETag"))
	}
	for range 3 {
		if status, body, _ := l.get("/asset/sha256-ab.img", "bytes=2-4"); status != 206 || body != "234" {
			t.Errorf("range = %d %q; want 206 \"234\"", status, body)
		}
	}
	if status, _, _ := l.get("/asset/sha256-ab.img", "bytes=20-"); status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("range after the end = %d; want 416", status)
	}
	starts := 0
	for _, e := range l.log.all() {
		if e.Kind == inventory.EventHTTPStart {
			starts++
		}
	}
	if starts != 2 {
		t.Errorf("%d starts recorded; want 2: the whole file, and the first of its ranges", starts)
	}
	l.log.await(t, eventBound, "failed range", eventOf(inventory.EventHTTPEnd, "status", "416"))
	if err := os.WriteFile(path, []byte("012345678"), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, body, _ := l.get("/asset/sha256-ab.img", ""); status != 500 || strings.Contains(body, path) {
		t.Errorf("a file that changed = %d %q; want 500 without its path", status, body)
	}
}

func TestRegisterRefuses(t *testing.T) {
	l := newLocal(t, Config{Booter: always(Answer{})})
	for _, a := range []Asset{
		{Name: "", Content: []byte{}},
		{Name: "../x", Content: []byte{}},
		{Name: ".hidden", Content: []byte{}},
		{Name: "a/b", Content: []byte{}},
		{Name: "a", Content: []byte("x"), Size: 2},
		{Name: "a", Path: "/nonexistent"},
		{Name: "a", Path: t.TempDir()},
	} {
		if _, err := l.s.Register(a); err == nil {
			t.Errorf("Register(%+v) succeeded; want an error", a)
		}
	}
}

func TestOnlyRegisteredFilesAreServed(t *testing.T) {
	l := newLocal(t, Config{Booter: always(Answer{})})
	for _, path := range []string{"/", "/asset/", "/asset/../../etc/passwd", "/asset/..%2f..%2fetc%2fpasswd", "/ipxe/", "/ipxe/passwd", "/boot/x/script.ipxe", "/boot/00:00:00:00:00:00/script.ipxe"} {
		if status, body, _ := l.get(path, ""); status != http.StatusNotFound {
			t.Errorf("GET %s = %d %.40q; want 404", path, status, body)
		}
	}
}

func TestHandlersAreMounted(t *testing.T) {
	l := newLocal(t, Config{Booter: always(Answer{}), Handlers: map[string]http.Handler{
		"/agent/": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "agent") }),
	}})
	if status, body, _ := l.get("/agent/v1", ""); status != 200 || body != "agent" {
		t.Errorf("mounted handler = %d %q", status, body)
	}
	_, err := Listen(t.Context(), Config{
		Booter: always(Answer{}), Network: "edge", Prefix: testPrefix, Address: testServer,
		Sockets: &Sockets{}, Handlers: map[string]http.Handler{"GET /asset/{name}": http.NotFoundHandler()},
	})
	if err == nil || !strings.Contains(err.Error(), "mounting") {
		t.Errorf("Listen with a conflicting handler = %v; want an error", err)
	}
}

func TestTFTPServesTheTableAlone(t *testing.T) {
	l := newLocal(t, Config{Booter: always(Answer{})})
	client, err := tftp.NewClient(l.tftp)
	if err != nil {
		t.Fatal(err)
	}
	client.SetTimeout(5 * time.Second)
	client.RequestTSize(true)
	client.SetBlockSize(tftpBlock)
	for _, name := range []string{"undionly.kpxe", "/undionly.kpxe", "undionly.kpxe\xff"} {
		to, err := client.Receive(name, "octet")
		if err != nil {
			t.Fatalf("Receive(%q) = %v", name, err)
		}
		want := int64(len(l.s.files.programs["undionly.kpxe"]))
		if size, ok := to.(tftp.IncomingTransfer).Size(); !ok || size != want {
			t.Errorf("size of %q = %d, %t; want %d", name, size, ok, want)
		}
		if n, err := to.WriteTo(io.Discard); err != nil || n != want {
			t.Errorf("Receive(%q) = %d bytes, %v; want %d", name, n, err, want)
		}
	}
	l.log.await(t, eventBound, "the transfer's end", func(e inventory.Event) bool {
		return e.Kind == inventory.EventTFTPEnd && e.MAC == macA && e.Attrs["bytes"] == e.Attrs["size"]
	})
	for _, name := range []string{"/etc/passwd", "../../etc/passwd", "undionly.kpxe/..", "..\\ipxe.efi\\x", ""} {
		if to, err := client.Receive(name, "octet"); err == nil {
			n, err := to.WriteTo(io.Discard)
			t.Errorf("Receive(%q) = %d bytes, %v; want an error", name, n, err)
		}
	}
	l.log.await(t, eventBound, "the refusal", eventOf(inventory.EventTFTPError, "file", "etc/passwd"))
	if to, err := client.Send("x", "octet"); err == nil {
		if _, err := to.ReadFrom(strings.NewReader("x")); err == nil {
			t.Error("the server took a file")
		}
	}
}

func TestChainLoadingTwiceIsRecordedAndEnds(t *testing.T) {
	l := newLocal(t, Config{Booter: always(Answer{Kind: KindInstall, Kernel: "http://h/k", Initramfs: "http://h/i"})})
	l.s.seen.saw(Client{MAC: macA, Stage: StageUEFI, Address: loopback}, time.Now())
	for range maxChain {
		if status, _, _ := l.get("/ipxe/ipxe.efi", ""); status != 200 {
			t.Fatalf("boot program = %d", status)
		}
	}
	l.log.await(t, eventBound, "the loop", eventOf(inventory.EventBootLoop, "count", "2"))
	l.s.mu.Lock()
	chained := l.s.seen.byMAC[macA].chainedNow(time.Now())
	l.s.mu.Unlock()
	if chained != maxChain {
		t.Errorf("chained = %d; want %d, after which no boot file is offered", chained, maxChain)
	}
	if status, _, _ := l.get(scriptPath(macA), ""); status != 200 {
		t.Fatalf("script = %d", status)
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if got := l.s.seen.byMAC[macA].chainedNow(time.Now()); got != 0 {
		t.Errorf("chained after the script = %d; want 0", got)
	}
}
