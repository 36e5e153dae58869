//go:build e2e

package pxe

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The end-to-end tests need root, qemu, OVMF, dnsmasq, busybox and iproute2.
// They run in a network namespace of their own, made here before anything
// else, so that nothing of them is left behind and nothing of the host's
// network is touched.

const insideEnv = "EDGE_E2E_PXE_INSIDE"

func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		must(run("ip", "link", "set", "lo", "up"))
		os.Exit(m.Run())
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "the end-to-end tests of pxe need root: skipped")
		os.Exit(0)
	}
	kernel, err := debianKernel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "no kernel to boot:", err)
		os.Exit(1)
	}
	self := exec.Command(os.Args[0], os.Args[1:]...)
	self.Stdin, self.Stdout, self.Stderr = os.Stdin, os.Stdout, os.Stderr
	self.Env = append(os.Environ(), insideEnv+"=1", "EDGE_E2E_KERNEL="+kernel)
	self.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := self.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "entering a network namespace:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

// debianKernel returns the kernel named by EDGE_E2E_KERNEL, or Debian's
// generic one, fetched once with apt-get and kept in the user's cache.
func debianKernel() (string, error) {
	if k := os.Getenv("EDGE_E2E_KERNEL"); k != "" {
		return k, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "edge-provision", "e2e")
	kernel := filepath.Join(dir, "vmlinuz")
	if _, err := os.Stat(kernel); err == nil {
		return kernel, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	deps, err := exec.Command("apt-cache", "depends", "linux-image-amd64").Output()
	if err != nil {
		return "", fmt.Errorf("finding the kernel package: %w", err)
	}
	_, rest, _ := strings.Cut(string(deps), "Depends: ")
	pkg, _, _ := strings.Cut(rest, "\n")
	get := exec.Command("apt-get", "download", pkg)
	get.Dir = dir
	if out, err := get.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetching %s: %w: %s", pkg, err, out)
	}
	debs, _ := filepath.Glob(filepath.Join(dir, "linux-image-*.deb"))
	if len(debs) == 0 {
		return "", fmt.Errorf("apt-get download %s left no file", pkg)
	}
	defer os.Remove(debs[0])
	files, err := exec.Command("dpkg-deb", "--fsys-tarfile", debs[0]).Output()
	if err != nil {
		return "", fmt.Errorf("unpacking %s: %w", debs[0], err)
	}
	for r := tar.NewReader(bytes.NewReader(files)); ; {
		h, err := r.Next()
		if err != nil {
			return "", fmt.Errorf("no kernel in %s: %w", debs[0], err)
		}
		if !strings.HasPrefix(h.Name, "./boot/vmlinuz-") {
			continue
		}
		b, err := io.ReadAll(r)
		if err != nil {
			return "", err
		}
		return kernel, os.WriteFile(kernel, b, 0o644)
	}
}

// lan is a bridge with our address on it; machines and foreign hosts are its
// ports.
type lan struct {
	t      *testing.T
	name   string
	prefix netip.Prefix
	ports  int
}

var lans int

// newLAN makes a bridge 172.22.77.1/24.
func newLAN(t *testing.T) *lan {
	t.Helper()
	lans++
	l := &lan{t: t, name: fmt.Sprintf("lan%d", lans), prefix: testPrefix}
	l.ip("link", "add", l.name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
	t.Cleanup(func() { l.ip("link", "del", l.name) })
	l.ip("addr", "add", "172.22.77.1/24", "dev", l.name)
	l.ip("link", "set", l.name, "up")
	return l
}

func (l *lan) ip(args ...string) {
	l.t.Helper()
	if err := run("ip", args...); err != nil {
		l.t.Fatal(err)
	}
}

// tap adds a port for a machine.
func (l *lan) tap() string {
	l.t.Helper()
	l.ports++
	name := fmt.Sprintf("%st%d", l.name, l.ports)
	l.ip("tuntap", "add", name, "mode", "tap")
	l.t.Cleanup(func() { l.ip("link", "del", name) })
	l.ip("link", "set", name, "master", l.name, "up")
	return name
}

// host is another computer on the LAN: a process in a network namespace of its
// own, with the interface eth0.
type host struct {
	t   *testing.T
	cmd *exec.Cmd
	ns  string
}

// host starts one that holds its namespace open, with addr ("" for none) and
// mac on eth0.
func (l *lan) host(mac, addr string) *host {
	l.t.Helper()
	l.ports++
	h := &host{t: l.t, cmd: exec.Command("sleep", "600")}
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := h.cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { _ = h.cmd.Process.Kill(); _ = h.cmd.Wait() })
	h.ns = fmt.Sprintf("--net=/proc/%d/ns/net", h.cmd.Process.Pid)
	port := fmt.Sprintf("%sv%d", l.name, l.ports)
	l.ip("link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", fmt.Sprint(h.cmd.Process.Pid))
	l.ip("link", "set", port, "master", l.name, "up")
	h.must("ip", "link", "set", "eth0", "address", mac)
	h.must("ip", "link", "set", "eth0", "up")
	h.must("ip", "link", "set", "lo", "up")
	if addr != "" {
		h.must("ip", "addr", "add", addr, "dev", "eth0")
	}
	return h
}

// command runs a program on the host.
func (h *host) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{h.ns}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (h *host) must(args ...string) string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	out, err := h.command(ctx, args...).CombinedOutput()
	if err != nil {
		h.t.Fatalf("%v: %v: %s", args, err, out)
	}
	return string(out)
}

// dnsmasq starts a DHCP server that somebody else put on the LAN, and waits
// until it serves.
func (h *host) dnsmasq(args ...string) {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.command(ctx, append([]string{
		"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
		"--interface=eth0", "--log-facility=-", "--log-dhcp", "--user=root", "--pid-file=",
		"--dhcp-leasefile=" + filepath.Join(h.t.TempDir(), "leases"), "--dhcp-range=172.22.77.150,172.22.77.160,2m",
	}, args...)...)
	log := &waitWriter{want: "DHCP, IP range", found: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		cancel()
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if h.t.Failed() {
			h.t.Logf("dnsmasq:\n%s", log.text())
		}
	})
	log.await(h.t, 10*time.Second)
}

// serve starts a Server on the LAN and stops it at the end of the test.
func (l *lan) serve(c Config) (*Server, *eventLog) {
	l.t.Helper()
	log := newEventLog()
	c.Interface, c.Prefix, c.Network, c.Recorder = l.name, l.prefix, "edge", log
	s, err := Listen(l.t.Context(), c)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	l.t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				l.t.Errorf("Serve() = %v; want nil", err)
			}
		case <-time.After(15 * time.Second):
			l.t.Error("Serve did not return after its context ended")
		}
		if l.t.Failed() {
			for _, e := range log.all() {
				l.t.Logf("%s %s %s %s %v", e.Time.Format("05.000"), e.MAC, e.Kind, e.Message, e.Attrs)
			}
		}
	})
	return s, log
}
