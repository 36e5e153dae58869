package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestUnitsAreWhatSystemdTakes has systemd's own program look at the units, and
// holds the command in them to the flags that there are. TestSystemdRunsTheUnits
// starts them.
func TestUnitsAreWhatSystemdTakes(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/(.*)$`)
	for _, name := range []string{"edge-provision.service", "edge-provision.socket"} {
		text, err := os.ReadFile(filepath.Join("systemd", name))
		if err != nil {
			t.Fatal(err)
		}
		if m := start.FindSubmatch(text); m != nil {
			// More flags may stand in its place, and none do by default.
			command := strings.Replace(string(m[1]), " $EDGE_SERVE_FLAGS ", " ", 1)
			if path, err := parseCommand(strings.Fields(command)[1:]); err != nil || path != "serve" {
				t.Errorf("%s starts %q: %v; want serve with its flags", name, path, err)
			}
		} else if strings.HasSuffix(name, ".service") {
			t.Errorf("%s starts nothing in /usr/local/bin", name)
		}
		// The program need not be installed where this test runs.
		text = start.ReplaceAll(text, []byte("ExecStart="+self))
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	for _, args := range [][]string{
		{"verify", "./edge-provision.service", "./edge-provision.socket"},
		// 2.5 of 10 is what remains with the network that it is there to serve.
		{"security", "--offline=true", "--threshold=25", "./edge-provision.service"},
	} {
		cmd := exec.CommandContext(t.Context(), "systemd-analyze", args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %q: %v\n%s", args, err, out)
		}
	}
}
