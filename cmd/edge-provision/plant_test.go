package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/journal"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
)

// Bounds of what a test waits for. They end what hangs, and are far from what a
// busy machine needs under the race detector.
const (
	awaitBound   = time.Minute
	commandBound = 3 * time.Minute
)

// plant is a site with one adopted machine, which is this one behind a real SSH
// server, and a catalog of its own. The program runs in processes of its own.
type plant struct {
	t      *testing.T
	dir    string // the steps' files
	data   string
	server *remotetest.Server
	env    []string
}

func newPlant(t *testing.T) *plant {
	t.Helper()
	root := t.TempDir()
	p := &plant{t: t, dir: filepath.Join(root, "machine"), data: filepath.Join(root, "data", "edge-provision")}
	for _, d := range []string{p.dir, p.data} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p.env = append(os.Environ(), "XDG_DATA_HOME="+filepath.Dir(p.data), "XDG_CACHE_HOME="+filepath.Join(root, "cache"), "XDG_RUNTIME_DIR="+shortDir(t))
	p.catalog(func(s *store.Store) {
		keys, err := keyring.Open(t.Context(), keyring.Config{KeyFile: filepath.Join(p.data, "key"), Values: s.Settings()})
		if err != nil {
			t.Fatal(err)
		}
		signer, _, err := keys.SSH(t.Context(), "edge-provision@plant")
		if err != nil {
			t.Fatal(err)
		}
		p.server = remotetest.Start(t, signer.PublicKey(), nil)
	})
	return p
}

// shortDir is a directory for sockets, whatever the test is called.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "plant")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// catalog opens the catalog between two commands.
func (p *plant) catalog(look func(*store.Store)) {
	p.t.Helper()
	s, err := store.Open(p.t.Context(), store.Config{Path: filepath.Join(p.data, "catalog.db")})
	if err != nil {
		p.t.Fatal(err)
	}
	look(s)
	if err := s.Close(); err != nil {
		p.t.Fatal(err)
	}
}

// runs are the runs in the journal, newest first, with their steps.
func (p *plant) runs() (runs []journal.Run) {
	p.t.Helper()
	p.catalog(func(s *store.Store) {
		var err error
		if runs, err = journal.New(s, nil).List(p.t.Context(), "plant", 0); err != nil {
			p.t.Fatal(err)
		}
	})
	return runs
}

const plantMachine = `machine "m" {
  address = "127.0.0.1"
  ssh {
    host_key = "HOSTKEY"
    port     = PORT
    user     = "root"
  }
}
`

// declare writes the site: its machine, and a workflow with steps in which DIR
// stands for the machine's folder. OWNED makes files the test's own.
func (p *plant) declare(steps string) {
	p.t.Helper()
	p.write("site \"plant\" {}\n" + plantMachine + "workflow \"w\" {\n" + steps + "\n}\n")
}

func (p *plant) write(text string) {
	p.t.Helper()
	_, port, _ := strings.Cut(p.server.Address, ":")
	text = strings.NewReplacer("HOSTKEY", p.server.HostKey, "PORT", port, "DIR", p.dir, "OWNED", "owner = \""+plantOwner()+"\"\n group = \""+plantGroup()+"\"").Replace(text)
	if err := os.WriteFile(p.site(), []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) site() string { return filepath.Join(filepath.Dir(p.dir), "site.hcl") }

// command is the program with a typed answer, in a process of its own.
func (p *plant) command(ctx context.Context, answer string, env []string, args ...string) (*exec.Cmd, *transcript) {
	c := exec.CommandContext(ctx, "edge-provision", args...)
	c.Env = append(p.env, env...)
	c.Stdin = strings.NewReader(answer)
	out := &transcript{}
	c.Stdout, c.Stderr = out, out
	return c, out
}

// transcript is the output of a program that may still run.
type transcript struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *transcript) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *transcript) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// run runs the program to its end. A code of -1 is a death by signal.
func (p *plant) run(answer string, env []string, args ...string) (code int, out string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), commandBound)
	defer cancel()
	c, buf := p.command(ctx, answer, env, args...)
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), buf.String()
}

// must runs the program and wants an exit code.
func (p *plant) must(want int, answer string, args ...string) string {
	p.t.Helper()
	code, out := p.run(answer, nil, args...)
	if code != want {
		p.t.Fatalf("edge-provision %q exits with %d; want %d\n%s", args, code, want, out)
	}
	return out
}

func (p *plant) apply() string {
	p.t.Helper()
	return p.must(exitOK, "", "apply", "-auto-approve", p.site())
}

// file is a file of the machine; "(none)" where there is none.
func (p *plant) file(name string) string {
	p.t.Helper()
	b, err := os.ReadFile(filepath.Join(p.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return "(none)"
	}
	if err != nil {
		p.t.Fatal(err)
	}
	return string(b)
}

func plantOwner() string { return userName("-un") }
func plantGroup() string { return userName("-gn") }

// userName asks id(1), as the step does on its machine.
func userName(what string) string {
	out, err := exec.Command("id", what).Output()
	if err != nil {
		return "0"
	}
	return strings.TrimSpace(string(out))
}

// wants fails where text lacks a part.
func (p *plant) wants(text string, parts ...string) {
	p.t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			p.t.Errorf("the output lacks %q:\n%s", part, text)
		}
	}
}
