package fluentd

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// What Fluentd leaves on a node, as commands for its shell: the chunks of the buffer
// are what the sink has not acknowledged; the positions in log files are worth nothing
// without it.
const (
	// Find prints the path of the state, or nothing where there is none.
	Find = "[ ! -e " + StateDir + " ] || echo " + StateDir
	// Erase removes all of it.
	Erase = "rm -rf -- " + StateDir
	// EraseUnlessBuffered removes all of it where nothing waits for the sink.
	EraseUnlessBuffered = `[ -d ` + StateDir + `/buffer ] && [ -n "$(find ` + StateDir + `/buffer -type f -print -quit)" ] || ` + Erase
)

// endBound is how long the pods may take to end: their grace period of 30 s, and as
// long again for a busy node.
const endBound = time.Minute

// Lister is what Ended needs of a cluster; *kube.Cluster implements it.
type Lister interface {
	List(ctx context.Context, apiVersion, kind, namespace, selector string) ([]kube.Object, error)
}

// Ended waits until no Fluentd of an installation that was removed runs any more: one
// that is ending writes down what it has read.
func (c Config) Ended(ctx context.Context, cluster Lister, clock Clock) error {
	deadline := clock.Now().Add(endBound)
	for {
		pods, err := cluster.List(ctx, "v1", "Pod", c.InNamespace(), "app.kubernetes.io/name="+name)
		if err != nil || len(pods) == 0 {
			return err
		}
		if !clock.Now().Before(deadline) {
			node, _, _ := unstructured.NestedString(pods[0].Object, "spec", "nodeName")
			return fmt.Errorf("pod %s on node %s has not ended within %s of its deletion: look whether the node answers, and run this again", pods[0].GetName(), node, endBound)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for pod %s to end: %w", pods[0].GetName(), context.Cause(ctx))
		case <-clock.After(time.Second):
		}
	}
}
