package steps_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// programs puts shell scripts into a folder that comes first in the PATH of the
// bench's machine, so that what would change this host is only told.
func (b *bench) programs(scripts map[string]string) {
	b.t.Helper()
	bin := filepath.Join(b.dir, "bin")
	if err := os.MkdirAll(bin, 0o700); err != nil {
		b.t.Fatal(err)
	}
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+strings.ReplaceAll(text, "DIR", b.dir)+"\n"), 0o700); err != nil {
			b.t.Fatal(err)
		}
	}
	b.server.Env = []string{"PATH=" + bin + ":" + os.Getenv("PATH")}
}

func (b *bench) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

// rebooting makes the machine of the bench restart as it is told to: its boot id
// is in a file, which the stand-in of systemctl changes.
func (b *bench) rebooting(systemctl string) {
	b.server.Rewrite = func(line string) string {
		return strings.ReplaceAll(line, "/proc/sys/kernel/random/boot_id", b.dir+"/boot_id")
	}
	b.write("boot_id", "first\n")
	b.programs(map[string]string{"systemctl": systemctl})
}

const rebootOnce = `
  step "reboot" "r" {
    hosts    = machine.old
    triggers = { kernel = "6.1" }
  }`

func TestRebootWaitsForANewBootAndHappensOnce(t *testing.T) {
	b := newBench(t, rebootOnce)
	b.rebooting(`echo "$@" >> DIR/log; echo second > DIR/boot_id`)
	if v := b.inspect(); v.Presence != workflows.Absent {
		t.Errorf("Inspect() = %+v; want absent: it never ran", v)
	}
	b.mustDo()
	known, err := b.runner.Known(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ids := known.Steps[b.step(0).Address].GetAttr("boot_ids").AsValueMap(); ids["machine.old"].AsString() != "second" {
		t.Errorf("boot_ids = %v; want the id of the boot after it", ids)
	}
	if v := b.inspect(); v.Presence != workflows.Present {
		t.Errorf("Inspect() = %+v; want present: it ran with these triggers", v)
	}
	if log, _ := os.ReadFile(filepath.Join(b.dir, "log")); string(log) != "reboot\n" {
		t.Errorf("systemctl was called with %q; want one reboot", log)
	}
}

// lastLook is a clock on which nobody waits: the time is over when somebody would.
type lastLook struct {
	workflows.SystemClock
	end func()
}

func (c lastLook) After(time.Duration) <-chan time.Time {
	c.end()
	return nil
}

func TestRebootThatDoesNotHappenIsAFailure(t *testing.T) {
	b := newBench(t, rebootOnce)
	b.rebooting("true")
	// Its time is over when it has been looked at once.
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	b.runner.Clock = lastLook{end: func() { cancel(errors.New("its timeout ended")) }}
	_, err := b.runner.Do(ctx, uuid.New(), b.step(0))
	b.runner.Clock = hurried{}
	if err == nil || !strings.Contains(err.Error(), "rebooting machine.old: its timeout ended: last seen: ") {
		t.Errorf("Do() = %v; want the end of its time and what was seen last", err)
	}
	b.programs(map[string]string{"systemctl": "echo 'Failed to talk to init daemon.' >&2; exit 1"})
	if _, err := b.do(); err == nil || !strings.Contains(err.Error(), "init daemon") || !strings.Contains(err.Error(), "machine.old") {
		t.Errorf("Do() = %v; want the machine and what it printed", err)
	}
}

// powers gives every machine one simulated BMC.
type powers struct {
	controller *bmc.Controller
	err        error
}

func (p powers) BMC(string) (*bmc.Controller, error) { return p.controller, p.err }

// powered puts a simulated machine behind the bench's steps.
func (b *bench) powered() *sim.Memory {
	b.t.Helper()
	m := &sim.Memory{}
	cert, fingerprint, err := sim.SelfSigned(netip.MustParseAddr("127.0.0.1"))
	if err != nil {
		b.t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(sim.NewRedfish(sim.RedfishConfig{Username: "admin", Password: "correct-horse"}, m))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	b.t.Cleanup(server.Close)
	c, err := bmc.Open(bmc.Config{
		Driver: bmc.DriverRedfish, Address: server.URL, Username: "admin", Password: "correct-horse", Fingerprint: fingerprint,
		Timeout: testBound / 2, Attempts: 1, RetryWait: time.Millisecond, PollInterval: time.Millisecond, OffTime: time.Millisecond, Machine: "machine.old",
	}, bmc.Deps{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = c.Close() })
	b.runner.Powers = powers{controller: c}
	b.runner.Clock = hurried{}
	return m
}

func powerStep(state string) string {
	return fmt.Sprintf("step \"power\" \"p\" {\n machines = machine.old\n state = %q\n}", state)
}

func TestPowerIsKeptAsDeclared(t *testing.T) {
	b := newBench(t, powerStep("on"))
	m := b.powered()
	if v := b.inspect(); v.Presence != workflows.Present || len(v.Changes) != 1 || !strings.Contains(v.Changes[0], "power is off, declared on") {
		t.Errorf("Inspect() = %+v; want that it is off", v)
	}
	b.mustDo()
	if v := b.inspect(); len(v.Changes) != 0 {
		t.Errorf("Inspect() = %+v; want nothing to do", v)
	}
	b.mustDo()
	if got := m.Actions(); !slices.Equal(got, []sim.Action{sim.On}) {
		t.Errorf("actions = %q; want it switched on once", got)
	}
	if err := m.Do(t.Context(), sim.Off); err != nil {
		t.Fatal(err)
	}
	if v := b.inspect(); len(v.Changes) != 1 {
		t.Errorf("Inspect() = %+v; want somebody's switching off found", v)
	}
}

func TestPowerCycleIsAnActionAndEndsOn(t *testing.T) {
	b := newBench(t, powerStep("cycle"))
	m := b.powered()
	if err := m.Do(t.Context(), sim.On); err != nil {
		t.Fatal(err)
	}
	b.mustDo()
	if on, _ := m.Power(t.Context()); !on || len(m.Boots()) != 2 {
		t.Errorf("on = %v after %d boots; want it on after the second", on, len(m.Boots()))
	}
	if v := b.inspect(); v.Presence != workflows.Present || len(v.Changes) != 0 {
		t.Errorf("Inspect() = %+v; want it done, once", v)
	}
}

func TestPowerOfAMachineThatCannotBeAskedPlansNothing(t *testing.T) {
	b := newBench(t, powerStep("off"))
	m := b.powered()
	m.Break(errors.New("the BMC restarts"))
	if v := b.inspect(); v.Presence != workflows.Unreachable || v.Detail == "" {
		t.Errorf("Inspect() = %+v; want unreachable, and why", v)
	}
	if _, err := b.do(); err == nil {
		t.Error("Do() = nil; want an error")
	}
	b.runner.Powers = powers{err: errors.New("machine.old has no BMC")}
	if v := b.inspect(); v.Presence != workflows.Unreachable || !strings.Contains(v.Detail, "has no BMC") {
		t.Errorf("Inspect() = %+v; want unreachable: there is none", v)
	}
}

// imaged makes machine.old of the bench one that this catalog installed and that
// may be wiped, with steps on it.
func (b *bench) imaged(steps string) {
	b.t.Helper()
	s, err := load(b.t, `
site "store" {}
network "floor" {
  interface = "eth1"
  cidr      = "172.24.0.0/24"
}
image "os" {
  distribution = "debian"
  release      = "bookworm"
}
machine "old" {
  mac     = "52:54:00:00:00:01"
  network = network.floor
  address = "172.24.0.11"
  image   = image.os
  wipe    = true
}
workflow "w" {
`+steps+"\n}\n")
	if err != nil {
		b.t.Fatal(err)
	}
	b.site, b.runner.Site = s, s
	record, err := json.Marshal(workflows.InstallRecord{Image: imageDigest, Address: "172.24.0.11", HostKey: b.server.HostKey})
	if err == nil {
		err = b.catalog.PutApplied(b.t.Context(), store.Applied{Site: "store", Address: "machine.old", Digest: "d", Outputs: record, Kind: "machine"})
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// wipeBench has two disks that are files, with a real file system on each, and
// runs the real wipefs(8) on them. Only the list of disks is made up.
func wipeBench(t *testing.T, disks, mounted string) *bench {
	t.Helper()
	for _, program := range []string{"mkfs.ext4", "wipefs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	b := newBench(t, "")
	b.imaged(wipeStep("w", disks))
	for _, name := range []string{"sdb", "sdc"} {
		path := filepath.Join(b.dir, name)
		b.write(name, "")
		if err := os.Truncate(path, 16<<20); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("mkfs.ext4", "-q", path).CombinedOutput(); err != nil {
			t.Fatalf("mkfs.ext4: %v\n%s", err, out)
		}
	}
	b.server.Rewrite = func(line string) string { return strings.ReplaceAll(line, "/var/lib/edge-provision/", b.dir+"/state/") }
	b.programs(map[string]string{
		"lsblk": `cat <<'END'
{"blockdevices": [
  {"path": "/dev/sda", "type": "disk", "serial": "ROOT", "wwn": null, "mountpoints": [null], "children": [{"path": "/dev/sda1", "type": "part", "mountpoints": ["/"]}]},
  {"path": "DIR/sdb", "type": "disk", "serial": "B", "wwn": "0x5000b", "mountpoints": [` + mounted + `]},
  {"path": "DIR/sdc", "type": "disk", "serial": "C", "wwn": "0x5000c", "mountpoints": [null]}
]}
END`,
		"blockdev": "true", "sync": "true",
	})
	return b
}

func wipeStep(name, disks string) string {
	return fmt.Sprintf("step \"wipe\" %q {\n machine = machine.old\n disks = [%s]\n}", name, disks)
}

// signed reports whether a disk still has its file system.
func (b *bench) signed(disk string) bool {
	b.t.Helper()
	out, err := exec.Command("wipefs", "--no-act", "--noheadings", filepath.Join(b.dir, disk)).Output()
	if err != nil {
		b.t.Fatal(err)
	}
	return strings.Contains(string(out), "ext4")
}

func TestWipeErasesTheNamedDiskOnceWhateverTheStepIsCalled(t *testing.T) {
	b := wipeBench(t, `"B"`, "null")
	if v := b.inspect(); v.Presence != workflows.Absent || !strings.Contains(strings.Join(v.Changes, ""), "ERASES every signature on disk B") {
		t.Errorf("Inspect() = %+v; want the disk named", v)
	}
	b.mustDo()
	if b.signed("sdb") || !b.signed("sdc") {
		t.Errorf("signed: sdb %v, sdc %v; want B erased and nothing else", b.signed("sdb"), b.signed("sdc"))
	}
	if v := b.inspect(); v.Presence != workflows.Present {
		t.Errorf("Inspect() = %+v; want it done", v)
	}
	// Somebody puts data on it, and the step gets another name; and another
	// catalog, which knows nothing, meets the machine that remembers.
	b.formatted("sdb")
	b.imaged(wipeStep("other", `"B"`))
	b.mustDo()
	another := newBench(t, "")
	another.imaged(wipeStep("w", `"B"`))
	another.runner.Hosts = b.runner.Hosts
	another.mustDo()
	// Then that catalog remembers what it has learned from the machine.
	b.forgets()
	b.formatted("sdb")
	another.mustDo()
	if !b.signed("sdb") {
		t.Error("the disk was erased a second time")
	}
}

// TestACutOffWipeHoldsTheOtherDisksBack: the way out of the refusal touches none but
// the disk that it is about.
func TestACutOffWipeHoldsTheOtherDisksBack(t *testing.T) {
	b := wipeBench(t, `"C", "B"`, "null")
	b.cutOff("exit 1")
	b.formatted("sdb")
	if _, err := b.do(); !workflows.Final(err) || !b.signed("sdb") || !b.signed("sdc") {
		t.Errorf("Do() = %v, signed: sdb %v, sdc %v; want it refused, with both left", err, b.signed("sdb"), b.signed("sdc"))
	}
	b.erasedByHand("sdb")
	b.mustDo()
	if b.signed("sdc") {
		t.Error("the other disk was not erased")
	}
	b.formatted("sdb")
	b.formatted("sdc")
	b.mustDo()
	if !b.signed("sdb") || !b.signed("sdc") {
		t.Errorf("signed: sdb %v, sdc %v; want none erased a second time", b.signed("sdb"), b.signed("sdc"))
	}
}

// forgets takes the machine's own memory.
func (b *bench) forgets() {
	b.t.Helper()
	if err := os.RemoveAll(filepath.Join(b.dir, "state")); err != nil {
		b.t.Fatal(err)
	}
}

// cutOff has the step done with a shell script in place of the erasure.
func (b *bench) cutOff(script string) {
	b.t.Helper()
	b.programs(map[string]string{"wipefs": `case "$*" in *--all*) ` + script + ` ;; *) exec /usr/bin/env PATH="${PATH#*:}" wipefs "$@" ;; esac`})
	if _, err := b.do(); err == nil {
		b.t.Fatal("Do() = nil; want it cut off")
	}
	if err := os.Remove(filepath.Join(b.dir, "bin", "wipefs")); err != nil {
		b.t.Fatal(err)
	}
}

// erasedByHand is the way out that a refusal names.
func (b *bench) erasedByHand(disk string) {
	b.t.Helper()
	if out, err := exec.Command("wipefs", "--all", filepath.Join(b.dir, disk)).CombinedOutput(); err != nil {
		b.t.Fatalf("wipefs: %v\n%s", err, out)
	}
}

// formatted puts a new file system on a disk.
func (b *bench) formatted(disk string) {
	b.t.Helper()
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", filepath.Join(b.dir, disk)).CombinedOutput(); err != nil {
		b.t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
}

// amnesia gives the bench another catalog, which knows nothing of the machine's
// wipes.
func (b *bench) amnesia() {
	b.t.Helper()
	another := newBench(b.t, "")
	another.runner.Hosts = b.runner.Hosts
	b.runner, b.catalog = another.runner, another.catalog
	b.imaged(wipeStep("w", `"B"`))
}

// TestWipeThatWasCutOff ends the erasure of a disk before or after wipefs(8) did
// its work, and then has the step done again. Nobody knows which it was.
func TestWipeThatWasCutOff(t *testing.T) {
	const before, after = "exit 1", `/usr/bin/env PATH="${PATH#*:}" wipefs "$@"; exit 1`
	reformat := func(b *bench) { b.formatted("sdb") }
	tests := map[string]struct {
		cut       string
		meanwhile []func(*bench)
		refused   bool
		want      string // of the plan
	}{
		"before":                               {cut: before, want: "ERASES every signature on disk B"},
		"before, and the catalog forgot":       {cut: before, meanwhile: []func(*bench){(*bench).amnesia}, want: "ERASES"},
		"before, and it was formatted":         {cut: before, meanwhile: []func(*bench){reformat}, refused: true},
		"after":                                {cut: after, want: "records that disk B carries no signature"},
		"after, formatted, the catalog forgot": {cut: after, meanwhile: []func(*bench){reformat, (*bench).amnesia}, refused: true},
		"after, formatted, the machine forgot": {cut: after, meanwhile: []func(*bench){reformat, (*bench).forgets}, refused: true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := wipeBench(t, `"B"`, "null")
			b.cutOff(test.cut)
			for _, do := range test.meanwhile {
				do(b)
			}
			v := b.inspect()
			if test.refused {
				const why = "what it carries now (ext4) is not what it carried then"
				if !v.Refused || !strings.Contains(v.Detail, why) {
					t.Errorf("Inspect() = %+v; want it refused", v)
				}
				if _, err := b.do(); !workflows.Final(err) || !strings.Contains(err.Error(), why) || !b.signed("sdb") {
					t.Errorf("Do() = %v, and its file system is there: %v; want it refused and left", err, b.signed("sdb"))
				}
				b.erasedByHand("sdb")
			} else if v.Presence != workflows.Absent || !strings.Contains(strings.Join(v.Changes, ""), test.want) {
				t.Errorf("Inspect() = %+v; want %q", v, test.want)
			}
			b.mustDo()
			if v := b.inspect(); v.Presence != workflows.Present || b.signed("sdb") || !b.signed("sdc") {
				t.Errorf("Inspect() = %+v, signed: sdb %v, sdc %v; want it done, and nothing else erased", v, b.signed("sdb"), b.signed("sdc"))
			}
			b.formatted("sdb")
			b.mustDo()
			if !b.signed("sdb") {
				t.Error("the disk was erased a second time")
			}
		})
	}
}

func TestWipeRefusesBeforeItTouchesAnything(t *testing.T) {
	tests := map[string]struct{ disks, mounted, want string }{
		"a disk in use":  {`"C", "B"`, `"/srv"`, "in use"},
		"the root disk":  {`"C", "ROOT"`, "null", "is mounted at /"},
		"no such disk":   {`"C", "D"`, "null", `no disk has serial or wwn "D"`},
		"an empty name":  {`"C", ""`, "null", "no disk has serial"},
		"by wwn, in use": {`"C", "0x5000b"`, `"[SWAP]"`, "in use"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := wipeBench(t, test.disks, test.mounted)
			if _, err := b.do(); !workflows.Final(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Do() = %v; want a refusal with %q", err, test.want)
			}
			if !b.signed("sdb") || !b.signed("sdc") {
				t.Error("a disk was erased although one of the step's could not be")
			}
		})
	}
}

func TestWipeNeedsTheMachinesConsent(t *testing.T) {
	b := newBench(t, wipeStep("w", `"B"`))
	b.programs(map[string]string{"lsblk": "exit 9", "wipefs": "touch DIR/wiped"})
	if _, err := b.do(); !workflows.Final(err) || !strings.Contains(err.Error(), "wipe = true") {
		t.Errorf("Do() = %v; want the consent named", err)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "wiped")); err == nil {
		t.Error("something was wiped")
	}
}

var _ steps.Powers = powers{}
