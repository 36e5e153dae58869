package rack

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// unplugged is a machine that is off, with a virtio disk and one on the scsi bus.
func unplugged(t *testing.T) *computer {
	t.Helper()
	m := machineUnderTest()
	m.Disks = []Disk{{Bytes: 64 * mib, Serial: "ROOT"}, {Bus: DiskSCSI, Bytes: 64 * mib, Serial: "OLD"}}
	l := layout(t.TempDir())
	if err := os.MkdirAll(l.machine(m.Address), 0o700); err != nil {
		t.Fatal(err)
	}
	return newComputer(l, 0, m.withDefaults(), AcceleratorTCG, (*exec.Cmd).Start, slog.New(slog.DiscardHandler))
}

func TestSwappedDiskIsInTheMachineFromThenOn(t *testing.T) {
	c := unplugged(t)
	if err := c.swap(t.Context(), 1, Disk{Bytes: 32 * mib, Serial: "NEW"}); err != nil {
		t.Fatal(err)
	}
	if d := c.machine().Disks; d[0].Serial != "ROOT" || d[1].Serial != "NEW" || d[1].Bus != DiskSCSI {
		t.Errorf("disks = %+v; want the second one swapped", d)
	}
	path := c.status().Disks[1]
	if info, err := os.Stat(path); err != nil || info.Size() != 32*mib || filepath.Base(path) != "disk1-NEW.raw" {
		t.Errorf("its file = %s, %v; want disk1-NEW.raw of 32 MiB", path, err)
	}
	args := strings.Join(qemuArgs(c.layout, 0, c.machine(), AcceleratorTCG, c.override), " ")
	if !strings.Contains(args, "serial=NEW") || strings.Contains(args, "serial=OLD") || !strings.Contains(args, path) {
		t.Errorf("the next start has %s; want the new disk", args)
	}
}

func TestOnlyWhatCanBePulledIsSwapped(t *testing.T) {
	for name, test := range map[string]struct {
		slot int
		disk Disk
		want string
	}{
		"no such disk":          {2, Disk{Bytes: mib, Serial: "NEW"}, "it has no disk 2"},
		"a bus without hotplug": {0, Disk{Bytes: mib, Serial: "NEW"}, "can be swapped"},
		"another bus":           {1, Disk{Bus: DiskNVMe, Bytes: mib, Serial: "NEW"}, "can be swapped"},
		"no serial":             {1, Disk{Bytes: mib}, "serial number of its own"},
		"the serial of another": {1, Disk{Bytes: mib, Serial: "ROOT"}, "another disk of the machine has the same serial"},
		"no size":               {1, Disk{Serial: "NEW"}, "size 0"},
		"somebody's file":       {1, Disk{Path: "/etc/passwd", Serial: "NEW", Bytes: mib}, "no path"},
	} {
		t.Run(name, func(t *testing.T) {
			c := unplugged(t)
			if err := c.swap(t.Context(), test.slot, test.disk); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("swap(%d, %+v) = %v; want %q", test.slot, test.disk, err, test.want)
			}
			if d := c.machine().Disks; d[0].Serial != "ROOT" || d[1].Serial != "OLD" {
				t.Errorf("disks = %+v; want them as they were", d)
			}
		})
	}
}

func TestRunningMachineGetsTheOtherDisk(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := `{"return": {}}`
	for name, test := range map[string]struct {
		answers map[string]string
		want    string
	}{
		"as it should":     {map[string]string{"qmp_capabilities": done, "device_del": done, "blockdev-del": done, "blockdev-add": done, "device_add": done}, ""},
		"it is not pulled": {map[string]string{"qmp_capabilities": done, "device_del": `{"error": {"class": "DeviceNotFound", "desc": "Device 'disk1' not found"}}`}, "Device 'disk1' not found"},
		"it does not fit": {map[string]string{
			"qmp_capabilities": done, "device_del": done, "blockdev-del": done, "blockdev-add": done,
			"device_add": `{"error": {"class": "GenericError", "desc": "lun already used"}}`,
		}, "lun already used"},
	} {
		t.Run(name, func(t *testing.T) {
			q, err := dialQMP(ctx, scriptedEmulator(t, test.answers))
			if err != nil {
				t.Fatal(err)
			}
			defer q.close()
			err = (&emulator{qmp: q}).swap(ctx, 1, Disk{Bus: DiskSCSI, Serial: "NEW", LogicalBlock: 512, WWN: "naa.5000c500a1b2c3d5", Rotational: true, Path: "/x"})
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("swap() = %v; want %q", err, test.want)
			}
		})
	}
}
