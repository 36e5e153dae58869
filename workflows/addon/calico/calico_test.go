package calico

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/workflows/addon/addontest"
	"github.com/edge-provision/edge-provision/workflows/kube"
)

func config(t *testing.T) Config {
	return Config{
		Upstream: addontest.Upstream(t, OperatorNamespace), Version: "v3.32.1",
		PodCIDR: netip.MustParsePrefix("10.42.0.0/16"), NodeCIDR: netip.MustParsePrefix("172.22.0.9/24"),
		Registry: "registry.site:5000/mirror", Images: map[string]string{"calico/node": "sha256:" + strings.Repeat("a", 64)},
		Tenants: []string{"pos", "vision"},
	}
}

func TestSet(t *testing.T) {
	set, err := config(t).Set()
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Hooks) > 0 {
		t.Errorf("%d hooks of the chart are kept; want none", len(set.Hooks))
	}
	addontest.Golden(t, "testdata/set.golden.yaml", set)
}

func TestSetReplacesUpstreamsOwnOrder(t *testing.T) {
	c := config(t)
	c.Upstream = append(c.Upstream, kube.Make("operator.tigera.io/v1", "Installation", "", "default", map[string]any{"spec": map[string]any{"variant": "Calico"}}))
	set, err := c.Set()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, o := range set.Objects {
		if o.GetKind() == "Installation" {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the set has %d Installations; want 1", n)
	}
}

func TestConfigIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no pod network", func(c *Config) { c.PodCIDR = netip.Prefix{} }, "cluster_cidr"},
		{"pods where the machines are", func(c *Config) { c.NodeCIDR = netip.MustParsePrefix("10.42.7.0/24") }, "overlaps 10.42.7.0/24"},
		{"an encapsulation that is none", func(c *Config) { c.Encapsulation = "GRE" }, `"GRE"`},
		{"no encapsulation, which the operator takes with BGP only", func(c *Config) { c.Encapsulation = "None" }, "VXLANCrossSubnet"},
		{"no definitions", func(c *Config) {
			c.Upstream = slices.DeleteFunc(c.Upstream, func(o kube.Object) bool { return o.GetKind() == "CustomResourceDefinition" })
		}, "no CustomResourceDefinition"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := config(t)
			tt.change(&c)
			if _, err := c.Set(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Set() = %v; want an error with %q", err, tt.want)
			}
		})
	}
}

func TestReady(t *testing.T) {
	status := func(conditions ...any) kube.Object {
		return kube.Make("operator.tigera.io/v1", "TigeraStatus", "", "calico", map[string]any{"status": map[string]any{"conditions": conditions}})
	}
	condition := func(kind, value string) any {
		return map[string]any{"type": kind, "status": value, "reason": "Pods", "message": "not all pods run"}
	}
	good := []any{condition("Available", "True"), condition("Progressing", "False"), condition("Degraded", "False")}
	if err := Ready(status(good...)); err != nil {
		t.Errorf("Ready(all well) = %v", err)
	}
	for i, want := range []string{"Available is False (Pods: not all pods run)", "Progressing is True", "Degraded is True"} {
		bad := slices.Clone(good)
		m := bad[i].(map[string]any)
		flipped := map[string]string{"True": "False", "False": "True"}[m["status"].(string)]
		bad[i] = condition(m["type"].(string), flipped)
		if err := Ready(status(bad...)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Ready() = %v; want %q", err, want)
		}
	}
	if err := Ready(status()); err == nil || !strings.Contains(err.Error(), "not reported yet") {
		t.Errorf("Ready(nothing reported) = %v", err)
	}
}

func TestWhoMayReachWhom(t *testing.T) {
	p := Probe{Tenants: []string{"pos", "vision"}}
	for _, tt := range []struct {
		from, to string
		want     bool
	}{
		{"pos", "pos", true},
		{"pos", "vision", false},
		{"vision", "pos", false},
		{strangerNamespace, "pos", false},
		{"pos", strangerNamespace, false},
		{strangerNamespace, strangerNamespace, true},
	} {
		if got := p.allowed(tt.from, tt.to); got != tt.want {
			t.Errorf("allowed(%s, %s) = %t; want %t", tt.from, tt.to, got, tt.want)
		}
	}
}
