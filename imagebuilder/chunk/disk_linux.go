package chunk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"
)

// Requests of ioctl(2) on block devices, from linux/fs.h.
const (
	blkFlushBuffers  = 0x1261     // BLKFLSBUF
	blkLogicalSector = 0x1268     // BLKSSZGET
	blkZeroOut       = 0x127f     // BLKZEROOUT: the range reads back as zeros, unlike after BLKDISCARD
	blkBytes         = 0x80081272 // BLKGETSIZE64
)

// Modes of fallocate(2), from linux/falloc.h.
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
)

// Disk is a Target on a block device or a regular file. Aligned transfers bypass the page cache (O_DIRECT); what is not
// aligned goes through it.
type Disk struct {
	path     string
	direct   *os.File // nil where the file system refuses O_DIRECT
	buffered *os.File
	device   bool
	bytes    int64
	sector   int
	noZero   atomic.Bool // BLKZEROOUT or hole punching was refused once: zeros are written from then on
}

// OpenDisk opens a disk for writing. A block device is opened exclusively: one that is mounted or otherwise in use is
// refused (EBUSY). A regular file must exist and have its final size.
func OpenDisk(path string) (*Disk, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening disk: %w", err)
	}
	d := &Disk{path: path, device: info.Mode()&os.ModeDevice != 0, sector: 512, bytes: info.Size()}
	if !d.device && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("opening disk %s: it is neither a block device nor a regular file", path)
	}
	flags := os.O_RDWR
	if d.device {
		flags |= syscall.O_EXCL
	}
	if d.buffered, err = os.OpenFile(path, flags, 0); err != nil {
		if errors.Is(err, syscall.EBUSY) {
			return nil, fmt.Errorf("opening disk %s: it is in use (mounted, or part of RAID, LVM or swap): %w", path, err)
		}
		return nil, fmt.Errorf("opening disk: %w", err)
	}
	if d.device {
		if err := d.ask(); err != nil {
			return nil, errors.Join(fmt.Errorf("opening disk %s: %w", path, err), d.buffered.Close())
		}
	}
	// The exclusive claim belongs to the first descriptor; the second must not ask for it again.
	d.direct, err = os.OpenFile(path, os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		if !errors.Is(err, syscall.EINVAL) {
			return nil, errors.Join(fmt.Errorf("opening disk: %w", err), d.buffered.Close())
		}
		d.direct = nil
	}
	return d, nil
}

func (d *Disk) ask() error {
	var size uint64
	if err := ioctl(d.buffered, blkBytes, unsafe.Pointer(&size)); err != nil {
		return fmt.Errorf("asking for its size: %w", err)
	}
	var sector int32
	if err := ioctl(d.buffered, blkLogicalSector, unsafe.Pointer(&sector)); err != nil {
		return fmt.Errorf("asking for its logical sector: %w", err)
	}
	d.bytes, d.sector = int64(size), int(sector)
	return nil
}

// Bytes is the size of the disk.
func (d *Disk) Bytes() int64 { return d.bytes }

// SectorBytes is the logical sector of the disk; 512 for a regular file.
func (d *Disk) SectorBytes() int { return d.sector }

// WriteAt implements io.WriterAt.
func (d *Disk) WriteAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset+int64(len(p)) > d.bytes {
		return 0, fmt.Errorf("writing %d bytes at offset %d of %s: past its end at %d", len(p), offset, d.path, d.bytes)
	}
	return d.transfer(p, offset, func(f *os.File) (int, error) { return f.WriteAt(p, offset) })
}

// ReadAt implements io.ReaderAt.
func (d *Disk) ReadAt(p []byte, offset int64) (int, error) {
	return d.transfer(p, offset, func(f *os.File) (int, error) { return f.ReadAt(p, offset) })
}

func (d *Disk) transfer(p []byte, offset int64, do func(*os.File) (int, error)) (int, error) {
	aligned := d.direct != nil && len(p) > 0 && len(p)%d.sector == 0 && offset%int64(d.sector) == 0 &&
		uintptr(unsafe.Pointer(unsafe.SliceData(p)))%bufferAlign == 0
	if aligned {
		n, err := do(d.direct)
		// A file system on a disk with larger sectors than ours refuses what looks aligned to us.
		if !errors.Is(err, syscall.EINVAL) {
			return n, err
		}
	}
	return do(d.buffered)
}

// ZeroAt implements Target: BLKZEROOUT on a device, a hole in a regular file, written zeros where neither is possible.
func (d *Disk) ZeroAt(offset, length int64) error {
	if offset < 0 || length < 0 || offset+length > d.bytes {
		return fmt.Errorf("zeroing %d bytes at offset %d of %s: past its end at %d", length, offset, d.path, d.bytes)
	}
	if length == 0 {
		return nil
	}
	if !d.noZero.Load() {
		var err error
		if d.device {
			arguments := [2]uint64{uint64(offset), uint64(length)}
			err = ioctl(d.buffered, blkZeroOut, unsafe.Pointer(&arguments))
		} else {
			err = syscall.Fallocate(int(d.buffered.Fd()), fallocKeepSize|fallocPunchHole, offset, length)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EOPNOTSUPP) && !errors.Is(err, syscall.ENOTTY) && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("zeroing %d bytes at offset %d of %s: %w", length, offset, d.path, err)
		}
		d.noZero.Store(true)
	}
	zeros := alignedBuffer(int(min(length, headBytes)))
	for length > 0 {
		n := min(length, int64(len(zeros)))
		if _, err := d.WriteAt(zeros[:n], offset); err != nil {
			return err
		}
		offset, length = offset+n, length-n
	}
	return nil
}

// Flush makes everything written durable and drops the kernel's cached copies, so that a following read comes from the
// disk.
func (d *Disk) Flush() error {
	if err := d.buffered.Sync(); err != nil {
		return fmt.Errorf("flushing %s: %w", d.path, err)
	}
	if d.device {
		if err := ioctl(d.buffered, blkFlushBuffers, nil); err != nil {
			return fmt.Errorf("dropping cached blocks of %s: %w", d.path, err)
		}
	}
	return nil
}

// Close flushes and closes the disk.
func (d *Disk) Close() error {
	err := d.Flush()
	if d.direct != nil {
		err = errors.Join(err, d.direct.Close())
	}
	return errors.Join(err, d.buffered.Close())
}

func ioctl(f *os.File, request uintptr, argument unsafe.Pointer) error {
	connection, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var number syscall.Errno
	err = connection.Control(func(fd uintptr) {
		_, _, number = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(argument))
	})
	if err == nil && number != 0 {
		err = number
	}
	return err
}

var (
	_ Target    = (*Disk)(nil)
	_ io.Closer = (*Disk)(nil)
)
