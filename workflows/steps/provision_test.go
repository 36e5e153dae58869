package steps_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

func TestInstallTakesAMachineFromOffToAnswering(t *testing.T) {
	s := newShop(t, true)
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	if got := s.kinds(); !slices.Equal(got, []agent.Kind{agent.KindWrite, agent.KindConfigure}) {
		t.Errorf("tasks = %q; want a write and a configuration", got)
	}
	if boots := s.computer.Boots(); len(boots) != 1 || boots[0] != (sim.Override{Device: sim.PXE, Once: true, EFI: true}) {
		t.Errorf("boots = %+v; want one, from the network, once", boots)
	}
	if s.state() != inventory.StateInstalled || s.phase() != "answered" || s.wanted.Has(s.row.ID) {
		t.Errorf("state %s, phase %s, wanted in the installer %v; want it installed and answered", s.state(), s.phase(), s.wanted.Has(s.row.ID))
	}
	a, err := s.catalog.Applied(t.Context(), "store", "machine.a")
	if err != nil || a.Kind != "machine" || !strings.Contains(string(a.Outputs), imageDigest) || !strings.Contains(string(a.Outputs), "ssh-ed25519") {
		t.Errorf("Applied() = %+v, %v; want the image and the host key", a, err)
	}
	if write := s.computer.tasks[0]; write.Fence != 7 || write.Attempt != 1 || write.Write.Resume || write.Write.Disk.Serial != "D1" {
		t.Errorf("write task = %+v; want the first attempt on disk D1, under the lock's token", write)
	}
}

// deadlines are those of what is done over SSH.
type deadlines struct {
	steps.Hosts
	seen []time.Time
}

// Host implements steps.Hosts.
func (d *deadlines) Host(ctx context.Context, address string) (*remote.Host, error) {
	at, _ := ctx.Deadline()
	d.seen = append(d.seen, at)
	return d.Hosts.Host(ctx, address)
}

// A machine may answer at the end of its boot_timeout. Its snapshot is frozen after
// that.
func TestWhatFollowsTheFirstAnswerIsNotBoundByIt(t *testing.T) {
	s := newShop(t, true)
	s.machine.BootTimeout = 20 * time.Second
	hosts := &deadlines{Hosts: s.computer}
	s.prov.Hosts = hosts
	s.prov.Adopter = &steps.Adopter{Site: s.site.Name, Catalog: s.catalog, Agent: func() (string, error) { return "", errors.New("no agent here") }}
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	answered, looked := hosts.seen[len(hosts.seen)-2], hosts.seen[len(hosts.seen)-1]
	if looked.Sub(answered) < 20*time.Second {
		t.Errorf("it has to answer by %s and is looked at until %s; want more time for that", answered, looked)
	}
}

// TestAnotherMachineAtTheAddressDoesNotInheritAnUnfinishedWrite declares another
// MAC after a write was cut off: the new machine's disk, which has no serial and is
// of the same size at the same place, was never consented to.
func TestAnotherMachineAtTheAddressDoesNotInheritAnUnfinishedWrite(t *testing.T) {
	s := newShop(t, true)
	disk := &s.computer.facts.Disks[0]
	disk.Serial, disk.Path = "", "pci-0000:00:04.0"
	s.computer.fail = []agent.Result{{Outcome: agent.OutcomeFailed, Error: &agent.Failure{Code: agent.CodeFetch, Message: "cut"}}}
	if err := s.install(); err == nil {
		t.Fatal("Install() = nil; want the write to fail")
	}
	seen := func() *workflows.InstallRecord {
		o, err := (&steps.Observer{
			Site: s.site, Catalog: s.catalog, Hosts: s.computer, Powers: s.computer, Runner: s.runner(),
			Images: func(context.Context, *site.Image) (string, error) { return imageDigest, nil },
		}).Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return o.Machines["machine.a"].Unfinished
	}
	if seen() == nil {
		t.Fatal("Unfinished = nil; want the write that was cut off")
	}
	row, err := s.catalog.Declare(t.Context(), "store", "machine.a", inventory.MAC{0x52, 0x54, 0, 0, 0, 0x77})
	if err != nil || row.ID == s.row.ID {
		t.Fatalf("Declare() = %s, %v; want another machine than %s", row.ID, err, s.row.ID)
	}
	if r := seen(); r != nil {
		t.Errorf("Unfinished = %+v; want nothing of the machine that was there before", r)
	}
}

func TestFailedWriteIsResumedOnTheSameDiskAsAnotherAttempt(t *testing.T) {
	s := newShop(t, true)
	s.computer.fail = []agent.Result{{Outcome: agent.OutcomeFailed, Error: &agent.Failure{Code: agent.CodeFetch, Message: "the line went dead"}}}
	if err := s.install(); err == nil || !strings.Contains(err.Error(), "the line went dead") {
		t.Fatalf("Install() = %v; want the agent's own words", err)
	}
	if s.state() != inventory.StateFailed || s.phase() != "begun" {
		t.Errorf("state %s, phase %s; want failed, with a write begun", s.state(), s.phase())
	}
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	second := s.computer.tasks[1]
	if second.Kind != agent.KindWrite || !second.Write.Resume || second.Attempt != 2 || second.ID != s.computer.tasks[0].ID {
		t.Errorf("second write = %+v; want the same task resumed as attempt 2", second)
	}
	if got := s.computer.Actions(); len(got) != 1 {
		t.Errorf("power actions = %q; want the installer that is there used again", got)
	}
}

func TestDamagedImageSaysWhatToDo(t *testing.T) {
	s := newShop(t, true)
	s.computer.fail = []agent.Result{{Outcome: agent.OutcomeFailed, Error: &agent.Failure{Code: agent.CodeCorrupt, Message: "chunk 3"}}}
	if err := s.install(); err == nil || !strings.Contains(err.Error(), "image inspect "+imageDigest) {
		t.Errorf("Install() = %v; want what to do about a damaged image", err)
	}
}

func TestRefusedWriteIsNotRepeated(t *testing.T) {
	s := newShop(t, true)
	s.computer.fail = []agent.Result{{Outcome: agent.OutcomeRefused, Error: &agent.Failure{Code: agent.CodeInternal, Message: "the disk carries ext4"}}}
	if err := s.install(); !workflows.Final(err) {
		t.Errorf("Install() = %v; want an error that no retry follows", err)
	}
}

func TestDiskThatIsNotThereIsNotReplacedByAnother(t *testing.T) {
	s := newShop(t, true)
	gone := workflows.Action{Address: "machine.a", Kind: workflows.KindInstall, Erase: &workflows.Erase{Disk: workflows.DiskName{Serial: "D9", Bytes: 64 << 30}}}
	err := s.prov.Install(s.ctx(), uuid.New(), s.machine, gone)
	if !workflows.Final(err) || !strings.Contains(err.Error(), "not in the machine") || len(s.kinds()) != 0 {
		t.Errorf("Install() = %v after tasks %q; want a refusal before any task", err, s.kinds())
	}
}

// A controller with many disks may tell of the first after minutes.
func TestDiskThatComesLateIsLookedForOnceMore(t *testing.T) {
	s := newShop(t, true)
	disks := s.computer.facts.Disks
	late := workflows.Action{Address: "machine.a", Kind: workflows.KindInstall, Erase: &workflows.Erase{Disk: workflows.NameDisk(disks[0])}}
	s.computer.first = func(f *inventory.Facts) { f.Disks = []inventory.Disk{} }
	if err := s.prov.Install(s.ctx(), uuid.New(), s.machine, late); err != nil {
		t.Errorf("Install() = %v; want the disk taken that is there at the second look", err)
	}
}

func TestMachineWithoutKnownDisksIsInspectedOnceMore(t *testing.T) {
	s := newShop(t, true)
	s.computer.first = func(f *inventory.Facts) { f.Disks = nil }
	if err := s.prov.Inspect(s.ctx(), s.machine, workflows.Action{}); err != nil {
		t.Fatal(err)
	}
	facts, err := steps.KnownFacts(t.Context(), s.catalog, s.row.ID)
	if err != nil || facts == nil || len(facts.Disks) == 0 {
		t.Errorf("known facts %+v, %v; want the disks of the second look", facts, err)
	}
}

func TestMachineThatRunsIsCycledAndOneInTheInstallerIsNot(t *testing.T) {
	s := newShop(t, true)
	if err := s.computer.Memory.Do(t.Context(), sim.On); err != nil {
		t.Fatal(err)
	}
	if err := s.prov.Inspect(s.ctx(), s.machine, workflows.Action{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.prov.Inspect(s.ctx(), s.machine, workflows.Action{}); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(s.computer.Boots()); got != 2 || s.state() != inventory.StateHeld {
		t.Errorf("%d boots, state %s; want its own one and a single one into the installer, where it is held", got, s.state())
	}
}

func TestReleasedFromTheInstallerAsItWasFound(t *testing.T) {
	for name, on := range map[string]bool{"off": false, "on": true} {
		t.Run(name, func(t *testing.T) {
			s := newShop(t, true)
			if on {
				if err := s.computer.Memory.Do(t.Context(), sim.On); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.prov.Inspect(s.ctx(), s.machine, workflows.Action{}); err != nil {
				t.Fatal(err)
			}
			ended := s.computer.ended
			if err := s.prov.Release(s.ctx()); err != nil {
				t.Fatal(err)
			}
			<-ended
			want := "release: poweroff"
			if on {
				want = "release: reboot"
			}
			if !strings.Contains(s.said.text(), want) || s.state() != inventory.StateDeclared || s.wanted.Has(s.row.ID) {
				t.Errorf("said %q, state %s; want %q and the machine declared again", s.said.text(), s.state(), want)
			}
			if err := s.prov.Release(s.ctx()); err != nil {
				t.Errorf("Release() again = %v; want nothing to do", err)
			}
		})
	}
}

func TestBootThatDoesNotComeSaysWhereItIsStuck(t *testing.T) {
	s := newShop(t, true)
	s.computer.deaf = true
	s.prov.Explain = func(context.Context, string) string { return "The last that was heard is a DISCOVER." }
	var err error
	// On a busy machine the time may be over before it has been told to boot.
	waited := func() bool { return strings.Contains(s.said.text(), "waiting for the installer") }
	for s.machine.BootTimeout = 300 * time.Millisecond; !waited() && s.machine.BootTimeout < testBound; s.machine.BootTimeout *= 2 {
		err = s.prov.Inspect(s.ctx(), s.machine, workflows.Action{})
	}
	if err == nil || !strings.Contains(err.Error(), "its boot_timeout") || !strings.Contains(err.Error(), "a DISCOVER") {
		t.Errorf("Inspect() = %v; want the timeout's name and where it is stuck", err)
	}
}

// Whatever is being done when the time is over fails with an error of its own.
func TestBootTimeoutIsNamedWhereverItStrikes(t *testing.T) {
	s := newShop(t, true)
	s.machine.BootTimeout = time.Nanosecond
	if err := s.prov.Inspect(s.ctx(), s.machine, workflows.Action{}); err == nil || !strings.Contains(err.Error(), "its boot_timeout") {
		t.Errorf("Inspect() = %v; want the timeout's name", err)
	}
}

// Who wants it there may live much longer than the run.
func TestMachineIsWantedInTheInstallerOnlyWhileARunGoesOn(t *testing.T) {
	s := newShop(t, true)
	s.computer.deaf = true
	// On a busy machine the time may be over before it is wanted.
	for s.machine.BootTimeout = 300 * time.Millisecond; !s.wanted.Has(s.row.ID); s.machine.BootTimeout *= 2 {
		if err := s.prov.Inspect(s.ctx(), s.machine, workflows.Action{}); err == nil || s.machine.BootTimeout > testBound {
			t.Fatalf("Inspect() = %v, wanted %v; want a boot that does not come, for which the machine is wanted", err, s.wanted.Has(s.row.ID))
		}
	}
	s.prov.End()
	if s.wanted.Has(s.row.ID) {
		t.Error("after a run that timed out its machine is still wanted in the installer")
	}
	// A write that is cut off goes on in the next run, where its agent is.
	s = newShop(t, true)
	s.computer.fail = []agent.Result{{Outcome: agent.OutcomeFailed, Error: &agent.Failure{Code: agent.CodeFetch, Message: "the line went dead"}}}
	if err := s.install(); err == nil || !s.wanted.Has(s.row.ID) {
		t.Fatalf("Install() = %v, wanted %v; want the agent's failure", err, s.wanted.Has(s.row.ID))
	}
	s.prov.End()
	if s.wanted.Has(s.row.ID) {
		t.Error("after a run that failed its machine is still wanted in the installer")
	}
	boots := len(s.computer.Boots())
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	if second := s.computer.tasks[1]; !second.Write.Resume || len(s.computer.Boots()) != boots {
		t.Errorf("second write = %+v after %d boots; want it resumed in the installer that is there, after %d", second.Write, len(s.computer.Boots()), boots)
	}
}

func TestMachineWithoutBMCIsAskedFor(t *testing.T) {
	s := newShop(t, false)
	done := make(chan error, 1)
	go func() { done <- s.prov.Inspect(s.ctx(), s.machine, workflows.Action{}) }()
	s.until(func() bool { return strings.Contains(s.said.text(), "switch on a (52:54:00:00:00:01) now") }, done)
	s.computer.start(sim.PXE)
	if err := <-done; err != nil {
		t.Errorf("Inspect() = %v after it was switched on; want it inspected", err)
	}
}

// TestReportThatContradictsTheCatalogEndsTheInspection is about hardware that was
// swapped: the MAC is that of one machine, everything else that of another.
func TestReportThatContradictsTheCatalogEndsTheInspection(t *testing.T) {
	s := newShop(t, true)
	_, _, err := s.catalog.Observe(t.Context(), "store", store.Observation{
		MACs: []inventory.MAC{{0x52, 0x54, 0, 0, 0, 2}}, Serial: "7XK2Q93", UUID: uuid.MustParse("4c4c4544-0042-3010-8042-b4c04f4d3232"),
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.prov.Inspect(s.ctx(), s.machine, workflows.Action{})
	if !workflows.Final(err) || !strings.Contains(err.Error(), "contradicts what the catalog knows") || !strings.Contains(err.Error(), "inventory forget "+s.row.ID.String()) {
		t.Errorf("Inspect() = %v; want the contradiction, and what to do, at once", err)
	}
}

// TestInstalledMachineIsBootedFromItsDisk resumes after the write, and later
// switches the machine on again.
func TestInstalledMachineIsBootedFromItsDisk(t *testing.T) {
	s := newShop(t, true)
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	if err := s.computer.Do(t.Context(), sim.Off); err != nil {
		t.Fatal(err)
	}
	if err := s.prov.Boot(s.ctx(), uuid.New(), s.machine, workflows.Action{}); err != nil {
		t.Fatal(err)
	}
	if boots := s.computer.Boots(); boots[len(boots)-1].Device != sim.Disk || s.phase() != "answered" {
		t.Errorf("boots = %+v, phase %s; want the last from the disk", boots, s.phase())
	}
}

// TestMachineThatCallsItselfOtherwiseIsNotAccepted answers with our key and
// another name.
func TestMachineThatCallsItselfOtherwiseIsNotAccepted(t *testing.T) {
	s := newShop(t, true)
	s.machine.Hostname = "another"
	if err := s.install(); !workflows.Final(err) || !strings.Contains(err.Error(), `it should be "another"`) {
		t.Errorf("Install() = %v; want the two names", err)
	}
	if s.phase() != "installed" {
		t.Errorf("phase = %s; want installed, and not answered", s.phase())
	}
}

// TestMachineThatIsDeclaredByWhatItIsIsFoundAndInstalled has no MAC: the machine
// turns up on the network, and its facts decide.
func TestMachineThatIsDeclaredByWhatItIsIsFoundAndInstalled(t *testing.T) {
	s := &shop{t: t, wanted: steps.NewWanted(), said: &said{}, catalog: storetest.Open(t, store.Config{Path: filepath.Join(t.TempDir(), "catalog.db")})}
	s.open(strings.NewReplacer(
		`mac     = "52:54:00:00:00:01"`, `match   = facts.system.serial == "7XK2Q93"`,
		"cidr      =", "unknown   = \"discover\"\n  cidr      =", "BMC", `driver = "none"`).Replace(shopSite))
	ctx := s.ctx()
	inspected := make(chan error, 1)
	go func() { inspected <- s.prov.Inspect(ctx, s.machine, workflows.Action{}) }()
	s.until(func() bool { return strings.Contains(s.said.text(), "waiting for a machine that matches") }, inspected)
	// Discovery, which is another part's work, records two machines.
	for i, serial := range []string{"another", "7XK2Q93"} {
		facts := s.computer.facts
		facts.System = &inventory.System{Serial: serial}
		facts.NICs = nil
		mac := shopMAC
		mac[5] += byte(1 - i)
		row, _, err := s.catalog.Observe(ctx, "store", store.Observation{MACs: []inventory.MAC{mac}, Source: inventory.SourceAgent, Facts: &facts})
		if err != nil {
			t.Fatal(err)
		}
		s.row = row
	}
	s.until(func() bool { return s.wanted.Has(s.row.ID) }, inspected)
	s.computer.facts.System = &inventory.System{Serial: "7XK2Q93"}
	s.computer.start(sim.PXE)
	if err := <-inspected; err != nil {
		t.Fatal(err)
	}
	if err := s.install(); err != nil {
		t.Fatal(err)
	}
	m, err := s.catalog.MachineByAddress(ctx, "store", "machine.a")
	if err != nil || m.ID != s.row.ID || m.State != inventory.StateInstalled {
		t.Errorf("machine.a = %+v, %v; want the one whose serial matched, installed", m, err)
	}
	if c := s.computer.tasks[1].Configure; c == nil || c.Network.MAC != shopMAC {
		t.Errorf("configured with %+v; want the port that it was found by", c)
	}
}

func TestWhatWasApprovedIsDoneToNoOtherMachine(t *testing.T) {
	s := newShop(t, true)
	a := workflows.Action{Address: "machine.a", Kind: workflows.KindInstall, Machine: uuid.New(), Erase: &workflows.Erase{Disk: workflows.NameDisk(s.computer.facts.Disks[0])}}
	for what, err := range map[string]error{
		"Install": s.prov.Install(s.ctx(), uuid.New(), s.machine, a),
		"Inspect": s.prov.Inspect(s.ctx(), s.machine, a),
		"Boot":    s.prov.Boot(s.ctx(), uuid.New(), s.machine, a),
	} {
		if !errors.Is(err, steps.ErrOtherMachine) || !workflows.Final(err) {
			t.Errorf("%s() of another machine than was shown = %v; want it refused for good", what, err)
		}
	}
	if len(s.kinds()) != 0 || len(s.computer.Actions()) != 0 || s.wanted.Has(s.row.ID) {
		t.Errorf("tasks %q, power %q; want nothing done", s.kinds(), s.computer.Actions())
	}
	a.Machine = s.row.ID
	if err := s.prov.Install(s.ctx(), uuid.New(), s.machine, a); err != nil {
		t.Errorf("Install() of the machine that was shown = %v", err)
	}
}
