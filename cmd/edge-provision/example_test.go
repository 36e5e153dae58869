package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

var update = flag.Bool("update", false, "write the golden files anew")

// examples are the sites of hcl-examples. Directories hold sites that share
// modules, which lie deeper, or one site with its files.
func examples(t *testing.T) []string {
	t.Helper()
	var sites []string
	for _, pattern := range []string{"*.hcl", "*/*.hcl", "*/site"} {
		found, err := filepath.Glob(filepath.Join(repository, "hcl-examples", pattern))
		if err != nil || len(found) == 0 {
			t.Fatalf("Glob(%s) = %v, %v; want sites", pattern, found, err)
		}
		sites = append(sites, found...)
	}
	slices.Sort(sites)
	return sites
}

// TestEveryExampleIsPlanned runs plan on every example, where no machine and no
// BMC answers: what a person sees who tries one at a desk.
func TestEveryExampleIsPlanned(t *testing.T) {
	alone := &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	try := exec.Command("true")
	try.SysProcAttr = alone
	if err := try.Run(); err != nil {
		t.Skipf("this user may make no network namespace, without which BMCs of the examples would be sent packets: %v", err)
	}
	sites := examples(t)
	plans := make([]string, len(sites))
	// All at once: they wait for BMCs that are not there.
	var all sync.WaitGroup
	for i, site := range sites {
		all.Go(func() {
			dir := t.TempDir()
			c := exec.CommandContext(t.Context(), "edge-provision", "--data-dir", filepath.Join(dir, "data"), "--cache-dir", filepath.Join(dir, "cache"), "plan", "--json", site)
			c.SysProcAttr = alone
			c.Env = append(os.Environ(), "EDGE_VAR_bmc_password=correct-horse")
			var out, errs bytes.Buffer
			c.Stdout, c.Stderr = &out, &errs
			// 2: an adopted machine cannot be asked.
			if err := c.Run(); err != nil && c.ProcessState.ExitCode() != exitDifferent {
				t.Errorf("plan %s = %v\n%s", site, err, errs.String())
				return
			}
			var plan struct {
				Site    string
				Actions []struct{ Address, Kind string }
			}
			if err := json.Unmarshal(out.Bytes(), &plan); err != nil {
				t.Errorf("plan --json %s = %q: %v", site, out.String(), err)
				return
			}
			text := fmt.Sprintf("%s: site %s\n", strings.TrimPrefix(site, repository+"/"), plan.Site)
			for _, a := range plan.Actions {
				text += fmt.Sprintf("  %s %s\n", a.Kind, a.Address)
			}
			plans[i] = text
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	got := strings.Join(plans, "\n")
	const golden = "testdata/examples.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the plans of the examples are\n%s\nwant those of %s (-update writes it)\n%s", got, golden, want)
	}
}
