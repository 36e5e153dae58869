package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/inventory/probe"
)

// Devices mounts partitions of real disks under a directory of its own.
type Devices struct {
	// Dir holds the mount points; empty means /mnt.
	Dir string
	// Load loads a kernel module by name; nil means that filesystems are
	// built in or loaded already.
	Load func(module string) error
}

// rereadTimeout bounds the wait for a disk that something still holds.
const rereadTimeout = 20 * time.Second

// Reread implements Mounter.
func (d Devices) Reread(ctx context.Context, disk string) error {
	ctx, cancel := context.WithTimeout(ctx, rereadTimeout)
	defer cancel()
	f, err := os.Open(filepath.Join("/dev", disk))
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		// EBUSY passes: the kernel looks at a disk that was just written.
		err := unix.IoctlSetInt(int(f.Fd()), unix.BLKRRPART, 0)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("reading the partition table again: %w", err)
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("reading the partition table again: the disk was busy for %s: %w", rereadTimeout, err)
		}
	}
}

// filesystems are those that the installer can mount, by signature: the type to
// mount as, which is the module's name as well.
var filesystems = map[string]string{"ext2": "ext4", "ext3": "ext4", "ext4": "ext4", "xfs": "xfs"}

// Mount implements Mounter.
func (d Devices) Mount(ctx context.Context, disk string, number int, readOnly bool) (string, error) {
	device := filepath.Join("/dev", probe.Partition(disk, number))
	kind, err := filesystem(ctx, device)
	if err != nil {
		return "", err
	}
	if d.Load != nil {
		if err := d.Load(kind); err != nil {
			return "", fmt.Errorf("loading the module of %s: %w", kind, err)
		}
	}
	parent := d.Dir
	if parent == "" {
		parent = "/mnt"
	}
	dir := filepath.Join(parent, filepath.Base(device))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	flags := uintptr(unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME)
	options := ""
	if readOnly {
		flags |= unix.MS_RDONLY
		// A journal is replayed, that is written, by a read-only mount too.
		options = map[string]string{"ext4": "noload", "xfs": "norecovery"}[kind]
	}
	if err := unix.Mount(device, dir, kind, flags, options); err != nil {
		return "", fmt.Errorf("mounting %s as %s: %w", device, kind, err)
	}
	return dir, nil
}

// nodeTimeout bounds the wait for a partition's device node.
const nodeTimeout = 10 * time.Second

// filesystem says as what a partition is mounted.
func filesystem(ctx context.Context, device string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, nodeTimeout)
	defer cancel()
	f, err := os.Open(device)
	for ; err != nil; f, err = os.Open(device) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return "", fmt.Errorf("waiting for partition %s: %w", device, err)
		}
	}
	defer f.Close()
	size, err := f.Seek(0, 2)
	if err != nil {
		return "", fmt.Errorf("asking for the size of %s: %w", device, err)
	}
	content, err := probe.ReadContent(f, size)
	if err != nil {
		return "", fmt.Errorf("looking at %s: %w", device, err)
	}
	for _, s := range content.Signatures {
		if kind, ok := filesystems[s]; ok {
			return kind, nil
		}
	}
	return "", fmt.Errorf("%w: it carries %v", ErrNoFilesystem, content.Signatures)
}

// Unmount implements Mounter.
func (d Devices) Unmount(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Syncfs(int(f.Fd())), f.Close())
	return errors.Join(err, unix.Unmount(dir, 0), os.Remove(dir))
}

// makeMutable takes the immutable flag of chattr(1) off a file.
func makeMutable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		if errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil
		}
		return err
	}
	if flags&immutableFlag == 0 {
		return nil
	}
	return unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags&^immutableFlag))
}

// immutableFlag is FS_IMMUTABLE_FL of linux/fs.h.
const immutableFlag = 0x10
