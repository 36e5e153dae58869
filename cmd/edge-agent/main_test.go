package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
)

const module = "github.com/edge-provision/edge-provision/"

// forbidden are packages that must not get into the binary that every machine is
// sent, each with its reason.
var forbidden = map[string]string{
	"entgo.io/ent":                "the catalog is the controller's",
	"database/sql":                "the catalog is the controller's",
	"modernc.org/sqlite":          "the catalog is the controller's",
	"github.com/hashicorp/hcl":    "site.hcl is read by the controller",
	"github.com/zclconf/go-cty":   "site.hcl is read by the controller",
	"github.com/bmc-toolbox":      "BMCs are driven from outside",
	"k8s.io":                      "Kubernetes comes after the installer",
	"github.com/spf13/cobra":      "process 1 has no command line to speak of",
	"golang.org/x/crypto/openpgp": "not maintained",
}

// ours are the packages of this module that the agent may be made of.
var ours = []string{
	"cmd/edge-agent", "inventory", "inventory/probe", "inventory/probe/lldp", "imagebuilder/chunk", "imagebuilder/gpt",
	"workflows/agent", "workflows/agent/boot", "workflows/agent/host",
}

func TestAgentIsThin(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(out)) {
		for prefix, reason := range forbidden {
			// uuid.UUID implements two small interfaces of it.
			if name == "database/sql/driver" {
				continue
			}
			if name == prefix || strings.HasPrefix(name, prefix+"/") {
				t.Errorf("edge-agent imports %s: %s", name, reason)
			}
		}
		if own, ok := strings.CutPrefix(name, module); ok && !contains(ours, own) {
			t.Errorf("edge-agent imports %s, which is not among what it may be made of: %q", name, ours)
		}
	}
}

func contains(list []string, s string) bool {
	for _, l := range list {
		if l == s {
			return true
		}
	}
	return false
}

// maxBytes is the budget of the stripped binary.
const maxBytes = 12_000_000

func TestAgentIsStaticAndSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "edge-agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxBytes {
		t.Errorf("edge-agent has %d bytes, %v; want at most %d", info.Size(), err, maxBytes)
	}
	t.Logf("edge-agent has %d bytes", info.Size())
	out, err := exec.CommandContext(t.Context(), path, "version").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != version {
		t.Errorf("edge-agent version = %q, %v; want %s", out, err, version)
	}
	data, err := os.ReadFile(path)
	if err != nil || bytes.Contains(data, []byte("ld-linux")) {
		t.Errorf("edge-agent names a dynamic loader (%v)", err)
	}
}

func TestFactsOfALivingLinux(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"facts"}, &stdout, &stderr); code != 0 {
		t.Fatalf("edge-agent facts = %d, %s; want 0", code, stderr.String())
	}
	var facts inventory.Facts
	if err := json.Unmarshal(stdout.Bytes(), &facts); err != nil || facts.SchemaVersion != inventory.SchemaVersion || facts.CPU == nil {
		t.Errorf("edge-agent facts = %s, %v; want a facts document", stdout.String(), err)
	}
	for _, args := range [][]string{nil, {"nonsense"}, {"facts", "more"}, {"facts", "-listen", "an hour"}, {"facts", "-listen", "1h"}, {"version", "-listen", "1s"}} {
		stderr.Reset()
		if code := run(t.Context(), args, &stdout, &stderr); code != 2 || !strings.Contains(stderr.String(), "usage") {
			t.Errorf("edge-agent %q = %d, %q; want 2 and the usage", args, code, stderr.String())
		}
	}
}
