package steps

import (
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"
)

func TestCalicoEncapsulationIsKnownBeforeAnythingIsTouched(t *testing.T) {
	for name, fine := range map[string]bool{"VXLAN": true, "VXLANCrossSubnet": true, "None": false, "IPIP": false} {
		inputs := map[string]cty.Value{
			"encapsulation": cty.StringVal(name), "cluster": cty.DynamicVal, "ignore_fields": cty.NullVal(cty.List(cty.String)),
			"pod_cidr": cty.NullVal(cty.String), "node_cidr": cty.NullVal(cty.String), "tenants": cty.NullVal(cty.List(cty.String)),
		}
		diags := checkCalico(cty.ObjectVal(inputs), nil)
		if diags.HasErrors() == fine || !fine && !strings.Contains(diags.Error(), "VXLANCrossSubnet") {
			t.Errorf("encapsulation %s: %v; want it taken: %t", name, diags, fine)
		}
	}
}
