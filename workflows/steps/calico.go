package steps

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/workflows/addon/calico"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// calicoType installs Calico and keeps tenants apart.
var calicoType = Type{
	Name: "calico",
	Shape: site.StepType{
		Spec: clusterSpec(hcldec.ObjectSpec{
			"version":       attribute("version", cty.String, true),
			"manifest":      manifestBlocks(1),
			"pod_cidr":      attribute("pod_cidr", cty.String, false),
			"node_cidr":     attribute("node_cidr", cty.String, false),
			"encapsulation": attribute("encapsulation", cty.String, false),
			"registry":      attribute("registry", cty.String, false),
			"images":        attribute("images", cty.Map(cty.String), false),
			"tenants":       attribute("tenants", cty.List(cty.String), false),
			"probe_image":   attribute("probe_image", cty.String, false),
		}),
		Outputs: map[string]cty.Type{"version": cty.String, "tenants": cty.List(cty.String)},
		Check:   checkCalico,
	},
	New:   newCalico,
	Needs: allNeeds(listedFiles, imageNeeds("probe_image")),
}

// k3sBusyBox is the image with a shell that K3s's own air-gap images hold.
const k3sBusyBox = "docker.io/rancher/mirrored-library-busybox:1.37.0"

// namespacePattern is an RFC 1123 label.
var namespacePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// statusBound is how long an operator may take to bring its parts up on a small
// machine, images and all.
const statusBound = 15 * time.Minute

func checkCalico(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	diags := checkCluster(inputs, ranges)
	for _, name := range []string{"pod_cidr", "node_cidr"} {
		v, _ := inputs.GetAttr(name).Unmark()
		if v.IsKnown() && !v.IsNull() {
			if _, err := parseCIDR(v.AsString()); err != nil {
				diags = append(diags, mistake(ranges, name, "Invalid network", upper(err.Error())+"."))
			}
		}
	}
	if v, _ := inputs.GetAttr("encapsulation").Unmark(); v.IsKnown() && !v.IsNull() {
		if err := calico.CheckEncapsulation(v.AsString()); err != nil {
			diags = append(diags, mistake(ranges, "encapsulation", "Encapsulation that Calico does not have here", upper(err.Error())+"."))
		}
	}
	tenants, _ := inputs.GetAttr("tenants").UnmarkDeep()
	if tenants.IsWhollyKnown() && !tenants.IsNull() {
		seen := map[string]bool{}
		for _, t := range tenants.AsValueSlice() {
			switch name := t.AsString(); {
			case !namespacePattern.MatchString(name):
				diags = append(diags, mistake(ranges, "tenants", "Invalid namespace",
					fmt.Sprintf("%q is no name of a namespace: lower-case letters, digits and hyphens, at most 63 of them.", name)))
			case seen[name]:
				diags = append(diags, mistake(ranges, "tenants", "Tenant named twice", fmt.Sprintf("%q is named twice.", name)))
			case name == "default" || name == "kube-system" || name == "kube-public" || name == "kube-node-lease":
				diags = append(diags, mistake(ranges, "tenants", "Namespace cannot be a tenant",
					fmt.Sprintf("%q belongs to the cluster; isolating it would cut the cluster off from itself.", name)))
			default:
				seen[name] = true
			}
		}
	}
	return diags
}

// calicoStep is the inputs of one calico step.
type calicoStep struct {
	*clusterStep
	inputs cty.Value
	config calico.Config
	image  string // of the probe
}

func newCalico(inputs cty.Value, env Env) (Step, error) {
	base, err := newClusterStep(inputs, env)
	if err != nil {
		return nil, err
	}
	s := &calicoStep{clusterStep: base, inputs: inputs, image: cmp.Or(text(inputs, "probe_image"), k3sBusyBox)}
	s.config = calico.Config{
		Version: text(inputs, "version"), Encapsulation: text(inputs, "encapsulation"),
		Registry: text(inputs, "registry"), Images: textMap(inputs, "images"), Tenants: textList(inputs, "tenants"),
	}
	for name, into := range map[string]*netip.Prefix{"pod_cidr": &s.config.PodCIDR, "node_cidr": &s.config.NodeCIDR} {
		if v := text(inputs, name); v != "" {
			if *into, err = parseCIDR(v); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if v := clusterOutput(inputs, "cluster_cidr"); v != "" && !s.config.PodCIDR.IsValid() {
		if s.config.PodCIDR, err = parseCIDR(v); err != nil {
			return nil, fmt.Errorf("the cluster's cluster_cidr: %w", err)
		}
	}
	s.set, s.verify = s.objects, s.works
	s.outputs = func(context.Context) (map[string]cty.Value, error) {
		return map[string]cty.Value{"version": cty.StringVal(s.config.Version), "tenants": stringList(s.config.Tenants)}, nil
	}
	return s, nil
}

func (s *calicoStep) objects(ctx context.Context) (kube.Set, error) {
	if s.config.Upstream == nil {
		upstream, err := readObjects(ctx, s.env.Artifacts, fileRefs(s.inputs.GetAttr("manifest")))
		if err != nil {
			return kube.Set{}, err
		}
		s.config.Upstream = upstream
	}
	return s.config.Set()
}

// works asks the operator, the nodes and then the pods themselves.
func (s *calicoStep) works(ctx context.Context) error {
	for _, name := range calico.Statuses {
		_, err := s.cluster.WaitFor(ctx, "operator.tigera.io/v1", "TigeraStatus", "", name, statusBound, func(o kube.Object) (kube.Status, error) {
			err := calico.Ready(o)
			if err == nil {
				return kube.Status{Done: true}, nil
			}
			return kube.Status{Reason: err.Error()}, nil
		})
		if err != nil {
			return err
		}
	}
	if err := nodesReady(ctx, s.cluster); err != nil {
		return err
	}
	probe := calico.Probe{
		Cluster: s.cluster, Tenants: s.config.Tenants, Image: s.image, Owner: s.opts.Owner, Now: s.env.Clock.Now, Say: s.env.Say,
	}
	if err := probe.Run(ctx); err != nil {
		return fmt.Errorf("asking pods who reaches whom: %w", err)
	}
	return nil
}

// nodesReady waits until every node is ready.
func nodesReady(ctx context.Context, cluster *kube.Cluster) error {
	nodes, err := cluster.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return errors.New("the cluster has no nodes")
	}
	for _, node := range nodes {
		_, err := cluster.WaitFor(ctx, "v1", "Node", "", node.GetName(), statusBound, nodeReady)
		if err != nil {
			return err
		}
	}
	return nil
}

// nodeReady reads the condition of a node.
func nodeReady(node kube.Object) (kube.Status, error) {
	conditions, _, _ := unstructured.NestedSlice(node.Object, "status", "conditions")
	for _, c := range conditions {
		if m, ok := c.(map[string]any); ok && m["type"] == "Ready" {
			return kube.Status{Done: m["status"] == "True", Reason: fmt.Sprintf("Ready is %v: %v", m["status"], m["message"])}, nil
		}
	}
	return kube.Status{Reason: "it has not reported whether it is ready"}, nil
}

// stringList is a list value; an empty one has its type, too.
func stringList(s []string) cty.Value {
	if len(s) == 0 {
		return cty.ListValEmpty(cty.String)
	}
	out := make([]cty.Value, len(s))
	for i, e := range s {
		out[i] = cty.StringVal(e)
	}
	return cty.ListVal(out)
}
