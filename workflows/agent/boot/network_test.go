package boot

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"github.com/edge-provision/edge-provision/inventory"
)

// port puts a port into sys.
func port(t *testing.T, sys, name, driver, mac string) {
	t.Helper()
	dir := filepath.Join(sys, "class/net", name)
	err := errors.Join(os.MkdirAll(filepath.Join(dir, "device"), 0o755),
		os.Symlink("../../../../bus/x/drivers/"+driver, filepath.Join(dir, "device/driver")),
		os.WriteFile(filepath.Join(dir, "type"), []byte("1\n"), 0o600),
		os.WriteFile(filepath.Join(dir, "address"), []byte(mac+"\n"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
}

// The network between a server and its own BMC leads to no controller.
func TestPortToTheBMCIsNotTried(t *testing.T) {
	sys := t.TempDir()
	port(t, sys, "adapter", "cdc_ether", "00:e0:4c:68:00:01")
	port(t, sys, "bmc", "rndis_host", "be:3a:f2:b6:05:9f")
	port(t, sys, "eno1", "virtio_net", "52:54:00:00:00:01")
	names := func(boot inventory.MAC) (names []string) {
		for _, p := range (&Network{Sys: sys, Boot: boot}).ports() {
			names = append(names, p.Name)
		}
		return names
	}
	if got := names(inventory.MAC{}); !slices.Equal(got, []string{"adapter", "eno1"}) {
		t.Errorf("ports() = %q; want those that lead out of the machine", got)
	}
	if got := names(inventory.MAC{0xbe, 0x3a, 0xf2, 0xb6, 0x05, 0x9f}); !slices.Contains(got, "bmc") {
		t.Errorf("ports() = %q; want the port that the machine booted through", got)
	}
}

func TestLinkLocalLeaseIsRefused(t *testing.T) {
	for address, taken := range map[string]bool{"169.254.0.17": false, "192.0.2.17": true} {
		ack, err := dhcpv4.New(dhcpv4.WithYourIP(net.ParseIP(address)), dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithServerIP(net.ParseIP("169.254.0.1")))
		if err != nil {
			t.Fatal(err)
		}
		var p Port
		err = p.take(&nclient4.Lease{ACK: ack})
		if (err == nil) != taken || err != nil && !strings.Contains(err.Error(), "link-local") {
			t.Errorf("take(%s) = %v; want it taken: %v", address, err, taken)
		}
	}
}
