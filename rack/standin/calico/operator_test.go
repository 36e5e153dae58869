package calico

import (
	"context"
	"log/slog"
	"testing"

	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic/fake"
	clients "k8s.io/client-go/kubernetes/fake"
)

func installation() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "operator.tigera.io/v1", "kind": "Installation", "metadata": map[string]any{"name": "default", "generation": int64(3)},
		"spec": map[string]any{"calicoNetwork": map[string]any{"ipPools": []any{map[string]any{"cidr": "10.42.0.0/16", "encapsulation": "VXLAN"}}}},
	}}
}

func testOperator(objects ...runtime.Object) *Operator {
	dynamic := fake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		installations: "InstallationList", apiServers: "APIServerList", statuses: "TigeraStatusList",
	}, objects...)
	return &Operator{Kubernetes: clients.NewClientset(), Dynamic: dynamic, Image: "operator:1", Log: slog.New(slog.DiscardHandler)}
}

func (o *Operator) reconciled(t *testing.T, times int) {
	t.Helper()
	for range times {
		if err := o.reconcile(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

// status is the conditions of TigeraStatus calico that are true.
func (o *Operator) status(t *testing.T) string {
	t.Helper()
	s, err := o.Dynamic.Resource(statuses).Get(t.Context(), "calico", meta.GetOptions{})
	if apierrors.IsNotFound(err) {
		return "none"
	} else if err != nil {
		t.Fatal(err)
	}
	conditions, _, err := unstructured.NestedSlice(s.Object, "status", "conditions")
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, c := range conditions {
		m := c.(map[string]any)
		if m["status"] == "True" {
			text += m["type"].(string)
		}
		if m["observedGeneration"] != int64(3) {
			t.Errorf("observedGeneration = %v; want that of the Installation, 3", m["observedGeneration"])
		}
	}
	return text
}

func TestOperatorReportsWhatItsNodesAre(t *testing.T) {
	o := testOperator(installation())
	o.reconciled(t, 2) // the first takes hold of the Installation
	if got := o.status(t); got != "Progressing" {
		t.Errorf("before any node is ready the status = %s; want Progressing", got)
	}
	sets := o.Kubernetes.AppsV1().DaemonSets(namespace)
	set, err := sets.Get(t.Context(), nodeName, meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	set.Status = apps.DaemonSetStatus{DesiredNumberScheduled: 2, NumberReady: 2}
	if _, err := sets.UpdateStatus(t.Context(), set, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	o.reconciled(t, 1)
	if got := o.status(t); got != "Available" {
		t.Errorf("with all nodes ready the status = %s; want Available", got)
	}
	for fail, want := range map[string]string{"degraded": "Degraded", "progressing": "Progressing", "": "Available"} {
		o.change(t, func(i *unstructured.Unstructured) { i.SetAnnotations(map[string]string{FailAnnotation: fail}) })
		o.reconciled(t, 1)
		if got := o.status(t); got != want {
			t.Errorf("told to be %q the status = %s; want %s", fail, got, want)
		}
	}
}

func (o *Operator) change(t *testing.T, f func(*unstructured.Unstructured)) {
	t.Helper()
	i, err := o.Dynamic.Resource(installations).Get(t.Context(), "default", meta.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	f(i)
	if _, err := o.Dynamic.Resource(installations).Update(t.Context(), i, meta.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestOperatorHoldsTheInstallationUntilItsPodsAreGone(t *testing.T) {
	o := testOperator(installation())
	o.reconciled(t, 2)
	pods := o.Kubernetes.CoreV1().Pods(namespace)
	if _, err := pods.Create(t.Context(), &core.Pod{ObjectMeta: meta.ObjectMeta{Name: "p", Labels: map[string]string{"k8s-app": nodeName}}}, meta.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	now := meta.Now()
	o.change(t, func(i *unstructured.Unstructured) { i.SetDeletionTimestamp(&now) })
	held := func() bool {
		i, err := o.Dynamic.Resource(installations).Get(context.Background(), "default", meta.GetOptions{})
		return err == nil && len(i.GetFinalizers()) > 0
	}
	o.reconciled(t, 1)
	if !held() {
		t.Error("the Installation was let go while a pod of calico-node runs")
	}
	if err := pods.Delete(t.Context(), "p", meta.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	o.reconciled(t, 1)
	if held() || o.status(t) != "none" {
		t.Errorf("with its pods gone the Installation is held: %v, status %s; want it free and no status", held(), o.status(t))
	}
}

func TestOperatorRefusesANetworkThatItDoesNotHave(t *testing.T) {
	i := installation()
	i.Object["spec"] = map[string]any{"calicoNetwork": map[string]any{"ipPools": []any{map[string]any{"cidr": "10.42.0.0/16", "encapsulation": "IPIP"}}}}
	o := testOperator(i)
	o.reconciled(t, 1)
	if err := o.reconcile(t.Context()); err == nil || o.status(t) != "Degraded" {
		t.Errorf("with encapsulation IPIP reconcile = %v, status %s; want an error and Degraded", err, o.status(t))
	}
}
