package k3s

import (
	"slices"
	"strings"

	core "k8s.io/api/core/v1"
)

// canonicalTaints are taints as the cluster tells them: one without a value has an
// empty one.
func canonicalTaints(taints []string) []string {
	out := slices.Clone(taints)
	for i, t := range out {
		key, effect, ok := strings.Cut(t, ":")
		if ok && !strings.Contains(key, "=") {
			out[i] = key + "=:" + effect
		}
	}
	return out
}

func taintText(t core.Taint) string { return t.Key + "=" + t.Value + ":" + string(t.Effect) }

// taint splits key=value:effect.
func taint(text string) core.Taint {
	key, effect := text, ""
	if i := strings.LastIndexByte(text, ':'); i >= 0 {
		key, effect = text[:i], text[i+1:]
	}
	key, value, _ := strings.Cut(key, "=")
	return core.Taint{Key: key, Value: value, Effect: core.TaintEffect(effect)}
}

// taintsOf are the taints that a node is to have: those declared, and those that it has
// from others, of which none may have the key and effect of a declared one (Kubernetes'
// validateNodeTaints). changed says that they are not those that it has.
func taintsOf(n Node, m *member, before applied) (taints []core.Taint, changed bool) {
	for _, have := range m.Taints {
		text := taintText(have)
		if slices.Contains(n.Taints, text) {
			taints = append(taints, taint(text))
			continue
		}
		replaced := slices.ContainsFunc(n.Taints, func(t string) bool {
			declared := taint(t)
			return declared.MatchTaint(&have)
		})
		if replaced || slices.Contains(before.Taints, text) {
			changed = true
			continue
		}
		taints = append(taints, taint(text))
	}
	for _, t := range n.Taints {
		if declared := taint(t); !slices.ContainsFunc(taints, func(have core.Taint) bool { return taintText(have) == t }) {
			taints, changed = append(taints, declared), true
		}
	}
	return taints, changed
}
