package portworx

import (
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/workflows/addon/addontest"
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
	if got := Preflight(config(t).Nodes, nil, nil); len(got) > 0 {
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
