package bmc_test

import (
	"errors"
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
	for _, image := range []string{disc, disc + "2"} {
		if err := c.InsertMedia(t.Context(), image); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := c.EjectMedia(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// A drive that holds something is emptied first.
	want := []sim.MediaEvent{{Image: disc, Inserted: true}, {}, {Image: disc + "2", Inserted: true}, {}}
	if got := r.service.Media(); !slices.Equal(got, want) {
		t.Errorf("the BMC was told %v; want %v", got, want)
	}
	if got := log.kinds(); !slices.Equal(got, slices.Repeat([]inventory.EventKind{inventory.EventBMCMedia}, 4)) {
		t.Errorf("events %v; want four of media", got)
	}
	r.noSessions(t)
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
			err := r.open(t, bmc.Deps{}).InsertMedia(t.Context(), tt.image)
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
	tests := []struct {
		what string
		err  error
		want string
	}{
		{"media over IPMI", ipmi.InsertMedia(t.Context(), disc), `declare driver = "redfish"`},
		{"console over Redfish", redfish.Console(t.Context(), strings.NewReader(""), t.Output()), `declare driver = "ipmi"`},
		{"media by hand", none.InsertMedia(t.Context(), disc), "put a disc or USB stick"},
		{"media out by hand", none.EjectMedia(t.Context()), "take the disc or USB stick out"},
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
