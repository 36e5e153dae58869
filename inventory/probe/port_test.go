package probe

import (
	"io/fs"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/edge-provision/edge-provision/inventory"
)

// Many servers have a network to their own BMC, with one and the same address in all of
// them: a machine that is identified by it would be taken for another.
func TestPortToTheBMCIsNoPortOfTheMachine(t *testing.T) {
	fsys := fstest.MapFS{}
	for name, p := range map[string]struct{ driver, mac string }{
		"eno1":     {"ixgbe", "3c:ec:ef:00:00:01"},
		"vm0":      {"virtio_net", "52:54:00:00:00:01"},
		"usb0":     {"rndis_host", "be:3a:f2:b6:05:9f"},
		"usb1":     {"cdc_ncm", "26:00:00:00:00:01"},
		"adapter0": {"cdc_ncm", "00:e0:4c:68:00:01"},
		"adapter1": {"r8152", "02:e0:4c:68:00:01"},
	} {
		dir := netDir + "/" + name + "/"
		fsys[dir+"type"] = &fstest.MapFile{Data: []byte("1\n")}
		fsys[dir+"carrier"] = &fstest.MapFile{Data: []byte("1\n")}
		fsys[dir+"address"] = &fstest.MapFile{Data: []byte(p.mac + "\n")}
		fsys[dir+"device/driver"] = &fstest.MapFile{Data: []byte("../../bus/x/drivers/" + p.driver), Mode: fs.ModeSymlink}
	}
	src := Source{FS: fsys, Architecture: "amd64"}
	m := &machine{src: src, fs: fsys}
	var facts inventory.Facts
	if err := m.ports(t.Context(), &facts); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range facts.NICs {
		names = append(names, n.Name)
	}
	want := []string{"adapter0", "adapter1", "eno1", "vm0"}
	if !slices.Equal(names, want) || !slices.Equal(Linked(src), want) {
		t.Errorf("ports %q, linked %q; want %q", names, Linked(src), want)
	}
}
