package probe

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"path"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/probe/lldp"
)

// Linked names the physical Ethernet ports that are up and have a link, sorted:
// those on which a neighbor can be heard.
func Linked(src Source) []string {
	m := &machine{src: src, fs: src.FS}
	entries, err := fs.ReadDir(m.fs, netDir)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		// A port that is not up has no carrier that could be read.
		if m.isPort(e.Name()) && m.text(netDir, e.Name(), "carrier") == "1" {
			out = append(out, e.Name())
		}
	}
	return out
}

// Remembers reports whether systemd-networkd knows what a port is connected to, so
// that nobody need listen for it.
func Remembers(src Source, port string) bool {
	m := &machine{src: src, fs: src.FS}
	return m.remembered(port) != nil
}

// Neighbors reads only what the machine's ports are connected to.
func Neighbors(ctx context.Context, src Source) ([]inventory.Neighbor, error) {
	m := &machine{src: src, fs: src.FS}
	var facts inventory.Facts
	err := m.ports(ctx, &facts)
	return facts.Neighbors, errors.Join(err, m.neighbors(ctx, &facts))
}

// neighbors reads what the ports are connected to. What is heard now counts before
// what somebody heard a while ago.
func (m *machine) neighbors(ctx context.Context, facts *inventory.Facts) error {
	var errs []error
	denied := false
	for _, nic := range facts.NICs {
		var heard []inventory.Neighbor
		var err error
		if m.src.Heard != nil {
			heard, err = m.src.Heard(ctx, nic.Name)
		}
		if len(heard) == 0 {
			heard = m.remembered(nic.Name)
		}
		// Who may not listen may not on any port, and needs to hear that once.
		forbidden := errors.Is(err, fs.ErrPermission)
		if len(heard) == 0 && err != nil && !(forbidden && denied) {
			errs = append(errs, err)
		}
		denied = denied || forbidden
		for _, n := range heard {
			n.MAC = nic.MAC
			facts.Neighbors = append(facts.Neighbors, n)
		}
	}
	return errors.Join(errs...)
}

// Bounds of what systemd-networkd remembers of a port.
const (
	maxRemembered      = 16
	maxRememberedBytes = 2048
)

// remembered is what systemd-networkd heard on a port and takes for true still. It
// keeps the frames of each port in a file named by the port's number, each with its
// length before it as 64 bits, little end first (link_lldp_save in systemd's
// networkd-lldp-rx.c), and writes the file anew whenever one comes. A file that is
// older than a frame's time to live was left behind. Of several senders some may be
// there no more, as after a cable was moved at the far end of a hub: then only
// listening tells, and nothing is said.
func (m *machine) remembered(port string) []inventory.Neighbor {
	name := path.Join("run/systemd/netif/lldp", m.text(netDir, port, "ifindex"))
	info, err := fs.Stat(m.fs, name)
	if err != nil || !info.Mode().IsRegular() {
		return nil
	}
	rest, err := m.file(name)
	if err != nil {
		return nil
	}
	age := m.now().Sub(info.ModTime())
	var out []inventory.Neighbor
	for len(rest) >= 8 && len(out) < maxRemembered {
		size := binary.LittleEndian.Uint64(rest)
		if rest = rest[8:]; size > maxRememberedBytes || size > uint64(len(rest)) {
			break
		}
		if a, err := lldp.Parse(rest[:size]); err == nil && age < a.Lifetime {
			out = append(out, a.Neighbor)
		}
		rest = rest[size:]
	}
	if len(out) != 1 {
		return nil
	}
	return out
}

func (m *machine) now() time.Time {
	if m.src.Now != nil {
		return m.src.Now()
	}
	return time.Now()
}
