//go:build e2e

package scenario

import (
	"path/filepath"
	"strings"
	"testing"
)

// TestThreeAtOnce installs the machines of hcl-examples/rack.hcl at the same time,
// over e1000e and virtio to AHCI, NVMe and virtio disks. What they netboot, and
// their image, come from a bundle: the cache is empty when it is applied.
func TestThreeAtOnce(t *testing.T) {
	l := emptyLab(t)
	l.example("rack")
	l.image("image.edge-os")
	key, file := filepath.Join(l.dir, "bundle.key"), filepath.Join(l.dir, "rack.bundle")
	public := strings.TrimSpace(l.must(commandLimit, "bundle", "key", "--output", key).stdout)
	l.must(buildLimit, "bundle", "build", l.site, "--output", file, "--key", key)
	l.cache = filepath.Join(l.dir, "cache")
	bundled := []string{"--bundle", file, "--trust-key", public, l.site}
	l.raise(l.site)

	_ = l.sub("apply", func(l *lab) {
		l.want(0, l.apply(bundled...))
		for address, want := range map[string]string{
			"172.22.0.11": "node-ahci e1000e /dev/sda3\n",
			"172.22.0.12": "node-nvme e1000e /dev/nvme0n1p3\n",
			"172.22.0.13": "node-virtio virtio_net /dev/vda3\n",
		} {
			const look = `set -- /sys/class/net/e*/device/driver; echo $(hostname) $(basename $(readlink $1)) $(findmnt -no SOURCE /)`
			if r := l.want(0, l.ssh(address+":22", look)); r.stdout != want {
				l.t.Errorf("%s is %q; want %q", address, r.stdout, want)
			}
		}
		if r := l.want(0, l.apply(bundled...)); !strings.Contains(r.stdout, "No changes.") {
			l.t.Errorf("apply says %q; want No changes.", r.stdout)
		}
	})
}
