package k3s

import (
	"strings"
	"testing"

	core "k8s.io/api/core/v1"
)

// A taint may be written without a value, which the cluster tells as an empty one.
func TestTaintWithoutAValueIsSetOnce(t *testing.T) {
	w, c := ha(t)
	c.Servers[0].Taints = []string{"key:NoSchedule"}
	mustApply(t, c)
	if taints := w.node("a").Spec.Taints; len(taints) != 1 || taints[0] != (core.Taint{Key: "key", Effect: core.TaintEffectNoSchedule}) {
		t.Fatalf("node a has taints %v; want key:NoSchedule", taints)
	}
	if r, err := inspect(t, c); err != nil || len(r.Changes) > 0 {
		t.Errorf("Inspect() = %q, %v; want nothing to do", r.Changes, err)
	}
}

// The API server takes one taint of a key and effect.
func TestTaintsOfOneKeyAndEffectAreOne(t *testing.T) {
	key := func(value string) core.Taint {
		return core.Taint{Key: "key", Value: value, Effect: core.TaintEffectNoSchedule}
	}
	other := core.Taint{Key: "key", Value: "old", Effect: core.TaintEffectNoExecute}
	n := Node{Taints: []string{"key=new:NoSchedule"}}
	for name, have := range map[string][]core.Taint{"another's value": {key("old"), other}, "none": {other}} {
		taints, changed := taintsOf(n, &member{Taints: have}, applied{})
		if !changed || len(taints) != 2 || taints[0] != other || taints[1] != key("new") {
			t.Errorf("%s: taintsOf() = %v, %t; want the new value beside the taint of another effect", name, taints, changed)
		}
	}
	if taints, changed := taintsOf(n, &member{Taints: []core.Taint{key("new"), other}}, applied{}); changed {
		t.Errorf("taintsOf() = %v, changed; want what is right left alone", taints)
	}
	if taints, changed := taintsOf(Node{}, &member{Taints: []core.Taint{key("old"), other}}, applied{Taints: []string{"key=old:NoSchedule"}}); !changed || len(taints) != 1 || taints[0] != other {
		t.Errorf("taintsOf() = %v, %t; want what is no longer declared gone, and another's kept", taints, changed)
	}
}

// A kubelet that is told to give itself such a label does not start; an administrator
// may set it.
func TestLabelsThatAKubeletRefusesAreSetByTheCluster(t *testing.T) {
	for label, takes := range map[string]bool{
		"zone": true, "site/camera": true, "example.com/kubernetes.io": true,
		"topology.kubernetes.io/zone": true, "node.kubernetes.io/x": true, "a.kubelet.kubernetes.io/x": true,
		"node-role.kubernetes.io/worker": false, "kubernetes.io/x": false, "a.k8s.io/x": false, "k8s.io/x": false,
	} {
		if kubeletTakes(label) != takes {
			t.Errorf("kubeletTakes(%s) = %t; want %t", label, !takes, takes)
		}
	}
	w, c := ha(t)
	c.Servers[0].Labels = map[string]string{"node-role.kubernetes.io/worker": "true", "zone": "till"}
	mustApply(t, c)
	if config := w.read("machine.a", configPath); strings.Contains(config, "worker") || !strings.Contains(config, "zone=till") {
		t.Errorf("config.yaml is\n%s\nwant the zone alone in it", config)
	}
	if labels := w.node("a").Labels; labels["node-role.kubernetes.io/worker"] != "true" || labels["zone"] != "till" {
		t.Errorf("node a has labels %v; want both", labels)
	}
}
