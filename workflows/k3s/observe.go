package k3s

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/edge-provision/edge-provision/workflows/remote"
)

// observation is what one machine said of itself. Looking changes nothing.
type observation struct {
	node Node
	role role
	// err says why the machine could not be asked; the rest is empty then.
	err error

	// skew is how far the machine's clock is ahead of ours.
	skew time.Duration
	// files are the files that were found, links the symbolic links.
	files map[string]found
	links map[string]bool
	// commands are those of K3s's clients that there are, whoever brought them.
	commands []string
	units    map[string]unit
	// networks are those of its interfaces, cluster's own excepted.
	networks []netip.Prefix
	// address is where SSH reached it.
	address netip.Addr
	// machineID and systemUUID tell hardware and installations apart.
	machineID, systemUUID string
	// freeBytes is the space left for images; -1 when it was not told.
	freeBytes int64
	// joined says that it has data of a cluster: etcd's on a server, a
	// kubelet certificate on an agent; password that it has its node password.
	joined, password bool
	sqlite           bool
	// ca is the digest of the CA of the cluster that it is in.
	ca     string
	tokens Tokens
	// join and critical are what its config.yaml says, if there is one.
	join     *join
	critical *critical
	// version is what the binary says of itself; zero when there is none.
	version Version
	// snapshots are the names of etcd's snapshots on its disk.
	snapshots []string
	started   started
}

// found is one regular file on a machine.
type found struct {
	SHA256    string
	Mode      fs.FileMode
	UID, GID  int
	SizeBytes int64
}

// unit is a systemd unit as `systemctl show` tells it.
type unit struct {
	Load, Active, Sub, Enabled string
	// Invocation is the id of its last start.
	Invocation string
	Restarts   int
	// Job says that systemd has something to do with it: a start, a stop.
	Job bool
}

// running reports whether the unit is up or on its way.
func (u unit) running() bool {
	return u.Active == "active" || u.Active == "activating" || u.Active == "reloading"
}

// started is the mark of the last start that was seen to succeed.
type started struct {
	Owner  string `json:"owner"`
	Digest string `json:"digest"`
	// Files are those that were put there, so that what is no longer declared
	// can be taken away.
	Files []string `json:"files,omitempty"`
	// Fixed are the settings that a cluster keeps for life.
	Fixed string `json:"fixed,omitempty"`
	// Encrypted says whether K3s encrypts Secrets, which it also does for life; nil in
	// marks of older releases.
	Encrypted *bool `json:"encrypted,omitempty"`
	// Found are shared directories that were there before K3s was.
	Found []string `json:"found,omitempty"`
}

// observeScript prints what is there, a line each: a word, a tab, values. $1 is
// a prefix of all paths. It is plain POSIX sh, and reads only.
const observeScript = `R=$1
t() { w=$1; shift; printf '%s\t%s\n' "$w" "$*"; }
t time "$(date +%s)"
t machine-id "$(cat "$R/etc/machine-id" 2>/dev/null)"
t system-uuid "$(cat /sys/class/dmi/id/product_uuid 2>/dev/null)"
t root "$R"
set -- $SSH_CONNECTION
t address "${3:-$(ip -o -4 route get 203.0.113.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')}"
ip -o -4 addr show 2>/dev/null | while read -r n i f a x; do t network "$i $a"; done
d="$R/var/lib"; while [ ! -d "$d" ]; do d="${d%/*}"; done
t free "$(df -Pk "${d:-/}" | awk 'NR==2 {print $4}')"
set --
for f in FILES "$R"IMAGES/edge-*; do
  if [ -L "$f" ]; then t link "${f#"$R"}"
  elif [ -f "$f" ]; then set -- "$@" "$f"
  elif [ -e "$f" ]; then t other "${f#"$R"}"
  fi
done
if [ $# -gt 0 ]; then
  stat -c "file	%a %u %g %s %n" "$@"
  sha256sum "$@" | sed 's/^/sum	/'
fi
for c in kubectl crictl ctr; do command -v "$c" >/dev/null && t command "$c"; done
[ -x "$R/BINARY" ] && t version "$("$R/BINARY" --version 2>/dev/null | sed -n '1s/.* \(v[^ ]*\).*/\1/p')"
for f in "$R"SNAPSHOTS/*; do [ -f "$f" ] && t snapshot "${f##*/}"; done | tail -n 500
[ -d "$R/ETCD" ] && t etcd yes
[ -f "$R/SQLITE" ] && t sqlite yes
[ -f "$R/KUBELET" ] && t kubelet yes
[ -f "$R/PASSWORD" ] && t password yes
[ -f "$R/STARTED" ] && t started "$(tr -d '\n' <"$R/STARTED")"
for u in k3s k3s-agent; do
  t unit "$u" $(systemctl show "$u.service" -p LoadState -p ActiveState -p SubState -p UnitFileState -p NRestarts)
done
for f in SERVERCA AGENTCA; do [ -f "$R/$f" ] && sha256sum "$R/$f" | sed 's/^/ca	/'; done
exit 0
`

// watched are the files that any node of ours may have.
var watched = slices.Concat([]string{
	binaryPath, stagedPath, configPath, registriesPath, psaPath, auditPath, sysctlPath, networkPolicy,
	server.unitPath(), server.envPath(), agent.unitPath(), agent.envPath(),
}, links)

// script is observeScript with the paths put in.
func script() string {
	var files []string
	for _, f := range watched {
		files = append(files, `"$R"`+f)
	}
	r := strings.NewReplacer(
		"FILES", strings.Join(files, " "), "IMAGES", imagesDir, "SNAPSHOTS", snapshotsDir, "/BINARY", binaryPath, "/ETCD", etcdDir, "/SQLITE", sqlitePath, "/KUBELET", kubeletCert,
		"/PASSWORD", passwordPath, "/STARTED", startedPath, "SERVERCA", strings.TrimPrefix(serverCA, "/"), "AGENTCA", strings.TrimPrefix(agentCA, "/"))
	return r.Replace(observeScript)
}

// observe asks all declared machines at once, and fails for none of them.
func (c *Cluster) observe(ctx context.Context) []*observation {
	out := make([]*observation, len(c.all()))
	var wg sync.WaitGroup
	for i, n := range c.all() {
		r := server
		if i >= len(c.Servers) {
			r = agent
		}
		wg.Go(func() { out[i] = c.observeOne(ctx, n, r) })
	}
	wg.Wait()
	return out
}

func (c *Cluster) observeOne(ctx context.Context, n Node, r role) *observation {
	o := &observation{node: n, role: r}
	h, err := c.host(ctx, n.Machine)
	if err != nil {
		o.err = err
		return o
	}
	defer h.Close()
	o.err = c.look(ctx, h, o)
	return o
}

// look fills o in.
func (c *Cluster) look(ctx context.Context, h *host, o *observation) error {
	before := c.Clock.Now()
	line := "sh -s -- " + remote.Quote(h.root)
	r, err := h.Run(ctx, remote.Command{Line: line, Stdin: strings.NewReader(script())})
	if err != nil {
		return fmt.Errorf("looking at %s: %w", o.node.Machine, err)
	}
	now := before.Add(c.Clock.Now().Sub(before) / 2)
	if err := o.parse(r.Stdout, now); err != nil {
		return fmt.Errorf("looking at %s: %w", o.node.Machine, err)
	}
	if !o.node.IP.IsValid() || o.node.IP.IsLoopback() {
		o.node.IP = o.address
	}
	if !o.node.IP.IsValid() {
		return fmt.Errorf("%s: its own address is not known; declare `address` for it", o.node.Machine)
	}
	if _, ok := o.files[configPath]; ok {
		f, err := h.read(ctx, configPath)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		o.join, o.critical = parseJoin(f), parseCritical(f)
	}
	if o.role == server {
		return c.readTokens(ctx, h, o)
	}
	return nil
}

// readTokens reads the tokens that a server has: those that its cluster began
// with, or else those that it was prepared with.
func (c *Cluster) readTokens(ctx context.Context, h *host, o *observation) error {
	for _, p := range []string{server.envPath(), tokenPath} {
		f, err := h.read(ctx, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if p == tokenPath {
			if t := shortToken(strings.TrimSpace(string(f))); t != "" {
				o.tokens.Server = t
			}
			continue
		}
		for line := range strings.Lines(string(f)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			switch key {
			case "K3S_TOKEN":
				o.tokens.Server = shortToken(value)
			case "K3S_AGENT_TOKEN":
				o.tokens.Agent = shortToken(value)
			}
		}
	}
	return nil
}

// maxLines bounds what a machine may say: it has about thirty things to tell.
const maxLines = 4096

// parse reads what the script printed. A line that is cut or strange is an
// error, not a guess.
func (o *observation) parse(text string, now time.Time) error {
	o.files, o.links, o.units, o.freeBytes = map[string]found{}, map[string]bool{}, map[string]unit{}, -1
	etcd, kubelet, lines, root, sums := false, false, 0, "", map[string]string{}
	scan := bufio.NewScanner(strings.NewReader(text))
	for scan.Scan() {
		if lines++; lines > maxLines {
			return errors.New("it told more than can be true")
		}
		word, value, _ := strings.Cut(scan.Text(), "\t")
		var err error
		switch word {
		case "time":
			var n int64
			if n, err = strconv.ParseInt(value, 10, 64); err == nil {
				o.skew = time.Unix(n, 0).Sub(now.Truncate(time.Second))
			}
		case "machine-id":
			o.machineID = value
		case "system-uuid":
			o.systemUUID = strings.ToLower(value)
		case "address":
			if value != "" {
				o.address, err = netip.ParseAddr(value)
			}
		case "network":
			err = o.parseNetwork(value)
		case "free":
			var k int64
			if k, err = strconv.ParseInt(value, 10, 64); err == nil {
				o.freeBytes = k << 10
			}
		case "file":
			err = o.parseFile(root, value)
		case "command":
			o.commands = append(o.commands, value)
		case "root":
			root = value
		case "link":
			o.links[value] = true
		case "sum":
			sum, name, _ := strings.Cut(value, "  ")
			sums[strings.TrimPrefix(name, root)] = sum
		case "other":
			err = fmt.Errorf("%s is neither a file nor a link", value)
		case "etcd":
			etcd = true
		case "sqlite":
			o.sqlite = true
		case "kubelet":
			kubelet = true
		case "password":
			o.password = true
		case "started":
			// A mark that cannot be read is none: K3s is restarted once more.
			_ = json.Unmarshal([]byte(value), &o.started)
		case "unit":
			name, properties, _ := strings.Cut(value, " ")
			o.units[name], err = parseUnit(strings.Fields(properties))
		case "version":
			o.version, _ = ParseVersion(value)
		case "snapshot":
			o.snapshots = append(o.snapshots, value)
		case "ca":
			o.ca, _, _ = strings.Cut(value, " ")
		}
		if err != nil {
			return fmt.Errorf("%q: %w", scan.Text(), err)
		}
	}
	if err := scan.Err(); err != nil {
		return err
	}
	for name, f := range o.files {
		f.SHA256 = sums[name]
		if b, err := hex.DecodeString(f.SHA256); err != nil || len(b) != sha256.Size {
			return fmt.Errorf("it did not tell the digest of %s", name)
		}
		o.files[name] = f
	}
	if len(o.units) != 2 {
		return errors.New("it did not tell about its services; does it run systemd?")
	}
	o.joined = o.role == server && (etcd || o.sqlite) || o.role == agent && kubelet
	return nil
}

// own are the interfaces that a cluster makes on its nodes.
var own = []string{"lo", "cni", "flannel", "cali", "vxlan.calico", "tunl", "kube-", "docker", "veth"}

func (o *observation) parseNetwork(value string) error {
	name, prefix, _ := strings.Cut(value, " ")
	if slices.ContainsFunc(own, func(p string) bool { return strings.HasPrefix(name, p) }) {
		return nil
	}
	p, err := netip.ParsePrefix(prefix)
	if err != nil {
		return err
	}
	o.networks = append(o.networks, p.Masked())
	return nil
}

func (o *observation) parseFile(root, value string) error {
	fields := strings.SplitN(value, " ", 5)
	if len(fields) != 5 {
		return errors.New("it is not a line about a file")
	}
	mode, err := strconv.ParseUint(fields[0], 8, 32)
	if err != nil {
		return err
	}
	f := found{Mode: fs.FileMode(mode).Perm()}
	for i, to := range map[int]*int{1: &f.UID, 2: &f.GID} {
		if *to, err = strconv.Atoi(fields[i]); err != nil {
			return err
		}
	}
	if f.SizeBytes, err = strconv.ParseInt(fields[3], 10, 64); err != nil {
		return err
	}
	o.files[strings.TrimPrefix(fields[4], root)] = f
	return nil
}

// parseUnit reads properties as `systemctl show` writes them.
func parseUnit(properties []string) (u unit, err error) {
	for _, pair := range properties {
		key, value, _ := strings.Cut(pair, "=")
		switch key {
		case "LoadState":
			u.Load = value
		case "ActiveState":
			u.Active = value
		case "SubState":
			u.Sub = value
		case "UnitFileState":
			u.Enabled = value
		case "InvocationID":
			u.Invocation = value
		case "Job":
			u.Job = value != ""
		case "NRestarts":
			if u.Restarts, err = strconv.Atoi(value); err != nil {
				return unit{}, fmt.Errorf("systemctl show said %q", pair)
			}
		}
	}
	return u, nil
}

// parseJoin reads how a node came into its cluster from its config.yaml; nil
// when that does not say.
func parseJoin(config []byte) *join {
	var v struct {
		Init   bool   `json:"cluster-init"`
		Server string `json:"server"`
	}
	if err := yaml.Unmarshal(config, &v); err != nil {
		return nil
	}
	if v.Init {
		return &join{Init: true}
	}
	at, err := netip.ParseAddrPort(strings.TrimPrefix(v.Server, "https://"))
	if err != nil {
		return nil
	}
	return &join{Server: at.Addr()}
}
