package steps_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"

	"golang.org/x/crypto/ssh"
)

// agentDir is where agentProgram builds; it is removed when all tests are done.
var agentDir string

// agentProgram builds the real edge-agent, once for all tests.
var agentProgram = sync.OnceValues(func() (path string, err error) {
	if agentDir, err = os.MkdirTemp("", "edge-agent-test"); err != nil {
		return "", err
	}
	path = filepath.Join(agentDir, "edge-agent")
	build := exec.Command("go", "build", "-o", path, "github.com/edge-provision/edge-provision/cmd/edge-agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building edge-agent: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := storetest.Run(m)
	if agentDir != "" {
		os.RemoveAll(agentDir)
	}
	os.Exit(code)
}

// adoption is a site whose one machine is adopted.
type adoption struct {
	t        *testing.T
	site     *site.Site
	catalog  *store.Store
	observer *steps.Observer
}

// adopt declares a machine with an ssh block of these attributes, reached with
// the key of signer.
func adopt(t *testing.T, ssh string, signer ssh.Signer) *adoption {
	t.Helper()
	s, err := load(t, "site \"shop\" {}\nmachine \"old\" {\n  ssh {\n"+ssh+"\n  }\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	a := &adoption{t: t, site: s, catalog: storetest.Open(t, store.Config{Path: filepath.Join(t.TempDir(), "catalog.db")})}
	a.observer = &steps.Observer{
		Site: s, Catalog: a.catalog, Hosts: &steps.SSH{Site: s, Catalog: a.catalog, Signer: signer},
		Runner:  &steps.Runner{Site: s, Catalog: a.catalog},
		Adopter: &steps.Adopter{Site: s.Name, Catalog: a.catalog, Agent: agentProgram, Dir: filepath.Join(t.TempDir(), "kept", "agent")},
	}
	return a
}

// see observes the site and gives what was seen of its machine, and the plan's
// action with its diagnostics as text.
func (a *adoption) see() (workflows.MachineView, workflows.Action, string) {
	a.t.Helper()
	seen, err := a.observer.Observe(a.t.Context())
	if err != nil {
		a.t.Fatal(err)
	}
	plan, diags := workflows.Build(a.site, seen, workflows.BuildOptions{})
	if len(plan.Actions) != 1 {
		a.t.Fatalf("plan = %+v; want one action", plan.Actions)
	}
	var said []string
	for _, d := range diags {
		said = append(said, d.Summary+": "+d.Detail)
	}
	return seen.Machines["machine.old"], plan.Actions[0], strings.Join(said, "\n")
}

// block is the ssh block of a machine behind a server.
func block(t *testing.T, address, hostKey string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("host = %q\nport = %s", host, port)
	if hostKey != "" {
		text += fmt.Sprintf("\nhost_key = %q", hostKey)
	}
	return text
}

// empty fails when a directory has something in it.
func empty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("ReadDir(%s) = %v, %v; want it empty: something was left behind", dir, entries, err)
	}
}

func TestFactsOfAnAdoptedMachineComeFromTheAgent(t *testing.T) {
	temporary := t.TempDir()
	signer := remotetest.NewSigner(t)
	server := remotetest.Start(t, signer.PublicKey(), &remotetest.Server{Env: []string{"TMPDIR=" + temporary}})
	a := adopt(t, block(t, server.Address, server.HostKey), signer)
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		v, action, _ := a.see()
		if v.Host != workflows.Present || v.Facts == nil || v.Facts.Kernel == nil || v.Facts.Kernel.Release != strings.TrimSpace(string(release)) || v.Facts.Memory == nil {
			t.Fatalf("view = %+v; want this machine's facts", v)
		}
		if action.Kind != workflows.KindNone {
			t.Errorf("action = %+v; want none", action)
		}
	}
	row, err := a.catalog.MachineByAddress(t.Context(), "shop", "machine.old")
	if err != nil {
		t.Fatal(err)
	}
	history, err := a.catalog.FactsHistory(t.Context(), row.ID, inventory.SourceAgent)
	if err != nil || len(history) != 1 {
		t.Errorf("FactsHistory() = %d documents, %v; want one: nothing changed in between", len(history), err)
	}
	empty(t, temporary)
}

func TestFactsAreKeptWhenTheMachineCannotBeAsked(t *testing.T) {
	signer := remotetest.NewSigner(t)
	options := &remotetest.Server{}
	server := remotetest.Start(t, signer.PublicKey(), options)
	a := adopt(t, block(t, server.Address, server.HostKey), signer)
	if v, _, _ := a.see(); v.Facts == nil {
		t.Fatal("Facts = nil; want them")
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	a.site.Machines[0].SSH.Port = nobody.Addr().(*net.TCPAddr).Port
	v, action, _ := a.see()
	if v.Host != workflows.Unreachable || v.Facts == nil || action.Kind != workflows.KindUnreachable {
		t.Errorf("view, action = %+v, %+v; want it unreachable with the facts of before", v, action)
	}
}

func TestAnAdoptedMachineThatIsNotItselfIsRefused(t *testing.T) {
	signer := remotetest.NewSigner(t)
	server := remotetest.Start(t, signer.PublicKey(), nil)
	other := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(remotetest.NewSigner(t).PublicKey())))
	pinned, _, _, _, err := ssh.ParseAuthorizedKey([]byte(server.HostKey))
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, hostKey string
		signer        ssh.Signer
		says          []string
	}{
		{"another host key", other, signer, []string{"another machine has its address", "nothing was sent"}},
		{"no host key", "", signer, []string{server.HostKey, ssh.FingerprintSHA256(pinned), "host_key", "nothing was sent"}},
		{"our key is not admitted", server.HostKey, remotetest.NewSigner(t), []string{"edge-provision key", "user root"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := adopt(t, block(t, server.Address, test.hostKey), test.signer)
			v, action, said := a.see()
			if v.Host != workflows.Absent || v.Facts != nil || action.Kind != workflows.KindRefused {
				t.Errorf("view, action = %+v, %+v; want it refused", v, action)
			}
			for _, text := range test.says {
				if !strings.Contains(said, text) {
					t.Errorf("diagnostics = %s; want %q among them", said, text)
				}
			}
		})
	}
	if len(server.Commands()) != 0 {
		t.Errorf("commands = %q; want none", server.Commands())
	}
}

func TestFactsThatCannotBeGatheredAreAWarning(t *testing.T) {
	program, err := agentProgram()
	if err != nil {
		t.Fatal(err)
	}
	native, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	foreign := append([]byte(nil), native...)
	foreign[0x12], foreign[0x13] = 0xf3, 0 // e_machine: EM_RISCV
	write := func(content []byte) func() (string, error) {
		path := filepath.Join(t.TempDir(), "edge-agent")
		return func() (string, error) { return path, os.WriteFile(path, content, 0o700) }
	}
	installed := func(path string) func() (string, error) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return write(content)
	}
	tests := []struct {
		name  string
		agent func() (string, error)
		env   []string
		says  string
	}{
		{"another processor", write(foreign), nil, "is built for riscv64 and the machine is \""},
		{"no program", func() (string, error) { return "", fmt.Errorf("edge-agent was not found") }, nil, "edge-agent was not found"},
		{"not a program", write([]byte("#!/bin/sh\n")), nil, "is no program for Linux"},
		{"no facts", installed("/bin/echo"), nil, "reading a facts document"},
		{"facts without end", installed("/usr/bin/yes"), nil, "it printed more than"},
		{"a program that fails", installed("/bin/false"), nil, "exited with 1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			signer := remotetest.NewSigner(t)
			server := remotetest.Start(t, signer.PublicKey(), &remotetest.Server{Env: append(test.env, "TMPDIR="+t.TempDir())})
			a := adopt(t, block(t, server.Address, server.HostKey), signer)
			a.observer.Adopter.Agent = test.agent
			v, action, said := a.see()
			if v.Host != workflows.Present || v.Facts != nil || action.Kind != workflows.KindNone {
				t.Errorf("view, action = %+v, %+v; want it present, without facts", v, action)
			}
			if !strings.Contains(said, "Facts are incomplete") || !strings.Contains(said, test.says) {
				t.Errorf("diagnostics = %s; want a warning with %q", said, test.says)
			}
		})
	}
}

func TestAnAdoptedMachineKeepsItsRecordWhenItIsRenamed(t *testing.T) {
	signer := remotetest.NewSigner(t)
	server := remotetest.Start(t, signer.PublicKey(), nil)
	a := adopt(t, block(t, server.Address, server.HostKey), signer)
	a.see()
	before, err := a.catalog.MachineByAddress(t.Context(), "shop", "machine.old")
	if err != nil {
		t.Fatal(err)
	}
	moved := &site.Site{Name: "shop", Moved: []site.Moved{{From: "machine.old", To: "module.m.machine.new"}}}
	for range 2 {
		if err := steps.Move(t.Context(), moved, a.catalog, nil); err != nil {
			t.Fatal(err)
		}
	}
	after, err := a.catalog.MachineByAddress(t.Context(), "shop", "module.m.machine.new")
	if err != nil || after.ID != before.ID {
		t.Errorf("MachineByAddress(new) = %s, %v; want %s", after.ID, err, before.ID)
	}
}
