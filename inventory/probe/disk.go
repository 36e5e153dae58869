package probe

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/edge-provision/edge-provision/inventory"
)

// notDisks are block devices that no image is written to: software, optical and
// floppy drives, volumes of Portworx, which sysfs writes with a "!" for the slash in
// their names, and the boot and secure areas of eMMC.
var notDisks = regexp.MustCompile(`^(loop|ram|zram|dm-|md|sr|fd|nbd|zd|drbd|rbd|nullb|bcache)[0-9]|^pxd!|^mmcblk[0-9]+(boot[0-9]+|rpmb)$`)

// Places of block devices below sys/devices that are no disks of this machine.
var (
	// What the kernel makes up of other devices, of memory or of the network has
	// nothing above it.
	madeUp = regexp.MustCompile(`(^|/)devices/virtual/`)
	// So has the one device that stands for all paths to a namespace of NVMe. See
	// remoteNVMe.
	nvmeHead = regexp.MustCompile(`(^|/)devices/virtual/nvme-subsystem/`)
	// Disks of an iSCSI session are another machine's.
	iSCSI = regexp.MustCompile(`/session[0-9]+/target`)
	// A controller of NVMe beside the device that stands for its namespaces.
	nvmeController = regexp.MustCompile(`^nvme[0-9]+$`)
)

// Disks reads only the machine's disks: what a writer checks again right before
// it writes.
func Disks(ctx context.Context, src Source) ([]inventory.Disk, error) {
	m := &machine{src: src, fs: src.FS}
	var facts inventory.Facts
	err := m.disks(ctx, &facts)
	return facts.Disks, err
}

// disks reads the disks, sorted by name. A disk whose content cannot be read is
// listed with the signature "unreadable", so that nobody takes it for a blank one.
func (m *machine) disks(ctx context.Context, facts *inventory.Facts) error {
	const dir = "sys/block"
	entries, err := fs.ReadDir(m.fs, dir)
	if err != nil {
		return err
	}
	facts.Disks = []inventory.Disk{} // looked at, also when there are none
	var errs []error
	for _, e := range entries {
		name := e.Name()
		if m.src.Container {
			if !m.given(name) {
				continue
			}
		} else if notDisks.MatchString(name) || m.elsewhere(name) || m.text(dir, name, "hidden") == "1" || m.text(dir, name, "removable") == "1" {
			continue
		}
		sectors, ok := m.number(dir, name, "size")
		if !ok || sectors == 0 || sectors > 1<<53 {
			continue
		}
		if err := ctx.Err(); err != nil {
			facts.Disks = nil // the others were not looked at
			return errors.Join(append(errs, err)...)
		}
		disk := m.disk(name)
		disk.Bytes = sectors * 512 // always 512, whatever the disk's own sector
		if err := m.content(&disk); err != nil {
			disk.Signatures = []string{"unreadable"}
			errs = append(errs, fmt.Errorf("reading disk %s: %w", name, err))
		}
		facts.Disks = append(facts.Disks, disk)
	}
	return errors.Join(errs...)
}

// elsewhere reports whether a block device has no hardware of this machine behind
// it: it is made up by the kernel, as volumes of cluster storage are, or its disk is
// another machine's. Such devices come and go with what the machine works for.
func (m *machine) elsewhere(name string) bool {
	at := m.target("sys/block", name)
	switch {
	case nvmeHead.MatchString(at):
		return m.remoteNVMe(path.Dir(path.Join("sys/block", at)))
	case madeUp.MatchString(at):
		return true
	}
	return iSCSI.MatchString(at)
}

// remoteNVMe reports whether all controllers of an NVMe subsystem are reached over a
// network. Of Fibre Channel, whose disks belong to a machine as those of SAS do, and
// of what does not tell it is not said.
func (m *machine) remoteNVMe(subsystem string) bool {
	entries, err := fs.ReadDir(m.fs, subsystem)
	if err != nil {
		return false
	}
	remote := false
	for _, e := range entries {
		if !nvmeController.MatchString(e.Name()) {
			continue
		}
		switch m.text(subsystem, e.Name(), "transport") {
		case "tcp", "rdma", "loop":
			remote = true
		default:
			return false
		}
	}
	return remote
}

// given reports whether a container was given a disk: its node is there. A loop
// device is what a container is given for a disk when it is to have one of its
// own.
func (m *machine) given(name string) bool {
	return (strings.HasPrefix(name, "loop") || !notDisks.MatchString(name)) && m.exists(path.Join("dev", name))
}

func (m *machine) disk(name string) inventory.Disk {
	dir := path.Join("sys/block", name)
	at := m.target(dir)
	disk := inventory.Disk{
		Name: name, Bus: m.bus(at), Path: m.busPath(at),
		Vendor: m.text(dir, "device/vendor"), Model: m.text(dir, "device/model"),
	}
	if file := m.text(dir, "loop/backing_file"); file != "" {
		disk.Bus, disk.Path = "loop", "loop-"+file
	}
	disk.FirmwareRev = m.text(dir, "device/firmware_rev") // NVMe
	if disk.FirmwareRev == "" {
		disk.FirmwareRev = m.text(dir, "device/rev") // SCSI
	}
	// Of a virtio disk and of NVMe the vendor is a PCI id, and "ATA" is the
	// name of the translation, not of a maker.
	if strings.HasPrefix(disk.Vendor, "0x") || disk.Vendor == "ATA" {
		disk.Vendor = ""
	}
	if n, ok := m.number(dir, "queue/logical_block_size"); ok {
		disk.LogicalBlock = int(n)
	}
	if n, ok := m.number(dir, "queue/physical_block_size"); ok {
		disk.PhysicalBlock = int(n)
	}
	if n, ok := m.number(dir, "queue/rotational"); ok {
		rotational := n == 1
		// A virtual disk says "rotational" because it does not know.
		if disk.Bus != "virtio" {
			disk.Rotational = &rotational
		}
	}
	disk.Serial = m.serial(dir)
	disk.WWN = m.wwn(dir)
	disk.ByID = byID(disk)
	return disk
}

// serial tries the places where drivers put the serial number.
func (m *machine) serial(dir string) string {
	for _, name := range []string{"serial", "device/serial", "device/cid"} {
		if s := m.text(dir, name); s != "" {
			return s
		}
	}
	// SCSI vital product data page 80h, SPC-4 section 7.8.13: a header of four
	// bytes, the last two of which are the length of the serial number.
	page, err := m.file(path.Join(dir, "device/vpd_pg80"))
	if err != nil || len(page) < 4 {
		return ""
	}
	length := min(int(page[2])<<8|int(page[3]), len(page)-4)
	return printable(string(page[4 : 4+length]))
}

// wwn is the world-wide name, if the disk has a real one: the t10 form that
// translated ATA disks show is but vendor, model and serial again.
func (m *machine) wwn(dir string) string {
	for _, name := range []string{"wwid", "device/wwid"} {
		w := m.text(dir, name)
		for _, prefix := range []string{"naa.", "eui.", "nvme.", "uuid."} {
			if strings.HasPrefix(w, prefix) {
				return w
			}
		}
	}
	return ""
}

// byID is the disk's name in /dev/disk/by-id, as systemd's 60-persistent-
// storage.rules make it.
func byID(d inventory.Disk) string {
	escape := func(s string) string { return strings.ReplaceAll(s, " ", "_") }
	switch {
	case strings.HasPrefix(d.WWN, "naa."):
		return "wwn-0x" + strings.TrimPrefix(d.WWN, "naa.")
	case d.WWN != "":
		return "nvme-" + d.WWN
	case d.Serial == "":
		return ""
	case d.Bus == "virtio":
		return "virtio-" + escape(d.Serial)
	case d.Bus == "sata":
		return "ata-" + escape(d.Model) + "_" + escape(d.Serial)
	}
	return ""
}

// sasDevice marks a path that leads through a SAS transport.
var (
	sasDevice  = regexp.MustCompile(`/(end_device|port)-[0-9:]+/`)
	ataPort    = regexp.MustCompile(`/(ata[0-9]+)/`)
	scsiTarget = regexp.MustCompile(`/[0-9]+:([0-9]+:[0-9]+:[0-9]+)/block/`)
	nvmeName   = regexp.MustCompile(`/nvme[0-9]+(?:c[0-9]+)?n([0-9]+)$`)
)

// bus tells from where a device sits how it is connected.
func (m *machine) bus(at string) string {
	switch {
	case strings.Contains(at, "/nvme"):
		return "nvme"
	case strings.Contains(at, "/usb"):
		return "usb"
	case ataPort.MatchString(at):
		return "sata"
	case sasDevice.MatchString(at):
		return "sas"
	case strings.Contains(at, "/mmc"):
		return "mmc"
	case strings.Contains(at, "/host"):
		return "scsi"
	case strings.Contains(at, "/virtio"):
		return "virtio"
	}
	return ""
}

// busPath names the place that a disk is plugged into, by what does not depend
// on the order in which drivers started.
func (m *machine) busPath(at string) string {
	pci := lastPCI(at)
	if pci == "" {
		return ""
	}
	name := "pci-" + pci
	if port := ataPort.FindStringSubmatch(at); port != nil {
		number := m.text("sys/class/ata_port", port[1], "port_no")
		if number == "" {
			return ""
		}
		return name + "-ata-" + number
	}
	if target := scsiTarget.FindStringSubmatch(at); target != nil {
		return name + "-scsi-" + target[1]
	}
	if namespace := nvmeName.FindStringSubmatch(at); namespace != nil {
		return name + "-nvme-" + namespace[1]
	}
	return name
}

// content reads what is on the disk.
func (m *machine) content(disk *inventory.Disk) error {
	r, err := m.open(disk.Name)
	if err != nil {
		return err
	}
	defer r.Close()
	content, err := ReadContent(r, disk.Bytes)
	if err != nil {
		return err
	}
	disk.Signatures, disk.PartUUIDs = content.Signatures, content.PartUUIDs
	return nil
}

func (m *machine) open(name string) (DiskReader, error) {
	if m.src.Disk != nil {
		return m.src.Disk(name)
	}
	f, err := m.fs.Open(path.Join("dev", name))
	if err != nil {
		return nil, err
	}
	r, ok := f.(DiskReader)
	if !ok {
		f.Close()
		return nil, errors.New("it cannot be read at an offset")
	}
	return r, nil
}

// partSuffix is how the kernel names partition n of a disk.
func partSuffix(disk string, n int) string {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		return disk + "p" + strconv.Itoa(n)
	}
	return disk + strconv.Itoa(n)
}

// Partition is the kernel's name of partition n, counted from 1, of a disk.
func Partition(disk string, n int) string {
	if disk == "" {
		return ""
	}
	return partSuffix(disk, n)
}
