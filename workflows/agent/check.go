package agent

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
)

// Check says what is wrong with a task, before it is sent and again when it
// arrives.
func (t Task) Check() error {
	switch {
	case t.ID == "" || len(t.ID) > 256:
		return errors.New("a task's id has 1 to 256 bytes")
	case t.Attempt < 1:
		return fmt.Errorf("attempt is %d; attempts count from 1", t.Attempt)
	}
	specs := 0
	for _, set := range []bool{t.Hold != nil, t.Wipe != nil, t.Write != nil, t.Configure != nil} {
		if set {
			specs++
		}
	}
	missing := fmt.Errorf("a task of kind %q carries exactly its own specification", t.Kind)
	switch t.Kind {
	case KindFacts, KindReboot, KindPoweroff:
		if specs != 0 {
			return missing
		}
	case KindHold:
		if specs > 1 || specs == 1 && t.Hold == nil {
			return missing
		}
	case KindWipe:
		if specs != 1 || t.Wipe == nil {
			return missing
		}
		return t.Wipe.check()
	case KindWrite:
		if specs != 1 || t.Write == nil {
			return missing
		}
		return t.Write.check()
	case KindConfigure:
		if specs != 1 || t.Configure == nil {
			return missing
		}
		return t.Configure.check()
	default:
		return fmt.Errorf("unknown kind %q", t.Kind)
	}
	return nil
}

func (d DiskRef) check() error {
	if d.Bytes <= 0 {
		return errors.New("a disk's size in bytes is required")
	}
	if d.WWN == "" && d.Serial == "" && d.ByPath == "" {
		return errors.New("a disk is named by its wwn, serial or bus path")
	}
	return nil
}

func (w *Wipe) check() error {
	if len(w.Disks) == 0 {
		return errors.New("a wipe names at least one disk")
	}
	for _, d := range w.Disks {
		if err := d.Disk.check(); err != nil {
			return err
		}
	}
	return nil
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func (w *Write) check() error {
	if !digestForm.MatchString(w.Image) {
		return fmt.Errorf("image %q is not a digest: want sha256: and 64 hexadecimal digits", w.Image)
	}
	if w.ManifestText != "" && !digestForm.MatchString(w.ManifestText) {
		return fmt.Errorf("manifest %q is not a digest: want sha256: and 64 hexadecimal digits", w.ManifestText)
	}
	if w.ManifestURL == "" || w.FramesURL == "" {
		return errors.New("a write needs the addresses of the image's manifest and frames")
	}
	return w.Disk.check()
}

// hostLabel is a DNS label (RFC 1123 section 2.1); userName what useradd(8)
// accepts.
var (
	hostLabel = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	userName  = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	shellForm = regexp.MustCompile(`^/[A-Za-z0-9_./-]{1,128}$`)
)

func checkDomain(s string) error {
	if len(s) > 253 {
		return fmt.Errorf("name %q is longer than 253 bytes", s[:64]+"…")
	}
	for label := range strings.SplitSeq(s, ".") {
		if !hostLabel.MatchString(label) {
			return fmt.Errorf("%q is not a host name: want labels of lower-case letters, digits and hyphens", s)
		}
	}
	return nil
}

// oneLine refuses what would add lines or fields to a file of lines.
func oneLine(what, s string) error {
	for _, r := range s {
		if r < 0x20 || r == 0x7f {
			return fmt.Errorf("%s %q holds a control character", what, s)
		}
	}
	return nil
}

func (c *Configure) check() error {
	errs := []error{c.Disk.check(), checkDomain(c.Hostname), c.Network.check()}
	if c.Domain != "" {
		errs = append(errs, checkDomain(c.Domain))
	}
	for _, h := range c.Hosts {
		_, err := netip.ParseAddr(h.Address)
		errs = append(errs, err)
		for _, n := range h.Names {
			errs = append(errs, checkDomain(n))
		}
	}
	for _, n := range c.NTP {
		errs = append(errs, checkHost("NTP server", n))
	}
	for _, k := range c.RootKeys {
		errs = append(errs, oneLine("key", k))
	}
	for _, u := range c.Users {
		if !userName.MatchString(u.Name) {
			errs = append(errs, fmt.Errorf("user name %q: want a lower-case letter, then up to 31 letters, digits, - and _", u.Name))
		}
		if u.Shell != "" && !shellForm.MatchString(u.Shell) {
			errs = append(errs, fmt.Errorf("shell %q of user %s is not an absolute path", u.Shell, u.Name))
		}
		for _, k := range u.Keys {
			errs = append(errs, oneLine("key", k))
		}
	}
	return errors.Join(errs...)
}

func checkHost(what, s string) error {
	if _, err := netip.ParseAddr(s); err == nil {
		return nil
	}
	if err := checkDomain(s); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

func (n NetworkConfig) check() error {
	var errs []error
	if n.MAC.IsZero() {
		errs = append(errs, errors.New("the network needs the MAC of its port"))
	}
	if !n.DHCP {
		if _, err := netip.ParsePrefix(n.Address); err != nil {
			errs = append(errs, fmt.Errorf("address %q: want an address with its prefix length, such as 172.22.0.11/24", n.Address))
		}
	}
	if n.Gateway != "" {
		_, err := netip.ParseAddr(n.Gateway)
		errs = append(errs, err)
	}
	for _, d := range n.DNS {
		_, err := netip.ParseAddr(d)
		errs = append(errs, err)
	}
	for _, d := range n.Search {
		errs = append(errs, checkDomain(d))
	}
	if n.MTU != 0 && (n.MTU < 576 || n.MTU > 9216) {
		errs = append(errs, fmt.Errorf("MTU %d: want 576 to 9216", n.MTU))
	}
	return errors.Join(errs...)
}
