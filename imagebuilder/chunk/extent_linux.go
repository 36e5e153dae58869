package chunk

import (
	"errors"
	"os"
	"syscall"
)

// Whence values of lseek(2) that the syscall package lacks.
const (
	seekData = 3
	seekHole = 4
)

// dataExtents returns the ranges of the first n bytes of f that are not holes. A file system that knows no holes, and a
// block device, answer with one extent.
func dataExtents(f *os.File, n int64) ([]extent, error) {
	var extents []extent
	for at := int64(0); at < n; {
		start, err := f.Seek(at, seekData)
		if errors.Is(err, syscall.ENXIO) {
			break
		}
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOTSUP) {
			return []extent{{0, n}}, nil
		}
		if err != nil {
			return nil, err
		}
		end, err := f.Seek(start, seekHole)
		if err != nil {
			return nil, err
		}
		if start < n {
			extents = append(extents, extent{start, min(end, n) - start})
		}
		at = end
	}
	return extents, nil
}
