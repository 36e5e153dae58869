package site

import (
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// defaultLease is long enough for the longest installation and short enough
// that a pool recovers within a day.
const defaultLease = time.Hour

var (
	siteShape = shape{
		attributes: []string{"labels", "required_version", "stack", "stack_allow", "trusted_keys"},
		blocks:     map[string]int{"user": 1},
	}
	networkShape = shape{
		attributes: []string{"interface", "gateway", "dns", "ntp", "domain", "unknown"},
		required:   []string{"cidr"},
		blocks:     map[string]int{"dhcp": 0},
		single:     []string{"dhcp"},
	}
	dhcpShape = shape{attributes: []string{"mode", "range", "lease"}}
	userShape = shape{attributes: []string{"authorized_keys", "sudo"}}
)

// decodeSite decodes the site block into the site being built, and gives what
// site.* refers to.
func (e *evaluator) decodeSite() cty.Value {
	block := e.m.site
	if block == nil {
		return cty.DynamicVal // said where it was looked for
	}
	d := e.open(block, scope{}, siteShape)
	s := e.built
	s.Decl = d.decl
	s.Name = block.Labels[0]
	if !validHostname(s.Name) {
		e.add(failure("Invalid name", block.LabelRanges[0].Ptr(),
			"%q is not a valid site name: it is an RFC 1123 label, which has lower-case letters, digits and dashes, starts and ends with a letter or digit, and has at most 63 characters.", clip(s.Name)))
	}
	s.Labels = d.labels("labels")
	d.versions(s)
	s.Users = d.users(nil)
	labels := make(map[string]cty.Value)
	for k, v := range s.Labels {
		labels[k] = cty.StringVal(v)
	}
	return cty.ObjectVal(map[string]cty.Value{"name": cty.StringVal(s.Name), "labels": cty.ObjectVal(labels)})
}

// users reads the user blocks of a body and adds them to those it starts with;
// a user of the same name is replaced.
func (d *decoder) users(start []User) []User {
	out := append([]User(nil), start...)
	seen := make(map[string]hcl.Range)
	for _, block := range d.content.Blocks.OfType("user") {
		u := d.nested(block, userShape)
		user := User{Decl: u.decl, Name: block.Labels[0], AuthorizedKeys: u.texts("authorized_keys"), Sudo: u.flag("sudo")}
		if first, ok := seen[user.Name]; ok {
			d.e.add(failure("Duplicate block", block.DefRange.Ptr(), "The user %q is already declared at %s.", user.Name, first))
			continue
		}
		seen[user.Name] = block.DefRange
		if !userPattern.MatchString(user.Name) {
			d.e.add(failure("Invalid name", block.LabelRanges[0].Ptr(), "%q is not a valid user name: it starts with a lower-case letter or underscore, and has lower-case letters, digits, underscores and dashes, at most 32 of them.", clip(user.Name)))
		}
		for _, key := range user.AuthorizedKeys {
			if why := checkAuthorizedKey(key); why != "" {
				u.fail("authorized_keys", "Invalid SSH key", "%s", why)
			}
		}
		replaced := false
		for i := range out {
			if out[i].Name == user.Name {
				out[i], replaced = user, true
			}
		}
		if !replaced {
			out = append(out, user)
		}
	}
	return out
}

// decodeNetwork decodes one instance of a network block.
func (e *evaluator) decodeNetwork(t *thing, each eachValue) cty.Value {
	d := e.open(t.block, scope{each: each}, networkShape)
	n := &Network{
		Decl: d.decl, Address: instanceAddress(t.address(), each), Name: t.name, Key: each.text,
		Interface: d.text("interface", ""),
		Gateway:   d.address("gateway"), DNS: d.addresses("dns"), NTP: d.addresses("ntp"),
		Domain:  d.text("domain", ""),
		Unknown: UnknownPolicy(d.choice("unknown", string(UnknownIgnore), string(UnknownIgnore), string(UnknownDiscover))),
		DHCP:    DHCP{Decl: Decl{DeclRange: d.decl.DeclRange}, Mode: DHCPServer, Lease: defaultLease},
	}
	n.CIDR = d.prefix("cidr")
	if !d.has("interface") {
		d.fail("interface", "Missing required argument", "A network names the interface of this host that is on it, such as interface = \"eth1\".")
	} else if len(n.Interface) > 15 || n.Interface != "" && strings.ContainsAny(n.Interface, "/ \t\n:") {
		d.fail("interface", "Invalid interface name", "%q cannot be the name of a Linux interface: it has at most 15 characters, and no slash, colon or blank.", clip(n.Interface))
	}
	if n.Domain != "" && !validDomain(n.Domain) {
		d.fail("domain", "Invalid domain", "%q is not a domain name such as store.example.", clip(n.Domain))
	}
	for _, block := range d.content.Blocks.OfType("dhcp") {
		n.DHCP = d.nested(block, dhcpShape).dhcp()
	}
	e.built.Networks = append(e.built.Networks, n)
	e.byID[n.Address] = n
	return networkValue(n)
}

// dhcp reads a dhcp block.
func (d *decoder) dhcp() DHCP {
	dhcp := DHCP{
		Decl:  d.decl,
		Mode:  DHCPMode(d.choice("mode", string(DHCPServer), string(DHCPServer), string(DHCPProxy), string(DHCPOff))),
		Lease: d.duration("lease", defaultLease, 2*time.Minute, 30*24*time.Hour),
	}
	text := d.text("range", "")
	if text == "" {
		return dhcp
	}
	if dhcp.Mode != DHCPServer {
		d.fail("range", "Range without server", "A range is given out by mode = \"server\" only; with %q the addresses come from another server. Remove the range or change the mode.", dhcp.Mode)
		return dhcp
	}
	first, last, ok := strings.Cut(text, "-")
	if !ok {
		d.fail("range", "Invalid range", "%q is not a range of addresses such as 172.22.0.100-172.22.0.199.", clip(text))
		return dhcp
	}
	dhcp.First, dhcp.Last = d.parseAddress("range", strings.TrimSpace(first)), d.parseAddress("range", strings.TrimSpace(last))
	if dhcp.First.IsValid() && dhcp.Last.IsValid() && dhcp.Last.Less(dhcp.First) {
		d.fail("range", "Invalid range", "The range ends with %s, before its start %s. Exchange them.", dhcp.Last, dhcp.First)
		dhcp.First, dhcp.Last = netip.Addr{}, netip.Addr{}
	}
	if !dhcp.First.IsValid() || !dhcp.Last.IsValid() {
		dhcp.First, dhcp.Last = netip.Addr{}, netip.Addr{}
	}
	return dhcp
}

// prefix reads an IPv4 network.
func (d *decoder) prefix(name string) netip.Prefix {
	s := d.text(name, "")
	if s == "" {
		return netip.Prefix{}
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		d.fail(name, "Invalid network", "%q is not an IPv4 network such as 172.22.0.0/24.", clip(s))
	case !p.Addr().Is4():
		d.fail(name, "IPv6 not supported", "%q is an IPv6 network. This version provisions over IPv4 only.", clip(s))
	case p != p.Masked():
		d.fail(name, "Invalid network", "%q has bits set beyond its prefix length. The network is %q.", clip(s), p.Masked())
	case p.Bits() > 30 || p.Bits() < 8:
		d.fail(name, "Invalid network", "%q has a prefix length of %d; it must be from 8 to 30, to leave room for hosts.", clip(s), p.Bits())
	default:
		return p
	}
	return netip.Prefix{}
}

// networkType is the type of a reference to a network.
var networkType = cty.Object(map[string]cty.Type{
	"id": cty.String, "kind": cty.String, "name": cty.String, "key": cty.String, "interface": cty.String, "cidr": cty.String,
	"gateway": cty.String, "dns": cty.List(cty.String), "ntp": cty.List(cty.String), "domain": cty.String,
})

// networkValue is what network.NAME refers to.
func networkValue(n *Network) cty.Value {
	cidr := cty.UnknownVal(cty.String) // an error was reported
	if n.CIDR.IsValid() {
		cidr = cty.StringVal(n.CIDR.String())
	}
	return cty.ObjectVal(map[string]cty.Value{
		"id": cty.StringVal(n.Address), "kind": cty.StringVal(kindNetwork), "name": cty.StringVal(n.Name), "key": cty.StringVal(n.Key),
		"interface": cty.StringVal(n.Interface), "cidr": cidr,
		"gateway": addrValue(n.Gateway), "dns": addrsValue(n.DNS), "ntp": addrsValue(n.NTP),
		"domain": textValue(n.Domain),
	})
}

// textValue is null for an empty string.
func textValue(s string) cty.Value {
	if s == "" {
		return cty.NullVal(cty.String)
	}
	return cty.StringVal(s)
}

// addrValue is null for the zero address.
func addrValue(a netip.Addr) cty.Value {
	if !a.IsValid() {
		return cty.NullVal(cty.String)
	}
	return cty.StringVal(a.String())
}

func addrsValue(addrs []netip.Addr) cty.Value {
	if len(addrs) == 0 {
		return cty.ListValEmpty(cty.String)
	}
	var out []cty.Value
	for _, a := range addrs {
		out = append(out, cty.StringVal(a.String()))
	}
	return cty.ListVal(out)
}
