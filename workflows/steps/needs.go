package steps

import (
	"fmt"

	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// StepNeeds is what one step brings to its machines.
type StepNeeds struct {
	Address string
	artifact.Needs
}

// Needs lists what the steps of a site bring to machines, as far as the
// declaration tells it. What depends on a secret, or on something that is known
// only on site, is not in it.
func Needs(s *site.Site) ([]StepNeeds, error) {
	var out []StepNeeds
	for _, w := range s.Workflows {
		for _, step := range w.Steps {
			t, ok := Find(step.Type)
			if !ok || never(step.When) {
				continue
			}
			inputs, err := Public(step.Inputs)
			if err != nil {
				return nil, fmt.Errorf("%s (%s): %w", step.Address, step.DeclRange, err)
			}
			list := listedFiles
			if t.Needs != nil {
				list = t.Needs
			}
			needs, err := list(inputs)
			if err != nil {
				return nil, fmt.Errorf("%s (%s): listing what it needs: %w", step.Address, step.DeclRange, err)
			}
			// A step that lists nothing may still bring what shows when it is
			// rendered.
			out = append(out, StepNeeds{Address: step.Address, Needs: needs})
		}
	}
	return out, nil
}

// listedFiles lists the files among inputs: every object that has a source and a
// sha256, as the blocks of step types that bring files have. It is what a type
// needs that does not say otherwise.
func listedFiles(inputs cty.Value) (artifact.Needs, error) {
	var needs artifact.Needs
	err := cty.Walk(inputs, func(_ cty.Path, v cty.Value) (bool, error) {
		t := v.Type()
		if !v.IsKnown() || v.IsNull() || !t.IsObjectType() || !t.HasAttribute("source") || !t.HasAttribute("sha256") {
			return true, nil
		}
		source, sum := v.GetAttr("source"), v.GetAttr("sha256")
		if source.Type() != cty.String || sum.Type() != cty.String || !source.IsKnown() || !sum.IsKnown() || source.IsNull() || sum.IsNull() {
			return true, nil
		}
		needs.Files = append(needs.Files, artifact.Ref{Source: source.AsString(), SHA256: sum.AsString()})
		return false, nil
	})
	return needs, err
}

// never reports whether a condition is known to be false.
func never(when cty.Value) bool {
	if when == cty.NilVal {
		return false
	}
	v, _ := when.Unmark()
	return v.IsKnown() && !v.IsNull() && v.Type() == cty.Bool && v.False()
}

// Public is a value without what must not be shown: everything sensitive in it
// is unknown, and nothing has a mark.
func Public(v cty.Value) (cty.Value, error) {
	out, err := cty.TransformWithTransformer(v, concealer{})
	if err != nil {
		return cty.NilVal, err
	}
	out, _ = out.UnmarkDeep()
	return out, nil
}

// concealer implements cty.Transformer.
type concealer struct{}

func (concealer) Enter(_ cty.Path, v cty.Value) (cty.Value, error) {
	bare, marks := v.Unmark()
	if _, secret := marks[site.Sensitive]; secret {
		return cty.UnknownVal(bare.Type()), nil
	}
	return v, nil
}

func (concealer) Exit(_ cty.Path, v cty.Value) (cty.Value, error) { return v, nil }

// allNeeds joins what several lists give.
func allNeeds(lists ...func(cty.Value) (artifact.Needs, error)) func(cty.Value) (artifact.Needs, error) {
	return func(inputs cty.Value) (artifact.Needs, error) {
		var out artifact.Needs
		for _, list := range lists {
			needs, err := list(inputs)
			if err != nil {
				return out, err
			}
			out.Files, out.Images = append(out.Files, needs.Files...), append(out.Images, needs.Images...)
			out.Documents = append(out.Documents, needs.Documents...)
		}
		return out, nil
	}
}
