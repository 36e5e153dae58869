//go:build e2e

package pxe

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// udhcpc asks once with busybox's client and returns the address it got, or ""
// when nobody gave one.
func (h *host) udhcpc(args ...string) string {
	h.t.Helper()
	script := filepath.Join(h.t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n[ \"$1\" = bound ] && echo got=$ip\nexit 0\n"), 0o700); err != nil {
		h.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, _ := h.command(ctx, append([]string{"busybox", "udhcpc", "-i", "eth0", "-n", "-q", "-f", "-t", "4", "-T", "1", "-s", script}, args...)...).CombinedOutput()
	_, rest, ok := strings.Cut(string(out), "got=")
	if !ok {
		return ""
	}
	addr, _, _ := strings.Cut(rest, "\n")
	return addr
}

// declaredOnly admits the MACs of the test's clients and nobody else.
func declaredOnly(macs ...string) Booter {
	return bootFunc(func(c Client) (Answer, error) {
		for _, m := range macs {
			if c.MAC == mustMAC(m) {
				return Answer{Kind: KindAddressOnly}, nil
			}
		}
		return Answer{}, nil
	})
}

func TestRealClients(t *testing.T) {
	const declared, dynamic, stranger = "52:54:00:00:00:0a", "52:54:00:00:00:0b", "52:54:00:00:00:0c"
	l := newLAN(t)
	leases := &memoryLeases{reserved: []Reservation{{MAC: mustMAC(declared), Address: addressA}}}
	c := Config{Mode: ModeServer, Leases: leases, Range: poolConfig().Range, Booter: declaredOnly(declared, dynamic)}
	_, log := l.serve(c)

	// Somebody uses the first address of the range without a lease.
	l.host("02:00:00:00:00:99", "172.22.77.100/24")
	if got := l.host(declared, "").udhcpc(); got != "172.22.77.11" {
		t.Errorf("the declared machine got %q; want 172.22.77.11", got)
	}
	b := l.host(dynamic, "")
	if got := b.udhcpc(); got != "172.22.77.101" {
		t.Errorf("the dynamic client got %q; want 172.22.77.101, because .100 answers ARP", got)
	}
	if e, ok := log.find(eventOf(inventory.EventDHCPDecline, "address", "172.22.77.100")); !ok || e.MAC != mustMAC("02:00:00:00:00:99") {
		t.Errorf("events %v; want one that names who uses .100", log.kinds())
	}
	if got := b.udhcpc("-x", "61:0011223344"); got != "172.22.77.101" {
		t.Errorf("the same MAC with another client id got %q; want 172.22.77.101", got)
	}
	if got := l.host(stranger, "").udhcpc(); got != "" {
		t.Errorf("a stranger got %q; want nothing", got)
	}
	if _, ok := log.find(func(e inventory.Event) bool {
		return e.Kind == inventory.EventDHCPIgnored && e.MAC == mustMAC(stranger)
	}); !ok {
		t.Errorf("events %v; want the stranger recorded", log.kinds())
	}
}

func TestServiceSurvivesItsInterfaceGoingDown(t *testing.T) {
	const mac = "52:54:00:00:00:0b"
	l := newLAN(t)
	l.serve(Config{Mode: ModeServer, Leases: &memoryLeases{}, Range: poolConfig().Range, Booter: declaredOnly(mac)})
	l.ip("link", "set", l.name, "down")
	l.ip("link", "set", l.name, "up")
	if got := l.host(mac, "").udhcpc(); got != "172.22.77.100" {
		t.Errorf("after the interface went down and up, the client got %q; want 172.22.77.100", got)
	}
}

func TestWrongNetworkInitRebootStartsOver(t *testing.T) {
	const mac = "52:54:00:00:00:0b"
	if _, err := exec.LookPath("dhclient"); err != nil {
		t.Skip("needs dhclient (Debian package isc-dhcp-client): busybox's client never sends INIT-REBOOT")
	}
	l := newLAN(t)
	_, log := l.serve(Config{Mode: ModeServer, Leases: &memoryLeases{}, Range: poolConfig().Range, Booter: declaredOnly(mac)})
	h := l.host(mac, "")
	dir := t.TempDir()
	lease := filepath.Join(dir, "leases")
	future := time.Now().Add(24 * time.Hour).UTC().Format("2006/01/02 15:04:05")
	if err := os.WriteFile(lease, []byte("lease {\n  interface \"eth0\";\n  fixed-address 10.0.0.7;\n  option subnet-mask 255.255.255.0;\n"+
		"  option dhcp-server-identifier 10.0.0.1;\n  option dhcp-lease-time 86400;\n  renew 1 "+future+";\n  rebind 1 "+future+";\n  expire 1 "+future+";\n}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := h.command(ctx, "dhclient", "-1", "-d", "-sf", "/bin/true", "-lf", lease, "--no-pid", "eth0")
	if err := client.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); _ = client.Wait() }()
	log.await(t, 15*time.Second, "NAK", ofKind(inventory.EventDHCPNak))
	log.await(t, 15*time.Second, "ACK", eventOf(inventory.EventDHCPAck, "address", "172.22.77.100"))
}

func TestRestartDoesNotLeaseAnAddressTwice(t *testing.T) {
	const first, second = "52:54:00:00:00:0b", "52:54:00:00:00:0c"
	l := newLAN(t)
	leases := &memoryLeases{}
	c := Config{Mode: ModeServer, Leases: leases, Range: poolConfig().Range, Booter: declaredOnly(first, second)}
	t.Run("before", func(t *testing.T) {
		before := *l
		before.t = t
		before.serve(c)
		if got := before.host(first, "").udhcpc(); got != "172.22.77.100" {
			t.Fatalf("the first client got %q; want 172.22.77.100", got)
		}
		l.ports = before.ports
	})
	// The first client is off the wire now: only the store knows its lease.
	l.serve(c)
	if got := l.host(second, "").udhcpc("-r", "172.22.77.100"); got != "172.22.77.101" {
		t.Errorf("the second client, asking for .100, got %q; want 172.22.77.101", got)
	}
}

func TestProbeFindsDnsmasq(t *testing.T) {
	l := newLAN(t)
	if got, err := Probe(t.Context(), l.name); err != nil || len(got) != 0 {
		t.Errorf("Probe() on a silent LAN = %v, %v; want none", got, err)
	}
	l.host("02:00:00:00:00:02", "172.22.77.2/24").dnsmasq("--dhcp-boot=pxelinux.0")
	began := time.Now()
	got, err := Probe(t.Context(), l.name)
	if err != nil || len(got) != 1 || got[0].Address != netip.MustParseAddr("172.22.77.2") || got[0].Proxy || !got[0].Offered.IsValid() || got[0].BootFile != "pxelinux.0" {
		t.Errorf("Probe() = %+v, %v; want 172.22.77.2 with an address and pxelinux.0", got, err)
	}
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("the probe took %s; want less than 5 s", d)
	}
	if _, err := Probe(t.Context(), "nosuch0"); err == nil {
		t.Error("Probe on an interface that does not exist succeeded")
	}
}

func TestChosenForeignServerIsRecorded(t *testing.T) {
	const mac = "52:54:00:00:00:0b"
	l := newLAN(t)
	l.host("02:00:00:00:00:02", "172.22.77.2/24").dnsmasq("--no-ping", "--dhcp-authoritative")
	_, log := l.serve(Config{Mode: ModeServer, Leases: &memoryLeases{}, Range: poolConfig().Range, Booter: declaredOnly(mac)})
	// dnsmasq answers at once, we after the ARP probe: the client takes the first.
	if got := l.host(mac, "").udhcpc(); !strings.HasPrefix(got, "172.22.77.1") {
		t.Fatalf("the client got %q", got)
	}
	log.await(t, 5*time.Second, "foreign server", eventOf(inventory.EventDHCPForeign, "server", "172.22.77.2"))
}

func TestPortTakenNamesItsOwner(t *testing.T) {
	l := newLAN(t)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=",
		"--interface="+l.name, "--log-facility=-", "--dhcp-range=172.22.77.150,172.22.77.160", "--dhcp-leasefile="+filepath.Join(t.TempDir(), "leases"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out := &waitWriter{want: "DHCP, IP range", found: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	out.await(t, 10*time.Second)
	_, err := Listen(t.Context(), Config{Mode: ModeServer, Interface: l.name, Prefix: testPrefix, Network: "edge", Booter: declaredOnly(), Leases: &memoryLeases{}})
	taken, ok := errors.AsType[*PortTakenError](err)
	if !ok || taken.Port != 67 || !strings.HasPrefix(taken.Owner, "dnsmasq (pid ") {
		t.Errorf("Listen() = %v; want port 67 held by dnsmasq", err)
	}
}

func TestInterfaceWithoutAddress(t *testing.T) {
	l := newLAN(t)
	c := Config{Interface: l.name, Prefix: netip.MustParsePrefix("10.9.9.0/24"), Network: "edge", Booter: declaredOnly()}
	_, err := Listen(t.Context(), c)
	if !errors.Is(err, ErrNoAddress) || !strings.Contains(err.Error(), "172.22.77.1/24") {
		t.Errorf("Listen() = %v; want ErrNoAddress that says what the interface has", err)
	}
	l.ip("link", "set", l.name, "down")
	if _, err := Listen(t.Context(), c); !errors.Is(err, ErrNoAddress) || !strings.Contains(err.Error(), "is down") {
		t.Errorf("Listen() on an interface that is down = %v", err)
	}
}

func TestFirewallOfThisHost(t *testing.T) {
	l := newLAN(t)
	if got, err := FirewallCheck(t.Context(), l.name, DefaultHTTPPort); err != nil || len(got) != 0 {
		t.Fatalf("FirewallCheck() without rules = %v, %v; want none", got, err)
	}
	defer func() { _ = run("nft", "flush", "ruleset") }() // of this test's own network namespace
	rules := "table inet filter { chain input { type filter hook input priority 0; policy drop; iifname \"lo\" accept; ct state established,related accept; " +
		"iifname \"" + l.name + "\" udp dport { 67, 69 } accept; }\n}\n"
	nft := exec.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(rules)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	got, err := FirewallCheck(t.Context(), l.name, DefaultHTTPPort)
	if err != nil || len(got) != 2 || got[0].Port != pxePort || got[1].Port != DefaultHTTPPort || !got[0].Sure || !strings.Contains(got[1].Rule, "policy drop") {
		t.Errorf("FirewallCheck() = %+v, %v; want 4011 and %d, for sure, by the policy", got, err, DefaultHTTPPort)
	}
}
