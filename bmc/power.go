package bmc

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// PowerState is whether a machine is switched on.
type PowerState string

// Power states.
const (
	PowerOn  PowerState = "on"
	PowerOff PowerState = "off"
	// PowerUnknown: the BMC did not say, or said something that is neither
	// (such as Redfish's PoweringOn).
	PowerUnknown PowerState = "unknown"
)

// PowerAction is what is to be done to a machine's power.
type PowerAction string

// Power actions.
const (
	// On switches the machine on. Done when it is on.
	On PowerAction = "on"
	// Off cuts the power at once. Done when it is off.
	Off PowerAction = "off"
	// Soft asks the operating system to shut down, as the power button does,
	// and does not wait for it. Done when the machine is off.
	Soft PowerAction = "soft"
	// Cycle cuts the power and switches on again; a machine that is off is
	// only switched on.
	Cycle PowerAction = "cycle"
	// Reset restarts the machine without warning its operating system; a
	// machine that is off is switched on.
	Reset PowerAction = "reset"
)

// parsePowerState reads what a provider calls a power state: Redfish's
// PowerState (DSP0268) or a line of ipmitool's output.
func parsePowerState(s string) PowerState {
	low := strings.ToLower(strings.TrimSpace(s))
	switch {
	case low == "on" || strings.Contains(low, "chassis power is on"):
		return PowerOn
	case low == "off" || strings.Contains(low, "chassis power is off"):
		return PowerOff
	}
	return PowerUnknown
}

// PowerState asks the BMC whether its machine is on.
func (c *Controller) PowerState(ctx context.Context) (PowerState, error) {
	state := PowerUnknown
	err := c.exclusive(ctx, "reading the power state", func() error {
		return c.call(ctx, "reading the power state", func(ctx context.Context, s session, _ *effect) error {
			var err error
			state, err = s.power(ctx)
			return err
		})
	})
	return state, err
}

// SetPower carries out a power action and, except for Soft, returns when the
// BMC confirms the new state. On, Off and Soft may be repeated without harm.
// A Cycle or Reset that was sent and not confirmed is not sent again: the
// error says so, and PowerState tells what became of it.
func (c *Controller) SetPower(ctx context.Context, a PowerAction) error {
	op := "power " + string(a)
	var err error
	switch a {
	case On, Off, Soft, Reset:
		err = c.exclusive(ctx, op, func() error { return c.setPower(ctx, op, a) })
	case Cycle:
		err = c.exclusive(ctx, op, func() error { return c.cyclePower(ctx, op) })
	default:
		return fmt.Errorf("power action %q is unknown; use on, off, soft, cycle or reset", a)
	}
	if err == nil {
		c.record(inventory.EventBMCPower, fmt.Sprintf("power %s was carried out", a), map[string]string{
			"action": string(a), "state": string(stateAfter(a)),
		})
	}
	return err
}

// stateAfter is the power state that a confirmed action leaves behind.
func stateAfter(a PowerAction) PowerState {
	switch a {
	case On, Cycle, Reset:
		return PowerOn
	case Off:
		return PowerOff
	case Soft:
	}
	return PowerUnknown
}

// setPower is one action with its retries. The turn is held.
func (c *Controller) setPower(ctx context.Context, op string, a PowerAction) error {
	return c.call(ctx, op, func(ctx context.Context, s session, sent *effect) error {
		state, err := s.power(ctx)
		if err != nil {
			return err
		}
		do := a
		switch {
		case a == On && state == PowerOn, (a == Off || a == Soft) && state == PowerOff:
			return nil
		case (a == Reset || a == Cycle) && state == PowerOff:
			do = On
		}
		if do == Reset || do == Cycle {
			sent.once = true
		}
		if err := s.setPower(ctx, do); err != nil {
			return err
		}
		want := stateAfter(do)
		if want == PowerUnknown {
			return nil
		}
		return c.awaitPower(ctx, s, want)
	})
}

// awaitPower polls until the state is want or ctx ends.
func (c *Controller) awaitPower(ctx context.Context, s session, want PowerState) error {
	last := PowerUnknown
	for looks := 0; ; looks++ {
		state, err := s.power(ctx)
		if err == nil && state == want {
			return nil
		}
		if err != nil && (ctx.Err() == nil || looks == 0) {
			return err
		}
		if err == nil {
			last = state
			err = wait(ctx, c.config.PollInterval)
		}
		if err != nil {
			return &fault{kind: faultResponse, err: fmt.Errorf("the BMC accepted the action but still reports power %s, not %s", last, want)}
		}
	}
}

// cyclePower cuts the power and switches on. The IPMI controller does both by
// itself. Redfish's PowerCycle is optional and missing on most controllers,
// so there it is off, a pause, and on, each confirmed; "on" is sent with its
// own retries even when "off" had to be repeated.
func (c *Controller) cyclePower(ctx context.Context, op string) error {
	if c.config.Driver != DriverRedfish {
		return c.setPower(ctx, op, Cycle)
	}
	if err := c.setPower(ctx, op, Off); err != nil {
		return err
	}
	if err := wait(ctx, c.config.OffTime); err != nil {
		return fmt.Errorf("%s of %s: stopped between off and on, the machine is off now: %w", op, c.name(), err)
	}
	return c.setPower(ctx, op, On)
}

// wait pauses for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
