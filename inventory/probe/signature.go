package probe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Content is what is recognised on a disk.
type Content struct {
	// Signatures are the names, as blkid(8) has them, of the partition tables,
	// filesystems and volume members on the disk and in its partitions,
	// sorted, each once. Never nil.
	Signatures []string
	// PartUUIDs are the unique GUIDs of the GPT's partitions in text form.
	PartUUIDs []string
	// Extents are where signatures were found: erasing them all makes the disk
	// look blank.
	Extents []Extent
	// Partitions are the ranges of the disk's partitions.
	Partitions []Extent
}

// Extent is a range of a disk, in bytes.
type Extent struct{ Offset, Length int64 }

// magic is a signature at a fixed place: at offset from the start when it is not
// negative, else from the end.
type magic struct {
	name   string
	offset int64
	bytes  string
}

// magics come from libblkid's superblock drivers (util-linux) and the formats'
// own documents.
var magics = []magic{
	{"xfs", 0, "XFSB"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"crypto_LUKS", 0, "LUKS\xba\xbe"},
	{"crypto_LUKS", 0x4000, "SKUL\xba\xbe"}, // LUKS2's second header, at its smallest distance
	{"LVM2_member", 0, "LABELONE"},
	{"LVM2_member", 512, "LABELONE"},
	{"LVM2_member", 1024, "LABELONE"},
	{"LVM2_member", 1536, "LABELONE"},
	{"swap", 4086, "SWAPSPACE2"},
	{"swap", 4086, "SWAP-SPACE"},
	{"swap", 65526, "SWAPSPACE2"}, // made with pages of 64 KiB
	{"ntfs", 3, "NTFS    "},
	{"exfat", 3, "EXFAT   "},
	{"vfat", 82, "FAT32   "},
	{"vfat", 54, "FAT16   "},
	{"vfat", 54, "FAT12   "},
	{"iso9660", 0x8001, "CD001"},
	{"squashfs", 0, "hsqs"},
	{"f2fs", 1024, "\x10\x20\xf5\xf2"},
	{"bcache", 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"ceph_bluestore", 0, "bluestore block device"},
	{"VMFS_volume_member", 1 << 20, "\x0d\xd0\x01\xc0"},
	{"gfs2", 65536, "\x01\x16\x19\x70\x00\x00\x00\x01"},
	{"linux_raid_member", 0, "\xfc\x4e\x2b\xa9"},    // md metadata 1.1
	{"linux_raid_member", 4096, "\xfc\x4e\x2b\xa9"}, // md metadata 1.2
	{"isw_raid_member", -1024, "Intel Raid ISM Cfg Sig. "},
	{"ddf_raid_member", -512, "\xde\x11\xde\x11"},
}

// md metadata at the end: 0.90 in the last full 64 KiB block, 1.0 in an even
// sector 8 KiB before the end (md(4)).
func mdOffsets(size int64) []int64 {
	return []int64{size&^(64<<10-1) - 64<<10, (size/512 - 16) &^ 7 * 512}
}

// zfs keeps four labels of 256 KiB, two at each end, each with a ring of
// uberblocks in its second half (ZFS On-Disk Specification, section 1).
const (
	zfsLabelBytes = 256 << 10
	zfsRingOffset = 128 << 10
	zfsUberBytes  = 1024
)

var zfsMagics = [][]byte{{0x0c, 0xb1, 0xba, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 0xba, 0xb1, 0x0c}}

// scan is the work on one disk.
type scan struct {
	r       io.ReaderAt
	content Content
}

// ReadContent recognises what is on a disk of size bytes. Reads are few and
// bounded whatever the disk holds.
func ReadContent(r io.ReaderAt, size int64) (Content, error) {
	s := &scan{r: r, content: Content{Signatures: []string{}}}
	if size < 4096 {
		return s.content, nil
	}
	if err := s.volume(0, size); err != nil {
		return Content{}, err
	}
	parts, err := s.tables(size)
	if err != nil {
		return Content{}, err
	}
	for _, p := range parts {
		// A partition is never the whole disk here, so this goes one deep.
		if p.Offset <= 0 || p.Length < 4096 || p.Offset > size-p.Length {
			continue
		}
		s.content.Partitions = append(s.content.Partitions, p)
		if err := s.volume(p.Offset, p.Length); err != nil {
			return Content{}, err
		}
	}
	slices.Sort(s.content.Signatures)
	s.content.Signatures = slices.Compact(s.content.Signatures)
	return s.content, nil
}

func (s *scan) found(name string, offset, length int64) {
	s.content.Signatures = append(s.content.Signatures, name)
	s.content.Extents = append(s.content.Extents, Extent{offset, length})
}

// at reads length bytes at offset.
func (s *scan) at(offset, length int64) ([]byte, error) {
	b := make([]byte, length)
	n, err := s.r.ReadAt(b, offset)
	if int64(n) < length && err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("at offset %d: %w", offset, err)
	}
	return b[:n], nil
}

// volume looks for a filesystem or volume member in a range of the disk.
func (s *scan) volume(start, length int64) error {
	head, err := s.at(start, min(length, 68<<10))
	if err != nil {
		return err
	}
	tail, err := s.at(start+length-4096, 4096)
	if err != nil {
		return err
	}
	for _, m := range magics {
		var have []byte
		offset := m.offset
		switch {
		case offset < 0:
			have = tail[max(0, len(tail)+int(offset)):]
			offset += length
		case offset < int64(len(head)):
			have = head[offset:]
		case offset+int64(len(m.bytes)) <= length:
			if have, err = s.at(start+offset, int64(len(m.bytes))); err != nil {
				return err
			}
		}
		if bytes.HasPrefix(have, []byte(m.bytes)) {
			s.found(m.name, start+offset, int64(len(m.bytes)))
		}
	}
	s.ext(head, start)
	return errors.Join(s.md(start, length), s.zfs(start, length))
}

// ext tells ext2, 3 and 4 apart by the features of the superblock at 1024
// (kernel documentation, filesystems/ext4/super).
func (s *scan) ext(head []byte, start int64) {
	const super = 1024
	if len(head) < super+0x68 || head[super+0x38] != 0x53 || head[super+0x39] != 0xef {
		return
	}
	compat := binary.LittleEndian.Uint32(head[super+0x5c:])
	incompat := binary.LittleEndian.Uint32(head[super+0x60:])
	roCompat := binary.LittleEndian.Uint32(head[super+0x64:])
	name := "ext2"
	const hasJournal, journalDevice = 0x4, 0x8
	switch {
	case incompat&journalDevice != 0:
		name = "jbd"
	// What ext3 does not know: anything but filetype, recover and meta_bg;
	// sparse_super, large_file and btree_dir.
	case incompat&^0x16 != 0 || roCompat&^0x7 != 0:
		name = "ext4"
	case compat&hasJournal != 0:
		name = "ext3"
	}
	s.found(name, start+super+0x38, 2)
}

func (s *scan) md(start, length int64) error {
	for _, offset := range mdOffsets(length) {
		if offset <= 0 {
			continue
		}
		b, err := s.at(start+offset, 4)
		if err != nil {
			return err
		}
		if bytes.Equal(b, []byte{0xfc, 0x4e, 0x2b, 0xa9}) {
			s.found("linux_raid_member", start+offset, 4)
		}
	}
	return nil
}

func (s *scan) zfs(start, length int64) error {
	end := length &^ (zfsLabelBytes - 1)
	for _, label := range []int64{0, zfsLabelBytes, end - 2*zfsLabelBytes, end - zfsLabelBytes} {
		if label < 0 || length < 4*zfsLabelBytes {
			continue
		}
		ring, err := s.at(start+label+zfsRingOffset, zfsLabelBytes-zfsRingOffset)
		if err != nil {
			return err
		}
		for at := 0; at+8 <= len(ring); at += zfsUberBytes {
			if bytes.Equal(ring[at:at+8], zfsMagics[0]) || bytes.Equal(ring[at:at+8], zfsMagics[1]) {
				s.found("zfs_member", start+label+zfsRingOffset+int64(at), 8)
			}
		}
	}
	return nil
}

// tables looks for GPT and MBR partition tables and returns the partitions. A
// disk moved between controllers may have been partitioned with another sector
// size than it has now, so both are tried.
func (s *scan) tables(size int64) ([]Extent, error) {
	var parts []Extent
	gpt := false
	for _, sector := range []int64{512, 4096} {
		for _, offset := range []int64{sector, size - sector} {
			found, err := s.gpt(offset, sector, size)
			if err != nil {
				return nil, err
			}
			if found.ok {
				gpt = true
				s.found("gpt", offset, 8)
				// The first table that is read speaks for both.
				if s.content.PartUUIDs == nil {
					s.content.PartUUIDs, parts = found.guids, found.parts
				}
			}
		}
	}
	mbr, err := s.at(0, 512)
	if err != nil || len(mbr) < 512 || mbr[510] != 0x55 || mbr[511] != 0xaa {
		return parts, err
	}
	protective, entries := false, 0
	var primaries []Extent
	for i := range 4 {
		entry := mbr[446+16*i:][:16]
		first, count := binary.LittleEndian.Uint32(entry[8:]), binary.LittleEndian.Uint32(entry[12:])
		if entry[4] == 0 || count == 0 || entry[0]&0x7f != 0 {
			continue
		}
		entries++
		protective = protective || entry[4] == 0xee
		primaries = append(primaries, Extent{int64(first) * 512, int64(count) * 512})
	}
	switch {
	case protective && !gpt:
		// The table that it protects is gone or damaged: still no blank disk.
		s.found("PMBR", 510, 2)
	case protective:
		s.content.Extents = append(s.content.Extents, Extent{510, 2})
	case entries > 0 && !s.isFAT(mbr):
		s.found("dos", 510, 2)
		parts = append(parts, primaries...)
	}
	return parts, nil
}

// isFAT tells the boot sector of a FAT or NTFS volume from a partition table:
// both end in 55 AA.
func (s *scan) isFAT(sector []byte) bool {
	return bytes.HasPrefix(sector[82:], []byte("FAT32")) || bytes.HasPrefix(sector[54:], []byte("FAT1")) ||
		bytes.HasPrefix(sector[3:], []byte("NTFS")) || bytes.HasPrefix(sector[3:], []byte("EXFAT"))
}

// table is what one GPT header says.
type table struct {
	ok    bool
	guids []string
	parts []Extent
}

// gpt reads the header at offset (UEFI 2.10 section 5.3). Checksums are not
// asked for: a damaged table is no blank disk either.
func (s *scan) gpt(offset, sector, size int64) (table, error) {
	header, err := s.at(offset, 512)
	if err != nil || len(header) < 92 || !bytes.HasPrefix(header, []byte("EFI PART")) {
		return table{}, err
	}
	t := table{ok: true}
	lba := binary.LittleEndian.Uint64(header[72:])
	count := binary.LittleEndian.Uint32(header[80:])
	bytesEach := int64(binary.LittleEndian.Uint32(header[84:]))
	if lba > uint64(size/sector) || bytesEach < 128 || bytesEach > 4096 {
		return t, nil
	}
	entries, err := s.at(int64(lba)*sector, min(int64(min(count, 256))*bytesEach, 256*4096))
	if err != nil {
		return t, err
	}
	for ; int64(len(entries)) >= bytesEach; entries = entries[bytesEach:] {
		if bytes.Equal(entries[:16], make([]byte, 16)) {
			continue
		}
		first, last := binary.LittleEndian.Uint64(entries[32:]), binary.LittleEndian.Uint64(entries[40:])
		t.guids = append(t.guids, guidText(entries[16:32]))
		if first <= last && last < uint64(size/sector) {
			t.parts = append(t.parts, Extent{int64(first) * sector, int64(last-first+1) * sector})
		}
	}
	return t, nil
}

// guidText is the text form of a GUID as it is on disk: the first three fields
// are little-endian (UEFI 2.10 appendix A).
func guidText(b []byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}
