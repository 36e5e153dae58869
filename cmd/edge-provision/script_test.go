package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"edge-provision": func() {
			os.Exit(process(os.Args[1:], elsewhere))
		},
	})
}

// sshVariable names the one server that stands for the SSH servers of all
// machines, in the environment of a program that is tested.
const sshVariable = "EDGE_TEST_SSH"

// elsewhere leads the program's SSH connections to that server.
func elsewhere(a *app) {
	if server := os.Getenv(sshVariable); server != "" {
		a.dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server)
		}
	}
}

// TestCommandLine runs the scripts of testdata/script against the program.
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_DATA_HOME", filepath.Join(e.WorkDir, "data"))
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "cache"))
			return nil
		},
		Condition: func(condition string) (bool, error) {
			// mounts: this user may mount a file system in a namespace.
			if condition != "mounts" {
				return false, fmt.Errorf("unknown condition %q", condition)
			}
			return exec.Command("unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt").Run() == nil, nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			// exit CODE ARGS… runs the program and wants that exit code.
			"exit": func(ts *testscript.TestScript, neg bool, args []string) {
				if neg || len(args) < 2 {
					ts.Fatalf("usage: exit CODE ARGS…")
				}
				err := ts.Exec("sh", append([]string{"-c", `want=$1; shift; edge-provision "$@"; got=$?; test $got -eq $want || { echo "exit code $got, want $want" >&2; exit 1; }`, "sh"}, args...)...)
				ts.Check(err)
			},
			// plain wants that a stream or file has no escape sequence.
			"plain": func(ts *testscript.TestScript, _ bool, args []string) {
				for _, name := range args {
					if strings.Contains(ts.ReadFile(name), "\x1b") {
						ts.Fatalf("%s has an escape sequence", name)
					}
				}
			},
			// trust KEYFILE FILE… makes sites trust a public key.
			"trust": func(ts *testscript.TestScript, _ bool, args []string) {
				key := strings.TrimSpace(ts.ReadFile(args[0]))
				for _, name := range args[1:] {
					text := regexp.MustCompile(`ed25519:[A-Za-z0-9+/]{43}=`).ReplaceAllLiteralString(ts.ReadFile(name), key)
					ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
				}
			},
			// edit FILE OLD NEW replaces a text that has to be there.
			"edit": func(ts *testscript.TestScript, _ bool, args []string) {
				text := ts.ReadFile(args[0])
				if !strings.Contains(text, args[1]) {
					ts.Fatalf("%s has no %q", args[0], args[1])
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.ReplaceAll(text, args[1], args[2])), 0o600))
			},
			// nest FILE writes 10 MB of brackets.
			"nest": func(ts *testscript.TestScript, _ bool, args []string) {
				text := "site \"deep\" {}\nlocals {\n  x = " + strings.Repeat("[", 5<<20) + strings.Repeat("]", 5<<20) + "\n}\n"
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
			},
		},
	})
}

func TestLongFlagsMayHaveOneDash(t *testing.T) {
	tests := []struct{ args, want string }{
		{"plan -out f site.hcl", "plan --out f site.hcl"},
		{"plan -detailed-exitcode", "plan --detailed-exitcode"},
		{"plan -replace=machine.a", "plan --replace=machine.a"},
		{"plan --out f", "plan --out f"},
		{"list -o json", "list -o json"},
		{"list -ojson", "list -ojson"},
		{"list -o=json", "list -o=json"},
		{"list -help", "list --help"},
		{"list -unknown", "list --unknown"},
		{"plan -var x=-1 -5 -", "plan --var x=-1 -5 -"},
		{"plan -- -out", "plan -- -out"},
		{"", ""},
	}
	root := (&app{}).root()
	for _, test := range tests {
		if got := doubleDashes(root, strings.Fields(test.args)); !slices.Equal(got, strings.Fields(test.want)) {
			t.Errorf("doubleDashes(%q) = %q; want %q", test.args, got, test.want)
		}
	}
}

func TestEveryExampleIsValidWithTheRealSteps(t *testing.T) {
	files, err := filepath.Glob(repository + "/hcl-examples/*.hcl")
	if err != nil || len(files) == 0 {
		t.Fatalf("Glob() = %v, %v; want examples", files, err)
	}
	// Directories hold sites that share modules, which lie deeper.
	shared, err := filepath.Glob(repository + "/hcl-examples/*/*.hcl")
	if err != nil || len(shared) == 0 {
		t.Fatalf("Glob() = %v, %v; want examples with modules", shared, err)
	}
	files = append(files, shared...)
	for _, f := range files {
		_, diags := site.Load(f, site.Options{StepTypes: steps.Shapes(), Environ: []string{"EDGE_VAR_bmc_password=correct-horse"}, Version: version})
		if len(diags) > 0 {
			t.Errorf("Load(%s) = %v; want no diagnostic", f, diags)
		}
	}
}
