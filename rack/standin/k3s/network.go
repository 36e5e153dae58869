package k3s

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/edge-provision/edge-provision/rack/standin/overlay"
)

// startNetwork stands in for K3s's flannel: a bridge per node, joined by VXLAN
// under flannel's names. It returns when the node has its configuration.
func (a *agent) startNetwork(ctx context.Context) error {
	client, err := clientOf(filepath.Join(a.dir, "k3scontroller.kubeconfig"))
	if err != nil {
		return err
	}
	cluster, err := netip.ParsePrefix(a.config.ClusterCIDR)
	if err != nil {
		return err
	}
	device := overlay.Device{Name: "flannel.1", ID: 1, Port: 8472, Node: a.ip}
	sync := func(ctx context.Context) error {
		nodes, err := client.CoreV1().Nodes().List(ctx, meta.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		var peers []overlay.Peer
		for _, n := range nodes.Items {
			pods, address, err := networkOf(n)
			if err != nil {
				continue
			}
			if n.Name == a.name {
				device.Pods = pods
				continue
			}
			peers = append(peers, overlay.Peer{Node: address, Pods: pods})
		}
		if !device.Pods.IsValid() {
			return fmt.Errorf("node %s has no pod network yet", a.name)
		}
		return device.Sync(peers)
	}
	limited, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	if err := until(limited, 500*time.Millisecond, sync); err != nil {
		return fmt.Errorf("starting the pod network: %w", err)
	}
	if err := overlay.Masquerade(ctx, "FLANNEL", device.Pods, cluster); err != nil {
		return fmt.Errorf("starting the pod network: %w", err)
	}
	path := filepath.Join(a.dir, "etc/cni/net.d/10-flannel.conflist")
	if err := os.WriteFile(path, []byte(overlay.Plugins("cbr0", "cni0", device.Pods, a.config.ClusterCIDR)), 0o600); err != nil {
		return err
	}
	go func() {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(nodeInterval):
				if err := sync(ctx); err != nil && ctx.Err() == nil {
					a.log.Warn("following the nodes' pod networks", "error", err)
				}
			}
		}
	}()
	return nil
}

var errNoNetwork = errors.New("the node has no pod network or no address")

func networkOf(n core.Node) (netip.Prefix, netip.Addr, error) {
	pods, err := netip.ParsePrefix(n.Spec.PodCIDR)
	if err != nil {
		return pods, netip.Addr{}, errNoNetwork
	}
	for _, a := range n.Status.Addresses {
		if a.Type == core.NodeInternalIP {
			address, err := netip.ParseAddr(a.Address)
			return pods, address, err
		}
	}
	return pods, netip.Addr{}, errNoNetwork
}
