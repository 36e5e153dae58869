package pxe

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"sort"
	"strings"
	"time"
)

// Finding is one rule of this host's packet filter that stops traffic which
// netboot needs.
type Finding struct {
	Port  uint16
	Proto string // "udp" or "tcp"
	// Rule names the table, chain and rule (or chain policy).
	Rule string
	// Sure is false when the rule also depends on something that cannot be
	// judged from the ruleset alone, such as a source address.
	Sure bool
}

// firewallTime bounds nft, whose listing of large sets takes seconds.
const firewallTime = 10 * time.Second

// FirewallCheck reads this host's nftables ruleset and reports what would stop
// UDP 67, 69 and 4011 and the given TCP ports arriving on the interface. It is
// a best effort: rules written with the legacy iptables programs are not seen.
// It needs CAP_NET_ADMIN and the program nft; without nft there are no
// findings and the error wraps exec.ErrNotFound.
func FirewallCheck(ctx context.Context, iface string, tcp ...uint16) ([]Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, firewallTime)
	defer cancel()
	var out, problem bytes.Buffer
	cmd := exec.CommandContext(ctx, "nft", "-j", "list", "ruleset")
	cmd.Stdout, cmd.Stderr = &out, &problem
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("listing the packet filter's rules: %w: %s", err, clipClass(problem.Bytes()))
	}
	rs, err := parseRuleset(out.Bytes())
	if err != nil {
		return nil, fmt.Errorf("reading the packet filter's rules: %w", err)
	}
	return rs.findings(iface, netbootPorts(tcp)), nil
}

// inbound is a first packet that arrives: no connection is known for it.
type inbound struct {
	proto string
	port  uint16
}

func netbootPorts(tcp []uint16) []inbound {
	ports := []inbound{{"udp", 67}, {"udp", 69}, {"udp", pxePort}}
	for _, p := range tcp {
		ports = append(ports, inbound{"tcp", p})
	}
	return ports
}

// The parts of libnftables-json(5) that matter here.
type (
	nftChain struct {
		Family, Table, Name, Type, Hook, Policy string
		Prio                                    int
	}
	nftRule struct {
		Family, Table, Chain string
		Expr                 []map[string]json.RawMessage
	}
	nftMatch struct {
		Op          string
		Left, Right json.RawMessage
	}
)

type chainKey struct{ family, table, name string }

type ruleset struct {
	base  []nftChain // chains on the input hook, by priority
	rules map[chainKey][]nftRule
	sets  map[chainKey]json.RawMessage
}

func parseRuleset(b []byte) (*ruleset, error) {
	var doc struct {
		Nftables []struct {
			Chain *nftChain
			Rule  *nftRule
			Set   *struct {
				Family, Table, Name string
				Elem                json.RawMessage
			}
		}
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, err
	}
	rs := &ruleset{rules: map[chainKey][]nftRule{}, sets: map[chainKey]json.RawMessage{}}
	for _, o := range doc.Nftables {
		switch {
		case o.Chain != nil:
			// Prerouting chains may drop too, before anybody listens.
			if o.Chain.Type == "filter" && slices.Contains([]string{"input", "prerouting", "ingress"}, o.Chain.Hook) &&
				slices.Contains([]string{"ip", "inet", "netdev"}, o.Chain.Family) {
				rs.base = append(rs.base, *o.Chain)
			}
		case o.Rule != nil:
			k := chainKey{o.Rule.Family, o.Rule.Table, o.Rule.Chain}
			rs.rules[k] = append(rs.rules[k], *o.Rule)
		case o.Set != nil:
			rs.sets[chainKey{o.Set.Family, o.Set.Table, o.Set.Name}] = o.Set.Elem
		}
	}
	sort.SliceStable(rs.base, func(i, j int) bool { return rs.base[i].Prio < rs.base[j].Prio })
	return rs, nil
}

// verdict is how a chain ends for a packet.
type verdict struct {
	kind string // "accept", "drop", or "" for falling off the end
	rule string
	sure bool
}

// maxSteps bounds the rules that are looked at for one packet, jumps included.
const maxSteps = 100_000

// findings walks every base chain for every packet. A packet must survive all
// of them: an accept ends only its own chain.
func (rs *ruleset) findings(iface string, packets []inbound) (out []Finding) {
	for _, p := range packets {
		for _, c := range rs.base {
			steps := maxSteps
			v := rs.walk(chainKey{c.Family, c.Table, c.Name}, iface, p, 0, &steps)
			if v.kind == "" && c.Policy == "drop" {
				v = verdict{"drop", "policy drop", v.sure}
			}
			if v.kind == "drop" {
				out = append(out, Finding{p.port, p.proto, fmt.Sprintf("%s %s %s: %s", c.Family, c.Table, c.Name, v.rule), v.sure})
			}
		}
	}
	return out
}

// maxDepth is the kernel's own limit of nested jumps (NFT_JUMP_STACK_SIZE).
const maxDepth = 16

func (rs *ruleset) walk(k chainKey, iface string, p inbound, depth int, steps *int) verdict {
	sure := true
	for i, r := range rs.rules[k] {
		if *steps--; *steps < 0 || depth > maxDepth {
			return verdict{"", "", false}
		}
		m, action, target := rs.apply(k, r, iface, p)
		if m == matchNo || action == "" {
			continue
		}
		name := fmt.Sprintf("rule %d of chain %s (%s)", i+1, k.name, action)
		switch action {
		case "accept":
			if m == matchYes {
				return verdict{"accept", name, sure}
			}
			sure = false
		case "drop", "reject":
			if m == matchYes {
				return verdict{"drop", name, sure}
			}
			// A drop that may not apply is worth a hint only when it is
			// the last word; a later accept does not undo it.
			return verdict{"drop", name, false}
		case "return":
			if m == matchYes {
				return verdict{"", "", sure}
			}
			sure = false
		case "jump", "goto":
			v := rs.walk(chainKey{k.family, k.table, target}, iface, p, depth+1, steps)
			sure = sure && v.sure && m == matchYes
			if v.kind == "drop" {
				return verdict{"drop", v.rule, sure}
			}
			if m == matchYes && (v.kind == "accept" || action == "goto") {
				return verdict{v.kind, v.rule, sure}
			}
		}
	}
	return verdict{"", "", sure}
}

// match is whether a rule applies to the packet.
type match int

const (
	matchNo match = iota
	matchMaybe
	matchYes
)

// apply evaluates one rule: whether it matches, and what it does then.
func (rs *ruleset) apply(k chainKey, r nftRule, iface string, p inbound) (m match, action, target string) {
	m = matchYes
	for _, e := range r.Expr {
		for name, raw := range e {
			switch name {
			case "match":
				var x nftMatch
				if json.Unmarshal(raw, &x) != nil {
					m = min(m, matchMaybe)
					continue
				}
				m = min(m, rs.matches(k, x, iface, p))
			case "accept", "drop", "reject", "return":
				action = name
			case "jump", "goto":
				var t struct{ Target string }
				if json.Unmarshal(raw, &t) == nil {
					action, target = name, t.Target
				}
			case "counter", "log", "comment", "notrack", "mangle":
			default: // limits, xt extensions, vmaps: cannot be judged
				m = min(m, matchMaybe)
			}
		}
	}
	return m, action, target
}

// matches judges one condition.
func (rs *ruleset) matches(k chainKey, x nftMatch, iface string, p inbound) match {
	var left struct {
		Meta    *struct{ Key string }
		CT      *struct{ Key string }
		Payload *struct{ Protocol, Field string }
	}
	if json.Unmarshal(x.Left, &left) != nil {
		return matchMaybe
	}
	var value any
	switch {
	case left.Meta != nil && (left.Meta.Key == "iifname" || left.Meta.Key == "iif"):
		value = iface
	case left.Meta != nil && left.Meta.Key == "l4proto", left.Payload != nil && left.Payload.Field == "protocol":
		value = p.proto
	case left.Meta != nil && left.Meta.Key == "nfproto":
		value = "ipv4"
	case left.CT != nil && left.CT.Key == "state":
		value = "new"
	case left.Payload != nil && left.Payload.Field == "dport":
		if left.Payload.Protocol != p.proto && left.Payload.Protocol != "th" {
			return matchNo
		}
		value = float64(p.port)
	case left.Payload != nil && slices.Contains([]string{"tcp", "udp", "icmp", "icmpv6", "sctp"}, left.Payload.Protocol) && left.Payload.Protocol != p.proto:
		return matchNo
	case left.Payload != nil && left.Payload.Protocol == "ip6":
		return matchNo
	default:
		return matchMaybe
	}
	in := rs.contains(k, x.Right, value, 0)
	if x.Op == "!=" {
		return matchYes - in
	}
	if x.Op != "==" && x.Op != "in" {
		return matchMaybe
	}
	return in
}

// contains reports whether a right-hand side (a value, a list, a range, a set
// or a set's name) covers the value.
func (rs *ruleset) contains(k chainKey, right json.RawMessage, value any, depth int) match {
	var r any
	if depth > maxDepth || json.Unmarshal(right, &r) != nil {
		return matchMaybe
	}
	if name, ok := r.(string); ok && strings.HasPrefix(name, "@") {
		elem, known := rs.sets[chainKey{k.family, k.table, name[1:]}]
		if !known {
			return matchMaybe
		}
		if len(elem) == 0 {
			return matchNo
		}
		return rs.contains(k, elem, value, depth+1)
	}
	return covers(r, value, depth)
}

func covers(r, value any, depth int) match {
	if depth > maxDepth {
		return matchMaybe
	}
	switch r := r.(type) {
	case string:
		v, ok := value.(string)
		if prefix, wild := strings.CutSuffix(r, "*"); ok && wild && strings.HasPrefix(v, prefix) || r == v && ok {
			return matchYes
		}
		return matchNo
	case float64:
		if r == value {
			return matchYes
		}
		return matchNo
	case []any:
		best := matchNo
		for _, e := range r {
			best = max(best, covers(e, value, depth+1))
		}
		return best
	case map[string]any:
		if set, ok := r["set"]; ok {
			return covers(set, value, depth+1)
		}
		if bounds, ok := r["range"].([]any); ok && len(bounds) == 2 {
			lo, ok1 := bounds[0].(float64)
			hi, ok2 := bounds[1].(float64)
			v, ok3 := value.(float64)
			if ok1 && ok2 && ok3 {
				if lo <= v && v <= hi {
					return matchYes
				}
				return matchNo
			}
		}
	}
	return matchMaybe
}
