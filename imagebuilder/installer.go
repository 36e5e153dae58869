package imagebuilder

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/edge-provision/edge-provision/imagebuilder/cpio"
)

// InstallerSpec says what machines netboot.
type InstallerSpec struct {
	AgentPath string // static edge-agent for Linux on amd64; becomes /init
	// KernelDir is an unpacked kernel package (boot/vmlinuz-*, lib/modules/*). Zero: Debian's generic kernel is
	// downloaded with this machine's APT configuration, once; Refresh asks the archive for a newer one.
	KernelDir  string
	Release    string   // Debian release of the downloaded kernel; zero: that of this machine
	APTSources []string // as in OSSpec
	Refresh    bool
	// FirmwareDir is a tree of firmware blobs that becomes /lib/firmware; zero: none.
	FirmwareDir string
}

// Installer is a kernel and an initramfs in the cache.
type Installer struct {
	Kernel        File
	Initramfs     File
	KernelRelease string // as uname -r says
	Cached        bool
}

// File is one file of an installer.
type File struct {
	Path   string `json:"path"` // in a record: relative to it
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

type installerRecord struct {
	KernelRelease string `json:"kernel_release"`
	Kernel        File   `json:"kernel"`
	Initramfs     File   `json:"initramfs"`
}

// installerEpoch is the time of every file in an initramfs; nothing looks at it.
const installerEpoch = 1

const (
	kernelFile    = "vmlinuz"
	initramfsFile = "initramfs.zst"
	maxBlobBytes  = 64 << 20
)

// BuildInstaller returns the installer of a spec, building it when the cache does not have it. It needs no root.
func (b *Builder) BuildInstaller(ctx context.Context, spec InstallerSpec) (Installer, error) {
	i, err := b.buildInstaller(ctx, spec)
	if err != nil {
		return Installer{}, fmt.Errorf("building installer: %w", err)
	}
	return i, nil
}

func (b *Builder) buildInstaller(ctx context.Context, spec InstallerSpec) (_ Installer, err error) {
	if err := checkAgent(spec.AgentPath); err != nil {
		return Installer{}, err
	}
	if err := requireTools([]tool{{"depmod", "kmod"}, {"dpkg-deb", "dpkg"}}); err != nil {
		return Installer{}, err
	}
	agent, err := digestTree(spec.AgentPath)
	if err != nil {
		return Installer{}, err
	}
	firmware := ""
	if spec.FirmwareDir != "" {
		if firmware, err = digestTree(spec.FirmwareDir); err != nil {
			return Installer{}, err
		}
	}
	kernel, err := b.kernel(ctx, spec)
	if err != nil {
		return Installer{}, err
	}
	// Kernel and modules change with the archive, the agent with every build of ours: the expensive part is kept
	// apart, and the kernel unpacks one archive after the other.
	baseKey := keyOf("installer base", kernel.id, firmware, wantedModules, unwantedModules)
	base, err := b.installerPart(ctx, baseKey, func(work, made string) error {
		tree := kernel.dir
		if tree == "" {
			tree = filepath.Join(work, "kernel")
			if _, err := (command{}).run(ctx, "dpkg-deb", "--extract", kernel.deb, tree); err != nil {
				return fmt.Errorf("unpacking the kernel: %w", err)
			}
		}
		return assembleBase(ctx, tree, filepath.Join(work, "stage"), made, spec.FirmwareDir)
	})
	if err != nil {
		return Installer{}, err
	}
	return b.installerPart(ctx, keyOf("installer", base.Kernel.SHA256, base.Initramfs.SHA256, agent), func(_, made string) error {
		return addAgent(base, made, spec.AgentPath)
	})
}

// installerPart returns what the cache keeps under a key, letting assemble make it when it is not there.
func (b *Builder) installerPart(ctx context.Context, key string, assemble func(work, made string) error) (_ Installer, err error) {
	dir := filepath.Join(b.cacheDir(), "installers", key)
	if i, err := openInstaller(dir); err == nil {
		return i, nil
	}
	unlock, err := b.lock(ctx, key)
	if err != nil {
		return Installer{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if i, err := openInstaller(dir); err == nil {
		return i, nil
	}
	work, err := b.workDir(key)
	if err != nil {
		return Installer{}, err
	}
	defer func() { err = errors.Join(err, removeTree(work)) }()
	b.progress("installer", 0, 0)
	made := filepath.Join(work, "installer")
	if err := assemble(work, made); err != nil {
		return Installer{}, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return Installer{}, err
	}
	if err := os.RemoveAll(dir); err != nil {
		return Installer{}, fmt.Errorf("replacing a damaged installer: %w", err)
	}
	if err := os.Rename(made, dir); err != nil {
		return Installer{}, err
	}
	i, err := openInstaller(dir)
	i.Cached = false
	return i, err
}

// checkAgent refuses what the kernel could not start as /init: it has no shared libraries and may be another machine's.
func checkAgent(name string) error {
	f, err := elf.Open(name)
	if err != nil {
		return fmt.Errorf("reading edge-agent %s: %w", name, err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("edge-agent %s is made for %s; want amd64", name, f.Machine)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("edge-agent %s is linked dynamically: build it with CGO_ENABLED=0", name)
		}
	}
	return nil
}

// digestTree digests a file, or a directory with the names in it.
func digestTree(root string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		sum := sha256.New()
		if _, err := io.Copy(sum, f); err != nil {
			return err
		}
		_, err = fmt.Fprintf(h, "%q %x\n", relative, sum.Sum(nil))
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", root, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func openInstaller(dir string) (Installer, error) {
	var record installerRecord
	if err := readJSON(filepath.Join(dir, "installer.json"), &record); err != nil {
		return Installer{}, err
	}
	i := Installer{Kernel: record.Kernel, Initramfs: record.Initramfs, KernelRelease: record.KernelRelease, Cached: true}
	for _, f := range []*File{&i.Kernel, &i.Initramfs} {
		f.Path = filepath.Join(dir, filepath.Base(f.Path))
		got, err := describeFile(f.Path)
		if err != nil {
			return Installer{}, err
		}
		if got != *f {
			return Installer{}, fmt.Errorf("%w: %s is damaged", errStale, f.Path)
		}
	}
	return i, nil
}

func describeFile(name string) (File, error) {
	f, err := os.Open(name)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, err
	}
	return File{Path: name, SHA256: hex.EncodeToString(h.Sum(nil)), Bytes: n}, nil
}

// kernelSource is where the kernel comes from: an unpacked tree or a package in the cache.
type kernelSource struct{ id, dir, deb string }

func (b *Builder) kernel(ctx context.Context, spec InstallerSpec) (kernelSource, error) {
	if spec.KernelDir != "" {
		id, err := digestTree(filepath.Join(spec.KernelDir, "boot"))
		return kernelSource{id: id, dir: spec.KernelDir}, err
	}
	if spec.Release == "" {
		release, err := machineRelease("/etc/os-release")
		if err != nil {
			return kernelSource{}, err
		}
		spec.Release = release
	}
	recordPath := filepath.Join(b.cacheDir(), "builds", keyOf("kernel", spec.Release, spec.APTSources)+".json")
	var p LockedPackage
	a := archive{builder: b}
	if err := readJSON(recordPath, &p); err == nil && !spec.Refresh {
		if checkFile(a.file(p), p.Bytes, p.SHA256) == nil {
			return kernelSource{id: p.SHA256.String(), deb: a.file(p)}, nil
		}
	}
	key := keyOf("kernel", spec.Release)
	unlock, err := b.lock(ctx, key)
	if err != nil {
		return kernelSource{}, err
	}
	k, err := b.downloadKernel(ctx, spec, key, recordPath)
	return k, errors.Join(err, unlock())
}

func (b *Builder) downloadKernel(ctx context.Context, spec InstallerSpec, key, recordPath string) (_ kernelSource, err error) {
	dir, err := b.workDir(key)
	if err != nil {
		return kernelSource{}, err
	}
	defer func() { err = errors.Join(err, removeTree(dir)) }()
	os := OSSpec{Distribution: "debian", Release: spec.Release, Architecture: "amd64", APTSources: spec.APTSources}
	a, err := newArchive(ctx, b, dir, os)
	if err != nil {
		return kernelSource{}, err
	}
	b.progress("resolve", 0, 0)
	p, err := a.resolveKernel(ctx)
	if err != nil {
		return kernelSource{}, err
	}
	if err := a.download(ctx, []LockedPackage{p}, filepath.Join(dir, "repository")); err != nil {
		return kernelSource{}, err
	}
	if err := writeJSON(recordPath, p); err != nil {
		return kernelSource{}, fmt.Errorf("recording the kernel: %w", err)
	}
	return kernelSource{id: p.SHA256.String(), deb: a.file(p)}, nil
}

// resolveKernel finds the package that holds the kernel: the one that linux-image-amd64 depends on.
func (a *archive) resolveKernel(ctx context.Context) (LockedPackage, error) {
	if err := a.update(ctx); err != nil {
		return LockedPackage{}, err
	}
	out, err := command{env: a.env}.run(ctx, "apt-get", "--quiet", "--yes", "-o", "Acquire::ForceHash=SHA256", "--print-uris", "install", kernelPackages["generic"])
	if err != nil {
		return LockedPackage{}, fmt.Errorf("resolving the kernel package: %w", err)
	}
	packages, err := parseURIs(out)
	if err != nil {
		return LockedPackage{}, err
	}
	for _, p := range packages {
		if strings.HasPrefix(p.Name, "linux-image-") && p.Name != kernelPackages["generic"] {
			return p, nil
		}
	}
	return LockedPackage{}, fmt.Errorf("package %s depends on no kernel", kernelPackages["generic"])
}

func machineRelease(osRelease string) (string, error) {
	f, err := os.Open(osRelease)
	if err != nil {
		return "", fmt.Errorf("reading this machine's release: %w", err)
	}
	defer f.Close()
	for scanner := bufio.NewScanner(f); scanner.Scan(); {
		if name, ok := strings.CutPrefix(scanner.Text(), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"'`), nil
		}
	}
	return "", fmt.Errorf("%s has no VERSION_CODENAME: name the release of the installer's kernel", osRelease)
}

// assembleBase writes kernel, modules and record of an unpacked kernel into made: all but the agent.
func assembleBase(ctx context.Context, tree, stage, made, firmwareDir string) error {
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("%s/boot holds %d kernels (vmlinuz-*); want one", tree, len(kernels))
	}
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	modules, err := stageModules(ctx, tree, release, stage)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(kernels[0])
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(made, kernelFile), content, 0o644); err != nil {
		return err
	}
	archive, err := compressArchive(zstd.SpeedBetterCompression, func(w *cpio.Writer) error {
		return packModules(ctx, w, modules, release, firmwareDir)
	})
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(made, initramfsFile), archive, 0o644); err != nil {
		return err
	}
	return recordInstaller(made, release)
}

// addAgent writes the whole installer into made: base and, after it, the archive with the agent.
func addAgent(base Installer, made, agentPath string) error {
	archive, err := compressArchive(zstd.SpeedBetterCompression, func(w *cpio.Writer) error {
		if err := packFile(w, "init", agentPath, 0o755); err != nil {
			return err
		}
		return w.Close()
	})
	if err != nil {
		return err
	}
	initramfs, err := os.ReadFile(base.Initramfs.Path)
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(made, initramfsFile), append(initramfs, archive...), 0o644); err != nil {
		return err
	}
	if err := os.Link(base.Kernel.Path, filepath.Join(made, kernelFile)); err != nil {
		return err
	}
	return recordInstaller(made, base.KernelRelease)
}

func recordInstaller(made, release string) error {
	record := installerRecord{KernelRelease: release}
	var err error
	if record.Kernel, err = describeFile(filepath.Join(made, kernelFile)); err != nil {
		return err
	}
	if record.Initramfs, err = describeFile(filepath.Join(made, initramfsFile)); err != nil {
		return err
	}
	record.Kernel.Path, record.Initramfs.Path = kernelFile, initramfsFile
	return writeJSON(filepath.Join(made, "installer.json"), record)
}

// compressArchive returns a cpio archive as one zstd frame. Debian's kernels since 5.9 unpack zstd.
func compressArchive(level zstd.EncoderLevel, pack func(*cpio.Writer) error) ([]byte, error) {
	var archive bytes.Buffer
	// The window reaches over neighbouring modules, which have much in common; the kernel allows 128 MiB
	// (lib/decompress_unzstd.c).
	compressor, err := zstd.NewWriter(&archive, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(32<<20))
	if err != nil {
		return nil, fmt.Errorf("starting zstd: %w", err)
	}
	if err := errors.Join(pack(cpio.NewWriter(compressor, installerEpoch)), compressor.Close()); err != nil {
		return nil, fmt.Errorf("packing the initramfs: %w", err)
	}
	return archive.Bytes(), nil
}

func packModules(ctx context.Context, w *cpio.Writer, modules, release, firmwareDir string) error {
	for _, dir := range []string{"dev", "etc", "mnt", "proc", "root", "run", "sys", "tmp"} {
		if err := w.Directory(dir, 0o755); err != nil {
			return err
		}
	}
	// The kernel opens /dev/console for PID 1 before anything is mounted.
	for _, device := range []cpio.Header{{Name: "dev/console", Major: 5, Minor: 1}, {Name: "dev/null", Major: 1, Minor: 3}} {
		device.Mode = cpio.ModeCharacter | 0o600
		if err := w.WriteHeader(device); err != nil {
			return err
		}
	}
	target := "lib/modules/" + release
	for _, table := range moduleTables {
		if err := packFile(w, target+"/"+table, filepath.Join(modules, table), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := packTree(ctx, w, target+"/kernel", filepath.Join(modules, "kernel")); err != nil {
		return err
	}
	if firmwareDir != "" {
		if err := packTree(ctx, w, "lib/firmware", firmwareDir); err != nil {
			return err
		}
	}
	return w.Close()
}

func packFile(w *cpio.Writer, name, source string, permissions uint32) error {
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.Size() > maxBlobBytes {
		return fmt.Errorf("%s has %d bytes; an initramfs takes files up to %d", source, info.Size(), maxBlobBytes)
	}
	content, err := os.ReadFile(source)
	if err != nil {
		return err
	}
	return w.File(name, permissions, content)
}

// packTree adds the files and symlinks of a directory in the order of their names.
func packTree(ctx context.Context, w *cpio.Writer, prefix, dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		name, source := prefix+"/"+entry.Name(), filepath.Join(dir, entry.Name())
		switch {
		case entry.IsDir():
			err = packTree(ctx, w, name, source)
		case entry.Type() == fs.ModeSymlink:
			var target string
			if target, err = os.Readlink(source); err == nil {
				err = w.Symlink(name, target)
			}
		case entry.Type().IsRegular():
			err = packFile(w, name, source, 0o644)
		default:
			err = fmt.Errorf("%s is neither file, directory nor symlink", source)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
