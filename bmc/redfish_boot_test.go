package bmc_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
)

// sentBoots are the requests of a simulated BMC for overrides, one a line: the last part
// of the path, target, enabled and mode, and whether it was refused.
func sentBoots(r *rig) []string {
	var out []string
	for _, b := range r.service.BootRequests() {
		line := b.Path[strings.LastIndex(b.Path, "/")+1:]
		for _, property := range []string{"Target", "Enabled", "Mode"} {
			if value, ok := b.Boot["BootSourceOverride"+property]; ok {
				line += fmt.Sprint(" ", value)
				delete(b.Boot, "BootSourceOverride"+property)
			}
		}
		for other := range b.Boot {
			line += " and " + other
		}
		if !b.Taken {
			line += " refused"
		}
		out = append(out, line)
	}
	return out
}

// bootsLike makes a simulated BMC of a manufacturer that takes overrides by rules.
func bootsLike(manufacturer string, rules sim.BootRules) func(*sim.RedfishConfig) {
	return func(c *sim.RedfishConfig) { c.Manufacturer, c.Boot = manufacturer, rules }
}

func TestBootOverrideIsSentAsEachVendorTakesIt(t *testing.T) {
	t.Parallel()
	plain := []string{"1 Pxe Once", "1 None Disabled"}
	settings := []string{"1 Pxe Once refused", "SD Pxe Once", "1 None Disabled refused", "SD None Disabled"}
	tests := []struct {
		name  string
		maker string
		rules sim.BootRules
		want  []string
	}{
		{"iDRAC9, of which the mode would be a BIOS job", "Dell Inc.", sim.BootRules{EFI: true, Settings: sim.SettingsOffered}, plain},
		{"the mode is to change", "Dell Inc.", sim.BootRules{Settings: sim.SettingsOffered}, []string{"1 Pxe Once UEFI", "1 None Disabled"}},
		{"iLO", "HPE", sim.BootRules{EFI: true, ModeReadOnly: true}, plain},
		{"iLO that shows no mode", "HPE", sim.BootRules{EFI: true, ModeReadOnly: true, ModeHidden: true}, []string{"1 Pxe Once UEFI refused", "1 Pxe Once", "1 None Disabled"}},
		{"OpenBMC that shows no mode", "Example", sim.BootRules{EFI: true, ModeAnnotated: true, ModeHidden: true}, []string{"1 Pxe Once UEFI refused", "1 Pxe Once", "1 None Disabled"}},
		{"Supermicro", "Supermicro", sim.BootRules{EFI: true, ModeRequired: true}, []string{"1 Pxe Once UEFI", "1 None Disabled UEFI"}},
		{"older Supermicro", "Super Micro Computer, Inc.", sim.BootRules{EFI: true, ModeForgotten: true}, []string{"1 Pxe Once UEFI", "1 None Disabled UEFI"}},
		{"Supermicro by another name", "Example", sim.BootRules{EFI: true, ModeRequired: true}, []string{"1 Pxe Once refused", "1 Pxe Once UEFI", "1 None Disabled refused", "1 None Disabled UEFI"}},
		{"iDRAC10", "Dell Inc.", sim.BootRules{EFI: true, Settings: sim.SettingsReadOnly}, settings},
		{"iDRAC10 behind a web server that compresses", "Dell Inc.", sim.BootRules{EFI: true, Settings: sim.SettingsReadOnly, TagSuffix: "-gzip"}, settings},
		{"AMI", "ZTSYSTEMS", sim.BootRules{EFI: true, Settings: sim.SettingsFutureState}, []string{"1 Pxe Once UEFI refused", "SD Pxe Once", "1 None Disabled refused", "SD None Disabled"}},
		{"AMI that needs a mode", "ZTSYSTEMS", sim.BootRules{EFI: true, Settings: sim.SettingsFutureState, ModeRequired: true}, []string{
			"1 Pxe Once UEFI refused", "SD Pxe Once refused", "SD Pxe Once UEFI", "1 None Disabled refused", "SD None Disabled refused", "SD None Disabled UEFI",
		}},
		{"a system that takes no PATCH", "Example", sim.BootRules{EFI: true, Settings: sim.SettingsNoPatch}, settings},
		{"ETags of a web server that compresses", "Example", sim.BootRules{EFI: true, TagSuffix: "-gzip"}, plain},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, bootsLike(tt.maker, tt.rules))
			c := r.open(t, bmc.Deps{})
			for _, step := range []struct {
				device bmc.BootDevice
				want   sim.Override
			}{{bmc.BootPXE, sim.Override{Device: sim.PXE, Once: true, EFI: true}}, {bmc.BootNone, sim.Override{}}} {
				if err := c.SetNextBoot(t.Context(), step.device, bmc.BootOptions{EFI: true}); err != nil {
					t.Errorf("SetNextBoot(%s) = %v; want no error", step.device, err)
				}
				if got, err := r.machine.Boot(t.Context()); got != step.want || err != nil {
					t.Errorf("after SetNextBoot(%s) the machine has %+v, %v; want %+v", step.device, got, err, step.want)
				}
			}
			if diff := cmp.Diff(tt.want, sentBoots(r)); diff != "" {
				t.Errorf("requests differ (-want +got):\n%s", diff)
			}
			r.noSessions(t)
		})
	}
}

func TestClearingABootOverrideLeavesTheMode(t *testing.T) {
	t.Parallel()
	for _, rules := range []sim.BootRules{{EFI: true}, {EFI: true, Settings: sim.SettingsFutureState}, {EFI: true, ModeRequired: true}} {
		r := newRig(t, bootsLike("Example", rules))
		if err := r.open(t, bmc.Deps{}).SetNextBoot(t.Context(), bmc.BootNone, bmc.BootOptions{}); err != nil {
			t.Errorf("SetNextBoot(none) by %+v = %v; want no error", rules, err)
		}
		for _, line := range sentBoots(r) {
			if strings.Contains(line, "Legacy") {
				t.Errorf("SetNextBoot(none) by %+v sent %q; want the mode left alone", rules, line)
			}
		}
	}
}

func TestBootOverrideInAnotherModeThanAskedForIsAnError(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		rules sim.BootRules
		o     bmc.BootOptions
		want  string
		sent  []string
	}{
		// The override is in the machine's own mode then, which reading it back tells.
		{"a mode that cannot be written", sim.BootRules{EFI: true, ModeReadOnly: true}, bmc.BootOptions{}, "reports UEFI true", []string{"1 Pxe Once Legacy refused", "1 Pxe Once"}},
		{"a mode that is forgotten", sim.BootRules{EFI: true, ModeForgotten: true}, bmc.BootOptions{EFI: true}, "reports UEFI false", []string{"1 Pxe Once"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, bootsLike("Example", tt.rules))
			err := r.open(t, bmc.Deps{}).SetNextBoot(t.Context(), bmc.BootPXE, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("SetNextBoot() = %v; want an error with %q", err, tt.want)
			}
			if diff := cmp.Diff(tt.sent, sentBoots(r)); diff != "" {
				t.Errorf("requests differ (-want +got):\n%s", diff)
			}
		})
	}
}
