package bmc

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// InsertMedia puts a disc image into the machine's virtual CD drive and reads
// back that it is there; what was in the drive, or in another one that takes
// discs, is ejected, and returned as the BMC names it: by URL, without password or
// query. An error does not mean that nothing was ejected. The BMC itself fetches the
// image, from a URL (http or https) that it must be able to reach. It does not change
// what the machine boots: see SetNextBoot.
func (c *Controller) InsertMedia(ctx context.Context, image string) (ejected []string, err error) {
	u, err := url.Parse(image)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("image %q is no http or https URL; the BMC fetches the image by itself, so it must be one that the BMC can reach", clip(image))
	case u.User != nil:
		return nil, fmt.Errorf("the URL of the image has a user name or password in it, which the BMC would show to everybody; serve the image without")
	}
	return c.media(ctx, "inserting virtual media", image)
}

// EjectMedia takes the image out of the machine's virtual CD drive, of every one
// where there are several, and returns them as InsertMedia does; it is no error when
// there is none.
func (c *Controller) EjectMedia(ctx context.Context) (ejected []string, err error) {
	return c.media(ctx, "ejecting virtual media", "")
}

func (c *Controller) media(ctx context.Context, op, image string) (ejected []string, err error) {
	err = c.exclusive(ctx, op, func() error {
		return c.call(ctx, op, func(ctx context.Context, s session, _ *effect) error {
			out, err := s.media(ctx, image)
			// An attempt after this one finds empty drives.
			ejected = append(ejected, out...)
			return err
		})
	})
	if err != nil && len(ejected) == 0 {
		return nil, err
	}
	attrs := map[string]string{"action": "inserted", "image": ImageName(image)}
	if image == "" || err != nil {
		attrs = map[string]string{"action": "ejected", "image": ""}
	}
	if len(ejected) > 0 {
		attrs["ejected"] = strings.Join(ejected, ", ")
	}
	c.record(inventory.EventBMCMedia, "virtual media "+attrs["action"], attrs)
	return ejected, err
}

// namelessMedia is what a drive holds of which the BMC does not say what it is.
const namelessMedia = "an image without a name"

// mediaName is what a drive holds, for everybody to read: another user may have given
// the BMC a URL with a password, or with a signature in its query.
func mediaName(d mediaDocument) string {
	return cmp.Or(publicURL(d.Image), clip(d.ImageName), namelessMedia)
}

// ImageName is the URL of a disc image for everybody to read: without a user, a
// password, and a query, which may be a signature.
func ImageName(image string) string { return cmp.Or(publicURL(image), namelessMedia) }

// publicURL is empty for what might hide a password.
func publicURL(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil && strings.Contains(text, "@") {
		return ""
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return clip(u.String())
}
