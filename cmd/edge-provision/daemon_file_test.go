package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory/store"
)

// TestVariablesOfTheClientReachTheDaemonAndNothingElse gives a secret in the
// client's environment, and in a file that only the client can open, and looks for it
// in all that is kept and shown.
func TestVariablesOfTheClientReachTheDaemonAndNothingElse(t *testing.T) {
	const secret = "correct-horse-battery"
	p := newPlant(t)
	p.write(`site "plant" {}
variable "token" {
  type      = string
  sensitive = true
  default   = ""
}
` + plantMachine + `
workflow "w" {
  step "file" "secret" {
    hosts   = machine.m
    path    = "DIR/secret"
    content = "token = ${var.token}\n"
    OWNED
  }
}
`)
	d := p.serve(nil, "-verbose")
	given := func(token string, code int, out string) {
		t.Helper()
		if code != exitOK || p.file("secret") != "token = "+token+"\n" {
			t.Errorf("apply exits with %d and writes %q; want the variable of the client\n%s", code, p.file("secret"), out)
		}
		if strings.Contains(out+d.out.String(), secret) {
			t.Errorf("the secret was shown:\n%s%s", out, d.out)
		}
	}
	code, out := p.run("yes\n", []string{"EDGE_VAR_token=" + secret}, "apply", p.site())
	given(secret, code, out)
	values := opened(t, "token = \""+secret+"-of-a-file\"\n")
	code, out = p.runWith(values, "yes\n", "apply", "-var-file="+thirdFile, p.site())
	given(secret+"-of-a-file", code, out)
	p.catalog(func(*store.Store) { grepAll(t, p.data, secret) })
}

// A service of systemd has its own /tmp, and no /home.
func TestAFileThatServeSeesOtherwiseIsRefused(t *testing.T) {
	p := newPlant(t)
	p.declare(quick)
	p.serve(nil)
	code, out := p.runWith(opened(t, "a bundle"), "", "apply", "-auto-approve", "-bundle="+thirdFile, p.site())
	if code != exitError {
		t.Errorf("apply exits with %d; want 1\n%s", code, out)
	}
	p.wants(out, thirdFile, "such as /var/lib/edge-provision")
}

func TestFilesAreComparedByWhatTheyAre(t *testing.T) {
	dir := t.TempDir()
	path, gone := filepath.Join(dir, "site.bundle"), filepath.Join(dir, "gone")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	seen := seenFiles(path, gone, "")
	if err := sameFilesSeen(seen); err != nil || len(seen) != 1 {
		t.Errorf("the files as they are seen, of which %d are there: %v; want one, the same", len(seen), err)
	}
	if err := errors.Join(os.Rename(path, gone), os.WriteFile(path, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := sameFilesSeen(seen); err == nil || !strings.Contains(err.Error(), "another file at "+path) {
		t.Errorf("with another file there: %v; want it refused", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := sameFilesSeen(seen); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with none there: %v; want it refused", err)
	}
}

// thirdFile is a file that only the process sees to which it was handed.
const thirdFile = "/dev/fd/3"

func opened(t *testing.T, text string) *os.File {
	t.Helper()
	path := filepath.Join(t.TempDir(), "handed")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// runWith runs the program with a file as thirdFile.
func (p *plant) runWith(f *os.File, answer string, args ...string) (code int, out string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), commandBound)
	defer cancel()
	c, buf := p.command(ctx, answer, nil, args...)
	c.ExtraFiles = []*os.File{f}
	var exit *exec.ExitError
	if err := c.Run(); err != nil && !errors.As(err, &exit) {
		p.t.Fatal(err)
	}
	return c.ProcessState.ExitCode(), buf.String()
}
