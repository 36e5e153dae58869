package store

import (
	"path/filepath"

	"golang.org/x/sys/unix"
)

// leastRoomBytes is what SQLite needs beside the catalog to open it at all: 32 KiB
// of shared index (sqlite.org/walformat.html) and a few pages of its log.
const leastRoomBytes = 64 << 10

// noRoom reports whether the filesystem of path has no room left. SQLite does not
// tell that from a broken disk when it makes its files.
func noRoom(path string) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fs); err != nil {
		return false
	}
	return fs.Bavail*uint64(fs.Bsize) < leastRoomBytes || fs.Files > 0 && fs.Ffree == 0
}
