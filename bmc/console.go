package bmc

import (
	"context"
	"io"
)

// Console joins in and out to the machine's serial console until in ends, the
// user leaves it, or ctx ends. It can take hours, during which other calls of
// this Controller wait. When in is a terminal (an *os.File) it is put into raw
// mode meanwhile. Only DriverIPMI has a console; an UnsupportedError of the
// others says where theirs is.
//
// The machine must be told to use its serial port: the firmware's console
// redirection for the firmware, console=ttyS… for a kernel.
func (c *Controller) Console(ctx context.Context, in io.Reader, out io.Writer) error {
	const op = "opening the console"
	return c.exclusive(ctx, op, func() error {
		var attach func(context.Context, io.Reader, io.Writer) error
		err := c.call(ctx, op, func(_ context.Context, s session, _ *effect) (err error) {
			attach, err = s.console()
			return err
		})
		if err != nil {
			return err
		}
		return c.settle(ctx, op, &effect{}, attach(ctx, in, out))
	})
}
