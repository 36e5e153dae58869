package portworx

import (
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/edge-provision/edge-provision/workflows/addon/addontest"
	"github.com/edge-provision/edge-provision/workflows/kube"
)

func node(name string) Node {
	return Node{
		Machine: `machine.node["` + name + `"]`, Name: name,
		Devices: []string{"/dev/disk/by-id/nvme-eui." + name + "1"}, DeviceBytes: []int64{256 << 30},
		KVDB: "/dev/disk/by-id/nvme-eui." + name + "2", KVDBBytes: 64 << 30,
		Cores: 8, MemoryBytes: 16 << 30, Kernel: "6.1.0-40-amd64",
	}
}

func config(t *testing.T) Config {
	return Config{
		Upstream: addontest.Upstream(t, Namespace), Name: "store-0421", Image: "portworx/oci-monitor:3.6.1",
		Registry: "registry.site:5000/", Preloaded: true, Versions: "version: 3.6.1\n",
		Nodes: []Node{node("a"), node("b"), node("c")}, Kernels: []string{"6.1"},
		DataInterface: "eth1", Snapshots: Snapshots{EveryMinutes: 60},
	}
}

func TestSet(t *testing.T) {
	set, err := config(t).Set()
	if err != nil {
		t.Fatal(err)
	}
	addontest.Golden(t, "testdata/set.golden.yaml", set)
}

func TestPreflight(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"one node", func(c *Config) { c.Nodes = c.Nodes[:1] }, []string{"3 nodes", "1 are named", "local_path"}},
		{"no disk left", func(c *Config) { c.Nodes[1].Devices, c.Nodes[1].DeviceBytes = nil, nil }, []string{`machine.node["b"]`, "no disk is left"}},
		{"a kernel name", func(c *Config) { c.Nodes[2].Devices[0] = "/dev/sdb" }, []string{`machine.node["c"]`, "/dev/sdb", "/dev/disk/by-id"}},
		{"a small key-value disk", func(c *Config) { c.Nodes[0].KVDBBytes = 8 << 30 }, []string{"32 GiB are needed"}},
		{"key-value disks on two of three", func(c *Config) { c.Nodes[0].KVDB = "" }, []string{"and 2 have one"}},
		{"another kernel", func(c *Config) { c.Nodes[0].Kernel = "6.17.2" }, []string{"6.17.2", "(6.1)"}},
		{"two cores", func(c *Config) { c.Nodes[0].Cores = 2 }, []string{"2 cores"}},
		{"little memory", func(c *Config) { c.Nodes[0].MemoryBytes = 2 << 30 }, []string{"2048 MiB"}},
		{"a little less memory than the operator takes", func(c *Config) { c.Nodes[0].MemoryBytes = 4<<30 - 1 }, []string{"4095 MiB", "needs 4096 MiB"}},
		{"a small metadata disk", func(c *Config) {
			c.Nodes[0].Metadata, c.Nodes[0].MetadataBytes = "/dev/disk/by-id/nvme-eui.a3", 64<<30-1
		}, []string{`machine.node["a"]`, "metadata disk /dev/disk/by-id/nvme-eui.a3", "64 GiB are needed"}},
		{"disks that carry something", func(c *Config) {
			c.Nodes[1].Devices, c.Nodes[1].DeviceBytes, c.Nodes[1].Occupied = nil, nil, []string{"sdb carries ext4"}
		}, []string{"no disk is left", "(sdb carries ext4)", "wipe step"}},
		{"a disk that was its own and is not known again", func(c *Config) { c.Nodes[1].Doubted = []string{"sdb was its own"} }, []string{`machine.node["b"]: sdb was its own. `, "wipe step", "`disks`"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := config(t)
			tt.change(&c)
			_, err := c.Set()
			if err == nil {
				t.Fatal("Set() refused nothing")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Set() = %v; want %q in it", err, want)
				}
			}
		})
	}
	small := config(t).Nodes
	small[1].Cores, small[2].MemoryBytes = 2, 2<<30
	if got := Preflight(small, nil, []string{Cores, Memory}); len(got) > 0 {
		t.Errorf("Preflight(small nodes, waived) = %q", got)
	}
	good := config(t).Nodes
	good[0].Metadata, good[0].MetadataBytes, good[1].Occupied = "/dev/disk/by-id/nvme-eui.a3", 64<<30, []string{"sdz carries ext4"}
	good[2].MemoryBytes = 4 << 30
	if got := Preflight(good, nil, nil); len(got) > 0 {
		t.Errorf("Preflight(good nodes) = %q", got)
	}
}

func TestASeriesIsTwoNumbers(t *testing.T) {
	for release, want := range map[string]string{"6.1.0-40-amd64": "6.1", "5.15.0": "5.15", "6.12-rc1": "6.12", "strange": "strange"} {
		if got := series(release); got != want {
			t.Errorf("series(%q) = %q; want %q", release, got, want)
		}
	}
}

// The operator reads the StorageCluster into types of Go and writes it back: what they
// leave out would be gone, and a difference for ever.
func TestNothingIsDeclaredThatTheOperatorLeavesOut(t *testing.T) {
	var walk func(path string, v any)
	walk = func(path string, v any) {
		switch v := v.(type) {
		case map[string]any:
			for k, e := range v {
				walk(path+"."+k, e)
			}
		case []any:
			for _, e := range v {
				walk(path, e)
			}
		case nil, bool, string, int64:
			if v == nil || v == false || v == "" || v == int64(0) {
				t.Errorf("%s is %#v", path, v)
			}
		}
	}
	c := config(t)
	walk("", c.storageCluster().Object)
	if got, there, _ := unstructured.NestedMap(c.storageCluster().Object, "spec", "monitoring", "telemetry"); len(got) > 0 || !there {
		t.Errorf("telemetry that is off is %v, %t; want it there and empty", got, there)
	}
	c.Telemetry = true
	if on, _, _ := unstructured.NestedBool(c.storageCluster().Object, "spec", "monitoring", "telemetry", "enabled"); !on {
		t.Error("telemetry that was asked for is off")
	}
}

func TestWaivedRequirementsAreNotMeasuredByTheOperatorEither(t *testing.T) {
	const key = "portworx.io/health-check"
	c := config(t)
	if got, there := c.storageCluster().GetAnnotations()[key]; there {
		t.Errorf("%s = %q though nothing is waived; the operator writes there what it has measured", key, got)
	}
	c.Waived = []string{Memory}
	if got := c.storageCluster().GetAnnotations()[key]; got != "skip" {
		t.Errorf("%s = %q; want skip", key, got)
	}
}

func TestVolumesHoldUpNoRemoval(t *testing.T) {
	for wipe, want := range map[bool]string{false: "Uninstall", true: "UninstallAndWipe"} {
		strategy, _, _ := unstructured.NestedMap(Leaving(wipe), "spec", "deleteStrategy")
		if strategy["type"] != want || strategy["ignoreVolumes"] != true {
			t.Errorf("Leaving(%t) = %v; want %s whatever volumes there are", wipe, strategy, want)
		}
	}
}

func TestWorkingSaysWhatTheOperatorSays(t *testing.T) {
	status := func(phase string, conditions ...any) kube.Object {
		return kube.Make("core.libopenstorage.org/v1", "StorageCluster", Namespace, "store", map[string]any{"status": map[string]any{"phase": phase, "conditions": conditions}})
	}
	quorum := map[string]any{"source": "Portworx", "type": "RuntimeState", "status": "NotInQuorum", "message": "2 of 3 nodes are missing"}
	for _, phase := range []string{"Running", "Online"} {
		if err := Working(status(phase, quorum)); err != nil {
			t.Errorf("Working(%s) = %v", phase, err)
		}
	}
	if err := Working(status("Degraded", quorum, map[string]any{"type": "Install", "status": "Completed"})); err == nil ||
		!strings.HasSuffix(err.Error(), `its phase is "Degraded" (RuntimeState is NotInQuorum: 2 of 3 nodes are missing)`) {
		t.Errorf("Working(Degraded) = %v; want what is wrong", err)
	}
	if err := Working(status("")); err == nil || !strings.HasSuffix(err.Error(), `its phase is ""`) {
		t.Errorf("Working(no status) = %v", err)
	}
}
