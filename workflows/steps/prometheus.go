package steps

import (
	"context"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/addon/prometheus"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// prometheusType keeps a site's own monitoring.
var prometheusType = Type{
	Name: "prometheus",
	Shape: site.StepType{
		Spec: clusterSpec(hcldec.ObjectSpec{
			"image":                    attribute("image", cty.String, true),
			"node_exporter_image":      attribute("node_exporter_image", cty.String, true),
			"kube_state_metrics_image": attribute("kube_state_metrics_image", cty.String, true),
			"preloaded":                attribute("preloaded", cty.Bool, false),
			"namespace":                attribute("namespace", cty.String, false),
			"retention_days":           attribute("retention_days", cty.Number, false),
			"retention_bytes":          attribute("retention_bytes", cty.Number, false),
			"storage_class":            attribute("storage_class", cty.String, false),
			"ephemeral":                attribute("ephemeral", cty.Bool, false),
			"alertmanagers":            attribute("alertmanagers", cty.List(cty.String), false),
			"rules":                    attribute("rules", cty.Map(cty.String), false),
			"remote_write": &hcldec.BlockSpec{TypeName: "remote_write", Nested: hcldec.ObjectSpec{
				"url":   attribute("url", cty.String, true),
				"ca":    attribute("ca", cty.String, false),
				"token": attribute("token", cty.String, false),
				"keep":  attribute("keep", cty.String, false),
			}},
			"catalog": &hcldec.BlockSpec{TypeName: "catalog", Nested: hcldec.ObjectSpec{
				"url":   attribute("url", cty.String, true),
				"ca":    attribute("ca", cty.String, false),
				"token": attribute("token", cty.String, false),
			}},
		}),
		Outputs: map[string]cty.Type{"namespace": cty.String},
		CanUndo: true,
		Check:   checkPrometheus,
	},
	New:   newPrometheus,
	Needs: imageNeeds("image", "node_exporter_image", "kube_state_metrics_image"),
}

func checkPrometheus(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	diags := checkCluster(inputs, ranges)
	if plain, _ := inputs.UnmarkDeep(); !plain.IsWhollyKnown() {
		return diags
	}
	if err := prometheusConfig(inputs, "").Check(); err != nil {
		diags = append(diags, mistake(ranges, "image", "Invalid monitoring", upper(err.Error())+"."))
	}
	return diags
}

func prometheusConfig(inputs cty.Value, siteName string) prometheus.Config {
	c := prometheus.Config{
		Namespace: text(inputs, "namespace"), Site: siteName,
		Images: prometheus.Images{
			Prometheus: text(inputs, "image"), NodeExporter: text(inputs, "node_exporter_image"), KubeStateMetrics: text(inputs, "kube_state_metrics_image"),
		},
		RetentionDays: int(number(inputs, "retention_days")), RetentionBytes: number(inputs, "retention_bytes"),
		StorageClass: text(inputs, "storage_class"), Ephemeral: truth(inputs, "ephemeral"),
		Alertmanagers: textList(inputs, "alertmanagers"), Rules: textMap(inputs, "rules"),
	}
	if r, _ := inputs.GetAttr("remote_write").Unmark(); !r.IsNull() {
		c.RemoteWrite = &prometheus.RemoteWrite{URL: text(r, "url"), CA: text(r, "ca"), BearerToken: text(r, "token"), Keep: text(r, "keep")}
	}
	if r, _ := inputs.GetAttr("catalog").Unmark(); !r.IsNull() {
		c.Catalog = &prometheus.Catalog{URL: text(r, "url"), CA: text(r, "ca"), BearerToken: text(r, "token")}
	}
	return c
}

func newPrometheus(inputs cty.Value, env Env) (Step, error) {
	s, err := newClusterStep(inputs, env)
	if err != nil {
		return nil, err
	}
	config := prometheusConfig(inputs, env.Site)
	config.Preloaded = preloaded(inputs, env)
	s.set = func(context.Context) (kube.Set, error) { return config.Set() }
	s.verify = prometheus.Verifier{Cluster: s.cluster, Config: config, Clock: env.Clock, Say: env.Say}.Run
	s.outputs = func(context.Context) (map[string]cty.Value, error) {
		return map[string]cty.Value{"namespace": cty.StringVal(config.InNamespace())}, nil
	}
	return s, nil
}
