// Package gpt reads, checks, changes and writes GUID partition tables (UEFI specification 2.10 section 5.3) on disks
// with 512- or 4096-byte sectors. The image builder lays images out with it; the agent gives a written disk GUIDs of
// its own and grows its last partition. The protective MBR is kept, boot code included.
//
// The package is a leaf: the agent that runs in the installer imports it too.
package gpt

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"unicode/utf16"
)

const (
	entryBytes     = 128 // size of a partition entry; the specification allows others, nobody writes them
	defaultEntries = 128
	maxEntries     = 1024
	headerBytes    = 92
	nameUnits      = 36 // UTF-16 code units in a partition's name
	bootCodeBytes  = 440
	// AlignBytes is the boundary on which New and Add place partitions.
	AlignBytes = 1 << 20
)

// Partition is one used entry.
type Partition struct {
	Number     int // from 1, as in /dev/sda1 and GRUB's gpt1
	Type       GUID
	GUID       GUID   // PARTUUID
	FirstLBA   uint64 // in sectors
	LastLBA    uint64 // inclusive
	Attributes uint64
	Name       string // PARTLABEL, at most 36 UTF-16 units
}

// Table is a partition table. Partitions are sorted by number.
type Table struct {
	DiskGUID    GUID
	SectorBytes int
	DiskBytes   int64
	Partitions  []Partition

	entries     int
	firstUsable uint64
	lastUsable  uint64
	bootSector  []byte // LBA 0
}

// New makes an empty table for a disk.
func New(diskBytes int64, sectorBytes int) (*Table, error) {
	t := &Table{SectorBytes: sectorBytes, entries: defaultEntries, bootSector: make([]byte, max(sectorBytes, 0))}
	if err := checkGeometry(diskBytes, sectorBytes); err != nil {
		return nil, err
	}
	t.firstUsable = 2 + t.entrySectors()
	if err := t.Resize(diskBytes); err != nil {
		return nil, err
	}
	return t, nil
}

func checkGeometry(diskBytes int64, sectorBytes int) error {
	if sectorBytes != 512 && sectorBytes != 4096 {
		return fmt.Errorf("partition table: sector of %d bytes; want 512 or 4096", sectorBytes)
	}
	if diskBytes < 0 || diskBytes/int64(sectorBytes) < 3 {
		return fmt.Errorf("partition table: a disk of %d bytes has no room for one", diskBytes)
	}
	return nil
}

func (t *Table) entrySectors() uint64 {
	return uint64((t.entries*entryBytes + t.SectorBytes - 1) / t.SectorBytes)
}

func (t *Table) sectors() uint64 { return uint64(t.DiskBytes) / uint64(t.SectorBytes) }

// Resize puts the backup table at the end of a disk of the given size. Partitions stay as they are; a disk on which they
// do not fit is refused.
func (t *Table) Resize(diskBytes int64) error {
	if err := checkGeometry(diskBytes, t.SectorBytes); err != nil {
		return err
	}
	sectors := uint64(diskBytes) / uint64(t.SectorBytes)
	if sectors < t.firstUsable+t.entrySectors()+2 {
		return fmt.Errorf("partition table: a disk of %d bytes has no room for one", diskBytes)
	}
	lastUsable := sectors - 2 - t.entrySectors()
	for _, p := range t.Partitions {
		if p.LastLBA > lastUsable {
			return fmt.Errorf("partition table: partition %d (%s) ends at sector %d; a disk of %d bytes ends at %d", p.Number, p.Name, p.LastLBA, diskBytes, lastUsable)
		}
	}
	t.DiskBytes, t.lastUsable = diskBytes, lastUsable
	return nil
}

// Add appends a partition after the last one, aligned to AlignBytes, with the next free number. A size of zero takes
// the rest of the disk.
func (t *Table) Add(p Partition, sizeBytes int64) (Partition, error) {
	sector := uint64(t.SectorBytes)
	align := AlignBytes / sector
	next := t.firstUsable
	for _, other := range t.Partitions {
		next = max(next, other.LastLBA+1)
		p.Number = max(p.Number, other.Number+1)
	}
	p.Number = max(p.Number, 1)
	p.FirstLBA = (next + align - 1) / align * align
	if sizeBytes > 0 {
		p.LastLBA = p.FirstLBA + (uint64(sizeBytes)+sector-1)/sector - 1
	} else {
		p.LastLBA = (t.lastUsable+1)/align*align - 1
	}
	added := *t
	added.Partitions = append(slices.Clone(t.Partitions), p)
	if err := added.Validate(); err != nil {
		return Partition{}, err
	}
	t.Partitions = added.Partitions
	return p, nil
}

// GrowLast extends the partition that lies last on the disk to its end (aligned), and returns it. Shrinking never
// happens: a partition that already reaches further stays.
func (t *Table) GrowLast() (Partition, error) {
	if len(t.Partitions) == 0 {
		return Partition{}, errors.New("partition table has no partition to grow")
	}
	last := &t.Partitions[0]
	for i := range t.Partitions {
		if t.Partitions[i].LastLBA > last.LastLBA {
			last = &t.Partitions[i]
		}
	}
	align := uint64(AlignBytes / t.SectorBytes)
	last.LastLBA = max(last.LastLBA, (t.lastUsable+1)/align*align-1)
	return *last, nil
}

// Randomize gives the disk and every partition a fresh GUID, so that no copy of the image on another disk is taken
// for this one.
func (t *Table) Randomize(source io.Reader) error {
	fresh := make([]GUID, len(t.Partitions)+1)
	for i := range fresh {
		g, err := Random(source)
		if err != nil {
			return err
		}
		fresh[i] = g
	}
	t.DiskGUID = fresh[0]
	for i := range t.Partitions {
		t.Partitions[i].GUID = fresh[i+1]
	}
	return nil
}

// Partition returns the partition with the given number.
func (t *Table) Partition(number int) (Partition, bool) {
	for _, p := range t.Partitions {
		if p.Number == number {
			return p, true
		}
	}
	return Partition{}, false
}

// ByteRange returns where a partition lies on the disk.
func (t *Table) ByteRange(p Partition) (offset, length int64) {
	return int64(p.FirstLBA) * int64(t.SectorBytes), int64(p.LastLBA-p.FirstLBA+1) * int64(t.SectorBytes)
}

// SetBootCode puts the first stage of a BIOS boot loader into the MBR: at most 440 bytes, so that disk signature and
// partition entries stay.
func (t *Table) SetBootCode(code []byte) error {
	if len(code) > bootCodeBytes {
		return fmt.Errorf("boot code has %d bytes; the MBR holds %d", len(code), bootCodeBytes)
	}
	clear(t.bootSector[:bootCodeBytes])
	copy(t.bootSector, code)
	return nil
}

// BootCode returns a copy of the MBR's boot code.
func (t *Table) BootCode() []byte { return slices.Clone(t.bootSector[:bootCodeBytes]) }

// Validate says what is wrong: numbers, sizes, overlaps, doubled GUIDs, names that do not fit.
func (t *Table) Validate() error {
	numbers := make(map[int]bool, len(t.Partitions))
	guids := make(map[GUID]bool, len(t.Partitions))
	for _, p := range t.Partitions {
		switch {
		case p.Number < 1 || p.Number > t.entries:
			return fmt.Errorf("partition table: partition number %d is not between 1 and %d", p.Number, t.entries)
		case numbers[p.Number]:
			return fmt.Errorf("partition table: number %d is used twice", p.Number)
		case p.Type == GUID{}:
			return fmt.Errorf("partition table: partition %d has no type", p.Number)
		case guids[p.GUID]:
			return fmt.Errorf("partition table: GUID %s is used twice", p.GUID)
		case p.FirstLBA < t.firstUsable || p.LastLBA > t.lastUsable || p.FirstLBA > p.LastLBA:
			return fmt.Errorf("partition table: partition %d lies on sectors %d to %d; usable are %d to %d", p.Number, p.FirstLBA, p.LastLBA, t.firstUsable, t.lastUsable)
		case len(utf16.Encode([]rune(p.Name))) > nameUnits:
			return fmt.Errorf("partition table: name %q of partition %d is longer than %d UTF-16 units", p.Name, p.Number, nameUnits)
		}
		numbers[p.Number], guids[p.GUID] = true, true
	}
	byStart := slices.Clone(t.Partitions)
	slices.SortFunc(byStart, func(a, b Partition) int { return cmp.Compare(a.FirstLBA, b.FirstLBA) })
	for i := 1; i < len(byStart); i++ {
		if byStart[i].FirstLBA <= byStart[i-1].LastLBA {
			return fmt.Errorf("partition table: partitions %d and %d overlap", byStart[i-1].Number, byStart[i].Number)
		}
	}
	return nil
}
