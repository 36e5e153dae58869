package rack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// makeDisks makes the disks that do not exist yet, as sparse files.
func (r *Rack) makeDisks(ctx context.Context, made *harvest) error {
	for _, m := range r.spec.Machines {
		if err := made.mkdir(r.layout.machine(m.Address)); err != nil {
			return err
		}
		if m.BMC.Driver == BMCIPMI {
			if err := made.mkdir(r.layout.bmc(m.Address)); err != nil {
				return err
			}
		}
		for i, d := range m.Disks {
			if err := makeDisk(ctx, r.layout.disk(m, i), d, made); err != nil {
				return fmt.Errorf("disk %d of %s: %w", i, m.Address, err)
			}
		}
	}
	return nil
}

func makeDisk(ctx context.Context, path string, d Disk, made *harvest) error {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && d.Path == "":
	case err != nil:
		return fmt.Errorf("looking at the disk's file: %w", err)
	case !fi.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file", path)
	case fi.Size() != d.Bytes:
		return fmt.Errorf("%s has %d bytes, the site says %d: remove the rack's disks, or put the old size back", path, fi.Size(), d.Bytes)
	default:
		return nil
	}
	// Under another name until it is whole: an interrupted copy must not
	// pass for the disk.
	partial := path + ".new"
	made.file(path)
	made.file(partial)
	f, err := os.OpenFile(partial, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("making the disk's file: %w", err)
	}
	if d.Source != "" {
		err = fillDisk(ctx, f, d)
	}
	if err := errors.Join(err, f.Truncate(d.Bytes), f.Close()); err != nil {
		return fmt.Errorf("making the disk's file: %w", err)
	}
	if err := os.Rename(partial, path); err != nil {
		return fmt.Errorf("making the disk's file: %w", err)
	}
	return nil
}

// fillDisk copies the source into a fresh file and leaves holes for zeroes.
func fillDisk(ctx context.Context, to *os.File, d Disk) error {
	from, err := os.Open(d.Source)
	if err != nil {
		return fmt.Errorf("opening the disk's source: %w", err)
	}
	defer from.Close()
	fi, err := from.Stat()
	if err != nil {
		return fmt.Errorf("looking at the disk's source: %w", err)
	}
	if !fi.Mode().IsRegular() || fi.Size() > d.Bytes {
		return fmt.Errorf("source %s is not a regular file of at most the disk's %d bytes; it has %d", d.Source, d.Bytes, fi.Size())
	}
	block, zeroes := make([]byte, mib), make([]byte, mib)
	for at := int64(0); ; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("copying %s: %w", d.Source, err)
		}
		n, err := io.ReadFull(from, block)
		if n > 0 && !bytes.Equal(block[:n], zeroes[:n]) {
			if _, err := to.WriteAt(block[:n], at); err != nil {
				return fmt.Errorf("copying %s: %w", d.Source, err)
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("copying %s: %w", d.Source, err)
		}
	}
}
