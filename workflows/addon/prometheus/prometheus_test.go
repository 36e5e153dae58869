package prometheus

import (
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/workflows/addon/addontest"
)

func config() Config {
	return Config{
		Site: "store-0421", Preloaded: true,
		Images: Images{
			Prometheus: "quay.io/prometheus/prometheus:v3.14.0", NodeExporter: "quay.io/prometheus/node-exporter:v1.12.1",
			KubeStateMetrics: "registry.k8s.io/kube-state-metrics/kube-state-metrics:v2.20.0",
		},
		StorageClass: "local-path", Alertmanagers: []string{"alerts.example:9093"},
		RemoteWrite: &RemoteWrite{URL: "https://metrics.example/write", CA: "PEM", BearerToken: "hunter2"},
		Catalog:     &Catalog{URL: "https://172.22.0.1:8443/v1/prometheus/targets", CA: "PEM", BearerToken: "hunter3"},
		Rules:       map[string]string{"shop": "groups: [{name: shop, rules: []}]\n"},
	}
}

func TestSet(t *testing.T) {
	set, err := config().Set()
	if err != nil {
		t.Fatal(err)
	}
	addontest.Golden(t, "testdata/set.golden.yaml", set)
}

func TestFilesHoldNoSecret(t *testing.T) {
	files, err := config().files()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		if strings.Contains(text, "hunter") || strings.Contains(text, "PEM") {
			t.Errorf("%s holds a secret:\n%s", name, text)
		}
	}
}

func TestConfigIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"an image without a version", func(c *Config) { c.Images.NodeExporter = "node-exporter" }, "node_exporter"},
		{"a URL that is none", func(c *Config) { c.RemoteWrite.URL = "metrics.example" }, "remote_write"},
		{"too little room", func(c *Config) { c.RetentionBytes = 1 << 20 }, "256 MiB"},
		{"storage for nothing", func(c *Config) { c.Ephemeral = true }, "exclude each other"},
		{"rules without groups", func(c *Config) { c.Rules["shop"] = "rules: []" }, `rules "shop"`},
		{"rules that are no YAML", func(c *Config) { c.Rules["shop"] = "groups: [" }, `rules "shop"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := config()
			tt.change(&c)
			if _, err := c.Set(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Set() = %v; want an error with %q", err, tt.want)
			}
		})
	}
}
