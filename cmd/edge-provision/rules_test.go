package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/edge-provision/edge-provision/"

// goPackage is what `go list` says of a package.
type goPackage struct {
	ImportPath string
	Standard   bool
	Imports    []string
	Deps       []string
}

func listPackages(t *testing.T) map[string]goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Standard,Imports,Deps", "./...")
	cmd.Dir = repository
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatal(err)
	}
	packages := map[string]goPackage{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return packages
		}
		if err != nil {
			t.Fatal(err)
		}
		packages[p.ImportPath] = p
	}
}

// below reports whether path is the package, or in a folder below it.
func below(path, of string) bool { return path == of || strings.HasPrefix(path, of+"/") }

func ours(p string) bool { return strings.HasPrefix(p, module) }

// within reports whether path is any of the packages of this module.
func within(path string, names ...string) bool {
	return slices.Contains(names, strings.TrimPrefix(path, module))
}

// TestImportsPointOneWay holds the rules of docs/architecture.md.
func TestImportsPointOneWay(t *testing.T) {
	packages := listPackages(t)
	ent := func(path string) bool {
		return below(path, module+"ent") && !below(path, module+"ent/schema")
	}
	rules := []struct {
		reason string
		// about chooses the packages that the rule is about, and refuses what
		// they must not import; deps: not even through others.
		about   func(path string) bool
		refuses func(from, path string) bool
		deps    bool
	}{
		{
			"the agent fits into an installer and speaks to nobody but its controller",
			func(p string) bool { return within(p, "cmd/edge-agent") },
			func(_, p string) bool {
				return below(p, "entgo.io/ent") || below(p, "github.com/hashicorp/hcl/v2") || below(p, "github.com/bmc-toolbox/bmclib/v2") ||
					below(p, "k8s.io/client-go") || below(p, "modernc.org/sqlite") ||
					ours(p) && !within(p, "inventory", "inventory/probe", "inventory/probe/lldp", "imagebuilder/chunk", "imagebuilder/gpt", "workflows/agent", "workflows/agent/host", "workflows/agent/boot", "cmd/edge-agent")
			}, true,
		},
		{
			"a change of the schema stops at the two doors to the database",
			func(p string) bool {
				return !below(p, module+"ent") && !within(p, "inventory/store", "workflows/journal")
			},
			func(_, p string) bool { return ent(p) }, false,
		},
		{
			"the schema knows the vocabulary and nothing else of ours",
			func(p string) bool { return within(p, "ent/schema") },
			func(_, p string) bool { return ours(p) && !within(p, "inventory") }, true,
		},
		{
			"pxe can be used without BMCs and images",
			func(p string) bool { return below(p, module+"pxe") },
			func(_, p string) bool { return below(p, module+"bmc") || below(p, module+"imagebuilder") }, true,
		},
		{
			"bmc can be used without netboot and images",
			func(p string) bool { return below(p, module+"bmc") },
			func(_, p string) bool { return below(p, module+"pxe") || below(p, module+"imagebuilder") }, true,
		},
		{
			"images can be built without a site",
			func(p string) bool { return below(p, module+"imagebuilder") },
			func(_, p string) bool { return ours(p) && !below(p, module+"imagebuilder") }, true,
		},
		{
			"anyone can name a machine without a database, a protocol or HCL",
			func(p string) bool { return within(p, "inventory") },
			func(_, p string) bool {
				host, _, _ := strings.Cut(p, "/")
				return strings.Contains(host, ".") && p != "github.com/google/uuid" && !within(p, "inventory")
			}, true,
		},
		{
			"a client of the API needs no catalog",
			func(p string) bool { return within(p, "inventory/client", "inventory/resource", "inventory/ansible") },
			func(_, p string) bool {
				return ours(p) && !within(p, "inventory", "inventory/drift", "inventory/resource", "inventory/timeline", "inventory/client", "inventory/ansible")
			}, true,
		},
		{
			"files of machines are read and written without a catalog",
			func(p string) bool { return within(p, "inventory/exchange") },
			func(_, p string) bool { return ours(p) && !within(p, "inventory", "inventory/exchange") }, true,
		},
		{
			"facts are described, and written by hand, without a catalog",
			func(p string) bool { return within(p, "inventory/manual", "inventory/schema") },
			func(_, p string) bool {
				return ours(p) && !within(p, "inventory", "inventory/manual", "inventory/schema")
			}, true,
		},
		{
			"the API shows what the catalog knows, and does nothing to machines itself",
			func(p string) bool { return within(p, "inventory/api") },
			func(_, p string) bool {
				return below(p, module+"workflows") || below(p, module+"pxe") || below(p, module+"bmc") || below(p, module+"imagebuilder")
			}, true,
		},
		{
			"the dashboard shows what the API tells, and has no other way to know",
			func(p string) bool { return within(p, "inventory/dashboard") },
			func(_, p string) bool {
				return ours(p) && !within(p, "inventory", "inventory/query", "inventory/dashboard")
			}, true,
		},
		{
			"a site is read without asking anything of the world",
			func(p string) bool { return within(p, "workflows/site") },
			func(_, p string) bool { return ours(p) && !within(p, "inventory", "inventory/query") }, false,
		},
		{
			"what classes start is decided without a catalog, a clock or a runner",
			func(p string) bool { return within(p, "workflows/class") },
			func(_, p string) bool {
				return ours(p) && !within(p, "inventory", "inventory/query", "workflows/site", "workflows/class")
			}, true,
		},
		{
			"K3s is installed without knowing how it was declared",
			func(p string) bool { return within(p, "workflows/k3s") },
			func(_, p string) bool {
				return below(p, "github.com/hashicorp/hcl/v2") || ours(p) && !within(p, "workflows/k3s", "workflows/remote", "workflows/artifact", "inventory")
			}, false,
		},
		{
			"a cluster is kept without machines, images or a site",
			func(p string) bool { return below(p, module+"workflows/kube") },
			func(_, p string) bool { return ours(p) && !below(p, module+"workflows/kube") }, false,
		},
		{
			"an add-on is objects and their proof",
			func(p string) bool { return below(p, module+"workflows/addon") },
			func(_, p string) bool {
				return ours(p) && !below(p, module+"workflows/kube") && !within(p, "workflows/addon/addontest")
			}, false,
		},
		{
			"files are fetched and bundled without a site, a machine or a cluster",
			func(p string) bool { return within(p, "workflows/artifact", "workflows/bundle") },
			func(_, p string) bool {
				return ours(p) && !within(p, "workflows/artifact", "workflows/bundle", "imagebuilder/chunk", "imagebuilder/fetch")
			}, true,
		},
		{
			"a daemon is spoken to without knowing what about",
			func(p string) bool { return within(p, "workflows/control") },
			func(_, p string) bool { return ours(p) && !within(p, "workflows/control") }, true,
		},
		{
			"versions are compared by themselves",
			func(p string) bool { return within(p, "workflows/stack") },
			func(_, p string) bool { return ours(p) && !within(p, "workflows/stack") }, true,
		},
		{
			"nothing needs a program",
			func(string) bool { return true },
			func(from, p string) bool { return below(p, module+"cmd") && from != p }, false,
		},
		{
			"the engine does not know what it drives",
			func(p string) bool { return p == module+"workflows" },
			func(_, p string) bool {
				return below(p, module+"pxe") || below(p, module+"bmc") || below(p, module+"imagebuilder") || ent(p)
			}, true,
		},
	}
	for _, rule := range rules {
		seen := 0
		for path, p := range packages {
			if !rule.about(path) {
				continue
			}
			seen++
			imports := p.Imports
			if rule.deps {
				imports = p.Deps
			}
			for _, i := range imports {
				if rule.refuses(path, i) {
					t.Errorf("%s imports %s; %s", strings.TrimPrefix(path, module), i, rule.reason)
				}
			}
		}
		if seen == 0 {
			t.Errorf("no package is held to the rule that %s", rule.reason)
		}
	}
	for path, p := range packages {
		drivers := 0
		for _, d := range []string{"pxe", "bmc", "imagebuilder"} {
			if slices.ContainsFunc(p.Imports, func(i string) bool { return i == module+d }) {
				drivers++
			}
		}
		if drivers > 1 && !within(path, "workflows/steps", "cmd/edge-provision") {
			t.Errorf("%s imports %d of pxe, bmc and imagebuilder; only workflows/steps turns a site into their configurations", path, drivers)
		}
	}
}
