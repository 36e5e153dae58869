package k3s

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
)

// whenDeleted calls back when a node is deleted, and has the server answer with the
// error.
func (w *world) whenDeleted(answer func(node string) error) {
	w.kube.PrependReactor("delete", "nodes", func(a clienttesting.Action) (bool, runtime.Object, error) {
		err := answer(a.(clienttesting.DeleteAction).GetName())
		return err != nil, nil, err
	})
}

// K3s ends on a server that is no member of etcd any more, and would be started again
// and join again before it is uninstalled.
func TestServerThatLeavesDoesNotComeBack(t *testing.T) {
	w, _ := ha(t)
	w.addHost("e", netip.MustParseAddr("192.0.2.15"))
	c := w.config(oldVersion, []string{"a", "e", "c"}, []string{"d"})
	c.Recorded = true
	dropIn := func(machine string) string { return filepath.Join(w.hosts[machine].root, server.leavingPath()) }
	enabled := func(machine string) bool {
		_, err := os.Stat(filepath.Join(w.hosts[machine].root, "fake/k3s.service.enabled"))
		return err == nil
	}
	failing, deleted := true, []string{}
	w.whenDeleted(func(node string) error {
		machine := "machine." + node
		b, err := os.ReadFile(dropIn(machine))
		if err != nil || !strings.Contains(string(b), "Restart=no") || enabled(machine) {
			t.Errorf("node %s is deleted while K3s starts again on it: %q, %v, enabled: %t", node, b, err, enabled(machine))
		}
		if failing {
			return errors.New("the API server has other worries")
		}
		deleted = append(deleted, node)
		return nil
	})
	if _, err := apply(t, c); err == nil || !strings.Contains(err.Error(), "other worries") {
		t.Fatalf("Apply() = %v; want what the API server said", err)
	}
	if _, err := os.Stat(dropIn("machine.b")); err == nil || !enabled("machine.b") {
		t.Errorf("node b could not be deleted: its drop-in is there: %t, it starts with the machine: %t; want it as it was", err == nil, enabled("machine.b"))
	}
	failing = false
	mustApply(t, c)
	if !slices.Equal(deleted, []string{"b"}) {
		t.Errorf("nodes %q were deleted; want b", deleted)
	}
	if tree := w.tree("machine.b"); slices.Contains(tree, server.leavingPath()) || slices.Contains(tree, binaryPath) {
		t.Error("K3s or the drop-in of its unit was left on machine.b")
	}
}

// An agent is stopped first: nothing needs it.
func TestAgentThatLeavesIsStoppedFirst(t *testing.T) {
	w, _ := ha(t)
	w.took()
	c := w.config(oldVersion, []string{"a", "b", "c"}, nil)
	c.Recorded = true
	mustApply(t, c)
	log := w.took()
	stop, gone := slices.Index(log, "d: stop k3s-agent.service"), slices.Index(log, "api: delete nodes d")
	if stop < 0 || gone < stop {
		t.Errorf("Apply() did %q; want the agent stopped before its node is deleted", log)
	}
}

// A machine that was kept from coming back is started as ever once it is declared again.
func TestMachineThatWasLeavingIsTakenBack(t *testing.T) {
	w, c := ha(t)
	root := w.hosts["machine.b"].root
	w.put(filepath.Join(root, server.leavingPath()), "[Service]\nRestart=no\n", 0o644)
	w.set("machine.b", "k3s.service.active", "inactive\n")
	mustApply(t, c)
	if _, err := os.Stat(filepath.Join(root, server.leavingPath())); err == nil {
		t.Error("K3s runs again and systemd is still told not to start it again")
	}
}
