package steps_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/bmc"
	"github.com/edge-provision/edge-provision/bmc/sim"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// insideOf is what the simulated BMC of a shop shows: the machine's own memory, and
// as drives the ones that a RAID controller hides.
func insideOf() sim.Hardware {
	return sim.Hardware{CPUs: 4, MemoryBytes: 16 << 30, Drives: []sim.Drive{{Bytes: 960 << 30, Serial: "BEHIND-RAID", Protocol: "SAS"}}}
}

// readings counts how often the BMC was asked for its inventory.
func (s *shop) readings() (n int) {
	for _, r := range s.redfish.Requests() {
		if r == "GET /redfish/v1/Systems/1/Memory" {
			n++
		}
	}
	return n
}

// lookInside observes a shop at a time, with its BMC asked as plan does.
func (s *shop) lookInside(inside *steps.BMCFacts) workflows.MachineView {
	s.t.Helper()
	seen, err := (&steps.Observer{
		Site: s.site, Catalog: s.catalog, Hosts: s.computer, Powers: s.computer, Runner: s.runner(), BMCFacts: inside,
		Images: func(context.Context, *site.Image) (string, error) { return imageDigest, nil },
	}).Observe(s.ctx())
	if err != nil {
		s.t.Fatal(err)
	}
	return seen.Machines["machine.a"]
}

func TestMachineThatIsOffIsKnownByItsBMC(t *testing.T) {
	s := newShop(t, true)
	now := time.Now()
	inside := &steps.BMCFacts{Catalog: s.catalog, Powers: s.computer, Now: func() time.Time { return now }}
	v := s.lookInside(inside)
	if v.BMC == nil || v.BMC.Memory.Bytes != 16<<30 || v.Facts != nil || v.Power != workflows.PowerOff {
		t.Fatalf("seen = %+v; want it off, not inspected, and its memory known by its BMC", v)
	}
	merged, err := s.catalog.MergedFacts(t.Context(), s.row.ID)
	if err != nil || merged.Memory.Bytes != 16<<30 || len(merged.Disks) != 1 {
		t.Errorf("the catalog knows %+v, %v; want what the BMC said", merged, err)
	}
	row, err := s.catalog.Machine(t.Context(), s.row.ID)
	if err != nil || row.Serial != "" || len(row.MACs) != 1 || !row.LookedAt.IsZero() {
		t.Errorf("machine = %+v, %v; want nothing identified by its BMC", row, err)
	}
	asked := s.readings()
	now = now.Add(steps.BMCFactsAge - time.Second)
	if again := s.lookInside(inside); again.BMC == nil || s.readings() != asked {
		t.Errorf("the BMC was asked %d times more before its facts were old; want what is known", s.readings()-asked)
	}
	now = now.Add(2 * time.Second)
	if s.lookInside(inside); s.readings() == asked {
		t.Error("the BMC was not asked when its facts were old")
	}
}

func TestWhatIsReadBeforeAnApprovalIsKeptAfterIt(t *testing.T) {
	s := newShop(t, true)
	inside := &steps.BMCFacts{Catalog: s.catalog, Powers: s.computer}
	if _, err := inside.Read(s.ctx(), s.machine, nil); err != nil {
		t.Fatal(err)
	}
	if known, err := s.catalog.Facts(t.Context(), s.row.ID); err != nil || len(known) > 0 {
		t.Errorf("the catalog knows %+v, %v; want nothing of a machine that was not in it", known, err)
	}
	for range 2 {
		if err := inside.Keep(t.Context(), s.site.Name); err != nil {
			t.Fatal(err)
		}
	}
	if known, err := s.catalog.FactsHistory(t.Context(), s.row.ID, inventory.SourceRedfish); err != nil || len(known) != 1 {
		t.Errorf("the catalog knows %+v, %v; want one document of the BMC", known, err)
	}
}

// TestBMCNeverChoosesADisk has a BMC tell of a drive that the machine does not show.
func TestBMCNeverChoosesADisk(t *testing.T) {
	s := newShop(t, true)
	inside := &steps.BMCFacts{Catalog: s.catalog, Powers: s.computer}
	build := func() (workflows.Action, string) {
		seen := workflows.Observation{
			Catalog: s.catalog.CatalogID().String(), Machines: map[string]workflows.MachineView{"machine.a": s.lookInside(inside)},
			Images: map[string]workflows.ImageView{s.machine.Image.Address: {Digest: imageDigest}}, Steps: map[string]workflows.StepView{},
		}
		plan, diags := workflows.Build(s.site, seen, workflows.BuildOptions{})
		a, _ := plan.Find("machine.a")
		var said []string
		for _, d := range diags {
			said = append(said, d.Detail)
		}
		return a, strings.Join(said, "\n")
	}
	if a, _ := build(); a.Kind != workflows.KindInspect || a.Erase != nil {
		t.Errorf("plan before the inspection = %+v; want an inspection, whatever the BMC says of disks", a)
	}
	for _, disks := range [][]inventory.Disk{nil, {}} {
		f := s.computer.facts
		f.Disks = disks
		if _, _, err := s.catalog.PutFacts(t.Context(), s.row.ID, inventory.SourceAgent, f, time.Time{}); err != nil {
			t.Fatal(err)
		}
		if a, said := build(); a.Kind != workflows.KindRefused || a.Erase != nil || strings.Contains(said, "BEHIND-RAID") {
			t.Errorf("plan where the agent saw the disks %v = %+v (%s); want it refused, without a word of the BMC's drives", disks, a, said)
		}
	}
	if _, _, err := s.catalog.PutFacts(t.Context(), s.row.ID, inventory.SourceAgent, s.computer.facts, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if a, said := build(); a.Erase == nil || a.Erase.Disk.Serial != "D1" {
		t.Errorf("plan where the agent saw a disk = %+v (%s); want that one", a, said)
	}
}

// TestBMCIdentifiesNothing has the BMC of a machine say what is another machine's.
func TestBMCIdentifiesNothing(t *testing.T) {
	s := newShop(t, true)
	declared, err := load(t, "site \"store\" {}\nclass \"foreign\" {\n  match = facts.system.serial == \"OTHER-1\" || facts.chassis.asset_tag == \"OTHER-1\"\n}\n"+
		"network \"floor\" {\n  interface = \"eth1\"\n  cidr = \"172.24.0.0/24\"\n}\nmachine \"found\" {\n  network = network.floor\n  address = \"172.24.0.9\"\n  match = facts.system.serial == \"OTHER-1\"\n  bmc {\n    driver = \"none\"\n  }\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	free, err := s.catalog.Declare(t.Context(), "store", "machine.gone", inventory.MAC{0x52, 0x54, 0, 4, 0x21, 0x77})
	if err == nil {
		_, err = s.catalog.Declare(t.Context(), "store", "machine.gone", inventory.MAC{0x52, 0x54, 0, 4, 0x21, 0x78})
	}
	if err != nil {
		t.Fatal(err)
	}
	told := inventory.Facts{
		SchemaVersion: inventory.SchemaVersion, System: &inventory.System{Serial: "OTHER-1"}, Chassis: &inventory.Chassis{AssetTag: "OTHER-1"},
		Disks: []inventory.Disk{{Name: "0", Serial: "D9", Bytes: 1 << 40}},
	}
	own := inventory.Facts{SchemaVersion: inventory.SchemaVersion, Disks: []inventory.Disk{}, NICs: []inventory.NIC{{Name: "eth0", MAC: shopMAC}}}
	for _, looked := range []bool{false, true} {
		for source, f := range map[inventory.Source]inventory.Facts{inventory.SourceRedfish: told, inventory.SourceIPMI: told, inventory.SourceAgent: own} {
			if source == inventory.SourceAgent && !looked {
				continue
			}
			if _, _, err := s.catalog.PutFacts(t.Context(), free.ID, source, f, time.Time{}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := steps.Bind(t.Context(), declared, s.catalog, nil); err != nil {
			t.Fatal(err)
		}
		row, err := s.catalog.Machine(t.Context(), free.ID)
		if err != nil || row.Address != "" || len(row.Classes) > 0 || row.Serial != "" {
			t.Errorf("looked at %t: machine = %+v, %v; want it bound to nothing, in no class, without a serial", looked, row, err)
		}
		known, err := steps.InspectedFacts(t.Context(), s.catalog, free.ID)
		if name := workflows.TypedName(workflows.MachineView{Machine: &row, Facts: known}); err != nil || name != "" || (known != nil) != looked {
			t.Errorf("looked at %t: consent is by %q, facts %+v, %v; want no word of the BMC", looked, name, known, err)
		}
	}
}

func TestSilentBMCIsNotAskedAgainAndAgain(t *testing.T) {
	s := newShop(t, true)
	now := time.Now()
	inside := &steps.BMCFacts{Catalog: s.catalog, Powers: s.computer, Now: func() time.Time { return now }}
	asked := func() int {
		n := s.readings()
		s.lookInside(inside)
		return s.readings() - n
	}
	s.redfish.SetFault(sim.FaultNoMemory)
	if n := asked(); n == 0 {
		t.Fatal("the BMC was not asked")
	}
	if n := asked(); n > 0 {
		t.Errorf("a BMC that failed was asked %d times more at once; want it left alone", n)
	}
	told := 0
	round := func() {
		if err := inside.Round(s.ctx(), s.site, func(*site.Machine, error) { told++ }); err != nil {
			t.Fatal(err)
		}
	}
	if round(); told != 1 {
		t.Errorf("with more time than a plan has it was asked %d times; want once", told)
	}
	if round(); told != 1 {
		t.Errorf("a BMC that failed with much time was asked %d times; want no more than once", told)
	}
	now = now.Add(steps.BMCFactsAge)
	s.redfish.SetFault(sim.FaultNone)
	if n := asked(); n == 0 {
		t.Error("the BMC was not asked when its failure was old")
	}
}

func TestRoundAsksWhatIsDueAndTellsWhatIsSilent(t *testing.T) {
	s := newShop(t, true)
	var told atomic.Int32
	inside := &steps.BMCFacts{Catalog: s.catalog, Powers: s.computer}
	round := func() (failed error) {
		t.Helper()
		err := inside.Round(s.ctx(), s.site, func(_ *site.Machine, err error) { told.Add(1); failed = err })
		if err != nil {
			t.Fatal(err)
		}
		return failed
	}
	if err := round(); err != nil || told.Load() != 1 {
		t.Errorf("Round() = %v, told of %d machines; want one read", err, told.Load())
	}
	if err := round(); err != nil || told.Load() != 1 {
		t.Errorf("Round() again = %v, told of %d machines; want none asked", err, told.Load())
	}
	late := &steps.BMCFacts{Catalog: s.catalog, Powers: s.computer, Now: func() time.Time { return time.Now().Add(steps.BMCFactsAge) }}
	if err := s.catalog.SetState(t.Context(), s.row.ID, inventory.StateInspecting); err != nil {
		t.Fatal(err)
	}
	inside = late
	if err := round(); err != nil || told.Load() != 1 {
		t.Error("Round() asked the BMC of a machine that a run works on")
	}
	if err := s.catalog.SetState(t.Context(), s.row.ID, inventory.StateDeclared); err != nil {
		t.Fatal(err)
	}
	late.Wanted = steps.NewWanted()
	late.Wanted.Set(s.row.ID, true)
	if err := round(); err != nil || told.Load() != 1 {
		t.Error("Round() asked the BMC of a machine that a run wants")
	}
	late.Wanted = nil
	s.redfish.SetFault(sim.FaultGarbage)
	if err := round(); err == nil || told.Load() != 2 {
		t.Errorf("Round() of a BMC that answers nonsense = %v, told %d times; want that to be told", err, told.Load())
	}
}

// An edited site takes the place of the one that is being asked about.
func TestClosedBMCIsNeitherToldOfNorLeftAlone(t *testing.T) {
	s := newShop(t, true)
	retired := steps.NewControllers(s.site, s.catalog, bmc.Deps{})
	if _, err := retired.BMC(s.machine.Address); err != nil {
		t.Fatal(err)
	}
	retired.Close()
	inside := &steps.BMCFacts{Catalog: s.catalog, Powers: retired}
	told := 0
	round := func() {
		if err := inside.Round(s.ctx(), s.site, func(*site.Machine, error) { told++ }); err != nil {
			t.Fatal(err)
		}
	}
	if round(); told != 0 {
		t.Errorf("Round() told of %d machines whose controller was closed; want none", told)
	}
	inside.Powers = s.computer
	if round(); told != 1 {
		t.Errorf("the next Round() told of %d machines; want the BMC asked at once", told)
	}
}

// TestRefresherAsksBMCsBesideItsLooks has a BMC hang for as long as it is asked.
func TestRefresherAsksBMCsBesideItsLooks(t *testing.T) {
	s := newShop(t, true)
	s.redfish.SetFault(sim.FaultHangMemory)
	var looks atomic.Int32
	inside := &steps.BMCFacts{Catalog: s.catalog, Powers: s.computer}
	r := &steps.Refresher{
		Site: func() *site.Site { return s.site }, Catalog: s.catalog, Hosts: func() steps.Hosts { looks.Add(1); return s.computer },
		Adopter: func() *steps.Adopter { return nil }, BMCFacts: func() *steps.BMCFacts { return inside }, Every: 20 * time.Millisecond, Tell: s.said.tell,
	}
	ctx, cancel := context.WithCancel(s.ctx())
	ended := make(chan error, 1)
	go func() { r.Run(ctx); ended <- nil }()
	s.until(func() bool { return s.readings() == 1 && looks.Load() >= 3 }, nil)
	cancel()
	select {
	case <-ended:
	case <-time.After(testBound): // logging out of a BMC may take 5 s
		t.Error("Run() did not end with its context")
	}
	if open, _ := s.redfish.Sessions(); open != 0 {
		t.Errorf("%d sessions are left open at the BMC; want none", open)
	}
}
