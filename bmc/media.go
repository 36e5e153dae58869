package bmc

import (
	"context"
	"fmt"
	"net/url"

	"github.com/edge-provision/edge-provision/inventory"
)

// InsertMedia puts a disc image into the machine's virtual CD drive and reads
// back that it is there; what was in the drive, or in another one that takes
// discs, is ejected. The BMC itself fetches the image, from a URL (http or https)
// that it must be able to reach. It does not change what the machine boots: see
// SetNextBoot.
func (c *Controller) InsertMedia(ctx context.Context, image string) error {
	u, err := url.Parse(image)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return fmt.Errorf("image %q is no http or https URL; the BMC fetches the image by itself, so it must be one that the BMC can reach", clip(image))
	case u.User != nil:
		return fmt.Errorf("the URL of the image has a user name or password in it, which the BMC would show to everybody; serve the image without")
	}
	return c.media(ctx, "inserting virtual media", image)
}

// EjectMedia takes the image out of the machine's virtual CD drive, of every one
// where there are several; it is no error when there is none.
func (c *Controller) EjectMedia(ctx context.Context) error {
	return c.media(ctx, "ejecting virtual media", "")
}

func (c *Controller) media(ctx context.Context, op, image string) error {
	err := c.exclusive(ctx, op, func() error {
		return c.call(ctx, op, func(ctx context.Context, s session, _ *effect) error { return s.media(ctx, image) })
	})
	if err != nil {
		return err
	}
	action := "inserted"
	if image == "" {
		action = "ejected"
	}
	c.record(inventory.EventBMCMedia, "virtual media "+action, map[string]string{"action": action, "image": image})
	return nil
}
