package main

import (
	"encoding/json"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// crashKinds says for each type of step which test kills apply at each of its
// boundaries.
var crashKinds = map[string]string{
	"ssh": "TestKillAtEveryBoundaryThenApply", "file": "TestKillAtEveryBoundaryThenApply",
	"wait": "TestKillAtEveryBoundaryOfAMachinesSteps", "reboot": "TestKillAtEveryBoundaryOfAMachinesSteps", "power": "TestKillAtEveryBoundaryOfAMachinesSteps",
	"wipe": "TestKillAtEveryBoundaryOfAWipe",
	"http": "TestKillAtEveryBoundaryOfStepsInACluster", "manifest": "TestKillAtEveryBoundaryOfStepsInACluster",
	"helm": "TestKillAtEveryBoundaryOfStepsInACluster", "local_path": "TestKillAtEveryBoundaryOfStepsInACluster",
	"portworx": "TestKillAtEveryBoundaryOfPortworx",
	"k3s":      "TestKillAtEveryBoundaryOfACluster", "calico": "TestKillAtEveryBoundaryOfACluster",
	"fluentd": "TestKillAtEveryBoundaryOfACluster", "prometheus": "TestKillAtEveryBoundaryOfACluster",
}

// TestEveryTypeOfStepIsKilled keeps a new type of step from being forgotten: it
// has to be in a test of kills, which names a step of it.
func TestEveryTypeOfStepIsKilled(t *testing.T) {
	tests := map[string]string{} // by name, the files that have one
	for _, pattern := range []string{"*crash*_test.go", filepath.Join(repository, "rack", "scenario", "boundary_e2e_test.go")} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("Glob(%q) = %q, %v; want files", pattern, files, err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(string(text)) {
				if name, is := strings.CutPrefix(line, "func TestKill"); is {
					name, _, _ = strings.Cut(name, "(")
					tests["TestKill"+name] = string(text)
				}
			}
		}
	}
	for _, kind := range steps.Types {
		text, is := tests[crashKinds[kind.Name]]
		if !is || !strings.Contains(text, `step "`+kind.Name+`" "`) && !strings.Contains(text, `{"`+kind.Name+".") {
			t.Errorf("no test kills apply at each boundary of a step of type %q: crashKinds names %q; want one that declares such a step", kind.Name, crashKinds[kind.Name])
		}
	}
}

// installed is a plant whose machine this catalog has installed: this one behind
// a real SSH server, with stand-ins for what would change it, and a BMC that is
// simulated.
type installed struct {
	*plant
	memory *sim.Memory
	bmc    string

	mu sync.Mutex
	// erasing is called with each command that erases a disk, and returns what is
	// run in its place.
	erasing func(line string) string
}

func newInstalled(t *testing.T) *installed {
	t.Helper()
	p := &installed{plant: newPlant(t), memory: &sim.Memory{}}
	p.env = append(p.env, sshVariable+"="+p.server.Address)
	if err := p.memory.Do(t.Context(), sim.On); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewTLSServer(sim.NewRedfish(sim.RedfishConfig{Username: "admin", Password: "right-password"}, p.memory))
	t.Cleanup(server.Close)
	p.bmc = bmcBlock(server.URL, "right-password", bmc.Fingerprint(server.Certificate()))
	p.declare("")
	s, diags := site.Load(p.site(), site.Options{StepTypes: steps.Shapes()})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	m := s.Machines[0]
	record := workflows.NewInstallRecord(m)
	record.Image, record.ImageSpec, record.HostKey = "sha256:"+strings.Repeat("0", 64), steps.ImageSpec(m.Image), p.server.HostKey
	outputs, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	p.catalog(func(c *store.Store) {
		if _, err := c.Declare(t.Context(), "plant", m.Address, m.MAC); err != nil {
			t.Fatal(err)
		}
		if err := c.PutApplied(t.Context(), store.Applied{Site: "plant", Address: m.Address, Digest: "d", Outputs: outputs, Kind: "machine"}); err != nil {
			t.Fatal(err)
		}
		identity, err := json.Marshal(workflows.HostIdentity{Catalog: c.CatalogID().String(), Site: "plant", Address: m.Address, Image: record.Image})
		if err != nil {
			t.Fatal(err)
		}
		p.server.Files = map[string]string{"/etc/edge-provision/identity.json": string(identity)}
	})
	return p
}

// declare writes the site with steps.
func (p *installed) declare(steps string) {
	p.t.Helper()
	p.write(`site "plant" {}
network "floor" {
  interface = "eth1"
  cidr      = "172.24.0.0/24"
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
machine "m" {
  mac     = "52:54:00:00:00:01"
  network = network.floor
  address = "172.24.0.11"
  image   = image.os
  wipe    = true
  ` + p.bmc + `
}
workflow "w" {
` + steps + "\n}\n")
}

// stands puts scripts into a folder that comes first in the machine's PATH.
func (p *installed) stands(scripts map[string]string) {
	p.t.Helper()
	bin := filepath.Join(p.dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		p.t.Fatal(err)
	}
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+strings.ReplaceAll(text, "DIR", p.dir)+"\n"), 0o700); err != nil {
			p.t.Fatal(err)
		}
	}
	p.server.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
}

// killed applies one step and is killed at a boundary of it.
func (p *installed) killed(step string, at workflows.Boundary) {
	p.t.Helper()
	address := "workflow.w.step." + step
	if code, out := p.run("", []string{failPointVariable + "=" + address + "@" + string(at)}, "apply", "-auto-approve", "-target="+address, p.site()); code != -1 {
		p.t.Fatalf("apply exits with %d; want it killed at %s of %s\n%s", code, at, step, out)
	}
}

// machineSteps are those that are about a machine as a whole.
const machineSteps = `
  step "ssh" "start" {
    hosts   = machine.m
    command = "touch DIR/started"
    creates = "DIR/started"
  }
  step "wait" "up" {
    hosts      = machine.m
    command    = "test -e DIR/started"
    depends_on = [step.ssh.start]
  }
  step "reboot" "once" {
    hosts    = machine.m
    triggers = { kernel = "TRIGGER" }
  }
  step "power" "cycled" {
    machines = machine.m
    state    = "cycle"
  }
  step "power" "kept" {
    machines = machine.m
    state    = "off"
  }`

// TestKillAtEveryBoundaryOfAMachinesSteps kills apply at each boundary of one step
// after the other, each time with what the kill before has left.
func TestKillAtEveryBoundaryOfAMachinesSteps(t *testing.T) {
	t.Parallel()
	p := newInstalled(t)
	p.server.Rewrite = func(line string) string {
		return strings.ReplaceAll(line, "/proc/sys/kernel/random/boot_id", p.dir+"/boot_id")
	}
	p.stands(map[string]string{"systemctl": `echo "$@" >> DIR/log; wc -l < DIR/log > DIR/boot_id`})
	if err := os.WriteFile(filepath.Join(p.dir, "boot_id"), []byte("first\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	// The machine forgets that it was started, so that there is something to wait for.
	stopped := func() {
		if err := os.RemoveAll(filepath.Join(p.dir, "started")); err != nil {
			t.Fatal(err)
		}
	}
	walked := []string{"wait.up", "reboot.once", "power.kept"}
	// It takes five seconds each time, and is an action as the restart is.
	p.declare(strings.ReplaceAll(machineSteps, "TRIGGER", "1"))
	p.killed("power.cycled", workflows.AfterDo)
	p.must(exitOK, "", "apply", "-auto-approve", "-target=workflow.w.step.power.cycled", p.site())
	for _, step := range walked {
		for _, at := range workflows.Boundaries() {
			if at == workflows.AfterResult {
				continue // what is recorded does not run again
			}
			stopped()
			p.killed(step, at)
		}
	}
	p.apply()
	p.wants(p.apply(), "No changes.")
	// An action whose end nobody wrote down may have run, and runs again: once.
	if got := p.file("log"); got != "reboot\nreboot\n" {
		t.Errorf("systemctl was called with %q; want two reboots, one of them for the kill right after it", got)
	}
	off := func(cycles int) {
		t.Helper()
		on, err := p.memory.Power(t.Context())
		if got := len(p.memory.Boots()) - 1; err != nil || on || got != cycles {
			t.Errorf("on = %v, %v after %d starts (%q); want it off after %d", on, err, got, p.memory.Actions(), cycles)
		}
	}
	off(2)

	// Somebody switches it on.
	if err := p.memory.Do(t.Context(), sim.On); err != nil {
		t.Fatal(err)
	}
	p.declare(strings.ReplaceAll(machineSteps, "TRIGGER", "2"))
	for _, step := range walked {
		stopped()
		p.killed(step, workflows.AfterResult)
	}
	p.apply()
	p.wants(p.apply(), "No changes.")
	if got := p.file("log"); got != strings.Repeat("reboot\n", 3) {
		t.Errorf("systemctl was called with %q; want one more for the trigger: its result is known", got)
	}
	off(3)
	for _, r := range p.runs() {
		if r.Finished.IsZero() {
			t.Errorf("run %s is still open", r.ID)
		}
	}
}

const wipeDisk = `
  step "wipe" "data" {
    machine = machine.m
    disks   = ["B"]
  }`

// disks gives the machine two data disks that are files with a real file system,
// for the real wipefs(8). Only the list of disks is made up.
func (p *installed) disks() {
	p.t.Helper()
	for _, name := range []string{"sdb", "sdc"} {
		path := filepath.Join(p.dir, name)
		err := os.WriteFile(path, nil, 0o600)
		if err == nil {
			err = os.Truncate(path, 4<<20)
		}
		if err != nil {
			p.t.Fatal(err)
		}
		p.formatted(name)
	}
	p.stands(map[string]string{
		"lsblk": `cat <<'END'
{"blockdevices": [
  {"path": "/dev/sda", "type": "disk", "serial": "ROOT", "wwn": null, "mountpoints": [null], "children": [{"path": "/dev/sda1", "type": "part", "mountpoints": ["/"]}]},
  {"path": "DIR/sdb", "type": "disk", "serial": "B", "wwn": null, "mountpoints": [null]},
  {"path": "DIR/sdc", "type": "disk", "serial": "C", "wwn": null, "mountpoints": [null]}
]}
END`,
		"blockdev": "true", "sync": "true",
	})
	p.erasing = func(line string) string { return line }
	p.server.Rewrite = func(line string) string {
		line = strings.ReplaceAll(line, "/var/lib/edge-provision/", p.dir+"/state/")
		if !strings.Contains(line, erase) {
			return line
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.erasing(line)
	}
	p.declare(wipeDisk)
}

// erase is what erases a disk on a machine.
const erase = "wipefs --all --force"

// formatted puts a new file system on a disk.
func (p *installed) formatted(disk string) {
	p.t.Helper()
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", filepath.Join(p.dir, disk)).CombinedOutput(); err != nil {
		p.t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
}

// signed wants that a disk has a file system, or none; the other one always has.
func (p *installed) signed(when string, want bool) {
	p.t.Helper()
	for disk, want := range map[string]bool{"sdb": want, "sdc": true} {
		out, err := exec.Command("wipefs", "--no-act", "--noheadings", filepath.Join(p.dir, disk)).Output()
		if got := strings.Contains(string(out), "ext4"); err != nil || got != want {
			p.t.Errorf("%s: %s has a file system: %v, %v; want %v", when, disk, got, err, want)
		}
	}
}

func needsDisks(t *testing.T) {
	t.Helper()
	for _, program := range []string{"mkfs.ext4", "wipefs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
}

// TestKillAtEveryBoundaryOfAWipe kills apply at each boundary of the step that
// erases a disk, has somebody put a new file system on that disk, and applies
// again: it is erased once, and the other disk never.
func TestKillAtEveryBoundaryOfAWipe(t *testing.T) {
	needsDisks(t)
	for _, at := range workflows.Boundaries() {
		t.Run(string(at), func(t *testing.T) {
			t.Parallel()
			p := newInstalled(t)
			p.disks()
			p.killed("wipe.data", at)
			before := slices.Contains([]workflows.Boundary{workflows.BeforeIntent, workflows.AfterIntent}, at)
			p.signed("after the kill", before)
			p.formatted("sdb")
			out := p.apply()
			if before {
				// Nothing was erased yet: what the step erases is what is there then.
				p.wants(out, "ERASES every signature on disk B")
			}
			p.signed("after the second apply", !before)
			p.wants(p.apply(), "No changes.")
		})
	}
}

// TestKillInTheMiddleOfAWipe kills apply while its machine erases the disk, just
// before or just after it does.
func TestKillInTheMiddleOfAWipe(t *testing.T) {
	needsDisks(t)
	for _, test := range []struct {
		name              string
		erased, formatted bool
		want              string // of the plan
	}{
		{name: "before", want: "ERASES every signature on disk B"},
		{name: "after", erased: true, want: "records that disk B carries no signature; its erasure was cut off"},
		{name: "after, and it was formatted", erased: true, formatted: true, want: "is not what it carried then; nothing more was erased"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			p := newInstalled(t)
			p.disks()
			apply, out := p.command(t.Context(), "", nil, "apply", "-auto-approve", p.site())
			p.mu.Lock()
			p.erasing = func(line string) string {
				p.erasing = func(line string) string { return line }
				// Of its commands those before the erasure run, and for an end right
				// after it that one as well.
				part, _, found := strings.Cut(line, erase)
				if test.erased {
					part, _, found = strings.Cut(line, ">/dev/null; blockdev")
				}
				c := exec.Command("sh", "-c", part)
				c.Env = append(os.Environ(), p.server.Env...)
				if out, err := c.CombinedOutput(); err != nil || !found {
					t.Errorf("%s: %v\n%s", part, err, out)
				}
				if err := apply.Process.Kill(); err != nil {
					t.Error(err)
				}
				return "exit 1"
			}
			err := apply.Start()
			p.mu.Unlock()
			if err != nil {
				t.Fatal(err)
			}
			if err := apply.Wait(); err == nil || apply.ProcessState.ExitCode() != -1 {
				t.Fatalf("apply = %v; want it killed\n%s", err, out)
			}
			p.signed("after the kill", !test.erased)
			if test.formatted {
				p.formatted("sdb")
				p.wants(p.must(exitError, "", "apply", "-auto-approve", p.site()), test.want)
				p.signed("after a refusal", true)
				return
			}
			p.wants(p.apply(), test.want)
			p.signed("after the second apply", false)
			p.wants(p.apply(), "No changes.")
		})
	}
}
