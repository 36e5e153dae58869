package kubetest

import (
	"context"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// Outcome is what becomes of a pod.
type Outcome string

// The outcomes. Waiting is a container whose image cannot be pulled.
const (
	Running   Outcome = "Running"
	Succeeded Outcome = "Succeeded"
	Failed    Outcome = "Failed"
	Waiting   Outcome = "Waiting"
)

// PretendKubelet writes the status of pods as if a node had run them, until ctx
// ends: nothing runs. It leaves those alone for which outcome says "". The
// controllers, which are real, draw their conclusions. The server must have
// Controllers.
func (s *Server) PretendKubelet(ctx context.Context, outcome func(pod kube.Object) Outcome) error {
	config, err := clientcmd.RESTConfigFromKubeConfig(s.Kubeconfig)
	if err != nil {
		return err
	}
	config.QPS, config.WarningHandler = -1, rest.NoWarnings{}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return err
	}
	pods := client.Resource(schema.GroupVersionResource{Version: "v1", Resource: "pods"})
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		all, err := pods.List(ctx, metav1.ListOptions{})
		if err == nil {
			for i := range all.Items {
				pod := &all.Items[i]
				become := outcome(pod)
				if become == "" || !settle(pod, become) {
					continue
				}
				// A pod that changed meanwhile is seen again in the next round.
				_, _ = pods.Namespace(pod.GetNamespace()).UpdateStatus(ctx, pod, metav1.UpdateOptions{FieldManager: "pretended-kubelet"})
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// settle gives a pod its status; false when it has it.
func settle(pod kube.Object, outcome Outcome) bool {
	phase, ready := string(outcome), "False"
	status := map[string]any{}
	switch outcome {
	case Running:
		ready = "True"
	case Waiting:
		phase = "Pending"
		status["containerStatuses"] = []any{map[string]any{
			"name": "main", "image": "x", "imageID": "", "ready": false, "restartCount": int64(0),
			"state": map[string]any{"waiting": map[string]any{"reason": "ImagePullBackOff", "message": "there is no such image"}},
		}}
	}
	if was, _, _ := unstructured.NestedString(pod.Object, "status", "phase"); was == phase {
		if list, _, _ := unstructured.NestedSlice(pod.Object, "status", "conditions"); len(list) > 0 {
			return false
		}
	}
	now := time.Now().UTC().Format(time.RFC3339)
	status["phase"] = phase
	status["startTime"] = now
	status["conditions"] = []any{map[string]any{"type": "Ready", "status": ready, "lastTransitionTime": now}}
	pod.Object["status"] = status
	return true
}
