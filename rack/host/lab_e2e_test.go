//go:build e2e

package host

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder"
)

func start(t *testing.T, config Config) *Lab {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: hosts are containers")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	if config.Image, err = Image(t.Context(), &imagebuilder.Builder{CacheDir: filepath.Join(cache, "edge-provision")}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	lab, err := Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d hosts up in %.1f s", len(lab.Hosts), time.Since(began).Seconds())
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// must runs a command inside host i.
func (l *Lab) must(t *testing.T, i int, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	out, err := l.Exec(ctx, i, args[0], args[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestHostsLiveDieAndAreReplaced(t *testing.T) {
	lab := start(t, Config{Hosts: 2, DiskBytes: []int64{64 << 20}})
	if got := lab.must(t, 0, "sh", "-c", "systemctl is-system-running --wait || true"); got != "running" {
		t.Errorf("system state = %q; want running\n%s", got, lab.must(t, 0, "sh", "-c", "systemctl --failed; journalctl -b --no-pager -u edge-lab"))
	}
	if got := lab.must(t, 1, "hostname"); got != "node-2" {
		t.Errorf("hostname = %q; want node-2", got)
	}
	lab.must(t, 0, "bash", "-c", "dd if=/dev/zero of=/dev/disk/by-id/"+lab.Hosts[0].Disks[0]+" bs=1M count=1 && sync && echo kept >/root/mark && : </dev/tcp/"+lab.Hosts[1].Address.String()+"/22")
	if err := lab.Kill(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := lab.Boot(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := lab.must(t, 0, "cat", "/root/mark"); got != "kept" {
		t.Errorf("after a power cut the mark = %q; want kept", got)
	}
	key := string(lab.Hosts[0].HostKey.Marshal())
	if err := lab.Replace(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := lab.Boot(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := lab.must(t, 0, "sh", "-c", "cat /root/mark 2>/dev/null || echo none"); got != "none" || string(lab.Hosts[0].HostKey.Marshal()) == key {
		t.Errorf("the replaced host has mark %q; want none, and another host key", got)
	}
	if err := lab.Stop(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}
