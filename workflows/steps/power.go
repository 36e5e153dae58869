package steps

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// powerType sets machines' power through their BMCs. "on" and "off" are states
// that are kept; "cycle" is an action.
var powerType = Type{
	Name: "power",
	Shape: site.StepType{
		Spec: hcldec.ObjectSpec{
			"machines": attribute("machines", cty.DynamicPseudoType, true),
			"state":    attribute("state", cty.String, true),
			"triggers": attribute("triggers", cty.Map(cty.String), false),
		},
		Outputs: map[string]cty.Type{},
		Check:   checkPower,
	},
	New: newPower,
}

func checkPower(inputs cty.Value, ranges map[string]hcl.Range) hcl.Diagnostics {
	v, _ := inputs.GetAttr("state").Unmark()
	if !v.IsKnown() || v.IsNull() {
		return nil
	}
	switch v.AsString() {
	case "on", "off", "cycle":
		return nil
	}
	return hcl.Diagnostics{mistake(ranges, "state", "Invalid power state", fmt.Sprintf("%q is none of \"on\", \"off\" and \"cycle\".", v.AsString()))}
}

type powerStep struct {
	env      Env
	machines []string
	state    string
}

func newPower(inputs cty.Value, env Env) (Step, error) {
	list, err := machines(inputs.GetAttr("machines"))
	if err != nil {
		return nil, fmt.Errorf("machines: %w", err)
	}
	return &powerStep{env: env, machines: list, state: text(inputs, "state")}, nil
}

// Inspect implements Step.
func (s *powerStep) Inspect(ctx context.Context) (Finding, error) {
	if s.state == "cycle" {
		return once(s.env), nil
	}
	finding := Finding{Presence: workflows.Present}
	for _, m := range s.machines {
		is, err := s.ask(ctx, m)
		if err != nil {
			return Finding{Presence: workflows.Unreachable, Detail: err.Error()}, nil
		}
		if string(is) != s.state {
			finding.Changes = append(finding.Changes, fmt.Sprintf("%s: power is %s, declared %s", m, is, s.state))
		}
	}
	return finding, nil
}

func (s *powerStep) ask(ctx context.Context, machine string) (bmc.PowerState, error) {
	controller, err := s.env.Power.BMC(machine)
	if err != nil {
		return "", err
	}
	return controller.PowerState(ctx)
}

// Do implements Step.
func (s *powerStep) Do(ctx context.Context) (cty.Value, error) {
	action := map[string]bmc.PowerAction{"on": bmc.On, "off": bmc.Off, "cycle": bmc.Cycle}[s.state]
	for _, m := range s.machines {
		controller, err := s.env.Power.BMC(m)
		if err != nil {
			return cty.NilVal, err
		}
		s.env.Say("%s: power %s", m, s.state)
		if err := controller.SetPower(ctx, action); err != nil {
			return cty.NilVal, err
		}
	}
	return cty.EmptyObjectVal, nil
}

// Verify implements Step: the BMC must report the state within a minute, which
// is how long a slow one takes to notice.
func (s *powerStep) Verify(ctx context.Context) error {
	want := bmc.PowerState(s.state)
	if s.state == "cycle" {
		want = bmc.PowerOn
	}
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, fmt.Errorf("the power did not become %s in a minute", want))
	defer cancel()
	for _, m := range s.machines {
		err := until(ctx, s.env.Clock, 2*time.Second, func(ctx context.Context) error {
			is, err := s.ask(ctx, m)
			if err == nil && is != want {
				err = fmt.Errorf("%s: power is %s", m, is)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
