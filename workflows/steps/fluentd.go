package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/addon/fluentd"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
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
}

func newFluentd(inputs cty.Value, env Env) (Step, error) {
	base, err := newClusterStep(inputs, env)
	if err != nil {
		return nil, err
	}
	s := &fluentdStep{clusterStep: base, config: fluentdConfig(inputs, env.Site), ask: text(inputs, "verify_url")}
	s.config.Preloaded = preloaded(inputs, env)
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
