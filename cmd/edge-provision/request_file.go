package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"syscall"
)

// fileSeen is by what a file is the same for two programs, wherever it is mounted.
type fileSeen struct {
	Device uint64 `json:"device"`
	Inode  uint64 `json:"inode"`
}

// seenFiles are the files at some paths; what is not there says so where it is used.
func seenFiles(paths ...string) map[string]fileSeen {
	seen := map[string]fileSeen{}
	for _, path := range paths {
		if info, err := os.Stat(path); err == nil {
			seen[path] = seenAs(info)
		}
	}
	return seen
}

func seenAs(info fs.FileInfo) fileSeen {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileSeen{}
	}
	return fileSeen{Device: uint64(st.Dev), Inode: st.Ino}
}

// sameFilesSeen refuses files of a client that this program cannot read, or in place
// of which it would read others: systemd gives a service a /tmp of its own, and keeps
// it out of /home.
func sameFilesSeen(seen map[string]fileSeen) error {
	var errs []error
	for _, path := range slices.Sorted(maps.Keys(seen)) {
		if err := sameFileSeen(path, seen[path]); err != nil {
			errs = append(errs, fmt.Errorf("%w; a service has its own /tmp, no /home, and none of root's power over other users' files: "+
				"copy the file to where serve reads it too, such as /var/lib/edge-provision, and name it there", err))
		}
	}
	return errors.Join(errs...)
}

func sameFileSeen(path string, want fileSeen) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // which waits for no writer of a pipe
	if err != nil {
		return fmt.Errorf("serve cannot read this file: %w", err)
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("serve cannot read %s: %w", path, err)
	}
	if seenAs(info) != want {
		return fmt.Errorf("serve sees another file at %s", path)
	}
	return nil
}
