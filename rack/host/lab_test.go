package host

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/edge-provision/edge-provision/imagebuilder"
	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
)

func TestConfigIsCompletedOrRefused(t *testing.T) {
	image := imagebuilder.Artifact{Manifest: &chunk.Manifest{}}
	full := filepath.Join(t.TempDir(), "full")
	if err := os.MkdirAll(filepath.Join(full, "of"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		what, want string
		config     Config
	}{
		{"a name that no link can have", "1–8 lower-case", Config{Name: "Lab"}},
		{"too many hosts", "1 to 100 hosts", Config{Hosts: 101}},
		{"too few names", "2 hosts was given 1 names", Config{Hosts: 2, Names: []string{"a"}}},
		{"a name twice", "used twice", Config{Hosts: 2, Names: []string{"a", "a"}}},
		{"a name that is a path", "RFC 1123", Config{Names: []string{"../a"}}},
		{"a network too small", "room for 100 hosts", Config{Network: netip.MustParsePrefix("172.24.0.0/26")}},
		{"a network of IPv6", "room for 100 hosts", Config{Network: netip.MustParsePrefix("fd00::/64")}},
		{"a root too small", "multiple of 1 MiB", Config{RootBytes: 1 << 20}},
		{"a disk of no sectors", "multiple of 512", Config{DiskBytes: []int64{513}}},
		{"a directory with content", "not empty", Config{Dir: full}},
	} {
		c.config.Image = image
		if _, err := c.config.withDefaults(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: withDefaults() = %v; want %q in it", c.what, err, c.want)
		}
	}
	if _, err := (Config{}).withDefaults(); err == nil {
		t.Error("without an image withDefaults() = nil; want an error")
	}
	got, err := Config{Image: image, Dir: filepath.Join(t.TempDir(), "new")}.withDefaults()
	if err != nil || got.Hosts != 1 || got.Network.String() != "172.24.0.0/24" || !labName.MatchString(got.Name) {
		t.Errorf("withDefaults() = %+v, %v; want one host in 172.24.0.0/24 and a name", got, err)
	}
}

func TestHostsHaveTheNetworksAddressesFromElevenOn(t *testing.T) {
	network := netip.MustParsePrefix("10.9.0.0/16")
	for n, want := range map[int]string{1: "10.9.0.1", 11: "10.9.0.11", 300: "10.9.1.44"} {
		if got := addressOf(network, n); got.String() != want {
			t.Errorf("addressOf(%s, %d) = %s; want %s", network, n, got, want)
		}
	}
}

func TestWhatMakeKubernetesBuildsIsFoundOrAskedFor(t *testing.T) {
	cache := t.TempDir()
	if _, err := FindKubernetes(cache); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "run make kubernetes") {
		t.Errorf("FindKubernetes of an empty cache = %v; want what to do", err)
	}
	dir := filepath.Join(cache, "kubernetes", "v1.34.4")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"k3s-standin", "k3s-standin-next", "k3s-standin-images.tar"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	k, err := FindKubernetes(cache)
	if err != nil || filepath.Base(k.K3s) != "k3s-standin" || k.Dir != dir {
		t.Errorf("FindKubernetes = %+v, %v; want the files in %s", k, err, dir)
	}
}

func TestHardwareIsStagedAsTheAgentWouldWriteIt(t *testing.T) {
	l := &Lab{Network: netip.MustParsePrefix("172.24.0.0/24"), Controller: netip.MustParseAddr("172.24.0.1"), config: Config{Dir: t.TempDir(), AuthorizedKeys: []string{"ssh-ed25519 AAAA me"}}}
	h := &Host{Name: "node-1", Address: netip.MustParseAddr("172.24.0.11"), lab: l}
	if err := h.stage(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"etc/hostname": "node-1\n", "root/.ssh/authorized_keys": "ssh-ed25519 AAAA me\n", "etc/fstab": "",
	} {
		got, err := os.ReadFile(filepath.Join(h.dir(), "stage", path))
		if err != nil || string(got) != want {
			t.Errorf("%s = %q, %v; want %q", path, got, err, want)
		}
	}
	key, err := os.Stat(filepath.Join(h.dir(), "stage", imagebuilder.SSHHostKeyPath))
	if err != nil || key.Mode().Perm() != 0o600 || h.HostKey == nil {
		t.Errorf("the host key = %v, %v; want a file of mode 0600", key, err)
	}
}
