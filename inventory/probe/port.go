package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// pciAddress finds domain:bus:device.function in a sysfs path.
var pciAddress = regexp.MustCompile(`[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]`)

// lastPCI is the PCI function nearest to a device, empty when it has none.
func lastPCI(devicePath string) string {
	all := pciAddress.FindAllString(devicePath, -1)
	if len(all) == 0 {
		return ""
	}
	return all[len(all)-1]
}

// netDir has a directory for each network interface.
const netDir = "sys/class/net"

// isPort reports whether a network interface is a physical Ethernet port.
func (m *machine) isPort(name string) bool {
	// ARPHRD_ETHER is 1 (linux/if_arp.h). A port without a device is
	// software: bridge, bond, VLAN, tap, veth.
	if m.text(netDir, name, "type") != "1" || !m.exists(path.Join(netDir, name, "device")) || m.exists(path.Join(netDir, name, "phy80211")) {
		return false
	}
	mac, err := inventory.ParseMAC(m.text(netDir, name, "address"))
	// One whose address cannot be read is told of as that.
	return err != nil || !Gadget(m.link(netDir, name, "device/driver"), mac)
}

// gadgetDrivers are the drivers of networks whose other end is a computer on the same
// USB: drivers/net/usb/{cdc_ether,cdc_eem,cdc_ncm,rndis_host}.c of Linux.
var gadgetDrivers = []string{"cdc_ether", "cdc_eem", "cdc_ncm", "rndis_host"}

// Gadget reports whether a port leads to the machine's own BMC, or to another computer
// on its USB, and not out of it. Such a port has an address that nobody assigned: the
// same one in all machines of a kind, or another one at each start, so that it must not
// identify the machine. An adapter that has one of these drivers has a universally
// administered address, and counts (IEEE 802, U/L bit).
func Gadget(driver string, mac inventory.MAC) bool {
	return mac[0]&2 != 0 && slices.Contains(gadgetDrivers, driver)
}

// ports reads the physical Ethernet ports, sorted by name.
func (m *machine) ports(_ context.Context, facts *inventory.Facts) error {
	const dir = netDir
	entries, err := fs.ReadDir(m.fs, dir)
	if err != nil {
		return err
	}
	facts.NICs = []inventory.NIC{} // looked at, also when there are none
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if !m.isPort(name) {
			continue
		}
		nic := inventory.NIC{Name: name, Driver: m.link(dir, name, "device/driver"), PCI: lastPCI(m.target(dir, name))}
		mac, err := inventory.ParseMAC(m.text(dir, name, "address"))
		if err != nil {
			errs = append(errs, fmt.Errorf("port %s: %w", name, err))
			continue
		}
		nic.MAC = mac
		if nic.PCI != "" {
			nic.Vendor = pciID(m.text("sys/bus/pci/devices", nic.PCI, "vendor"))
			nic.Device = pciID(m.text("sys/bus/pci/devices", nic.PCI, "device"))
		}
		if m.src.Port != nil {
			port, err := m.src.Port(name)
			if err != nil {
				errs = append(errs, fmt.Errorf("asking the driver of port %s: %w", name, err))
			}
			if !port.PermanentMAC.IsZero() {
				nic.MAC = port.PermanentMAC
			}
			nic.SpeedMbs = port.MaxSpeedMbs
		}
		// The firmware boots with the address the port has, not with the one
		// it was made with, so both are compared.
		nic.Boot = !m.src.Boot.IsZero() && (nic.MAC == m.src.Boot || mac == m.src.Boot)
		facts.NICs = append(facts.NICs, nic)
	}
	if len(facts.NICs) == 0 && len(errs) > 0 {
		facts.NICs = nil // there are some
	}
	return errors.Join(errs...)
}

// pci reads the PCI functions, sorted by address. A kernel that knows no PCI saw
// none and cannot say that there are none.
func (m *machine) pci(_ context.Context, facts *inventory.Facts) error {
	const dir = "sys/bus/pci/devices"
	entries, err := fs.ReadDir(m.fs, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	facts.PCI = []inventory.PCI{}
	for _, e := range entries {
		at := e.Name()
		facts.PCI = append(facts.PCI, inventory.PCI{
			Address: at,
			Class:   strings.TrimPrefix(m.text(dir, at, "class"), "0x"),
			Vendor:  pciID(m.text(dir, at, "vendor")),
			Device:  pciID(m.text(dir, at, "device")),
			Driver:  m.link(dir, at, "driver"),
		})
	}
	slices.SortFunc(facts.PCI, func(a, b inventory.PCI) int { return strings.Compare(a.Address, b.Address) })
	return nil
}

// pciID turns sysfs's "0x8086" into "8086".
func pciID(s string) string { return strings.TrimPrefix(s, "0x") }
