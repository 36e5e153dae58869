package fluentd

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

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

// The stand-in of the end-to-end tests knows these lines; the real Fluentd is not run by
// any test.
func TestTheConfigurationLosesNothingThatFluentdsDefaultsLose(t *testing.T) {
	forward, http := config(), config()
	http.Sink = Sink{HTTP: &HTTP{URL: "https://logs.example/ingest", Authorization: "Bearer hunter2"}}
	for sink, want := range map[*Config][]string{
		&forward: {"heartbeat_type none", "expire_dns_cache 60", "    compress gzip\n    transport tls"},
		&http: {
			"retryable_response_codes 301,302,303,307,308,401,403,404,407,408,425,429,500,502,503,504\n",
			`headers "#{JSON.generate('Authorization' => ENV['AUTHORIZATION'])}"`, "<filter k3s>\n    @type record_transformer\n    enable_ruby true\n",
			"    time ${time.utc.strftime('%Y-%m-%dT%H:%M:%S.%NZ')}\n",
		},
	} {
		text := sink.configuration()
		for _, line := range append(want, `separator ""`, "stream_identity_key stream", "partial_cri_stream_key no_field", "root_dir /var/lib/edge-provision/fluentd/buffer\n", "@id sink\n") {
			if !strings.Contains(text, line) {
				t.Errorf("the configuration is without %q:\n%s", line, text)
			}
		}
		if strings.Contains(text, "error_response_as_unrecoverable") {
			t.Errorf("chunks that the sink refuses are thrown away:\n%s", text)
		}
	}
}

// What the sink refused stays on a node up to a quarter of the buffer's limit, and
// counts as not acknowledged when an installation is removed.
func TestRejectedChunksAreBounded(t *testing.T) {
	state := t.TempDir()
	shell := func(line string) string {
		t.Helper()
		out, err := exec.Command("sh", "-c", strings.ReplaceAll(line, StateDir, state)).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
		return string(out)
	}
	command := regexp.MustCompile(`(?m)^  command (.*)$`).FindStringSubmatch(config().configuration())
	if out := shell(command[1]); out != "" {
		t.Errorf("where nothing was rejected the command prints %q", out)
	}
	dir := filepath.Join(state, "buffer", "backup", "worker0", "sink")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"oldest.log", "older.log", "newer.log", "newest.log"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1000+i), 0)
		if err := errors.Join(os.Truncate(path, defaultLimitBytes/8), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if out := shell(command[1]); out != "" {
		t.Errorf("the command prints %q, which Fluentd would take for records", out)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if want := []string{filepath.Join(dir, "newer.log"), filepath.Join(dir, "newest.log")}; err != nil || !slices.Equal(left, want) {
		t.Errorf("left are %q, %v; want %q", left, err, want)
	}
	shell(EraseUnlessBuffered)
	if _, err := os.Stat(filepath.Join(dir, "newest.log")); err != nil {
		t.Errorf("an installation with rejected chunks is removed as one whose sink has acknowledged all: %v", err)
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
		{"an address whose certificate Fluentd cannot verify", func(c *Config) { c.Sink.Forward.Host = "192.168.4.2" }, "a name instead of the address 192.168.4.2"},
		{"an address of IPv6", func(c *Config) { c.Sink.Forward.Host = "fd00::2" }, "a name instead of the address fd00::2"},
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
	c := config()
	c.Sink.Forward = &Forward{Host: "192.168.4.2", Plaintext: true}
	if err := c.Check(); err != nil {
		t.Errorf("Check() of an address without a certificate = %v; want nil", err)
	}
}
