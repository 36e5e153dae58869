package calico

import (
	"net/netip"
	"strings"
	"testing"

	networking "k8s.io/api/networking/v1"
	"sigs.k8s.io/yaml"
)

func TestSelectorKnowsWhatItSaysAndRefusesTheRest(t *testing.T) {
	set := map[string]string{"k8s-app": "kube-dns", "edge-provision.io/tenant": "red"}
	for text, want := range map[string]bool{
		"": true, "all()": true, "has(edge-provision.io/tenant)": true, "!has(edge-provision.io/tenant)": false, "has(other)": false,
		"k8s-app == 'kube-dns'": true, `k8s-app != "kube-dns"`: false, "other != 'x'": true, "has(k8s-app) && edge-provision.io/tenant == 'blue'": false,
	} {
		f, err := Selector(text)
		if err != nil || f(set) != want {
			t.Errorf("Selector(%q) selects = %v, %v; want %v", text, err == nil && f(set), err, want)
		}
	}
	for _, text := range []string{"a in {'b'}", "a == b", "has()", "has(a) || has(b)", "a == 'b", "global()"} {
		if _, err := Selector(text); err == nil {
			t.Errorf("Selector(%q) = nil; want an error", text)
		}
	}
}

const tenantPolicy = `
metadata: {name: edge-provision-tenant, namespace: red}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
  ingress: [{from: [{podSelector: {}}]}]
  egress:
  - to: [{podSelector: {}}]
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{protocol: UDP, port: 53}]
`

const denyPolicy = `
tier: default
order: 2000
namespaceSelector: has(edge-provision.io/tenant)
types: [Ingress, Egress]
egress:
- action: Allow
  protocol: UDP
  destination: {namespaceSelector: kubernetes.io/metadata.name == 'kube-system', selector: k8s-app == 'kube-dns', ports: [53]}
`

func testCluster() Cluster {
	pod := func(namespace, node, address string, labels map[string]string) Pod {
		return Pod{Namespace: namespace, Name: "p" + address, Node: node, Address: netip.MustParseAddr(address), Labels: labels}
	}
	return Cluster{
		Namespaces: map[string]map[string]string{
			"red": {"edge-provision.io/tenant": "red"}, "blue": {"edge-provision.io/tenant": "blue"}, "kube-system": {"kubernetes.io/metadata.name": "kube-system"}, "free": {},
		},
		Pods: []Pod{
			pod("red", "a", "10.42.0.2", nil), pod("red", "b", "10.42.1.2", nil), pod("blue", "a", "10.42.0.3", nil),
			pod("kube-system", "b", "10.42.1.9", map[string]string{"k8s-app": "kube-dns"}), pod("free", "a", "10.42.0.4", nil),
		},
	}
}

func TestRulesetEnforcesTheTenantsPolicies(t *testing.T) {
	c := testCluster()
	var n networking.NetworkPolicy
	var g any
	for text, into := range map[string]any{tenantPolicy: &n, denyPolicy: &g} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	own, err := c.NetworkPolicy(n)
	if err != nil {
		t.Fatal(err)
	}
	deny, err := c.GlobalPolicy("deny", g)
	if err != nil {
		t.Fatal(err)
	}
	got := Ruleset(c.Pods, "a", []Policy{deny, own})
	const want = `table ip cali-standin
delete table ip cali-standin
table ip cali-standin {
  chain pod-1 {
    # red/p10.42.0.2
    # red/edge-provision-tenant
    ip daddr { 10.42.0.2/32, 10.42.1.2/32 } return
    ip daddr { 10.42.1.9/32 } udp dport { 53 } return
    # deny
    ip daddr { 10.42.1.9/32 } udp dport { 53 } return
    counter drop
  }
  chain pod-2 {
    # red/p10.42.0.2
    # red/edge-provision-tenant
    ip saddr { 10.42.0.2/32, 10.42.1.2/32 } return
    # deny
    counter drop
  }
  chain pod-3 {
    # blue/p10.42.0.3
    # deny
    ip daddr { 10.42.1.9/32 } udp dport { 53 } return
    counter drop
  }
  chain pod-4 {
    # blue/p10.42.0.3
    # deny
    counter drop
  }
  chain egress {
    ip saddr 10.42.0.2 jump pod-1
    ip saddr 10.42.0.3 jump pod-3
  }
  chain ingress {
    ip daddr 10.42.0.2 jump pod-2
    ip daddr 10.42.0.3 jump pod-4
  }
  chain forward {
    type filter hook forward priority -10; policy accept;
    ct state established,related accept
    jump egress
    jump ingress
  }
}
`
	if got != want {
		t.Errorf("Ruleset = %s; want %s", got, want)
	}
	if open := Ruleset(c.Pods, "a", nil); strings.Contains(open, "drop") {
		t.Errorf("without policies Ruleset = %s; want no drop", open)
	}
}

func TestAPolicyThatIsNotKnownWholeIsRefused(t *testing.T) {
	for _, text := range []string{
		"preDNAT: true", "tier: other", "selector: a in {'b'}", "types: [Egress]\negress: [{action: Pass}]", "types: [Egress]\negress: [{action: Allow, icmp: {type: 8}}]",
		"types: [Egress]\negress: [{action: Allow, protocol: SCTP}]", "types: [Egress]\negress: [{action: Allow, destination: {ports: [53]}}]",
	} {
		var g any
		if err := yaml.Unmarshal([]byte(text), &g); err != nil {
			t.Fatal(err)
		}
		if _, err := testCluster().GlobalPolicy("p", g); err == nil {
			t.Errorf("GlobalPolicy(%q) = nil; want an error", text)
		}
	}
}
