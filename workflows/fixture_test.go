package workflows_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// node is a machine with a BMC; extra is put into its block.
func node(extra string) string {
	return head + `
machine "a" {
  mac     = "52:54:00:04:21:01"
  network = network.edge
  address = "172.22.0.11"
  image   = image.os
  bmc {
    driver   = "redfish"
    address  = "https://172.22.1.11"
    username = "admin"
    password = "not-in-any-plan"
  }
` + extra + `
}
`
}

// load makes a site from text that has no mistake.
func load(t *testing.T, text string) *site.Site {
	t.Helper()
	path := filepath.Join(t.TempDir(), "site.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, diags := site.Load(path, site.Options{StepTypes: steps.Shapes()})
	if diags.HasErrors() {
		var b bytes.Buffer
		if err := site.WriteDiagnostics(&b, s.Files, diags, false, 120); err != nil {
			t.Fatal(err)
		}
		t.Fatalf("Load() = %s; want no error", b.String())
	}
	return s
}

func disk(name, serial string, gib int64, signatures ...string) inventory.Disk {
	if signatures == nil {
		signatures = []string{}
	}
	return inventory.Disk{Name: name, Serial: serial, Bytes: gib << 30, Signatures: signatures}
}

func facts(disks ...inventory.Disk) *inventory.Facts {
	return &inventory.Facts{
		SchemaVersion: inventory.SchemaVersion,
		System:        &inventory.System{Serial: "7XK2Q93", UUID: "4c4c4544-0042-3010-8042-b4c04f4d3232"},
		Memory:        &inventory.Memory{Bytes: 8 << 30},
		Disks:         append([]inventory.Disk{}, disks...), // looked for, also when there are none
	}
}

// known is a machine whose facts are in the catalog, switched off.
func known(disks ...inventory.Disk) workflows.MachineView {
	return workflows.MachineView{
		Machine: &inventory.Machine{ID: uuid.MustParse("0198c0de-0000-7000-8000-00000000000a"), Serial: "7XK2Q93"},
		Facts:   facts(disks...), Power: workflows.PowerOff,
	}
}

const digest = "sha256:1111111111111111111111111111111111111111111111111111111111111111"

// installed is a machine that this catalog installed and that answers as itself.
func installed(s *site.Site, address string) workflows.MachineView {
	v := known(disk("sda", "D1", 100, "gpt"))
	record := workflows.NewInstallRecord(s.MachineByAddress(address))
	record.Image, record.ImageSpec, record.Disk = digest, "spec-1", workflows.NameDisk(v.Facts.Disks[0])
	v.Applied, v.Host, v.Power = &record, workflows.Present, workflows.PowerUnknown
	v.HostIdentity = workflows.HostIdentity{Catalog: catalog, Site: s.Name, Address: address, Image: digest}
	return v
}

func observation(machines map[string]workflows.MachineView) workflows.Observation {
	return workflows.Observation{
		Catalog: catalog, Machines: machines,
		Images: map[string]workflows.ImageView{"image.os": {Digest: digest, Spec: "spec-1"}},
		Steps:  map[string]workflows.StepView{},
	}
}
