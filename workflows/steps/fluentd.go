package steps

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/addon/fluentd"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// fluentdType ships the logs of all nodes.
var fluentdType = Type{
	Name: "fluentd",
	Shape: site.StepType{
		Spec: clusterSpec(hcldec.ObjectSpec{
			"image":      attribute("image", cty.String, true),
			"preloaded":  attribute("preloaded", cty.Bool, false),
			"namespace":  attribute("namespace", cty.String, false),
			"verify_url": attribute("verify_url", cty.String, false),
			"forward": &hcldec.BlockSpec{TypeName: "forward", Nested: hcldec.ObjectSpec{
				"host":       attribute("host", cty.String, true),
				"port":       attribute("port", cty.Number, false),
				"ca":         attribute("ca", cty.String, false),
				"plaintext":  attribute("plaintext", cty.Bool, false),
				"shared_key": attribute("shared_key", cty.String, false),
			}},
			"http": &hcldec.BlockSpec{TypeName: "http", Nested: hcldec.ObjectSpec{
				"url":           attribute("url", cty.String, true),
				"ca":            attribute("ca", cty.String, false),
				"authorization": attribute("authorization", cty.String, false),
			}},
			"buffer": &hcldec.BlockSpec{TypeName: "buffer", Nested: hcldec.ObjectSpec{
				"limit_bytes":   attribute("limit_bytes", cty.Number, false),
				"drop_oldest":   attribute("drop_oldest", cty.Bool, false),
				"flush_seconds": attribute("flush_seconds", cty.Number, false),
			}},
		}),
		Outputs: map[string]cty.Type{"namespace": cty.String},
		CanUndo: true,
		Check:   checkFluentd,
	},
	New:   newFluentd,
	Needs: imageNeeds("image"),
}

// imageNeeds lists the container images that a step's attributes name.
func imageNeeds(names ...string) func(cty.Value) (artifact.Needs, error) {
	return func(inputs cty.Value) (artifact.Needs, error) {
		var out artifact.Needs
		for _, name := range names {
			if v := inputs.GetAttr(name); v.IsKnown() && !v.IsNull() {
				out.Images = append(out.Images, artifact.Image{Name: v.AsString()})
			}
		}
		return out, nil
	}
}

func checkFluentd(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	diags := checkCluster(inputs, ranges)
	if plain, _ := inputs.UnmarkDeep(); !plain.IsWhollyKnown() {
		return diags
	}
	if err := fluentdConfig(inputs, "").Check(); err != nil {
		diags = append(diags, mistake(ranges, "image", "Invalid log shipping", upper(err.Error())+"."))
	}
	return diags
}

func fluentdConfig(inputs cty.Value, siteName string) fluentd.Config {
	c := fluentd.Config{
		Namespace: text(inputs, "namespace"), Site: siteName, Image: text(inputs, "image"),
	}
	if f, _ := inputs.GetAttr("forward").Unmark(); !f.IsNull() {
		c.Sink.Forward = &fluentd.Forward{
			Host: text(f, "host"), Port: int(number(f, "port")), CA: text(f, "ca"), Plaintext: truth(f, "plaintext"), SharedKey: text(f, "shared_key"),
		}
	}
	if h, _ := inputs.GetAttr("http").Unmark(); !h.IsNull() {
		c.Sink.HTTP = &fluentd.HTTP{URL: text(h, "url"), CA: text(h, "ca"), Authorization: text(h, "authorization")}
	}
	if b, _ := inputs.GetAttr("buffer").Unmark(); !b.IsNull() {
		c.Buffer = fluentd.Buffer{LimitBytes: number(b, "limit_bytes"), DropOldest: truth(b, "drop_oldest"), FlushSeconds: int(number(b, "flush_seconds"))}
	}
	return c
}

// fluentdStep is the inputs of one fluentd step.
type fluentdStep struct {
	*clusterStep
	config fluentd.Config
	ask    string // where the sink tells whether a marker has arrived
	// machines are those of the cluster's nodes, as far as the cluster is a k3s step's.
	machines []string
}

func newFluentd(inputs cty.Value, env Env) (Step, error) {
	base, err := newClusterStep(inputs, env)
	if err != nil {
		return nil, err
	}
	s := &fluentdStep{clusterStep: base, config: fluentdConfig(inputs, env.Site), ask: text(inputs, "verify_url")}
	s.config.Preloaded = preloaded(inputs, env)
	if cluster, _ := inputs.GetAttr("cluster").UnmarkDeep(); cluster.Type().HasAttribute("nodes") && cluster.GetAttr("nodes").Type().Equals(cty.Map(cty.String)) {
		s.machines = slices.Sorted(maps.Keys(textMap(cluster, "nodes")))
	}
	s.set = func(context.Context) (kube.Set, error) { return s.config.Set() }
	s.verify = s.works
	s.outputs = func(context.Context) (map[string]cty.Value, error) {
		return map[string]cty.Value{"namespace": cty.StringVal(s.config.InNamespace())}, nil
	}
	return s, nil
}

// works sends one marked line from every node and looks where it arrives.
func (s *fluentdStep) works(ctx context.Context) error {
	marker := fluentd.Marker{
		Cluster: s.cluster, Config: s.config, Owner: s.opts.Owner, AskURL: s.ask, Clock: s.env.Clock, Say: s.env.Say,
	}
	err := marker.Run(ctx)
	var lost *fluentd.LostError
	if errors.As(err, &lost) && s.ask == "" {
		return fmt.Errorf("%w\nThe sink's own word would tell more: give verify_url", err)
	}
	return err
}

// Loss implements Remover: also the log lines that may wait on the nodes for the sink.
// Whether any do changes from one second to the next, and what is consented to must not.
func (s *fluentdStep) Loss(ctx context.Context) ([]string, error) {
	out, err := s.clusterStep.Loss(ctx)
	if err != nil {
		return nil, err
	}
	for _, m := range s.machines {
		there, err := s.found(ctx, m)
		switch {
		case err != nil:
			out = append(out, fmt.Sprintf("%s, which could not be asked: log lines that the sink has not acknowledged, if there are any in %s", m, fluentd.StateDir))
		case there:
			out = append(out, fmt.Sprintf("%s: log lines that the sink has not acknowledged, if there are any in %s", m, fluentd.StateDir))
		}
	}
	return out, nil
}

// Remove implements Remover. What waits for the sink stays on its node unless data is
// true, and the next installation sends it; a node where nothing waits keeps nothing.
func (s *fluentdStep) Remove(ctx context.Context, data bool) error {
	if err := s.clusterStep.Remove(ctx, data); err != nil {
		return err
	}
	if len(s.machines) == 0 {
		return nil
	}
	if err := s.config.Ended(ctx, s.cluster, s.env.Clock); err != nil {
		return err
	}
	line := fluentd.EraseUnlessBuffered
	if data {
		line = fluentd.Erase
	}
	return onHosts(ctx, s.env.Hosts, s.machines, func(ctx context.Context, m string, h *remote.Host) error {
		if _, err := h.Run(ctx, remote.Command{Line: line}); err != nil {
			return fmt.Errorf("%s: removing %s: %w", m, fluentd.StateDir, err)
		}
		return nil
	})
}

// Undo implements Undoer. What holds data is left.
func (s *fluentdStep) Undo(ctx context.Context) error { return s.Remove(ctx, false) }

// found tells whether Fluentd has left anything on a machine.
func (s *fluentdStep) found(ctx context.Context, machine string) (bool, error) {
	h, err := s.env.Hosts.Host(ctx, machine)
	if err != nil {
		return false, err
	}
	defer h.Close()
	r, err := h.Run(ctx, remote.Command{Line: fluentd.Find})
	return r.Stdout != "", err
}
