package k3s

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/edge-provision/edge-provision/workflows/artifact"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestFilesOfNodes compares every file of a node with a golden one, whole.
func TestFilesOfNodes(t *testing.T) {
	v, err := ParseVersion(newVersion)
	if err != nil {
		t.Fatal(err)
	}
	address := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 0, 2, n}) }
	base := Config{
		Owner: "workflow.p.step.k3s.c", Version: v, Binary: artifact.Ref{SHA256: strings.Repeat("b", 64)},
		Servers: []Node{{Machine: "machine.a", Name: "a", IP: address(11)}, {Machine: "machine.b", Name: "b", IP: address(12)}, {Machine: "machine.c", Name: "c", IP: address(13)}},
		Agents:  []Node{{Machine: "machine.d", Name: "d", IP: address(14), Labels: map[string]string{"site/camera": "yes", "zone": "till"}, Taints: []string{"camera=yes:NoSchedule"}}},
	}
	hard := base
	hard.Profile, hard.CNI, hard.Unrestricted = CIS, Calico, []string{"vision"}
	hard.TLSSAN, hard.Disable = []string{"api.store.example"}, []string{"traefik", "servicelb"}
	hard.Snapshots = Snapshots{Schedule: "0 */6 * * *", Retention: 8}
	hard.Registries = "mirrors:\n  docker.io:\n    endpoint: [\"https://192.0.2.1:5000\"]\n"
	tokens := Tokens{Server: strings.Repeat("5", 64), Agent: strings.Repeat("a", 64)}
	ca := strings.Repeat("c", 64)
	for _, test := range []struct {
		name   string
		config Config
		node   int
		join   join
		ca     string
	}{
		{"first-server", base, 0, join{Init: true}, ""},
		{"second-server", base, 1, join{Server: address(11)}, ca},
		{"agent", base, 3, join{Server: address(11)}, ca},
		{"hardened-server", hard, 0, join{Init: true}, ""},
		{"hardened-agent", hard, 3, join{Server: address(12)}, ca},
	} {
		t.Run(test.name, func(t *testing.T) {
			c, err := New(test.config)
			if err != nil {
				t.Fatal(err)
			}
			r := server
			if test.node >= len(c.Servers) {
				r = agent
			}
			files, err := c.files(self{node: c.all()[test.node], role: r, join: test.join, tokens: tokens, ca: test.ca})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, f := range files {
				fmt.Fprintf(&b, "==== %s %04o\n%s", f.Path, f.Mode, f.Content)
			}
			golden := filepath.Join("testdata", test.name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), b.String()); diff != "" {
				t.Errorf("files of %s (-want +got):\n%s", test.name, diff)
			}
		})
	}
}

func TestRestartIsForFilesThatK3sReadsAtStart(t *testing.T) {
	files := []file{{Path: configPath, Mode: 0o600, Content: []byte("a")}, {Path: networkPolicy, Mode: 0o600, Content: []byte("b")}}
	before := digest("binary", files)
	files[1].Content = []byte("other")
	if digest("binary", files) != before {
		t.Error("a manifest that K3s watches makes for a restart")
	}
	files[0].Mode = 0o644
	if digest("binary", files) == before {
		t.Error("another mode of config.yaml makes for no restart")
	}
	if digest("other", files) == digest("binary", files) {
		t.Error("another binary makes for no restart")
	}
}

func TestImagesKeepTheirExtension(t *testing.T) {
	for source, want := range map[string]string{
		"files/k3s-airgap-images-amd64.tar.zst": ".tar.zst", "https://x/y.tar.gz": ".tar.gz", "images.tar": ".tar", "images": ".tar", "a.tgz": ".tgz",
	} {
		got := imagePath(artifact.Ref{Source: source, SHA256: strings.Repeat("1", 64)})
		if want := imagesDir + "/edge-1111111111111111" + want; got != want {
			t.Errorf("imagePath(%s) = %s; want %s", source, got, want)
		}
	}
}

func TestVersionsAreOrdered(t *testing.T) {
	ordered := []string{"v1.34.4-rc1+k3s1", "v1.34.4+k3s1", "v1.34.4+k3s2", "v1.34.4+k3s10", "v1.34.10+k3s1", "v1.35.0+k3s1", "v2.0.0+k3s1"}
	for i, a := range ordered {
		for j, b := range ordered {
			va, err := ParseVersion(a)
			if err != nil {
				t.Fatal(err)
			}
			vb, _ := ParseVersion(b)
			if got := va.Compare(vb); got > 0 != (i > j) || got < 0 != (i < j) {
				t.Errorf("%s.Compare(%s) = %d; want the order of %d and %d", a, b, got, i, j)
			}
		}
		if v, _ := ParseVersion(a); v.String() != a {
			t.Errorf("ParseVersion(%s).String() = %s", a, v)
		}
	}
	for _, bad := range []string{"", "1.34.4+k3s1", "v1.34+k3s1", "v1.34.4", "v1.34.4+", "v01.34.4+k3s1", "v1.34.4+k3s1 ", "latest"} {
		if _, err := ParseVersion(bad); err == nil {
			t.Errorf("ParseVersion(%q) = nil; want an error", bad)
		}
	}
}

func TestUpgradesGoOneMinorUp(t *testing.T) {
	for _, test := range []struct{ from, to, wrong string }{
		{"v1.34.4+k3s1", "v1.34.5+k3s1", ""},
		{"v1.34.4+k3s1", "v1.35.0+k3s1", ""},
		{"v1.34.4+k3s1", "v1.34.4+k3s2", ""},
		{"v1.34.4+k3s1", "v1.34.4+k3s1", ""},
		{"v1.34.4+k3s1", "v1.36.0+k3s1", "Declare a v1.35 release first"},
		{"v1.34.4+k3s1", "v2.0.0+k3s1", "cannot be skipped"},
		{"v1.35.0+k3s1", "v1.34.9+k3s1", "going back is not supported"},
		{"v1.34.4+k3s2", "v1.34.4+k3s1", "going back is not supported"},
	} {
		from, err := ParseVersion(test.from)
		if err != nil {
			t.Fatal(err)
		}
		to, err := ParseVersion(test.to)
		if err != nil {
			t.Fatal(err)
		}
		err = CheckUpgrade(from, to)
		if (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("CheckUpgrade(%s, %s) = %v; want %q", test.from, test.to, err, test.wrong)
		}
	}
}
