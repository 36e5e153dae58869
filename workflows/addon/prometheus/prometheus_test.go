package prometheus

import (
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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

// kept are the jobs whose metric_relabel_configs leave a series be.
func kept(t *testing.T, series string) []string {
	t.Helper()
	var out []string
	for _, scrape := range config().scrapes() {
		job := scrape.(map[string]any)
		keep := true
		rules, _ := job["metric_relabel_configs"].([]any)
		for _, r := range rules {
			rule := r.(map[string]any)
			matches := regexp.MustCompile("^(?:" + rule["regex"].(string) + ")$").MatchString(series)
			keep = keep && matches == (rule["action"] == "keep")
		}
		if name := job["job_name"].(string); keep && slices.Contains([]string{"k3s", "etcd", "kubelet"}, name) {
			out = append(out, name)
		}
	}
	return out
}

// On a server the kubelet's endpoint has all that the API server's has.
func TestSeriesOfK3sComeOnce(t *testing.T) {
	for series, want := range map[string][]string{
		"k3s_certificate_expiration_seconds":            {"kubelet"},
		"k3s_etcd_snapshot_save_duration_seconds_count": {"kubelet"},
		"etcd_server_has_leader":                        {"k3s", "etcd", "kubelet"}, // only etcd has it
		"etcd_disk_wal_fsync_duration_seconds_bucket":   {"k3s", "etcd", "kubelet"},
		"go_goroutines":                                 {"k3s", "kubelet"},
		"apiserver_request_duration_seconds_bucket":     nil,
		"apiserver_request_sli_duration_seconds_bucket": nil,
		"apiserver_response_sizes_bucket":               nil,
		"etcd_request_duration_seconds_bucket":          nil,
		"kubelet_running_pods":                          {"k3s", "kubelet"},
	} {
		if got := kept(t, series); !slices.Equal(got, want) {
			t.Errorf("%s is kept of %q; want %q", series, got, want)
		}
	}
}

// A Job's pod that has ended keeps its object, and its address may be another's.
func TestNoPodThatHasEndedIsATarget(t *testing.T) {
	n := 0
	for _, scrape := range config().scrapes() {
		job := scrape.(map[string]any)
		discoveries, _ := job["kubernetes_sd_configs"].([]any)
		if len(discoveries) == 0 || discoveries[0].(map[string]any)["role"] != "pod" {
			continue
		}
		n++
		if got := job["relabel_configs"].([]any)[0]; !cmp.Equal(got, any(running())) {
			t.Errorf("job %s begins with %v; want pods dropped that do not run", job["job_name"], got)
		}
	}
	if n != 4 {
		t.Errorf("%d jobs find pods; want 4", n)
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
