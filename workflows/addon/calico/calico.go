// Package calico declares Calico on K3s: Tigera's operator with what upstream
// publishes for it, the Installation that suits K3s, and tenants, which are
// namespaces that cannot reach each other. It builds objects and reads statuses;
// workflows/kube applies and waits.
package calico

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// OperatorNamespace is where upstream's operator lives.
const OperatorNamespace = "tigera-operator"

// Config is what Calico is installed with.
type Config struct {
	// Upstream is what the release publishes: the operator's Deployment with
	// its rights, and the CRDs. Custom resources in it are left out: this
	// package declares them.
	Upstream []kube.Object
	// Version is Calico's, such as v3.32.1; it names the ImageSet.
	Version string
	// PodCIDR is the cluster's, which the IP pool must equal.
	PodCIDR netip.Prefix
	// NodeCIDR is the network by whose addresses nodes reach each other. A
	// machine with several ports would otherwise take the first it finds.
	NodeCIDR netip.Prefix
	// Encapsulation is VXLAN when empty; see CheckEncapsulation.
	Encapsulation string
	// Registry replaces upstream's, as host[:port]/path; empty keeps it.
	Registry string
	// Images are digests (sha256:…) by image name, such as calico/node. With
	// any, the operator runs only what they name.
	Images map[string]string
	// Tenants are namespaces that are isolated from each other.
	Tenants []string
}

// Set is all objects of an installation.
func (c Config) Set() (kube.Set, error) {
	if err := c.check(); err != nil {
		return kube.Set{}, err
	}
	objects := []kube.Object{kube.Make("v1", "Namespace", "", OperatorNamespace, map[string]any{
		"metadata": map[string]any{"labels": map[string]any{
			"name": OperatorNamespace, "pod-security.kubernetes.io/enforce": "privileged",
		}},
	})}
	for _, o := range c.Upstream {
		if !c.declares(o) {
			objects = append(objects, o)
		}
	}
	objects = append(objects, c.installation(), apiServer())
	if len(c.Images) > 0 {
		objects = append(objects, c.imageSet())
	}
	objects = append(objects, c.tenants()...)
	return kube.NewSet(objects...)
}

func (c Config) check() error {
	var errs []error
	if !c.PodCIDR.IsValid() {
		errs = append(errs, errors.New("calico: the pods' network is not known; a k3s step gives it as cluster_cidr"))
	}
	if c.NodeCIDR.IsValid() && c.NodeCIDR.Overlaps(c.PodCIDR) {
		errs = append(errs, fmt.Errorf("calico: the pods' network %s overlaps %s, the machines' own", c.PodCIDR, c.NodeCIDR))
	}
	if err := CheckEncapsulation(c.Encapsulation); err != nil {
		errs = append(errs, fmt.Errorf("calico: %w", err))
	}
	for _, kind := range []string{"Deployment", "CustomResourceDefinition"} {
		if !slices.ContainsFunc(c.Upstream, func(o kube.Object) bool { return o.GetKind() == kind }) {
			errs = append(errs, fmt.Errorf("calico: the upstream manifests hold no %s: both the operator and its CRDs are needed, which upstream publishes apart", kind))
		}
	}
	return errors.Join(errs...)
}

// CheckEncapsulation says what is wrong with Config.Encapsulation. VXLANCrossSubnet does
// without between nodes of one subnet; None, or IPIP, the operator takes only where there
// is BGP (tigera/operator, validateCustomResource).
func CheckEncapsulation(name string) error {
	if !slices.Contains([]string{"", "VXLAN", "VXLANCrossSubnet"}, name) {
		return fmt.Errorf("encapsulation %q is not VXLAN, nor VXLANCrossSubnet, which wraps nothing between nodes of one subnet", name)
	}
	return nil
}

// declares reports whether an upstream object is one that this package makes
// itself, or a hook of the chart: removal is done in order, without it.
func (c Config) declares(o kube.Object) bool {
	if o.GetAnnotations()["helm.sh/hook"] != "" {
		return true
	}
	group, _, _ := strings.Cut(o.GetAPIVersion(), "/")
	return group == "operator.tigera.io" || o.GetKind() == "Namespace" && o.GetName() == OperatorNamespace
}

// installation is the operator's order. Source: Calico's Installation reference
// and its K3s page; containerIPForwarding is what that page leaves out and
// ServiceLB and Traefik need.
func (c Config) installation() kube.Object {
	network := map[string]any{
		"bgp":                   "Disabled",
		"containerIPForwarding": "Enabled",
		"linuxDataplane":        "Iptables",
		"ipPools": []any{map[string]any{
			"name": "default-ipv4-ippool", "cidr": c.PodCIDR.String(), "encapsulation": cmp.Or(c.Encapsulation, "VXLAN"),
			"natOutgoing": "Enabled", "nodeSelector": "all()", "blockSize": int64(26),
		}},
	}
	if c.NodeCIDR.IsValid() {
		network["nodeAddressAutodetectionV4"] = map[string]any{"cidrs": []any{c.NodeCIDR.Masked().String()}}
	}
	spec := map[string]any{
		"calicoNetwork": network,
		// K3s keeps its kubelet elsewhere, and no FlexVolume is wanted.
		"kubeletVolumePluginPath": "None",
	}
	if c.Registry != "" {
		// The operator puts image names right behind it.
		spec["registry"] = strings.TrimSuffix(c.Registry, "/") + "/"
	}
	return kube.Make("operator.tigera.io/v1", "Installation", "", "default", map[string]any{"spec": spec})
}

// apiServer serves projectcalico.org/v3, which people with kubectl expect.
func apiServer() kube.Object {
	return kube.Make("operator.tigera.io/v1", "APIServer", "", "default", map[string]any{"spec": map[string]any{}})
}

// imageSet pins what the operator runs. Its name must be calico- and the
// version, or the operator does not look at it.
func (c Config) imageSet() kube.Object {
	var images []any
	for _, name := range sortedKeys(c.Images) {
		images = append(images, map[string]any{"image": name, "digest": c.Images[name]})
	}
	return kube.Make("operator.tigera.io/v1", "ImageSet", "", "calico-"+c.Version, map[string]any{"spec": map[string]any{"images": images}})
}
