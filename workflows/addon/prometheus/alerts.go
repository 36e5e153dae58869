package prometheus

// alert is one rule: what is wrong, for how long, and what to do.
type alert struct {
	name, expr, wait, severity, summary string
}

// edgeAlerts are for a site that nobody looks at. Each one names something that
// gets worse by itself or that somebody has to drive to. The series come from
// K3s's, etcd's, kube-state-metrics', node exporter's, fluent-plugin-prometheus'
// and Portworx's own references of metrics. What each node of Portworx tells of the
// whole cluster is alerted once.
var edgeAlerts = []alert{
	{
		"NodeNotReady", `kube_node_status_condition{condition="Ready",status="true"} == 0`, "5m", "critical",
		"Node {{ $labels.node }} is not ready. Look at it with edge-provision why, or at its power.",
	},
	{
		"TargetDown", `up == 0`, "10m", "warning",
		"{{ $labels.job }} at {{ $labels.instance }} has not answered for ten minutes.",
	},
	{
		"DiskFullInADay", `predict_linear(node_filesystem_avail_bytes{fstype=~"ext4|xfs"}[6h], 86400) < 0 and node_filesystem_avail_bytes / node_filesystem_size_bytes < 0.4`, "30m", "warning",
		"{{ $labels.mountpoint }} of {{ $labels.node }} will be full within a day at this rate.",
	},
	{
		"DiskAlmostFull", `node_filesystem_avail_bytes{fstype=~"ext4|xfs"} / node_filesystem_size_bytes < 0.1`, "10m", "critical",
		"{{ $labels.mountpoint }} of {{ $labels.node }} has less than a tenth left.",
	},
	{
		"EtcdNoLeader", `etcd_server_has_leader == 0`, "1m", "critical",
		"etcd on {{ $labels.node }} has no leader: the cluster takes no changes.",
	},
	{
		"EtcdSlowDisk", `histogram_quantile(0.99, rate(etcd_disk_wal_fsync_duration_seconds_bucket[5m])) > 0.5`, "10m", "warning",
		"etcd on {{ $labels.node }} waits more than half a second for its disk.",
	},
	{
		"CertificateExpires", `min by (node) (k3s_certificate_expiration_seconds) < 30 * 86400`, "1h", "warning",
		"A certificate of K3s on {{ $labels.node }} ends in less than 30 days; restart K3s to renew it.",
	},
	{
		// The series begins at 1 with the first snapshot after K3s's start, which is no
		// increase.
		"EtcdSnapshotOld", `sum by (node) (increase(` + snapshots + `[2d])) == 0 and sum by (node) (` + snapshots + ` offset 2d)`, "1h", "warning",
		"etcd on {{ $labels.node }} has made no snapshot for two days.",
	},
	{
		"EtcdSnapshotMissing", `up{job="etcd"} and up{job="etcd"} offset 2d unless on (node) last_over_time(` + snapshots + `[2d])`, "1h", "warning",
		"etcd on {{ $labels.node }} has made no snapshot since K3s was started, or for two days.",
	},
	{
		"ClockSkew", `abs(node_timex_offset_seconds) > 0.5 or node_timex_sync_status == 0`, "30m", "warning",
		"The clock of {{ $labels.node }} is not kept; certificates and logs depend on it.",
	},
	{
		"RemoteWriteLags", `(time() - prometheus_remote_storage_queue_highest_sent_timestamp_seconds) > 3600`, "15m", "warning",
		"The central store has received nothing new for an hour.",
	},
	{
		"FluentdBufferFills", `fluentd_output_status_buffer_available_space_ratio < 20`, "10m", "warning",
		"Fluentd on {{ $labels.node }} has filled more than four fifths of its buffer: logs will be lost.",
	},
	{
		"CalicoDegraded", `kube_customresource_tigerastatus{type="Degraded"} == 1`, "10m", "critical",
		"Calico's operator reports {{ $labels.name }} as degraded.",
	},
	{
		"PortworxNodeOffline", `max(px_cluster_status_nodes_offline) > 0`, "5m", "critical",
		"{{ $value }} nodes of the storage cluster are offline.",
	},
	{
		"PortworxPoolFull", `px_pool_stats_used_bytes / px_pool_stats_total_bytes > 0.8`, "30m", "warning",
		"A storage pool on {{ $labels.node }} is four fifths full.",
	},
	{
		"PortworxLicenceEnds", `min(px_node_status_license_expiry) < 14`, "1h", "warning",
		"The licence of Portworx ends in {{ $value }} days.",
	},
	{
		"PodCrashLoops", `increase(kube_pod_container_status_restarts_total[1h]) > 5`, "10m", "warning",
		"{{ $labels.namespace }}/{{ $labels.pod }} has restarted {{ $value }} times within an hour.",
	},
	// An alert that always fires tells whoever listens that alerts arrive.
	{"Watchdog", `vector(1)`, "", "none", "Alerts of this site arrive."},
}

// snapshots counts those that each server has made of its etcd since K3s was started.
const snapshots = `k3s_etcd_snapshot_save_duration_seconds_count{status="success"}`

// siteNodes is a rule that has a value as soon as rules are evaluated and nodes
// are known, by which an installation is verified.
const siteNodes = "site:nodes:count"

// alerts is the rule file of this package.
func alerts() map[string]any {
	var rules []any
	for _, a := range edgeAlerts {
		rule := map[string]any{
			"alert": a.name, "expr": a.expr,
			"labels":      map[string]any{"severity": a.severity},
			"annotations": map[string]any{"summary": a.summary},
		}
		if a.wait != "" {
			rule["for"] = a.wait
		}
		rules = append(rules, rule)
	}
	return map[string]any{"groups": []any{
		map[string]any{"name": "edge", "rules": rules},
		map[string]any{"name": "site", "rules": []any{map[string]any{"record": siteNodes, "expr": `count(up{job="kubelet"} == 1)`}}},
	}}
}
