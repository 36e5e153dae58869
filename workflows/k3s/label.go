package k3s

import (
	"slices"
	"strings"
)

// kubeletLabels are the labels in Kubernetes' own namespaces that a kubelet may give
// its node, kubeletNamespaces those in which it may give any
// (k8s.io/kubelet/pkg/apis/well_known_labels.go).
var (
	kubeletLabels = []string{
		"kubernetes.io/hostname", "topology.kubernetes.io/zone", "topology.kubernetes.io/region",
		"failure-domain.beta.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/region",
		"node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type",
		"kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch",
	}
	kubeletNamespaces = []string{"kubelet.kubernetes.io", "node.kubernetes.io"}
)

// kubeletTakes reports whether a kubelet starts with a label. One in a namespace of
// Kubernetes that it does not know, such as node-role.kubernetes.io/worker, ends it; an
// administrator may set it on the node (docs.k3s.io/advanced, "Node labels").
func kubeletTakes(label string) bool {
	namespace, _, ok := strings.Cut(label, "/")
	within := func(domain string) bool { return namespace == domain || strings.HasSuffix(namespace, "."+domain) }
	if !ok || !within("kubernetes.io") && !within("k8s.io") {
		return true
	}
	return slices.Contains(kubeletLabels, label) || slices.ContainsFunc(kubeletNamespaces, within)
}
