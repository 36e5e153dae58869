package gpt

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"unicode/utf16"
)

// ErrNone says that neither the start nor the end of the disk holds a valid table.
var ErrNone = errors.New("no valid GUID partition table")

var signature = []byte("EFI PART")

// Read reads the table of a disk: the primary one or, where that is damaged, the backup at the end. An image that was
// written to a larger disk is read by its primary table; Resize then moves its backup. The error wraps ErrNone when
// there is no valid table.
func Read(r io.ReaderAt, diskBytes int64, sectorBytes int) (*Table, error) {
	if err := checkGeometry(diskBytes, sectorBytes); err != nil {
		return nil, err
	}
	bootSector := make([]byte, sectorBytes)
	if err := readAt(r, bootSector, 0); err != nil {
		return nil, err
	}
	last := uint64(diskBytes)/uint64(sectorBytes) - 1
	t, primary := readCopy(r, diskBytes, sectorBytes, 1)
	if primary != nil {
		var backup error
		if t, backup = readCopy(r, diskBytes, sectorBytes, last); backup != nil {
			return nil, fmt.Errorf("%w: primary: %w; backup: %w", ErrNone, primary, backup)
		}
	}
	t.bootSector = bootSector
	return t, nil
}

func readAt(r io.ReaderAt, p []byte, offset int64) error {
	if n, err := r.ReadAt(p, offset); n != len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return fmt.Errorf("reading partition table at offset %d: %w", offset, err)
	}
	return nil
}

// readCopy reads the table whose header is at sector lba.
func readCopy(r io.ReaderAt, diskBytes int64, sectorBytes int, lba uint64) (*Table, error) {
	header := make([]byte, sectorBytes)
	if err := readAt(r, header, int64(lba)*int64(sectorBytes)); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	size := le.Uint32(header[12:])
	switch {
	case !bytes.Equal(header[:8], signature):
		return nil, errors.New("signature is missing")
	case le.Uint32(header[8:]) != 0x00010000:
		return nil, fmt.Errorf("revision %#x is unknown", le.Uint32(header[8:]))
	case size < headerBytes || int64(size) > int64(sectorBytes):
		return nil, fmt.Errorf("header size %d is impossible", size)
	}
	sum := le.Uint32(header[16:])
	le.PutUint32(header[16:], 0)
	if crc32.ChecksumIEEE(header[:size]) != sum {
		return nil, errors.New("checksum of the header is wrong")
	}
	sectors := uint64(diskBytes) / uint64(sectorBytes)
	t := &Table{
		SectorBytes: sectorBytes, DiskBytes: diskBytes, DiskGUID: guidAt(header[56:]),
		firstUsable: le.Uint64(header[40:]), lastUsable: le.Uint64(header[48:]), entries: int(le.Uint32(header[80:])),
	}
	entriesLBA := le.Uint64(header[72:])
	switch {
	case le.Uint64(header[24:]) != lba:
		return nil, fmt.Errorf("header says it is at sector %d, not %d", le.Uint64(header[24:]), lba)
	case le.Uint32(header[84:]) != entryBytes:
		return nil, fmt.Errorf("entries have %d bytes; only %d are supported", le.Uint32(header[84:]), entryBytes)
	case t.entries < 1 || t.entries > maxEntries:
		return nil, fmt.Errorf("%d entries are not between 1 and %d", t.entries, maxEntries)
	case t.firstUsable < 2+t.entrySectors() || t.firstUsable > t.lastUsable || t.lastUsable >= sectors:
		return nil, fmt.Errorf("usable sectors %d to %d do not fit on a disk of %d", t.firstUsable, t.lastUsable, sectors)
	case entriesLBA < 2 || entriesLBA >= sectors || sectors-entriesLBA < t.entrySectors():
		return nil, fmt.Errorf("entries at sector %d do not fit on a disk of %d", entriesLBA, sectors)
	}
	entries := make([]byte, int(t.entrySectors())*sectorBytes)
	if err := readAt(r, entries, int64(entriesLBA)*int64(sectorBytes)); err != nil {
		return nil, err
	}
	entries = entries[:t.entries*entryBytes]
	if crc32.ChecksumIEEE(entries) != le.Uint32(header[88:]) {
		return nil, errors.New("checksum of the entries is wrong")
	}
	for i := range t.entries {
		e := entries[i*entryBytes:]
		if kind := guidAt(e); kind != (GUID{}) {
			t.Partitions = append(t.Partitions, Partition{
				Number: i + 1, Type: kind, GUID: guidAt(e[16:]), FirstLBA: le.Uint64(e[32:]), LastLBA: le.Uint64(e[40:]),
				Attributes: le.Uint64(e[48:]), Name: nameAt(e[56:entryBytes]),
			})
		}
	}
	return t, t.Validate()
}

func nameAt(p []byte) string {
	var units []uint16
	for ; len(p) >= 2; p = p[2:] {
		unit := binary.LittleEndian.Uint16(p)
		if unit == 0 {
			break
		}
		units = append(units, unit)
	}
	return string(utf16.Decode(units))
}

// Write writes both copies and the protective MBR. The backup goes first: whenever the power fails, one copy is whole.
// Every write is a multiple of the sector at a multiple of the sector.
func (t *Table) Write(w io.WriterAt) error {
	if err := t.Validate(); err != nil {
		return err
	}
	entries := t.encodeEntries()
	sum := crc32.ChecksumIEEE(entries[:t.entries*entryBytes])
	last := t.sectors() - 1
	backupEntries := last - t.entrySectors()
	for _, part := range []struct {
		lba  uint64
		data []byte
	}{
		{backupEntries, entries},
		{last, t.encodeHeader(last, 1, backupEntries, sum)},
		{2, entries},
		{1, t.encodeHeader(1, last, 2, sum)},
		{0, t.encodeBootSector()},
	} {
		if _, err := w.WriteAt(part.data, int64(part.lba)*int64(t.SectorBytes)); err != nil {
			return fmt.Errorf("writing partition table at sector %d: %w", part.lba, err)
		}
	}
	return nil
}

func (t *Table) encodeEntries() []byte {
	p := make([]byte, int(t.entrySectors())*t.SectorBytes)
	sorted := slices.SortedFunc(slices.Values(t.Partitions), func(a, b Partition) int { return cmp.Compare(a.Number, b.Number) })
	for _, partition := range sorted {
		e := p[(partition.Number-1)*entryBytes:]
		partition.Type.put(e)
		partition.GUID.put(e[16:])
		binary.LittleEndian.PutUint64(e[32:], partition.FirstLBA)
		binary.LittleEndian.PutUint64(e[40:], partition.LastLBA)
		binary.LittleEndian.PutUint64(e[48:], partition.Attributes)
		for i, unit := range utf16.Encode([]rune(partition.Name)) {
			binary.LittleEndian.PutUint16(e[56+2*i:], unit)
		}
	}
	return p
}

func (t *Table) encodeHeader(own, other, entries uint64, sum uint32) []byte {
	p := make([]byte, t.SectorBytes)
	le := binary.LittleEndian
	copy(p, signature)
	le.PutUint32(p[8:], 0x00010000)
	le.PutUint32(p[12:], headerBytes)
	le.PutUint64(p[24:], own)
	le.PutUint64(p[32:], other)
	le.PutUint64(p[40:], t.firstUsable)
	le.PutUint64(p[48:], t.lastUsable)
	t.DiskGUID.put(p[56:])
	le.PutUint64(p[72:], entries)
	le.PutUint32(p[80:], uint32(t.entries))
	le.PutUint32(p[84:], entryBytes)
	le.PutUint32(p[88:], sum)
	le.PutUint32(p[16:], crc32.ChecksumIEEE(p[:headerBytes]))
	return p
}

// encodeBootSector keeps everything of LBA 0 but the partition entries: one of type 0xEE that covers the disk, as UEFI
// 2.10 section 5.2.3 wants it.
func (t *Table) encodeBootSector() []byte {
	p := slices.Clone(t.bootSector)
	entry := p[446:510]
	clear(entry)
	copy(entry, []byte{0, 0x00, 0x02, 0x00, 0xee, 0xff, 0xff, 0xff})
	binary.LittleEndian.PutUint32(entry[8:], 1)
	binary.LittleEndian.PutUint32(entry[12:], uint32(min(t.sectors()-1, 0xffffffff)))
	p[510], p[511] = 0x55, 0xaa
	return p
}
