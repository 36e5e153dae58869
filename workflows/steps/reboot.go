package steps

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hcldec"
	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// rebootType restarts machines through their operating system, one after the
// other, and waits for each to come back. It is an action.
var rebootType = Type{
	Name: "reboot",
	Shape: site.StepType{
		Spec: hcldec.ObjectSpec{
			"hosts":    attribute("hosts", cty.DynamicPseudoType, true),
			"triggers": attribute("triggers", cty.Map(cty.String), false),
		},
		Outputs: map[string]cty.Type{"boot_ids": cty.Map(cty.String)},
	},
	New: newReboot,
}

type rebootStep struct {
	env   Env
	hosts []string
}

func newReboot(inputs cty.Value, env Env) (Step, error) {
	hosts, err := machines(inputs.GetAttr("hosts"))
	if err != nil {
		return nil, fmt.Errorf("hosts: %w", err)
	}
	return &rebootStep{env: env, hosts: hosts}, nil
}

// Inspect implements Step.
func (s *rebootStep) Inspect(context.Context) (Finding, error) { return once(s.env), nil }

// Do implements Step.
func (s *rebootStep) Do(ctx context.Context) (cty.Value, error) {
	ids := map[string]cty.Value{}
	for _, m := range s.hosts {
		id, err := s.reboot(ctx, m)
		if err != nil {
			return cty.NilVal, fmt.Errorf("rebooting %s: %w", m, err)
		}
		ids[m] = cty.StringVal(id)
	}
	return cty.ObjectVal(map[string]cty.Value{"boot_ids": cty.MapVal(ids)}), nil
}

// reboot restarts one machine and returns the id of the boot after it.
func (s *rebootStep) reboot(ctx context.Context, machine string) (string, error) {
	before, err := s.bootID(ctx, machine)
	if err != nil {
		return "", err
	}
	h, err := s.env.Hosts.Host(ctx, machine)
	if err != nil {
		return "", err
	}
	s.env.Say("%s: rebooting", machine)
	_, err = h.Run(ctx, remote.Command{Line: "systemctl reboot"})
	h.Close()
	var cut *remote.UnreachableError
	if err != nil && !errors.As(err, &cut) { // the connection may well be cut by the reboot itself
		return "", err
	}
	var after string
	err = until(ctx, s.env.Clock, 2*time.Second, func(ctx context.Context) error {
		after, err = s.bootID(ctx, machine)
		if err == nil && after == before {
			err = errors.New("it has not gone down yet")
		}
		return err
	})
	return after, err
}

// bootID is the kernel's own name for the current boot.
func (s *rebootStep) bootID(ctx context.Context, machine string) (string, error) {
	h, err := s.env.Hosts.Host(ctx, machine)
	if err != nil {
		return "", err
	}
	defer h.Close()
	r, err := h.Run(ctx, remote.Command{Line: "cat /proc/sys/kernel/random/boot_id"})
	return strings.TrimSpace(r.Stdout), err
}

// Verify implements Step; Do has seen the new boot.
func (s *rebootStep) Verify(context.Context) error { return nil }
