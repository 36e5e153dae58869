//go:build e2e

package scenario

import (
	"strings"
	"testing"
)

// TestThreeAtOnce installs three machines at the same time, over e1000e and
// virtio to AHCI, NVMe and virtio disks.
func TestThreeAtOnce(t *testing.T) {
	l := newLab(t, "hardware.hcl")
	l.image("image.edge-os")
	l.raise(l.site)

	_ = l.sub("apply", func(l *lab) {
		l.want(0, l.apply(l.site))
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
		if r := l.want(0, l.apply(l.site)); !strings.Contains(r.stdout, "No changes.") {
			l.t.Errorf("apply says %q; want No changes.", r.stdout)
		}
	})
}
