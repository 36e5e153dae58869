package boot

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// CommandLine is what the kernel command line tells the agent. Nothing of it is
// taken from DHCP, which anybody on the wire can answer.
type CommandLine struct {
	// URL (edge.url), Pin (edge.pin), Token (edge.token) and Boot (edge.boot)
	// are required: the controller's address, the hex SHA-256 of its public
	// key, the one-use token, and the name of this boot.
	URL, Pin, Token, Boot string
	// MAC of the port that the machine booted through: edge.mac, or BOOTIF in
	// the form of PXELINUX and iPXE (01-52-54-00-…).
	MAC inventory.MAC
	// Static is the address of an ip= parameter in the kernel's form
	// (Documentation/admin-guide/nfs/nfsroot.rst:
	// ip=client:server:gateway:netmask:hostname:device:autoconf); invalid means
	// DHCP.
	Static  netip.Prefix
	Gateway netip.Addr
	// Lost (edge.lost) is how long the controller may be silent before the
	// machine reboots; zero means the default.
	Lost time.Duration
	// DHCP (edge.dhcp) is how long an address is asked for on one port before
	// the next is tried; zero means the default.
	DHCP time.Duration
	// Shell (edge.shell=1) offers a person at the console a few commands.
	Shell bool
	// Debug (edge.debug=1) logs more.
	Debug bool
}

// ParseCommandLine reads /proc/cmdline. Parameters of others are passed over;
// of a repeated one the last counts, as with the kernel. All faults are reported
// together.
func ParseCommandLine(text string) (CommandLine, error) {
	var c CommandLine
	var errs []error
	for word := range strings.FieldsSeq(text) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "edge.url":
			c.URL = value
		case "edge.pin":
			c.Pin = value
		case "edge.token":
			c.Token = value
		case "edge.boot":
			c.Boot = value
		case "edge.mac":
			c.MAC, err = inventory.ParseMAC(value)
		case "BOOTIF":
			var mac inventory.MAC
			// The first group is the hardware type; 01 is Ethernet.
			if mac, err = inventory.ParseMAC(strings.TrimPrefix(value, "01-")); err == nil && c.MAC.IsZero() {
				c.MAC = mac
			}
		case "ip":
			c.Static, c.Gateway, err = parseIP(value)
		case "edge.lost":
			c.Lost, err = parseSpan(value)
		case "edge.dhcp":
			c.DHCP, err = parseSpan(value)
		case "edge.shell":
			c.Shell = value == "1"
		case "edge.debug":
			c.Debug = value == "1"
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("parameter %s: %w", key, err))
		}
	}
	for _, p := range []struct{ name, value string }{
		{"edge.url", c.URL}, {"edge.pin", c.Pin}, {"edge.token", c.Token}, {"edge.boot", c.Boot},
	} {
		if p.value == "" {
			errs = append(errs, fmt.Errorf("parameter %s is missing", p.name))
		}
	}
	return c, errors.Join(errs...)
}

func parseSpan(value string) (time.Duration, error) {
	d, err := time.ParseDuration(value)
	if err == nil && (d < time.Second || d > 24*time.Hour) {
		err = fmt.Errorf("%s is not between 1s and 24h", value)
	}
	return d, err
}

func parseIP(value string) (netip.Prefix, netip.Addr, error) {
	fields := strings.Split(value, ":")
	if len(fields) == 1 || fields[0] == "" {
		// ip=dhcp and its kin, or no address.
		return netip.Prefix{}, netip.Addr{}, nil
	}
	if len(fields) < 4 {
		return netip.Prefix{}, netip.Addr{}, fmt.Errorf("%q: want client:server:gateway:netmask", value)
	}
	address, err := netip.ParseAddr(fields[0])
	if err != nil || !address.Is4() {
		return netip.Prefix{}, netip.Addr{}, fmt.Errorf("%q is not an IPv4 address", fields[0])
	}
	mask := net.ParseIP(fields[3]).To4()
	ones, bits := net.IPMask(mask).Size()
	if bits != 32 {
		return netip.Prefix{}, netip.Addr{}, fmt.Errorf("%q is not a netmask", fields[3])
	}
	var gateway netip.Addr
	if fields[2] != "" {
		if gateway, err = netip.ParseAddr(fields[2]); err != nil || !gateway.Is4() {
			return netip.Prefix{}, netip.Addr{}, fmt.Errorf("%q is not an IPv4 address", fields[2])
		}
	}
	return netip.PrefixFrom(address, ones), gateway, nil
}
