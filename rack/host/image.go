package host

import (
	"context"
	"fmt"

	"github.com/edge-provision/edge-provision/imagebuilder"
)

// Packages are what a host needs beside the base system of an image to be a
// node of a cluster with the stand-in for K3s: the container runtime and the
// programs that kubelet, kube-proxy and network plugins run.
func Packages() []string {
	return []string{
		"conntrack", "containerd", "containernetworking-plugins", "ethtool", "iptables", "nftables", "openssh-server", "runc", "socat",
	}
}

// Image returns the image that hosts start from: Debian bookworm with Packages,
// made by imagebuilder or found in its cache. A first build takes about a
// minute. It is what a site.hcl with this image block asks for:
//
//	image "node" {
//	  distribution = "debian"
//	  release      = "bookworm"
//	  kernel       = "cloud"
//	  packages     = […]  # Packages
//	}
func Image(ctx context.Context, builder *imagebuilder.Builder) (imagebuilder.Artifact, error) {
	a, err := builder.BuildOS(ctx, imagebuilder.OSSpec{Release: "bookworm", Kernel: "cloud", Packages: Packages()})
	if err != nil {
		return imagebuilder.Artifact{}, fmt.Errorf("making the hosts' image: %w", err)
	}
	return a, nil
}
