package host

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// programs are what a lab runs, with the Debian package that has each.
var programs = []struct{ name, pkg string }{
	{"systemd-nspawn", "systemd-container"}, {"ip", "iproute2"}, {"nsenter", "util-linux"}, {"unshare", "util-linux"}, {"mount", "mount"}, {"zstd", "zstd"}, {"resize2fs", "e2fsprogs"},
}

// checkPrograms names everything that is missing at once.
func checkPrograms() error {
	var errs []error
	if os.Geteuid() != 0 {
		errs = append(errs, errors.New("a lab needs root: for namespaces, mounts and loop devices"))
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p.name); err != nil {
			errs = append(errs, fmt.Errorf("program %s is missing: it is in Debian's package %s", p.name, p.pkg))
		}
	}
	// The hosts' kubelet is set up for these hierarchies.
	if _, err := os.Stat(filepath.Join(cgroupRoot, "memory")); err != nil {
		errs = append(errs, fmt.Errorf("a lab needs the control groups of version 1 at %s, each hierarchy in its own directory: %w", cgroupRoot, err))
	}
	return errors.Join(errs...)
}
