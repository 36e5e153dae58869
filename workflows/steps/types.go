package steps

import (
	"maps"
	"slices"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/site"
)

// Types are the step types that site.hcl may use, in the order in which the
// documentation lists them.
var Types = []Type{
	sshType,
	fileType,
	waitType,
	rebootType,
	powerType,
	wipeType,
	httpType,
	manifestType,
	k3sType,
	helmType,
	calicoType,
	portworxType,
	localPathType,
	fluentdType,
	prometheusType,
}

// Shapes is Types as the decoder of site.hcl wants them.
func Shapes() map[string]site.StepType {
	out := map[string]site.StepType{}
	for _, t := range Types {
		shape := t.Shape
		shape.Check = func(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
			if diags := checkNull(t.Shape.Spec, inputs, ranges); diags.HasErrors() || t.Shape.Check == nil {
				return diags
			}
			return t.Shape.Check(inputs, ranges)
		}
		out[t.Name] = shape
	}
	return out
}

// checkNull refuses required attributes that are written as null, which the
// decoder takes as written, and null inside of them.
func checkNull(spec hcldec.Spec, inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	var diags hcl.Diagnostics
	object, _ := spec.(hcldec.ObjectSpec)
	for _, name := range slices.Sorted(maps.Keys(object)) {
		attr, ok := object[name].(*hcldec.AttrSpec)
		v, _ := inputs.GetAttr(name).UnmarkDeep()
		if !ok || !v.IsKnown() {
			continue
		}
		bad := attr.Required && v.IsNull()
		if !v.IsNull() && (v.Type().IsListType() || v.Type().IsMapType()) {
			for _, e := range v.AsValueSlice() {
				bad = bad || e.IsNull()
			}
		}
		if bad {
			diags = append(diags, mistake(ranges, name, "Null value", name+" must not be null, nor have null in it."))
		}
	}
	return diags
}

// Find returns the type of a name that site.Load has accepted.
func Find(name string) (Type, bool) {
	for _, t := range Types {
		if t.Name == name {
			return t, true
		}
	}
	return Type{}, false
}
