package bmc

import "context"

// Identity is what a BMC says its machine is. Empty strings are what it did
// not say. IPMI says nothing.
type Identity struct {
	Manufacturer string
	Model        string
	Serial       string
	UUID         string // as the BMC writes it
}

// Status is what one look at a BMC shows.
type Status struct {
	Driver   Driver
	Address  string // host:port; empty with DriverNone
	Power    PowerState
	NextBoot NextBoot
	Identity Identity
}

// Status reads power state, boot override and identity in one session. It
// changes nothing.
func (c *Controller) Status(ctx context.Context) (Status, error) {
	const op = "reading the status"
	st := Status{Driver: c.config.Driver, Address: c.address, Power: PowerUnknown}
	err := c.exclusive(ctx, op, func() error {
		return c.call(ctx, op, func(ctx context.Context, s session, _ *effect) error {
			var err error
			if st.Power, err = s.power(ctx); err != nil {
				return err
			}
			if st.NextBoot, err = s.boot(ctx); err != nil {
				return err
			}
			st.Identity = s.identity()
			return nil
		})
	})
	return st, err
}
