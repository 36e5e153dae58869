//go:build e2e

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// till is the emulated machine that the service installs.
const (
	tillMAC     = "52:54:00:e2:05:01"
	tillAddress = "172.24.0.21"
)

// counter is a site whose service serves a network. KEY is the key that its bundle
// is signed with.
const counter = `site "depot" {
  trusted_keys = ["KEY"]
}
network "floor" {
  interface = "host0"
  cidr      = "172.24.0.0/24"
  gateway   = "172.24.0.1"
  dhcp {
    range = "172.24.0.100-172.24.0.120"
  }
}
image "edge-os" {
  distribution = "debian"
  release      = "bookworm"
  kernel       = "cloud"
  packages     = ["openssh-server", "chrony"]
}
machine "till" {
  mac          = "` + tillMAC + `"
  network      = network.floor
  address      = "` + tillAddress + `"
  image        = image.edge-os
  boot_timeout = "5m"
}
workflow "w" {
  step "file" "motd" {
    hosts   = machine.till
    path    = "/etc/motd"
    content = "Kept by a service.\n"
  }
}
`

// TestTheHardenedUnitServesANetwork installs an emulated machine through the unit
// as it is: DHCP, TFTP, HTTP, agents, SSH, an image and an installer from a bundle,
// and a look at the packet filter, with what the unit leaves it of its rights.
func TestTheHardenedUnitServesANetwork(t *testing.T) {
	s := supervise(t)
	s.bundle(counter)
	// Which port is not used here: the service finds it with nft.
	s.must("nft 'add table inet floor; add chain inet floor in { type filter hook input priority 0; }; add rule inet floor in udp dport 4011 drop'")
	s.must("systemctl start " + service)
	s.wants("systemctl show -p ActiveState -p StatusText "+service, "StatusText=Serving site depot")
	s.confined()
	s.until("the look at the packet filter", "journalctl --no-pager -b -u "+service, "port=4011")

	// A client of TFTP and one of HTTP that are not beside, from the network.
	for _, url := range []string{"tftp://%s/undionly.kpxe", "http://%s:8480/ipxe/undionly.kpxe"} {
		get := s.lab.Command(t.Context(), "curl", "-sSf", "--max-time", "20", fmt.Sprintf(url, s.lab.Hosts[0].Address))
		if b, err := get.Output(); err != nil || len(b) < 50_000 {
			t.Errorf("%q = %d bytes, %v; want iPXE, which has more", get.Args, len(b), err)
		}
	}

	out := s.installs()
	for _, want := range []string{`"address":"machine.till"`, `"outcome":"ok"`} {
		if !strings.Contains(out, want) {
			t.Errorf("apply says\n%s\nwant %q in it", out, want)
		}
	}
	s.wants(beside+"plan -detailed-exitcode"+siteArg, "No changes.")
	s.wants(beside+"inventory list", "installed")
	s.must("systemctl reload " + service)
	s.until("the reload", "journalctl --no-pager -b -u "+service, "as it is now in")
	s.must("systemctl restart " + service)
	s.wants(beside+"plan -detailed-exitcode"+siteArg, "No changes.")
	s.must("systemctl stop " + service + " edge-provision.socket")
	s.wants("systemctl show -p Result "+service, "Result=success")
}

// bundle builds the bundle of a site here, and brings both to the host.
func (s *supervised) bundle(text string) {
	s.Helper()
	dir := s.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	run := func(args ...string) string {
		s.Helper()
		out, err := exec.CommandContext(s.Context(), s.program, append([]string{"--data-dir", path("data")}, args...)...).Output()
		if err != nil {
			s.Fatalf("edge-provision %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	text = strings.Replace(text, "KEY", run("bundle", "key", "-o", path("key")), 1)
	if err := os.WriteFile(path("site.hcl"), []byte(text), 0o600); err != nil {
		s.Fatal(err)
	}
	run("bundle", "build", path("site.hcl"), "-o", path("site.bundle"), "--key", path("key"))
	s.install(map[string]string{
		"/etc/edge-provision/site.hcl":    text,
		"/etc/edge-provision/environment": "EDGE_SERVE_FLAGS=--bundle /etc/edge-provision/site.bundle --verbose\n",
	})
	s.copy(path("site.bundle"), "/etc/edge-provision/site.bundle")
}

// confined holds that the kernel has taken from the service what the unit says.
func (s *supervised) confined() {
	s.Helper()
	status := s.must("cat /proc/$(systemctl show -P MainPID " + service + ")/status")
	// CAP_NET_BIND_SERVICE, CAP_NET_ADMIN and CAP_NET_RAW are 10, 12 and 13 (linux/capability.h).
	for _, want := range []string{"CapEff:\t0000000000003400\n", "CapBnd:\t0000000000003400\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(status, want) {
			s.Errorf("the service's status lacks %q:\n%s", want, status)
		}
	}
	s.wants("grep ' / / ' /proc/$(systemctl show -P MainPID "+service+")/mountinfo", " / / ro")
}

// installs has the service install the machine, and switches it on when it is
// asked for. It returns what apply reported.
func (s *supervised) installs() string {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 8*time.Minute)
	defer cancel()
	apply := s.reach(ctx, "ssh", s.login(), beside+"apply -auto-approve -json"+siteArg)
	var said, stderr bytes.Buffer
	out, err := apply.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	apply.Stderr, apply.WaitDelay = &stderr, 10*time.Second
	if err := apply.Start(); err != nil {
		s.Fatal(err)
	}
	serial := filepath.Join(s.TempDir(), "serial.log")
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for on := false; lines.Scan(); {
		var now struct{ Message string }
		if err := json.Unmarshal(lines.Bytes(), &now); err != nil {
			s.Errorf("apply -json prints %q: %v", lines.Text(), err)
		}
		said.Write(append(lines.Bytes(), '\n'))
		if !on && strings.HasPrefix(now.Message, "switch on till") {
			on = true
			s.switchOn(serial)
		}
	}
	if err := apply.Wait(); err != nil {
		console, _ := os.ReadFile(serial)
		s.Fatalf("apply: %v\n%s\n%s\nand the machine\n%s", err, said.String(), stderr.String(), console[max(0, len(console)-2500):])
	}
	return said.String()
}

// switchOn starts an emulated machine on the lab's network, which boots from that
// first. It ends with the test.
func (s *supervised) switchOn(serial string) {
	s.Helper()
	dir := s.TempDir()
	disk := filepath.Join(dir, "disk.raw")
	f, err := os.Create(disk)
	if err == nil {
		err = f.Truncate(2 << 30)
	}
	if err != nil {
		s.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.Fatal(err)
	}
	for _, args := range [][]string{{"tuntap", "add", "dev", "till0", "mode", "tap"}, {"link", "set", "dev", "till0", "master", "br0", "up"}} {
		if out, err := s.lab.Command(s.Context(), "ip", args...).CombinedOutput(); err != nil {
			s.Fatalf("ip %q: %v\n%s", args, err, out)
		}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	machine := s.lab.Command(ctx, "qemu-system-x86_64", "-name", "till", "-nodefaults", "-no-user-config", "-display", "none",
		"-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,+rdrand", "-machine", "q35,graphics=off",
		"-smp", "2", "-m", "size=896M", "-rtc", "base=utc", "-boot", "strict=on", "-uuid", "6f1f2a34-0c5c-4f0e-9a53-52540e205001",
		"-serial", "file:"+serial, "-device", "virtio-rng-pci",
		"-netdev", "tap,id=net0,ifname=till0,script=no,downscript=no", "-device", "virtio-net-pci,netdev=net0,bootindex=1,mac="+tillMAC,
		"-drive", "if=none,id=disk0,format=raw,discard=unmap,file="+disk, "-device", "virtio-blk-pci,drive=disk0,serial=TILL-0,bootindex=2")
	var said bytes.Buffer
	machine.Stdout, machine.Stderr = &said, &said
	if err := machine.Start(); err != nil {
		cancel()
		s.Fatal(err)
	}
	s.Cleanup(func() {
		cancel()
		_ = machine.Wait() // it was killed
		if s.Failed() {
			s.Logf("qemu said %s", said.String())
		}
	})
}
