package steps_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

func TestMachinesOfAClassBecomeTheFreeOnesAsTheyCome(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newCounter(t, cfg)
		r := c.reactor()
		small, first, second := c.plugIn(1, 1<<30), c.plugIn(2, 4<<30), c.plugIn(3, 4<<30)
		c.pass(r)
		c.wantStates(`done machine.till["left"], queued`)
		c.pass(r)
		c.wantStates(`done machine.till["left"], done machine.till["right"]`)
		c.wantAsked(`class "till" machine.till["left"]`, `class "till" machine.till["right"]`)
		for m, want := range map[*inventory.Machine]string{&small: "", &first: `machine.till["left"]`, &second: `machine.till["right"]`} {
			if now, err := c.catalog.Machine(t.Context(), m.ID); err != nil || now.Address != want {
				t.Errorf("machine %s is %q, %v; want %q", m.MACs[0], now.Address, err, want)
			}
		}
		// A third one has no place, is told so once, and harms nobody.
		c.plugIn(4, 4<<30)
		for range 3 {
			c.pass(r)
		}
		c.wantStates(`done machine.till["left"], done machine.till["right"], queued`)
		if n := strings.Count(c.said.text(), "declare one more"); n != 1 {
			t.Errorf("said %d times that there is no place; want once:\n%s", n, c.said.text())
		}
	})
}

func TestClassesFollowWhatChanges(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newCounter(t, cfg)
		m := c.plugIn(1, 1<<30)
		want := func(classes string) {
			t.Helper()
			if err := steps.Classify(t.Context(), c.site, c.catalog, c.keys); err != nil {
				t.Fatal(err)
			}
			if got := c.classes(m); got != classes {
				t.Errorf("classes = %q; want %q", got, classes)
			}
		}
		want("")
		if _, err := c.catalog.SetTags(t.Context(), m.ID, map[string]string{"shelf": "top"}, nil, nil); err != nil {
			t.Fatal(err)
		}
		want("tagged")
		c.plugIn(1, 2<<30)
		want("tagged till")
		// Another rule is asked of machines that did not change.
		s, err := load(t, strings.ReplaceAll(counterSite, "GiB(2)", "GiB(8)"))
		if err != nil {
			t.Fatal(err)
		}
		was := c.site
		c.site = s
		want("tagged")
		c.site = was
		want("tagged till")
		// So are all, when retention took the changes in between.
		if _, err := c.catalog.SetTags(t.Context(), m.ID, nil, []string{"shelf"}, nil); err != nil {
			t.Fatal(err)
		}
		c.forgetEvents(cfg)
		want("till")
		// Without classes a machine is in none.
		if c.site, err = load(t, "site \"counter\" {}\n"); err != nil {
			t.Fatal(err)
		}
		want("")
	})
}

// serialSite is the counter's with a class of named machines, in a rule so long
// that it is shown clipped.
func (c *counter) serialSite(serials string) *site.Site {
	c.Helper()
	rule := `regex("^(` + strings.Repeat("x", 90) + "|" + serials + `)$", facts.system.serial)`
	s, err := load(c.T, strings.ReplaceAll(counterSite, "facts.memory.bytes >= GiB(2)", rule))
	if err != nil {
		c.Fatal(err)
	}
	return s
}

// plugInSerial is a machine that reports its serial number.
func (c *counter) plugInSerial(n byte, serial string) inventory.Machine {
	c.Helper()
	m, _, err := c.catalog.Observe(c.Context(), "counter", store.Observation{Source: inventory.SourceAgent, Facts: &inventory.Facts{
		System: &inventory.System{Serial: serial}, NICs: []inventory.NIC{{Name: "eth0", MAC: inventory.MAC{0x52, 0x54, 0, 0x26, 0, n}}},
	}})
	if err != nil {
		c.Fatal(err)
	}
	return m
}

func TestAChangeLateInALongRuleCounts(t *testing.T) {
	c := newCounter(t, storetest.SQLite(t))
	a, b := c.plugInSerial(1, "A"), c.plugInSerial(2, "B")
	for _, step := range []struct{ serials, a, b string }{{"A", "till", ""}, {"A|B", "till", "till"}, {"B", "", "till"}} {
		c.serve(c.serialSite(step.serials))
		if err := steps.Classify(t.Context(), c.site, c.catalog, c.keys); err != nil {
			t.Fatal(err)
		}
		if gotA, gotB := c.classes(a), c.classes(b); gotA != step.a || gotB != step.b {
			t.Errorf("with %s machines are in classes %q and %q; want %q and %q", step.serials, gotA, gotB, step.a, step.b)
		}
	}
}

// Programs before this one digested a rule as it is shown. What they reacted to is
// not reacted to again because of the upgrade, and is when the rule is edited after.
func TestAnUpgradeStartsNothingAgain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newCounter(t, cfg)
		c.serve(c.serialSite("A|B"))
		first := c.plugInSerial(1, "A")
		// As it is in catalogs of before, and failed: nothing else would keep it from being tried again.
		_, err := c.catalog.QueueReaction(t.Context(), inventory.Reaction{
			Site: "counter", Machine: first.ID, Class: "till", State: inventory.ReactionFailed,
			Digest: "sha256:ad82b6e7b8a24ddd68ddd6cbe430c48eb87be231b3f46b4dbd006cf1a8ec2c78",
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := steps.Classify(t.Context(), c.site, c.catalog, c.keys); err != nil {
			t.Fatal(err)
		}
		views, err := steps.ClassViews(t.Context(), c.site, c.catalog, c.keys, nil, time.Now())
		if err != nil || len(views[0].Reactions) != 1 || !strings.Contains(views[0].Reactions[0], "failed") {
			t.Errorf("ClassViews() = %+v, %v; want what failed, and nothing that starts", views, err)
		}
		for range 2 {
			c.pass(c.reactor())
		}
		c.wantStates("failed")
		c.wantAsked()
		c.plugInSerial(2, "B")
		c.pass(c.reactor())
		c.wantAsked(`class "till" machine.till["right"]`)
		c.serve(c.serialSite("A"))
		c.pass(c.reactor())
		c.wantAsked(`class "till" machine.till["right"]`, `class "till" machine.till["left"]`)
	})
}

// forgetEvents lets retention take all events.
func (c *counter) forgetEvents(cfg store.Config) {
	c.Helper()
	cfg.Now = func() time.Time { return time.Now().Add(1000 * 24 * time.Hour) }
	later, err := store.Open(c.Context(), cfg)
	if err != nil {
		c.Fatal(err)
	}
	_, err = later.Prune(c.Context())
	if err := errors.Join(err, later.Close()); err != nil {
		c.Fatal(err)
	}
	if span, err := c.catalog.EventSpan(c.Context()); err != nil || span.Pruned == 0 {
		c.Fatalf("span of events = %+v, %v; want that some were removed", span, err)
	}
}

// A kill between the record and the start, and one in the middle of the work,
// leave the same behind: a reaction that is started, and nobody who works on it.
func TestAReactionThatWasCutOffGoesOnOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newCounter(t, cfg)
		c.plugIn(1, 4<<30)
		ctx, kill := context.WithCancel(t.Context())
		c.answer = func(ctx context.Context, _ []string, _ func(workflows.Plan) error) (workflows.Plan, error) {
			kill()
			return workflows.Plan{}, errors.New("its run was cut off")
		}
		before := c.reactor()
		if err := before.Pass(ctx); err != nil {
			t.Fatal(err)
		}
		before.Wait()
		c.wantStates(`started machine.till["left"]`)
		c.answer = nil
		after := c.reactor()
		c.pass(after)
		c.pass(after)
		c.wantStates(`done machine.till["left"]`)
		c.wantAsked(`class "till" machine.till["left"]`, `class "till" machine.till["left"]`)
	})
}

func TestWhatNeedsAPersonIsRefusedAndNotTriedAgain(t *testing.T) {
	disk := workflows.DiskName{Name: "sda", Serial: "D1", Bytes: 64 << 30}
	for name, c := range map[string]struct {
		action workflows.Action
		want   string
	}{
		"a disk that carries something": {
			workflows.Action{Kind: workflows.KindInstall, Erase: &workflows.Erase{Disk: disk, Signatures: []string{"ntfs"}, Consent: workflows.ConsentNeeded}},
			`carries ntfs: say wipe = true for machine.till["left"] in site.hcl`,
		},
		"what the plan refuses": {workflows.Action{Kind: workflows.KindRefused, Reason: "a till needs a printer"}, "a till needs a printer; then `edge-provision apply`"},
	} {
		t.Run(name, func(t *testing.T) {
			k := newCounter(t, storetest.SQLite(t))
			k.answer = func(_ context.Context, targets []string, approve func(workflows.Plan) error) (workflows.Plan, error) {
				c.action.Address = targets[0]
				plan := workflows.Plan{Actions: []workflows.Action{c.action}}
				if err := approve(plan); err == nil {
					t.Error("approve(plan) = nil; want it not carried out")
				}
				return plan, errors.New("not everything is as declared")
			}
			k.plugIn(1, 4<<30)
			for range 3 {
				k.pass(k.reactor())
			}
			k.wantStates(`refused machine.till["left"]`)
			if len(k.asked) != 1 || !strings.Contains(k.said.text(), c.want) {
				t.Errorf("asked %q, said\n%s\nwant it once, and what to do: %s", k.asked, k.said.text(), c.want)
			}
		})
	}
}

func TestAReactionInstallsNoOtherMachine(t *testing.T) {
	c := newCounter(t, storetest.SQLite(t))
	var verdicts []string
	c.answer = func(_ context.Context, targets []string, approve func(workflows.Plan) error) (workflows.Plan, error) {
		for _, a := range []workflows.Action{
			{Address: targets[0], Kind: workflows.KindInstall},
			{Address: targets[0], Kind: workflows.KindInspect},
			{Address: "image.till", Kind: workflows.KindBuild},
			{Address: "machine.till[\"right\"]", Kind: workflows.KindInspect},
			{Address: "machine.till[\"right\"]", Kind: workflows.KindInstall},
			{Address: targets[0], Kind: workflows.KindPowerOn},
			{Address: targets[0], Kind: workflows.KindBoot},
			{Address: "machine.till[\"right\"]", Kind: workflows.KindPowerOn},
			{Address: "machine.till[\"right\"]", Kind: workflows.KindBoot},
		} {
			verdicts = append(verdicts, fmt.Sprintf("%s %v", a.Kind, approve(workflows.Plan{Actions: []workflows.Action{a}}) == nil))
		}
		return workflows.Plan{}, nil
	}
	c.plugIn(1, 4<<30)
	c.pass(c.reactor())
	if got, want := strings.Join(verdicts, ", "), "install true, inspect true, build true, inspect false, install false, power-on true, boot true, power-on false, boot false"; got != want {
		t.Errorf("approved: %s; want %s", got, want)
	}
}

func TestAFailedReactionIsShownAndLeftToAPerson(t *testing.T) {
	c := newCounter(t, storetest.SQLite(t))
	c.answer = func(context.Context, []string, func(workflows.Plan) error) (workflows.Plan, error) {
		return workflows.Plan{}, errors.New("the disk broke")
	}
	m := c.plugIn(1, 4<<30)
	for range 2 {
		c.pass(c.reactor())
	}
	c.wantStates(`failed machine.till["left"]`)
	c.wantAsked(`class "till" machine.till["left"]`)
	views, err := steps.ClassViews(t.Context(), c.site, c.catalog, c.keys, nil, time.Now())
	if err != nil || len(views) != 2 || views[0].Machines != 1 || len(views[0].Reactions) != 1 || !strings.Contains(views[0].Reactions[0], "failed; provisioning machine.till[\"left\"]: the disk broke") {
		t.Errorf("ClassViews() = %+v, %v; want the failure told", views, err)
	}
	events, err := c.catalog.Events(t.Context(), store.EventFilter{Machine: m.ID, Kinds: []inventory.EventKind{inventory.EventMachineReaction}})
	if err != nil || len(events) != 3 || events[2].Attrs["state"] != "failed" || events[2].MAC != m.MACs[0] {
		t.Errorf("events = %+v, %v; want queued, started and failed", events, err)
	}
}

const setUpSite = `
site "counter" {}
class "till" {
  match = facts.memory.bytes >= GiB(2)
  react {
    workflow = workflow.greeting
  }
}
machine "till" {
  for_each = toset(["left", "right"])
  mac      = each.key == "left" ? "52:54:00:26:00:01" : "52:54:00:26:00:02"
  ssh {
    host     = "127.0.0.1"
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"
  }
}
workflow "greeting" {
  step "file" "own" {
    hosts   = [machine.till["left"]]
    path    = "/etc/motd"
    content = "welcome"
  }
}
`

// The steps of a workflow may wait for machines that are installed and off.
func TestTheWorkflowOfAClassSwitchesOnAndInstallsNoMachine(t *testing.T) {
	c := newCounter(t, storetest.SQLite(t))
	s, err := load(t, setUpSite)
	if err != nil {
		t.Fatal(err)
	}
	c.site = s
	m := c.plugIn(1, 4<<30)
	left, right := "machine.till[\"left\"]", "machine.till[\"right\"]"
	if _, err := c.catalog.Bind(t.Context(), "counter", left, m.ID); err != nil {
		t.Fatal(err)
	}
	verdicts := map[string]bool{}
	c.answer = func(_ context.Context, _ []string, approve func(workflows.Plan) error) (workflows.Plan, error) {
		for _, address := range []string{left, right} {
			for _, kind := range []workflows.Kind{workflows.KindRun, workflows.KindPowerOn, workflows.KindBoot, workflows.KindInspect, workflows.KindInstall} {
				verdicts[fmt.Sprint(address, " ", kind)] = approve(workflows.Plan{Actions: []workflows.Action{{Address: address, Kind: kind}}}) == nil
			}
		}
		return workflows.Plan{}, nil
	}
	c.pass(c.reactor())
	c.wantStates("done " + left)
	want := map[string]bool{
		left + " run": true, left + " power-on": true, left + " boot": true, left + " inspect": false, left + " install": false,
		right + " run": true, right + " power-on": false, right + " boot": false, right + " inspect": false, right + " install": false,
	}
	if !maps.Equal(verdicts, want) {
		t.Errorf("approved: %v; want %v", verdicts, want)
	}
}

// Between its start and each stage of its run a reaction may have waited for
// hours behind the apply of a person.
func TestAStartedReactionEndsWithItsReason(t *testing.T) {
	narrowed := strings.ReplaceAll(counterSite, "GiB(2)", "GiB(3)")
	silent := strings.Replace(counterSite, "react {\n    provision = machine.till\n    at_once   = 1\n  }", "", 1)
	if silent == counterSite {
		t.Fatal("the site has another react block; take it out here too")
	}
	edit := func(text string) func(*counter, inventory.Machine) {
		return func(c *counter, _ inventory.Machine) {
			s, err := load(c.T, text)
			if err != nil {
				c.Fatal(err)
			}
			c.serve(s)
		}
	}
	for name, tc := range map[string]struct {
		change func(*counter, inventory.Machine)
		want   string
	}{
		"the react block is taken out": {edit(silent), "the class starts nothing any more"},
		"the rule is narrowed":         {edit(narrowed), "the class has been changed since"},
		"the machine leaves":           {func(c *counter, _ inventory.Machine) { c.plugIn(1, 1<<30) }, "the machine left the class"},
		"it is something else now": {func(c *counter, m inventory.Machine) {
			if _, err := c.catalog.Bind(c.Context(), "counter", "machine.till[\"right\"]", m.ID); err != nil {
				c.Fatal(err)
			}
		}, "the machine is machine.till[\"right\"] now"},
	} {
		for how, planned := range map[string]bool{"with work": true, "with nothing to do": false} {
			t.Run(name+" "+how, func(t *testing.T) {
				c := newCounter(t, storetest.SQLite(t))
				m := c.plugIn(1, 4<<30)
				c.answer = func(_ context.Context, targets []string, approve func(workflows.Plan) error) (workflows.Plan, error) {
					install := workflows.Plan{Actions: []workflows.Action{{Address: targets[0], Kind: workflows.KindInstall}}}
					if planned {
						if err := approve(install); err != nil {
							t.Errorf("approve(before) = %v; want the stage carried out", err)
						}
					}
					tc.change(c, m)
					if !planned {
						return workflows.Plan{}, nil
					}
					if err := approve(install); err != nil {
						return install, fmt.Errorf("the run ended: %v", err)
					}
					return install, nil
				}
				r := c.reactor()
				c.pass(r)
				rows, err := c.catalog.Reactions(t.Context(), store.ReactionFilter{Machine: m.ID})
				if err != nil || len(rows) != 1 || rows[0].State != inventory.ReactionDropped || !strings.Contains(rows[0].Reason, tc.want) {
					t.Errorf("reactions = %+v, %v; want one that was dropped because %s", rows, err, tc.want)
				}
			})
		}
	}
}

// A program that ends while a reaction waits for its turn behind another run has
// attempted nothing.
func TestWaitingIsNoAttempt(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newCounter(t, cfg)
		m := c.plugIn(1, 4<<30)
		attempts := func() int {
			t.Helper()
			rows, err := c.catalog.Reactions(t.Context(), store.ReactionFilter{Machine: m.ID})
			if err != nil || len(rows) != 1 {
				t.Fatalf("reactions = %+v, %v; want one", rows, err)
			}
			return rows[0].Attempts
		}
		c.answer = func(context.Context, []string, func(workflows.Plan) error) (workflows.Plan, error) {
			return workflows.Plan{}, context.Canceled
		}
		for range 5 {
			c.pass(c.reactor())
		}
		if n := attempts(); n != 0 {
			t.Errorf("%d attempts after waiting alone; want none", n)
		}
		c.answer = func(_ context.Context, targets []string, approve func(workflows.Plan) error) (workflows.Plan, error) {
			for range 2 { // its stages
				if err := approve(workflows.Plan{Actions: []workflows.Action{{Address: targets[0], Kind: workflows.KindInstall}}}); err != nil {
					t.Error(err)
				}
			}
			return workflows.Plan{}, context.Canceled
		}
		for n := range 3 {
			c.pass(c.reactor())
			if got := attempts(); got != n+1 {
				t.Errorf("%d attempts after %d that were cut off", got, n+1)
			}
		}
		c.pass(c.reactor())
		c.wantStates(`failed machine.till["left"]`)
		events, err := c.catalog.Events(t.Context(), store.EventFilter{Machine: m.ID, Kinds: []inventory.EventKind{inventory.EventMachineReaction}})
		if err != nil || len(events) != 10 {
			t.Errorf("%d events, %v; want it queued, eight times started, and failed", len(events), err)
		}
	})
}

// What it waits for is shown where reactions are, and only for as long as it does.
func TestAReactionSaysThatTheSiteCannotBeOpened(t *testing.T) {
	storetest.Each(t, func(t *testing.T, cfg store.Config) {
		c := newCounter(t, cfg)
		m := c.plugIn(1, 4<<30)
		want := func(state inventory.ReactionState, reason string) {
			t.Helper()
			rows, err := c.catalog.Reactions(t.Context(), store.ReactionFilter{Machine: m.ID})
			if err != nil || len(rows) != 1 || rows[0].State != state || rows[0].Reason != reason || rows[0].Attempts != 0 {
				t.Errorf("reactions = %+v, %v; want one that is %s with the reason %q, and no attempt", rows, err, state, reason)
			}
		}
		c.hinders = func(waits func(string)) {
			want(inventory.ReactionStarted, "")
			waits("the stick is gone")
			want(inventory.ReactionStarted, "the stick is gone")
			waits("")
			want(inventory.ReactionStarted, "")
		}
		c.pass(c.reactor())
		want(inventory.ReactionDone, `machine.till["left"] is installed`)
	})
}

// A till that died was installed as what its replacement is now.
func TestAReplacementIsNotTakenForInstalled(t *testing.T) {
	c := newCounter(t, storetest.SQLite(t))
	m := c.plugIn(1, 4<<30)
	record, err := json.Marshal(workflows.InstallRecord{Image: "sha256:" + strings.Repeat("5a", 32)})
	if err != nil {
		t.Fatal(err)
	}
	left := "machine.till[\"left\"]"
	if err := c.catalog.PutApplied(t.Context(), store.Applied{Site: "counter", Address: left, Digest: "sha256:" + strings.Repeat("5b", 32), Outputs: record, SchemaVersion: 1}); err != nil {
		t.Fatal(err)
	}
	c.pass(c.reactor())
	rows, err := c.catalog.Reactions(t.Context(), store.ReactionFilter{Machine: m.ID})
	if err != nil || len(rows) != 1 || rows[0].State != inventory.ReactionRefused || !strings.Contains(rows[0].Reason, "destroy --forget --target '"+left+"'") {
		t.Errorf("reactions = %+v, %v; want one that is refused, with what to do", rows, err)
	}
	c.wantAsked()
	// The same record is its own when its row says so.
	own := c.plugIn(2, 4<<30)
	if _, err := steps.Bind(t.Context(), c.site, c.catalog, c.keys); err != nil {
		t.Fatal(err)
	}
	right := "machine.till[\"right\"]"
	if err := c.catalog.PutApplied(t.Context(), store.Applied{Site: "counter", Address: right, Digest: "sha256:" + strings.Repeat("5b", 32), Outputs: record, SchemaVersion: 1}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.catalog.SetImage(t.Context(), own.ID, "sha256:"+strings.Repeat("5a", 32)), c.catalog.SetState(t.Context(), own.ID, inventory.StateInstalled)); err != nil {
		t.Fatal(err)
	}
	c.pass(c.reactor())
	c.wantStates("refused, done " + right)
	c.wantAsked()
}

func TestNothingStartsOfWhatSomebodySaidNoTo(t *testing.T) {
	c := newCounter(t, storetest.SQLite(t))
	r, withheld := c.reactor(), true
	r.Withheld = func() bool { return withheld }
	m := c.plugIn(1, 4<<30)
	c.pass(r)
	c.wantAsked()
	if now, err := c.catalog.Machine(t.Context(), m.ID); err != nil || len(now.Classes) != 1 {
		t.Errorf("the machine is in classes %q, %v; want it known what it is", now.Classes, err)
	}
	withheld = false
	c.pass(r)
	if len(c.asked) != 1 {
		t.Errorf("started %q; want it once it is approved", c.asked)
	}
}
