package prometheus

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// keepSeries are what leaves the site by default: what a fleet's overview and its
// alerts need, a few hundred series a node instead of many thousand.
const keepSeries = "up|ALERTS|node_load1|node_cpu_seconds_total|node_memory_MemAvailable_bytes|node_memory_MemTotal_bytes|" +
	"node_filesystem_avail_bytes|node_filesystem_size_bytes|node_boot_time_seconds|node_timex_offset_seconds|" +
	"kube_node_status_condition|kube_node_info|kube_pod_container_status_restarts_total|kube_deployment_status_replicas_unavailable|" +
	"etcd_server_has_leader|fluentd_output_status_buffer_total_bytes|fluentd_output_status_retry_count|px_cluster_status_.*|px_pool_stats_.*"

const (
	// latencies by verb, resource and bucket are nine tenths of an API server's series.
	latencies = "apiserver_request_(duration|sli_duration|slo_duration)_seconds_bucket|apiserver_(response|watch_events)_sizes_bucket|etcd_request_duration_seconds_bucket"
	// etcdSeries are those of an etcd that the alerts and a first look at it need.
	// Source: etcd's reference of metrics.
	etcdSeries = "etcd_server_(has_leader|leader_changes_seen_total|proposals_failed_total|proposals_pending|quota_backend_bytes)|" +
		"etcd_disk_(wal_fsync|backend_commit)_duration_seconds_(bucket|sum|count)|etcd_mvcc_db_total_size_(in_bytes|in_use_in_bytes)"
)

// etcdPort serves etcd's own metrics, without TLS; K3s opens it on a node's address
// with etcd-expose-metrics (k3s, pkg/etcd/etcd.go, listenMetricsURLs).
const etcdPort = 2381

// etcdNode is the label of a node whose K3s has a member of etcd.
const etcdNode = "node-role.kubernetes.io/etcd"

// portworxPort serves Portworx's metrics on every node that runs it. Source: Portworx's
// reference of metrics.
const portworxPort = 9001

// portworxNamespace is where the portworx step installs it.
const portworxNamespace = "portworx"

// files are prometheus.yml and its rule files.
func (c Config) files() (map[string]string, error) {
	out := map[string]string{}
	configuration, err := yaml.Marshal(c.configuration())
	if err != nil {
		return nil, fmt.Errorf("prometheus: writing its configuration: %w", err)
	}
	out["prometheus.yml"] = string(configuration)
	own, err := yaml.Marshal(alerts())
	if err != nil {
		return nil, fmt.Errorf("prometheus: writing its rules: %w", err)
	}
	out["rules-edge.yml"] = string(own)
	for _, n := range sortedKeys(c.Rules) {
		var parsed map[string]any
		if err := yaml.UnmarshalStrict([]byte(c.Rules[n]), &parsed); err != nil {
			return nil, fmt.Errorf("prometheus: rules %q: %w", n, err)
		}
		if _, ok := parsed["groups"].([]any); !ok {
			return nil, fmt.Errorf("prometheus: rules %q: it has no list of groups, so that Prometheus would read no rule from it", n)
		}
		out["rules-"+n+".yml"] = c.Rules[n]
	}
	return out, nil
}

func (c Config) configuration() map[string]any {
	out := map[string]any{
		"global": map[string]any{
			"scrape_interval": "30s", "evaluation_interval": "30s",
			"external_labels": map[string]any{"site": c.Site},
		},
		"rule_files":     []any{"/etc/prometheus/rules-*.yml"},
		"scrape_configs": c.scrapes(),
	}
	if len(c.Alertmanagers) > 0 {
		targets := make([]any, len(c.Alertmanagers))
		for i, a := range c.Alertmanagers {
			targets[i] = a
		}
		out["alerting"] = map[string]any{"alertmanagers": []any{map[string]any{"static_configs": []any{map[string]any{"targets": targets}}}}}
	}
	if c.RemoteWrite != nil {
		out["remote_write"] = []any{c.remoteWrite()}
	}
	return out
}

// scrapes are one job for each kind of target. All components of a K3s server
// share one process and one registry, so that the API server's endpoint is
// theirs too; jobs for scheduler and controller manager would count everything
// several times. The kubelet's endpoint cannot be left out, and has all that the API
// server's has (k3s-io/k3s#12917). Of the two only the kubelet's has K3s's own series
// here, so that no alert comes twice: it bears the node's name, and agents have
// certificates, too. etcd has a registry of its own.
func (c Config) scrapes() []any {
	// K3s signs the kubelets' certificates, too, with the authority that pods are
	// given, for the addresses of their nodes: the token goes to nobody else.
	account := map[string]any{
		"authorization": map[string]any{"credentials_file": "/var/run/secrets/kubernetes.io/serviceaccount/token"},
		"tls_config":    map[string]any{"ca_file": "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"},
	}
	out := []any{
		job("prometheus", map[string]any{"static_configs": []any{map[string]any{"targets": []any{"localhost:9090"}}}}),
		job("k3s", account, map[string]any{
			"scheme": "https", "kubernetes_sd_configs": []any{discovery("endpoints", "default")},
			"relabel_configs":        []any{keep("__meta_kubernetes_service_name;__meta_kubernetes_endpoint_port_name", "kubernetes;https")},
			"metric_relabel_configs": []any{drop("__name__", latencies+"|k3s_.*")},
		}),
		job("etcd", map[string]any{
			"kubernetes_sd_configs": []any{discovery("node", "")},
			"relabel_configs": []any{
				keep("__meta_kubernetes_node_label_node_role_kubernetes_io_etcd", "true"),
				map[string]any{"source_labels": []any{"__address__"}, "regex": `(.+):\d+`, "replacement": fmt.Sprintf("$1:%d", etcdPort), "target_label": "__address__"},
				rename("__meta_kubernetes_node_name", "node"),
			},
			"metric_relabel_configs": []any{keep("__name__", etcdSeries)},
		}),
		job("kubelet", account, map[string]any{
			"scheme": "https", "kubernetes_sd_configs": []any{discovery("node", "")},
			"relabel_configs":        []any{rename("__meta_kubernetes_node_name", "node")},
			"metric_relabel_configs": []any{drop("__name__", latencies)},
		}),
		job("cadvisor", account, map[string]any{
			"scheme": "https", "metrics_path": "/metrics/cadvisor", "kubernetes_sd_configs": []any{discovery("node", "")},
			"relabel_configs": []any{rename("__meta_kubernetes_node_name", "node")},
		}),
		job("node-exporter", map[string]any{
			"kubernetes_sd_configs": []any{discovery("pod", c.InNamespace())},
			"relabel_configs":       []any{running(), keep("__meta_kubernetes_pod_label_app_kubernetes_io_name", "node-exporter"), rename("__meta_kubernetes_pod_node_name", "node")},
		}),
		job("kube-state-metrics", map[string]any{
			"honor_labels": true, "kubernetes_sd_configs": []any{discovery("pod", c.InNamespace())},
			"relabel_configs": []any{
				running(),
				keep("__meta_kubernetes_pod_label_app_kubernetes_io_name;__meta_kubernetes_pod_container_port_name", "kube-state-metrics;http"),
			},
		}),
		// The operator gives this label to the pods of the data plane alone.
		job("portworx", map[string]any{
			"kubernetes_sd_configs": []any{discovery("pod", portworxNamespace)},
			"relabel_configs": []any{
				running(),
				keep("__meta_kubernetes_pod_label_name", "portworx"),
				map[string]any{"source_labels": []any{"__meta_kubernetes_pod_ip"}, "replacement": fmt.Sprintf("$1:%d", portworxPort), "target_label": "__address__"},
				rename("__meta_kubernetes_pod_node_name", "node"),
			},
		}),
		job("pods", map[string]any{
			"kubernetes_sd_configs": []any{discovery("pod", "")},
			"relabel_configs": []any{
				running(),
				keep("__meta_kubernetes_pod_annotation_prometheus_io_scrape", "true"),
				map[string]any{
					"source_labels": []any{"__meta_kubernetes_pod_ip", "__meta_kubernetes_pod_annotation_prometheus_io_port"},
					"separator":     ":", "regex": `([0-9.]+:\d+)`, "target_label": "__address__",
				},
				map[string]any{"source_labels": []any{"__meta_kubernetes_pod_annotation_prometheus_io_path"}, "regex": "(.+)", "target_label": "__metrics_path__"},
				map[string]any{"source_labels": []any{"__meta_kubernetes_pod_annotation_prometheus_io_scheme"}, "regex": "(https?)", "target_label": "__scheme__"},
				rename("__meta_kubernetes_namespace", "namespace"), rename("__meta_kubernetes_pod_name", "pod"),
				rename("__meta_kubernetes_pod_node_name", "node"),
			},
		}),
	}
	if r := c.Catalog; r != nil {
		sd := map[string]any{"url": r.URL, "refresh_interval": "1m"}
		job := job("edge-provision", map[string]any{"http_sd_configs": []any{sd}})
		for _, where := range []map[string]any{sd, job} {
			if r.CA != "" {
				where["tls_config"] = map[string]any{"ca_file": secretMount + "/catalog-ca.crt"}
			}
			if r.BearerToken != "" {
				where["authorization"] = map[string]any{"credentials_file": secretMount + "/catalog-token"}
			}
		}
		out = append(out, job)
	}
	return out
}

// remoteWrite keeps a thin uplink usable for others: few shards, long pauses.
func (c Config) remoteWrite() map[string]any {
	r := c.RemoteWrite
	out := map[string]any{
		"url":                   r.URL,
		"write_relabel_configs": []any{map[string]any{"source_labels": []any{"__name__"}, "regex": cmp.Or(r.Keep, keepSeries), "action": "keep"}},
		"queue_config": map[string]any{
			"max_shards": 4, "capacity": 10000, "max_samples_per_send": 2000, "batch_send_deadline": "30s",
			"min_backoff": "1s", "max_backoff": "5m",
			// A store that a whole fleet comes back to answers so.
			"retry_on_http_429": true,
		},
	}
	if r.CA != "" {
		out["tls_config"] = map[string]any{"ca_file": secretMount + "/remote-write-ca.crt"}
	}
	if r.BearerToken != "" {
		out["authorization"] = map[string]any{"credentials_file": secretMount + "/remote-write-token"}
	}
	return out
}

func job(name string, parts ...map[string]any) map[string]any {
	out := map[string]any{"job_name": name}
	for _, p := range parts {
		maps.Copy(out, p)
	}
	return out
}

func discovery(role, namespace string) map[string]any {
	out := map[string]any{"role": role}
	if namespace != "" {
		out["namespaces"] = map[string]any{"names": []any{namespace}}
	}
	return out
}

// keep and drop match several labels, joined by semicolons.
func keep(labels, regex string) map[string]any { return match("keep", labels, regex) }

func drop(labels, regex string) map[string]any { return match("drop", labels, regex) }

func match(action, labels, regex string) map[string]any {
	var sources []any
	for _, l := range strings.Split(labels, ";") {
		sources = append(sources, l)
	}
	return map[string]any{"action": action, "source_labels": sources, "regex": regex}
}

// running drops pods that have ended, which Kubernetes keeps for a while, and those
// that have not begun.
func running() map[string]any {
	return drop("__meta_kubernetes_pod_phase", "Pending|Succeeded|Failed|Completed")
}

func rename(from, to string) map[string]any {
	return map[string]any{"source_labels": []any{from}, "target_label": to}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
