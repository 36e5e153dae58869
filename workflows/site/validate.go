package site

import (
	"net"
	"net/netip"
	"net/url"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/inventory"
)

// The networks that K3s takes for pods and services unless it is told others
// (docs.k3s.io, "Networking options").
var clusterNetworks = []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.43.0.0/16")}

// validate compares what was decoded with each other.
func (s *Site) validate() hcl.Diagnostics {
	var diags hcl.Diagnostics
	for i, n := range s.Networks {
		diags = append(diags, n.validate()...)
		diags = append(diags, s.clusterOverlap(n)...)
		for _, other := range s.Networks[:i] {
			diags = append(diags, n.validateBeside(other)...)
		}
	}
	for _, m := range s.Machines {
		diags = append(diags, m.validate()...)
	}
	diags = append(diags, s.validateUnique()...)
	return append(diags, s.validateMoved()...)
}

// at is the place of an attribute.
func (d Decl) at(name string) *hcl.Range {
	r := d.Range(name)
	return &r
}

// validate checks one network by itself.
func (n *Network) validate() hcl.Diagnostics {
	var diags hcl.Diagnostics
	if !n.CIDR.IsValid() {
		return nil
	}
	if n.Gateway.IsValid() {
		diags = append(diags, n.validateHost(n.Gateway, n.at("gateway"), "The gateway")...)
	}
	d := n.DHCP
	if d.First.IsValid() {
		for _, end := range []netip.Addr{d.First, d.Last} {
			diags = append(diags, n.validateHost(end, d.at("range"), "The end of the range")...)
		}
		if within(n.Gateway, d.First, d.Last) {
			diags = append(diags, failure("Range includes the gateway", d.at("range"),
				"The range %s-%s includes the gateway %s, which would be given to a machine. Start or end the range beside it.", d.First, d.Last, n.Gateway)...)
		}
		for i, list := range [][]netip.Addr{n.DNS, n.NTP} {
			for _, a := range list {
				if a != n.Gateway && within(a, d.First, d.Last) {
					diags = append(diags, failure("Range includes a server", d.at("range"),
						"The range %s-%s includes the %s server %s, which would be given to a machine. Start or end the range beside it.", d.First, d.Last, []string{"DNS", "NTP"}[i], a)...)
				}
			}
		}
	}
	if n.Unknown == UnknownDiscover {
		switch {
		case d.Mode == DHCPOff:
			diags = append(diags, failure("Discovery without DHCP", n.at("unknown"), "Unknown machines are discovered when they ask by DHCP, and the mode of %s is \"off\". Use \"server\" or \"proxy\".", n.Address)...)
		case d.Mode == DHCPServer && !d.First.IsValid() && !d.written("range"):
			diags = append(diags, failure("Discovery without range", n.at("unknown"), "Unknown machines need addresses, and %s has no range. Add dhcp { range = \"FIRST-LAST\" }.", n.Address)...)
		}
	}
	return diags
}

func (d Decl) written(name string) bool {
	_, ok := d.Ranges[name]
	return ok
}

// validateHost checks that an address can be a host of the network.
func (n *Network) validateHost(a netip.Addr, at *hcl.Range, what string) hcl.Diagnostics {
	first, last := offset(n.CIDR, 1), offset(n.CIDR, size(n.CIDR)-2)
	switch {
	case !n.CIDR.Contains(a):
		return failure("Address outside its network", at, "%s %s is outside %s, which is %s. Choose one from %s to %s, or correct the network's cidr.", what, a, n.Address, n.CIDR, first, last)
	case a == n.CIDR.Addr():
		return failure("Address not usable", at, "%s %s is the network address of %s, which no host can have. Choose one from %s to %s.", what, a, n.CIDR, first, last)
	case a == offset(n.CIDR, size(n.CIDR)-1):
		return failure("Address not usable", at, "%s %s is the broadcast address of %s, which no host can have. Choose one from %s to %s.", what, a, n.CIDR, first, last)
	}
	return nil
}

func within(a, first, last netip.Addr) bool {
	return a.IsValid() && first.IsValid() && a.Compare(first) >= 0 && a.Compare(last) <= 0
}

// validateBeside checks two networks against each other.
func (n *Network) validateBeside(other *Network) hcl.Diagnostics {
	var diags hcl.Diagnostics
	if n.CIDR.IsValid() && other.CIDR.IsValid() && n.CIDR.Overlaps(other.CIDR) {
		diags = append(diags, failure("Overlapping networks", n.at("cidr"), "%s (%s) and %s (%s, at %s) overlap, so that one address would be on both.", n.Address, n.CIDR, other.Address, other.CIDR, other.Range("cidr"))...)
	}
	if n.Interface != "" && n.Interface == other.Interface {
		diags = append(diags, failure("Interface used twice", n.at("interface"), "The interface %q belongs to %s already (%s). Each network has its own.", n.Interface, other.Address, other.Range("interface"))...)
	}
	return diags
}

// clusterOverlap refuses a network that K3s would route elsewhere.
func (s *Site) clusterOverlap(n *Network) hcl.Diagnostics {
	if !n.CIDR.IsValid() {
		return nil
	}
	for _, c := range clusterNetworks {
		if !c.Overlaps(n.CIDR) {
			continue
		}
		for _, w := range s.Workflows {
			for _, step := range w.Steps {
				if step.Type == "k3s" {
					return failure("Network overlaps with the cluster", n.at("cidr"), "%s (%s) overlaps with %s, which %s takes for its pods or services, so that the machines would not reach each other. Choose another network.", n.Address, n.CIDR, c, step.Address)
				}
			}
		}
		return warning("Network overlaps with the cluster", n.at("cidr"), "%s (%s) overlaps with %s, which K3s takes by default. It works only as long as the site has no k3s step.", n.Address, n.CIDR, c)
	}
	return nil
}

// validate checks one machine against its network, image and rack.
func (m *Machine) validate() hcl.Diagnostics {
	var diags hcl.Diagnostics
	if n := m.Network; n != nil && n.CIDR.IsValid() && !m.Adopted() {
		diags = append(diags, m.validateNetwork(n)...)
	}
	if m.Rack != nil && m.Image != nil {
		diags = append(diags, m.validateRack()...)
	}
	return diags
}

func (m *Machine) validateNetwork(n *Network) hcl.Diagnostics {
	var diags hcl.Diagnostics
	switch {
	case m.IP.IsValid():
		diags = append(diags, n.validateHost(m.IP, m.at("address"), "The address")...)
		if m.IP == n.Gateway {
			diags = append(diags, failure("Address used twice", m.at("address"), "%s is the gateway of %s (%s). Choose another address.", m.IP, n.Address, n.Range("gateway"))...)
		}
		if within(m.IP, n.DHCP.First, n.DHCP.Last) {
			diags = append(diags, warning("Reservation inside the pool", m.at("address"), "%s is inside the range of %s (%s). It is kept out of the pool, but whoever holds a lease of it now keeps that until it ends. Choose an address outside the range.", m.IP, n.Address, n.DHCP.Range("range"))...)
		}
	case n.DHCP.Mode == DHCPServer && !n.DHCP.First.IsValid() && !n.DHCP.written("range") && !m.written("address"):
		diags = append(diags, failure("Machine without address", &m.DeclRange, "%s declares no address, and %s has no range to give one from. Add an address, or a range to the dhcp block.", m.Address, n.Address)...)
	}
	if n.DHCP.Mode == DHCPOff && m.Image != nil && m.BMC.Driver != BMCRedfish {
		diags = append(diags, failure("No way to boot", m.at("network"), "%s cannot be booted: the mode of %s is \"off\", so that it gets no boot answer, and only a redfish BMC could boot it from virtual media.", m.Address, n.Address)...)
	}
	return diags
}

// validateRack finds emulated hardware that the image cannot run on.
func (m *Machine) validateRack() hcl.Diagnostics {
	var diags hcl.Diagnostics
	if m.Image.Imported() {
		fits := false
		for _, mode := range m.Image.Firmware {
			fits = fits || mode == m.Rack.Firmware
		}
		if !fits {
			diags = append(diags, failure("Image does not boot here", m.Rack.at("firmware"), "%s boots in %s only, and the rack emulates a machine with %s.", m.Image.Address, strings.Join(m.Image.Firmware, " and "), m.Rack.Firmware)...)
		}
	}
	if m.Image.Kernel != KernelCloud {
		return diags
	}
	for _, disk := range m.Rack.Disks {
		if disk.Bus == "ahci" {
			diags = append(diags, warning("Kernel without driver", disk.at("bus"), "The cloud kernel of %s has no driver for AHCI disks. Use kernel = \"generic\".", m.Image.Address)...)
		}
	}
	for _, nic := range m.Rack.NICs {
		if nic.Model == "e1000e" {
			diags = append(diags, warning("Kernel without driver", nic.at("model"), "The cloud kernel of %s has no driver for e1000e ports. Use kernel = \"generic\".", m.Image.Address)...)
		}
	}
	return diags
}

// owner is who has something that only one may have.
type owner struct {
	address string
	rng     hcl.Range
}

// claims finds what two have.
type claims struct {
	owners map[string]owner
	diags  hcl.Diagnostics
}

// take claims a thing; the place that lost it first is in the complaint.
func (c *claims) take(key, what, by string, at hcl.Range, summary, hint string) {
	if old, ok := c.owners[key]; ok {
		if old.address == by {
			c.diags = append(c.diags, failure(summary, &at, "%s has %s twice; the first is at %s. %s", by, what, old.rng, hint)...)
			return
		}
		if old.rng == at {
			c.diags = append(c.diags, failure(summary, &at, "%s and %s both have %s. %s", old.address, by, what, hint)...)
			return
		}
		c.diags = append(c.diags, failure(summary, &at, "%s has %s, and so has %s (%s). %s", by, what, old.address, old.rng, hint)...)
		return
	}
	c.owners[key] = owner{by, at}
}

// validateUnique finds MACs, addresses, BMCs and hostnames that two machines
// have. MACs are compared as numbers, whatever separators they were written
// with.
func (s *Site) validateUnique() hcl.Diagnostics {
	c := &claims{owners: make(map[string]owner)}
	for _, m := range s.Machines {
		if !m.MAC.IsZero() {
			c.take("mac "+m.MAC.String(), "the MAC "+m.MAC.String(), m.Address, m.Range("mac"), "MAC used twice", "A MAC names one machine.")
		}
		if m.IP.IsValid() {
			c.take("ip "+m.IP.String(), "the address "+m.IP.String(), m.Address, m.Range("address"), "Address used twice", "Each machine has its own.")
		}
		if m.Hostname != "" {
			c.take("host "+m.Hostname, "the hostname \""+m.Hostname+"\"", m.Address, m.Range("hostname"), "Hostname used twice", "Each machine has its own; set hostname where the default does not fit.")
		}
		if key, host := bmcKey(m.BMC); key != "" {
			c.take("bmc "+key, "the BMC "+key, m.Address, m.BMC.Range("address"), "BMC used twice", "One BMC powers one machine.")
			if addr, err := netip.ParseAddr(host); err == nil {
				if addr == m.IP {
					c.diags = append(c.diags, failure("Address used twice", m.BMC.at("address"), "%s has the address %s itself (%s), so its BMC must have another one.", m.Address, addr, m.Range("address"))...)
				}
				if n := m.Network; n != nil && within(addr, n.DHCP.First, n.DHCP.Last) {
					c.diags = append(c.diags, failure("BMC address inside the pool", m.BMC.at("address"), "The BMC's address %s is inside the range of %s (%s), which would give it to a machine. Give the BMC an address outside the range, or shorten the range.", addr, n.Address, n.DHCP.Range("range"))...)
				}
			}
		}
	}
	// After all declared MACs, so that the complaint is about the emulated port.
	for _, m := range s.Machines {
		if m.Rack == nil {
			continue
		}
		for i, nic := range m.Rack.NICs {
			if nic.MAC.IsZero() || i == 0 && nic.MAC == m.MAC {
				continue
			}
			c.take("mac "+nic.MAC.String(), "the MAC "+nic.MAC.String(), m.Address, nic.Range("mac"), "MAC used twice", "A MAC names one port.")
		}
		if first := m.Rack.NICs[0].MAC; !m.MAC.IsZero() && first != m.MAC && !hasMAC(m.Rack.NICs, m.MAC) {
			c.diags = append(c.diags, failure("Rack contradicts the machine", m.Rack.NICs[0].at("mac"), "None of the emulated ports has the MAC %s that %s declares, so the machine would never be found.", m.MAC, m.Address)...)
		}
	}
	return c.diags
}

func hasMAC(nics []RackNIC, mac inventory.MAC) bool {
	for _, n := range nics {
		if n.MAC == mac {
			return true
		}
	}
	return false
}

// bmcKey is what tells two BMCs apart, and the host. One host on the default
// ports of two protocols is one BMC; paths tell the nodes of a chassis apart.
func bmcKey(b *BMC) (key, host string) {
	switch b.Driver {
	case BMCRedfish:
		u, err := url.Parse(b.Address)
		if err != nil {
			return "", ""
		}
		key, host = strings.ToLower(u.Hostname()), u.Hostname()
		if p := u.Port(); p != "" && p != "443" {
			key = net.JoinHostPort(key, p)
		}
		return key + strings.TrimSuffix(u.Path, "/"), host
	case BMCIPMI:
		host, port, err := net.SplitHostPort(b.Address)
		if err != nil {
			return strings.ToLower(b.Address), b.Address
		}
		if port == "623" {
			return strings.ToLower(host), host
		}
		return strings.ToLower(net.JoinHostPort(host, port)), host
	}
	return "", ""
}
