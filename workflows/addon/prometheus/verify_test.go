package prometheus

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// target is one that Prometheus has, up unless it is said to be something else.
type target struct{ job, health string }

// asked is a cluster whose nodes have these labels, and whose Prometheus these targets.
type asked struct {
	nodes   []map[string]any
	targets []target
}

func (a asked) List(context.Context, string, string, string, string) ([]kube.Object, error) {
	var out []kube.Object
	for i, labels := range a.nodes {
		out = append(out, kube.Make("v1", "Node", "", fmt.Sprint("n", i), map[string]any{"metadata": map[string]any{"labels": labels}}))
	}
	return out, nil
}

func (a asked) AskService(_ context.Context, _, _ string, _ int, path string, _ url.Values) ([]byte, error) {
	var data any
	switch path {
	case "/api/v1/targets":
		active := []any{}
		for i, t := range a.targets {
			if t.health == "" {
				t.health = "up"
			}
			active = append(active, map[string]any{"labels": map[string]any{"job": t.job}, "scrapeUrl": fmt.Sprintf("http://10.0.0.%d/metrics", i), "health": t.health, "lastError": "it says why"})
		}
		data = map[string]any{"activeTargets": active}
	case "/api/v1/rules":
		var rules []any
		for _, alert := range edgeAlerts {
			rules = append(rules, map[string]any{"name": alert.name, "health": "ok"})
		}
		data = map[string]any{"groups": []any{map[string]any{"rules": rules}}}
	case "/api/v1/query":
		data = map[string]any{"result": []any{map[string]any{"value": []any{0, fmt.Sprint(len(a.nodes))}}}}
	}
	return json.Marshal(map[string]any{"status": "success", "data": data})
}

// late is a clock on which every bound is over.
type late struct{ at time.Time }

func (l *late) Now() time.Time {
	l.at = l.at.Add(settleBound)
	return l.at
}

func (l *late) After(time.Duration) <-chan time.Time { return nil }

func TestEveryExpectedTargetMustBeUp(t *testing.T) {
	server, agent := map[string]any{etcdNode: "true"}, map[string]any{}
	always := []target{{job: "prometheus"}, {job: "k3s"}, {job: "kube-state-metrics"}}
	on := func(nodes int, more ...target) []target {
		out := append([]target{}, always...)
		for range nodes {
			out = append(out, target{job: "kubelet"}, target{job: "node-exporter"})
		}
		return append(out, more...)
	}
	for _, tt := range []struct {
		name    string
		nodes   []map[string]any
		targets []target
		want    string
	}{
		{"a server and an agent", []map[string]any{server, agent}, on(2, target{job: "etcd"}), ""},
		{"K3s without etcd", []map[string]any{agent}, on(1), ""},
		{"what may be down", []map[string]any{agent}, on(1, target{"portworx", "down"}, target{"pods", "down"}), ""},
		{"etcd that is not exposed", []map[string]any{server}, on(1, target{"etcd", "down"}), "etcd at http://10.0.0.5/metrics is down it says why; K3s serves etcd's metrics on a node's address with etcd-expose-metrics: true"},
		{"etcd that was not asked yet", []map[string]any{server}, on(1, target{"etcd", "unknown"}), "etcd at http://10.0.0.5/metrics is unknown it says why"},
		{"one etcd of two", []map[string]any{server, server}, on(2, target{job: "etcd"}), "etcd has 1 targets and should have 2"},
		{"a node without its exporter", []map[string]any{agent, agent}, on(1, target{job: "kubelet"}), "node-exporter has 1 targets and should have 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Verifier{Cluster: asked{tt.nodes, tt.targets}, Config: config(), Clock: &late{}, Say: t.Logf}.Run(t.Context())
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("Run() = %v; want %q", err, tt.want)
			}
		})
	}
}
