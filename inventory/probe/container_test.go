package probe

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// TestAContainerIsNotTakenForItsHost has the sysfs of a host with two disks and
// two loop devices, of which the container was given one disk and one loop
// device.
func TestAContainerIsNotTakenForItsHost(t *testing.T) {
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	blank := &fstest.MapFile{Data: make([]byte, 1<<20)}
	root := fstest.MapFS{
		"run/systemd/container":         file("systemd-nspawn"),
		"sys/class/dmi/id/product_uuid": file("4c4c4544-0042-3010-8042-b4c04f4d3232"),
		"sys/class/dmi/id/sys_vendor":   file("Dell Inc."),
		"sys/class/net/lo/type":         file("772"),
		"sys/bus/pci/devices/x/class":   file("0x0"),
		"proc/cpuinfo":                  file(""),
		"proc/meminfo":                  file("MemTotal: 1024 kB\n"),
		"dev/sdb":                       blank,
		"dev/loop7":                     blank,
	}
	for _, name := range []string{"sda", "sdb", "loop6", "loop7"} {
		root["sys/block/"+name+"/size"] = file("2048")
	}
	root["sys/block/loop7/loop/backing_file"] = file("/var/lib/disks/a.img")
	if !inContainer(root, func(string) string { return "" }) {
		t.Error("inContainer() = false; want true for systemd's mark")
	}
	delete(root, "run/systemd/container")
	if inContainer(root, func(string) string { return "" }) || !inContainer(root, func(string) string { return "lxc" }) {
		t.Error("inContainer() without a file is not what $container says")
	}
	facts, err := Collect(t.Context(), Source{FS: root, Container: true})
	if err != nil {
		t.Logf("Collect() = %v", err)
	}
	if facts.System != nil || facts.Baseboard != nil {
		t.Errorf("System, Baseboard = %+v, %+v; want nil: they are the host's", facts.System, facts.Baseboard)
	}
	var got [][3]string
	for _, d := range facts.Disks {
		got = append(got, [3]string{d.Name, d.Bus, d.Path})
	}
	if want := [][3]string{{"loop7", "loop", "loop-/var/lib/disks/a.img"}, {"sdb", "", ""}}; !cmp.Equal(got, want) {
		t.Errorf("disks = %q; want %q", got, want)
	}
	whole, _ := Collect(t.Context(), Source{FS: root})
	if whole.System == nil || len(whole.Disks) != 2 || whole.Disks[0].Name != "sda" {
		t.Errorf("outside a container: system %+v, disks %+v; want the host's", whole.System, whole.Disks)
	}
}
