package site

import (
	"encoding/hex"
	"encoding/pem"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/zclconf/go-cty/cty"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
)

// defaultBootTimeout fits real servers: memory training and option ROMs alone
// take more than ten minutes on some.
const defaultBootTimeout = 30 * time.Minute

var (
	machineShape = shape{
		attributes: []string{"mac", "match", "network", "address", "hostname", "image", "labels", "wipe", "console_shell", "boot_timeout"},
		blocks:     map[string]int{"bmc": 0, "require": 0, "root_disk": 0, "user": 1, "ssh": 0, "rack": 0},
		single:     []string{"bmc", "root_disk", "ssh", "rack"},
	}
	bmcShape = shape{
		attributes: []string{"address", "username", "password", "ca_cert", "fingerprint", "cipher_suite"},
		required:   []string{"driver"},
	}
	requireShape  = shape{required: []string{"condition", "message"}}
	rootDiskShape = shape{attributes: []string{"match", "select"}}
	sshShape      = shape{attributes: []string{"host", "port", "user", "sudo", "host_key"}}
)

// decodeMachine decodes one instance of a machine block.
func (e *evaluator) decodeMachine(t *thing, each eachValue) cty.Value {
	d := e.open(t.block, scope{each: each}, machineShape)
	m := &Machine{
		Decl: d.decl, Address: instanceAddress(t.address(), each), Name: t.name, Key: each.text,
		Labels: d.labels("labels"), MAC: d.mac("mac"), IP: d.address("address"),
		Wipe: d.flag("wipe"), ConsoleShell: d.flag("console_shell"),
		BootTimeout: d.duration("boot_timeout", defaultBootTimeout, 10*time.Second, 24*time.Hour),
		BMC:         &BMC{Decl: Decl{DeclRange: d.decl.DeclRange}, Driver: BMCNone},
		RootDisk:    RootDisk{Decl: Decl{DeclRange: d.decl.DeclRange}},
	}
	d.match(m)
	m.Network, _ = d.reference("network", kindNetwork).(*Network)
	m.Image, _ = d.reference("image", kindImage).(*Image)
	e.root().siteValue(d.decl.DeclRange)
	m.Users = d.users(e.built.Users)
	for _, block := range d.content.Blocks {
		switch block.Type {
		case "bmc":
			m.BMC = d.nested(block, bmcShape).bmc()
		case "require":
			r := d.nested(block, requireShape)
			m.Require = append(m.Require, Require{Decl: r.decl, Condition: r.query("condition", query.Machine), Message: r.text("message", "")})
		case "root_disk":
			r := d.nested(block, rootDiskShape)
			m.RootDisk = RootDisk{Decl: r.decl, Match: r.query("match", query.Disk), Select: DiskSelect(r.choice("select", "", string(SelectSmallest)))}
		case "ssh":
			m.SSH = d.nested(block, sshShape).ssh(m.IP)
		}
	}
	d.hostname(m)
	d.identity(m)
	for _, block := range d.content.Blocks.OfType("rack") {
		m.Rack = d.nested(block, rackShape).rack(m.MAC)
	}
	e.built.Machines = append(e.built.Machines, m)
	t.machines = append(t.machines, m)
	e.byID[m.Address] = m
	return machineValue(m, e.known)
}

// match reads how a machine is found among those that were seen: a condition, or
// that of a class.
func (d *decoder) match(m *Machine) {
	attr := d.content.Attributes["match"]
	if attr == nil {
		return
	}
	var named bool
	if m.Class, named = d.classReference(attr); !named {
		m.Match = d.query("match", query.Machine)
	} else if m.Class != nil {
		m.Match = m.Class.Match
	}
}

// hostname reads the hostname, or makes it of the name and the key.
func (d *decoder) hostname(m *Machine) {
	if m.Hostname = d.text("hostname", ""); m.Hostname != "" {
		if !validHostname(m.Hostname) {
			d.fail("hostname", "Invalid hostname", "%q is not a valid hostname: it is an RFC 1123 label, which has lower-case letters, digits and dashes, starts and ends with a letter or digit, and has at most 63 characters.", clip(m.Hostname))
		}
		return
	}
	m.Hostname = m.Name
	if m.Key != "" {
		m.Hostname += "-" + m.Key
	}
	m.Hostname = strings.ToLower(strings.ReplaceAll(m.Hostname, "_", "-"))
	if !validHostname(m.Hostname) {
		d.fail("hostname", "Invalid hostname", "The default hostname of %s would be %q, which is not a valid one (RFC 1123). Give it a hostname.", m.Address, clip(m.Hostname))
	}
}

// identity checks that the machine can be found and that its parts fit.
func (d *decoder) identity(m *Machine) {
	if m.Adopted() {
		for _, name := range []string{"image", "match", "wipe"} {
			if d.any([]string{name}) != "" {
				d.fail(name, "Adopted machine", "A machine with an ssh block is adopted: it is never powered or imaged, so it has no %q. Remove one of them.", name)
			}
		}
		if m.BMC.Driver != BMCNone {
			d.e.add(failure("Adopted machine", m.BMC.DeclRange.Ptr(), "A machine with an ssh block is adopted: it is never powered or imaged, so it has no bmc block."))
		}
		return
	}
	switch mac, match := d.any([]string{"mac"}), d.any([]string{"match"}); {
	case mac != "" && match != "":
		d.fail("match", "Both mac and match", "A machine is found by its mac or by a match, not both.")
	case mac == "" && match == "":
		d.fail("mac", "Missing identity", "%s has neither a mac nor a match, so it cannot be found. Give it mac = \"52:54:00:…\", or match = an expression over facts.", m.Address)
	}
	if d.any([]string{"network"}) == "" {
		d.fail("network", "Missing network", "%s names no network to boot from: network = network.NAME.", m.Address)
	}
	if m.Image == nil && d.any([]string{"image"}) == "" && len(d.content.Blocks.OfType("root_disk")) > 0 {
		d.e.add(failure("Root disk without image", m.RootDisk.DeclRange.Ptr(), "%s has a root_disk but no image to write to it.", m.Address))
	}
}

// bmc reads a bmc block.
func (d *decoder) bmc() *BMC {
	b := &BMC{Decl: d.decl, Address: d.text("address", ""), Username: d.text("username", ""), CACert: d.text("ca_cert", ""), Driver: BMCNone}
	if v, _, ok := d.marked("password", cty.String); ok && !v.IsNull() {
		b.Password = NewSecret(v.AsString())
	}
	driver := d.text("driver", "")
	switch BMCDriver(driver) {
	case BMCRedfish, BMCIPMI:
		b.Driver = BMCDriver(driver)
	case BMCNone:
		for _, name := range bmcShape.attributes {
			if d.any([]string{name}) != "" {
				d.fail(name, "Needless argument", "The driver \"none\" talks to no BMC, so it has no %q.", name)
			}
		}
		return b
	case "amt", "rpc":
		d.fail("driver", "Not supported in this version", "The driver %q is not supported in this version. Use redfish, ipmi, or none and switch the machine on by hand.", driver)
		return b
	default:
		hint := suggest(driver, []string{"redfish", "ipmi", "none"})
		if hint == "" {
			hint = " It is one of redfish, ipmi, none."
		}
		if driver != "" {
			d.fail("driver", "Unknown choice", "%q is not a BMC driver.%s", clip(driver), hint)
		}
		return b
	}
	for _, name := range []string{"address", "username", "password"} {
		if d.any([]string{name}) == "" {
			d.fail(name, "Missing required argument", "A BMC with the driver %q needs %q.", driver, name)
		}
	}
	d.bmcAddress(b)
	d.bmcTrust(b)
	d.bmcCipherSuite(b)
	return b
}

// bmcAddress brings the address to the form that the driver takes.
func (d *decoder) bmcAddress(b *BMC) {
	if b.Address == "" {
		return
	}
	bad := func(form string) {
		d.fail("address", "Invalid BMC address", "%q is not the address of a %s BMC: it is %s.", clip(b.Address), b.Driver, form)
	}
	if b.Driver == BMCIPMI {
		host, port := b.Address, ""
		if h, p, err := net.SplitHostPort(b.Address); err == nil {
			host, port = h, p
		}
		if n, err := strconv.Atoi(port); port != "" && (err != nil || n < 1 || n > 65535) || !validHost(host) {
			bad("a host name or IPv4 address, with an optional port: 172.22.1.12 or 172.22.1.12:623")
		}
		return
	}
	text := b.Address
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || !validHost(u.Hostname()) || u.RawQuery != "" || u.Fragment != "":
		bad("a URL such as https://172.22.1.11")
	case u.User != nil:
		d.fail("address", "Invalid BMC address", "The URL holds a user or a password, and URLs are shown in logs. Put them into username and password.")
	case u.Scheme != "https":
		d.fail("address", "Invalid BMC address", "A Redfish address starts with https://, because the password would be readable on the wire otherwise.")
	default:
		b.Address = strings.TrimSuffix(u.String(), "/")
	}
}

// defaultCipherSuite is the one that IPMI 2.0 demands of every controller.
const defaultCipherSuite = 3

// bmcCipherSuite reads what an IPMI session is protected by.
func (d *decoder) bmcCipherSuite(b *BMC) {
	if b.Driver != BMCIPMI {
		if d.any([]string{"cipher_suite"}) != "" {
			d.fail("cipher_suite", "Needless argument", "Redfish is protected by TLS, so cipher_suite belongs to the ipmi driver only.")
		}
		return
	}
	b.CipherSuite = int(d.integer("cipher_suite", defaultCipherSuite, 0, 255))
	if b.CipherSuite != defaultCipherSuite && b.CipherSuite != 17 {
		d.fail("cipher_suite", "Unknown choice", "%d is not a cipher suite that can be used: it is 3 (SHA-1), the default, or 17 (SHA-256). Others do not encrypt, or do not protect what is sent from being changed.", b.CipherSuite)
	}
}

// bmcTrust reads how the BMC's certificate is trusted.
func (d *decoder) bmcTrust(b *BMC) {
	if b.Driver == BMCIPMI && d.any([]string{"ca_cert", "fingerprint"}) != "" {
		d.fail("ca_cert", "Needless argument", "IPMI has no certificates, so ca_cert and fingerprint belong to the redfish driver only.")
		return
	}
	if b.CACert != "" {
		if block, _ := pem.Decode([]byte(b.CACert)); block == nil || block.Type != "CERTIFICATE" {
			d.fail("ca_cert", "Invalid certificate", "ca_cert is the text of a PEM file, which starts with -----BEGIN CERTIFICATE-----. Where files are allowed, file(\"ca.pem\") reads it.")
		}
	}
	text := d.text("fingerprint", "")
	if text == "" {
		return
	}
	sum := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(strings.ToLower(text), "sha256:"), ":", ""))
	if raw, err := hex.DecodeString(sum); err != nil || len(raw) != 32 {
		d.fail("fingerprint", "Invalid fingerprint", "%q is not the SHA-256 of a certificate: it has 64 hexadecimal digits, with or without colons.", clip(text))
		return
	}
	b.Fingerprint = sum
}

// ssh reads the block of an adopted machine.
func (d *decoder) ssh(address netip.Addr) *SSH {
	s := &SSH{Decl: d.decl, Host: d.text("host", ""), Port: int(d.integer("port", 22, 1, 65535)), User: d.text("user", "root"), Sudo: d.flag("sudo"), HostKey: d.text("host_key", "")}
	if s.Host == "" && address.IsValid() {
		s.Host = address.String()
	}
	if s.Host == "" {
		d.fail("host", "Missing required argument", "The machine has no address, so its ssh block needs a host.")
	} else if !validHost(s.Host) {
		d.fail("host", "Invalid host", "%q is neither a host name nor an IPv4 address.", clip(s.Host))
	}
	if !userPattern.MatchString(s.User) {
		d.fail("user", "Invalid name", "%q is not a valid user name.", clip(s.User))
	}
	if s.HostKey != "" {
		if why := checkAuthorizedKey(s.HostKey); why != "" {
			d.fail("host_key", "Invalid SSH key", "%s", why)
		}
	}
	return s
}

// machineValue is what machine.NAME refers to. What is not declared is unknown
// until the machine was inspected.
func machineValue(m *Machine, known Known) cty.Value {
	const inspection = "inspection"
	seen, inspected := known.Machines[m.Address]
	attrs := map[string]cty.Value{
		"id": cty.StringVal(m.Address), "kind": cty.StringVal(kindMachine), "name": cty.StringVal(m.Name), "key": cty.StringVal(m.Key),
		"hostname": cty.StringVal(m.Hostname), "wipe": cty.BoolVal(m.Wipe),
		"labels":   cty.MapValEmpty(cty.String),
		"network":  cty.NullVal(networkType),
		"image":    cty.NullVal(imageType),
		"mac":      unknownAfter(cty.String, inspection),
		"address":  unknownAfter(cty.String, inspection),
		"host_key": unknownAfter(cty.String, inspection),
		"facts":    unknownAfter(factsType(), inspection),
	}
	if len(m.Labels) > 0 {
		labels := make(map[string]cty.Value)
		for k, v := range m.Labels {
			labels[k] = cty.StringVal(v)
		}
		attrs["labels"] = cty.MapVal(labels)
	}
	if m.Network != nil {
		attrs["network"] = networkValue(m.Network)
	}
	if m.Image != nil {
		attrs["image"] = imageValue(m.Image)
	}
	mac, ip, hostKey := m.MAC, "", seen.HostKey
	if mac.IsZero() {
		mac = seen.MAC
	}
	if ip = seen.IP; m.IP.IsValid() {
		ip = m.IP.String()
	}
	if m.Adopted() {
		if !m.IP.IsValid() {
			ip = m.SSH.Host
		}
		if m.SSH.HostKey != "" {
			hostKey = m.SSH.HostKey
		}
	}
	for name, text := range map[string]string{"mac": macText(mac), "address": ip, "host_key": hostKey} {
		if text != "" {
			attrs[name] = cty.StringVal(text)
		}
	}
	if inspected && seen.Facts != nil {
		attrs["facts"] = factsValue(seen.Facts)
	}
	return cty.ObjectVal(attrs)
}

func macText(m inventory.MAC) string {
	if m.IsZero() {
		return ""
	}
	return m.String()
}
