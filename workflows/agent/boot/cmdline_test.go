package boot

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/edge-provision/edge-provision/inventory"
)

const required = "edge.url=https://172.22.0.1:8443 edge.pin=ab edge.token=T edge.boot=B"

func TestParseCommandLine(t *testing.T) {
	base := CommandLine{URL: "https://172.22.0.1:8443", Pin: "ab", Token: "T", Boot: "B"}
	with := func(change func(*CommandLine)) CommandLine {
		c := base
		change(&c)
		return c
	}
	mac := inventory.MAC{0x52, 0x54, 0, 4, 0x21, 1}
	for text, want := range map[string]CommandLine{
		"console=ttyS0 quiet":                                    base,
		"BOOTIF=01-52-54-00-04-21-01":                            with(func(c *CommandLine) { c.MAC = mac }),
		"edge.mac=52:54:00:04:21:01 BOOTIF=01-52-54-00-04-21-02": with(func(c *CommandLine) { c.MAC = mac }),
		"ip=172.22.0.11:172.22.0.1:172.22.0.254:255.255.255.0::eth0:off": with(func(c *CommandLine) {
			c.Static, c.Gateway = netip.MustParsePrefix("172.22.0.11/24"), netip.MustParseAddr("172.22.0.254")
		}),
		"ip=172.22.0.11:::255.255.255.128": with(func(c *CommandLine) { c.Static = netip.MustParsePrefix("172.22.0.11/25") }),
		"ip=dhcp":                          base,
		"edge.lost=10m edge.dhcp=30s edge.shell=1 edge.debug=1": with(func(c *CommandLine) {
			c.Lost, c.DHCP, c.Shell, c.Debug = 10*time.Minute, 30*time.Second, true, true
		}),
		"edge.boot=first edge.boot=B": base,
	} {
		got, err := ParseCommandLine(required + " " + text + "\n")
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{})); err != nil && !strings.Contains(text, "first") || diff != "" {
			t.Errorf("ParseCommandLine(%q): %v, difference (-want +got):\n%s", text, err, diff)
		}
	}
}

func TestParseCommandLineNamesEveryFault(t *testing.T) {
	_, err := ParseCommandLine("edge.url=https://x BOOTIF=nonsense ip=1.2.3.4::x:255.255.255.0 edge.lost=forever")
	for _, want := range []string{"edge.pin is missing", "edge.token is missing", "edge.boot is missing", "BOOTIF", "ip", "edge.lost"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseCommandLine = %v; want it to name %s", err, want)
		}
	}
	for _, bad := range []string{"ip=1.2.3.4:::255.0.255.0", "ip=::1:::", "ip=1.2.3.4:5", "ip=1.2.3.4:::", "edge.dhcp=0s", "edge.mac=ff:ff:ff:ff:ff:ff"} {
		if _, err := ParseCommandLine(required + " " + bad); err == nil && bad != "ip=::1:::" {
			t.Errorf("ParseCommandLine(%q) = nil; want an error", bad)
		}
	}
}

func FuzzParseCommandLine(f *testing.F) {
	f.Add(required + " ip=172.22.0.11:::255.255.255.0 BOOTIF=01-52-54-00-04-21-01")
	f.Add("ip=:::::: edge.lost=1h edge.mac=")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCommandLine(text)
		if err == nil && (c.URL == "" || c.Token == "" || c.Pin == "" || c.Boot == "") {
			t.Errorf("ParseCommandLine(%q) = %+v; want an error without the required parameters", text, c)
		}
		if c.Static.IsValid() && !c.Static.Addr().Is4() {
			t.Errorf("ParseCommandLine(%q) gives address %s; want IPv4", text, c.Static)
		}
	})
}
