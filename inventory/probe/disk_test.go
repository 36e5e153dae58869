package probe

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// TestOnlyHardwareOfTheMachineIsADisk has a device of each kind where the kernel
// puts it.
func TestOnlyHardwareOfTheMachineIsADisk(t *testing.T) {
	const pci = "../devices/pci0000:00/0000:00:17.0/"
	devices := map[string]string{
		// Disks of this machine.
		"sda":     pci + "ata1/host0/target0:0:0/0:0:0:0/block/sda",
		"sdb":     pci + "host1/port-1:0/end_device-1:0/target1:0:0/1:0:0:0/block/sdb",
		"sdc":     pci + "host8/rport-8:0-0/target8:0:0/8:0:0:0/block/sdc",
		"mmcblk0": "../devices/pci0000:00/0000:00:1c.0/mmc_host/mmc0/mmc0:0001/block/mmcblk0",
		"vda":     "../devices/pci0000:00/0000:00:03.0/virtio1/block/vda",
		"nvme0n1": "../devices/pci0000:00/0000:00:04.0/nvme/nvme0/nvme0n1",
		"nvme1n1": "../devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1",
		"nvme2n1": "../devices/virtual/nvme-subsystem/nvme-subsys2/nvme2n1",
		// A sysfs that does not say where it is.
		"xvda": "",

		// What the kernel makes up.
		"pxd!pxd1012345": "../devices/virtual/block/pxd!pxd1012345",
		"pxd!pxd99":      "../devices/pxd/99/block/pxd!pxd99",
		"bcache0":        "../devices/virtual/block/bcache0",
		"veritas1":       "../devices/virtual/block/veritas1",
		"dm-0":           "../devices/virtual/block/dm-0",
		"md127":          "../devices/virtual/block/md127",
		"nbd0":           "../devices/virtual/block/nbd0",
		"rbd0":           "../devices/rbd/0/block/rbd0",
		"drbd1000":       "../devices/virtual/block/drbd1000",
		"zram0":          "../devices/virtual/block/zram0",
		"loop0":          "../devices/virtual/block/loop0",
		"ram0":           "../devices/virtual/block/ram0",
		"sr0":            pci + "ata2/host1/target1:0:0/1:0:0:0/block/sr0",
		"fd0":            "../devices/platform/floppy.0/block/fd0",
		// Disks of other machines.
		"sdd":     "../devices/platform/host9/session1/target9:0:0/9:0:0:1/block/sdd",
		"sde":     pci + "host10/session2/target10:0:0/10:0:0:0/block/sde",
		"nvme3n1": "../devices/virtual/nvme-fabrics/ctl/nvme3/nvme3n1",
		"nvme4n1": "../devices/virtual/nvme-subsystem/nvme-subsys4/nvme4n1",
	}
	want := []string{"mmcblk0", "nvme0n1", "nvme1n1", "nvme2n1", "sda", "sdb", "sdc", "vda", "xvda"}
	root := fstest.MapFS{}
	file := func(name, text string) { root[name] = &fstest.MapFile{Data: []byte(text)} }
	for name, at := range devices {
		dir := "sys/block/" + name
		if at != "" {
			root[dir] = &fstest.MapFile{Mode: fs.ModeSymlink, Data: []byte(at)}
			dir = "sys/" + strings.TrimPrefix(at, "../")
		}
		file(dir+"/size", "2048")
		root["dev/"+name] = &fstest.MapFile{Data: make([]byte, 1<<20)}
	}
	const subsystems = "sys/devices/virtual/nvme-subsystem/"
	file(subsystems+"nvme-subsys1/nvme1/transport", "pcie\n")
	file(subsystems+"nvme-subsys1/model", "Disk\n")
	// One with two paths, and nothing beside the other.
	file(subsystems+"nvme-subsys4/nvme4/transport", "tcp\n")
	file(subsystems+"nvme-subsys4/nvme5/transport", "rdma\n")
	disks, err := Disks(t.Context(), Source{FS: root})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, d := range disks {
		got = append(got, d.Name)
	}
	if !slices.Equal(got, want) {
		t.Errorf("disks = %q; want %q", got, want)
	}
}
