package site

import (
	"fmt"
	"io"
	"net/netip"
	"sort"
	"strings"

	"github.com/zclconf/go-cty/cty"
)

// Print writes everything that was decoded, secrets redacted, one fact a line
// and in a fixed order: equal sites print equally. Defaults are shown, so it is
// also the answer to "what did my site.hcl mean?".
func (s *Site) Print(w io.Writer) error {
	p := &printer{w: w}
	p.block(0, "site %s", s.Name)
	p.texts(1, "labels", pairs(s.Labels))
	p.text(1, "required_version", s.RequiredVersion)
	p.text(1, "stack", s.Stack)
	p.texts(1, "stack_allow", s.StackAllow)
	p.texts(1, "trusted_keys", s.TrustedKeys)
	for _, n := range s.Networks {
		p.network(n)
	}
	for _, i := range s.Images {
		p.image(i)
	}
	for _, m := range s.Machines {
		p.machine(m)
	}
	for _, c := range s.Classes {
		p.class(c)
	}
	for _, wf := range s.Workflows {
		p.block(0, "%s", wf.Address)
		for _, step := range wf.Steps {
			p.step(step)
		}
	}
	for _, o := range s.Outputs {
		p.line(0, "output %s = %s", o.Name, Text(o.Value))
	}
	for _, m := range s.Moved {
		p.line(0, "moved %s -> %s", m.From, m.To)
	}
	return p.err
}

// printer remembers the first error of its writer.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(depth int, format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, strings.Repeat("  ", depth)+format+"\n", args...)
	}
}

func (p *printer) block(depth int, format string, args ...any) { p.line(depth, format, args...) }

func (p *printer) text(depth int, name, value string) {
	if value != "" {
		p.line(depth, "%s = %s", name, value)
	}
}

func (p *printer) texts(depth int, name string, values []string) {
	if len(values) > 0 {
		p.line(depth, "%s = %s", name, strings.Join(values, ", "))
	}
}

func (p *printer) flag(depth int, name string, value bool) {
	if value {
		p.line(depth, "%s = true", name)
	}
}

func pairs(m map[string]string) []string {
	var out []string
	for k, v := range m {
		out = append(out, k+"="+v)
	}
	sort.Strings(out)
	return out
}

func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func addrTexts(addrs []netip.Addr) []string {
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func (p *printer) network(n *Network) {
	p.block(0, "%s", n.Address)
	p.text(1, "interface", n.Interface)
	p.line(1, "cidr = %s", n.CIDR)
	p.text(1, "gateway", addrText(n.Gateway))
	p.texts(1, "dns", addrTexts(n.DNS))
	p.texts(1, "ntp", addrTexts(n.NTP))
	p.text(1, "domain", n.Domain)
	p.line(1, "dhcp %s", n.DHCP.Mode)
	if n.DHCP.First.IsValid() {
		p.line(2, "range = %s-%s", n.DHCP.First, n.DHCP.Last)
	}
	p.line(2, "lease = %s", n.DHCP.Lease)
	p.line(1, "unknown = %s", n.Unknown)
}

func (p *printer) image(i *Image) {
	p.block(0, "%s", i.Address)
	p.text(1, "architecture", i.Architecture)
	if i.Imported() {
		p.text(1, "source", i.Source)
		p.text(1, "digest", i.Digest)
		p.text(1, "format", string(i.Format))
		p.texts(1, "firmware", i.Firmware)
	} else {
		p.line(1, "distribution = %s %s", i.Distribution, i.Release)
		p.line(1, "kernel = %s", i.Kernel)
		p.texts(1, "packages", i.Packages)
		p.texts(1, "kernel_args", i.KernelArgs)
		p.texts(1, "apt_sources", i.APTSources)
	}
	if i.SizeBytes != 0 {
		p.line(1, "size = %d", i.SizeBytes)
	}
}

func (p *printer) machine(m *Machine) {
	p.block(0, "%s", m.Address)
	p.text(1, "hostname", m.Hostname)
	p.texts(1, "labels", pairs(m.Labels))
	p.text(1, "mac", macText(m.MAC))
	if m.Class != nil {
		p.line(1, "match = %s", m.Class.Address)
	} else if m.Match != nil {
		p.line(1, "match = %s", m.Match)
	}
	if m.Network != nil {
		p.text(1, "network", m.Network.Address)
	}
	p.text(1, "address", addrText(m.IP))
	if m.Image != nil {
		p.text(1, "image", m.Image.Address)
	}
	if b := m.BMC; b.Driver == BMCNone {
		p.line(1, "bmc none")
	} else {
		p.line(1, "bmc %s %s as %s, password %s", b.Driver, b.Address, b.Username, b.Password)
		p.flag(2, "ca_cert", b.CACert != "")
		p.text(2, "fingerprint", b.Fingerprint)
		if b.CipherSuite != 0 && b.CipherSuite != defaultCipherSuite {
			p.line(2, "cipher_suite %d", b.CipherSuite)
		}
	}
	for _, r := range m.Require {
		p.line(1, "require %s: %s", r.Condition, r.Message)
	}
	if m.RootDisk.Match != nil || m.RootDisk.Select != "" {
		match := "any disk"
		if m.RootDisk.Match != nil {
			match = m.RootDisk.Match.String()
		}
		p.line(1, "root_disk %s%s", match, map[DiskSelect]string{SelectSmallest: ", smallest"}[m.RootDisk.Select])
	}
	p.flag(1, "wipe", m.Wipe)
	p.flag(1, "console_shell", m.ConsoleShell)
	p.line(1, "boot_timeout = %s", m.BootTimeout)
	for _, u := range m.Users {
		p.line(1, "user %s, %d keys%s", u.Name, len(u.AuthorizedKeys), map[bool]string{true: ", sudo"}[u.Sudo])
	}
	if m.SSH != nil {
		p.line(1, "ssh %s@%s:%d", m.SSH.User, m.SSH.Host, m.SSH.Port)
		p.flag(2, "sudo", m.SSH.Sudo)
		p.text(2, "host_key", m.SSH.HostKey)
	}
	if m.Rack != nil {
		p.rack(m.Rack)
	}
}

func (p *printer) rack(r *Rack) {
	p.line(1, "rack %s, pxe %s, %d CPUs, %d bytes", r.Firmware, r.PXE, r.CPUs, r.MemoryBytes)
	p.texts(2, "boot_order", r.BootOrder)
	p.flag(2, "power_on", r.PowerOn)
	for _, d := range r.Disks {
		p.line(2, "disk %s %d bytes, blocks of %d", d.Bus, d.SizeBytes, d.BlockBytes)
		p.text(3, "serial", d.Serial)
		p.text(3, "source", d.Source)
	}
	for _, n := range r.NICs {
		p.line(2, "nic %s %s", n.Model, macText(n.MAC))
	}
}

func (p *printer) step(s *Step) {
	p.block(1, "step %s", s.Address)
	p.texts(2, "depends_on", s.DependsOn)
	if s.Timeout != 0 {
		p.line(2, "timeout = %s", s.Timeout)
	}
	if s.Retry.Attempts > 1 {
		p.line(2, "retry = %d attempts, backoff %s", s.Retry.Attempts, s.Retry.Backoff)
	}
	if when := Text(s.When); when != "true" {
		p.line(2, "when = %s", when)
	}
	p.line(2, "on_failure = %s", s.OnFailure)
	inputs, _ := s.Inputs.Unmark()
	if inputs.IsNull() || !inputs.CanIterateElements() {
		return
	}
	for it := inputs.ElementIterator(); it.Next(); {
		name, v := it.Element()
		if !v.IsNull() {
			p.line(2, "%s = %s", name.AsString(), Text(v))
		}
	}
}

// Text writes a value as an expression, redacted as Redact does. A reference to
// a machine, network, image or step is written as its address.
func Text(v cty.Value) string {
	var b strings.Builder
	writeText(&b, v)
	return b.String()
}

func writeText(b *strings.Builder, v cty.Value) {
	if v == cty.NilVal {
		b.WriteString("null")
		return
	}
	bare, marks := v.Unmark()
	if _, ok := marks[Sensitive]; ok {
		b.WriteString(redacted)
		return
	}
	if !bare.IsKnown() {
		b.WriteString(afterText(marks))
		return
	}
	if bare.IsNull() {
		b.WriteString("null")
		return
	}
	if id, ok := idOf(bare); ok {
		b.WriteString(id)
		return
	}
	switch t := bare.Type(); {
	case t == cty.String:
		fmt.Fprintf(b, "%q", bare.AsString())
	case t == cty.Number:
		b.WriteString(bare.AsBigFloat().Text('g', 20))
	case t == cty.Bool:
		fmt.Fprint(b, bare.True())
	case !bare.CanIterateElements():
		b.WriteString(t.FriendlyName())
	case t.IsObjectType(), t.IsMapType():
		writeElements(b, bare, marks, "{ ", " }", true)
	default:
		writeElements(b, bare, marks, "[", "]", false)
	}
}

func writeElements(b *strings.Builder, v cty.Value, marks cty.ValueMarks, open, closing string, keys bool) {
	b.WriteString(open)
	first := true
	for it := v.ElementIterator(); it.Next(); {
		k, e := it.Element()
		if !first {
			b.WriteString(", ")
		}
		first = false
		if keys {
			k, _ = k.Unmark()
			fmt.Fprintf(b, "%s = ", k.AsString())
		}
		writeText(b, e.WithMarks(onlyAfter(marks)))
	}
	b.WriteString(closing)
}
