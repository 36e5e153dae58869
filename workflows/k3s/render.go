package k3s

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/edge-provision/edge-provision/workflows/artifact"
)

// file is one file that a node should have.
type file struct {
	Path    string
	Mode    fs.FileMode
	Content []byte
	// Sensitive keeps the content out of everything that is shown.
	Sensitive bool
}

// join is how a node came, or is to come, into the cluster. It is decided once:
// a member that was started with it keeps it, so that its files do not change
// when another server is replaced.
type join struct {
	// Init begins a new cluster.
	Init bool
	// Server is the address of a server that was live then.
	Server netip.Addr
}

// self is what a node's files depend on beside the declaration.
type self struct {
	node   Node
	role   role
	join   join
	tokens Tokens
	// ca is the digest of the cluster's CA in hexadecimal; empty before the
	// cluster has begun.
	ca string
}

// files are all files of a node, except for the binary and the images.
func (c *Config) files(s self) ([]file, error) {
	config, err := c.config(s)
	if err != nil {
		return nil, err
	}
	out := []file{
		{Path: s.role.unitPath(), Mode: 0o644, Content: unitFile(s.role)},
		{Path: s.role.envPath(), Mode: 0o600, Content: envFile(s), Sensitive: true},
		{Path: configPath, Mode: 0o600, Content: config},
	}
	if c.Registries != "" {
		out = append(out, file{Path: registriesPath, Mode: 0o600, Content: []byte(c.Registries), Sensitive: true})
	}
	if c.Profile == CIS {
		out = append(out, c.hardened(s.role)...)
	}
	return out, nil
}

// digest names what a node runs with: when it is not what the node was started
// with, the node is restarted.
func digest(binary string, files []file) string {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", binary)
	for _, f := range files {
		if f.live() {
			continue
		}
		fmt.Fprintf(h, "%s %o %x\n", f.Path, f.Mode, sha256.Sum256(f.Content))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// live reports whether K3s takes the file up without a restart: it watches its
// directory of manifests (docs.k3s.io/installation/packaged-components).
func (f file) live() bool { return path.Dir(f.Path) == manifestsDir }

// sum is the digest of the file's content in hexadecimal.
func (f file) sum() string {
	s := sha256.Sum256(f.Content)
	return hex.EncodeToString(s[:])
}

// unitFile is the unit that K3s's install script writes (install.sh,
// create_systemd_service_file), with all settings left to config.yaml. The start of an
// agent is not waited for: it is ready when a server answers, and a machine must come up
// without one.
func unitFile(r role) []byte {
	kind := "notify"
	if r == agent {
		kind = "exec"
	}
	return fmt.Appendf(nil, `[Unit]
Description=Lightweight Kubernetes
Documentation=https://k3s.io
Wants=network-online.target
After=network-online.target

[Install]
WantedBy=multi-user.target

[Service]
Type=%s
EnvironmentFile=-/etc/default/%%N
EnvironmentFile=-/etc/sysconfig/%%N
EnvironmentFile=-%s
KillMode=process
Delegate=yes
User=root
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
TimeoutStartSec=0
Restart=always
RestartSec=5s
ExecStartPre=-/sbin/modprobe br_netfilter
ExecStartPre=-/sbin/modprobe overlay
ExecStart=%s %s
`, kind, r.envPath(), binaryPath, r)
}

// envFile holds the tokens. The server that begins the cluster takes the short
// form only, because there is no CA yet; the others get the full form, by which
// they verify the server that they join (docs.k3s.io/cli/token).
func envFile(s self) []byte {
	if s.role == agent {
		return fmt.Appendf(nil, "K3S_TOKEN=%s\n", fullToken(s.ca, "node", s.tokens.Agent))
	}
	token := s.tokens.Server
	if !s.join.Init {
		token = fullToken(s.ca, "server", s.tokens.Server)
	}
	return fmt.Appendf(nil, "K3S_TOKEN=%s\nK3S_AGENT_TOKEN=%s\n", token, s.tokens.Agent)
}

// fullToken is the secure form of a token.
func fullToken(ca, user, password string) string {
	return "K10" + ca + "::" + user + ":" + password
}

// shortToken takes the password out of either form.
func shortToken(token string) string {
	if _, credentials, full := strings.Cut(token, "::"); full {
		_, token, _ = strings.Cut(credentials, ":")
	}
	return token
}

// config is config.yaml. Keys are those of docs.k3s.io/cli/server and agent.
func (c *Config) config(s self) ([]byte, error) {
	m := map[string]any{"node-name": s.node.Name}
	set := func(key string, value any) { m[key] = value }
	if s.node.IP.IsValid() {
		set("node-ip", s.node.IP.String())
	}
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(s.node.Labels)) {
		if kubeletTakes(k) {
			labels = append(labels, k+"="+s.node.Labels[k])
		}
	}
	if len(labels) > 0 {
		set("node-label", labels)
	}
	if len(s.node.Taints) > 0 {
		set("node-taint", s.node.Taints)
	}
	if s.join.Init {
		set("cluster-init", true)
	} else {
		set("server", endpoint(s.join.Server))
	}
	if s.role == server {
		c.serverConfig(set)
	}
	if c.Profile == CIS {
		harden(set, s.role)
	}
	b, err := yaml.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing config.yaml of %s: %w", s.node.Machine, err)
	}
	return append([]byte("# Kept by edge-provision: what is changed here by hand is changed back.\n"), b...), nil
}

// serverConfig is what all servers have in common.
func (c *Config) serverConfig(set func(key string, value any)) {
	set("write-kubeconfig-mode", "0600")
	set("cluster-cidr", c.ClusterCIDR.String())
	set("service-cidr", c.ServiceCIDR.String())
	var names []string
	for _, n := range c.Servers {
		if n.IP.IsValid() {
			names = append(names, n.IP.String())
		}
	}
	for _, n := range c.TLSSAN {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	if len(names) > 0 {
		set("tls-san", names)
	}
	if len(c.Disable) > 0 {
		set("disable", slices.Sorted(slices.Values(c.Disable)))
	}
	switch {
	case c.CNI != Flannel:
		// docs.k3s.io/networking/basic-network-options, "Custom CNI".
		set("flannel-backend", "none")
		set("disable-network-policy", true)
	case c.FlannelBackend != "":
		set("flannel-backend", c.FlannelBackend)
	}
	// etcd's own metrics, on port 2381 of the node: without them nobody sees a slow disk.
	set("etcd-expose-metrics", true)
	if c.Snapshots.Schedule != "" {
		set("etcd-snapshot-schedule-cron", c.Snapshots.Schedule)
	}
	if c.Snapshots.Retention != 0 {
		set("etcd-snapshot-retention", c.Snapshots.Retention)
	}
}

// endpoint is the URL of a server's API and supervisor.
func endpoint(ip netip.Addr) string {
	return "https://" + netip.AddrPortFrom(ip, 6443).String()
}

// imagePath is where an air-gap tarball goes. Its name tells its content, so
// that one of an older release is not mistaken for it; K3s goes by the
// extension.
func imagePath(ref artifact.Ref) string {
	base := path.Base(strings.ReplaceAll(ref.Source, "\\", "/"))
	extension := ""
	for _, e := range []string{".tar.zst", ".tar.gz", ".tar.bz2", ".tar.lz4", ".tgz", ".tzst", ".tbz", ".tar"} {
		if strings.HasSuffix(base, e) {
			extension = e
			break
		}
	}
	if extension == "" {
		extension = ".tar"
	}
	return imagesDir + "/" + imagePrefix + ref.SHA256[:16] + extension
}
