package kube

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Ready reads from an object's status whether it works, for the kinds that
// Kubernetes itself has and for others by their conditions, as
// https://github.com/kubernetes-sigs/cli-utils/blob/master/pkg/kstatus/README.md
// describes them: observedGeneration, Ready, Available, Reconciling, Stalled. An
// object without any of them is ready when it is there.
func Ready(o Object) Status {
	if o.GetDeletionTimestamp() != nil {
		return Status{Reason: "it is being deleted"}
	}
	switch groupKind(o) {
	case schema.GroupKind{Group: "apps", Kind: "Deployment"}:
		return deploymentReady(o)
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		return statefulSetReady(o)
	case schema.GroupKind{Group: "apps", Kind: "DaemonSet"}:
		return daemonSetReady(o)
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}, schema.GroupKind{Kind: "ReplicationController"}:
		return replicasReady(o)
	case schema.GroupKind{Group: "batch", Kind: "Job"}:
		return jobReady(o)
	case schema.GroupKind{Kind: "Pod"}:
		return podReady(o)
	case schema.GroupKind{Kind: "PersistentVolumeClaim"}:
		return phaseReady(o, "Bound")
	case namespaceKind:
		return phaseReady(o, "Active")
	case crdKind:
		return definitionReady(o)
	case schema.GroupKind{Group: "apiregistration.k8s.io", Kind: "APIService"}:
		return conditionTrue(o, "Available")
	}
	if builtin(groupKind(o).Group) {
		// Conditions of the other built-in kinds tell of use, not of being there.
		return Status{Done: true}
	}
	return customReady(o)
}

func integer(o Object, fallback int64, path ...string) int64 {
	v, ok, err := unstructured.NestedFieldNoCopy(o.Object, path...)
	if !ok || err != nil {
		return fallback
	}
	switch n := v.(type) {
	case int64:
		return n
	case float64:
		return int64(n)
	}
	return fallback
}

func str(o Object, path ...string) string {
	s, _, _ := unstructured.NestedString(o.Object, path...)
	return s
}

// condition is one of status.conditions.
type condition struct{ kind, status, reason, message string }

func (c condition) String() string {
	s := c.kind + "=" + c.status
	if c.reason != "" {
		s += " " + c.reason
	}
	if c.message != "" {
		s += ": " + shorten(c.message)
	}
	return s
}

// shorten bounds a stranger's message.
func shorten(s string) string {
	const most = 300
	if s = strings.Join(strings.Fields(s), " "); len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func conditions(o Object) []condition {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	var out []condition
	for _, e := range list {
		m, ok := e.(map[string]any)
		if !ok {
			continue
		}
		text := func(k string) string { s, _ := m[k].(string); return s }
		out = append(out, condition{text("type"), text("status"), text("reason"), text("message")})
	}
	return out
}

func findCondition(o Object, kind string) (condition, bool) {
	for _, c := range conditions(o) {
		if c.kind == kind {
			return c, true
		}
	}
	return condition{}, false
}

// stale reports that a controller has not yet seen the newest declaration.
func stale(o Object) (Status, bool) {
	seen := integer(o, -1, "status", "observedGeneration")
	if seen >= 0 && seen < o.GetGeneration() {
		return Status{Reason: "its controller has not yet seen the change"}, true
	}
	return Status{}, false
}

func unseen(o Object) (Status, bool) {
	if integer(o, -1, "status", "observedGeneration") < 0 {
		return Status{Reason: "its controller has not yet seen it"}, true
	}
	return stale(o)
}

func count(have, want int64, what string) Status {
	if have >= want {
		return Status{Done: true}
	}
	return Status{Reason: fmt.Sprintf("%d of %d %s", have, want, what)}
}

func firstUndone(all ...Status) Status {
	for _, s := range all {
		if !s.Done {
			return s
		}
	}
	return Status{Done: true}
}

func deploymentReady(o Object) Status {
	if s, yes := unseen(o); yes {
		return s
	}
	if c, ok := findCondition(o, "Progressing"); ok && c.reason == "ProgressDeadlineExceeded" {
		return Status{Failed: true, Reason: c.String()}
	}
	want := integer(o, 1, "spec", "replicas")
	updated := integer(o, 0, "status", "updatedReplicas")
	s := firstUndone(
		count(updated, want, "replicas are updated"),
		count(integer(o, 0, "status", "availableReplicas"), want, "replicas are available"),
	)
	if old := integer(o, 0, "status", "replicas") - updated; s.Done && old > 0 {
		s = Status{Reason: fmt.Sprintf("%d old replicas are still there", old)}
	}
	if c, ok := findCondition(o, "ReplicaFailure"); ok && c.status == "True" && !s.Done {
		s.Reason += "; " + c.String()
	}
	return s
}

func statefulSetReady(o Object) Status {
	if s, yes := unseen(o); yes {
		return s
	}
	want := integer(o, 1, "spec", "replicas")
	all := []Status{count(integer(o, 0, "status", "readyReplicas"), want, "replicas are ready")}
	if strategy := str(o, "spec", "updateStrategy", "type"); strategy == "" || strategy == "RollingUpdate" {
		partition := integer(o, 0, "spec", "updateStrategy", "rollingUpdate", "partition")
		updated := integer(o, 0, "status", "updatedReplicas")
		if str(o, "status", "currentRevision") == str(o, "status", "updateRevision") {
			updated = want
		}
		all = append(all, count(updated, want-partition, "replicas are updated"))
	}
	return firstUndone(all...)
}

func daemonSetReady(o Object) Status {
	if s, yes := unseen(o); yes {
		return s
	}
	want := integer(o, 0, "status", "desiredNumberScheduled")
	all := []Status{count(integer(o, 0, "status", "numberAvailable"), want, "pods are available")}
	if str(o, "spec", "updateStrategy", "type") != "OnDelete" {
		all = append(all, count(integer(o, 0, "status", "updatedNumberScheduled"), want, "pods are updated"))
	}
	return firstUndone(all...)
}

func replicasReady(o Object) Status {
	if s, yes := unseen(o); yes {
		return s
	}
	return count(integer(o, 0, "status", "availableReplicas"), integer(o, 1, "spec", "replicas"), "replicas are available")
}

func jobReady(o Object) Status {
	for _, c := range conditions(o) {
		switch {
		case c.status != "True":
		case c.kind == "Complete" || c.kind == "SuccessCriteriaMet":
			return Status{Done: true}
		case c.kind == "Failed" || c.kind == "FailureTarget":
			return Status{Failed: true, Reason: c.String()}
		case c.kind == "Suspended":
			return Status{Done: true}
		}
	}
	return Status{Reason: fmt.Sprintf("%d pods run, %d succeeded, %d failed",
		integer(o, 0, "status", "active"), integer(o, 0, "status", "succeeded"), integer(o, 0, "status", "failed"))}
}

func podReady(o Object) Status {
	switch phase := str(o, "status", "phase"); phase {
	case "Succeeded":
		return Status{Done: true}
	case "Failed":
		return Status{Failed: true, Reason: "it failed: " + shorten(str(o, "status", "reason")+" "+str(o, "status", "message"))}
	}
	if c, ok := findCondition(o, "Ready"); ok && c.status == "True" {
		return Status{Done: true}
	}
	reason := "it is " + str(o, "status", "phase")
	if why := podTrouble(o); why != "" {
		reason += ": " + why
	}
	return Status{Reason: reason}
}

// podTrouble says why a pod does not run: a container that waits or ended, or a
// condition that is not true.
func podTrouble(o Object) string {
	for _, list := range []string{"initContainerStatuses", "containerStatuses"} {
		statuses, _, _ := unstructured.NestedSlice(o.Object, "status", list)
		for _, e := range statuses {
			m, _ := e.(map[string]any)
			for _, state := range []string{"waiting", "terminated"} {
				s, ok, _ := unstructured.NestedMap(m, "state", state)
				if !ok || state == "terminated" && s["reason"] == "Completed" {
					continue
				}
				text := fmt.Sprintf("container %v: %v", m["name"], s["reason"])
				if message, _ := s["message"].(string); message != "" {
					text += ": " + message
				}
				return shorten(text)
			}
		}
	}
	for _, c := range conditions(o) {
		if c.status == "False" {
			return c.String()
		}
	}
	return ""
}

func phaseReady(o Object, want string) Status {
	phase := str(o, "status", "phase")
	switch phase {
	case want:
		return Status{Done: true}
	case "":
		phase = "without a phase"
	case "Lost":
		return Status{Failed: true, Reason: "it is Lost"}
	}
	return Status{Reason: "it is " + phase + ", not " + want}
}

func conditionTrue(o Object, kind string) Status {
	c, ok := findCondition(o, kind)
	switch {
	case !ok:
		return Status{Reason: "it has no condition " + kind + " yet"}
	case c.status != "True":
		return Status{Reason: c.String()}
	}
	return Status{Done: true}
}

// definitionReady: a definition whose names are taken by another never becomes
// established, and the other condition says so.
func definitionReady(o Object) Status {
	for _, kind := range []string{"NonStructuralSchema", "NamesAccepted"} {
		c, ok := findCondition(o, kind)
		if ok && (kind == "NamesAccepted" && c.status == "False" || kind == "NonStructuralSchema" && c.status == "True") {
			return Status{Reason: c.String()}
		}
	}
	return conditionTrue(o, "Established")
}

func customReady(o Object) Status {
	if s, yes := stale(o); yes {
		return s
	}
	for _, c := range conditions(o) {
		switch {
		case c.kind == "Stalled" && c.status == "True":
			return Status{Failed: true, Reason: c.String()}
		case c.kind == "Reconciling" && c.status == "True",
			(c.kind == "Ready" || c.kind == "Available") && c.status != "True":
			return Status{Reason: c.String()}
		}
	}
	return Status{Done: true}
}
