package k3s

import (
	"strings"
	"testing"
)

// K3s's program ends well where etcd could not be saved. An upgrade that begins then has
// no way back.
func TestSnapshotThatLeftNoFileIsNone(t *testing.T) {
	w, c := ha(t)
	w.set("machine.a", "full", "")
	w.took()
	_, err := apply(t, w.config(newVersion, []string{"a", "b", "c"}, []string{"d"}))
	if err == nil || !strings.Contains(err.Error(), "saving etcd") || !strings.Contains(err.Error(), "no file of it is in "+snapshotsDir) {
		t.Fatalf("Apply() = %v; want that nothing was saved", err)
	}
	if log := strings.Join(w.took(), "\n"); strings.Contains(log, "cordon") || strings.Contains(log, "start") {
		t.Errorf("Apply() did\n%s\nwant no node touched", log)
	}
	c.Snapshots.Named = []string{"before"}
	if _, err := apply(t, c); err == nil || !strings.Contains(err.Error(), "no file of it") {
		t.Errorf("Apply() with a named snapshot = %v; want that nothing was saved", err)
	}
}

func TestSnapshotsAreToldByTheirWholeName(t *testing.T) {
	seen := func(files ...string) []*observation {
		return []*observation{{node: Node{Name: "a"}, snapshots: files}}
	}
	for file, want := range map[string]bool{
		"before-a-1782000000": true, "before-a-1782000000.zip": true,
		"before-x-a-1782000000": false, "before-b-1782000000": false, "before-a-": false, "before-a-x-1782000000": false,
	} {
		if got := taken("before", seen(file)); got != want {
			t.Errorf("taken(before) beside %s = %t; want %t", file, got, want)
		}
	}
}
