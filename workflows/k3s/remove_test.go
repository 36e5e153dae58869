package k3s

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// tree lists what a host has, the fake programs' own files excepted.
func (w *world) tree(machine string) []string {
	w.t.Helper()
	root := w.hosts[machine].root
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		p = strings.TrimPrefix(p, root)
		if p == "/fake" {
			return filepath.SkipDir
		}
		if p != "" {
			out = append(out, p)
		}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func TestRemovalLeavesWhatWasThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	// Somebody else uses pod networks, too, and has a kubectl.
	root := w.hosts["machine.a"].root
	w.put(filepath.Join(root, "etc/cni/net.d/other.conf"), "{}", 0o644)
	w.put(filepath.Join(root, "usr/local/bin/kubectl"), "#!/bin/sh\n", 0o755)
	for _, d := range []string{"etc/systemd/system", "opt", "run"} {
		w.put(filepath.Join(root, d, ".keep"), "", 0o644)
	}
	w.put(filepath.Join(w.hosts["machine.b"].root, "etc/systemd/system/.keep"), "", 0o644)
	before := map[string][]string{"machine.a": w.tree("machine.a"), "machine.b": w.tree("machine.b")}
	c := w.config(oldVersion, []string{"a"}, []string{"b"})
	c.Registries = "mirrors: {}\n"
	mustApply(t, c)
	for _, p := range []string{"var/lib/calico/x", "opt/cni/bin/calico", "var/lib/cni/x", "var/lib/kubelet/pods/x", "run/k3s/x", "var/lib/rancher/k3s/storage/pvc-1/data"} {
		w.put(filepath.Join(root, p), "", 0o644)
	}
	cluster, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	loss, err := cluster.Loss(t.Context())
	if err != nil || len(loss) != 1 || !strings.Contains(loss[0], "the cluster's data (etcd) on machine.a") {
		t.Errorf("Loss() = %q, %v; want the data of etcd", loss, err)
	}
	w.took()

	// Without consent the data stays, and is gone on from.
	token := w.read("machine.a", tokenPath)
	if err := cluster.Remove(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if log := w.took(); log[0] != "b: stop k3s.service" {
		t.Errorf("Remove() did %q; want agents first", log)
	}
	for _, p := range []string{"var/lib/rancher/k3s/storage/pvc-1/data", "var/lib/rancher/k3s/server/db/etcd/member", "var/lib/rancher/k3s/server/token"} {
		if _, err := os.Stat(filepath.Join(root, p)); err != nil {
			t.Errorf("Stat(%s) after Remove() without consent = %v; want it kept", p, err)
		}
	}
	if slices.Contains(w.tree("machine.a"), binaryPath) {
		t.Error("Remove() left the binary")
	}
	mustApply(t, c)
	if got := w.read("machine.a", tokenPath); got != token {
		t.Error("Apply() after Remove() began another cluster")
	}

	// With consent nothing stays; a second time is no error.
	for range 2 {
		if err := cluster.Remove(t.Context(), true); err != nil {
			t.Fatal(err)
		}
		for machine, want := range before {
			if diff := cmp.Diff(want, w.tree(machine)); diff != "" {
				t.Errorf("what Remove() left on %s (-want +got):\n%s", machine, diff)
			}
		}
	}
}

func TestRemovalSaysWhichMachineCouldNotBeAsked(t *testing.T) {
	w, c := ha(t)
	w.hosts["machine.b"].gone = true
	cluster, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	loss, err := cluster.Loss(t.Context())
	if want := "data of the cluster (etcd) that may be on machine.b, which could not be asked"; err != nil || !slices.Contains(loss, want) || len(loss) != 3 {
		t.Errorf("Loss() = %q, %v; want the data of two servers, and %q", loss, err, want)
	}
	if err := cluster.Remove(t.Context(), true); err == nil || !strings.Contains(err.Error(), "machine.b: no SSH") {
		t.Errorf("Remove() = %v; want the machine that was not asked", err)
	}
	if slices.Contains(w.tree("machine.a"), binaryPath) {
		t.Error("Remove() stopped at the machine that could not be asked")
	}
}
