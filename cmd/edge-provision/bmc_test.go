package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/bmc/sim"
)

func TestBMCCommandsReachTheMachine(t *testing.T) {
	t.Parallel()
	block, service := redfishWith(t, "right-password",
		sim.Sensor{Name: "CPU Temp", Unit: sim.Celsius, Value: 45}, sim.Sensor{Name: "FAN 1", Unit: sim.RPM, Value: 300, Critical: 500})
	f := newFlight(t, block, 0)
	const disc = "http://172.22.0.1/rescue.iso"
	tests := []struct {
		args string
		code int
		want string
	}{
		{"power M on", exitOK, "on\n"},
		{"power M", exitOK, "on\n"},
		{"power --force M cycle", exitOK, "on\n"},
		{"boot M cdrom", exitOK, ""},
		{"sensors M", exitOK, "KIND         NAME      READING  HEALTH\nfan          FAN 1     300 rpm  critical\ntemperature  CPU Temp  45 °C    ok\n"},
		{"sensors M -ojson", exitOK, `"value": 45`},
		{"sensors M -o xml", exitError, "neither table nor json"},
		{"inventory M", exitOK, "bios.version                      \"1.2.3\"\n"},
		{"inventory M -o json", exitOK, `"bytes": 17179869184`},
		{"inventory M -o xml", exitError, "neither table nor json"},
		{"media M insert " + disc, exitOK, ""},
		{"media M insert " + disc + "2", exitOK, "Ejected " + disc + ".\n"},
		{"media M eject", exitOK, "Ejected " + disc + "2.\n"},
		{"media M eject", exitOK, ""},
		{"media M insert", exitError, "say insert and a URL"},
		{"media M eject " + disc, exitError, "say insert and a URL"},
		{"media M insert rescue.iso", exitError, "must be one that the BMC can reach"},
		{"media M insert http://root:letmein@172.22.0.1/a.iso?sig=letmein", exitError, "has a user name or password in it"},
		{"boot --persistent --legacy M pxe", exitOK, ""},
		{"boot M floppy", exitError, "is none of"},
		{"forget-refusal M", exitOK, ""},
		{"console M", exitError, `declare driver = "ipmi"`},
	}
	for _, tt := range tests {
		args := []string{"bmc", "--site", f.path}
		for _, word := range strings.Fields(tt.args) {
			if word == "M" {
				word = "machine.till"
			}
			args = append(args, word)
		}
		code, got := f.run(args...)
		if code != tt.code || !strings.Contains(got, tt.want) {
			t.Errorf("bmc %s = %d:\n%s; want %d and %q", tt.args, code, got, tt.code, tt.want)
		}
	}
	want := []sim.MediaEvent{{Image: disc, Inserted: true}, {}, {Image: disc + "2", Inserted: true}, {}}
	if got := service.Media(); !slices.Equal(got, want) {
		t.Errorf("the BMC was told %v; want %v", got, want)
	}
	// Whose power, disc and boot device it was stands in the audit: of the catalog's
	// machine, and of the BMC that was asked.
	records, err := f.world.catalog.AuditPage(t.Context(), "command-line", 0, 100)
	var audit []string
	for _, r := range slices.Backward(records) {
		if r.Name != whoAmI() || r.FinishedAt.IsZero() {
			t.Errorf("record = %+v; want who did it, and that it ended", r)
		}
		audit = append(audit, fmt.Sprint(r.Action, " ", r.Target, " ", r.Status))
	}
	_, at, _ := strings.Cut(block, "https://")
	at, _, _ = strings.Cut(at, `"`)
	on := func(action, what string, status int) string {
		return fmt.Sprintf("%s %s%s, BMC %s %d", action, f.machine, what, at, status)
	}
	done := []string{
		on("setPower", " on", 202), on("setPower", " cycle, forced", 202), on("setNextBoot", " cdrom", 200),
		on("setMedia", " insert "+disc, 200), on("setMedia", " insert "+disc+"2", 200), on("setMedia", " eject", 200), on("setMedia", " eject", 200),
		on("setMedia", " insert rescue.iso", 409), on("setMedia", " insert http://172.22.0.1/a.iso", 409), on("setNextBoot", " pxe, persistent, legacy", 200),
		on("forgetRefusal", "", 200),
	}
	if err != nil || !slices.Equal(audit, done) {
		t.Errorf("audit =\n%s\n%v; want\n%s", strings.Join(audit, "\n"), err, strings.Join(done, "\n"))
	}
	tellsNobody(t, f.world, "right-password", "letmein")
	if _, trace := f.run("trace", "machine.till"); !strings.Contains(trace, "virtual media inserted") {
		t.Errorf("trace does not tell of the virtual media:\n%s", trace)
	}
}

// TestRefusedPasswordNamesItsLine asks a BMC twice with a wrong password: the
// second time nothing is sent, and both times the place to correct is named.
func TestRefusedPasswordNamesItsLine(t *testing.T) {
	t.Parallel()
	block, service := redfishWith(t, "wrong-password")
	f := newFlight(t, block, 0)
	text, err := os.ReadFile(f.path)
	if err != nil {
		t.Fatal(err)
	}
	before, _, _ := strings.Cut(string(text), "bmc {")
	line := fmt.Sprintf("site.hcl:%d", strings.Count(before, "\n")+1)
	for _, args := range [][]string{
		{"bmc", "power", "--site", f.path, "machine.till"},
		{"bmc", "power", "--site", f.path, "machine.till"},
	} {
		got := f.mustFail(args...)
		if !strings.Contains(got, line) || !strings.Contains(got, "username or password") {
			t.Errorf("%v says %q; want %s and what to do", args, got, line)
		}
	}
	code, got := f.run("plan", f.path)
	if code != exitOK || !strings.Contains(got, line) {
		t.Errorf("plan = %d:\n%s; want %d, and %s as the place to correct", code, got, exitOK, line)
	}
	if told := tellsNobody(t, f.world, "wrong-password"); !strings.Contains(told, "bmc.refused") {
		t.Errorf("no answer tells of the refusal:\n%s", told)
	}
	if n := service.Refused(); n != 1 {
		t.Errorf("the BMC was sent the wrong password %d times; want once", n)
	}
}
