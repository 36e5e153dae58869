// Package host carries out an agent's tasks on the machine: it wipes disks,
// writes images to them, and gives a written system its identity.
//
// A disk is named by what does not change (wwn, serial, bus path, size), found
// again at the moment of writing, opened exclusively, and looked at through the
// very descriptor that is then written to. Whatever does not agree with the task
// ends it before the first byte is changed.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/edge-provision/edge-provision/imagebuilder/chunk"
	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/probe"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

// Disk is an opened disk.
type Disk interface {
	chunk.Target
	Bytes() int64
	SectorBytes() int
	// Flush makes what was written durable.
	Flush() error
	// Close flushes too.
	Close() error
}

// Getter fetches image bytes; agent.Client implements it.
type Getter interface {
	// Get opens ref; a positive length asks for exactly that range.
	Get(ctx context.Context, ref string, offset, length int64) (io.ReadCloser, error)
}

// Mounter makes the partitions of a disk available as directories.
type Mounter interface {
	// Reread makes the kernel read the disk's partition table again, and
	// returns when its partitions can be mounted. The disk is not open.
	Reread(ctx context.Context, disk string) error
	// Mount mounts partition number of disk and returns the directory. The
	// error wraps ErrNoFilesystem when none is there that can be mounted.
	Mount(ctx context.Context, disk string, number int, readOnly bool) (dir string, err error)
	// Unmount writes everything out and unmounts what Mount returned.
	Unmount(dir string) error
}

// ErrNoFilesystem says that a partition holds no filesystem that is known here.
var ErrNoFilesystem = errors.New("no filesystem that the installer can mount")

// Config configures a Host.
type Config struct {
	// Getter fetches manifests and frames. Required.
	Getter Getter
	// Disks lists the machine's disks afresh. Required.
	Disks func(ctx context.Context) ([]inventory.Disk, error)
	// Open opens a disk by kernel name, exclusively; nil opens the device in
	// /dev.
	Open func(name string) (Disk, error)
	// Mounter is required to configure.
	Mounter Mounter
	// EFI is the directory of the firmware's variables (efivarfs); empty
	// under BIOS.
	EFI string
	// Firmware is "uefi" or "bios", Architecture in GOARCH form: what an
	// image must be made for.
	Firmware     string
	Architecture string
	// Patience is how long bytes may not arrive before a write fails; default
	// five minutes, so that a controller may be killed and started again.
	Patience time.Duration
	// Owner sets the owner of a file of the installed system; nil does that.
	// An unprivileged test passes its own.
	Owner OwnerFunc
	// Logger receives diagnostics; nil discards them.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Host implements agent.Executor.
type Host struct {
	cfg Config
	log *slog.Logger
}

// New returns a Host.
func New(cfg Config) *Host {
	if cfg.Open == nil {
		cfg.Open = func(name string) (Disk, error) { return chunk.OpenDisk("/dev/" + name) }
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 5 * time.Minute
	}
	if cfg.Owner == nil {
		cfg.Owner = lchown
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Host{cfg: cfg, log: cfg.Logger}
}

// Execute implements agent.Executor.
func (h *Host) Execute(ctx context.Context, task agent.Task, report func(agent.Progress) error) agent.Result {
	var result agent.Result
	var err error
	switch task.Kind {
	case agent.KindWipe:
		err = h.wipe(ctx, *task.Wipe, report)
	case agent.KindWrite:
		result.Write, err = h.write(ctx, *task.Write, report)
	case agent.KindConfigure:
		result.Configure, err = h.configure(ctx, *task.Configure, report)
	default:
		err = refused(agent.CodeInvalid, "this agent does not know tasks of kind %q", task.Kind)
	}
	result.Outcome = agent.OutcomeOK
	if err != nil {
		result.Outcome = agent.OutcomeFailed
		result.Error = &agent.Failure{Code: agent.CodeInternal, Message: err.Error()}
		var f *failure
		if errors.As(err, &f) {
			result.Error.Code = f.code
			if f.untouched {
				result.Outcome = agent.OutcomeRefused
			}
		}
	}
	return result
}

// failure is an error with the code that the controller is told. untouched says
// that nothing was changed on any disk.
type failure struct {
	code      agent.Code
	untouched bool
	err       error
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// refused is a failure before anything was changed.
func refused(code agent.Code, format string, args ...any) error {
	return &failure{code: code, untouched: true, err: fmt.Errorf(format, args...)}
}

// failing is a failure that may have left a disk half-changed.
func failing(code agent.Code, format string, args ...any) error {
	return &failure{code: code, err: fmt.Errorf(format, args...)}
}

// find returns the one disk that ref names.
func (h *Host) find(ctx context.Context, ref agent.DiskRef) (inventory.Disk, error) {
	disks, err := h.cfg.Disks(ctx)
	if err != nil && len(disks) == 0 {
		return inventory.Disk{}, refused(agent.CodeDisk, "looking for %s: %w", ref, err)
	}
	var named []inventory.Disk
	for _, d := range disks {
		if matches(ref, d) {
			named = append(named, d)
		}
	}
	switch {
	case len(named) == 0:
		return inventory.Disk{}, refused(agent.CodeDiskMissing, "%s is not in this machine; it has %s", ref, list(disks))
	case len(named) > 1:
		return inventory.Disk{}, refused(agent.CodeDiskAmbiguous, "%s names %d disks of this machine: %s", ref, len(named), list(named))
	case named[0].Bytes != ref.Bytes:
		return inventory.Disk{}, refused(agent.CodeDiskSize, "%s now has %d bytes: it is not the disk of the plan; plan again", ref, named[0].Bytes)
	}
	return named[0], nil
}

// matches compares everything but the size, whose difference deserves words of
// its own.
func matches(ref agent.DiskRef, d inventory.Disk) bool {
	if ref.WWN == "" && ref.Serial == "" && ref.ByPath == "" {
		return false
	}
	return (ref.WWN == "" || ref.WWN == d.WWN) &&
		(ref.Serial == "" || ref.Serial == d.Serial) &&
		(ref.ByPath == "" || ref.ByPath == d.Path)
}

func list(disks []inventory.Disk) string {
	if len(disks) == 0 {
		return "no disks"
	}
	var names []string
	for _, d := range disks {
		names = append(names, d.Name+": "+agent.Ref(d).String())
	}
	return strings.Join(names, "; ")
}

// open finds a disk, opens it exclusively, and makes sure that what was opened is
// what was found: kernel names move when disks are plugged.
func (h *Host) open(ctx context.Context, ref agent.DiskRef) (Disk, inventory.Disk, error) {
	found, err := h.find(ctx, ref)
	if err != nil {
		return nil, found, err
	}
	disk, err := h.cfg.Open(found.Name)
	if err != nil {
		return nil, found, refused(agent.CodeDisk, "opening %s as %s: %w", ref, found.Name, err)
	}
	again, err := h.find(ctx, ref)
	if err == nil && again.Name != found.Name {
		err = refused(agent.CodeDiskAmbiguous, "%s moved from %s to %s while it was opened: try again", ref, found.Name, again.Name)
	}
	if err == nil && disk.Bytes() != ref.Bytes {
		err = refused(agent.CodeDiskSize, "%s, opened as %s, has %d bytes: it is not the disk of the plan; plan again", ref, found.Name, disk.Bytes())
	}
	if err != nil {
		return nil, found, errors.Join(err, disk.Close())
	}
	return disk, found, nil
}

// consented looks at the opened disk and refuses when it carries anything that
// the person who agreed did not know of.
func consented(disk Disk, ref agent.DiskRef, consent agent.Consent) (probe.Content, error) {
	content, err := probe.ReadContent(disk, disk.Bytes())
	if err != nil {
		return content, refused(agent.CodeDisk, "looking at what is on %s: %w", ref, err)
	}
	for _, s := range content.Signatures {
		if !slices.Contains(consent.Signatures, s) {
			return content, refused(agent.CodeSignature, "%s carries %s, but only losing %s was agreed to: plan again and look at what is on it",
				ref, strings.Join(content.Signatures, ", "), orNothing(consent.Signatures))
		}
	}
	return content, nil
}

func orNothing(s []string) string {
	if len(s) == 0 {
		return "nothing"
	}
	return strings.Join(s, ", ")
}
