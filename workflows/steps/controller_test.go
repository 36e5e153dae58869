package steps_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// Some BMCs take suite 17 alone.
func TestBMCIsAskedWithTheDeclaredCipherSuite(t *testing.T) {
	for declared, want := range map[string]int{"": 3, "cipher_suite = 17": 17} {
		path := filepath.Join(t.TempDir(), "site.hcl")
		text := `
site "store" {
}
network "edge" {
  interface = "eth1"
  cidr      = "172.22.0.0/24"
}
machine "a" {
  mac     = "52:54:00:00:00:01"
  network = network.edge
  address = "172.22.0.11"
  bmc {
    driver   = "ipmi"
    address  = "172.22.1.11"
    username = "admin"
    password = "emulated"
    ` + declared + `
  }
}
`
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		s, diags := site.Load(path, site.Options{StepTypes: steps.Shapes()})
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		if got := steps.BMCConfig(s, s.Machines[0]).CipherSuite; got != want {
			t.Errorf("with %q the BMC is asked with cipher suite %d; want %d", declared, got, want)
		}
	}
}
