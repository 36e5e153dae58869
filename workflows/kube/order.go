package kube

import (
	"cmp"
	"slices"
	"strings"
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
	// phaseAdmission: webhooks and aggregated APIs. A webhook that is there
	// before the pod that answers it can keep that pod from starting.
	phaseAdmission
	// phaseCustom: objects of kinds that are not built in. Webhooks and
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

// rank is the phase of an object and its place in it.
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

func compareObjects(a, b Object) int {
	ap, ai := rank(a)
	bp, bi := rank(b)
	return cmp.Or(cmp.Compare(ap, bp), cmp.Compare(ai, bi), compareIDs(IDOf(a), IDOf(b)))
}

func compareIDs(a, b ID) int {
	return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
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
