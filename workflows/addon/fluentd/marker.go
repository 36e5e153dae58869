package fluentd

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// That Fluentd runs says nothing: it runs well while nothing is shipped. The
// marker is one line from a pod on every node, followed to where it arrives: at
// the sink, when the sink can be asked, or else to the sink's acknowledgement of
// all chunks that may hold it.

const (
	// arriveBound is how long a marker may take: the buffer's flush interval, a slow
	// uplink, and the sink's own indexing.
	arriveBound = 5 * time.Minute
	// readBound is after how long a line that was printed is in Fluentd's buffer and in
	// its metrics: it looks for new files and counts every five seconds, and the same
	// again for a busy node.
	readBound = 20 * time.Second
)

// Cluster is what the marker needs of a cluster; *kube.Cluster implements it.
type Cluster interface {
	Apply(ctx context.Context, set kube.Set, opts kube.Options) error
	Remove(ctx context.Context, set kube.Set, opts kube.Options, data bool) error
	List(ctx context.Context, apiVersion, kind, namespace, selector string) ([]kube.Object, error)
	WaitFor(ctx context.Context, apiVersion, kind, namespace, name string, bound time.Duration, done func(kube.Object) (kube.Status, error)) (kube.Object, error)
	AskPod(ctx context.Context, namespace, pod string, port int, path string) ([]byte, error)
}

// Clock is the time by which arriveBound is measured.
type Clock interface {
	Now() time.Time
	After(d time.Duration) <-chan time.Time
}

// Marker sends marked lines and looks for them.
type Marker struct {
	Cluster Cluster
	Config  Config
	Owner   kube.Owner
	// AskURL tells whether a marker has arrived: {marker} in it is replaced, and
	// the answer must be 200 with the marker in its body. Empty: the
	// acknowledgements that Fluentd counts are taken for it, among which are those of
	// chunks that the sink refused for good.
	AskURL string
	Clock  Clock
	Say    func(format string, args ...any)
}

// LostError says from which nodes nothing arrived.
type LostError struct {
	Nodes []string
	// Last is what was seen last.
	Last error
}

func (e *LostError) Error() string {
	return fmt.Sprintf("log lines of %s have not arrived at the sink within %s: %v", strings.Join(e.Nodes, ", "), arriveBound, e.Last)
}

func (e *LostError) Unwrap() error { return e.Last }

// shipper is the Fluentd of one node.
type shipper struct {
	node, pod, marker string
	// before is from before the marker was printed, and read from when it was in the
	// buffer, or had left it already.
	before, read progress
}

// Run returns nil when a line of every node has arrived.
func (m Marker) Run(ctx context.Context) (err error) {
	if err := m.clean(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.clean(context.WithoutCancel(ctx))) }()
	shippers, err := m.shippers(ctx)
	if err != nil {
		return err
	}
	m.Say("following a marked line from each of %d nodes", len(shippers))
	if err := m.send(ctx, shippers); err != nil {
		return err
	}
	if err := m.awaitReading(ctx, shippers); err != nil {
		return err
	}
	deadline := m.Clock.Now().Add(arriveBound)
	for {
		var lost LostError
		for _, s := range shippers {
			if err := m.arrived(ctx, s); err != nil {
				lost.Nodes, lost.Last = append(lost.Nodes, s.node), err
			}
		}
		if len(lost.Nodes) == 0 {
			return nil
		}
		if !m.Clock.Now().Before(deadline) {
			return &lost
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), &lost)
		case <-m.Clock.After(2 * time.Second):
		}
	}
}

func (m Marker) options() kube.Options {
	return kube.Options{Owner: kube.Owner{Catalog: m.Owner.Catalog, Address: m.Owner.Address + "/marker"}, NoWait: true}
}

func (m Marker) clean(ctx context.Context) error {
	return m.Cluster.Remove(ctx, kube.Set{}, m.options(), false)
}

// shippers finds the Fluentd of every node; a node without one ships nothing.
func (m Marker) shippers(ctx context.Context) ([]shipper, error) {
	nodes, err := m.Cluster.List(ctx, "v1", "Node", "", "")
	if err != nil {
		return nil, err
	}
	pods, err := m.Cluster.List(ctx, "v1", "Pod", m.Config.InNamespace(), "app.kubernetes.io/name="+name)
	if err != nil {
		return nil, err
	}
	on := map[string]string{}
	for _, p := range pods {
		node, _, _ := unstructured.NestedString(p.Object, "spec", "nodeName")
		if p.GetDeletionTimestamp() == nil {
			on[node] = p.GetName()
		}
	}
	run := uuid.Must(uuid.NewV7()).String()
	var out []shipper
	for i, n := range nodes {
		s := shipper{node: n.GetName(), pod: on[n.GetName()], marker: fmt.Sprintf("edge-provision-marker-%s-%d", run, i)}
		if s.pod == "" {
			return nil, fmt.Errorf("node %s runs no Fluentd", s.node)
		}
		if s.before, err = m.progress(ctx, s.pod); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	if len(out) == 0 {
		return nil, errors.New("the cluster has no nodes")
	}
	return out, nil
}

// send prints each marker in a pod on its node. Fluentd's own image is there
// already, and has a shell.
func (m Marker) send(ctx context.Context, shippers []shipper) error {
	var pods []kube.Object
	for i, s := range shippers {
		pods = append(pods, kube.Make("v1", "Pod", m.Config.InNamespace(), fmt.Sprint("edge-provision-marker-", i), map[string]any{"spec": map[string]any{
			"nodeName": s.node, "restartPolicy": "Never", "terminationGracePeriodSeconds": int64(0), "automountServiceAccountToken": false,
			"tolerations": []any{map[string]any{"operator": "Exists"}},
			"containers": []any{map[string]any{
				"name": "marker", "image": m.Config.Image, "imagePullPolicy": "IfNotPresent",
				"command": []any{"sh", "-c", "echo " + s.marker},
			}},
		}}))
	}
	set, err := kube.NewSet(pods...)
	if err != nil {
		return err
	}
	if err := m.Cluster.Apply(ctx, set, m.options()); err != nil {
		return err
	}
	for i, s := range shippers {
		_, err := m.Cluster.WaitFor(ctx, "v1", "Pod", m.Config.InNamespace(), fmt.Sprint("edge-provision-marker-", i), arriveBound, func(o kube.Object) (kube.Status, error) {
			phase, _, _ := unstructured.NestedString(o.Object, "status", "phase")
			return kube.Status{Done: phase == "Succeeded", Failed: phase == "Failed", Reason: "its phase is " + phase}, nil
		})
		if err != nil {
			return fmt.Errorf("the marker of node %s: %w", s.node, err)
		}
	}
	return nil
}

// awaitReading notes what each Fluentd has to send when it has read its marker, where
// that is what the marker is followed by.
func (m Marker) awaitReading(ctx context.Context, shippers []shipper) error {
	if m.AskURL != "" {
		return nil
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-m.Clock.After(readBound):
	}
	for i, s := range shippers {
		var err error
		if shippers[i].read, err = m.progress(ctx, s.pod); err != nil {
			return err
		}
	}
	return nil
}

// arrived tells whether the marker of one node has come to where it is looked
// for.
func (m Marker) arrived(ctx context.Context, s shipper) error {
	if m.AskURL != "" {
		return m.ask(ctx, s.marker)
	}
	now, err := m.progress(ctx, s.pod)
	if err != nil {
		return err
	}
	// Fluentd sends chunks in the order in which they were begun, but for those that are
	// full before their time, so that the ones that waited when the marker had been read
	// are acknowledged next.
	need := max(s.before.acknowledged+1, s.read.acknowledged+s.read.waiting)
	if now.acknowledged < need {
		return fmt.Errorf("the sink has acknowledged %g chunks since, and may have the line when it has acknowledged %g", max(0, now.acknowledged-s.before.acknowledged), need-s.before.acknowledged)
	}
	if now.queued > 0 {
		return fmt.Errorf("the sink has not acknowledged the last %g bytes that Fluentd sends it", now.queued)
	}
	return nil
}

// maxAnswerBytes bounds what a sink's answer is searched for the marker.
const maxAnswerBytes = 4 << 20

// ask looks for the marker in the sink's answer.
func (m Marker) ask(ctx context.Context, marker string) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.ReplaceAll(m.AskURL, "{marker}", url.QueryEscape(marker)), nil)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: m.trust()}}
	defer client.CloseIdleConnections()
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("asking the sink: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	switch {
	case err != nil:
		return fmt.Errorf("asking the sink: %w", err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("the sink answers %s", resp.Status)
	case !bytes.Contains(body, []byte(marker)):
		return fmt.Errorf("the sink does not know %s", marker)
	}
	return nil
}

// trust is the authority of the sink, where one is declared.
func (m Marker) trust() *tls.Config {
	ca := ""
	if f := m.Config.Sink.Forward; f != nil {
		ca = f.CA
	} else if h := m.Config.Sink.HTTP; h != nil {
		ca = h.CA
	}
	pool := x509.NewCertPool()
	if ca == "" || !pool.AppendCertsFromPEM([]byte(ca)) {
		return nil
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}
