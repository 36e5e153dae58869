package boot

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/probe"
)

// Port is a network port that is up and has an address.
type Port struct {
	Name    string
	MAC     inventory.MAC
	Address netip.Prefix
	Gateway netip.Addr
	lease   *nclient4.Lease
}

// vendorClass is the option 60 by which the controller tells the agent's
// requests from the firmware's; pxe.AgentVendorClass.
const vendorClass = "edge-agent"

const (
	defaultDHCP = 2 * time.Minute
	// bootPortWait is how long the port that the machine booted through is
	// waited for before others are tried: its driver may be slow.
	bootPortWait = 30 * time.Second
	carrierWait  = 30 * time.Second
	dhcpTry      = 4 * time.Second
)

// Network brings up ports.
type Network struct {
	Console *Console
	// Boot is the port that the machine booted through, whatever it is; zero when it is
	// not known.
	Boot inventory.MAC
	// Sys is where sysfs is; empty means /sys.
	Sys string
}

// Up brings up one port and gives it an address: the one that the machine booted
// through first, then the others, round and round until ctx ends.
func (n *Network) Up(ctx context.Context, c CommandLine) (*Port, error) {
	patience := c.DHCP
	if patience <= 0 {
		patience = defaultDHCP
	}
	began := time.Now()
	waiting, missing := false, false
	for {
		ports := n.ports()
		i := slices.IndexFunc(ports, func(p Port) bool { return p.MAC == c.MAC })
		switch {
		case i >= 0:
			// The boot port alone while it is young, then first of all.
			ports = append([]Port{ports[i]}, slices.Delete(slices.Clone(ports), i, i+1)...)
			if time.Since(began) < patience {
				ports = ports[:1]
			}
		case !c.MAC.IsZero() && time.Since(began) < bootPortWait:
			if !waiting {
				n.Console.Sayf("Waiting for the network port %s that this machine booted through.", c.MAC)
			}
			waiting = true
			ports = nil
		case len(ports) == 0 && !missing && time.Since(began) >= bootPortWait:
			missing = true
			n.Console.Say("No network port found: the installer may lack its driver.")
		}
		for _, p := range ports {
			port, err := n.up(ctx, p, c, patience)
			if err == nil {
				return port, nil
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			n.Console.Sayf("Port %s (%s): %v", p.Name, p.MAC, err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// ports lists the physical Ethernet ports that lead out of the machine, sorted by name.
func (n *Network) ports() []Port {
	entries, err := os.ReadDir(filepath.Join(n.sys(), "class/net"))
	if err != nil {
		return nil
	}
	var ports []Port
	for _, e := range entries {
		p := Port{Name: e.Name()}
		if n.attr(p.Name, "type") != "1" { // ARPHRD_ETHER
			continue
		}
		if _, err := os.Stat(filepath.Join(n.sys(), "class/net", p.Name, "device")); err != nil {
			continue
		}
		driver, _ := os.Readlink(filepath.Join(n.sys(), "class/net", p.Name, "device/driver")) // empty where there is none
		if p.MAC, err = inventory.ParseMAC(n.attr(p.Name, "address")); err == nil && (p.MAC == n.Boot || !probe.Gadget(filepath.Base(driver), p.MAC)) {
			ports = append(ports, p)
		}
	}
	return ports
}

func (n *Network) sys() string {
	if n.Sys == "" {
		return "/sys"
	}
	return n.Sys
}

func (n *Network) attr(port, name string) string {
	raw, err := os.ReadFile(filepath.Join(n.sys(), "class/net", port, name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}

// up brings up one port.
func (n *Network) up(ctx context.Context, p Port, c CommandLine, patience time.Duration) (*Port, error) {
	if err := setUp(p.Name); err != nil {
		return nil, fmt.Errorf("switching the port on: %w", err)
	}
	if err := n.waitCarrier(ctx, p.Name); err != nil {
		return nil, err
	}
	if c.Static.IsValid() {
		p.Address, p.Gateway = c.Static, c.Gateway
		n.Console.Sayf("Port %s (%s): address %s from the kernel command line.", p.Name, p.MAC, p.Address)
		return &p, configure(p)
	}
	n.Console.Sayf("Port %s (%s): asking for an address by DHCP.", p.Name, p.MAC)
	lease, err := n.request(ctx, p.Name, patience)
	if err != nil {
		return nil, err
	}
	if err := p.take(lease); err != nil {
		return nil, err
	}
	n.Console.Sayf("Port %s (%s): address %s from DHCP server %s.", p.Name, p.MAC, p.Address, lease.ACK.ServerIdentifier())
	return &p, configure(p)
}

// waitCarrier waits for the link.
func (n *Network) waitCarrier(ctx context.Context, port string) error {
	ctx, cancel := context.WithTimeout(ctx, carrierWait)
	defer cancel()
	for n.attr(port, "carrier") != "1" {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("no link within %s: is the cable plugged in, and the switch port on?", carrierWait)
		}
	}
	return nil
}

// request asks for a lease until it has one or patience ends. A switch that
// learns its spanning tree forwards nothing for half a minute, so one round of
// questions is not enough.
func (n *Network) request(ctx context.Context, port string, patience time.Duration) (*nclient4.Lease, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for try := 0; ctx.Err() == nil; try++ {
		lease, err := exchange(ctx, port)
		if err == nil {
			return lease, nil
		}
		last = err
		if try == 2 {
			n.Console.Sayf("Port %s: no DHCP server has answered yet; asking until %s are over.", port, patience)
		}
		select {
		case <-time.After(min(time.Duration(try+1)*time.Second, 8*time.Second)):
		case <-ctx.Done():
		}
	}
	return nil, fmt.Errorf("no address by DHCP within %s: %w", patience, last)
}

// exchange is one DISCOVER, OFFER, REQUEST, ACK.
func exchange(ctx context.Context, port string) (*nclient4.Lease, error) {
	client, err := nclient4.New(port, nclient4.WithTimeout(dhcpTry), nclient4.WithRetry(1))
	if err != nil {
		return nil, fmt.Errorf("opening the port for DHCP: %w", err)
	}
	defer client.Close()
	lease, err := client.Request(ctx, dhcpv4.WithOption(dhcpv4.OptClassIdentifier(vendorClass)), dhcpv4.WithBroadcast(true))
	if err != nil {
		return nil, fmt.Errorf("asking for an address: %w", err)
	}
	return lease, nil
}

// take reads a lease.
func (p *Port) take(lease *nclient4.Lease) error {
	address, ok := netip.AddrFromSlice(lease.ACK.YourIPAddr.To4())
	ones, bits := lease.ACK.SubnetMask().Size()
	if !ok || address.IsUnspecified() || bits != 32 {
		return fmt.Errorf("the DHCP server %s gave no usable address: %s, netmask %s", lease.ACK.ServerIdentifier(), lease.ACK.YourIPAddr, lease.ACK.SubnetMask())
	}
	if address.IsLinkLocalUnicast() {
		// The BMC of some servers gives one on a port between the two.
		return fmt.Errorf("the DHCP server %s gave the link-local address %s (RFC 3927), by which no controller can be reached: it is no server of a site's network", lease.ACK.ServerIdentifier(), address)
	}
	p.lease = lease
	p.Address = netip.PrefixFrom(address, ones)
	p.Gateway = netip.Addr{}
	for _, r := range lease.ACK.Router() {
		if gateway, ok := netip.AddrFromSlice(r.To4()); ok {
			p.Gateway = gateway
			break
		}
	}
	return nil
}

// Keep renews the port's lease at half its time until ctx ends. An address that
// cannot be renewed is kept: losing it would only end the conversation.
func (n *Network) Keep(ctx context.Context, p *Port) {
	if p.lease == nil {
		return
	}
	wait := leaseHalf(p.lease)
	for {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		lease, err := exchange(ctx, p.Name)
		if err != nil {
			wait = 30 * time.Second
			continue
		}
		renewed := *p
		if err := renewed.take(lease); err == nil && renewed.Address != p.Address {
			n.Console.Sayf("Port %s: address is %s now.", p.Name, renewed.Address)
			if err := configure(renewed); err != nil {
				n.Console.Sayf("Port %s: %v", p.Name, err)
			}
			*p = renewed
		}
		wait = leaseHalf(lease)
	}
}

func leaseHalf(lease *nclient4.Lease) time.Duration {
	return max(lease.ACK.IPAddressLeaseTime(time.Hour)/2, 30*time.Second)
}

// control runs do on a socket for interface ioctls.
func control(do func(fd int) error) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return do(fd)
}

// RaiseOthers switches on the ports that are off, so that it can be heard what they
// are connected to. They get no address, and answer no ARP: on one network with the
// port that has one, they would answer for it.
func (n *Network) RaiseOthers() {
	for _, p := range n.ports() {
		flags, err := strconv.ParseUint(n.attr(p.Name, "flags"), 0, 32)
		if err == nil && flags&unix.IFF_UP == 0 {
			// A port that cannot be switched on is one on which nothing is heard.
			_ = setFlags(p.Name, unix.IFF_UP|unix.IFF_NOARP)
		}
	}
}

func setUp(port string) error { return setFlags(port, unix.IFF_UP) }

// setFlags adds flags to those that a port has.
func setFlags(port string, flags uint16) error {
	return control(func(fd int) error {
		ifr, err := unix.NewIfreq(port)
		if err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
			return err
		}
		ifr.SetUint16(ifr.Uint16() | flags)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
	})
}

// configure gives a port its address and the machine its default route.
func configure(p Port) error {
	mask := net.CIDRMask(p.Address.Bits(), 32)
	err := control(func(fd int) error {
		for _, set := range []struct {
			request uint
			value   net.IP
		}{
			{unix.SIOCSIFADDR, p.Address.Addr().AsSlice()},
			{unix.SIOCSIFNETMASK, net.IP(mask)},
		} {
			ifr, err := unix.NewIfreq(p.Name)
			if err != nil {
				return err
			}
			if err := ifr.SetInet4Addr(set.value); err != nil {
				return err
			}
			if err := unix.IoctlIfreq(fd, set.request, ifr); err != nil {
				return err
			}
		}
		if !p.Gateway.IsValid() {
			return nil
		}
		err := addDefaultRoute(fd, p.Gateway)
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("setting address %s and gateway %s: %w", p.Address, p.Gateway, err)
	}
	return nil
}

// rtentry is struct rtentry of linux/route.h on 64-bit machines.
type rtentry struct {
	_       uint64
	dst     unix.RawSockaddrInet4
	gateway unix.RawSockaddrInet4
	genmask unix.RawSockaddrInet4
	flags   uint16
	_       int16
	_       uint64
	_       uintptr
	metric  int16
	_       [6]byte
	dev     uintptr
	mtu     uint64
	window  uint64
	irtt    uint16
}

func addDefaultRoute(fd int, gateway netip.Addr) error {
	inet := func(a netip.Addr) unix.RawSockaddrInet4 {
		return unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.As4()}
	}
	any4 := netip.IPv4Unspecified()
	r := rtentry{dst: inet(any4), gateway: inet(gateway), genmask: inet(any4), flags: unix.RTF_UP | unix.RTF_GATEWAY}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCADDRT, uintptr(unsafe.Pointer(&r)))
	if errno != 0 {
		return errno
	}
	return nil
}
