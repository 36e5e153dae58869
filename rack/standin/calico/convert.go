package calico

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// Cluster is what the policies are about.
type Cluster struct {
	Pods       []Pod
	Namespaces map[string]map[string]string // labels by name
}

func (c Cluster) addresses(selects func(Pod) bool) []netip.Prefix {
	all := []netip.Prefix{}
	for _, p := range c.Pods {
		if p.Address.IsValid() && selects(p) {
			all = append(all, netip.PrefixFrom(p.Address, p.Address.BitLen()))
		}
	}
	return all
}

// PodOf is a pod as policies see it; ok is false for pods of the host's network
// and those that have ended.
func PodOf(p core.Pod) (Pod, bool) {
	address, err := netip.ParseAddr(p.Status.PodIP)
	if err != nil || p.Spec.HostNetwork || p.Status.Phase == core.PodSucceeded || p.Status.Phase == core.PodFailed {
		return Pod{}, false
	}
	return Pod{Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName, Address: address, Labels: p.Labels}, true
}

// NetworkPolicy converts one of networking.k8s.io/v1.
func (c Cluster) NetworkPolicy(n networking.NetworkPolicy) (Policy, error) {
	selector, err := meta.LabelSelectorAsSelector(&n.Spec.PodSelector)
	if err != nil {
		return Policy{}, err
	}
	p := Policy{
		Name: n.Namespace + "/" + n.Name, Order: 1000,
		Selects: func(pod Pod) bool { return pod.Namespace == n.Namespace && selector.Matches(labels.Set(pod.Labels)) },
	}
	if slices.Contains(n.Spec.PolicyTypes, networking.PolicyTypeIngress) || len(n.Spec.PolicyTypes) == 0 {
		p.Ingress = []Rule{}
		for _, r := range n.Spec.Ingress {
			rules, err := c.rules(n.Namespace, r.From, r.Ports)
			if err != nil {
				return Policy{}, err
			}
			p.Ingress = append(p.Ingress, rules...)
		}
	}
	if slices.Contains(n.Spec.PolicyTypes, networking.PolicyTypeEgress) {
		p.Egress = []Rule{}
		for _, r := range n.Spec.Egress {
			rules, err := c.rules(n.Namespace, r.To, r.Ports)
			if err != nil {
				return Policy{}, err
			}
			p.Egress = append(p.Egress, rules...)
		}
	}
	return p, nil
}

func (c Cluster) rules(namespace string, peers []networking.NetworkPolicyPeer, ports []networking.NetworkPolicyPort) ([]Rule, error) {
	var addresses []netip.Prefix
	if len(peers) > 0 {
		addresses = []netip.Prefix{}
	}
	for _, peer := range peers {
		if peer.IPBlock != nil {
			block, err := netip.ParsePrefix(peer.IPBlock.CIDR)
			if err != nil || len(peer.IPBlock.Except) > 0 || !block.Addr().Is4() {
				return nil, fmt.Errorf("ipBlock %s with %d exceptions is beyond what calico-standin knows", peer.IPBlock.CIDR, len(peer.IPBlock.Except))
			}
			addresses = append(addresses, block)
			continue
		}
		pods, spaces := labels.Everything(), labels.Selector(nil)
		var err error
		if peer.PodSelector != nil {
			if pods, err = meta.LabelSelectorAsSelector(peer.PodSelector); err != nil {
				return nil, err
			}
		}
		if peer.NamespaceSelector != nil {
			if spaces, err = meta.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
				return nil, err
			}
		}
		addresses = append(addresses, c.addresses(func(p Pod) bool {
			in := p.Namespace == namespace
			if spaces != nil {
				in = spaces.Matches(labels.Set(c.Namespaces[p.Namespace]))
			}
			return in && pods.Matches(labels.Set(p.Labels))
		})...)
	}
	if len(ports) == 0 {
		return []Rule{{Peers: addresses}}, nil
	}
	var all []Rule
	for _, port := range ports {
		r := Rule{Peers: addresses, Protocol: "tcp"}
		if port.Protocol != nil {
			r.Protocol = strings.ToLower(string(*port.Protocol))
		}
		if port.Port != nil {
			if port.EndPort != nil || port.Port.IntValue() == 0 {
				return nil, fmt.Errorf("port %s as a name or a range is beyond what calico-standin knows", port.Port)
			}
			r.Ports = []int{port.Port.IntValue()}
		}
		all = append(all, r)
	}
	return all, nil
}

// globalPolicy is what this program reads of a GlobalNetworkPolicy. Fields that
// it does not know are refused, so that it enforces a policy whole or not at all.
type globalPolicy struct {
	Order             *float64     `json:"order"`
	Tier              string       `json:"tier"`
	Selector          string       `json:"selector"`
	NamespaceSelector string       `json:"namespaceSelector"`
	Types             []string     `json:"types"`
	Ingress           []globalRule `json:"ingress"`
	Egress            []globalRule `json:"egress"`
}

type globalRule struct {
	Action      string       `json:"action"`
	Protocol    any          `json:"protocol"`
	Source      globalEntity `json:"source"`
	Destination globalEntity `json:"destination"`
}

type globalEntity struct {
	Selector          string   `json:"selector"`
	NamespaceSelector string   `json:"namespaceSelector"`
	Nets              []string `json:"nets"`
	Ports             []any    `json:"ports"`
}

// GlobalPolicy converts the spec of a crd.projectcalico.org/v1
// GlobalNetworkPolicy.
func (c Cluster) GlobalPolicy(name string, spec any) (Policy, error) {
	text, err := json.Marshal(spec)
	if err != nil {
		return Policy{}, err
	}
	decoder := json.NewDecoder(strings.NewReader(string(text)))
	decoder.DisallowUnknownFields()
	var g globalPolicy
	if err := decoder.Decode(&g); err != nil {
		return Policy{}, fmt.Errorf("beyond what calico-standin knows: %w", err)
	}
	if g.Tier != "" && g.Tier != "default" {
		return Policy{}, fmt.Errorf("tier %s is beyond what calico-standin knows", g.Tier)
	}
	selects, err := c.selects(g.Selector, g.NamespaceSelector)
	if err != nil {
		return Policy{}, err
	}
	p := Policy{Name: name, Order: 1e9, Selects: selects}
	if g.Order != nil {
		p.Order = *g.Order
	}
	if slices.Contains(g.Types, "Ingress") || len(g.Types) == 0 && (len(g.Ingress) > 0 || len(g.Egress) == 0) {
		if p.Ingress, err = c.globalRules(g.Ingress, func(r globalRule) globalEntity { return r.Source }); err != nil {
			return Policy{}, err
		}
	}
	if slices.Contains(g.Types, "Egress") || len(g.Types) == 0 && len(g.Egress) > 0 {
		if p.Egress, err = c.globalRules(g.Egress, func(r globalRule) globalEntity { return r.Destination }); err != nil {
			return Policy{}, err
		}
	}
	return p, nil
}

func (c Cluster) selects(selector, namespaces string) (func(Pod) bool, error) {
	pods, err := Selector(selector)
	if err != nil {
		return nil, err
	}
	spaces, err := Selector(namespaces)
	if err != nil {
		return nil, err
	}
	return func(p Pod) bool { return pods(p.Labels) && spaces(c.Namespaces[p.Namespace]) }, nil
}

func (c Cluster) globalRules(rules []globalRule, peer func(globalRule) globalEntity) ([]Rule, error) {
	all := []Rule{}
	for _, g := range rules {
		r := Rule{Deny: g.Action == "Deny"}
		if g.Action != "Allow" && g.Action != "Deny" {
			return nil, fmt.Errorf("action %s is beyond what calico-standin knows", g.Action)
		}
		switch protocol := g.Protocol.(type) {
		case nil:
		case string:
			if r.Protocol = strings.ToLower(protocol); r.Protocol != "tcp" && r.Protocol != "udp" {
				return nil, fmt.Errorf("protocol %s is beyond what calico-standin knows", protocol)
			}
		default:
			return nil, fmt.Errorf("protocol %v is beyond what calico-standin knows", protocol)
		}
		e := peer(g)
		if e.Selector != "" || e.NamespaceSelector != "" {
			selects, err := c.selects(e.Selector, e.NamespaceSelector)
			if err != nil {
				return nil, err
			}
			r.Peers = c.addresses(selects)
		}
		for _, net := range e.Nets {
			if r.Peers != nil && e.Selector+e.NamespaceSelector != "" {
				return nil, fmt.Errorf("nets beside selectors are beyond what calico-standin knows")
			}
			prefix, err := netip.ParsePrefix(net)
			if err != nil {
				return nil, err
			}
			r.Peers = append(r.Peers, prefix)
		}
		for _, port := range g.Destination.Ports {
			n, err := strconv.Atoi(fmt.Sprint(port))
			if err != nil || r.Protocol == "" {
				return nil, fmt.Errorf("port %v of protocol %q is beyond what calico-standin knows", port, r.Protocol)
			}
			r.Ports = append(r.Ports, n)
		}
		if len(g.Source.Ports) > 0 {
			return nil, fmt.Errorf("source ports are beyond what calico-standin knows")
		}
		all = append(all, r)
	}
	return all, nil
}
