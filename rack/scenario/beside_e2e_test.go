//go:build e2e

package scenario

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// TestBesideAnotherDHCPServer has dnsmasq give the addresses. Where the site
// wants to give them itself, apply stops and names that server; as a proxy
// beside it, it installs the machine.
func TestBesideAnotherDHCPServer(t *testing.T) {
	l := newLab(t, "beside.hcl")
	l.image("image.edge-os")
	l.raise(l.site)
	l.dnsmasq("172.22.0.2", "172.22.0.50,172.22.0.60,1h", "52:54:00:e2:05:01,172.22.0.11")

	ok := l.sub("two servers", func(l *lab) {
		r := l.want(1, l.apply("--var", "mode=server", l.site))
		if !strings.Contains(r.stderr, "another DHCP server answers on eth1: 172.22.0.2") {
			l.t.Errorf("apply says %q; want that another DHCP server, 172.22.0.2, answers", r.stderr)
		}
		if m := l.machine(node); m.Boots != 0 {
			l.t.Errorf("the machine booted %d times; want 0", m.Boots)
		}
	})
	_ = ok && l.sub("proxy", func(l *lab) {
		l.want(0, l.apply(l.site))
		if r := l.want(0, l.ssh("172.22.0.11:22", "hostname")); r.stdout != "node\n" {
			l.t.Errorf("hostname = %q; want node", r.stdout)
		}
		for _, e := range l.events(node) {
			if e.Kind == inventory.EventDHCPAck && e.Attrs["server"] == "172.22.0.1" && e.Attrs["address"] == "172.22.0.11" {
				l.t.Errorf("the controller gave out %s; want dnsmasq to", e.Attrs["address"])
			}
		}
		if r := l.want(0, l.apply(l.site)); !strings.Contains(r.stdout, "No changes.") {
			l.t.Errorf("apply says %q; want No changes.", r.stdout)
		}
	})
}

// dnsmasq runs a DHCP server as another host on the rack's network, until the
// test ends.
func (l *lab) dnsmasq(address, addresses, reservation string) {
	l.t.Helper()
	ns, host := l.rack.Namespace(), l.rack.Namespace()+"-lan"
	ip := func(args ...string) {
		l.t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			l.t.Fatalf("ip %s = %v, %s", strings.Join(args, " "), err, out)
		}
	}
	ip("netns", "add", host)
	l.t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", host).CombinedOutput(); err != nil {
			l.t.Errorf("removing the namespace %s = %v, %s", host, err, out)
		}
	})
	ip("-n", ns, "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", host)
	ip("-n", ns, "link", "set", "lan0", "master", "eth1", "up")
	ip("-n", host, "address", "add", address+"/24", "dev", "eth0")
	ip("-n", host, "link", "set", "eth0", "up")

	cmd := exec.Command("ip", "netns", "exec", host, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
		"--interface=eth0", "--bind-interfaces", "--pid-file="+filepath.Join(l.dir, "dnsmasq.pid"), "--log-facility=-", "--log-dhcp",
		"--dhcp-leasefile="+filepath.Join(l.dir, "dnsmasq.leases"), "--dhcp-range="+addresses, "--dhcp-host="+reservation)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, 5*time.Second
	if err := cmd.Start(); err != nil {
		l.t.Fatalf("dnsmasq = %v", err)
	}
	l.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if l.t.Failed() {
			l.t.Logf("dnsmasq ended with %v:\n%s", err, out.String())
		}
	})
	l.eventually("dnsmasq serves", settleLimit, func() bool {
		return exec.Command("ip", "netns", "exec", host, "grep", "-q", ":0043 ", "/proc/net/udp").Run() == nil
	})
}
