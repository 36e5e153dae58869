package imagebuilder

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"
)

// Places in an ext4 file system, from Documentation/filesystems/ext4 of the Linux kernel (super.rst, group_descr.rst,
// inodes.rst).
const (
	ext4SuperOffset = 1024
	ext4Magic       = 0xef53
	ext4ChecksumBit = 0x400 // RO_COMPAT_METADATA_CSUM
	ext4SeedBit     = 0x2000
	ext4WideBit     = 0x80 // INCOMPAT_64BIT

	inodeTime         = 0x08 // atime, ctime, mtime: seconds, 32 bits each
	inodeGeneration   = 0x64
	inodeChecksumLow  = 0x7c
	inodeChecksumHigh = 0x82
	inodeExtraTimes   = 0x84 // ctime, mtime, atime: nanoseconds and epoch bits
)

// ext4File is the image that holds a file system at an offset.
type ext4File interface {
	io.ReaderAt
	io.WriterAt
}

// settleTimes gives every inode the access and change time of epoch and clamps later modification times to it. mke2fs -d
// takes access and change time from the directory it reads, where they are those of the build: no program can set a
// change time, and no option of mke2fs 1.47 ignores it.
func settleTimes(f ext4File, offset int64, epoch time.Time) error {
	super := make([]byte, 1024)
	if _, err := f.ReadAt(super, offset+ext4SuperOffset); err != nil {
		return fmt.Errorf("reading ext4 superblock: %w", err)
	}
	le := binary.LittleEndian
	if le.Uint16(super[0x38:]) != ext4Magic || le.Uint32(super[0x64:])&ext4ChecksumBit == 0 || le.Uint32(super[0x60:])&ext4SeedBit != 0 {
		return errors.New("root file system is no ext4 with metadata checksums seeded by its UUID")
	}
	block := int64(1024) << le.Uint32(super[0x18:])
	inodes, perGroup := le.Uint32(super[0x00:]), le.Uint32(super[0x28:])
	inodeBytes := int64(le.Uint16(super[0x58:]))
	descriptor := int64(32)
	if le.Uint32(super[0x60:])&ext4WideBit != 0 {
		descriptor = int64(le.Uint16(super[0xfe:]))
	}
	if inodeBytes < 256 || block > 65536 || descriptor < 32 || perGroup == 0 || inodes%perGroup != 0 {
		return fmt.Errorf("ext4 superblock has inodes of %d bytes, blocks of %d and %d inodes in groups of %d", inodeBytes, block, inodes, perGroup)
	}
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	// The kernel's crc32c starts from all ones and is not inverted at the end; Update inverts on both sides.
	seed := ^crc32.Update(0, castagnoli, super[0x68:0x78])
	groups := int64(inodes / perGroup)
	descriptors := make([]byte, groups*descriptor)
	if _, err := f.ReadAt(descriptors, offset+max(block, 2048)/block*block); err != nil {
		return fmt.Errorf("reading ext4 group descriptors: %w", err)
	}
	table := make([]byte, int64(perGroup)*inodeBytes)
	for group := range groups {
		d := descriptors[group*descriptor:]
		at := int64(le.Uint32(d[0x08:]))
		if descriptor >= 64 {
			at |= int64(le.Uint32(d[0x28:])) << 32
		}
		if _, err := f.ReadAt(table, offset+at*block); err != nil {
			return fmt.Errorf("reading ext4 inode table %d: %w", group, err)
		}
		used := int64(0)
		for i := range int64(perGroup) {
			inode := table[i*inodeBytes:][:inodeBytes]
			if le.Uint16(inode) == 0 && le.Uint16(inode[0x1a:]) == 0 {
				continue
			}
			settleInode(inode, seed, uint32(group*int64(perGroup)+i+1), uint32(epoch.Unix()), castagnoli)
			used = (i + 1) * inodeBytes
		}
		if _, err := f.WriteAt(table[:used], offset+at*block); err != nil {
			return fmt.Errorf("writing ext4 inode table %d: %w", group, err)
		}
	}
	return nil
}

func settleInode(inode []byte, seed, number, epoch uint32, castagnoli *crc32.Table) {
	le := binary.LittleEndian
	le.PutUint32(inode[inodeTime:], epoch)
	le.PutUint32(inode[inodeTime+4:], epoch)
	if le.Uint32(inode[inodeTime+8:]) > epoch {
		le.PutUint32(inode[inodeTime+8:], epoch)
	}
	clear(inode[inodeExtraTimes : inodeExtraTimes+12])
	le.PutUint16(inode[inodeChecksumLow:], 0)
	le.PutUint16(inode[inodeChecksumHigh:], 0)
	var numbers [8]byte
	le.PutUint32(numbers[:], number)
	copy(numbers[4:], inode[inodeGeneration:inodeGeneration+4])
	sum := crc32.Update(^seed, castagnoli, numbers[:])
	sum = ^crc32.Update(sum, castagnoli, inode)
	le.PutUint16(inode[inodeChecksumLow:], uint16(sum))
	le.PutUint16(inode[inodeChecksumHigh:], uint16(sum>>16))
}
