package calico

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// Pod is what policies select.
type Pod struct {
	Namespace, Name, Node string
	Address               netip.Addr
	Labels                map[string]string
}

// Policy is a NetworkPolicy or a GlobalNetworkPolicy in one form.
type Policy struct {
	Name    string
	Order   float64 // lower comes first; 1000 for a NetworkPolicy, as Calico has it
	Selects func(Pod) bool
	// Ingress and Egress are nil when the policy says nothing of that
	// direction, and empty when it admits nothing.
	Ingress, Egress []Rule
}

// Rule admits or denies what it matches.
type Rule struct {
	Deny bool
	// Peers are the other side's addresses; nil: any.
	Peers    []netip.Prefix
	Protocol string // "tcp" or "udp"; empty: any
	Ports    []int  // of the destination; empty: any
}

// Ruleset is nftables' table that enforces the policies for the pods of one
// node, in the syntax of nft(8). Like Calico it is stateful, lets the node itself
// reach its pods, and denies, in a direction for which any policy selects a pod,
// what no policy admits.
func Ruleset(pods []Pod, node string, policies []Policy) string {
	policies = slices.Clone(policies)
	slices.SortStableFunc(policies, func(a, b Policy) int {
		switch {
		case a.Order != b.Order && a.Order < b.Order:
			return -1
		case a.Order != b.Order:
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	var chains, out, in strings.Builder
	number := 0
	for _, pod := range pods {
		if pod.Node != node || !pod.Address.Is4() {
			continue
		}
		for _, d := range []struct {
			rules      func(Policy) []Rule
			mine, peer string
			jumps      *strings.Builder
		}{
			{func(p Policy) []Rule { return p.Egress }, "saddr", "daddr", &out},
			{func(p Policy) []Rule { return p.Ingress }, "daddr", "saddr", &in},
		} {
			var body strings.Builder
			applies := false
			for _, p := range policies {
				rules := d.rules(p)
				if rules == nil || !p.Selects(pod) {
					continue
				}
				applies = true
				fmt.Fprintf(&body, "    # %s\n", printable(p.Name))
				for _, r := range rules {
					body.WriteString(r.text(d.peer))
				}
			}
			if !applies {
				continue
			}
			number++
			fmt.Fprintf(&chains, "  chain pod-%d {\n    # %s/%s\n%s    counter drop\n  }\n", number, printable(pod.Namespace), printable(pod.Name), body.String())
			fmt.Fprintf(d.jumps, "    ip %s %s jump pod-%d\n", d.mine, pod.Address, number)
		}
	}
	return fmt.Sprintf(`table ip %[1]s
delete table ip %[1]s
table ip %[1]s {
%[2]s  chain egress {
%[3]s  }
  chain ingress {
%[4]s  }
  chain forward {
    type filter hook forward priority -10; policy accept;
    ct state established,related accept
    jump egress
    jump ingress
  }
}
`, Table, chains.String(), out.String(), in.String())
}

// Table is the name of the table.
const Table = "cali-standin"

func (r Rule) text(peer string) string {
	var match []string
	if r.Peers != nil {
		if len(r.Peers) == 0 {
			return "" // admits nobody
		}
		var all []string
		for _, p := range r.Peers {
			all = append(all, p.String())
		}
		slices.Sort(all)
		match = append(match, fmt.Sprintf("ip %s { %s }", peer, strings.Join(slices.Compact(all), ", ")))
	}
	switch {
	case r.Protocol != "" && len(r.Ports) > 0:
		var all []string
		for _, p := range r.Ports {
			all = append(all, fmt.Sprint(p))
		}
		match = append(match, fmt.Sprintf("%s dport { %s }", r.Protocol, strings.Join(all, ", ")))
	case r.Protocol != "":
		match = append(match, "meta l4proto "+r.Protocol)
	}
	verdict := "return"
	if r.Deny {
		verdict = "counter drop"
	}
	return "    " + strings.Join(append(match, verdict), " ") + "\n"
}

// printable keeps strangers' text from ending a comment.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// Selector reads the part of Calico's selector language that this program knows:
// all(), has(KEY), !has(KEY), KEY == 'VALUE' and KEY != 'VALUE', joined by &&.
// Empty selects all. What it does not know is an error, and not a guess.
func Selector(text string) (func(map[string]string) bool, error) {
	if strings.TrimSpace(text) == "" {
		return func(map[string]string) bool { return true }, nil
	}
	var terms []func(map[string]string) bool
	for term := range strings.SplitSeq(text, "&&") {
		f, err := selectorTerm(strings.TrimSpace(term))
		if err != nil {
			return nil, err
		}
		terms = append(terms, f)
	}
	return func(set map[string]string) bool {
		return !slices.ContainsFunc(terms, func(f func(map[string]string) bool) bool { return !f(set) })
	}, nil
}

func selectorTerm(term string) (func(map[string]string) bool, error) {
	if term == "all()" {
		return func(map[string]string) bool { return true }, nil
	}
	for _, prefix := range []string{"has(", "!has("} {
		key, ok := strings.CutPrefix(term, prefix)
		if key, closed := strings.CutSuffix(key, ")"); ok && closed && validKey(key) {
			return func(set map[string]string) bool { _, has := set[key]; return has == (prefix == "has(") }, nil
		}
	}
	for _, operator := range []string{"==", "!="} {
		key, value, ok := strings.Cut(term, operator)
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok || !validKey(key) || len(value) < 2 || value[0] != value[len(value)-1] || value[0] != '\'' && value[0] != '"' {
			continue
		}
		value = value[1 : len(value)-1]
		return func(set map[string]string) bool {
			got, has := set[key]
			return (has && got == value) == (operator == "==")
		}, nil
	}
	return nil, fmt.Errorf("selector %.80q is beyond what calico-standin knows", term)
}

func validKey(key string) bool {
	if key == "" {
		return false
	}
	_, err := labels.NewRequirement(key, "exists", nil)
	return err == nil
}
