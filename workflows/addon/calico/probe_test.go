package calico

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// fabric is a cluster of two nodes whose pods reach each other as reach says. It
// stands for the API server and the data plane at once.
type fabric struct {
	reach func(round int, from, to string) bool
	round int
	pods  map[string]kube.Object
	clock time.Time
	left  int // objects that were applied and not removed
	// before says that pods of an earlier probe are still listed, which answer
	// nobody.
	before bool
}

func (f *fabric) Apply(_ context.Context, set kube.Set, opts kube.Options) error {
	f.left++
	if strings.HasSuffix(opts.Owner.Address, "/probe-servers") {
		return nil
	}
	f.round++
	f.clock = f.clock.Add(time.Minute)
	f.pods = map[string]kube.Object{}
	for _, o := range set.Objects {
		f.pods[o.GetName()] = o
	}
	return nil
}

func (f *fabric) Remove(_ context.Context, _ kube.Set, _ kube.Options, data bool) error {
	if !data {
		return errors.New("the probe's namespace would stay")
	}
	f.left = 0
	return nil
}

func (f *fabric) List(_ context.Context, _, kind, namespace, _ string) ([]kube.Object, error) {
	server := func(i int, owner string) kube.Object {
		controller := true
		pod := kube.Make("v1", "Pod", namespace, fmt.Sprint("server-", i), map[string]any{
			"spec": map[string]any{"nodeName": fmt.Sprint("node-", i)}, "status": map[string]any{"podIP": namespace + fmt.Sprint(".", i)},
		})
		pod.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "DaemonSet", Name: serverName, UID: types.UID(owner), Controller: &controller}})
		return pod
	}
	switch kind {
	case "DaemonSet":
		set := kube.Make("apps/v1", "DaemonSet", namespace, serverName, nil)
		set.SetUID("now")
		return []kube.Object{set}, nil
	case "Pod":
		out := []kube.Object{server(0, "now"), server(1, "now")}
		if f.before {
			ending := server(2, "now")
			ending.SetDeletionTimestamp(&metav1.Time{Time: time.Unix(1, 0)})
			out = append(out, ending, server(3, "before"))
		}
		return out, nil
	}
	return nil, nil
}

func (f *fabric) WaitFor(_ context.Context, _, _, namespace, name string, _ time.Duration, done func(kube.Object) (kube.Status, error)) (kube.Object, error) {
	pod := f.pods[name].DeepCopy()
	containers, _, _ := unstructured.NestedSlice(pod.Object, "spec", "containers")
	env := containers[0].(map[string]any)["env"].([]any)
	var message strings.Builder
	for _, target := range strings.Fields(env[0].(map[string]any)["value"].(string)) {
		answer := "no"
		if to, pod, _ := strings.Cut(target, "."); pod < "2" && f.reach(f.round, namespace, to) {
			answer = "yes"
		}
		fmt.Fprintln(&message, target, answer)
	}
	pod.Object["status"] = map[string]any{"phase": "Succeeded", "containerStatuses": []any{
		map[string]any{"state": map[string]any{"terminated": map[string]any{"message": message.String()}}},
	}}
	status, err := done(pod)
	if err == nil && !status.Done {
		err = errors.New("a pod that succeeded is not done")
	}
	return pod, err
}

func probeOf(f *fabric) Probe {
	return Probe{
		Cluster: f, Tenants: []string{"pos", "vision"}, Image: "busybox:1", Owner: kube.Owner{Address: "step"},
		Now: func() time.Time { return f.clock }, Say: func(string, ...any) {},
	}
}

func isolated(from, to string) bool { return from == to }

func TestProbePassesWhereTenantsAreApart(t *testing.T) {
	f := &fabric{reach: func(_ int, from, to string) bool { return isolated(from, to) }}
	if err := probeOf(f).Run(t.Context()); err != nil {
		t.Errorf("Run() = %v", err)
	}
	if f.left > 0 {
		t.Error("the probe left objects behind")
	}
}

// TestProbeAsksItsOwnPods finds pods of a probe before it, which have answered when
// they were listed and do no more.
func TestProbeAsksItsOwnPods(t *testing.T) {
	f := &fabric{before: true, reach: func(_ int, from, to string) bool { return isolated(from, to) }}
	if err := probeOf(f).Run(t.Context()); err != nil {
		t.Errorf("Run() = %v; want the pods of another probe left out", err)
	}
}

func TestProbeFailsWithoutPolicies(t *testing.T) {
	f := &fabric{reach: func(int, string, string) bool { return true }}
	err := probeOf(f).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "a pod of pos on node-0 reaches a pod of vision on node-0, which it must not: it is another tenant") {
		t.Errorf("Run() = %v; want the connection that must not be", err)
	}
	if f.left > 0 {
		t.Error("the probe left objects behind")
	}
}

func TestProbeFailsWhereATenantCannotReachItself(t *testing.T) {
	f := &fabric{reach: func(int, string, string) bool { return false }}
	err := probeOf(f).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "does not reach") {
		t.Errorf("Run() = %v; want the connection that should be", err)
	}
}

func TestProbeWaitsUntilRulesHaveArrived(t *testing.T) {
	f := &fabric{reach: func(round int, from, to string) bool { return round < 3 || isolated(from, to) }}
	if err := probeOf(f).Run(t.Context()); err != nil {
		t.Errorf("Run() = %v; the third round is as it should be", err)
	}
	if f.round != 3 {
		t.Errorf("it asked %d rounds; want 3", f.round)
	}
}
