//go:build e2e

package scenario

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/rack/host"
)

// example copies a file or directory of hcl-examples into the cluster's
// directory and returns the copy. It is as the example is but for machines and
// their images: the machines are adopted, because the lab's hosts run already.
// hosts are their hosts by MAC; "" is that of a machine without a MAC.
func (c *cluster) example(name string, hosts map[string]int) string {
	c.t.Helper()
	from, to := filepath.Join("..", "..", "hcl-examples", name), filepath.Join(c.dir, filepath.Base(name))
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if filepath.Ext(path) == ".hcl" {
			if text, err = c.adopt(text, path, hosts); err != nil {
				return err
			}
		}
		copied := filepath.Join(to, relative)
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			return err
		}
		return os.WriteFile(copied, text, 0o600)
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return to
}

// adopted are the arguments of a machine that an adopted one has, too.
var adopted = []string{"for_each", "count", "network", "address", "hostname", "labels"}

// adopt turns the machines of a file into adopted ones, which need no image.
func (c *cluster) adopt(text []byte, name string, hosts map[string]int) ([]byte, error) {
	f, diags := hclwrite.ParseConfig(text, name, hcl.InitialPos)
	if diags.HasErrors() {
		return nil, diags
	}
	for _, block := range f.Body().Blocks() {
		switch block.Type() {
		case "image":
			f.Body().RemoveBlock(block)
		case "machine":
			machine := block.Body()
			key := `""`
			for name, a := range machine.Attributes() {
				if name == "mac" {
					key = strings.TrimSpace(string(a.Expr().BuildTokens(nil).Bytes()))
				}
				if !slices.Contains(adopted, name) {
					machine.RemoveAttribute(name)
				}
			}
			for _, nested := range machine.Blocks() {
				machine.RemoveBlock(nested)
			}
			address, hostKey := map[string]string{}, map[string]string{}
			for mac, i := range hosts {
				h := c.lab.Hosts[i]
				address[mac], hostKey[mac] = h.Address.String(), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(h.HostKey)))
			}
			reached := machine.AppendNewBlock("ssh", nil).Body()
			for name, by := range map[string]map[string]string{"host": address, "host_key": hostKey} {
				table, err := json.Marshal(by) // which HCL reads, too
				if err != nil {
					return nil, err
				}
				reached.SetAttributeRaw(name, hclwrite.Tokens{{Type: hclsyntax.TokenIdent, Bytes: fmt.Appendf(nil, "%s[%s]", table, key)}})
			}
		}
	}
	return f.Bytes(), nil
}

// given sets variables of the site, for every command from here on.
func (c *cluster) given(variables map[string]any) {
	c.t.Helper()
	for name, value := range variables {
		text, ok := value.(string)
		if !ok {
			b, err := json.Marshal(value) // which HCL reads, too
			if err != nil {
				c.t.Fatal(err)
			}
			text = string(b)
		}
		c.t.Setenv("EDGE_VAR_"+name, text)
	}
}

// fileOf is an entry of the examples' variable "files".
func (c *cluster) fileOf(path string) map[string]string {
	c.t.Helper()
	return map[string]string{"source": path, "sha256": c.digest(path)}
}

// needsImages skips a scenario of a cluster without a network where K3s's images
// are not here: `make kubernetes` builds the stand-in's, a real K3s brings its own.
func (c *cluster) needsImages() {
	c.t.Helper()
	if len(c.images) == 0 {
		c.t.Skip("K3s's images are not here: a cluster without a network needs them")
	}
}

// packed is the archive of a release's images as K3s is published with it: one
// file, compressed, beside a real K3s. The stand-in's holds images of the
// workload, too, by their names.
func (c *cluster) packed(r release, beside ...string) string {
	c.t.Helper()
	if os.Getenv("EDGE_E2E_K3S") != "" {
		if len(beside) > 0 {
			c.t.Skip("the stand-ins of this scenario run on the stand-in for K3s only")
		}
		found, err := filepath.Glob(filepath.Join(filepath.Dir(r.path), "*.tar*"))
		if err != nil || len(found) != 1 {
			c.t.Fatalf("beside %s there are the archives %q (%v); want that of its images alone", r.path, found, err)
		}
		return found[0]
	}
	c.needsImages()
	plain := c.images[0]
	if len(c.images) > 1 || len(beside) > 0 {
		images := map[name.Reference]v1.Image{}
		for _, path := range c.images {
			c.unpack(path, nil, images)
		}
		if len(beside) > 0 {
			c.unpack(workloadArchive(c), beside, images)
		}
		plain = filepath.Join(c.dir, "images.tar")
		if err := tarball.MultiRefWriteToFile(plain, images); err != nil {
			c.t.Fatal(err)
		}
	}
	out := filepath.Join(c.dir, "k3s-airgap-images-amd64.tar.zst")
	if text, err := exec.CommandContext(c.t.Context(), "zstd", "-q", "-1", "-f", plain, "-o", out).CombinedOutput(); err != nil {
		c.t.Fatalf("zstd = %v, %s", err, text)
	}
	return out
}

// unpack adds images of an archive to others: those of these names, all when
// there are none.
func (c *cluster) unpack(path string, names []string, to map[name.Reference]v1.Image) {
	c.t.Helper()
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
	if err != nil {
		c.t.Fatal(err)
	}
	for _, d := range manifest {
		for _, text := range d.RepoTags {
			if names != nil && !slices.Contains(names, text) {
				continue
			}
			tag, err := name.NewTag(text)
			if err == nil {
				to[tag], err = tarball.ImageFromPath(path, &tag)
			}
			if err != nil {
				c.t.Fatal(err)
			}
		}
	}
}

// newShop starts the lab of hcl-examples/shop-ha.hcl.
func newShop(t *testing.T) *cluster {
	t.Helper()
	c := newHosts(t, "shop-ha", host.Config{Hosts: 4, Names: []string{"node-a", "node-b", "node-c", "camera"}, Network: netip.MustParsePrefix("192.168.61.0/24")})
	c.findReleases()
	c.machines, c.servers = []string{`machine.node["a"]`, `machine.node["b"]`, `machine.node["c"]`, "machine.camera"}, 3
	var images [2]map[string]string
	for i, r := range c.versions {
		if r.path != "" {
			images[i] = c.fileOf(c.packed(r))
		}
	}
	c.write = func() {
		release := c.versions[c.use]
		c.given(map[string]any{
			"k3s_version": release.version, "files": map[string]any{"k3s": map[string]string{"source": release.path, "sha256": release.sha256}, "images": images[c.use]},
		})
		c.site = c.example("shop-ha.hcl", map[string]int{"52:54:00:61:00:11": 0, "52:54:00:61:00:12": 1, "52:54:00:61:00:13": 2, "52:54:00:61:00:14": 3})
	}
	return c
}

// privileged is a pod that the restricted pod security does not admit.
const privileged = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "privileged", "namespace": "default"},
"spec": {"containers": [{"name": "c", "image": "none", "securityContext": {"privileged": true}}]}}`

// hardened demands what the cis profile promises of a cluster that runs: pod
// security, an audit log, Secrets that are encrypted at rest, and a kubelet that
// insists on the kernel's settings; and what the shop declares of its agent.
func (c *cluster) hardened() {
	c.t.Helper()
	if got := c.on(0, "echo '"+privileged+"' | k3s kubectl create --dry-run=server -f - 2>&1 || true"); !strings.Contains(got, `violates PodSecurity "restricted:latest"`) {
		c.t.Errorf("creating a privileged pod = %q; want it refused by the restricted standard", got)
	}
	c.on(0, "k3s kubectl create secret generic plain --from-literal=k=read-me-on-disk")
	c.on(0, "k3s kubectl create configmap plain --from-literal=k=found-on-disk")
	for i, h := range c.ofServers() {
		if got := c.on(i, "tail -n 1 /var/lib/rancher/k3s/server/logs/audit.log"); !strings.Contains(got, `"kind":"Event"`) {
			c.t.Errorf("the audit log of %s ends with %q; want an event", h.Name, got)
		}
		if got := c.on(i, "grep -rlaF read-me-on-disk /var/lib/rancher/k3s/server/db/etcd || true"); got != "" {
			c.t.Errorf("on %s a Secret is readable in %s; want it encrypted", h.Name, got)
		}
		if got := c.on(i, "grep -rlaF found-on-disk /var/lib/rancher/k3s/server/db/etcd || true"); got == "" {
			c.t.Errorf("on %s nothing of a ConfigMap is found in etcd's files; the search for the Secret proves nothing", h.Name)
		}
	}
	c.on(0, "k3s kubectl delete secret/plain configmap/plain")
	for i, h := range c.lab.Hosts {
		if got := c.on(0, "k3s kubectl get --raw /api/v1/nodes/"+h.Name+"/proxy/configz"); !strings.Contains(got, `"protectKernelDefaults":true`) {
			c.t.Errorf("the kubelet of %s runs with %s; want it to protect the kernel's defaults", h.Name, got)
		}
		if got := c.on(i, "sysctl -n vm.overcommit_memory kernel.panic kernel.panic_on_oops | tr '\\n' ' '"); got != "1 10 1" {
			c.t.Errorf("the kernel's settings on %s are %q; want those that kubelet insists on", h.Name, got)
		}
	}
	camera := c.nodes(0)["camera"]
	if camera.Metadata.Labels["shop/camera"] != "yes" || len(camera.Spec.Taints) != 1 || camera.Spec.Taints[0].Key != "shop/camera" {
		c.t.Errorf("node camera has labels %v and taints %v; want those that the shop declares", camera.Metadata.Labels, camera.Spec.Taints)
	}
	snapshots := ""
	for i := range c.ofServers() {
		snapshots += c.on(i, "find /var/lib/rancher/k3s/server/db/snapshots -type f 2>/dev/null || true")
	}
	if strings.Count(snapshots, "before-stocktaking-") != 1 {
		c.t.Errorf("the servers have the snapshots %q; want one before-stocktaking", snapshots)
	}
}

// TestModuleIsSharedByTwoSites applies the store and the depot of
// hcl-examples/fleet, which share the definition of a till, each to hosts of its
// own catalog and network.
func TestModuleIsSharedByTwoSites(t *testing.T) {
	for _, site := range []struct {
		file, network string
		hosts         map[string]int
		names         []string
		tills         []string
		banner        string
		output        string
	}{
		{
			file: "store.hcl", network: "172.26.21.0/24", names: []string{"staffed-a", "staffed-b", "self-a"},
			hosts:  map[string]int{"52:54:00:26:21:01": 0, "52:54:00:26:21:02": 1, "52:54:00:26:21:03": 2},
			tills:  []string{`module.lane["self"].machine.till["a"]`, `module.lane["staffed"].machine.till["a"]`, `module.lane["staffed"].machine.till["b"]`},
			banner: "Store 0421, ", output: `self-a = "172.26.21.13"`,
		},
		{
			file: "depot.hcl", network: "172.26.7.0/24", names: []string{"gate-north", "gate-south"},
			hosts:  map[string]int{"52:54:00:26:07:01": 0, "52:54:00:26:07:02": 1},
			tills:  []string{`module.gate.machine.till["north"]`, `module.gate.machine.till["south"]`},
			banner: "Kept by edge-provision.", output: `gate-north = "172.26.7.11"`,
		},
	} {
		t.Run(strings.TrimSuffix(site.file, ".hcl"), func(t *testing.T) {
			c := newHosts(t, "fleet", host.Config{Hosts: len(site.names), Names: site.names, Network: netip.MustParsePrefix(site.network)})
			c.given(map[string]any{"bmc_password": "not-needed-here"})
			c.site = filepath.Join(c.example("fleet", site.hosts), site.file)
			r := c.apply()
			for i, h := range c.lab.Hosts {
				if got := c.on(i, "cat /etc/motd"); !strings.HasPrefix(got, site.banner) {
					t.Errorf("%s greets with %q; want %q", h.Name, got, site.banner)
				}
			}
			if !strings.Contains(r.stdout, site.output) {
				t.Errorf("apply = %s\nwant the output %s", r.stdout, site.output)
			}
			c.same()
			// The definition is one: what is changed in it differs at every till.
			file := filepath.Join(filepath.Dir(c.site), "till", "till.hcl")
			text, err := os.ReadFile(file)
			if err == nil {
				err = os.WriteFile(file, []byte(strings.Replace(string(text), `"/etc/motd"`, `"/etc/issue"`, 1)), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range site.tills {
				site.tills[i] += ": /etc/issue has other content"
			}
			c.differs(site.tills...)
		})
	}
}
