package kube

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// The phases of an application. What later phases need is there, and waited for,
// before they begin.
const (
	// phaseDefinition: namespaces and definitions, which everything else is in
	// or is of.
	phaseDefinition = iota
	// phaseConfiguration: what workloads start with.
	phaseConfiguration
	phaseWorkload
	// phaseForeign: objects of kinds that are not built in and that others serve
	// already. Workloads may wait for what comes of them, as for the Secret of a
	// Certificate.
	phaseForeign
	// phaseRegistration: aggregated APIs, and webhooks that keep no pod from starting.
	// Workloads may need them: CloudNativePG's and ECK's operators end when their
	// webhooks are not configured.
	phaseRegistration
	// phaseAdmission: webhooks that can keep the pods from starting that answer them.
	// They come when the workloads work.
	phaseAdmission
	// phaseCustom: objects of kinds that the set or what is in it brings. Webhooks and
	// operators of the same set may have to see them.
	phaseCustom
	phases
)

// kindOrder is the order of the built-in kinds, in the manner of Helm's
// InstallOrder: what is referred to comes before what refers to it.
var kindOrder = []struct {
	phase int
	kinds []string
}{
	{phaseDefinition, []string{"Namespace", "CustomResourceDefinition"}},
	{phaseConfiguration, []string{
		"PriorityClass", "RuntimeClass", "NetworkPolicy", "ResourceQuota", "LimitRange", "PodDisruptionBudget", "ServiceAccount", "Secret", "ConfigMap",
		"StorageClass", "CSIDriver", "PersistentVolume", "PersistentVolumeClaim", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding", "Service",
		"IngressClass", "Endpoints", "EndpointSlice",
	}},
	{phaseWorkload, []string{
		"DaemonSet", "Pod", "ReplicationController", "ReplicaSet", "Deployment", "HorizontalPodAutoscaler", "StatefulSet", "Job", "CronJob", "Ingress",
	}},
	{phaseAdmission, []string{
		"APIService", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding",
		"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding",
	}},
}

// builtin reports whether a group is one that Kubernetes itself serves. Groups
// with a dot that do not end in .k8s.io are somebody's own, and the older ones
// have no dot.
func builtin(group string) bool {
	switch group {
	case "apiregistration.k8s.io", "apiextensions.k8s.io", "admissionregistration.k8s.io", "rbac.authorization.k8s.io", "networking.k8s.io",
		"storage.k8s.io", "scheduling.k8s.io", "node.k8s.io", "discovery.k8s.io", "coordination.k8s.io", "certificates.k8s.io",
		"flowcontrol.apiserver.k8s.io", "events.k8s.io", "resource.k8s.io", "authentication.k8s.io", "authorization.k8s.io":
		return true
	}
	return !strings.Contains(group, ".")
}

// rank is the phase of an object and its place in it, as far as the object alone tells:
// phaseOf tells more.
func rank(o Object) (phase, place int) {
	gk := groupKind(o)
	if !builtin(gk.Group) {
		return phaseCustom, 0
	}
	for _, p := range kindOrder {
		if i := slices.Index(p.kinds, gk.Kind); i >= 0 {
			return p.phase, i
		}
	}
	return phaseConfiguration, len(kindOrder[1].kinds)
}

// phaseOf is the phase in which an object is applied.
func (p *prepared) phaseOf(i item) int {
	phase, _ := rank(i.o)
	switch {
	case phase == phaseCustom && i.served && p.defs[i.id.groupKind()] == nil:
		return phaseForeign
	case phase == phaseAdmission && !hinders(i.o):
		return phaseRegistration
	}
	return phase
}

// hinders reports whether an object has a webhook that lets no pod start while nobody
// answers it.
func hinders(o Object) bool {
	webhooks, _, _ := unstructured.NestedSlice(o.Object, "webhooks")
	for _, w := range webhooks {
		webhook, _ := w.(map[string]any)
		if policy, ok := webhook["failurePolicy"].(string); ok && policy != "Fail" {
			continue
		}
		rules, _, _ := unstructured.NestedSlice(webhook, "rules")
		for _, r := range rules {
			rule, _ := r.(map[string]any)
			if covers(rule, "operations", "CREATE", "UPDATE") && covers(rule, "apiGroups", "", "apps", "batch") && covers(rule, "resources", starters...) {
				return true
			}
		}
	}
	return false
}

// starters are the resources on the way from a workload to a pod that runs.
var starters = []string{"pods", "replicationcontrollers", "replicasets", "deployments", "statefulsets", "daemonsets", "jobs", "cronjobs"}

// covers reports whether a webhook's rule names one of some words. Of a subresource
// (pods/binding) only what it belongs to is looked at.
func covers(rule map[string]any, field string, words ...string) bool {
	listed, _, _ := unstructured.NestedStringSlice(rule, field)
	return slices.ContainsFunc(listed, func(l string) bool {
		l, _, _ = strings.Cut(l, "/")
		return l == "*" || slices.Contains(words, l)
	})
}

func compareObjects(a, b Object) int {
	ap, ai := rank(a)
	bp, bi := rank(b)
	return cmp.Or(cmp.Compare(ap, bp), cmp.Compare(ai, bi), compareIDs(IDOf(a), IDOf(b)))
}

func compareIDs(a, b ID) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// inPhases sorts what was compared by the phases in which it is applied.
func (p *prepared) inPhases(all []comparison) [phases][]comparison {
	var out [phases][]comparison
	for _, cmp := range all {
		phase := p.phaseOf(cmp.item)
		out[phase] = append(out[phase], cmp)
	}
	return out
}

// byPhase cuts sorted objects at the boundaries of their phases.
func byPhase(objects []Object) [phases][]Object {
	var out [phases][]Object
	for _, o := range objects {
		p, _ := rank(o)
		out[p] = append(out[p], o)
	}
	return out
}
