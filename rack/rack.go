// Package rack is the virtual rack: it emulates the machines that a site
// declares, with real firmware in QEMU and a BMC in front of each, on a private
// network, so that a site can be rehearsed, demonstrated and tested on one
// host. What is emulated is the hardware only: the firmware, its PXE stacks and
// the wire are the real ones.
//
//	host ──┬─ namespace edge-SITE ──────────────────────────────┐
//	       │   lo: BMC addresses ◄── supervisor (BMCs, control)  │
//	       │   eth1 (bridge) ─┬─ m0n0 (tap) ── qemu, machine 0    │
//	       │    controller's  └─ m1n0 (tap) ── qemu, machine 1    │
//	       └─ StateDir: disks, NVRAM, serial logs, control socket ┘
//
// Everything with a wire is inside the namespace, which has no default route:
// nothing that a rack does can reach the host's networks, and removing the
// namespace removes bridges and taps with it.
//
// What a crash leaves, and who cleans it: QEMU and ipmi_sim die with the
// supervisor, by the kernel's hand. The supervisor's identity (PID, start time,
// boot id) is on disk before it starts anything, and the record of the rack is
// on disk before the namespace exists, so Down finds both after any crash, and
// so does the next Up.
package rack

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"time"
)

// Config is what New needs.
type Config struct {
	// Spec is the rack to build. Down, Status and Power need only Name and
	// StateDir of it: what is really up is read from StateDir.
	Spec Spec
	// Supervisor is the command line of a program that ends in a call of
	// Supervise(ctx, os.Stdin, os.Stdout, …) with a context that ends on
	// SIGTERM, and logs to its standard error. Only Up needs it.
	Supervisor []string
	// Apply is the command line that is printed for use inside the
	// namespace, such as edge-provision apply SITE.hcl; empty prints none.
	Apply []string
	// Stdout receives what a person wants to read; nil discards it.
	Stdout io.Writer
	// Log receives the rest; nil discards it.
	Log *slog.Logger
	// ReadyTimeout bounds Up's wait for the supervisor, the KVM probe
	// included; 0 is 120 s.
	ReadyTimeout time.Duration
}

// Rack is a handle on one virtual rack, up or not.
type Rack struct {
	cfg    Config
	spec   Spec // with defaults
	layout layout
	// fault fails a stage of Up on purpose, in tests; nil does not.
	fault func(stage string) error
}

// New checks the site's name and the state directory and returns a handle.
// Nothing is started; Up checks the rest of the spec.
func New(cfg Config) (*Rack, error) {
	if cfg.Stdout == nil {
		cfg.Stdout = io.Discard
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	setDefault(&cfg.ReadyTimeout, 120*time.Second)
	if err := cfg.Spec.validateHome(); err != nil {
		return nil, fmt.Errorf("checking the rack's spec: %w", err)
	}
	spec := cfg.Spec.withDefaults()
	return &Rack{cfg: cfg, spec: spec, layout: layout(spec.StateDir)}, nil
}

// Namespace is the name of the network namespace.
func (r *Rack) Namespace() string { return namespaceName(r.spec.Name) }

// SerialPath is the machine's serial log since it was last switched on; the
// logs before it have the suffixes .1 (latest) to .5.
func (r *Rack) SerialPath(machine string) string { return r.layout.serial(machine) }

// DiskPath is the raw file of the machine's nth disk, counted from 0. Read it
// while the machine is off.
func (r *Rack) DiskPath(machine string, n int) (string, error) {
	for _, m := range r.spec.Machines {
		if m.Address != machine {
			continue
		}
		if n < 0 || n >= len(m.Disks) {
			return "", fmt.Errorf("%s has no disk %d: it has %d, counted from 0", machine, n, len(m.Disks))
		}
		return r.layout.disk(m, n), nil
	}
	return "", fmt.Errorf("the rack of site %s has no machine %q", r.spec.Name, machine)
}

// Enter runs f on a thread inside the namespace: sockets that f itself opens
// are inside. Goroutines that f starts are not.
func (r *Rack) Enter(f func() error) error { return inNamespace(r.Namespace(), f) }

// Command returns a command that will run inside the namespace.
func (r *Rack) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", r.Namespace(), name}, args...)...)
}

// Power switches a machine by its own buttons, not through its BMC.
func (r *Rack) Power(ctx context.Context, machine string, action PowerAction) error {
	_, err := askSupervisor(ctx, r.spec.StateDir, controlRequest{Verb: "power", Machine: machine, Power: action})
	if err != nil {
		return fmt.Errorf("switching %s %s: %w", machine, action, err)
	}
	return nil
}

// BootOnce sets the class of devices that the machine's next boot tries first,
// as a person at the firmware's boot menu would; the empty class takes it back.
func (r *Rack) BootOnce(ctx context.Context, machine string, class BootClass) error {
	_, err := askSupervisor(ctx, r.spec.StateDir, controlRequest{Verb: "boot", Machine: machine, Boot: class})
	if err != nil {
		return fmt.Errorf("setting the next boot of %s: %w", machine, err)
	}
	return nil
}

// PowerAction is what the buttons and the plug of a machine do.
type PowerAction string

// Power actions.
const (
	PowerOn       PowerAction = "on"       // no error when on already
	PowerOff      PowerAction = "off"      // cuts the power; no error when off already
	PowerCycle    PowerAction = "cycle"    // off, then on
	PowerReset    PowerAction = "reset"    // refused when off
	PowerShutdown PowerAction = "shutdown" // asks the OS by ACPI; refused when off
)
