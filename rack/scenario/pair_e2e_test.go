//go:build e2e

package scenario

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/rack"
)

// TestPairFromOffToSSH takes a UEFI machine with its own PXE stack and a BIOS
// machine from powered off to SSH, with decoys beside them: a second disk in
// each that would boot, and a machine that nobody asked for.
func TestPairFromOffToSSH(t *testing.T) {
	l := newLab(t, "pair.hcl")
	image := l.image("image.edge-os")
	old := l.raw(image)
	l.raise(l.site)
	targets := []string{
		"--target", `machine.node["uefi"]`, "--target", `machine.node["bios"]`, "--target", "workflow.platform.step.file.motd",
	}
	nodes := map[string]string{"uefi": "172.22.0.11", "bios": "172.22.0.12"}
	l.plug(`machine.node["uefi"]`, "sw-1", "Gi1/0/7")
	unplug := l.plug(`machine.node["bios"]`, "sw-1", "Gi1/0/8")

	l.sub("apply", func(l *lab) {
		l.want(0, l.apply(append(targets, l.site)...))
		for key, address := range nodes {
			r := l.want(0, l.ssh(address+":22", "hostname; cat /etc/motd; lsblk -ndo SERIAL $(findmnt -no SOURCE / | sed s/.$//)"))
			for _, want := range []string{"node-" + key + "\n", "Kept by edge-provision.", "ROOT-" + key} {
				if !strings.Contains(r.stdout, want) {
					l.t.Errorf("on %s: %q; want %q in it", key, r.stdout, want)
				}
			}
		}
		if list := l.must(commandLimit, "inventory", "list"); strings.Count(list.stdout, "installed") != 2 {
			l.t.Errorf("inventory list = %s; want two installed machines", list.stdout)
		}
		for key, port := range map[string]string{"uefi": "Gi1/0/7", "bios": "Gi1/0/8"} {
			// The installer heard it while it worked.
			found := l.must(commandLimit, "inventory", "query", `any([for n in facts.neighbors : n.system == "sw-1" && n.port == "`+port+`"])`)
			if !strings.Contains(found.stdout, `machine.node["`+key+`"]`) || strings.Count(found.stdout, "machine.node") != 1 {
				l.t.Errorf("the machine on port %s of sw-1 is %q; want node[%q] alone", port, found.stdout, key)
			}
		}
	})
	if t.Failed() {
		return
	}
	before := l.counts("uefi", "bios")

	l.sub("again", func(l *lab) {
		r := l.want(0, l.apply(append(targets, l.site)...))
		if !strings.Contains(r.stdout, "No changes.") {
			l.t.Errorf("the second apply says %q; want No changes.", r.stdout)
		}
		l.want(0, l.run(commandLimit, "", l.inside(append(append([]string{"plan", "-detailed-exitcode"}, targets...), l.site)...)))
	})

	l.sub("a disk is swapped while the machine runs", func(l *lab) {
		plan := l.inside(append(append([]string{"plan", "-detailed-exitcode"}, targets...), l.site)...)
		booted := l.booted(`machine.node["bios"]`)
		l.swap(`machine.node["bios"]`, 2, rack.Disk{Bus: rack.DiskSCSI, Bytes: 64 << 20, Serial: "SWAP-bios"})
		l.eventually("the machine sees the other disk and no more the one that was pulled", settleLimit, func() bool {
			seen := l.ssh("172.22.0.12:22", "cat /sys/block/sd*/device/vpd_pg80").stdout
			return strings.Contains(seen, "SWAP-bios") && !strings.Contains(seen, "DATA-bios")
		})
		for range 2 {
			r := l.want(2, l.run(commandLimit, "", plan))
			for _, want := range []string{`machine.node["bios"] is not as it was frozen`, `disk "DATA-bios" is gone`, `disk "SWAP-bios" is new`, "1 machine: looked at now, no change"} {
				if !strings.Contains(r.stdout, want) {
					l.t.Errorf("plan says %q; want %q in it", r.stdout, want)
				}
			}
		}
		if n := count(l.events(`machine.node["bios"]`), inventory.EventMachineDrift); n != 1 {
			l.t.Errorf("the drift was told %d times; want once", n)
		}
		if now := l.booted(`machine.node["bios"]`); now != booted {
			l.t.Errorf("requests to boot and sessions of the installer: %d; want the %d from before: nothing netboots for a look", now, booted)
		}
		accepted := l.must(commandLimit, "inventory", "accept", "--auto-approve", `machine.node["bios"]`)
		if !strings.Contains(accepted.stderr, `disk "SWAP-bios" is new`) {
			l.t.Errorf("accept says %q; want what is accepted", accepted.stderr)
		}
		if r := l.want(0, l.run(commandLimit, "", plan)); !strings.Contains(r.stdout, "2 machines: looked at now, no change") {
			l.t.Errorf("plan says %q; want no change of the hardware", r.stdout)
		}
	})

	l.sub("a cable is moved to another switch", func(l *lab) {
		plan := l.inside(append(append([]string{"plan", "-detailed-exitcode"}, targets...), l.site)...)
		told, booted := count(l.events(`machine.node["bios"]`), inventory.EventMachineDrift), l.booted(`machine.node["bios"]`)
		unplug()
		// The emulator's port keeps its link, so that only time tells.
		l.eventually("systemd-networkd forgets the switch", settleLimit, func() bool { return l.ssh("172.22.0.12:22", "test -e /run/systemd/netif/lldp/2").code != 0 })
		if r := l.want(0, l.run(commandLimit, "", plan)); !strings.Contains(r.stdout, "2 machines: looked at now, no change") {
			l.t.Errorf("without a cable that says anything plan says %q; want no change", r.stdout)
		}
		l.plug(`machine.node["bios"]`, "sw-2", "Gi1/0/3")
		l.eventually("systemd-networkd hears the other switch", settleLimit, func() bool {
			return l.ssh("172.22.0.12:22", "grep -q chassis-of-sw-2 /run/systemd/netif/lldp/*").code == 0
		})
		for range 2 {
			r := l.want(2, l.run(commandLimit, "", plan))
			const want = `network port "52:54:00:e2:01:0c" is connected to port "Gi1/0/3"`
			if !strings.Contains(r.stdout, want) || !strings.Contains(r.stdout, `of "sw-2"; it was to port "Gi1/0/8"`) {
				l.t.Errorf("plan says %q; want %q and where it was before", r.stdout, want)
			}
		}
		if n := count(l.events(`machine.node["bios"]`), inventory.EventMachineDrift); n != told+1 {
			l.t.Errorf("the drift was told %d times; want once after the %d of before", n, told)
		}
		if now := l.booted(`machine.node["bios"]`); now != booted {
			l.t.Errorf("requests to boot and sessions of the installer: %d; want the %d from before: nothing netboots for a look", now, booted)
		}
		// What the program hears by itself, for systemd-networkd is not everywhere.
		heard := l.want(0, l.ssh("172.22.0.12:22", "systemctl stop systemd-networkd.socket systemd-networkd; rm -r /run/systemd/netif/lldp; /var/lib/edge-provision/agent/edge-agent-* facts -listen 30s; systemctl start systemd-networkd"))
		if !strings.Contains(heard.stdout, `"chassis": "chassis-of-sw-2"`) {
			l.t.Errorf("edge-agent facts -listen 30s says %q; want the switch", heard.stdout)
		}
		l.must(commandLimit, "inventory", "accept", "--auto-approve", `machine.node["bios"]`)
		if r := l.want(0, l.run(commandLimit, "", plan)); !strings.Contains(r.stdout, "2 machines: looked at now, no change") {
			l.t.Errorf("plan says %q; want no change of the hardware", r.stdout)
		}
	})

	l.sub("sshd stopped", func(l *lab) {
		// A second sshd is this test's own way back in; it needs the directory
		// that systemd removes with the first.
		l.want(0, l.ssh("172.22.0.12:22", "systemd-run --quiet /usr/sbin/sshd -D -p 2222 -o PidFile=none"))
		l.eventually("the second sshd answers", settleLimit, func() bool { return l.ssh("172.22.0.12:2222", "true").code == 0 })
		l.want(0, l.ssh("172.22.0.12:2222", "systemctl stop ssh; mkdir -p /run/sshd"))
		r := l.want(2, l.run(commandLimit, "", l.inside(append(append([]string{"plan"}, targets...), l.site)...)))
		if !strings.Contains(r.stdout, `machine.node["bios"] cannot be asked`) {
			l.t.Errorf("plan says %q; want that node[\"bios\"] cannot be asked", r.stdout)
		}
		if !strings.Contains(r.stdout, `Hardware of machine.node["bios"]: no change known; not looked at since`) {
			l.t.Errorf("plan says %q; want how old the last look at it is", r.stdout)
		}
		if strings.Contains(r.stdout, "ERASES") || strings.Contains(r.stdout, "power-cycled") {
			l.t.Errorf("plan says %q; want that nothing is touched", r.stdout)
		}
		l.want(1, l.apply(append(targets, l.site)...))
		l.want(0, l.ssh("172.22.0.12:2222", "systemctl start ssh"))
		l.want(0, l.apply(append(targets, l.site)...))
	})
	if after := l.counts("uefi", "bios"); after != before {
		t.Errorf("power and boots after the install: %s; want %s", after, before)
	}

	l.sub("decoys", func(l *lab) {
		if m := l.machine(`machine.node["decoy"]`); m.On || m.Boots != 0 {
			l.t.Errorf("the machine that nobody asked for: on %t, %d boots; want off and none", m.On, m.Boots)
		}
		// Its BMC told what is in it when the others were planned.
		shown := l.must(commandLimit, "inventory", "show", `machine.node["decoy"]`).stdout
		for _, want := range []string{`"redfish"`, `"bytes": 939524096`, `"serial": "ROOT-decoy"`, `"mac": "52:54:00:e2:01:0d"`} {
			if !strings.Contains(shown, want) {
				l.t.Errorf("inventory show of a machine that was never on: %s; want %s in it", shown, want)
			}
		}
		if shown := l.must(commandLimit, "inventory", "show", `machine.node["bios"]`).stdout; !strings.Contains(shown, `"ipmi"`) {
			l.t.Errorf("inventory show of the machine with IPMI: %s; want what its BMC says of it", shown)
		}
		for key := range nodes {
			address := `machine.node["` + key + `"]`
			l.power(address, rack.PowerOff)
			if at := l.difference(l.disk(address, 1), old, l.size(old)); at >= 0 {
				l.t.Errorf("the second disk of %s differs from what it was at byte %d; want it untouched", key, at)
			}
		}
	})
}

// swap pulls a disk of a machine and plugs another in.
func (l *lab) swap(address string, n int, d rack.Disk) {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := l.rack.SwapDisk(ctx, address, n, d); err != nil {
		l.t.Fatal(err)
	}
}

// booted counts how often a machine asked for an address as firmware does, and
// was in the installer.
func (l *lab) booted(address string) int {
	l.t.Helper()
	events := l.events(address)
	return count(events, inventory.EventDHCPDiscover) + count(events, inventory.EventAgentSession)
}

// counts says how often the machines were switched on, reset and booted.
func (l *lab) counts(keys ...string) string {
	l.t.Helper()
	var out strings.Builder
	for _, k := range keys {
		m := l.machine(`machine.node["` + k + `"]`)
		out.WriteString(k + ": " + power(m) + "; ")
	}
	return out.String()
}
