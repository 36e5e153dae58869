package prometheus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// settleBound is how long targets may take to be found and scraped twice and
// rules to be evaluated.
const settleBound = 10 * time.Minute

// Cluster is what the verification needs of a cluster; *kube.Cluster implements
// it.
type Cluster interface {
	List(ctx context.Context, apiVersion, kind, namespace, selector string) ([]kube.Object, error)
	AskService(ctx context.Context, namespace, service string, port int, path string, query url.Values) ([]byte, error)
}

// Clock is the time by which settleBound is measured.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// Verifier asks Prometheus what it sees.
type Verifier struct {
	Cluster Cluster
	Config  Config
	Clock   Clock
	Say     func(format string, args ...any)
}

// expected is how many targets each job has at least, all of them up, in a cluster
// with these nodes. Other jobs may have none, and targets of theirs may be down.
func expected(nodes []kube.Object) map[string]int {
	members := 0
	for _, n := range nodes {
		if n.GetLabels()[etcdNode] == "true" {
			members++
		}
	}
	return map[string]int{"prometheus": 1, "k3s": 1, "etcd": members, "kubelet": len(nodes), "node-exporter": len(nodes), "kube-state-metrics": 1}
}

// unexposed is said where etcd's metrics are not served.
const unexposed = "K3s serves etcd's metrics on a node's address with etcd-expose-metrics: true in the config.yaml of its servers, as a k3s step writes it"

// Run returns nil when every expected target is up, the rules are evaluated
// without an error, and the nodes that they count are the cluster's.
func (v Verifier) Run(ctx context.Context) error {
	v.Say("asking Prometheus for its targets and rules")
	deadline := v.Clock.Now().Add(settleBound)
	for {
		err := v.look(ctx)
		if err == nil || !v.Clock.Now().Before(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		case <-v.Clock.After(3 * time.Second):
		}
	}
}

func (v Verifier) look(ctx context.Context) error {
	nodes, err := v.Cluster.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return err
	}
	return errors.Join(v.targets(ctx, expected(nodes)), v.rules(ctx), v.nodes(ctx, len(nodes)))
}

// ask sends one request of Prometheus' HTTP API and decodes its data.
func (v Verifier) ask(ctx context.Context, path string, query url.Values, into any) error {
	body, err := v.Cluster.AskService(ctx, v.Config.InNamespace(), name, Port, path, query)
	if err != nil {
		return err
	}
	var answer struct {
		Status string          `json:"status"`
		Error  string          `json:"error"`
		Data   json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return fmt.Errorf("%s: the answer is not Prometheus': %w", path, err)
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %s", path, answer.Error)
	}
	return json.Unmarshal(answer.Data, into)
}

func (v Verifier) targets(ctx context.Context, want map[string]int) error {
	var data struct {
		Active []struct {
			Labels    map[string]string `json:"labels"`
			ScrapeURL string            `json:"scrapeUrl"`
			Health    string            `json:"health"`
			LastError string            `json:"lastError"`
		} `json:"activeTargets"`
	}
	if err := v.ask(ctx, "/api/v1/targets", url.Values{"state": {"active"}}, &data); err != nil {
		return err
	}
	found := map[string]int{}
	var wrong []string
	for _, t := range data.Active {
		job := t.Labels["job"]
		found[job]++
		if _, counts := want[job]; counts && t.Health != "up" {
			wrong = append(wrong, strings.TrimSpace(fmt.Sprintf("%s at %s is %s %s", job, t.ScrapeURL, t.Health, t.LastError)))
			if job == "etcd" && t.Health == "down" {
				wrong = append(wrong, unexposed)
			}
		}
	}
	for _, job := range sortedKeys(want) {
		if found[job] < want[job] {
			wrong = append(wrong, fmt.Sprintf("%s has %d targets and should have %d", job, found[job], want[job]))
		}
	}
	if len(wrong) > 0 {
		return fmt.Errorf("prometheus does not reach all its targets: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// rules looks for rules that cannot be evaluated.
func (v Verifier) rules(ctx context.Context) error {
	var data struct {
		Groups []struct {
			Rules []struct {
				Name      string `json:"name"`
				Health    string `json:"health"`
				LastError string `json:"lastError"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := v.ask(ctx, "/api/v1/rules", nil, &data); err != nil {
		return err
	}
	var wrong []string
	n := 0
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			n++
			if r.Health != "ok" {
				wrong = append(wrong, strings.TrimSpace(fmt.Sprintf("%s: %s %s", r.Name, r.Health, r.LastError)))
			}
		}
	}
	if n < len(edgeAlerts) {
		wrong = append(wrong, fmt.Sprintf("%d rules are loaded and should be at least %d", n, len(edgeAlerts)))
	}
	if len(wrong) > 0 {
		return fmt.Errorf("not all rules are evaluated: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// nodes asks for what a rule has written: the number of nodes.
func (v Verifier) nodes(ctx context.Context, want int) error {
	var data struct {
		Result []struct {
			Value [2]any `json:"value"`
		} `json:"result"`
	}
	if err := v.ask(ctx, "/api/v1/query", url.Values{"query": {siteNodes}}, &data); err != nil {
		return err
	}
	if len(data.Result) != 1 {
		return fmt.Errorf("the rule %s has written nothing yet", siteNodes)
	}
	if got := data.Result[0].Value[1]; got != fmt.Sprint(want) {
		return fmt.Errorf("prometheus counts %v nodes; the cluster has %d", got, want)
	}
	return nil
}
