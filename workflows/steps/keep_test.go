package steps_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// keeper is a machine on which edge-agent is kept, with what was run on it.
type keeper struct {
	*adoption
	server    *remotetest.Server
	temporary string
	dir       string // where it is kept
	program   string // the file that it should be
}

func keeping(t *testing.T) *keeper {
	t.Helper()
	signer := remotetest.NewSigner(t)
	k := &keeper{temporary: t.TempDir(), dir: filepath.Join(t.TempDir(), "edge-provision", "agent")}
	k.server = remotetest.Start(t, signer.PublicKey(), &remotetest.Server{Env: []string{"TMPDIR=" + k.temporary}})
	k.adoption = adopt(t, block(t, k.server.Address, k.server.HostKey), signer)
	k.observer.Adopter.Dir = k.dir
	path, err := agentProgram()
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k.program = filepath.Join(k.dir, fmt.Sprintf("edge-agent-%x", sha256.Sum256(content)))
	return k
}

// look gathers facts and tells whether the program was sent for that.
func (k *keeper) look() (sent bool) {
	k.t.Helper()
	before := len(k.server.Commands())
	v, _, said := k.see()
	if v.Facts == nil || !v.Looked || said != "" && !strings.Contains(said, "could not see everything") {
		k.t.Fatalf("view = %+v, %s; want facts", v, said)
	}
	for _, c := range k.server.Commands()[before:] {
		sent = sent || strings.Contains(c, "cat >")
	}
	empty(k.t, k.temporary)
	return sent
}

func (k *keeper) kept() string {
	k.t.Helper()
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		k.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestTheAgentIsSentOnce(t *testing.T) {
	k := keeping(t)
	if first, second := k.look(), k.look(); !first || second {
		t.Error("the program was not sent at the first look alone")
	}
	if got := k.kept(); got != filepath.Base(k.program) {
		t.Errorf("kept: %s; want the one program", got)
	}
	for path, want := range map[string]os.FileMode{k.dir: 0o700, k.program: 0o700, filepath.Dir(k.dir): 0o755} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s = %v, %v; want %o", path, info.Mode(), err, want)
		}
	}
	// Another version replaces it.
	old := filepath.Join(k.dir, "edge-agent-0000")
	if err := os.Rename(k.program, old); err != nil {
		t.Fatal(err)
	}
	if !k.look() || k.kept() != filepath.Base(k.program) {
		t.Errorf("kept after another version: %s; want the one that was sent", k.kept())
	}
}

func TestAKeptAgentIsRunOnlyAsItWasSent(t *testing.T) {
	proof := filepath.Join(t.TempDir(), "was-run")
	trap := []byte("#!/bin/sh\ntouch " + proof + "\n")
	for name, spoil := range map[string]func(k *keeper) error{
		"its content is another": func(k *keeper) error { return os.WriteFile(k.program, trap, 0o700) },
		"others may write it":    func(k *keeper) error { return os.Chmod(k.program, 0o722) },
		"it is a link": func(k *keeper) error {
			if err := os.Rename(k.program, k.dir+"/moved"); err != nil {
				return err
			}
			return os.Symlink(k.dir+"/moved", k.program)
		},
		"it is gone": func(k *keeper) error { return os.Remove(k.program) },
	} {
		t.Run(name, func(t *testing.T) {
			k := keeping(t)
			k.look()
			if err := spoil(k); err != nil {
				t.Fatal(err)
			}
			if !k.look() {
				t.Error("the program was not sent again")
			}
			if k.look() {
				t.Error("the program was sent once more; want the new one kept")
			}
			if _, err := os.Stat(proof); err == nil {
				t.Error("a program that is not ours was run")
			}
			if info, err := os.Lstat(k.program); err != nil || info.Mode() != 0o700 {
				t.Errorf("kept program = %v, %v; want a file of mode 0700", info.Mode(), err)
			}
		})
	}
}

func TestTheAgentIsNotKeptWhereOthersMayWrite(t *testing.T) {
	for name, make := range map[string]func(k *keeper) error{
		"anybody may write": func(k *keeper) error {
			if err := os.MkdirAll(k.dir, 0o700); err != nil {
				return err
			}
			return os.Chmod(k.dir, 0o777)
		},
		"a link leads elsewhere": func(k *keeper) error {
			if err := os.MkdirAll(filepath.Dir(k.dir), 0o755); err != nil {
				return err
			}
			return os.Symlink(k.t.TempDir(), k.dir)
		},
		"something else is there": func(k *keeper) error {
			if err := os.MkdirAll(filepath.Dir(k.dir), 0o755); err != nil {
				return err
			}
			return os.WriteFile(k.dir, nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := keeping(t)
			if err := make(k); err != nil {
				t.Fatal(err)
			}
			if first, second := k.look(), k.look(); !first || !second {
				t.Error("the program was kept; want it sent each time")
			}
			if entries, err := os.ReadDir(k.dir); err == nil && len(entries) > 0 {
				t.Errorf("in the directory: %v; want nothing of ours", entries)
			}
			if list := k.keepers(); len(list) != 0 {
				t.Errorf("Keepers() = %+v; want none", list)
			}
		})
	}
}

// keepers are the machines from which a destroy would remove the program.
func (k *keeper) keepers() []steps.Keeper {
	k.t.Helper()
	out, err := k.destroyer().Keepers(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

func (k *keeper) destroyer() *steps.Destroyer {
	return destroyer(&steps.Runner{Site: k.site, Catalog: k.catalog, Hosts: k.observer.Hosts})
}

func TestTheAgentGoesWithTheSite(t *testing.T) {
	for name, other := range map[string]bool{"alone": false, "beside what is not ours": true} {
		t.Run(name, func(t *testing.T) {
			k := keeping(t)
			if list := k.keepers(); len(list) != 0 {
				t.Errorf("before it was sent: Keepers() = %+v; want none", list)
			}
			k.look()
			list := k.keepers()
			if len(list) != 1 || list[0].Machine.Address != "machine.old" || list[0].Dir != k.dir {
				t.Fatalf("Keepers() = %+v; want the machine, and %s", list, k.dir)
			}
			beside := filepath.Join(filepath.Dir(k.dir), "catalog.db")
			if other {
				if err := os.WriteFile(beside, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			port := k.site.Machines[0].SSH.Port
			k.site.Machines[0].SSH.Port = 1 // where nobody listens
			if err := k.destroyer().Relieve(t.Context(), list); err == nil || !strings.Contains(err.Error(), "machine.old: removing edge-agent from "+k.dir) || len(k.keepers()) != 1 {
				t.Errorf("Relieve(a machine that cannot be asked) = %v, and Keepers() = %+v; want it said, and the machine kept in mind", err, k.keepers())
			}
			k.site.Machines[0].SSH.Port = port
			for range 2 { // a second one, cut off before it was written down, finds nothing
				if err := k.destroyer().Relieve(t.Context(), list); err != nil {
					t.Errorf("Relieve() = %v", err)
				}
			}
			gone := filepath.Dir(k.dir)
			if other {
				gone = k.dir
				if _, err := os.Stat(beside); err != nil {
					t.Errorf("what is not ours: %v; want it left", err)
				}
			}
			if _, err := os.Stat(gone); !os.IsNotExist(err) {
				t.Errorf("Stat(%s) = %v; want it gone", gone, err)
			}
			if list := k.keepers(); len(list) != 0 {
				t.Errorf("Keepers() = %+v; want none any more", list)
			}
			if !k.look() || len(k.keepers()) != 1 {
				t.Error("the next look did not send the program again, or nobody knows of it")
			}
		})
	}
}

func TestThePlaceOfTheAgentIsPlain(t *testing.T) {
	k := keeping(t)
	for _, dir := range []string{"relative", "/with blank", `/quo"te`, "/$(id)", "/"} {
		k.observer.Adopter.Dir = dir
		if _, _, said := k.see(); !strings.Contains(said, "is no place for a program") {
			t.Errorf("Dir %q: %s; want it refused", dir, said)
		}
	}
	if steps.DefaultAgentDir != "/var/lib/edge-provision/agent" {
		t.Errorf("DefaultAgentDir = %s; docs/drift.md names another", steps.DefaultAgentDir)
	}
}
