package imagebuilder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/edge-provision/edge-provision/imagebuilder/gpt"
)

// osTools are the programs that BuildOS runs.
var osTools = []tool{
	{"mmdebstrap", "mmdebstrap"},
	{"apt-get", "apt"},
	{"dpkg-deb", "dpkg"},
	{"mke2fs", "e2fsprogs"},
	{"mkfs.vfat", "dosfstools"},
	{"mcopy", "mtools"},
	{"grub-mkimage", "grub-common"},
	{"chroot", "coreutils"},
}

// osBuild is one build of an operating system image.
type osBuild struct {
	builder    *Builder
	spec       OSSpec
	lock       *Lock
	dir        string // work directory
	repository string
	root       string // the root file system as a directory
	seed       string // of every identifier in the image
}

func (o *osBuild) guid(purpose string) gpt.GUID { return gpt.Deterministic(o.seed, purpose) }

// build returns the path of the raw disk.
func (o *osBuild) build(ctx context.Context) (string, error) {
	o.builder.progress("install", 0, 0)
	if err := o.install(ctx); err != nil {
		return "", err
	}
	if err := o.configure(ctx); err != nil {
		return "", err
	}
	o.builder.progress("lay out", 0, 0)
	return o.layOut(ctx)
}

func (o *osBuild) epoch() string { return fmt.Sprintf("SOURCE_DATE_EPOCH=%d", o.lock.SourceDateEpoch) }

// mmdebstrapOptions say what is installed and what is left out, whatever it is installed from.
func mmdebstrapOptions(spec OSSpec) []string {
	return []string{
		"--quiet", "--mode=root", "--variant=apt", "--format=directory", "--architectures=" + spec.Architecture,
		"--include=" + strings.Join(spec.Packages, ","),
		`--aptopt=APT::Install-Recommends "false"`, `--aptopt=Acquire::Languages "none"`, `--aptopt=APT::Sandbox::User "root"`,
		// Copyright files stay: licences ask for them.
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/info/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/lintian/*",
		// initramfs-tools would write the building machine's swap device into the image.
		`--essential-hook=mkdir -p "$1/etc/initramfs-tools/conf.d" && echo RESUME=none >"$1/etc/initramfs-tools/conf.d/resume"`,
	}
}

// install runs mmdebstrap over the repository of locked packages.
func (o *osBuild) install(ctx context.Context) error {
	args := append(mmdebstrapOptions(o.spec), o.spec.Release, o.root, "deb [trusted=yes] copy:"+o.repository+" ./")
	if _, err := (command{dir: o.dir, env: []string{o.epoch()}, private: true}).run(ctx, "mmdebstrap", args...); err != nil {
		return fmt.Errorf("installing packages: %w", err)
	}
	return o.checkInstalled(ctx)
}

// checkInstalled compares what is installed with the lock.
func (o *osBuild) checkInstalled(ctx context.Context) error {
	out, err := command{}.run(ctx, "dpkg-query", "--admindir="+filepath.Join(o.root, "var/lib/dpkg"), "-W", "-f", "${Package} ${Version} ${db:Status-Status}\n")
	if err != nil {
		return fmt.Errorf("listing installed packages: %w", err)
	}
	installed := map[string]bool{}
	for line := range strings.Lines(string(out)) {
		installed[strings.TrimSpace(line)] = true
	}
	for _, p := range o.lock.Packages {
		line := p.Name + " " + p.Version + " installed"
		if !installed[line] {
			return fmt.Errorf("package %s %s of the lock was not installed", p.Name, p.Version)
		}
		delete(installed, line)
	}
	for line := range installed {
		return fmt.Errorf("package %s was installed although the lock does not name it", line)
	}
	return nil
}

// Files that configure the system, by path.
func (o *osBuild) files() (map[string]string, error) {
	rootGUID := o.guid("partition root")
	contract, err := json.MarshalIndent(Contract{
		Version: ContractVersion, Distribution: o.spec.Distribution, Release: o.spec.Release, Architecture: o.spec.Architecture, Kernel: o.spec.Kernel,
		Partitions: map[string]ContractPartition{
			"bios_boot": {Number: BIOSBootNumber, Label: "bios", GUID: o.guid("partition bios").String()},
			"esp":       {Number: ESPNumber, Label: "esp", FileSystem: "vfat", GUID: o.guid("partition esp").String()},
			"root":      {Number: RootNumber, Label: "root", FileSystem: "ext4", GUID: rootGUID.String()},
		},
		PARTUUIDFiles: []string{"/etc/fstab"}, Network: "systemd-networkd", SSHHostKey: SSHHostKeyPath,
	}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("writing the image's contract: %w", err)
	}
	return map[string]string{
		ContractPath:                             string(contract) + "\n",
		"/etc/fstab":                             fmt.Sprintf("PARTUUID=%s / ext4 errors=remount-ro,x-systemd.growfs 0 1\n", rootGUID),
		"/etc/hosts":                             "127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n",
		"/etc/apt/sources.list.d/debian.sources": o.lock.Sources,
		"/etc/machine-id":                        "",
		"/etc/hostname":                          "localhost\n",
		"/etc/default/locale":                    "LANG=C.UTF-8\n",
		"/etc/ssh/sshd_config.d/edge-provision.conf": "# One host key, which is made on the machine; nobody logs in by password.\n" +
			"HostKey " + SSHHostKeyPath + "\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n",
		// Written by the agent in most cases; this serves an image that was started without it.
		"/etc/systemd/system/edge-provision-host-key.service": "[Unit]\nDescription=Make the SSH host key of this machine\n" +
			"ConditionPathExists=!" + SSHHostKeyPath + "\nBefore=ssh.service\n\n[Service]\nType=oneshot\n" +
			"ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N \"\" -f " + SSHHostKeyPath + "\n\n[Install]\nWantedBy=ssh.service\n",
		"/boot/grub/grub.cfg": o.grubConfig(),
	}, nil
}

// wiped are files that the building machine or the package scripts left and that must not be in an image.
var wiped = []string{
	"etc/ssh/ssh_host_*", "etc/resolv.conf", "etc/apt/sources.list", "etc/apt/apt.conf.d/99mmdebstrap", "var/cache/debconf/*-old", "var/lib/dpkg/*-old",
	"var/cache/apt/*.bin", "var/cache/ldconfig/aux-cache", "var/log/*.log", "var/log/apt/*", "var/log/journal/*", "var/lib/apt/lists/*", "var/lib/systemd/random-seed",
	"var/lib/dbus/machine-id", "etc/.pwd.lock", "run/*", "tmp/*", "vmlinuz.old", "initrd.img.old", "var/backups/*",
}

// enabled and masked units. Timers that fetch from the archive or check file systems have no place on a site that
// may be offline; what they do is the operator's to ask for.
var (
	enabled = []string{"systemd-networkd.service", "systemd-resolved.service", "ssh.service", "edge-provision-host-key.service"}
	masked  = []string{"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service"}
)

func (o *osBuild) configure(ctx context.Context) error {
	for _, pattern := range wiped {
		matches, err := filepath.Glob(filepath.Join(o.root, pattern))
		if err != nil {
			return fmt.Errorf("cleaning the image: %w", err)
		}
		for _, match := range matches {
			if err := os.RemoveAll(match); err != nil {
				return fmt.Errorf("cleaning the image: %w", err)
			}
		}
	}
	files, err := o.files()
	if err != nil {
		return err
	}
	for name, content := range files {
		if err := makeParents(o.root, filepath.Dir(name)); err != nil {
			return fmt.Errorf("configuring the image: %w", err)
		}
		if err := writeFile(filepath.Join(o.root, name), []byte(content), 0o644); err != nil {
			return fmt.Errorf("configuring the image: %w", err)
		}
	}
	if err := os.Symlink("../run/systemd/resolve/stub-resolv.conf", filepath.Join(o.root, "etc/resolv.conf")); err != nil {
		return fmt.Errorf("configuring the image: %w", err)
	}
	for verb, units := range map[string][]string{"enable": enabled, "mask": masked} {
		if _, err := (command{}).run(ctx, "chroot", append([]string{o.root, "systemctl", verb}, units...)...); err != nil {
			return fmt.Errorf("configuring the image's services: %w", err)
		}
	}
	for _, name := range []string{"vmlinuz", "initrd.img"} {
		if _, err := os.Stat(filepath.Join(o.root, name)); err != nil {
			return errors.Join(fmt.Errorf("the kernel package left no /%s", name), err)
		}
	}
	return nil
}

// makeParents makes a directory below root and those above it with mode 0755, whatever the umask of this process.
func makeParents(root, dir string) error {
	if dir == "/" {
		return nil
	}
	if err := makeParents(root, filepath.Dir(dir)); err != nil {
		return err
	}
	path := filepath.Join(root, dir)
	if err := os.Mkdir(path, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return nil
		}
		return err
	}
	return os.Chmod(path, 0o755)
}
