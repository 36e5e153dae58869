package kube

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

func TestReady(t *testing.T) {
	const d = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x, generation: 2}\nspec: {replicas: 2}\nstatus: "
	for _, test := range []struct {
		name, object string
		done, failed bool
		reason       string
	}{
		{"deployment nobody saw", d + "{}", false, false, "has not yet seen it"},
		{"deployment of before", d + "{observedGeneration: 1, updatedReplicas: 2, availableReplicas: 2, replicas: 2}", false, false, "has not yet seen the change"},
		{"deployment half updated", d + "{observedGeneration: 2, updatedReplicas: 1, availableReplicas: 2, replicas: 2}", false, false, "1 of 2 replicas are updated"},
		{"deployment not available", d + "{observedGeneration: 2, updatedReplicas: 2, availableReplicas: 1, replicas: 2}", false, false, "1 of 2 replicas are available"},
		{"deployment with old pods", d + "{observedGeneration: 2, updatedReplicas: 2, availableReplicas: 2, replicas: 3}", false, false, "1 old replicas"},
		{"deployment", d + "{observedGeneration: 2, updatedReplicas: 2, availableReplicas: 2, replicas: 2}", true, false, ""},
		{"deployment given up", d + "{observedGeneration: 2, conditions: [{type: Progressing, status: \"False\", reason: ProgressDeadlineExceeded}]}", false, true, "ProgressDeadlineExceeded"},
		{"deployment over quota", d + "{observedGeneration: 2, conditions: [{type: ReplicaFailure, status: \"True\", message: exceeded quota}]}", false, false, "exceeded quota"},
		{"daemon set", "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: x, generation: 1}\nstatus: {observedGeneration: 1, desiredNumberScheduled: 3, numberAvailable: 3, updatedNumberScheduled: 3}", true, false, ""},
		{"daemon set being updated", "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: x, generation: 1}\nstatus: {observedGeneration: 1, desiredNumberScheduled: 3, numberAvailable: 3, updatedNumberScheduled: 1}", false, false, "1 of 3 pods are updated"},
		{"daemon set updated by hand", "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: x, generation: 1}\nspec: {updateStrategy: {type: OnDelete}}\nstatus: {observedGeneration: 1, desiredNumberScheduled: 3, numberAvailable: 3, updatedNumberScheduled: 1}", true, false, ""},
		{"daemon set without nodes", "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {name: x, generation: 1}\nstatus: {observedGeneration: 1, desiredNumberScheduled: 0}", true, false, ""},
		{"stateful set", "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: x, generation: 1}\nspec: {replicas: 3}\nstatus: {observedGeneration: 1, readyReplicas: 3, updatedReplicas: 1, currentRevision: a, updateRevision: b}", false, false, "1 of 3 replicas are updated"},
		{"stateful set with a partition", "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: x, generation: 1}\nspec: {replicas: 3, updateStrategy: {rollingUpdate: {partition: 2}}}\nstatus: {observedGeneration: 1, readyReplicas: 3, updatedReplicas: 1, currentRevision: a, updateRevision: b}", true, false, ""},
		{"job under way", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\nstatus: {active: 1}", false, false, "1 pods run"},
		{"job", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\nstatus: {conditions: [{type: Complete, status: \"True\"}]}", true, false, ""},
		{"job that failed", "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\nstatus: {conditions: [{type: Failed, status: \"True\", reason: BackoffLimitExceeded}]}", false, true, "BackoffLimitExceeded"},
		{"pod", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nstatus: {phase: Running, conditions: [{type: Ready, status: \"True\"}]}", true, false, ""},
		{"pod without an image", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nstatus: {phase: Pending, containerStatuses: [{name: web, state: {waiting: {reason: ErrImagePull, message: not found}}}]}", false, false, "container web: ErrImagePull: not found"},
		{"pod without a node", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nstatus: {phase: Pending, conditions: [{type: PodScheduled, status: \"False\", reason: Unschedulable, message: 0/3 nodes}]}", false, false, "Unschedulable: 0/3 nodes"},
		{"pod that failed", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nstatus: {phase: Failed, reason: Evicted}", false, true, "Evicted"},
		{"claim", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: x}\nstatus: {phase: Pending}", false, false, "Pending, not Bound"},
		{"lost claim", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: x}\nstatus: {phase: Lost}", false, true, "Lost"},
		{"aggregated API", "apiVersion: apiregistration.k8s.io/v1\nkind: APIService\nmetadata: {name: x}\nstatus: {conditions: [{type: Available, status: \"False\", reason: MissingEndpoints}]}", false, false, "MissingEndpoints"},
		{"definition with taken names", "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: x}\nstatus: {conditions: [{type: NamesAccepted, status: \"False\", reason: ListKindConflict}, {type: Established, status: \"True\"}]}", false, false, "ListKindConflict"},
		{"custom without a status", "apiVersion: example.com/v1\nkind: X\nmetadata: {name: x}", true, false, ""},
		{"custom unavailable", "apiVersion: example.com/v1\nkind: X\nmetadata: {name: x}\nstatus: {conditions: [{type: Available, status: \"False\", message: no nodes}]}", false, false, "no nodes"},
		{"custom reconciling", "apiVersion: example.com/v1\nkind: X\nmetadata: {name: x}\nstatus: {conditions: [{type: Reconciling, status: \"True\"}]}", false, false, "Reconciling"},
		{"being deleted", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, deletionTimestamp: \"2026-01-01T00:00:00Z\"}", false, false, "being deleted"},
		{"config map", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}", true, false, ""},
		{"conditions that are none", "apiVersion: example.com/v1\nkind: X\nmetadata: {name: x}\nstatus: {conditions: [1, {type: [x]}]}", true, false, ""},
	} {
		content := map[string]any{}
		b, err := yaml.YAMLToJSON([]byte(test.object))
		if err != nil {
			t.Fatal(err)
		}
		o := Make("", "", "", "", content)
		if err := o.UnmarshalJSON(b); err != nil {
			t.Fatal(err)
		}
		got := Ready(o)
		if got.Done != test.done || got.Failed != test.failed || !strings.Contains(got.Reason, test.reason) {
			t.Errorf("%s: Ready = %+v; want done %v, failed %v, reason %q", test.name, got, test.done, test.failed, test.reason)
		}
	}
}
