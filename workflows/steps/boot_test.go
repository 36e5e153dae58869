package steps_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/store/storetest"
	"github.com/edge-provision/edge-provision/pxe"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

const bootSite = `
site "store" {}
network "floor" {
  interface = "eth1"
  cidr      = "172.24.0.0/24"
  unknown   = "POLICY"
  dhcp {
    mode  = "server"
    range = "172.24.0.100-172.24.0.250"
  }
}
machine "a" {
  mac     = "52:54:00:00:00:01"
  network = network.floor
}
`

func TestOnlyWhatARunWantsOrDiscoveryAdmitsGetsTheInstaller(t *testing.T) {
	declared, stranger := inventory.MAC{0x52, 0x54, 0, 0, 0, 1}, inventory.MAC{0x52, 0x54, 0, 0, 0, 9}
	tests := []struct {
		name, policy string
		mac          inventory.MAC
		stage        pxe.Stage
		wanted       bool
		inspected    bool
		want         pxe.Kind
	}{
		{"declared, nobody wants it", "discover", declared, pxe.StageUEFI, false, false, pxe.KindLocal},
		{"declared and wanted", "ignore", declared, pxe.StageUEFI, true, false, pxe.KindInstall},
		{"a stranger under ignore", "ignore", stranger, pxe.StageUEFI, false, false, pxe.KindIgnore},
		{"a stranger under discover", "discover", stranger, pxe.StageUEFI, false, false, pxe.KindInstall},
		{"a stranger's operating system under discover", "discover", stranger, pxe.StageOS, false, false, pxe.KindIgnore},
		{"a stranger that was inspected", "discover", stranger, pxe.StageUEFI, false, true, pxe.KindLocal},
		{"a stranger that was inspected, under ignore", "ignore", stranger, pxe.StageUEFI, false, true, pxe.KindIgnore},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s, err := load(t, strings.ReplaceAll(bootSite, "POLICY", test.policy))
			if err != nil {
				t.Fatal(err)
			}
			catalog := storetest.Open(t, store.Config{Path: filepath.Join(t.TempDir(), "catalog.db")})
			d, err := dispatch.New(dispatch.Config{Site: "store", Store: catalog.Settings()})
			if err != nil {
				t.Fatal(err)
			}
			row, err := catalog.Declare(t.Context(), "store", "machine.a", declared)
			if err != nil {
				t.Fatal(err)
			}
			if test.inspected {
				_, _, err := catalog.Observe(t.Context(), "store", store.Observation{
					MACs: []inventory.MAC{stranger}, Source: inventory.SourceAgent, Facts: &inventory.Facts{SchemaVersion: inventory.SchemaVersion},
				})
				if err != nil {
					t.Fatal(err)
				}
			}
			wanted := steps.NewWanted()
			wanted.Set(row.ID, test.wanted)
			b := steps.NewBooter(s, s.Networks[0], catalog, d, wanted)
			client := pxe.Client{MAC: test.mac, Stage: test.stage}
			if test.want == pxe.KindInstall {
				if a, err := b.Boot(t.Context(), client); err != nil || a.Kind != pxe.KindAddressOnly {
					t.Errorf("Boot() = %+v, %v before the installer is built; want an address only", a, err)
				}
			}
			b.SetBootstrap(steps.Bootstrap{Kernel: "k", Initramfs: "i", Controller: "https://172.24.0.1:8481", Pin: "p"})
			a, err := b.Boot(t.Context(), client)
			if err != nil || a.Kind != test.want || a.CommandLine != "" {
				t.Errorf("Boot() = %+v, %v; want %s, and no token for who does not want the script", a, err, test.want)
			}
			client.WantsScript = true
			a, err = b.Boot(t.Context(), client)
			if err != nil || strings.Contains(a.CommandLine, "edge.token=") != (test.want == pxe.KindInstall) {
				t.Errorf("Boot() = %+v, %v; want a token with the installer and only there", a, err)
			}
		})
	}
}
