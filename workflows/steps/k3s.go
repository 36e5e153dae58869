package steps

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/k3s"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// k3sType keeps a K3s cluster as declared.
var k3sType = Type{
	Name: "k3s",
	Shape: site.StepType{
		Spec: hcldec.ObjectSpec{
			"version":         attribute("version", cty.String, true),
			"servers":         attribute("servers", cty.DynamicPseudoType, true),
			"agents":          attribute("agents", cty.DynamicPseudoType, false),
			"binary":          fileBlock("binary", true),
			"images":          &hcldec.BlockListSpec{TypeName: "images", Nested: fileSpec},
			"cluster_cidr":    attribute("cluster_cidr", cty.String, false),
			"service_cidr":    attribute("service_cidr", cty.String, false),
			"tls_san":         attribute("tls_san", cty.List(cty.String), false),
			"disable":         attribute("disable", cty.List(cty.String), false),
			"cni":             attribute("cni", cty.String, false),
			"flannel_backend": attribute("flannel_backend", cty.String, false),
			"profile":         attribute("profile", cty.String, false),
			"unrestricted":    attribute("unrestricted", cty.List(cty.String), false),
			"labels":          attribute("labels", cty.Map(cty.String), false),
			"taints":          attribute("taints", cty.List(cty.String), false),
			"registries":      attribute("registries", cty.String, false),
			"replace":         attribute("replace", cty.List(cty.String), false),
			"drain_timeout":   attribute("drain_timeout", cty.String, false),
			"start_timeout":   attribute("start_timeout", cty.String, false),
			"snapshots": &hcldec.BlockSpec{TypeName: "snapshots", Nested: hcldec.ObjectSpec{
				"schedule":  attribute("schedule", cty.String, false),
				"retention": attribute("retention", cty.Number, false),
				"named":     attribute("named", cty.List(cty.String), false),
			}},
			"node": &hcldec.BlockListSpec{TypeName: "node", Nested: hcldec.ObjectSpec{
				"machine": attribute("machine", cty.DynamicPseudoType, true),
				"labels":  attribute("labels", cty.Map(cty.String), false),
				"taints":  attribute("taints", cty.List(cty.String), false),
			}},
		},
		Outputs: map[string]cty.Type{
			"kubeconfig": cty.String, "server_token": cty.String, "agent_token": cty.String,
			"version": cty.String, "nodes": cty.Map(cty.String), "cluster_cidr": cty.String, "service_cidr": cty.String,
			"endpoint": cty.String, "endpoints": cty.List(cty.String),
		},
		Sensitive: []string{"kubeconfig", "server_token", "agent_token"},
		Check:     checkK3s,
	},
	New: newK3s,
}

// fileSpec is a file that is brought to machines: where it comes from, and what
// it must be.
var fileSpec = hcldec.ObjectSpec{
	"source": attribute("source", cty.String, true),
	"sha256": attribute("sha256", cty.String, true),
}

func fileBlock(name string, required bool) hcldec.Spec {
	return &hcldec.BlockSpec{TypeName: name, Nested: fileSpec, Required: required}
}

var (
	digestPattern   = regexp.MustCompile(`^[0-9a-f]{64}$`)
	taintPattern    = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9./_-]*[A-Za-z0-9])?(=[A-Za-z0-9._-]*)?:(NoSchedule|PreferNoSchedule|NoExecute)$`)
	snapshotPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,62}$`)
)

// scheduledSnapshots is how the names of those begin that K3s takes by itself, and
// removes by that when there are too many (k3s pkg/etcd/snapshot.go).
const scheduledSnapshots = "etcd-snapshot"

// checkK3s finds what can be known to be wrong before anything is.
func checkK3s(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	var diags hcl.Diagnostics
	add := func(attribute, summary, format string, args ...any) {
		diags = append(diags, mistake(ranges, attribute, summary, fmt.Sprintf(format, args...)))
	}
	str := func(v cty.Value, name string) (string, bool) {
		if !v.IsKnown() || v.IsNull() {
			return "", false
		}
		a, _ := v.GetAttr(name).Unmark()
		if !a.IsKnown() || a.IsNull() {
			return "", false
		}
		return a.AsString(), true
	}
	list := func(v cty.Value, name string) []string {
		a, _ := v.GetAttr(name).UnmarkDeep()
		var out []string
		if a.IsKnown() && !a.IsNull() {
			for _, e := range a.AsValueSlice() {
				if e.IsKnown() && !e.IsNull() {
					out = append(out, e.AsString())
				}
			}
		}
		return out
	}
	inputs, _ = inputs.Unmark()
	if v, ok := str(inputs, "version"); ok {
		if _, err := k3s.ParseVersion(v); err != nil {
			add("version", "Invalid version", "%s.", upper(err.Error()))
		}
	}
	if servers := inputs.GetAttr("servers"); servers.IsWhollyKnown() {
		addresses := site.References(servers)
		if err := k3s.CheckServers(len(addresses)); err != nil {
			add("servers", "Wrong number of servers", "%s.", upper(err.Error()))
		}
		if agents := inputs.GetAttr("agents"); agents.IsWhollyKnown() {
			for _, a := range site.References(agents) {
				if slices.Contains(addresses, a) {
					add("agents", "Machine declared twice", "%s is a server and an agent; it can be one of them. A server runs pods, too.", a)
				}
			}
		}
	}
	prefixes := map[string]netip.Prefix{"cluster_cidr": k3s.DefaultClusterCIDR, "service_cidr": k3s.DefaultServiceCIDR}
	for _, name := range []string{"cluster_cidr", "service_cidr"} {
		if v, ok := str(inputs, name); ok {
			p, err := parseCIDR(v)
			if err != nil {
				add(name, "Invalid network", "%s.", upper(err.Error()))
				return diags
			}
			prefixes[name] = p
		}
	}
	if prefixes["cluster_cidr"].Overlaps(prefixes["service_cidr"]) {
		add("cluster_cidr", "Networks overlap", "The networks of pods, %s, and of services, %s, overlap. Each needs one of its own.", prefixes["cluster_cidr"], prefixes["service_cidr"])
	}
	for name, choices := range map[string][]string{
		"cni": {"flannel", "calico", "none"}, "profile": {"cis"}, "flannel_backend": {"vxlan", "host-gw", "wireguard-native"},
	} {
		if v, ok := str(inputs, name); ok && !slices.Contains(choices, v) {
			add(name, "Unknown value", "%q is not known for %s; it is one of: %s.", v, name, strings.Join(choices, ", "))
		}
	}
	if cni, ok := str(inputs, "cni"); ok && cni != "flannel" {
		if _, set := str(inputs, "flannel_backend"); set {
			add("flannel_backend", "Unused argument", "With cni = %q there is no Flannel, so that it has no backend.", cni)
		}
	}
	files := []cty.Value{inputs.GetAttr("binary")}
	if images := inputs.GetAttr("images"); images.IsKnown() && !images.IsNull() {
		files = append(files, images.AsValueSlice()...)
	}
	for _, f := range files {
		f, _ = f.Unmark()
		if v, ok := str(f, "sha256"); ok && !digestPattern.MatchString(v) {
			add("binary", "Invalid digest", "%q is not a SHA-256 digest: 64 hexadecimal digits in lower case, as in the release's sha256sum-*.txt.", v)
		}
	}
	taints := func(attribute string, of cty.Value) {
		for _, t := range list(of, "taints") {
			if !taintPattern.MatchString(t) {
				add(attribute, "Invalid taint", "%q is not a taint; write it like key=value:NoSchedule.", t)
			}
		}
	}
	taints("taints", inputs)
	if nodes, _ := inputs.GetAttr("node").Unmark(); nodes.IsKnown() && !nodes.IsNull() {
		for _, n := range nodes.AsValueSlice() {
			if n, _ := n.Unmark(); n.IsKnown() && !n.IsNull() {
				taints("node", n)
			}
		}
	}
	for _, name := range []string{"drain_timeout", "start_timeout"} {
		if v, ok := str(inputs, name); ok {
			if d, err := site.ParseDuration(v); err != nil || d < time.Second || d > 24*time.Hour {
				add(name, "Invalid duration", "%q is not a duration between 1s and 24h; write it like 5m.", v)
			}
		}
	}
	if s, _ := inputs.GetAttr("snapshots").Unmark(); s.IsKnown() && !s.IsNull() {
		for _, n := range list(s, "named") {
			if !snapshotPattern.MatchString(n) {
				add("snapshots", "Invalid name", "%q cannot be the name of a snapshot: use lower-case letters, digits and hyphens.", n)
			}
			if strings.HasPrefix(n, scheduledSnapshots) {
				add("snapshots", "Invalid name", "%q begins like the names of scheduled snapshots: K3s would remove it as one of them. Use another name.", n)
			}
		}
	}
	return diags
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// parseCIDR reads an IPv4 network.
func parseCIDR(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, fmt.Errorf("%q is not an IPv4 network such as 10.42.0.0/16", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits after its prefix; write %s", s, p.Masked())
	}
	return p, nil
}

// k3sStep is one declared cluster.
type k3sStep struct {
	env     Env
	inputs  cty.Value
	config  k3s.Config
	servers []string
	agents  []string
}

func newK3s(inputs cty.Value, env Env) (Step, error) {
	s := &k3sStep{env: env, inputs: inputs}
	var err error
	if s.servers, err = machines(inputs.GetAttr("servers")); err != nil {
		return nil, fmt.Errorf("servers: %w", err)
	}
	s.agents = site.References(inputs.GetAttr("agents"))
	plain, _ := inputs.UnmarkDeep()
	c := &s.config
	if c.Version, err = k3s.ParseVersion(text(plain, "version")); err != nil {
		return nil, err
	}
	*c = k3s.Config{
		Owner: env.Address, Version: c.Version, Recorded: env.Applied != "",
		Binary: fileRef(plain.GetAttr("binary")), TLSSAN: texts(plain, "tls_san"), Disable: texts(plain, "disable"),
		CNI: k3s.CNI(text(plain, "cni")), FlannelBackend: text(plain, "flannel_backend"), Profile: k3s.Profile(text(plain, "profile")),
		Unrestricted: texts(plain, "unrestricted"), Registries: text(plain, "registries"), Replace: texts(plain, "replace"),
		Hosts: env.Hosts, Artifacts: env.Artifacts, Clock: env.Clock, Say: env.Say,
	}
	for _, f := range plain.GetAttr("images").AsValueSlice() {
		c.Images = append(c.Images, fileRef(f))
	}
	c.Images = append(c.Images, env.Preload...)
	for name, to := range map[string]*netip.Prefix{"cluster_cidr": &c.ClusterCIDR, "service_cidr": &c.ServiceCIDR} {
		if v := text(plain, name); v != "" {
			if *to, err = parseCIDR(v); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	for name, to := range map[string]*time.Duration{"drain_timeout": &c.DrainTimeout, "start_timeout": &c.StartTimeout} {
		if v := text(plain, name); v != "" {
			if *to, err = site.ParseDuration(v); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	if v := plain.GetAttr("snapshots"); !v.IsNull() {
		c.Snapshots = k3s.Snapshots{Schedule: text(v, "schedule"), Named: texts(v, "named")}
		if n := v.GetAttr("retention"); !n.IsNull() {
			retention, _ := n.AsBigFloat().Int64()
			c.Snapshots.Retention = int(retention)
		}
	}
	return s, nil
}

func fileRef(v cty.Value) artifact.Ref {
	return artifact.Ref{Source: text(v, "source"), SHA256: text(v, "sha256")}
}

// texts is a list of strings; nil for null.
func texts(inputs cty.Value, name string) []string {
	v, _ := inputs.GetAttr(name).UnmarkDeep()
	if v.IsNull() {
		return nil
	}
	var out []string
	for _, e := range v.AsValueSlice() {
		if !e.IsNull() {
			out = append(out, e.AsString())
		}
	}
	return out
}

// cluster makes the declared cluster of what is known of its machines by now.
func (s *k3sStep) cluster(ctx context.Context) (*k3s.Cluster, error) {
	c := s.config
	for _, of := range []struct {
		machines []string
		to       *[]k3s.Node
	}{{s.servers, &c.Servers}, {s.agents, &c.Agents}} {
		for _, machine := range of.machines {
			n, err := s.node(ctx, machine)
			if err != nil {
				return nil, err
			}
			*of.to = append(*of.to, n)
		}
	}
	cluster, err := k3s.New(c)
	return cluster, final(err)
}

// node is one machine's part, with its own labels and taints beside those of
// all nodes.
func (s *k3sStep) node(ctx context.Context, machine string) (k3s.Node, error) {
	info, err := s.env.Machines.Machine(ctx, machine)
	if err != nil {
		return k3s.Node{}, err
	}
	n := k3s.Node{Machine: machine, Name: strings.ToLower(info.Hostname), IP: info.IP, Labels: map[string]string{}}
	plain, _ := s.inputs.UnmarkDeep()
	add := func(v cty.Value) {
		for k, e := range textMap(v, "labels") {
			n.Labels[k] = e
		}
		n.Taints = append(n.Taints, texts(v, "taints")...)
	}
	add(plain)
	for _, v := range plain.GetAttr("node").AsValueSlice() {
		if slices.Contains(site.References(v.GetAttr("machine")), machine) {
			add(v)
		}
	}
	return n, nil
}

// final marks what no repetition mends.
func final(err error) error {
	var refused *k3s.RefusedError
	var key *remote.HostKeyError
	var auth *remote.AuthError
	if errors.As(err, &refused) || errors.As(err, &key) || errors.As(err, &auth) {
		return workflows.GiveUp(err)
	}
	return err
}

// Inspect implements Step.
func (s *k3sStep) Inspect(ctx context.Context) (Finding, error) {
	c, err := s.cluster(ctx)
	if err != nil {
		return unreachable(err)
	}
	r, err := c.Inspect(ctx)
	switch {
	case err != nil:
		f, err := unreachable(err)
		return f, final(err)
	case r.Unreachable != "":
		return Finding{Presence: workflows.Unreachable, Detail: r.Unreachable}, nil
	case r.Absent:
		return Finding{Presence: workflows.Absent, Changes: r.Changes}, nil
	}
	return Finding{Presence: workflows.Present, Changes: r.Changes}, nil
}

// Do implements Step.
func (s *k3sStep) Do(ctx context.Context) (cty.Value, error) {
	c, err := s.cluster(ctx)
	if err != nil {
		return cty.NilVal, err
	}
	out, err := c.Apply(ctx)
	if err != nil {
		return cty.NilVal, final(err)
	}
	nodes := map[string]cty.Value{}
	for machine, name := range out.Nodes {
		nodes[machine] = cty.StringVal(name)
	}
	var endpoints []cty.Value
	for _, e := range out.Endpoints {
		endpoints = append(endpoints, cty.StringVal(e))
	}
	secret := func(v string) cty.Value { return cty.StringVal(v).Mark(site.Sensitive) }
	return cty.ObjectVal(map[string]cty.Value{
		"kubeconfig": secret(out.Kubeconfig), "server_token": secret(out.ServerToken), "agent_token": secret(out.AgentToken),
		"version": cty.StringVal(out.Version), "nodes": cty.MapVal(nodes),
		"cluster_cidr": cty.StringVal(out.ClusterCIDR.String()), "service_cidr": cty.StringVal(out.ServiceCIDR.String()),
		"endpoint": cty.StringVal(out.Endpoint), "endpoints": cty.ListVal(endpoints),
	}), nil
}

// Verify implements Step.
func (s *k3sStep) Verify(ctx context.Context) error {
	c, err := s.cluster(ctx)
	if err != nil {
		return err
	}
	return c.Verify(ctx)
}

// Loss implements Remover.
func (s *k3sStep) Loss(ctx context.Context) ([]string, error) {
	c, err := s.cluster(ctx)
	if err != nil {
		return nil, err
	}
	return c.Loss(ctx)
}

// Remove implements Remover.
func (s *k3sStep) Remove(ctx context.Context, data bool) error {
	c, err := s.cluster(ctx)
	if err != nil {
		return err
	}
	return c.Remove(ctx, data)
}
