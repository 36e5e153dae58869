//go:build e2e

package scenario

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/rack/host"
)

// clusterLimit bounds one apply on a cluster of three hosts: it starts three
// control planes one after the other.
const clusterLimit = 15 * time.Minute

// cluster is a site of adopted hosts in a lab, and the files that K3s is
// installed from.
type cluster struct {
	t         *testing.T
	lab       *host.Lab
	bin       string
	dir, site string
	// machines are the addresses of the hosts' machines in the site, of which the
	// first ones are servers: as many as servers says, all when it is 0.
	machines []string
	servers  int
	// write writes a site of hcl-examples; nil: declare makes one.
	write func()
	// trust are the flags of a site that is applied from a bundle.
	trust []string
	// versions are the declared release and the next one.
	versions [2]release
	images   []string
	// use is the index of the release that is declared.
	use int
	// extra is added to the k3s step, and steps come after it.
	extra, steps string
}

// release is a k3s binary and what it calls itself.
type release struct{ path, version, sha256 string }

// newCluster starts a lab of hosts that trust the controller, each with disks of
// these sizes beside its root.
func newCluster(t *testing.T, hosts int, diskBytes ...int64) *cluster {
	t.Helper()
	c := newHosts(t, "store", host.Config{Hosts: hosts, DiskBytes: diskBytes})
	c.findReleases()
	for i := range hosts {
		c.machines = append(c.machines, fmt.Sprintf("machine.node[\"%d\"]", i+1))
	}
	return c
}

// newHosts starts a lab of hosts that trust the controller of a site.
func newHosts(t *testing.T, name string, config host.Config) *cluster {
	t.Helper()
	scenario(t)
	dir, err := os.MkdirTemp("", "edge-k3s-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	c := &cluster{t: t, bin: program(t), dir: dir, site: filepath.Join(dir, "site.hcl")}
	if err := os.WriteFile(c.site, fmt.Appendf(nil, "site %q {}\n", name), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := exec.Command(c.bin, "--data-dir", filepath.Join(dir, "data"), "key", c.site).Output()
	if err != nil {
		t.Fatal(err)
	}
	if config.Image, err = host.Image(t.Context(), &imagebuilder.Builder{CacheDir: cacheDir(t)}); err != nil {
		t.Fatal(err)
	}
	config.AuthorizedKeys, config.Console = []string{string(bytes.TrimSpace(key))}, os.Getenv("EDGE_E2E_CONSOLE")
	if c.lab, err = host.Start(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// findReleases finds the K3s that the test runs with: a real one that
// EDGE_E2E_K3S names, with the next release in EDGE_E2E_K3S_NEXT and their images
// beside them, or the stand-in that `make kubernetes` builds.
func (c *cluster) findReleases() {
	c.t.Helper()
	dir := filepath.Join(cacheDir(c.t), "kubernetes", "v1.34.4")
	paths := [2]string{filepath.Join(dir, "k3s-standin"), filepath.Join(dir, "k3s-standin-next")}
	pattern := filepath.Join(dir, "*.tar")
	if real := os.Getenv("EDGE_E2E_K3S"); real != "" {
		paths = [2]string{real, os.Getenv("EDGE_E2E_K3S_NEXT")}
		pattern = filepath.Join(filepath.Dir(real), "*.tar*")
	}
	for i, p := range paths {
		if p == "" {
			continue
		}
		out, err := exec.Command(p, "--version").Output()
		fields := strings.Fields(string(out))
		if err != nil || len(fields) < 3 {
			c.t.Skipf("%s --version = %v, %q; build the stand-in with rack/standin/build.sh, or name a real K3s in EDGE_E2E_K3S", p, err, out)
		}
		c.versions[i] = release{path: p, version: fields[2], sha256: c.digest(p)}
	}
	var err error
	if c.images, err = filepath.Glob(pattern); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) digest(path string) string {
	c.t.Helper()
	f, err := os.Open(path)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		c.t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// declare writes the site: all hosts as servers, or as an example has them.
func (c *cluster) declare() {
	c.t.Helper()
	if c.write != nil {
		c.write()
		return
	}
	var b strings.Builder
	b.WriteString("site \"store\" {}\n\nmachine \"node\" {\n  for_each = {\n")
	for i, h := range c.lab.Hosts {
		fmt.Fprintf(&b, "    %d = { address = %q, key = %q }\n", i+1, h.Address, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(h.HostKey))))
	}
	r := c.versions[c.use]
	fmt.Fprintf(&b, `  }
  address = each.value.address

  ssh {
    user     = "root"
    host_key = each.value.key
  }
}

workflow "platform" {
  step "k3s" "cluster" {
    version = %q
    servers = values(machine.node)
    %s

    binary {
      source = %q
      sha256 = %q
    }
`, r.version, c.extra, r.path, r.sha256)
	for _, image := range c.images {
		fmt.Fprintf(&b, "    images {\n      source = %q\n      sha256 = %q\n    }\n", image, c.digest(image))
	}
	b.WriteString("  }\n" + c.steps + "}\n")
	if err := os.WriteFile(c.site, []byte(b.String()), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// run runs edge-provision as the lab's controller.
func (c *cluster) run(limit time.Duration, args ...string) result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	cmd := c.lab.Command(ctx, c.bin, append([]string{"--data-dir", filepath.Join(c.dir, "data"), "--cache-dir", filepath.Join(c.dir, "cache")}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, 10*time.Second
	began := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		c.t.Fatalf("edge-provision %s did not end in %s: %v\n%s%s", strings.Join(args, " "), limit, err, stdout.String(), stderr.String())
	}
	r := result{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	c.t.Logf("edge-provision %s = exit %d after %.1f s\n%s%s", strings.Join(args, " "), r.code, time.Since(began).Seconds(), r.stdout, r.stderr)
	return r
}

// want demands an exit code.
func (c *cluster) want(code int, r result) result {
	c.t.Helper()
	if r.code != code {
		c.confess()
		c.t.Fatalf("exit code %d; want %d", r.code, code)
	}
	return r
}

// confess logs what K3s said last on each host.
func (c *cluster) confess() {
	for i, h := range c.lab.Hosts {
		out, err := c.lab.Exec(c.t.Context(), i, "journalctl", "-u", "k3s*", "-n", "30", "--no-pager", "-o", "cat")
		c.t.Logf("the log of K3s on %s (%v):\n%s", h.Name, err, out)
	}
}

func (c *cluster) apply() result {
	c.t.Helper()
	return c.want(0, c.run(clusterLimit, "apply", "--auto-approve", c.site))
}

// same demands that plan finds nothing to do.
func (c *cluster) same() {
	c.t.Helper()
	c.want(0, c.run(commandLimit, "plan", "--detailed-exitcode", c.site))
}

// differs demands that plan says all of these.
func (c *cluster) differs(lines ...string) {
	c.t.Helper()
	r := c.want(2, c.run(commandLimit, "plan", "--detailed-exitcode", c.site))
	for _, line := range lines {
		if !strings.Contains(r.stdout, line) {
			c.t.Errorf("plan = %s\nwant %q in it", r.stdout, line)
		}
	}
}

// on runs a command inside host i.
func (c *cluster) on(i int, line string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	out, err := c.lab.Exec(ctx, i, "sh", "-c", line)
	if err != nil {
		c.t.Fatalf("%s on %s = %v", line, c.lab.Hosts[i].Name, err)
	}
	return strings.TrimSpace(string(out))
}

// clusterNode is a node as kubectl prints it.
type clusterNode struct {
	Metadata struct {
		Name, UID string
		Labels    map[string]string
	}
	Spec struct {
		Unschedulable bool
		Taints        []struct{ Key string }
	}
	Status struct {
		NodeInfo   struct{ KubeletVersion string }
		Conditions []struct{ Type, Status string }
	}
}

// nodes asks host i's API server.
func (c *cluster) nodes(i int) map[string]clusterNode {
	c.t.Helper()
	var list struct{ Items []clusterNode }
	if err := json.Unmarshal([]byte(c.on(i, "k3s kubectl get nodes -o json")), &list); err != nil {
		c.t.Fatal(err)
	}
	out := map[string]clusterNode{}
	for _, n := range list.Items {
		out[n.Metadata.Name] = n
	}
	return out
}

// ofServers are the hosts with an API server.
func (c *cluster) ofServers() []*host.Host {
	if c.servers == 0 {
		return c.lab.Hosts
	}
	return c.lab.Hosts[:c.servers]
}

// whole demands that all hosts are Ready nodes of one cluster.
func (c *cluster) whole() {
	c.t.Helper()
	for i := range c.ofServers() {
		nodes := c.nodes(i)
		for _, h := range c.lab.Hosts {
			n, ok := nodes[h.Name]
			ready := slices.ContainsFunc(n.Status.Conditions, func(c struct{ Type, Status string }) bool { return c.Type == "Ready" && c.Status == "True" })
			if !ok || !ready || n.Spec.Unschedulable || n.Status.NodeInfo.KubeletVersion != c.versions[c.use].version {
				c.t.Errorf("%s says that node %s is %+v; want it Ready with %s", c.lab.Hosts[i].Name, h.Name, n, c.versions[c.use].version)
			}
		}
		if len(nodes) != len(c.lab.Hosts) {
			c.t.Errorf("%s knows %d nodes; want %d", c.lab.Hosts[i].Name, len(nodes), len(c.lab.Hosts))
		}
	}
}

// inventoryScript lists what a host has that an installation could leave: the
// commands of processes, mounts, links, packet filter rules and files. What
// changes by itself (logs, caches, runtime state of systemd, the greeting of SSH,
// what kubectl keeps of this test's own questions, the number of a link's other
// end) is left out.
const inventoryScript = `
for p in /proc/[0-9]*; do c=$(tr '\0' ' ' 2>/dev/null <$p/cmdline); [ -n "$c" ] && echo "process ${c%% *}"; done | grep -v -e ' sh$' -e sshd -e '(sd-pam)' -e ' tr$' -e sftp-server -e journalctl -e agetty -e systemd -e udev-worker -e grep -e sort | sort -u
awk '{print "mount " $2}' /proc/mounts | grep -v -e /run/user -e /run/credentials | sort
ip -o link show | awk -F'[:@] *' '{print "link " $2}' | sort
for t in iptables ip6tables; do $t-save 2>/dev/null | grep '^-A' | sed "s/^/rule $t /"; done | sort
nft list tables 2>/dev/null | grep -v -e ' filter$' -e ' nat$' -e ' mangle$' -e ' raw$' | sed 's/^/nftables /' | sort
find / -xdev \( -path /proc -o -path /sys -o -path /tmp -o -path /var/tmp -o -path /var/log/journal -o -path /run/systemd -o -path /run/udev -o -path /run/user -o -path /run/motd.dynamic -o -path /var/cache -o -path /var/lib/systemd -o -path /root/.cache -o -path /root/.kube -o -path /dev \) -prune -o -print | sed 's/^/file /' | sort
find /run -xdev \( -path /run/systemd -o -path /run/udev -o -path /run/user -o -path /run/sshd -o -path /run/motd.dynamic \) -prune -o -print 2>/dev/null | sed 's/^/file /' | sort
`

// belongings lists what host i has.
func (c *cluster) belongings(i int) []string {
	c.t.Helper()
	return strings.Split(c.on(i, inventoryScript), "\n")
}

func (c *cluster) allBelongings() [][]string {
	c.t.Helper()
	out := make([][]string, len(c.lab.Hosts))
	for i := range out {
		out[i] = c.belongings(i)
	}
	return out
}

// nothingLeft demands that every host has what it had before, and beside that at most
// lines that are allowed.
func (c *cluster) nothingLeft(before [][]string, allowed *regexp.Regexp) {
	c.t.Helper()
	for i := range before {
		after := c.belongings(i)
		for _, line := range after {
			if !slices.Contains(before[i], line) && (allowed == nil || !allowed.MatchString(line)) {
				c.t.Errorf("left on %s: %s", c.lab.Hosts[i].Name, line)
			}
		}
		for _, line := range before[i] {
			if !slices.Contains(after, line) {
				c.t.Errorf("gone from %s: %s", c.lab.Hosts[i].Name, line)
			}
		}
	}
}

// TestClusterOfThreeServers takes the shop of hcl-examples/shop-ha.hcl, three
// servers and an agent under the cis profile, from hosts that lose their power
// while they join over repairs, a new first server and an upgrade to its end.
func TestClusterOfThreeServers(t *testing.T) {
	c := newShop(t)
	c.declare()
	// A plan leaves the agent on the machines that it looks at; that is no part of
	// the cluster.
	c.want(0, c.run(commandLimit, "plan", c.site))
	before := c.allBelongings()

	// A cluster is made, and made only once.
	c.powerCuts()
	c.whole()
	c.same()
	c.hardened()
	first := c.lab.Hosts[0].Name
	uid := c.nodes(0)[first].Metadata.UID
	c.apply()
	if got := c.nodes(0)[first].Metadata.UID; got != uid {
		t.Errorf("after a second apply %s has UID %s; want %s", first, got, uid)
	}

	// What somebody stops or edits by hand is seen, and put right.
	c.on(1, "systemctl stop k3s")
	c.on(2, "echo 'debug: true' >>/etc/rancher/k3s/config.yaml")
	c.differs("k3s.service is stopped", "/etc/rancher/k3s/config.yaml has other content")
	const started = "systemctl show k3s -p MainPID"
	pid := c.on(0, started)
	c.apply()
	if got := c.on(0, started); got != pid {
		t.Errorf("the first server has %s; want %s: it was restarted", got, pid)
	}
	c.same()

	// The first server dies: nothing is planned. New hardware takes its place.
	ca := c.on(1, identity)
	if err := c.lab.Kill(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	c.want(2, c.run(commandLimit, "plan", c.site))
	if err := c.lab.Replace(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := c.lab.Boot(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	// Another host key could be another machine: it is not asked, and that is an
	// error and not a plan.
	if r := c.want(1, c.run(commandLimit, "plan", c.site)); !strings.Contains(r.stdout, "nothing was sent to it") {
		t.Errorf("plan with another host key = %s; want it said", r.stdout)
	}
	c.declare()
	c.differs("takes the place of the node " + first)
	before[0] = c.belongings(0)
	c.apply()
	c.whole()
	if got := c.on(0, identity); got != ca {
		t.Error("the new first server has begun a cluster of its own")
	}
	c.same()

	// A release later.
	if c.versions[1].path != "" {
		c.use = 1
		c.declare()
		c.differs("declared is " + c.versions[1].version)
		c.serve()
		c.served(c.upgraded())
		c.whole()
		c.same()
		c.use = 0
		c.declare()
		if r := c.want(1, c.run(commandLimit, "plan", c.site)); !strings.Contains(r.stderr, "Unsupported upgrade") {
			t.Errorf("plan of a downgrade = %s; want it refused", r.stderr)
		}
		c.use = 1
		c.declare()
	}

	// Nothing is left.
	address := "workflow.platform.step.k3s.cluster"
	c.want(0, c.run(clusterLimit, "destroy", "--auto-approve", "--target", address, "--destroy-data", address, c.site))
	c.nothingLeft(before, nil)
}
