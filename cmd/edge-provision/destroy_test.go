package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory/store"
)

// chain is three steps of which each needs the one before. Each tells when it is
// taken away.
const chain = `
  step "ssh" "one" {
    hosts   = machine.m
    command = "touch DIR/one"
    creates = "DIR/one"
    remove  = "rm DIR/one; echo one >> DIR/removed"
  }
  step "ssh" "two" {
    hosts      = machine.m
    command    = "touch DIR/two"
    creates    = "DIR/two"
    remove     = "rm DIR/two; echo two >> DIR/removed"
    depends_on = [step.ssh.one]
  }
  step "ssh" "three" {
    hosts      = machine.m
    command    = "touch DIR/three"
    creates    = "DIR/three"
    remove     = "rm DIR/three; echo three >> DIR/removed"
    depends_on = [step.ssh.two]
  }`

const motd = `
  step "file" "motd" {
    hosts   = machine.m
    path    = "DIR/motd"
    content = "ours\n"
    OWNED
  }`

func TestDestroyTakesDependentsFirst(t *testing.T) {
	p := newPlant(t)
	p.declare(chain)
	p.apply()
	p.wants(p.must(exitError, "no\n", "destroy", "-target=workflow.w.step.ssh.two", p.site()), "Not approved; nothing was removed")
	out := p.must(exitOK, "yes\n", "destroy", "-target=workflow.w.step.ssh.two", p.site())
	p.wants(out, "workflow.w.step.ssh.three will be removed", "workflow.w.step.ssh.two will be removed", "2 steps to remove")
	if got := p.file("removed"); got != "three\ntwo\n" {
		t.Errorf("removed = %q; want three before two", got)
	}
	if p.file("one") == "(none)" {
		t.Error("one is gone; want what a target needs left alone")
	}
	p.wants(p.must(exitDifferent, "", "plan", "-detailed-exitcode", p.site()), "2 steps to run")
	p.apply()
	p.wants(p.must(exitError, "yes\n", "destroy", p.site()), "Type the name of the site (plant)", "Not approved")
	p.must(exitOK, "plant\n", "destroy", p.site())
	if got := p.file("removed"); got != "three\ntwo\nthree\ntwo\none\n" {
		t.Errorf("removed = %q; want all, in reverse order", got)
	}
	p.wants(p.must(exitOK, "", "destroy", p.site()), "Nothing to destroy")
}

func TestDestroyOfATargetThatIsNothingStopsBeforeAnything(t *testing.T) {
	p := newPlant(t)
	p.declare(chain)
	p.apply()
	p.wants(p.must(exitError, "plant\n", "destroy", "-target=workflow.w.step.ssh.fuor", p.site()), "Unknown address")
	if got := p.file("removed"); got != "(none)" {
		t.Errorf("removed = %q; want nothing", got)
	}
}

// TestWhatVanishedFromTheSiteIsRemovedFromItsRecord takes steps, and even their
// machine, out of site.hcl.
func TestWhatVanishedFromTheSiteIsRemovedFromItsRecord(t *testing.T) {
	p := newPlant(t)
	p.declare(motd + chain)
	p.apply()
	p.declare(chain)
	p.wants(p.must(exitOK, "", "plan", "-all", p.site()), "workflow.w.step.file.motd is left alone", "no longer declared")
	p.wants(p.apply(), "No changes")
	if p.file("motd") == "(none)" {
		t.Fatal("apply removed what is no longer declared; want it left alone")
	}
	p.wants(p.must(exitOK, "yes\n", "destroy", "-target=workflow.w.step.file.motd", p.site()), "no longer declared")
	if got := p.file("motd"); got != "(none)" {
		t.Errorf("motd = %q; want it gone", got)
	}
	p.write("site \"plant\" {}\n")
	p.must(exitOK, "yes\n", "destroy", "-target=workflow.w", p.site())
	if got := p.file("removed"); got != "three\ntwo\none\n" {
		t.Errorf("removed = %q; want all three, though neither they nor their machine are declared", got)
	}
}

func TestDataIsKeptUnlessItsAddressIsNamed(t *testing.T) {
	const address = "workflow.w.step.file.motd"
	tests := map[string]struct {
		answer string
		args   []string
		gone   bool
	}{
		"nothing typed":          {"\nyes\n", nil, false},
		"yes is no address":      {"yes\nyes\n", nil, false},
		"auto-approve":           {"", []string{"-auto-approve"}, false},
		"address typed":          {address + "\nyes\n", nil, true},
		"address given":          {"", []string{"-auto-approve", "-destroy-data=" + address}, true},
		"another address given":  {"", []string{"-auto-approve", "-destroy-data=workflow.w.step.file.other"}, false},
		"typed and auto-approve": {address + "\n", []string{"-auto-approve"}, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.declare(motd)
			p.apply()
			if err := os.WriteFile(filepath.Join(p.dir, "motd"), []byte("somebody's work\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			out := p.must(exitOK, test.answer, append(append([]string{"destroy", "-target=" + address}, test.args...), p.site())...)
			p.wants(out, "DATA", "has other content than was written")
			if gone := p.file("motd") == "(none)"; gone != test.gone {
				t.Errorf("gone = %v; want %v\n%s", gone, test.gone, out)
			}
			if !test.gone {
				p.wants(out, "Kept: ")
			}
		})
	}
}

func TestNothingIsRemovedFromWhatCannotBeAsked(t *testing.T) {
	p := newPlant(t)
	p.declare(motd)
	p.apply()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().(*net.TCPAddr).String()
	l.Close()
	server := p.server.Address
	p.server.Address = closed
	p.declare(motd)
	p.server.Address = server
	out := p.must(exitError, "plant\n", "destroy", p.site())
	p.wants(out, "workflow.w.step.file.motd cannot be asked; it is left alone", "--forget")
	if p.file("motd") == "(none)" {
		t.Error("motd is gone")
	}
	p.wants(p.must(exitOK, "yes\n", "destroy", "-forget", "-target=workflow.w.step.file.motd", p.site()), "will be forgotten")
	p.declare(motd)
	p.wants(p.must(exitOK, "", "destroy", p.site()), "Nothing to destroy")
}

// TestRecordWithoutInputsSaysWhatToDo is about what an older program applied.
func TestRecordWithoutInputsSaysWhatToDo(t *testing.T) {
	p := newPlant(t)
	p.declare(motd)
	p.apply()
	p.catalog(func(s *store.Store) {
		a, err := s.Applied(t.Context(), "plant", "workflow.w.step.file.motd")
		if err == nil {
			a.Kind, a.Inputs, a.DependsOn = "", nil, nil
			err = s.PutApplied(t.Context(), a)
		}
		if err != nil {
			t.Fatal(err)
		}
	})
	declared, err := os.ReadFile(p.site())
	if err != nil {
		t.Fatal(err)
	}
	p.declare(strings.ReplaceAll(motd, "ours", "other"))
	p.wants(p.must(exitError, "plant\n", "destroy", p.site()), "is refused", "did not keep what it was applied with", "take away by hand", "--forget")
	p.declare("")
	p.wants(p.must(exitError, "yes\n", "destroy", "-target=workflow.w.step.file.motd", p.site()), "take away by hand")
	// Declared as it was applied, its inputs are known.
	if err := os.WriteFile(p.site(), declared, 0o600); err != nil {
		t.Fatal(err)
	}
	p.must(exitOK, "plant\n", "destroy", p.site())
	if got := p.file("motd"); got != "(none)" {
		t.Errorf("motd = %q; want it gone", got)
	}
}

// TestWhatFailedHalfWayIsRemovedToo destroys a step that never succeeded.
func TestWhatFailedHalfWayIsRemovedToo(t *testing.T) {
	p := newPlant(t)
	p.declare(`
  step "ssh" "half" {
    hosts   = machine.m
    command = "touch DIR/half; exit 3"
    remove  = "rm -f DIR/half"
  }`)
	p.must(exitError, "", "apply", "-auto-approve", p.site())
	if p.file("half") == "(none)" {
		t.Fatal("the command did not run")
	}
	p.declare("")
	p.must(exitOK, "", "destroy", "-auto-approve", p.site())
	if p.file("half") != "(none)" {
		t.Error("half is still there; want what a failed attempt left removed")
	}
}

func TestWhenThatBecomesFalseRemovesNothing(t *testing.T) {
	p := newPlant(t)
	conditional := `
  step "file" "motd" {
    when    = WHEN
    hosts   = machine.m
    path    = "DIR/motd"
    content = "ours\n"
    OWNED
  }`
	p.declare(strings.ReplaceAll(conditional, "WHEN", "true"))
	p.apply()
	p.declare(strings.ReplaceAll(conditional, "WHEN", "false"))
	p.wants(p.apply(), "No changes")
	if got := p.file("motd"); got != "ours\n" {
		t.Errorf("motd = %q; want it left", got)
	}
	p.declare(strings.ReplaceAll(conditional, "WHEN", "true"))
	p.wants(p.apply(), "No changes")
	p.declare(strings.ReplaceAll(conditional, "WHEN", "false"))
	p.must(exitOK, "plant\n", "destroy", p.site())
	if got := p.file("motd"); got != "(none)" {
		t.Errorf("motd = %q; want destroy to take it away", got)
	}
}

// TestResumedDestroyKeepsTheConsentThatWasGiven is killed after the address was
// typed; with more data than was shown then, it asks again.
func TestResumedDestroyKeepsTheConsentThatWasGiven(t *testing.T) {
	const address = "workflow.w.step.file.motd"
	at := []string{failPointVariable + "=" + address + "@before-intent"}
	other := "\nstep \"file\" \"other\" {\n hosts = machine.m\n path = \"DIR/other\"\n content = \"ours\"\n OWNED\n depends_on = [step.file.motd]\n}"
	for name, grown := range map[string]bool{"as it was": false, "with more data": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPlant(t)
			p.declare(motd + other)
			p.apply()
			change := func(file string) {
				if err := os.WriteFile(filepath.Join(p.dir, file), []byte("somebody's work\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			change("motd")
			at := at
			if grown {
				at = []string{failPointVariable + "=workflow.w.step.file.other@before-intent"}
			}
			if code, out := p.run(address+"\nplant\n", at, "destroy", p.site()); code != -1 {
				t.Fatalf("destroy exits with %d; want it killed\n%s", code, out)
			}
			if !grown {
				p.must(exitOK, "", "runs", "resume", "plant")
				if p.file("motd") != "(none)" {
					t.Error("motd is still there; want the consent of the run that was killed to hold")
				}
				return
			}
			change("other")
			p.wants(p.must(exitError, "", "runs", "resume", "plant"), "Type "+address, "Not approved")
			if p.file("motd") == "(none)" || p.file("other") == "(none)" {
				t.Error("something was removed that nobody approved")
			}
		})
	}
}
