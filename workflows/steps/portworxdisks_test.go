package steps

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/addon/portworx"
	"github.com/edge-provision/edge-provision/workflows/artifact"
	"github.com/edge-provision/edge-provision/workflows/kube"
	"github.com/edge-provision/edge-provision/workflows/remote/remotetest"
)

// hardware tells of machines what a test says of them.
type hardware map[string]MachineInfo

func (h hardware) Machine(_ context.Context, machine string) (MachineInfo, error) {
	info, ok := h[machine]
	if !ok {
		return info, errors.New(machine + " is not known")
	}
	return info, nil
}

// shelf is a machine whose disks are files, and an API server with a StorageCluster and
// a node.
type shelf struct {
	t   *testing.T
	dir string // its /dev/disk/by-id
	// live is the StorageCluster; nil: there is none.
	live, node map[string]any
	marks      noted
	hosts      nodes
	kubeconfig []byte
	said       []string
}

func newShelf(t *testing.T) *shelf {
	t.Helper()
	for _, program := range []string{"wipefs", "mkswap"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%v: what the disks of this test carry is written and read by util-linux's programs", err)
		}
	}
	s := &shelf{t: t, dir: t.TempDir(), marks: noted{}, hosts: nodes{servers: map[string]*remotetest.Server{}, signer: remotetest.NewSigner(t)}}
	s.hosts.add(t, "machine.a", "/dev/disk/by-id", s.dir)
	s.kubeconfig = pretendedObjects(t, func(path string) any {
		switch {
		case path == "/apis/core.libopenstorage.org/v1":
			return resources("core.libopenstorage.org/v1", map[string]any{"name": "storageclusters", "namespaced": true, "kind": "StorageCluster"})
		case path == "/api/v1":
			return resources("v1", map[string]any{"name": "nodes", "kind": "Node"}, map[string]any{"name": "secrets", "namespaced": true, "kind": "Secret"})
		case strings.HasSuffix(path, "/storageclusters/clinic") && s.live != nil:
			return s.live
		case path == "/api/v1/nodes/node-a" && s.node != nil:
			return s.node
		}
		return nil
	})
	return s
}

// disk is a file as large as a small disk that carries swap of this UUID; none: nothing.
func (s *shelf) disk(name, uuid string) {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		s.t.Fatal(err)
	}
	if uuid == "" {
		return
	}
	if out, err := exec.Command("mkswap", "--uuid", uuid, path).CombinedOutput(); err != nil {
		s.t.Fatalf("mkswap = %v: %s", err, out)
	}
}

// lives makes a StorageCluster that names disks of the machine.
func (s *shelf) lives(devices ...any) {
	s.live = map[string]any{
		"apiVersion": "core.libopenstorage.org/v1", "kind": "StorageCluster",
		"metadata": map[string]any{"name": "clinic", "namespace": portworx.Namespace, "labels": map[string]any{kube.OwnerLabel: kube.Owner{}.Label()}},
		"spec": map[string]any{"nodes": []any{map[string]any{
			"selector": map[string]any{"nodeName": "node-a"}, "storage": map[string]any{"devices": devices[1:], "kvdbDevice": devices[0]},
		}}},
		"status": map[string]any{"clusterUid": "one"},
	}
}

// step is the step of a StorageCluster, on a machine by whose facts both disks carry
// something.
func (s *shelf) step(name, machine string) *portworxStep {
	s.t.Helper()
	cluster, err := kube.Open(kube.Config{Kubeconfig: s.kubeconfig, Attempts: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(cluster.Close)
	facts := &inventory.Facts{Disks: []inventory.Disk{
		{Name: "sda", ByID: "keys", Bytes: 64 << 30, Signatures: []string{"swap"}}, {Name: "sdb", ByID: "data", Bytes: 256 << 30, Signatures: []string{"swap"}},
	}}
	env := Env{
		Site: "clinic", Marks: s.marks, Hosts: s.hosts, Machines: hardware{machine: {Hostname: "node-a", Facts: facts}},
		Say: func(format string, _ ...any) { s.said = append(s.said, format) },
	}
	out := &portworxStep{clusterStep: &clusterStep{env: env, cluster: cluster}, machines: []string{machine}, config: portworx.Config{Name: name}}
	out.set = func(context.Context) (kube.Set, error) { return kube.Set{}, nil }
	return out
}

// chosen is what the step would give to Portworx of its machine.
func (s *shelf) chosen(step *portworxStep, used ...string) portworx.Node {
	s.t.Helper()
	info, err := step.env.Machines.Machine(s.t.Context(), step.machines[0])
	if err != nil {
		s.t.Fatal(err)
	}
	n, err := step.node(s.t.Context(), step.machines[0], info, used)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

const (
	keysDisk, dataDisk = "/dev/disk/by-id/keys", "/dev/disk/by-id/data"
	uuidOne, uuidTwo   = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
)

// A removal that keeps the data leaves disks that carry it; another installation takes
// them again. Nobody else's disk is ever taken for one of them.
func TestPortworxTakesItsOwnDisksAgain(t *testing.T) {
	s := newShelf(t)
	s.disk("keys", uuidOne)
	s.disk("data", uuidTwo)
	step := s.step("clinic", "machine.a")
	if n := s.chosen(step); len(n.Devices) > 0 || len(n.Occupied) != 2 || len(n.Doubted) > 0 {
		t.Fatalf("of disks of which nothing is known it takes %q, %q are occupied; want none taken", n.Devices, n.Occupied)
	}
	s.lives(keysDisk, dataDisk)
	if n := s.chosen(step, keysDisk, dataDisk); len(n.Devices) != 2 {
		t.Errorf("of its own while it is there it takes %q; want both", n.Devices)
	}
	if err := step.Remove(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	want := portworx.Leaving(false)
	if got := step.opts.Parting["StorageCluster/portworx/clinic"]; !equalJSON(t, got, want) || step.opts.Gone != wiperBound {
		t.Errorf("the StorageCluster is told %v and awaited for %s; want %v and %s", got, step.opts.Gone, want, wiperBound)
	}
	s.live = nil

	again := s.step("clinic", "machine.a")
	if n := s.chosen(again); !slices.Equal(n.Devices, []string{dataDisk, keysDisk}) || len(n.Doubted)+len(n.Occupied) > 0 {
		t.Errorf("after the removal it takes %q, %q are occupied, %q doubted; want both", n.Devices, n.Occupied, n.Doubted)
	}
	for what, other := range map[string]*portworxStep{"another StorageCluster": s.step("other", "machine.a"), "another machine": s.step("clinic", "machine.b")} {
		if n := s.chosen(other); len(n.Devices) > 0 || len(n.Occupied) != 2 {
			t.Errorf("%s takes %q, %q are occupied; want none taken", what, n.Devices, n.Occupied)
		}
	}
	elsewhere := s.step("clinic", "machine.a")
	elsewhere.env.Site = "another"
	if n := s.chosen(elsewhere); len(n.Devices) > 0 {
		t.Errorf("another site takes %q; want none", n.Devices)
	}

	// Somebody has used one for something else since; a removal of what is not there
	// does not make it Portworx's.
	s.disk("data", uuidOne)
	for _, when := range []string{"at once", "after another removal"} {
		n := s.chosen(again)
		if !slices.Equal(n.Devices, []string{keysDisk}) || len(n.Doubted) != 1 || !strings.Contains(n.Doubted[0], dataDisk+" was StorageCluster clinic's") {
			t.Errorf("%s, of disks of which one is another now it takes %q, %q are doubted; want %s doubted", when, n.Devices, n.Doubted, dataDisk)
		}
		if err := again.Remove(t.Context(), false); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(filepath.Join(s.dir, "keys")); err != nil {
		t.Fatal(err)
	}
	info, err := again.env.Machines.Machine(t.Context(), "machine.a")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := again.node(t.Context(), "machine.a", info, nil); err == nil {
		t.Errorf("of a disk that cannot be looked at it takes %q; want an error", n.Devices)
	}
}

func equalJSON(t *testing.T, a, b any) bool {
	t.Helper()
	x, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	y, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(x) == string(y)
}

func TestPortworxDisksThatAreNotItsOwnAgain(t *testing.T) {
	for what, removal := range map[string]func(s *shelf, step *portworxStep) error{
		"which were wiped and used anew": func(s *shelf, step *portworxStep) error { return step.Remove(t.Context(), true) },
		"of somebody else's StorageCluster": func(s *shelf, step *portworxStep) error {
			s.live["metadata"] = map[string]any{"name": "clinic", "namespace": portworx.Namespace, "labels": map[string]any{kube.OwnerLabel: "other"}}
			return step.Remove(t.Context(), false)
		},
		"on which Portworx never came up": func(s *shelf, step *portworxStep) error {
			s.live["status"] = map[string]any{}
			return step.Remove(t.Context(), false)
		},
	} {
		s := newShelf(t)
		s.disk("keys", uuidOne)
		s.disk("data", uuidTwo)
		s.lives(keysDisk, dataDisk)
		if err := removal(s, s.step("clinic", "machine.a")); err != nil {
			t.Fatal(err)
		}
		if n := s.chosen(s.step("clinic", "machine.a")); len(n.Devices) > 0 || len(n.Doubted) > 0 || len(n.Occupied) != 2 {
			t.Errorf("of disks %s it takes %q; want none", what, n.Devices)
		}
	}
	// A disk that was blank then is nobody's; of one that could not be seen it is not
	// certain, and the removal goes on.
	s := newShelf(t)
	s.disk("keys", "")
	s.lives(keysDisk, "/dev/disk/by-id/missing")
	step := s.step("clinic", "machine.a")
	facts := step.env.Machines.(hardware)["machine.a"].Facts
	facts.Disks[1].ByID = "missing"
	if err := step.Remove(t.Context(), false); err != nil || len(s.said) == 0 || !strings.Contains(s.said[0], "cannot be seen") {
		t.Errorf("Remove() with a disk that cannot be seen = %v, said %q; want that said", err, s.said)
	}
	s.disk("keys", uuidOne)
	s.disk("missing", uuidTwo)
	if n := s.chosen(step); len(n.Devices) > 0 || len(n.Occupied) != 1 || len(n.Doubted) != 1 {
		t.Errorf("it takes %q, %q are occupied, %q doubted; want none taken and one doubted", n.Devices, n.Occupied, n.Doubted)
	}
}

// What nobody has read may carry anything.
func TestPortworxIsGivenNoDiskThatNobodyHasRead(t *testing.T) {
	s := newShelf(t)
	step := s.step("clinic", "machine.a")
	facts := step.env.Machines.(hardware)["machine.a"].Facts
	facts.Disks[0].Signatures, facts.Disks[1].Signatures = []string{}, nil
	if n := s.chosen(step); !slices.Equal(n.Devices, []string{keysDisk}) || len(n.Occupied) != 1 || !strings.Contains(n.Occupied[0], "nobody has read") {
		t.Errorf("it takes %q, %q are occupied; want %s alone", n.Devices, n.Occupied, keysDisk)
	}
}

// A partition table has no UUID of its own.
func TestLikenessOfWhatHasNoUUID(t *testing.T) {
	s := newShelf(t)
	table := func(at int) {
		mbr := make([]byte, 4<<20)
		mbr[510], mbr[511], mbr[450] = 0x55, 0xaa, 0x83
		mbr[454], mbr[458] = 1, 8 // from sector 1, 8 sectors
		mbr[at] = 7
		if err := os.WriteFile(filepath.Join(s.dir, "data"), mbr, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	looks := map[string]bool{}
	for _, at := range []int{1000, 2000, 2 << 20, 1000} {
		table(at)
		h, err := s.hosts.Host(t.Context(), "machine.a")
		if err != nil {
			t.Fatal(err)
		}
		look, err := likeness(t.Context(), h, dataDisk)
		h.Close()
		if err != nil || look == blank {
			t.Fatalf("likeness() = %q, %v", look, err)
		}
		looks[look] = true
	}
	if len(looks) != 3 {
		t.Errorf("tables that begin with other bytes look %d ways; want 3", len(looks))
	}
}

func TestPortworxGoesByWhatItsNodeSays(t *testing.T) {
	s := newShelf(t)
	step := s.step("clinic", "machine.a")
	n := portworx.Node{Machine: "machine.a", Name: "node-a", MemoryBytes: 4 << 30}
	if err := step.measure(t.Context(), &n); err != nil || n.MemoryBytes != 4<<30 || n.Kernel != "" {
		t.Errorf("measure() of a node that is not there = %v, %+v; want the facts", err, n)
	}
	s.node = map[string]any{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": "node-a"},
		"status": map[string]any{"allocatable": map[string]any{"memory": "3900Mi"}, "nodeInfo": map[string]any{"kernelVersion": "6.1.0-40-amd64"}},
	}
	if err := step.measure(t.Context(), &n); err != nil || n.MemoryBytes != 3900<<20 || n.Kernel != "6.1.0-40-amd64" {
		t.Errorf("measure() = %v, %+v; want 3900 MiB and the kernel that runs", err, n)
	}
}

func TestPortworxFromABundleNeedsVersions(t *testing.T) {
	s := newShelf(t)
	step := s.step("clinic", "machine.a")
	step.config.Upstream = []kube.Object{}
	step.config.Preloaded, step.config.Image = true, "portworx/oci-monitor:3.6.1"
	step.env.Preload = []artifact.Ref{{Source: "till.tar"}}
	refused := func() bool {
		_, err := step.objects(t.Context())
		return err != nil && strings.Contains(err.Error(), "https://install.portworx.com/3.6.1/version")
	}
	if !refused() {
		t.Error("objects() from a bundle without versions is not refused")
	}
	step.config.Preloaded = false
	if refused() {
		t.Error("objects() is refused though images come from registries")
	}
	step.config.Preloaded, step.env.Preload = true, nil
	if refused() {
		t.Error("objects() is refused though there is no bundle")
	}
}

func TestPortworxVersionsAreRead(t *testing.T) {
	for text, fine := range map[string]bool{"version: 3.6.1\ncomponents: {stork: s}\n": true, "- a\n": false} {
		inputs := map[string]cty.Value{
			"versions": cty.StringVal(text), "licence": cty.NullVal(cty.String), "cluster": cty.DynamicVal, "nodes": cty.DynamicVal,
			"waive": cty.NullVal(cty.List(cty.String)), "ignore_fields": cty.NullVal(cty.List(cty.String)),
		}
		for _, rule := range diskRules {
			inputs[rule] = cty.NullVal(cty.String)
		}
		if diags := checkPortworx(cty.ObjectVal(inputs), nil); diags.HasErrors() == fine {
			t.Errorf("versions %q: %v; want them taken: %t", text, diags, fine)
		}
	}
}
