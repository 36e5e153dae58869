// Package probe gathers the facts of the machine that it runs on.
//
// Everything is read through an fs.FS rooted at the machine's "/" and a few
// small readers for what only an ioctl tells, so that a capture of another
// machine can be probed as well. A part that cannot be read leaves its facts
// absent and does not take the others with it.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// Source is where facts are read from.
type Source struct {
	// FS is the machine's root directory: proc, sys and dev are read. It
	// implements fs.ReadLinkFS. Required.
	FS fs.FS
	// Disk opens a disk by kernel name for reading its signatures; nil reads
	// dev/NAME of FS.
	Disk func(name string) (DiskReader, error)
	// Port asks a network port's driver; nil leaves what only it knows absent.
	Port func(name string) (Port, error)
	// BMC asks the machine's own BMC, within a bound of its own; nil, and an
	// error for which errors.Is(err, fs.ErrNotExist) holds, mean that there
	// is none to be asked.
	BMC func(ctx context.Context) (inventory.BMCFacts, error)
	// Heard tells what a port is connected to, as far as it is heard by LLDP; it may
	// wait, for all ports together. Nil hears nothing, and what systemd-networkd
	// heard counts alone.
	Heard func(ctx context.Context, port string) ([]inventory.Neighbor, error)
	// Boot is the port that the machine netbooted through, if it is known.
	Boot inventory.MAC
	// Architecture is in GOARCH form; empty means this program's.
	Architecture string
	// Container says that the programs of FS share the kernel of a host, whose
	// sysfs they see. What names the host is then left absent, because it would
	// be taken for the same machine as its other containers, and disks are only
	// those that the container was given in its dev, loop devices among them.
	Container bool
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// DiskReader reads a disk.
type DiskReader interface {
	io.ReaderAt
	io.Closer
}

// Port is what a network port's driver says of it.
type Port struct {
	// PermanentMAC is the address in the port's own memory, zero when the
	// driver does not tell.
	PermanentMAC inventory.MAC
	// MaxSpeedMbs is the greatest speed the port supports, in megabits per
	// second, 0 when the driver does not tell.
	MaxSpeedMbs int
}

// maxFileBytes bounds every file that is read whole.
const maxFileBytes = 1 << 20

// Collect gathers the machine's facts. It returns what could be read, together
// with an error that joins what could not.
func Collect(ctx context.Context, src Source) (inventory.Facts, error) {
	m := &machine{src: src, fs: src.FS}
	facts := inventory.Facts{SchemaVersion: inventory.SchemaVersion}
	var errs []error
	for _, part := range []struct {
		name string
		read func(context.Context, *inventory.Facts) error
	}{
		{"kernel", m.kernel},
		{"firmware", m.firmware},
		{"CPU", m.cpu},
		{"memory", m.memory},
		// SMBIOS comes after what it completes.
		{"SMBIOS", m.smbios},
		{"disks", m.disks},
		{"network ports", m.ports},
		{"PCI", m.pci},
		{"TPM", m.tpm},
		{"BMC", m.bmc},
		// Last, for as long as the others take they are heard.
		{"neighbors", m.neighbors},
	} {
		if err := ctx.Err(); err != nil {
			return facts, errors.Join(append(errs, err)...)
		}
		if err := part.read(ctx, &facts); err != nil {
			errs = append(errs, fmt.Errorf("reading the facts of the %s: %w", part.name, err))
		}
	}
	return facts, errors.Join(errs...)
}

// machine is a Source with its readers.
type machine struct {
	src Source
	fs  fs.FS
}

// text reads a small file of one value; empty when it cannot be read, as many
// attributes of sysfs cannot on one machine or another.
func (m *machine) text(elem ...string) string {
	raw, err := m.file(path.Join(elem...))
	if err != nil {
		return ""
	}
	return printable(string(raw))
}

// number is text as a non-negative integer; ok is false when it is none.
func (m *machine) number(elem ...string) (n int64, ok bool) {
	n, err := strconv.ParseInt(m.text(elem...), 10, 64)
	return n, err == nil && n >= 0
}

func (m *machine) file(name string) ([]byte, error) {
	f, err := m.fs.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxFileBytes))
}

func (m *machine) exists(name string) bool {
	_, err := fs.Stat(m.fs, name)
	return err == nil
}

// link is the last element of what a symbolic link points to.
func (m *machine) link(elem ...string) string {
	target := m.target(elem...)
	if target == "" {
		return ""
	}
	return path.Base(target)
}

// target is what a symbolic link says, empty when it is none.
func (m *machine) target(elem ...string) string {
	target, err := fs.ReadLink(m.fs, path.Join(elem...))
	if err != nil {
		return ""
	}
	return target
}

// printable drops what firmware pads its strings with, and what has no place in
// a document that is shown to people.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r == 0xfffd {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, " "))
	if len(s) > 1024 {
		s = strings.ToValidUTF8(s[:1024], "")
	}
	return strings.Join(strings.Fields(s), " ")
}

func (m *machine) kernel(_ context.Context, facts *inventory.Facts) error {
	if release := m.text("proc/sys/kernel/osrelease"); release != "" {
		facts.Kernel = &inventory.Kernel{Release: release}
	}
	return nil
}

// secureBoot is the UEFI variable of UEFI 2.10 section 3.3; efivarfs puts four
// bytes of attributes before the value.
const secureBoot = "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"

func (m *machine) firmware(_ context.Context, facts *inventory.Facts) error {
	if !m.exists("sys/firmware/efi") {
		facts.Firmware = &inventory.Firmware{Mode: "bios"}
		return nil
	}
	facts.Firmware = &inventory.Firmware{Mode: "uefi"}
	raw, err := m.file(secureBoot)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(raw) != 5 {
		return fmt.Errorf("the SecureBoot variable has %d bytes; want 5", len(raw))
	}
	on := raw[4] == 1
	facts.Firmware.SecureBoot = &on
	return nil
}

func (m *machine) architecture() string {
	if m.src.Architecture != "" {
		return m.src.Architecture
	}
	return runtime.GOARCH
}

func (m *machine) tpm(_ context.Context, facts *inventory.Facts) error {
	if !m.exists("sys/class/tpm/tpm0") {
		return nil
	}
	switch major := m.text("sys/class/tpm/tpm0/tpm_version_major"); major {
	case "2":
		facts.TPM = &inventory.TPM{Version: "2.0"}
	case "1", "":
		// Kernels before 5.6 have no such file, and 1.2 devices a "caps" one.
		if major == "1" || m.exists("sys/class/tpm/tpm0/device/caps") {
			facts.TPM = &inventory.TPM{Version: "1.2"}
		}
	}
	return nil
}

func (m *machine) bmc(ctx context.Context, facts *inventory.Facts) error {
	if m.src.BMC == nil {
		return nil
	}
	found, err := m.src.BMC(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if found != (inventory.BMCFacts{}) {
		facts.BMC = &found
	}
	return err
}
