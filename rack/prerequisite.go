package rack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// prerequisite is something of the host's that a rack needs.
type prerequisite struct {
	what    string
	present func() bool
	// pkg is the Debian package that has it, if one does; hint is what to do
	// otherwise.
	pkg, hint string
}

func program(name, pkg string) prerequisite {
	return prerequisite{
		what:    "program " + name,
		present: func() bool { _, err := exec.LookPath(name); return err == nil },
		pkg:     pkg,
	}
}

func file(path, pkg string) prerequisite {
	return prerequisite{
		what:    "file " + path,
		present: func() bool { _, err := os.Stat(path); return err == nil },
		pkg:     pkg,
	}
}

// prerequisites lists what the rack needs and nothing that it does not.
func prerequisites(s Spec) []prerequisite {
	all := []prerequisite{
		{what: "root", present: func() bool { return os.Geteuid() == 0 }, hint: "run it as root (sudo): network namespaces and taps need it"},
		program(qemuProgram, "qemu-system-x86"),
		program("ip", "iproute2"),
		{
			what:    "device /dev/net/tun",
			present: func() bool { _, err := os.Stat("/dev/net/tun"); return err == nil },
			hint:    "load the kernel module tun",
		},
	}
	for _, m := range s.Machines {
		switch {
		case m.SecureBoot:
			all = append(all, file(ovmfSecureCode, "ovmf"), file(ovmfSecureVars, "ovmf"))
		case m.Firmware == FirmwareUEFI:
			all = append(all, file(ovmfCode, "ovmf"), file(ovmfVars, "ovmf"))
		case m.Firmware == FirmwareBIOS:
			all = append(all, file("/usr/share/seabios/bios-256k.bin", "seabios"))
		}
		for _, n := range m.NICs {
			if n.PXE == PXERom {
				all = append(all, file("/usr/lib/ipxe/qemu/pxe-virtio.rom", "ipxe-qemu"))
			}
		}
		if m.BMC.Driver == BMCIPMI {
			all = append(all, program("ipmi_sim", "openipmi"))
		}
	}
	return all
}

// checkPrerequisites names everything that is missing at once.
func checkPrerequisites(all []prerequisite) error {
	var missing []error
	var packages, seen []string
	for _, p := range all {
		if slices.Contains(seen, p.what) || p.present() {
			continue
		}
		seen = append(seen, p.what)
		if p.pkg == "" {
			missing = append(missing, fmt.Errorf("%s is missing: %s", p.what, p.hint))
			continue
		}
		missing = append(missing, fmt.Errorf("%s is missing: it is in Debian's package %s", p.what, p.pkg))
		if !slices.Contains(packages, p.pkg) {
			packages = append(packages, p.pkg)
		}
	}
	if len(packages) > 0 {
		missing = append(missing, fmt.Errorf("install what is missing with: apt-get install %s", strings.Join(packages, " ")))
	}
	return errors.Join(missing...)
}
