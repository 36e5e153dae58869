package fluentd

import (
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/workflows/addon/addontest"
)

func config() Config {
	return Config{
		Site: "store-0421", Image: "fluent/fluentd-kubernetes-daemonset:v1.19.3-debian-forward-1.0", Preloaded: true,
		Sink:   Sink{Forward: &Forward{Host: "logs.example", CA: "PEM", SharedKey: "hunter2"}},
		Buffer: Buffer{DropOldest: true},
	}
}

func TestSet(t *testing.T) {
	set, err := config().Set()
	if err != nil {
		t.Fatal(err)
	}
	addontest.Golden(t, "testdata/forward.golden.yaml", set)
	c := config()
	c.Sink = Sink{HTTP: &HTTP{URL: "https://logs.example/ingest", Authorization: "Bearer hunter2"}}
	set, err = c.Set()
	if err != nil {
		t.Fatal(err)
	}
	addontest.Golden(t, "testdata/http.golden.yaml", set)
}

func TestTheConfigurationHoldsNoSecret(t *testing.T) {
	if text := config().configuration(); strings.Contains(text, "hunter2") || strings.Contains(text, "PEM") {
		t.Errorf("fluent.conf holds a secret:\n%s", text)
	}
}

func TestPodsStartAnewWhenASecretChanges(t *testing.T) {
	a, b := config(), config()
	b.Sink.Forward.SharedKey = "hunter3"
	if digest(a.configuration(), a.secrets()) == digest(b.configuration(), b.secrets()) {
		t.Error("another shared key gives the same digest")
	}
}

func TestRubyInASiteNameIsNotEvaluated(t *testing.T) {
	c := config()
	c.Site = `x' #{system("id")} \`
	if text := c.configuration(); !strings.Contains(text, `site 'x\' #{system("id")} \\'`) {
		t.Errorf("the site's name is not quoted:\n%s", text)
	}
}

func TestConfigIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no sink", func(c *Config) { c.Sink = Sink{} }, "exactly one sink"},
		{"two sinks", func(c *Config) { c.Sink.HTTP = &HTTP{URL: "https://x"} }, "exactly one sink"},
		{"in clear by accident", func(c *Config) { c.Sink.Forward.CA = "" }, "in clear"},
		{"clear and not", func(c *Config) { c.Sink.Forward.Plaintext = true }, "exclude each other"},
		{"a host with Ruby in it", func(c *Config) { c.Sink.Forward.Host = `"#{exit}"` }, "no host name"},
		{"a URL with a quote", func(c *Config) { c.Sink = Sink{HTTP: &HTTP{URL: "https://x/'"}} }, "no http or https URL"},
		{"the newest image", func(c *Config) { c.Image = "fluent/fluentd:latest" }, "names no version"},
		{"an image without version behind a port", func(c *Config) { c.Image = "registry:5000/fluentd" }, "names no version"},
		{"a tiny buffer", func(c *Config) { c.Buffer.LimitBytes = 1 << 20 }, "64 MiB"},
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
