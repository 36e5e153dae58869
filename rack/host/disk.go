package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// disks are a running host's loop devices. The kernel frees each when nobody has
// it open any more.
type disks []*os.File

func (d disks) detach() {
	for _, f := range d {
		// Nothing is written through this descriptor.
		_ = f.Close()
	}
}

// attachDisks puts loop devices before the host's disk files and writes the list
// that prepare.sh reads.
func (h *Host) attachDisks() (_ disks, err error) {
	var all disks
	defer func() {
		if err != nil {
			all.detach()
		}
	}()
	var list strings.Builder
	for i, size := range h.lab.config.DiskBytes {
		device, number, err := attachLoop(h.diskPath(i))
		if err != nil {
			return nil, fmt.Errorf("attaching disk %d of %s: %w", i, h.Name, err)
		}
		all = append(all, device)
		fmt.Fprintf(&list, "vd%c %d %d %s %02x\n", 'b'+i, number, size/512, h.serials[i], 5+i)
	}
	path := filepath.Join(h.dir(), "disks")
	if err := os.WriteFile(path, []byte(list.String()), 0o644); err != nil {
		return nil, fmt.Errorf("listing the disks of %s: %w", h.Name, err)
	}
	return all, nil
}

// attachLoop returns an open loop device over the file.
func attachLoop(path string) (_ *os.File, number int, err error) {
	backing, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer backing.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, 0, err
	}
	defer control.Close()
	for range 100 {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, 0, fmt.Errorf("asking for a free loop device: %w", err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
		if err != nil {
			return nil, 0, err
		}
		err = unix.IoctlLoopConfigure(int(device.Fd()), &unix.LoopConfig{
			Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR},
		})
		if err == nil {
			return device, number, nil
		}
		// Somebody else may have taken it meanwhile.
		if err := errors.Join(device.Close()); err != nil || !errors.Is(err, unix.EBUSY) && err != nil {
			return nil, 0, err
		}
	}
	return nil, 0, errors.New("every free loop device was taken by others")
}
