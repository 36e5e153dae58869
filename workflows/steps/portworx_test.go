package steps

import (
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
)

// Two cheap disks of one model, of which nobody wrote a serial number, go by one name
// below /dev/disk/by-id, which may lead to either.
func TestPortworxIsGivenNoDiskWhoseNameAnotherHas(t *testing.T) {
	const name = "/dev/disk/by-id/ata-SATA_SSD_00000000"
	root := inventory.Disk{Name: "sda", Model: "SATA SSD", Serial: "00000000", ByID: name, Path: "p", Bytes: 120e9}
	other := inventory.Disk{Name: "sdb", Model: "SATA SSD", Serial: "00000000", ByID: name, Path: "q", Bytes: 480e9}
	own := inventory.Disk{Name: "sdc", Serial: "S5X1", ByID: "/dev/disk/by-id/ata-SATA_SSD_S5X1", Path: "r", Bytes: 480e9}
	bears := workflows.NameDisk(root)
	n, err := (&portworxStep{}).node("machine.a", MachineInfo{Hostname: "a", RootDisk: &bears, Facts: &inventory.Facts{Disks: []inventory.Disk{root, other, own}}}, nil)
	if err != nil || len(n.Devices) != 1 || n.Devices[0] != own.ByID {
		t.Errorf("node() gives %q, %v; want %s alone", n.Devices, err, own.ByID)
	}
}
