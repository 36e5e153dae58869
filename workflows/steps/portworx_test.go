package steps

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/addon/portworx"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// Two cheap disks of one model, of which nobody wrote a serial number, go by one name
// below /dev/disk/by-id, which may lead to either.
func TestPortworxIsGivenNoDiskWhoseNameAnotherHas(t *testing.T) {
	const name = "/dev/disk/by-id/ata-SATA_SSD_00000000"
	root := inventory.Disk{Name: "sda", Model: "SATA SSD", Serial: "00000000", ByID: name, Path: "p", Bytes: 120e9, Signatures: []string{}}
	other := inventory.Disk{Name: "sdb", Model: "SATA SSD", Serial: "00000000", ByID: name, Path: "q", Bytes: 480e9, Signatures: []string{}}
	own := inventory.Disk{Name: "sdc", Serial: "S5X1", ByID: "/dev/disk/by-id/ata-SATA_SSD_S5X1", Path: "r", Bytes: 480e9, Signatures: []string{}}
	bears := workflows.NameDisk(root)
	n, err := (&portworxStep{}).node(t.Context(), "machine.a", MachineInfo{Hostname: "a", RootDisk: &bears, Facts: &inventory.Facts{Disks: []inventory.Disk{root, other, own}}}, nil)
	if err != nil || len(n.Devices) != 1 || n.Devices[0] != own.ByID {
		t.Errorf("node() gives %q, %v; want %s alone", n.Devices, err, own.ByID)
	}
}

// noted keeps marks for a test.
type noted map[string]bool

func (n noted) Marked(_ context.Context, key string) (bool, error) { return n[key], nil }
func (n noted) Mark(_ context.Context, key string) error           { n[key] = true; return nil }

// pxctl stands in for Portworx's own: it keeps what it was called with, and the file
// that it was given.
const pxctl = `#!/bin/sh
echo "$*" >>DIR/called
if [ "$2" = add ]; then stat -c %a "$3" >>DIR/called; cp "$3" DIR/licence; fi
`

// The vendor's command takes a file or an activation id, and each cluster of Portworx's
// gets its own: the next one, on disks that were wiped, too.
func TestPortworxIsLicensedOncePerCluster(t *testing.T) {
	dir := t.TempDir()
	program := filepath.Join(dir, "pxctl")
	if err := os.WriteFile(program, []byte(strings.ReplaceAll(pxctl, "DIR", dir)), 0o755); err != nil {
		t.Fatal(err)
	}
	id := ""
	kubeconfig := pretendedObjects(t, func(path string) any {
		switch path {
		case "/apis/core.libopenstorage.org/v1":
			return resources("core.libopenstorage.org/v1", map[string]any{"name": "storageclusters", "namespaced": true, "kind": "StorageCluster"})
		case "/apis/core.libopenstorage.org/v1/namespaces/" + portworx.Namespace + "/storageclusters/clinic":
			return map[string]any{"apiVersion": "core.libopenstorage.org/v1", "kind": "StorageCluster", "metadata": map[string]any{"name": "clinic"}, "status": map[string]any{"clusterUid": id}}
		}
		return nil
	})
	cluster, err := kube.Open(kube.Config{Kubeconfig: kubeconfig, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	n := nodes{servers: map[string]*remotetest.Server{}, signer: remotetest.NewSigner(t)}
	n.servers["machine.a"] = remotetest.Start(t, n.signer.PublicKey(), &remotetest.Server{Rewrite: func(line string) string {
		return strings.NewReplacer("/opt/pwx/bin/pxctl", program, "/run/", dir+"/").Replace(line)
	}})
	marks := noted{}
	license := func(licence string) error {
		s := &portworxStep{
			clusterStep: &clusterStep{env: Env{Marks: marks, Hosts: n}, cluster: cluster}, machines: []string{"machine.a"},
			inputs: cty.ObjectVal(map[string]cty.Value{"licence": cty.StringVal(licence).Mark(site.Sensitive)}), config: portworx.Config{Name: "clinic"},
		}
		return s.license(t.Context())
	}
	called := func() []string {
		text, err := os.ReadFile(filepath.Join(dir, "called"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(dir, "called")); err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(text))
	}
	const activationID = "9035-1a42-9af0-ccd9-dab6"
	if err := license(activationID); err == nil || !strings.Contains(err.Error(), "status.clusterUid") || len(called()) > 0 {
		t.Errorf("license() of a cluster without an id = %v; want that said and nothing done", err)
	}
	for _, id = range []string{"first", "second"} {
		if err := license(activationID); err != nil {
			t.Fatal(err)
		}
		if got, want := called(), []string{"license", "activate", activationID}; !slices.Equal(got, want) {
			t.Errorf("cluster %s: pxctl was called with %q; want %q", id, got, want)
		}
		if err := license(activationID); err != nil || len(called()) > 0 {
			t.Errorf("cluster %s was licensed twice, or %v", id, err)
		}
	}
	file := []byte("\x00\xff licence \n")
	if err := license(base64.StdEncoding.EncodeToString(file)); err != nil {
		t.Fatal(err)
	}
	got := called()
	if len(got) != 4 || got[1] != "add" || got[3] != "600" {
		t.Fatalf("pxctl was called with %q; want license add FILE, of mode 600", got)
	}
	if kept, err := os.ReadFile(filepath.Join(dir, "licence")); err != nil || !slices.Equal(kept, file) {
		t.Errorf("pxctl was given %q, %v; want %q", kept, err, file)
	}
	if _, err := os.Stat(got[2]); err == nil {
		t.Errorf("%s was left on the machine", got[2])
	}
}

func TestPortworxLicenceIsAFileOrAnID(t *testing.T) {
	for text, fine := range map[string]bool{
		"9035-1a42-9af0-ccd9-dab6": true, "bGljZW5jZQ==": true, "": false, "our-licence": false, "9035-1a42-9af0-ccd9-dab6; rm": false,
	} {
		inputs := map[string]cty.Value{"licence": cty.StringVal(text).Mark(site.Sensitive), "cluster": cty.DynamicVal, "nodes": cty.DynamicVal, "versions": cty.NullVal(cty.String), "waive": cty.NullVal(cty.List(cty.String)), "ignore_fields": cty.NullVal(cty.List(cty.String))}
		for _, rule := range diskRules {
			inputs[rule] = cty.NullVal(cty.String)
		}
		diags := checkPortworx(cty.ObjectVal(inputs), nil)
		if diags.HasErrors() == fine || !fine && text != "" && strings.Contains(diags.Error(), text) {
			t.Errorf("licence %q: %v; want it taken: %t, and the licence not shown", text, diags, fine)
		}
	}
}
