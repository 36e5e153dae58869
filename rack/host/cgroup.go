package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupRoot = "/sys/fs/cgroup"

func (h *Host) cgroup() string { return h.lab.Namespace + "-" + h.Name }

// cgroupLimit is how long the kernel may take until a control group whose
// processes were killed can be removed.
const cgroupLimit = 20 * time.Second

// removeCgroups removes the group of that name, with those below it, from every
// hierarchy. Their processes have ended or are ending.
func removeCgroups(name string) error {
	dirs, err := filepath.Glob(filepath.Join(cgroupRoot, "*", name))
	if err != nil {
		return fmt.Errorf("listing control groups: %w", err)
	}
	for _, dir := range dirs {
		for began := time.Now(); ; time.Sleep(poll) {
			err := removeCgroup(dir)
			if err == nil {
				break
			}
			if !errors.Is(err, unix.EBUSY) || time.Since(began) > cgroupLimit {
				return fmt.Errorf("removing control group %s: %w", dir, err)
			}
		}
	}
	return nil
}

func removeCgroup(dir string) error {
	var all []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			all = append(all, path)
		}
		return err
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, path := range slices.Backward(all) {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
