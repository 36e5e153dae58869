package calico

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"github.com/edge-provision/edge-provision/rack/standin/overlay"
)

const (
	hostRoot   = "/host"
	healthPort = 9099 // felix's
	plugins    = "opt/cni/bin"
	configs    = "etc/cni/net.d"
	configName = "10-calico.conflist"
)

func intOrString(n int) intstr.IntOrString { return intstr.FromInt32(int32(n)) }

var globalPolicies = schema.GroupVersionResource{Group: "crd.projectcalico.org", Version: "v1", Resource: "globalnetworkpolicies"}

// Node is the data plane of one node. It runs as root in the node's network, with
// the node's root directory below /host: the plugins and nft are the node's own.
type Node struct {
	Kubernetes kubernetes.Interface
	Dynamic    dynamic.Interface
	Name       string
	Address    netip.Addr
	Pool       netip.Prefix
	Log        *slog.Logger

	device   overlay.Device
	written  string // the configuration of the plugins, once written
	enforced string // the rules that nft has
	ready    atomic.Bool
}

// Run keeps the node's links, routes and rules as the cluster wants them until
// ctx ends. They stay then, as Calico's do, unless its DaemonSet is being removed.
func (n *Node) Run(ctx context.Context) error {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", fmt.Sprintf("127.0.0.1:%d", healthPort))
	if err != nil {
		return fmt.Errorf("opening the port of health: %w", err)
	}
	health := &http.Server{ReadHeaderTimeout: 5 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if !n.ready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})}
	context.AfterFunc(ctx, func() { _ = health.Close() })
	go func() {
		if err := health.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			n.Log.Error("serving health", "error", err)
		}
	}()
	if err := n.installPlugins(); err != nil {
		return err
	}
	n.device = overlay.Device{Name: "vxlan.calico", ID: 4096, Port: 4789, Node: n.Address}
	for {
		err := n.sync(ctx)
		if err == nil {
			err = n.enforce(ctx)
		}
		if err != nil && ctx.Err() == nil {
			n.Log.Warn("following the cluster", "error", err)
		} else {
			n.ready.Store(true)
		}
		select {
		case <-ctx.Done():
			return n.leave(context.WithoutCancel(ctx))
		case <-time.After(interval):
		}
	}
}

// leave removes the rules, which nothing else would find under this program's
// names, when the installation is being removed. The link, the plugins and their
// configuration stay, as Calico's do: whoever uninstalls must know of them.
func (n *Node) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	set, err := n.Kubernetes.AppsV1().DaemonSets(namespace).Get(ctx, nodeName, meta.GetOptions{})
	if !apierrors.IsNotFound(err) && (err != nil || set.DeletionTimestamp == nil) {
		return nil
	}
	return nft(ctx, fmt.Sprintf("table ip %[1]s\ndelete table ip %[1]s\ntable ip cali-nat\ndelete table ip cali-nat\n", Table))
}

// installPlugins copies the reference plugins of the node's packages to where
// the runtime looks for a provider's.
func (n *Node) installPlugins() error {
	for _, dir := range []string{plugins, configs, "var/lib/calico"} {
		if err := os.MkdirAll(filepath.Join(hostRoot, dir), 0o755); err != nil {
			return fmt.Errorf("installing plugins: %w", err)
		}
	}
	for _, name := range []string{"host-local", "loopback", "portmap", "ptp"} {
		if err := copyProgram(filepath.Join(hostRoot, "usr/lib/cni", name), filepath.Join(hostRoot, plugins, name)); err != nil {
			return fmt.Errorf("installing plugin %s: the node needs Debian's package containernetworking-plugins: %w", name, err)
		}
	}
	return nil
}

func copyProgram(from, to string) (err error) {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	f, err := os.OpenFile(to+".new", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, source)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(to+".new", to)
}

// sync joins this node to the others.
func (n *Node) sync(ctx context.Context) error {
	nodes, err := n.Kubernetes.CoreV1().Nodes().List(ctx, meta.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	var peers []overlay.Peer
	for _, node := range nodes.Items {
		pods, err := netip.ParsePrefix(node.Spec.PodCIDR)
		if err != nil {
			continue
		}
		if node.Name == n.Name {
			n.device.Pods = pods
			continue
		}
		for _, a := range node.Status.Addresses {
			if address, err := netip.ParseAddr(a.Address); err == nil && a.Type == core.NodeInternalIP {
				peers = append(peers, overlay.Peer{Node: address, Pods: pods})
			}
		}
	}
	if !n.device.Pods.IsValid() {
		return fmt.Errorf("node %s has no pod network yet", n.Name)
	}
	if !n.Pool.Contains(n.device.Pods.Addr()) {
		return fmt.Errorf("the node's pod network %s is outside of the Installation's ipPool %s: cluster-cidr and ipPool differ", n.device.Pods, n.Pool)
	}
	if err := n.device.Sync(peers); err != nil {
		return err
	}
	text := fmt.Sprintf(pluginConfig, n.device.Pods.String())
	if text == n.written {
		return nil
	}
	if err := masquerade(ctx, n.device.Pods, n.Pool); err != nil {
		return err
	}
	path := filepath.Join(hostRoot, configs, configName)
	if err := errors.Join(os.WriteFile(path+".new", []byte(text), 0o600), os.Rename(path+".new", path)); err != nil {
		return fmt.Errorf("writing the plugins' configuration: %w", err)
	}
	n.written = text
	return nil
}

// Every pod has a link of its own to the node, and no bridge with others, so that
// all its packets are forwarded and pass the rules.
const pluginConfig = `{
  "cniVersion": "1.0.0",
  "name": "k8s-pod-network",
  "plugins": [
    {
      "type": "ptp", "mtu": 1450,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// masquerade hides pods behind their node when they speak to the world, and
// makes sure that the world's firewall lets them be forwarded.
func masquerade(ctx context.Context, own, pool netip.Prefix) error {
	return nft(ctx, fmt.Sprintf(`table ip cali-nat
delete table ip cali-nat
table ip cali-nat {
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    ip saddr %s ip daddr != %s masquerade
  }
}
`, own, pool))
}

// enforce gives nft the policies, when they or their pods have changed.
func (n *Node) enforce(ctx context.Context) error {
	c := Cluster{Namespaces: map[string]map[string]string{}}
	pods, err := n.Kubernetes.CoreV1().Pods("").List(ctx, meta.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		if pod, ok := PodOf(p); ok {
			c.Pods = append(c.Pods, pod)
		}
	}
	spaces, err := n.Kubernetes.CoreV1().Namespaces().List(ctx, meta.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return err
	}
	for _, s := range spaces.Items {
		c.Namespaces[s.Name] = s.Labels
	}
	policies, err := n.policies(ctx, c)
	if err != nil {
		return err
	}
	text := Ruleset(c.Pods, n.Name, policies)
	if text == n.enforced {
		return nil
	}
	if err := nft(ctx, text); err != nil {
		return fmt.Errorf("enforcing policies: %w", err)
	}
	n.enforced = text
	return nil
}

// policies are all of the cluster's. One that this program does not know whole
// is an error: the node then keeps the rules that it has and is not ready.
func (n *Node) policies(ctx context.Context, c Cluster) ([]Policy, error) {
	var all []Policy
	plain, err := n.Kubernetes.NetworkingV1().NetworkPolicies("").List(ctx, meta.ListOptions{})
	if err != nil {
		return nil, err
	}
	for _, p := range plain.Items {
		converted, err := c.NetworkPolicy(p)
		if err != nil {
			n.ready.Store(false)
			return nil, fmt.Errorf("NetworkPolicy %s/%s: %w", p.Namespace, p.Name, err)
		}
		all = append(all, converted)
	}
	global, err := n.Dynamic.Resource(globalPolicies).List(ctx, meta.ListOptions{})
	if apierrors.IsNotFound(err) {
		return all, nil
	} else if err != nil {
		return nil, err
	}
	for _, p := range global.Items {
		converted, err := c.GlobalPolicy(p.GetName(), p.Object["spec"])
		if err != nil {
			n.ready.Store(false)
			return nil, fmt.Errorf("GlobalNetworkPolicy %s: %w", p.GetName(), err)
		}
		all = append(all, converted)
	}
	return all, nil
}

// nft runs the node's own nft in the node's root directory.
func nft(ctx context.Context, text string) error {
	cmd := exec.CommandContext(ctx, "/usr/sbin/nft", "-f", "-")
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: hostRoot}
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(text)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("nft: the node needs Debian's package nftables: %w: %.500s", err, out.String())
	}
	return nil
}
