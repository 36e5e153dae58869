package bmc_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
)

const disc = "http://172.22.0.1:8480/asset/rescue.iso"

func TestVirtualMediaIsInsertedAndEjected(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	log := &events{}
	c := r.open(t, bmc.Deps{Recorder: log})
	var ejected []string
	const signature = "?signature=hunter2"
	for _, image := range []string{disc, disc + "2" + signature} {
		out, err := c.InsertMedia(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		ejected = append(ejected, fmt.Sprint(out))
	}
	for range 2 {
		out, err := c.EjectMedia(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		ejected = append(ejected, fmt.Sprint(out))
	}
	if want := []string{"[]", "[" + disc + "]", "[" + disc + "2]", "[]"}; !slices.Equal(ejected, want) {
		t.Errorf("ejected %v; want what was in the drive, %v", ejected, want)
	}
	// A drive that holds something is emptied first.
	want := []sim.MediaEvent{{Image: disc, Inserted: true}, {}, {Image: disc + "2" + signature, Inserted: true}, {}}
	if got := r.service.Media(); !slices.Equal(got, want) {
		t.Errorf("the BMC was told %v; want %v", got, want)
	}
	if got := log.kinds(); !slices.Equal(got, slices.Repeat([]inventory.EventKind{inventory.EventBMCMedia}, 4)) {
		t.Errorf("events %v; want four of media", got)
	}
	if got := log.of(inventory.EventBMCMedia)[1].Attrs; got["action"] != "inserted" || got["image"] != disc+"2" || got["ejected"] != disc {
		t.Errorf("the second event has %v; want what was inserted, without its signature, and what was ejected for it", got)
	}
	r.noSessions(t)
}

// What another user has put into a drive is named without what only that user is to
// know, and is told of also where nothing could be put in its place.
func TestMediaThatIsEjectedIsNamed(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ image, name, want string }{
		{"http://172.22.0.1/other.iso", "other.iso", "http://172.22.0.1/other.iso"},
		{"https://me:hunter2@172.22.0.1/other.iso?signature=hunter2#hunter2", "", "https://172.22.0.1/other.iso"},
		{"//me:hunter2@172.22.0.1/share/other.iso", "", "//172.22.0.1/share/other.iso"},
		{`\\me:hunter2@172.22.0.1\share\other.iso`, "other.iso", "other.iso"},
		{"172.22.0.1:/me:hunter2@share/other.iso", "", "an image without a name"},
		{"", "rescue\nstick", "rescue stick"},
		{"", "", "an image without a name"},
	} {
		t.Run(tt.want, func(t *testing.T) {
			t.Parallel()
			r, c := capturedBMC(t, "dell-idrac-two-drives")
			drive := r.documents[redfishRoot+"/Systems/System.Embedded.1/VirtualMedia/1"]
			drive["Inserted"], drive["Image"], drive["ImageName"] = true, tt.image, tt.name
			if got, err := c.EjectMedia(t.Context()); err != nil || !slices.Equal(got, []string{tt.want}) {
				t.Errorf("EjectMedia() = %q, %v; want %q", got, err, tt.want)
			}
		})
	}
	r := newRig(t)
	log := &events{}
	c := r.open(t, bmc.Deps{Recorder: log})
	if _, err := c.InsertMedia(t.Context(), disc); err != nil {
		t.Fatal(err)
	}
	r.service.SetFault(sim.FaultLostMedia)
	got, err := c.InsertMedia(t.Context(), disc+"2")
	if err == nil || !slices.Equal(got, []string{disc}) {
		t.Errorf("InsertMedia() = %q, %v; want an error, and what was ejected for it", got, err)
	}
	if last := log.of(inventory.EventBMCMedia)[1].Attrs; last["action"] != "ejected" || last["ejected"] != disc || last["image"] != "" {
		t.Errorf("the last event has %v; want that it was ejected", last)
	}
}

func TestVirtualMediaThatIsNotThereSaysWhatToDo(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		fault sim.Fault
		image string
		want  string
	}{
		{"no drive for discs", sim.FaultNoMedia, disc, "no virtual CD drive"},
		{"accepted and forgotten", sim.FaultLostMedia, disc, "another user's session may hold the drive"},
		{"a right that is missing", sim.FaultForbidden, disc, "Administrator or Operator"},
		{"a file of this host", sim.FaultNone, "/root/rescue.iso", "must be one that the BMC can reach"},
		{"a password in the URL", sim.FaultNone, "http://me:hunter2@host/x.iso", "serve the image without"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.service.SetFault(tt.fault)
			_, err := r.open(t, bmc.Deps{}).InsertMedia(t.Context(), tt.image)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("InsertMedia(%s) = %v; want an error with %q", tt.image, err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("InsertMedia(%s) = %v; want no password in it", tt.image, err)
			}
		})
	}
}

func TestDriversWithoutMediaOrConsoleSayWhatToDo(t *testing.T) {
	t.Parallel()
	_, config := ipmiRig(t, "secret")
	ipmi := openIPMI(t, config, bmc.Deps{})
	none := openIPMI(t, bmc.Config{Driver: bmc.DriverNone}, bmc.Deps{})
	redfish := newRig(t).open(t, bmc.Deps{})
	_, sensors := none.Sensors(t.Context())
	_, ejected := none.EjectMedia(t.Context())
	inserted := func(c *bmc.Controller) error {
		_, err := c.InsertMedia(t.Context(), disc)
		return err
	}
	tests := []struct {
		what string
		err  error
		want string
	}{
		{"media over IPMI", inserted(ipmi), `declare driver = "redfish"`},
		{"console over Redfish", redfish.Console(t.Context(), strings.NewReader(""), t.Output()), `declare driver = "ipmi"`},
		{"media by hand", inserted(none), "put a disc or USB stick"},
		{"media out by hand", ejected, "take the disc or USB stick out"},
		{"console by hand", none.Console(t.Context(), strings.NewReader(""), t.Output()), "look at its screen"},
		{"sensors by hand", sensors, "inventory show"},
	}
	for _, tt := range tests {
		unsupported, person := (*bmc.UnsupportedError)(nil), (*bmc.PersonError)(nil)
		if !errors.As(tt.err, &unsupported) && !errors.As(tt.err, &person) || !strings.Contains(tt.err.Error(), tt.want) {
			t.Errorf("%s: %v; want an error that says %q", tt.what, tt.err, tt.want)
		}
	}
}
