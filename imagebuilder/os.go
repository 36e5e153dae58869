package imagebuilder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
)

// builderVersion is part of every build's key: raise it whenever a change of this package changes the images.
const builderVersion = 1

// OSSectorBytes is the logical sector that images built from packages are made for.
const OSSectorBytes = 512

// OSSpec says what operating system image to build.
type OSSpec struct {
	Distribution string   // zero: "debian", the only one
	Release      string   // code name, as "bookworm"
	Architecture string   // zero: "amd64", the only one
	Packages     []string // beside the base system; see basePackages
	Kernel       string   // "generic" (zero) or "cloud": small, without drivers of real hardware
	KernelArgs   []string // added to the kernel command line
	SizeBytes    int64    // of the raw disk; zero: as small as the content allows, with some room
	// APTSources replaces the machine's own APT sources: each entry is a "deb …" line or a deb822 paragraph. Empty: those
	// entries of /etc/apt/sources.list* that offer the release. Proxies and credentials are always the machine's.
	APTSources []string
	// Lock pins the packages. Nil: the lock of the last build of this spec, or what the archive offers now when there is
	// none.
	Lock *Lock
	// Refresh asks the archive anew instead of using the last build's lock.
	Refresh bool
}

// basePackages make a system that boots, is reached over SSH and configured by networkd.
var basePackages = []string{
	"ca-certificates", "dbus", "e2fsprogs", "initramfs-tools", "iproute2", "kmod", "openssh-server", "procps", "sudo", "systemd-resolved",
	"systemd-sysv", "udev", "zstd",
}

// timeDaemons are Debian's packages that keep the clock, of which a system has one: each provides and conflicts with
// time-daemon. No other package brings one, for those that are only recommended are left out.
var timeDaemons = []string{"chrony", "ntp", "ntpsec", "openntpd", defaultTimeDaemon}

// defaultTimeDaemon is the one of an image that asks for none. The agent gives it the site's time servers.
const defaultTimeDaemon = "systemd-timesyncd"

var kernelPackages = map[string]string{"generic": "linux-image-amd64", "cloud": "linux-image-cloud-amd64"}

const (
	minOSBytes = 512 << 20
	maxOSBytes = chunk.MaxChunks * chunk.MaxChunkBytes
)

func (s OSSpec) normalize() (OSSpec, error) {
	if s.Distribution == "" {
		s.Distribution = "debian"
	}
	if s.Architecture == "" {
		s.Architecture = "amd64"
	}
	if s.Kernel == "" {
		s.Kernel = "generic"
	}
	switch {
	case s.Distribution != "debian":
		return s, fmt.Errorf("image: distribution %.40q cannot be built; only debian can (others can be imported)", s.Distribution)
	case !releaseName.MatchString(s.Release):
		return s, fmt.Errorf("image: release %.40q is not a code name such as bookworm", s.Release)
	case s.Architecture != "amd64":
		return s, fmt.Errorf("image: architecture %.40q cannot be built; only amd64 can", s.Architecture)
	case kernelPackages[s.Kernel] == "":
		return s, fmt.Errorf("image: kernel %.40q is unknown; want generic or cloud", s.Kernel)
	case s.SizeBytes != 0 && (s.SizeBytes < minOSBytes || s.SizeBytes > maxOSBytes || s.SizeBytes%(1<<20) != 0):
		return s, fmt.Errorf("image: size %d is not a multiple of 1 MiB from %d to %d bytes", s.SizeBytes, minOSBytes, int64(maxOSBytes))
	}
	for _, name := range s.Packages {
		if !packageName.MatchString(name) {
			return s, fmt.Errorf("image: %.60q is not a package name", name)
		}
	}
	for _, arg := range s.KernelArgs {
		// The arguments stand in a configuration that GRUB's shell reads.
		if arg == "" || strings.ContainsFunc(arg, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'\$;|&<>{}`, r) }) {
			return s, fmt.Errorf("image: kernel argument %.80q has a character that GRUB would take for its own", arg)
		}
	}
	base := basePackages
	if !slices.ContainsFunc(s.Packages, func(name string) bool { return slices.Contains(timeDaemons, name) }) {
		base = append(slices.Clone(base), defaultTimeDaemon)
	}
	s.Packages = slices.Concat(s.Packages, base, []string{kernelPackages[s.Kernel]})
	slices.Sort(s.Packages)
	s.Packages = slices.Compact(s.Packages)
	if s.Lock != nil {
		if err := s.Lock.Validate(); err != nil {
			return s, err
		}
		if s.Lock.Release != s.Release || s.Lock.Architecture != s.Architecture || !slices.Equal(s.Lock.Request, s.Packages) {
			return s, fmt.Errorf("image: the package lock was made for another release, architecture or list of packages: refresh it")
		}
	}
	return s, nil
}

// key names the request without its lock.
func (s OSSpec) key() string {
	return keyOf("os", s.Distribution, s.Release, s.Architecture, s.Packages, s.Kernel, s.KernelArgs, s.SizeBytes, s.APTSources)
}

// keyOf digests any values that JSON can tell apart.
func keyOf(values ...any) string {
	text, err := json.Marshal(append([]any{builderVersion}, values...))
	if err != nil {
		// Only strings, numbers and lists of them are given to it.
		panic(err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// osRecord is what the cache remembers of the last build of a spec.
type osRecord struct {
	Digest string `json:"digest"`
	Lock   *Lock  `json:"lock"`
}

// BuildOS returns the image of a spec, building it when the cache does not have it. A build needs root, because packages
// are installed with mmdebstrap in a chroot; no loop device and no mount of the image is needed. What the archive offers
// is looked at once: later calls use the lock of the first until spec.Refresh asks for newer packages.
func (b *Builder) BuildOS(ctx context.Context, spec OSSpec) (Artifact, error) {
	spec, err := spec.normalize()
	if err != nil {
		return Artifact{}, err
	}
	key := spec.key()
	if spec.Lock != nil {
		key = keyOf(key, spec.Lock.digest())
	}
	recordPath := filepath.Join(b.cacheDir(), "builds", key+".json")
	if a, _, err := b.recorded(recordPath); err == nil && !spec.Refresh {
		return a, nil
	}
	unlock, err := b.lock(ctx, key)
	if err != nil {
		return Artifact{}, err
	}
	a, err := b.buildOSLocked(ctx, spec, key, recordPath)
	if err != nil {
		err = fmt.Errorf("building image debian %s: %w", spec.Release, err)
	}
	return a, errors.Join(err, unlock())
}

// recorded returns the image that a record names, and the lock of the record even when the image is gone.
func (b *Builder) recorded(recordPath string) (Artifact, *Lock, error) {
	var record osRecord
	if err := readJSON(recordPath, &record); err != nil {
		return Artifact{}, nil, err
	}
	if record.Lock != nil && record.Lock.Validate() != nil {
		return Artifact{}, nil, errStale
	}
	a, err := b.Open(record.Digest)
	if err != nil {
		return Artifact{}, record.Lock, err
	}
	a.Cached, a.Lock = true, record.Lock
	return a, record.Lock, nil
}

func (b *Builder) buildOSLocked(ctx context.Context, spec OSSpec, key, recordPath string) (_ Artifact, err error) {
	lock := spec.Lock
	if !spec.Refresh {
		// The record may have come while this build waited for the lock.
		a, recorded, err := b.recorded(recordPath)
		if err == nil {
			return a, nil
		}
		if lock == nil {
			lock = recorded
		}
	}
	if os.Geteuid() != 0 {
		return Artifact{}, errors.New("packages are installed in a chroot, which needs root: run as root, or import an image built elsewhere")
	}
	if err := requireTools(osTools); err != nil {
		return Artifact{}, err
	}
	dir, err := b.workDir(key)
	if err != nil {
		return Artifact{}, err
	}
	defer func() { err = errors.Join(err, removeTree(dir)) }()

	archive, err := newArchive(ctx, b, filepath.Join(dir, "apt"), spec)
	if err != nil {
		return Artifact{}, err
	}
	if lock == nil {
		b.progress("resolve", 0, 0)
		if lock, err = archive.resolve(ctx, spec); err != nil {
			return Artifact{}, err
		}
	}
	// What the archive offers may have been built already: a refresh that finds
	// nothing newer builds nothing.
	lockedPath := filepath.Join(filepath.Dir(recordPath), keyOf(spec.key(), lock.digest())+".json")
	if a, _, err := b.recorded(lockedPath); err == nil {
		return a, b.recordOS(recordPath, a)
	}
	repository := filepath.Join(dir, "repository")
	if err := archive.download(ctx, lock.Packages, repository); err != nil {
		return Artifact{}, err
	}
	o := osBuild{builder: b, spec: spec, lock: lock, dir: dir, repository: repository, root: filepath.Join(dir, "root"), seed: keyOf(spec.key(), lock.digest())}
	raw, err := o.build(ctx)
	if err != nil {
		return Artifact{}, err
	}
	source := Source{Kind: "debian", Release: spec.Release, Kernel: spec.Kernel, Lock: lock}
	a, err := b.store(ctx, dir, raw, chunk.CreateOptions{Architecture: spec.Architecture, Firmware: []string{"bios", "uefi"}, SectorBytes: OSSectorBytes}, source)
	if err != nil {
		return Artifact{}, err
	}
	a.Lock = lock
	// The same build asked for by its lock finds the image too.
	return a, errors.Join(b.recordOS(recordPath, a), b.recordOS(lockedPath, a))
}

// recordOS remembers which image a request became, and from which packages.
func (b *Builder) recordOS(path string, a Artifact) error {
	if err := writeJSON(path, osRecord{Digest: a.Digest, Lock: a.Lock}); err != nil {
		return fmt.Errorf("recording the build: %w", err)
	}
	return nil
}
