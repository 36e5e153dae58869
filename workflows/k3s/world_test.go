package k3s

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	policy "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
)

// world is a pretended site: hosts are directories behind a real SSH server,
// with programs of shell in place of systemd and of K3s, and the API server is
// client-go's own fake. It shows what is done in which order; that it works is
// for the end-to-end tests to show.
type world struct {
	t     *testing.T
	dir   string
	log   string
	hosts map[string]*fakeHost
	kube  *fake.Clientset
	key   ssh.Signer
	sup   *httptest.Server
	// budgeted is the name of a pod that a disruption budget needs.
	budgeted string
	// elects has the leaders of the cluster speak, at every moment that passes.
	elects func(now time.Time)

	mu    sync.Mutex
	extra time.Duration
	says  []string
	// offers are the files of the site, by digest.
	offers map[string]string
}

type fakeHost struct {
	root string
	ip   netip.Addr
	ssh  *remotetest.Server
	gone bool
	// ghost renews the lease of the node of that name whenever time passes: the
	// old hardware is still on.
	ghost bool
	// deaf has K3s run on it and its kubelet not.
	deaf bool
}

// programs stand in PATH before the real ones. $ROOT is the host's directory,
// $WORLD the site's.
var programs = map[string]string{
	"systemctl": `verb=$1; shift
unit=; for a in "$@"; do case "$a" in *.service) unit=$a ;; esac; done
f=$ROOT/fake/$unit
next() { echo $(($(cat "$f.invocation" 2>/dev/null || echo 0) + 1)) >"$f.invocation"; }
case $verb in
show)
  case "$*" in *--value*) cat "$f.invocation" 2>/dev/null; exit 0 ;; esac
  echo "InvocationID=$(cat "$f.invocation" 2>/dev/null)"
  if [ -e "$f.stops" ]; then
    rm "$f.stops"; next
    echo ActiveState=deactivating; echo NRestarts=99; echo Job=7; exit 0
  fi
  if [ -e "$ROOT/etc/systemd/system/$unit" ]; then echo LoadState=loaded; else echo LoadState=not-found; fi
  echo "ActiveState=$(cat "$f.active" 2>/dev/null || echo inactive)"
  echo "UnitFileState=$(cat "$f.enabled" 2>/dev/null)"
  echo "NRestarts=$(cat "$f.restarts" 2>/dev/null || echo 0)" ;;
enable) echo enabled >"$f.enabled" ;;
reset-failed) rm -f "$f.restarts" ;;
disable) rm -f "$f.enabled" ;;
stop) rm -f "$f.active"; echo "$NAME: stop $unit" >>"$WORLD/log" ;;
restart)
  echo "$NAME: start $unit" >>"$WORLD/log"
  if [ -e "$ROOT/fake/lingers" ]; then mv "$ROOT/fake/lingers" "$f.stops"; else next; fi
  [ -e "$ROOT/fake/broken" ] && { echo failed >"$f.active"; exit 0; }
  echo active >"$f.active"
  d=$ROOT/var/lib/rancher/k3s
  if [ "$unit" = k3s.service ]; then
    mkdir -p "$d/server/db/etcd/member" "$d/server/tls" "$d/agent" "$ROOT/etc/rancher/node"
    grep -q cluster-init "$ROOT/etc/rancher/k3s/config.yaml" && [ ! -e "$d/server/tls/server-ca.crt" ] && echo "ca of $NAME" >"$WORLD/ca"
    [ -e "$d/server/tls/server-ca.crt" ] || cp "$WORLD/ca" "$d/server/tls/server-ca.crt"
    sed -n 's/^K3S_TOKEN=//p' "$ROOT/etc/systemd/system/k3s.service.env" >"$d/server/token"
    cp "$WORLD/kubeconfig" "$ROOT/etc/rancher/k3s/k3s.yaml"
  else
    mkdir -p "$d/agent" "$ROOT/etc/rancher/node"
    cp "$WORLD/ca" "$d/agent/server-ca.crt"
    echo cert >"$d/agent/client-kubelet.crt"
  fi
  echo password >"$ROOT/etc/rancher/node/password" ;;
esac
exit 0`,
	"journalctl": `i=; for a in "$@"; do case "$a" in _SYSTEMD_INVOCATION_ID=*) i=.${a#*=} ;; esac; done
cat "$ROOT/fake/journal$i" 2>/dev/null; exit 0`,
	"ip":       `case "$*" in *"addr show"*) cat "$ROOT/fake/addresses" 2>/dev/null ;; esac; exit 0`,
	"sysctl":   `exit 0`,
	"df":       `echo head; echo "x x x $(cat "$ROOT/fake/free" 2>/dev/null || echo 9999999) x"`,
	"date":     `expr $(/bin/date +%s) + $(cat "$ROOT/fake/skew" 2>/dev/null || echo 0)`,
	"iptables": `exit 0`, "iptables-save": `exit 0`, "ip6tables-save": `exit 0`, "nft": `exit 1`, "ipset": `exit 0`, "umount": `exit 0`,
}

const fakeKubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: default, cluster: {server: "https://127.0.0.1:6443"}}]
contexts: [{name: default, context: {cluster: default, user: default}}]
current-context: default
users: [{name: default, user: {token: secret}}]
`

func newWorld(t *testing.T, hosts ...string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), hosts: map[string]*fakeHost{}, key: remotetest.NewSigner(t), offers: map[string]string{}}
	bin := filepath.Join(w.dir, "bin")
	w.log = filepath.Join(w.dir, "log")
	for name, text := range programs {
		w.put(filepath.Join(bin, name), "#!/bin/sh\n"+text+"\n", 0o755)
	}
	w.put(filepath.Join(w.dir, "kubeconfig"), fakeKubeconfig, 0o600)
	for i, name := range hosts {
		w.addHost(name, netip.AddrFrom4([4]byte{192, 0, 2, byte(11 + i)}))
	}
	w.kube = fake.NewClientset()
	w.kube.PrependReactor("*", "*", w.record)
	w.sup = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if user, pass, _ := r.BasicAuth(); r.URL.Path != "/v1-k3s/readyz" || user != "node" || pass == "" {
			rw.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(w.sup.Close)
	return w
}

// put writes a file of the test itself.
func (w *world) put(name, content string, mode os.FileMode) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		w.t.Fatal(err)
	}
}

// addHost makes a host, or puts new hardware in the place of one.
func (w *world) addHost(name string, ip netip.Addr) {
	w.t.Helper()
	root := filepath.Join(w.dir, fmt.Sprintf("%s-%d", name, time.Now().UnixNano()))
	w.put(filepath.Join(root, "etc/machine-id"), hex.EncodeToString([]byte(filepath.Base(root)))[:32]+"\n", 0o644)
	w.put(filepath.Join(root, "fake/.keep"), "", 0o644)
	w.put(filepath.Join(root, "usr/local/bin/.keep"), "", 0o644)
	w.put(filepath.Join(root, "var/lib/.keep"), "", 0o644)
	s := remotetest.Start(w.t, w.key.PublicKey(), &remotetest.Server{Env: []string{
		"PATH=" + filepath.Join(w.dir, "bin") + ":" + os.Getenv("PATH"), "ROOT=" + root, "WORLD=" + w.dir, "NAME=" + name, "SSH_CONNECTION=x 1 " + ip.String() + " 22",
	}})
	w.hosts["machine."+name] = &fakeHost{root: root, ip: ip, ssh: s}
}

// Host implements Hosts.
func (w *world) Host(ctx context.Context, machine string) (*remote.Host, error) {
	w.mu.Lock()
	h, ok := w.hosts[machine]
	w.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("%s is not declared in this site", machine)
	}
	if h.gone {
		return nil, &remote.UnreachableError{Host: machine, Address: h.ip.String() + ":22", Err: errors.New("no route to host")}
	}
	return remote.Dial(ctx, remote.Config{Name: machine, Address: h.ssh.Address, HostKey: h.ssh.HostKey, Signer: w.key})
}

// Now and After implement Clock: waiting takes no time.
func (w *world) Now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Now().Add(w.extra)
}

func (w *world) After(d time.Duration) <-chan time.Time {
	w.mu.Lock()
	w.extra += d
	w.mu.Unlock()
	w.sync()
	c := make(chan time.Time, 1)
	c <- time.Time{}
	return c
}

// Open implements Artifacts.
func (w *world) Open(_ context.Context, ref artifact.Ref) (*os.File, error) {
	name, ok := w.offers[ref.SHA256]
	if !ok {
		return nil, fmt.Errorf("%s: no file with digest %s", ref.Source, ref.SHA256)
	}
	return os.Open(name)
}

// offer makes a file of the site.
func (w *world) offer(name, content string) artifact.Ref {
	w.t.Helper()
	sum := sha256.Sum256([]byte(content))
	ref := artifact.Ref{Source: name, SHA256: hex.EncodeToString(sum[:])}
	w.offers[ref.SHA256] = filepath.Join(w.dir, "offers", name)
	w.put(w.offers[ref.SHA256], content, 0o644)
	return ref
}

// binary is a k3s that knows its version and can take snapshots, unless its disk is
// full: then it ends as well as ever.
func (w *world) binary(version string) artifact.Ref {
	return w.offer("k3s-"+version, `#!/bin/sh
case "$1" in
--version) echo "k3s version `+version+` (pretended)" ;;
etcd-snapshot) echo "$NAME: $1 $2 $4" >>"$WORLD/log"; d=$ROOT/var/lib/rancher/k3s/server/db/snapshots; mkdir -p "$d"; [ -e "$ROOT/fake/full" ] || echo data >"$d/$4-$NAME-1782000000" ;;
esac
`)
}

// record keeps what is asked of the API in the same log as what is done on
// hosts.
func (w *world) record(a clienttesting.Action) (bool, runtime.Object, error) {
	verb := ""
	switch a := a.(type) {
	case clienttesting.PatchAction:
		if strings.Contains(string(a.GetPatch()), `"unschedulable":true`) {
			verb = "cordon " + a.GetName()
		} else if strings.Contains(string(a.GetPatch()), `"unschedulable":null`) {
			verb = "uncordon " + a.GetName()
		}
	case clienttesting.DeleteAction:
		verb = "delete " + a.GetResource().Resource + " " + a.GetName()
	case clienttesting.CreateAction:
		if e, ok := a.GetObject().(*policy.Eviction); ok && a.GetSubresource() == "eviction" {
			m := e.GetObjectMeta()
			if m.GetName() == w.budgeted {
				return true, nil, apierrors.NewTooManyRequests("the disruption budget x needs 2 healthy pods and has 2 currently", 0)
			}
			if e.DeleteOptions != nil && len(e.DeleteOptions.DryRun) > 0 {
				return true, nil, nil
			}
			verb = "evict " + m.GetName()
			if m.GetName() != "guarded" {
				_ = w.kube.Tracker().Delete(core.SchemeGroupVersion.WithResource("pods"), a.GetNamespace(), m.GetName())
			}
		}
	}
	if verb != "" {
		w.append("api: " + verb)
	}
	return false, nil, nil
}

func (w *world) append(line string) {
	f, err := os.OpenFile(w.log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer f.Close()
	fmt.Fprintln(f, line)
}

// did reports whether the log has a line.
func (w *world) did(line string) bool {
	b, err := os.ReadFile(w.log)
	return err == nil && slices.Contains(strings.Split(string(b), "\n"), line)
}

// took returns the log and empties it.
func (w *world) took() []string {
	b, err := os.ReadFile(w.log)
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	if err := os.RemoveAll(w.log); err != nil {
		w.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

// sync lets the nodes of hosts on which K3s runs register and say that they are
// alive.
func (w *world) sync() {
	ctx := context.Background()
	w.mu.Lock()
	hosts := map[string]*fakeHost{}
	for k, v := range w.hosts {
		hosts[k] = v
	}
	now := time.Now().Add(w.extra)
	w.mu.Unlock()
	if w.elects != nil {
		w.elects(now)
	}
	for machine, h := range hosts {
		name := strings.TrimPrefix(machine, "machine.")
		part, running := server, false
		for _, r := range []role{server, agent} {
			if b, err := os.ReadFile(filepath.Join(h.root, "fake", r.unit()+".service.active")); err == nil && strings.TrimSpace(string(b)) == "active" {
				part, running = r, true
			}
		}
		if h.ghost {
			w.renew(ctx, name, now)
		}
		if h.gone || !running {
			continue
		}
		version := ""
		if b, err := os.ReadFile(filepath.Join(h.root, binaryPath)); err == nil {
			_, rest, _ := strings.Cut(string(b), "k3s version ")
			version, _, _ = strings.Cut(rest, " ")
		}
		id, _ := os.ReadFile(filepath.Join(h.root, "etc/machine-id"))
		n, err := w.kube.Tracker().Get(core.SchemeGroupVersion.WithResource("nodes"), "", name)
		node, ok := n.(*core.Node)
		if err != nil || !ok {
			node = &core.Node{ObjectMeta: meta.ObjectMeta{Name: name, Labels: map[string]string{}}}
			if part == server {
				node.Labels["node-role.kubernetes.io/etcd"] = "true"
			}
			if err := w.kube.Tracker().Add(node); err != nil {
				continue
			}
		}
		info := core.NodeSystemInfo{KubeletVersion: version, MachineID: strings.TrimSpace(string(id))}
		if h.deaf {
			continue
		}
		w.renew(ctx, name, now)
		if node.Status.NodeInfo == info {
			continue
		}
		node = node.DeepCopy()
		node.Status.NodeInfo = info
		node.Status.Conditions = []core.NodeCondition{{Type: core.NodeReady, Status: core.ConditionTrue}}
		_ = w.kube.Tracker().Update(core.SchemeGroupVersion.WithResource("nodes"), node, "")
	}
}

func (w *world) renew(_ context.Context, name string, now time.Time) {
	at := meta.NewMicroTime(now)
	w.lease(core.NamespaceNodeLease, name, coordination.LeaseSpec{RenewTime: &at})
}

func (w *world) lease(namespace, name string, spec coordination.LeaseSpec) {
	lease := &coordination.Lease{ObjectMeta: meta.ObjectMeta{Name: name, Namespace: namespace}, Spec: spec}
	resource := coordination.SchemeGroupVersion.WithResource("leases")
	if w.kube.Tracker().Update(resource, lease, namespace) != nil {
		_ = w.kube.Tracker().Add(lease)
	}
}

// connect is Config.connect: a server answers when K3s runs on it.
func (w *world) connect(_ context.Context, a access) (*client, error) {
	w.sync()
	at, err := netip.ParseAddrPort(strings.TrimPrefix(a.endpoint, "https://"))
	if err != nil {
		return nil, err
	}
	for _, h := range w.hosts {
		b, _ := os.ReadFile(filepath.Join(h.root, "fake/k3s.service.active"))
		if h.ip == at.Addr() && strings.TrimSpace(string(b)) == "active" && !h.gone {
			return &client{endpoint: w.sup.URL, kube: w.kube, readyz: func(context.Context) ([]byte, error) { return nil, nil }, supervisor: w.sup.Client(), agentToken: a.agentToken}, nil
		}
	}
	return nil, fmt.Errorf("%s: connection refused", a.endpoint)
}

// config declares servers and agents by name.
func (w *world) config(version string, servers, agents []string) Config {
	v, err := ParseVersion(version)
	if err != nil {
		w.t.Fatal(err)
	}
	c := Config{
		Owner: "workflow.p.step.k3s.c", Version: v, Binary: w.binary(version), Hosts: w, Artifacts: w, Clock: w,
		Say: func(format string, args ...any) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.says = append(w.says, fmt.Sprintf(format, args...))
		},
		root: func(machine string) string { return w.hosts[machine].root }, connect: w.connect, StartTimeout: 2 * time.Minute, DrainTimeout: time.Minute,
	}
	for i, names := range [][]string{servers, agents} {
		for _, n := range names {
			node := Node{Machine: "machine." + n, Name: n, IP: w.hosts["machine."+n].ip}
			if i == 0 {
				c.Servers = append(c.Servers, node)
			} else {
				c.Agents = append(c.Agents, node)
			}
		}
	}
	return c
}

// read is a file of a host.
func (w *world) read(machine, path string) string {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.hosts[machine].root, path))
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// set is what a fake program of a host answers with.
func (w *world) set(machine, what, value string) {
	w.t.Helper()
	w.put(filepath.Join(w.hosts[machine].root, "fake", what), value, 0o644)
}

func (w *world) node(name string) *core.Node {
	w.t.Helper()
	n, err := w.kube.CoreV1().Nodes().Get(w.t.Context(), name, meta.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}
