//go:build e2e

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// island is a network namespace whose default route and name server lead into
// another one, the sink, which answers nothing and counts what arrives.
type island struct{ inside, sink string }

// The addresses between the island and the sink (RFC 5737).
const (
	islandAddress = "192.0.2.2"
	sinkAddress   = "192.0.2.1"
)

func newIsland(t *testing.T) *island {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("network namespaces need root")
	}
	i := &island{inside: fmt.Sprintf("ep-island-%d", os.Getpid()), sink: fmt.Sprintf("ep-sink-%d", os.Getpid())}
	ip := func(args ...string) {
		if out, err := exec.CommandContext(t.Context(), "ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %q = %v\n%s", args, err, out)
		}
	}
	for _, ns := range []string{i.inside, i.sink} {
		ip("netns", "add", ns)
		t.Cleanup(func() {
			if out, err := exec.CommandContext(context.Background(), "ip", "netns", "del", ns).CombinedOutput(); err != nil {
				t.Errorf("ip netns del %s = %v\n%s", ns, err, out)
			}
		})
		// Without IPv6 and with a neighbour that is known, nothing travels by itself.
		ip("netns", "exec", ns, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	}
	ip("-n", i.inside, "link", "add", "out0", "address", "02:00:00:00:00:02", "type", "veth", "peer", "name", "in0", "address", "02:00:00:00:00:01", "netns", i.sink)
	ip("-n", i.inside, "link", "set", "lo", "up")
	ip("-n", i.inside, "addr", "add", islandAddress+"/30", "dev", "out0")
	ip("-n", i.inside, "link", "set", "out0", "up")
	ip("-n", i.sink, "link", "set", "in0", "up")
	ip("-n", i.inside, "neigh", "replace", sinkAddress, "lladdr", "02:00:00:00:00:01", "dev", "out0", "nud", "permanent")
	ip("-n", i.inside, "route", "add", "default", "via", sinkAddress)
	etc := filepath.Join("/etc/netns", i.inside)
	if err := os.MkdirAll(etc, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(etc); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(etc, "resolv.conf"), []byte("nameserver "+sinkAddress+"\noptions timeout:1 attempts:1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return i
}

// packets is how many have arrived in the sink, name server's questions among
// them: every packet that leaves the island does.
func (i *island) packets(t *testing.T) int {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "ip", "netns", "exec", i.sink, "cat", "/sys/class/net/in0/statistics/rx_packets").Output()
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (i *island) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", i.inside}, args...)...)
}

// host starts OpenSSH's server on the island, which takes the controller's key,
// and returns its host key.
func (i *island) host(t *testing.T, dir, authorized string) (hostKey string) {
	t.Helper()
	if _, err := os.Stat("/usr/sbin/sshd"); err != nil {
		t.Skip("/usr/sbin/sshd is not installed: package openssh-server has it")
	}
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(dir, "host_key")).CombinedOutput(); err != nil {
		t.Fatalf("ssh-keygen = %v\n%s", err, out)
	}
	config := fmt.Sprintf("ListenAddress 127.0.0.1:2222\nHostKey %s/host_key\nAuthorizedKeysFile %s/authorized\nStrictModes no\nUsePAM no\nUseDNS no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nPidFile none\nSubsystem sftp internal-sftp\n", dir, dir)
	for name, text := range map[string]string{"authorized": authorized, "sshd_config": config} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var said bytes.Buffer
	server := i.command(t.Context(), "unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
		"mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir /run/sshd && exec /usr/sbin/sshd -D -e -f "+filepath.Join(dir, "sshd_config"))
	server.Stdout, server.Stderr = &said, &said
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Process.Kill()
		_ = server.Wait()
		if t.Failed() {
			t.Logf("sshd said:\n%s", said.String())
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for i.command(ctx, "sh", "-c", "grep -q ':08AE ' /proc/net/tcp").Run() != nil {
		select {
		case <-ctx.Done():
			t.Fatal("sshd did not listen within 10 s")
		case <-tick.C:
		}
	}
	public, err := os.ReadFile(filepath.Join(dir, "host_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(public))[:2], " ")
}

// TestOfflineMeansOffline applies a site from its bundle where every packet to
// anywhere but the site's own machine is counted, and counts none. What needs a
// cluster is not carried out here: its files and images are verified, taken out
// of the bundle and made ready, which is where a fetch would be.
func TestOfflineMeansOffline(t *testing.T) {
	i := newIsland(t)
	// The programs are built first, as make builds them: what follows has a cache
	// directory of its own.
	bin := t.TempDir()
	for _, program := range []string{"edge-provision", "edge-agent"} {
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", filepath.Join(bin, program), module+"cmd/"+program)
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("building %s = %v\n%s", program, err, out)
		}
	}
	o := newOffline(t)
	authorized, _ := o.run(t, exitOK, "key", o.site)
	hostKey := i.host(t, t.TempDir(), authorized)
	target := filepath.Join(o.dir, "till.key")
	text, err := os.ReadFile(o.site)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte(`host = "192.0.2.11"`), fmt.Appendf(nil, "host = \"127.0.0.1\"\nport = 2222\nhost_key = %q", hostKey))
	text = bytes.ReplaceAll(text, []byte("/etc/till.key"), []byte(target))
	if err := os.WriteFile(o.site, text, 0o600); err != nil {
		t.Fatal(err)
	}
	file := o.build(t)
	// The cache of the machine that built the bundle is not that of the site.
	if err := os.RemoveAll(filepath.Join(o.dir, "cache")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"k3s", "k3s_images", "app.yaml"} {
		if err := os.Remove(filepath.Join(o.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(want int, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		cmd := i.command(ctx, append([]string{filepath.Join(bin, "edge-provision")}, append(args, o.args...)...)...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Fatalf("edge-provision %q exits with %d; want %d\n%s", args, code, want, out)
		}
		return string(out)
	}
	before := i.packets(t)
	run(exitOK, "bundle", "verify", "--site", o.site, file)
	run(exitOK, "apply", "-auto-approve", "-bundle", file, "-target=workflow.platform.step.file.key", o.site)
	if got, err := os.ReadFile(target); err != nil || string(got) != offlineSecret {
		t.Errorf("the machine's file holds %q, %v; want the till's key", got, err)
	}
	run(exitOK, "plan", "-bundle", file, "-target=workflow.platform.step.file.key", "-detailed-exitcode", o.site)
	if n := i.packets(t) - before; n != 0 {
		t.Errorf("%d packets left the site while the bundle was applied; want 0", n)
	}
	archives, err := filepath.Glob(filepath.Join(o.dir, "cache", "edge-provision", "artifacts", "archives", "*.sha256"))
	if err != nil || len(archives) != 1 {
		t.Errorf("%d container images were made ready for the nodes, %v; want 1", len(archives), err)
	}

	// The sink does count: what asks a registry is seen there.
	if err := os.Remove(filepath.Join(o.dir, "site.lock.hcl")); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"k3s": "k3s", "k3s_images": "k3s_images"} {
		if err := os.WriteFile(filepath.Join(o.dir, name), bytes.Repeat([]byte(content), 1000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(o.dir, "copy"), os.DirFS(repository+"/hcl-examples/offline/site")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(o.dir, "copy", "app.yaml"), filepath.Join(o.dir, "app.yaml")); err != nil {
		t.Fatal(err)
	}
	run(exitError, "bundle", "build", o.site, "-o", filepath.Join(o.dir, "x.bundle"), "--key", filepath.Join(o.dir, "bundle.key"))
	if n := i.packets(t) - before; n == 0 {
		t.Error("a build that asks a registry sent no packet: the sink does not see what leaves")
	}
}
