package k3s

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"sigs.k8s.io/yaml"
)

// kind says how a key's values are merged.
type kind int

const (
	scalar  kind = iota
	boolean      // a flag of this kind needs no value
	list
)

// keys are the settings of K3s that this program does something with or accepts
// silently, because they switch off a part that it does not have.
var keys = map[string]kind{
	"config": scalar, "debug": boolean, "v": scalar, "vmodule": scalar, "log": scalar, "alsologtostderr": boolean,
	"data-dir": scalar, "token": scalar, "token-file": scalar, "agent-token": scalar, "agent-token-file": scalar,
	"server": scalar, "cluster-init": boolean, "tls-san": list, "tls-san-security": boolean, "bind-address": scalar, "advertise-address": scalar, "https-listen-port": scalar,
	"cluster-cidr": scalar, "service-cidr": scalar, "service-node-port-range": scalar, "cluster-dns": scalar, "cluster-domain": scalar,
	"flannel-backend": scalar, "flannel-iface": scalar, "egress-selector-mode": scalar,
	"write-kubeconfig": scalar, "write-kubeconfig-mode": scalar, "write-kubeconfig-group": scalar,
	"disable": list, "disable-network-policy": boolean, "disable-kube-proxy": boolean, "disable-cloud-controller": boolean, "disable-helm-controller": boolean,
	"etcd-arg": list, "kube-apiserver-arg": list, "kube-controller-manager-arg": list, "kube-scheduler-arg": list, "kube-proxy-arg": list, "kubelet-arg": list,
	"etcd-disable-snapshots": boolean, "etcd-snapshot-schedule-cron": scalar, "etcd-snapshot-retention": scalar, "etcd-snapshot-dir": scalar, "etcd-snapshot-name": scalar,
	"etcd-snapshot-compress": boolean, "etcd-expose-metrics": boolean, "supervisor-metrics": boolean, "secrets-encryption": boolean, "embedded-registry": boolean,
	"node-name": scalar, "with-node-id": boolean, "node-ip": scalar, "node-external-ip": scalar, "node-label": list, "node-taint": list,
	"private-registry": scalar, "system-default-registry": scalar, "pause-image": scalar, "snapshotter": scalar, "resolv-conf": scalar,
	"protect-kernel-defaults": boolean, "selinux": boolean, "lb-server-port": scalar, "prefer-bundled-bin": boolean, "default-runtime": scalar,
	"image-service-endpoint": scalar, "default-local-storage-path": scalar, "servicelb-namespace": scalar, "enable-pprof": boolean, "rootless": boolean,
}

// environment are the variables that K3s reads, by key.
var environment = map[string]string{
	"token": "K3S_TOKEN", "token-file": "K3S_TOKEN_FILE", "agent-token": "K3S_AGENT_TOKEN", "agent-token-file": "K3S_AGENT_TOKEN_FILE", "server": "K3S_URL",
	"config": "K3S_CONFIG_FILE", "node-name": "K3S_NODE_NAME", "data-dir": "K3S_DATA_DIR", "write-kubeconfig-mode": "K3S_KUBECONFIG_MODE",
	"write-kubeconfig": "K3S_KUBECONFIG_OUTPUT", "cluster-init": "K3S_CLUSTER_INIT", "resolv-conf": "K3S_RESOLV_CONF",
}

// settings are all values of each key, in the order in which they were given.
type settings map[string][]string

func (s settings) get(key, fallback string) string {
	if v := s[key]; len(v) > 0 {
		return v[len(v)-1]
	}
	return fallback
}

func (s settings) is(key string) bool {
	v := s.get(key, "false")
	return v == "true" || v == "1"
}

// values of a list, which may also be given as one string with commas.
func (s settings) values(key string) []string {
	var all []string
	for _, v := range s[key] {
		all = append(all, strings.Split(v, ",")...)
	}
	return all
}

// load merges environment, configuration files and flags, in the order in which
// K3s lets the later one win.
func load(args []string, getenv func(string) string, warn io.Writer) (settings, error) {
	flags, err := parseFlags(args)
	if err != nil {
		return nil, err
	}
	s := settings{}
	for key, name := range environment {
		if v := getenv(name); v != "" {
			s[key] = []string{v}
		}
	}
	path := flags.get("config", s.get("config", "/etc/rancher/k3s/config.yaml"))
	files := []string{path}
	dropins, err := filepath.Glob(path + ".d/*.yaml")
	if err != nil {
		return nil, fmt.Errorf("listing configuration files: %w", err)
	}
	slices.Sort(dropins)
	for _, name := range append(files, dropins...) {
		b, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, fmt.Errorf("reading configuration: %w", err)
		}
		if err := s.merge(b, filepath.Base(name), warn); err != nil {
			return nil, fmt.Errorf("reading configuration %s: %w", name, err)
		}
	}
	for key, values := range flags {
		if keys[key] == list {
			s[key] = append(s[key], values...)
		} else {
			s[key] = values
		}
	}
	return s, s.readTokenFiles()
}

func (s settings) readTokenFiles() error {
	for _, key := range []string{"token", "agent-token"} {
		path := s.get(key+"-file", "")
		if path == "" || s.get(key, "") != "" {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading %s file: %w", key, err)
		}
		s[key] = []string{strings.TrimSpace(string(b))}
	}
	return nil
}

// merge reads one file: a later value replaces an earlier one, unless its key
// ends in "+".
func (s settings) merge(b []byte, name string, warn io.Writer) error {
	var raw map[string]any
	if err := yaml.Unmarshal(b, &raw); err != nil {
		return err
	}
	for key, value := range raw {
		key, appends := strings.CutSuffix(key, "+")
		if _, ok := keys[key]; !ok {
			fmt.Fprintf(warn, "Unknown flag --%s found in %s, skipping\n", key, name)
			continue
		}
		var values []string
		switch v := value.(type) {
		case nil:
			continue
		case []any:
			for _, element := range v {
				values = append(values, fmt.Sprint(element))
			}
		case map[string]any:
			return fmt.Errorf("key %s holds a map; want a value or a list", key)
		default:
			values = []string{fmt.Sprint(v)}
		}
		if appends {
			values = append(s[key], values...)
		}
		s[key] = values
	}
	return nil
}

func parseFlags(args []string) (settings, error) {
	s := settings{}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "-") {
			return nil, fmt.Errorf("unknown argument %q", arg)
		}
		key, value, given := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if short := map[string]string{"c": "config", "d": "data-dir", "t": "token", "s": "server", "o": "write-kubeconfig", "l": "log"}[key]; short != "" {
			key = short
		}
		k, ok := keys[key]
		switch {
		case !ok:
			return nil, fmt.Errorf("flag provided but not defined: -%s", key)
		case !given && k == boolean:
			value = "true"
		case !given && len(args) == 0:
			return nil, fmt.Errorf("flag needs an argument: -%s", key)
		case !given:
			value, args = args[0], args[1:]
		}
		s[key] = append(s[key], value)
	}
	return s, nil
}

// node is what this machine is called and where it is reached.
type node struct {
	name string
	ip   netip.Addr
}

func (s settings) node() (node, error) {
	name := s.get("node-name", "")
	if name == "" {
		h, err := os.Hostname()
		if err != nil {
			return node{}, fmt.Errorf("asking for the hostname: %w", err)
		}
		name = h
	}
	n := node{name: strings.ToLower(name)}
	link, err := defaultLink()
	if err != nil {
		return node{}, err
	}
	if given := s.values("node-ip"); len(given) > 0 {
		if n.ip, err = netip.ParseAddr(given[0]); err != nil {
			return node{}, fmt.Errorf("node-ip: %w", err)
		}
		return n, nil
	}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil || len(addresses) == 0 {
		return node{}, errors.Join(fmt.Errorf("interface %s of the default route has no IPv4 address", link.Attrs().Name), err)
	}
	n.ip, _ = netip.AddrFromSlice(addresses[0].IP.To4())
	return n, nil
}

// defaultLink is the interface of the default route, without which K3s does not
// start either.
func defaultLink() (netlink.Link, error) {
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil || r.Dst.IP.Equal(net.IPv4zero) {
			return netlink.LinkByIndex(r.LinkIndex)
		}
	}
	return nil, errors.New("no default routes found in \"/proc/net/route\" or \"/proc/net/ipv6_route\"")
}
