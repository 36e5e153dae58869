// Package overlay joins the pod networks of nodes by VXLAN. It is the data plane
// of the stand-ins for K3s's flannel and for Calico, and none of theirs: every
// node's hardware address is computed from its IP address, so that nodes need to
// know nothing of each other but what the API server lists.
package overlay

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Device is a VXLAN link of this node.
type Device struct {
	Name string
	ID   int // VXLAN network identifier
	Port int // UDP; flannel's is 8472, Calico's and IANA's 4789
	Node netip.Addr
	Pods netip.Prefix // this node's
}

// Peer is another node.
type Peer struct {
	Node netip.Addr
	Pods netip.Prefix
}

// mac is the same for a node wherever it is computed.
func (d Device) mac(node netip.Addr) net.HardwareAddr {
	sum := sha256.Sum256([]byte(d.Name + node.String()))
	m := net.HardwareAddr(sum[:6])
	m[0] = m[0]&^1 | 2 // individual, locally administered: IEEE 802, section 8.2
	return m
}

// Ensure makes the link, replacing one of other properties.
func (d Device) Ensure() (netlink.Link, error) {
	want := &netlink.Vxlan{
		LinkAttrs: netlink.LinkAttrs{Name: d.Name, HardwareAddr: d.mac(d.Node), MTU: 1450},
		VxlanId:   d.ID, SrcAddr: net.IP(d.Node.AsSlice()), Port: d.Port, Learning: false,
	}
	if link, err := netlink.LinkByName(d.Name); err == nil {
		have, ok := link.(*netlink.Vxlan)
		if ok && have.VxlanId == d.ID && have.Port == d.Port && have.SrcAddr.Equal(want.SrcAddr) && have.HardwareAddr.String() == want.HardwareAddr.String() {
			return link, d.up(link)
		}
		if err := netlink.LinkDel(link); err != nil {
			return nil, fmt.Errorf("removing the old link %s: %w", d.Name, err)
		}
	}
	if err := netlink.LinkAdd(want); err != nil {
		return nil, fmt.Errorf("adding link %s: %w", d.Name, err)
	}
	link, err := netlink.LinkByName(d.Name)
	if err != nil {
		return nil, fmt.Errorf("adding link %s: %w", d.Name, err)
	}
	return link, d.up(link)
}

func (d Device) up(link netlink.Link) error {
	own := &netlink.Addr{IPNet: &net.IPNet{IP: net.IP(d.Pods.Addr().AsSlice()), Mask: net.CIDRMask(32, 32)}}
	if err := netlink.AddrReplace(link, own); err != nil {
		return fmt.Errorf("addressing link %s: %w", d.Name, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("setting link %s up: %w", d.Name, err)
	}
	return nil
}

// Sync makes exactly these peers reachable.
func (d Device) Sync(peers []Peer) error {
	link, err := d.Ensure()
	if err != nil {
		return err
	}
	index := link.Attrs().Index
	wanted := map[string]bool{}
	for _, p := range peers {
		gateway := net.IP(p.Pods.Addr().AsSlice())
		wanted[p.Pods.String()] = true
		for _, n := range []*netlink.Neigh{
			{LinkIndex: index, State: unix.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: gateway, HardwareAddr: d.mac(p.Node)},
			{LinkIndex: index, State: unix.NUD_PERMANENT, Family: unix.AF_BRIDGE, Flags: unix.NTF_SELF, IP: net.IP(p.Node.AsSlice()), HardwareAddr: d.mac(p.Node)},
		} {
			if err := netlink.NeighSet(n); err != nil {
				return fmt.Errorf("noting neighbour %s: %w", p.Node, err)
			}
		}
		dst := &net.IPNet{IP: gateway, Mask: net.CIDRMask(p.Pods.Bits(), 32)}
		if err := netlink.RouteReplace(&netlink.Route{LinkIndex: index, Dst: dst, Gw: gateway, Flags: int(netlink.FLAG_ONLINK)}); err != nil {
			return fmt.Errorf("routing %s to %s: %w", p.Pods, p.Node, err)
		}
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("listing routes of %s: %w", d.Name, err)
	}
	for _, r := range routes {
		if r.Gw != nil && r.Dst != nil && !wanted[r.Dst.String()] {
			if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("removing route %s: %w", r.Dst, err)
			}
		}
	}
	return nil
}

// Masquerade lets pods reach what is outside of the cluster under their node's
// address, by iptables rules in a chain of that name, and lets forwarded packets
// of pods pass.
func Masquerade(ctx context.Context, chain string, own, cluster netip.Prefix) error {
	nat, forward := chain+"-POSTRTG", chain+"-FWD"
	for _, args := range [][]string{
		{"-t", "nat", "-N", nat},
		{"-t", "nat", "-F", nat},
		{"-t", "filter", "-N", forward},
		{"-t", "filter", "-F", forward},
		{"-t", "nat", "-A", nat, "-s", own.String(), "!", "-d", cluster.String(), "-j", "MASQUERADE"},
		{"-t", "filter", "-A", forward, "-s", cluster.String(), "-j", "ACCEPT"},
		{"-t", "filter", "-A", forward, "-d", cluster.String(), "-j", "ACCEPT"},
	} {
		if err := iptables(ctx, args...); err != nil && args[2] != "-N" {
			return err
		}
	}
	for _, jump := range [][]string{{"nat", "POSTROUTING", nat}, {"filter", "FORWARD", forward}} {
		rule := []string{jump[1], "-j", jump[2]}
		if iptables(ctx, append([]string{"-t", jump[0], "-C"}, rule...)...) == nil {
			continue
		}
		if err := iptables(ctx, append([]string{"-t", jump[0], "-A"}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

func iptables(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "iptables", append([]string{"-w", "5"}, args...)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Plugins is the configuration of a pod network by the reference plugins
// (github.com/containernetworking/plugins): a bridge of that name per node.
func Plugins(network, bridge string, own netip.Prefix, cluster string) string {
	return fmt.Sprintf(`{
  "cniVersion": "1.0.0",
  "name": %q,
  "plugins": [
    {
      "type": "bridge", "bridge": %q, "isDefaultGateway": true, "hairpinMode": true, "mtu": 1450, "forceAddress": true,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": %q}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, network, bridge, own, cluster)
}
