package steps_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/crypto/ssh"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/remote"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// bench is a site whose one machine is this one, behind a real SSH server.
type bench struct {
	t       *testing.T
	site    *site.Site
	catalog *store.Store
	runner  *steps.Runner
	server  *remotetest.Server
	dir     string // the catalog is in it
}

// hosts reaches the test's server whatever the machine is called.
type hosts struct {
	server *remotetest.Server
	signer ssh.Signer
	err    error
}

func (h hosts) Host(ctx context.Context, machine string) (*remote.Host, error) {
	if h.err != nil {
		return nil, h.err
	}
	return remote.Dial(ctx, remote.Config{Name: machine, Address: h.server.Address, HostKey: h.server.HostKey, Signer: h.signer})
}

const machine = `
site "store" {}

variable "token" {
  type      = string
  sensitive = true
  default   = "hunter2-hunter2"
}

machine "old" {
  address = "127.0.0.1"
  ssh {
    host_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEDGVQ/HsZEtQ5k1sMbJJKVJ7KTwoJpXXCtWNzMmhwkW"
  }
}

workflow "w" {
`

func load(t *testing.T, text string) (*site.Site, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "site.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, diags := site.Load(path, site.Options{StepTypes: steps.Shapes()})
	if diags.HasErrors() {
		return nil, diags
	}
	return s, nil
}

// newBench declares steps, with DIR standing for a folder of the test.
func newBench(t *testing.T, declared string) *bench {
	t.Helper()
	signer := remotetest.NewSigner(t)
	b := &bench{t: t, server: remotetest.Start(t, signer.PublicKey(), nil), dir: t.TempDir()}
	var err error
	if b.site, err = load(t, machine+strings.ReplaceAll(declared, "DIR", b.dir)+"\n}\n"); err != nil {
		t.Fatal(err)
	}
	cfg := store.Config{Path: filepath.Join(b.dir, "catalog.db")}
	b.catalog = storetest.Open(t, cfg)
	keys, err := keyring.Open(t.Context(), keyring.Config{KeyFile: filepath.Join(b.dir, "key"), Values: b.catalog.Settings()})
	if err != nil {
		t.Fatal(err)
	}
	b.runner = &steps.Runner{
		Site: b.site, Catalog: b.catalog, Keys: keys, Hosts: hosts{server: b.server, signer: signer},
		Clock: workflows.SystemClock{}, Tell: func(steps.Progress) {},
	}
	return b
}

func (b *bench) step(i int) *site.Step { return b.site.Workflows[0].Steps[i] }

func (b *bench) inspect() workflows.StepView {
	b.t.Helper()
	known, err := b.runner.Known(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	v, err := b.runner.Inspect(b.t.Context(), b.step(0), known)
	if err != nil {
		b.t.Fatal(err)
	}
	return v
}

func (b *bench) do() ([]byte, error) {
	b.t.Helper()
	return b.runner.Do(b.t.Context(), uuid.New(), b.step(0))
}

func (b *bench) mustDo() []byte {
	b.t.Helper()
	out, err := b.do()
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

func TestFileIsKeptAsDeclared(t *testing.T) {
	b := newBench(t, `
  step "file" "f" {
    hosts   = machine.old
    path    = "DIR/sub/f"
    content = "one\n"
    mode    = "0640"
    owner   = "`+owner()+`"
    group   = "`+group()+`"
  }`)
	path := filepath.Join(b.dir, "sub", "f")
	if v := b.inspect(); v.Presence != workflows.Present || len(v.Changes) != 1 || !strings.Contains(v.Changes[0], "is missing") {
		t.Errorf("Inspect() = %+v; want that it is missing", v)
	}
	b.mustDo()
	if got, err := os.ReadFile(path); err != nil || string(got) != "one\n" {
		t.Fatalf("ReadFile() = %q, %v; want the content", got, err)
	}
	before, _ := os.Stat(path)
	if v := b.inspect(); len(v.Changes) != 0 {
		t.Errorf("Inspect() = %+v; want no change", v)
	}
	b.mustDo()
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Error("applying twice wrote the file again")
	}
	if err := os.WriteFile(path, []byte("drift"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if v := b.inspect(); len(v.Changes) != 2 {
		t.Errorf("Inspect() = %+v; want drift of content and mode", v)
	}
	if err := b.runner.Undo(t.Context(), b.step(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Stat() after Undo = %v; want the file gone", err)
	}
}

func TestActionRunsOncePerInputsAndTriggers(t *testing.T) {
	b := newBench(t, `
  step "ssh" "s" {
    hosts    = machine.old
    command  = "echo ran >> DIR/log"
    triggers = { version = "1" }
  }`)
	if v := b.inspect(); v.Presence != workflows.Absent {
		t.Errorf("Inspect() = %+v; want Absent", v)
	}
	b.mustDo()
	if v := b.inspect(); v.Presence != workflows.Present {
		t.Errorf("Inspect() = %+v; want Present: it ran with these inputs", v)
	}
	changed, err := load(t, strings.ReplaceAll(machine+`
  step "ssh" "s" {
    hosts    = machine.old
    command  = "echo ran >> DIR/log"
    triggers = { version = "2" }
  }
}
`, "DIR", b.dir))
	if err != nil {
		t.Fatal(err)
	}
	b.site, b.runner.Site = changed, changed
	if v := b.inspect(); v.Presence != workflows.Absent || len(v.Changes) != 1 {
		t.Errorf("Inspect() = %+v; want Absent, because the trigger has changed", v)
	}
}

func TestCheckAndCreatesDecide(t *testing.T) {
	b := newBench(t, `
  step "ssh" "s" {
    hosts   = machine.old
    command = "echo $GREETING > DIR/made; echo ran >> DIR/log"
    creates = "DIR/made"
    check   = "grep -q hello DIR/made"
    environment = { GREETING = "hello 'you'" }
  }`)
	b.mustDo()
	b.mustDo()
	if log, _ := os.ReadFile(filepath.Join(b.dir, "log")); string(log) != "ran\n" {
		t.Errorf("log = %q; want one run", log)
	}
	if made, _ := os.ReadFile(filepath.Join(b.dir, "made")); string(made) != "hello 'you'\n" {
		t.Errorf("made = %q; want the environment's value, quotes and all", made)
	}
	if v := b.inspect(); v.Presence != workflows.Present {
		t.Errorf("Inspect() = %+v; want Present", v)
	}
}

func TestCommandThatDoesNotDoItsWorkIsAFailure(t *testing.T) {
	b := newBench(t, `
  step "ssh" "s" {
    hosts   = machine.old
    command = "true"
    creates = "DIR/made"
  }`)
	if _, err := b.do(); err == nil || !strings.Contains(err.Error(), "still does not hold") {
		t.Errorf("Do() = %v; want the verification's word", err)
	}
	if a, err := b.catalog.Applied(t.Context(), "store", b.step(0).Address); err != nil || a.Digest != "" || len(a.Attempt) == 0 {
		t.Errorf("Applied() = %+v, %v; a failure must be remembered as begun, and not as done", a, err)
	}
}

func TestSecretsAreNowhereInClear(t *testing.T) {
	const secret = "hunter2-hunter2"
	b := newBench(t, `
  step "ssh" "s" {
    hosts   = machine.old
    command = "cat"
    stdin   = var.token
  }`)
	out := b.mustDo()
	if bytes.Contains(out, []byte(secret)) {
		t.Error("the journal's outputs hold the secret in clear")
	}
	known, err := b.runner.Known(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	outputs := known.Steps[b.step(0).Address]
	if got := outputs.GetAttr("stdout").AsValueMap()["machine.old"].AsString(); got != secret {
		t.Errorf("stdout = %q; want what was sealed back again", got)
	}
	for _, name := range []string{"catalog.db", "catalog.db-wal"} {
		db, err := os.ReadFile(filepath.Join(b.dir, name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if bytes.Contains(db, []byte(secret)) {
			t.Errorf("%s holds the secret in clear", name)
		}
	}
}

func TestFailingCommandDoesNotPrintItsSecret(t *testing.T) {
	for name, body := range map[string]string{
		"in its line":        `command = "echo the token is ${var.token} >&2; exit 1"`,
		"on its input":       "command = \"cat >&2; exit 1\"\n stdin = var.token",
		"in its environment": "command = \"echo the token is $TOKEN; exit 1\"\n environment = { TOKEN = var.token }",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, "step \"ssh\" \"s\" {\n hosts = machine.old\n "+body+"\n}")
			_, err := b.do()
			if err == nil || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), "output is not shown") {
				t.Errorf("Do() = %v; want an error with the secret taken out", err)
			}
		})
	}
}

func TestDigestsOfInputsAreKeyed(t *testing.T) {
	const text = `
  step "ssh" "s" {
    hosts   = machine.old
    command = "true"
  }`
	a, b := newBench(t, text), newBench(t, text)
	if x, y := a.inspect().Inputs, b.inspect().Inputs; x == y || x == "" {
		t.Errorf("two catalogs give the digests %s and %s; want them keyed", x, y)
	}
	if x, y := a.inspect().Inputs, a.inspect().Inputs; x != y {
		t.Errorf("one catalog gives %s and %s; want one digest", x, y)
	}
}

func TestHostThatCannotBeAskedCostsNoPlan(t *testing.T) {
	for name, cause := range map[string]error{
		"unreachable":     &remote.UnreachableError{Host: "machine.old", Address: "x", Err: errors.New("no route")},
		"another key":     &remote.HostKeyError{Host: "machine.old"},
		"refuses our key": &remote.AuthError{Host: "machine.old", Err: errors.New("no")},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, `
  step "file" "f" {
    hosts   = machine.old
    path    = "/etc/f"
    content = "x"
  }`)
			b.runner.Hosts = hosts{err: cause}
			if v := b.inspect(); v.Presence != workflows.Unreachable || v.Detail == "" {
				t.Errorf("Inspect() = %+v; want Unreachable, with the reason", v)
			}
		})
	}
}

func TestWaitHoldsUntilTheConditionIsTrue(t *testing.T) {
	b := newBench(t, `
  step "wait" "w" {
    hosts    = machine.old
    command  = "test -e DIR/ready || { touch DIR/ready; false; }"
    interval = "1s"
  }`)
	b.mustDo()
	if n := len(b.server.Commands()); n != 2 {
		t.Errorf("%d commands ran; want a question that failed and one that did not", n)
	}
}

func TestStepsRefuseWhatCannotBeMeant(t *testing.T) {
	tests := map[string]string{
		`step "power" "p" { machines = machine.old
 state = "sideways" }`: "Invalid power state",
		`step "file" "f" { hosts = machine.old
 path = "etc/f"
 content = "" }`: "Invalid path",
		`step "file" "f" { hosts = machine.old
 path = "/f"
 content = ""
 mode = "rw" }`: "Invalid mode",
		`step "wait" "w" { }`: "Nothing to wait for",
		`step "wait" "w" { tcp = "x:1"
 interval = "1ms" }`: "Invalid interval",
		`step "ssh" "s" { hosts = machine.old
 command = null }`: "Null value",
		`step "wipe" "w" { machine = machine.old
 disks = [null] }`: "Null value",
		`step "wipe" "w" { machine = machine.old
 disks = null }`: "Null value",
	}
	for text, want := range tests {
		text = strings.NewReplacer("{ ", "{\n ", " }", "\n}").Replace(text)
		if _, err := load(t, machine+text+"\n}\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%s) = %v; want %q", text, err, want)
		}
	}
}

func TestIntervalMayBeInDays(t *testing.T) {
	if _, err := load(t, machine+"step \"wait\" \"w\" {\n tcp = \"x:1\"\n interval = \"1d\"\n}\n}\n"); err != nil {
		t.Errorf("Load() = %v; want days understood as everywhere else", err)
	}
}

func TestBindGivesOneMachineToOneDeclaration(t *testing.T) {
	s, err := load(t, `
site "store" {}
network "floor" {
  interface = "eth1"
  cidr      = "172.24.0.0/24"
  dhcp {
    mode  = "server"
    range = "172.24.0.100-172.24.0.250"
  }
}
machine "big" {
  count   = 2
  match   = facts.memory.bytes >= GiB(4)
  network = network.floor
}
`)
	if err != nil {
		t.Fatal(err)
	}
	catalog := storetest.Open(t, storetest.SQLite(t))
	discover := func(last byte) inventory.Machine {
		m, _, err := catalog.Observe(t.Context(), "store", store.Observation{
			MACs: []inventory.MAC{{0x52, 0x54, 0, 0, 0, last}}, Source: inventory.SourceAgent,
			Facts: &inventory.Facts{SchemaVersion: inventory.SchemaVersion, Memory: &inventory.Memory{Bytes: 8 << 30}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	first := discover(1)
	if unbound, err := steps.Bind(t.Context(), s, catalog, nil); err != nil || len(unbound) > 0 {
		t.Fatal(unbound, err)
	}
	got, err := catalog.MachineByAddress(t.Context(), "store", "machine.big[0]")
	if err != nil || got.ID != first.ID {
		t.Errorf("machine.big[0] = %v, %v; want the first that matched, and not taken away by machine.big[1]", got.ID, err)
	}
	second, third := discover(2), discover(3)
	unbound, err := steps.Bind(t.Context(), s, catalog, nil)
	if err != nil || len(unbound) != 1 {
		t.Fatalf("Bind() = %v, %v; want machine.big[1] unbound, and no more", unbound, err)
	}
	for _, part := range []string{"machine.big[1]", "site.hcl:13", "its match fits 2 machines and must fit one", second.ID.String(), third.ID.String(), "name the machine by mac"} {
		if !strings.Contains(unbound.Err().Error(), part) {
			t.Errorf("Bind() leaves it unbound, because %v; want %q in it", unbound.Err(), part)
		}
	}
	for last := range byte(5) {
		discover(4 + last)
	}
	if unbound, err = steps.Bind(t.Context(), s, catalog, nil); err != nil || !strings.Contains(unbound.Err().Error(), "fits 7 machines") || !strings.Contains(unbound.Err().Error(), "; 2 more; ") {
		t.Errorf("Bind() = %v, %v; want five of them named", unbound, err)
	}
}

func TestRenamedActionIsNotRunAgain(t *testing.T) {
	b := newBench(t, `
  step "ssh" "s" {
    hosts   = machine.old
    command = "echo ran >> DIR/log"
  }`)
	b.mustDo()
	renamed, err := load(t, machine+strings.ReplaceAll(`
  step "ssh" "renamed" {
    hosts   = machine.old
    command = "echo ran >> DIR/log"
  }
}

moved {
  from = workflow.w.step.ssh.s
  to   = workflow.w.step.ssh.renamed
}
`, "DIR", b.dir))
	if err != nil {
		t.Fatal(err)
	}
	b.site, b.runner.Site = renamed, renamed
	if v := b.inspect(); v.Presence != workflows.Absent {
		t.Errorf("the renamed step before the move is %q; want absent", v.Presence)
	}
	for range 2 {
		if err := steps.Move(t.Context(), renamed, b.catalog, b.runner.Keys); err != nil {
			t.Fatal(err)
		}
	}
	if v := b.inspect(); v.Presence != workflows.Present {
		t.Errorf("the renamed step after the move is %q; want present", v.Presence)
	}
}
