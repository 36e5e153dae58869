package calico

import (
	"maps"
	"slices"

	"github.com/edge-provision/edge-provision/workflows/kube"
)

// TenantLabel is on the namespace of each tenant, with the tenant's name.
const TenantLabel = "edge-provision.io/tenant"

// denyName is the policy under which no tenant reaches another. Calico keeps
// policies of the default tier under names with its prefix.
const denyName = "default.edge-provision-tenants"

// tenants are their namespaces and two layers of policy. Each namespace admits
// itself and DNS by a plain NetworkPolicy; Calico evaluates those at order 1000.
// Below it, at 2000, one global policy denies whatever is left in any namespace
// with the tenant label, so that deleting a namespace's own policy closes it
// instead of opening it.
func (c Config) tenants() []kube.Object {
	if len(c.Tenants) == 0 {
		return nil
	}
	out := []kube.Object{kube.Make("crd.projectcalico.org/v1", "GlobalNetworkPolicy", "", denyName, map[string]any{"spec": map[string]any{
		"tier": "default", "order": int64(2000), "namespaceSelector": "has(" + TenantLabel + ")",
		"types": []any{"Ingress", "Egress"},
		"egress": []any{
			dnsRule("UDP"), dnsRule("TCP"),
		},
	}})}
	for _, name := range c.Tenants {
		out = append(out,
			kube.Make("v1", "Namespace", "", name, map[string]any{
				"metadata": map[string]any{"labels": map[string]any{TenantLabel: name}},
			}),
			kube.Make("networking.k8s.io/v1", "NetworkPolicy", name, "edge-provision-tenant", map[string]any{"spec": map[string]any{
				"podSelector": map[string]any{},
				"policyTypes": []any{"Ingress", "Egress"},
				"ingress":     []any{map[string]any{"from": []any{anyPod()}}},
				"egress": []any{
					map[string]any{"to": []any{anyPod()}},
					map[string]any{
						"to": []any{map[string]any{
							"namespaceSelector": labels("kubernetes.io/metadata.name", "kube-system"),
							"podSelector":       labels("k8s-app", "kube-dns"),
						}},
						"ports": []any{port("UDP"), port("TCP")},
					},
				},
			}}))
	}
	return out
}

// dnsRule lets a tenant's pods ask the cluster's DNS and nobody else.
func dnsRule(protocol string) map[string]any {
	return map[string]any{
		"action": "Allow", "protocol": protocol,
		"destination": map[string]any{
			"namespaceSelector": "kubernetes.io/metadata.name == 'kube-system'",
			"selector":          "k8s-app == 'kube-dns'",
			"ports":             []any{int64(53)},
		},
	}
}

func anyPod() map[string]any { return map[string]any{"podSelector": map[string]any{}} }

func labels(key, value string) map[string]any {
	return map[string]any{"matchLabels": map[string]any{key: value}}
}

func port(protocol string) map[string]any {
	return map[string]any{"protocol": protocol, "port": int64(53)}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
