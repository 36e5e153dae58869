// Package rack is the virtual rack: it emulates the machines that a site
// declares, with real firmware in QEMU and a BMC in front of each, on a private
// network, so that a site can be rehearsed, demonstrated and tested on one
// host. What is emulated is the hardware only: the firmware, its PXE stacks and
// the wire are the real ones.
//
//	host ──┬─ namespace edge-SITE ──────────────────────────────┐
//	       │   lo: BMC addresses ◄── supervisor (BMCs, control)  │
//	       │   eth1 (bridge) ─┬─ m0n0 (tap) ── qemu machine 0     │
//	       │    controller's  └─ m1n0 (tap) ── qemu machine 1     │
//	       └─ StateDir: disks, NVRAM, serial logs, control socket ┘
//
// Everything with a wire is inside the namespace, which has no default route:
// nothing that a rack does can reach the host's networks, and removing the
// namespace removes bridges and taps with it. The supervisor is one process
// per rack that owns the QEMU processes as children and session members.
package rack

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os/exec"
	"regexp"
	"time"
)

// Config is what New needs.
type Config struct {
	// Spec is the rack to build. Down, Status and Power need only Name and
	// StateDir of it: what is really up is read from StateDir.
	Spec Spec
	// Supervisor is the command line of a program that ends in a call of
	// Supervise with the StateDir that is appended as the last argument. It
	// is started detached, inside the namespace. Only Up needs it.
	Supervisor []string
	// Apply is the command line that is printed for use inside the
	// namespace, such as edge-provision apply SITE.hcl.
	Apply []string
	// Stdout receives what a person wants to read; nil discards it.
	Stdout io.Writer
	// Log receives the rest; nil discards it.
	Log *slog.Logger
	// ReadyTimeout bounds Up's wait for the supervisor, the KVM probe
	// included; 0 is 90 s.
	ReadyTimeout time.Duration
}

// Rack is a handle on one virtual rack, up or not.
type Rack struct {
	cfg Config
}

// New checks the spec whole and returns a handle. Nothing is started.
func New(cfg Config) (*Rack, error) { return &Rack{cfg: cfg}, nil }

// Up builds the namespace, starts the supervisor, waits until every BMC
// answers and prints how to use the rack. When it fails or ctx ends, it removes
// what it had made. A rack that is up already is an error that says so.
func (r *Rack) Up(ctx context.Context) error { return errUnfinished }

// Down ends the rack's processes, removes the namespace with all in it, and
// the files that only a running rack needs. It works after a crash of the
// supervisor and after an Up that was killed, and is no error when there is
// nothing. removeDisks also removes the disks (never those given by
// Disk.Path), firmware variables, certificates and logs.
func (r *Rack) Down(ctx context.Context, removeDisks bool) error { return errUnfinished }

// Status says what is up. It is no error when nothing is.
func (r *Rack) Status(ctx context.Context) (Status, error) { return Status{}, errUnfinished }

// Power switches a machine by its own button, not through its BMC.
func (r *Rack) Power(ctx context.Context, machine string, action PowerAction) error {
	return errUnfinished
}

// BootOnce sets the device class of the machine's next boot, as its BMC would.
func (r *Rack) BootOnce(ctx context.Context, machine string, class BootClass) error {
	return errUnfinished
}

// Machine returns the status of one machine of a rack that is up.
func (r *Rack) Machine(ctx context.Context, machine string) (MachineStatus, error) {
	return MachineStatus{}, errUnfinished
}

// WaitPower waits until the machine is on, or off; bound it by ctx.
func (r *Rack) WaitPower(ctx context.Context, machine string, on bool) error { return errUnfinished }

// WaitSerial waits until what the machine wrote to its serial console since it
// was last switched on matches re, and returns the match. An error carries
// the console's last lines. Bound it by ctx.
func (r *Rack) WaitSerial(ctx context.Context, machine string, re *regexp.Regexp) ([]byte, error) {
	return nil, errUnfinished
}

// SerialPath is the machine's serial log since it was last switched on; the
// logs before it have the suffixes .1 (latest) to .5.
func (r *Rack) SerialPath(machine string) string { return "" }

// DiskPath is the raw file of the machine's nth disk, counted from 0. Read it
// while the machine is off.
func (r *Rack) DiskPath(machine string, n int) (string, error) { return "", errUnfinished }

// Namespace is the name of the network namespace.
func (r *Rack) Namespace() string { return "edge-" + r.cfg.Spec.Name }

// Enter runs f on a thread inside the namespace: sockets that f itself opens
// are inside. Goroutines that f starts are not.
func (r *Rack) Enter(f func() error) error { return errUnfinished }

// Command returns a command that will run inside the namespace.
func (r *Rack) Command(ctx context.Context, name string, args ...string) *exec.Cmd { return nil }

// Supervise is the supervisor of the rack whose StateDir is given; it runs
// inside the namespace until ctx ends or it is told to stop, and then ends its
// machines.
func Supervise(ctx context.Context, stateDir string, log *slog.Logger) error { return errUnfinished }

// PowerAction is what a power button does.
type PowerAction string

// Power actions.
const (
	PowerOn       PowerAction = "on"       // no error when on already
	PowerOff      PowerAction = "off"      // cuts the power; no error when off already
	PowerCycle    PowerAction = "cycle"    // off, then on
	PowerReset    PowerAction = "reset"    // the reset button; refused when off
	PowerShutdown PowerAction = "shutdown" // asks the OS by ACPI; refused when off
)

// State says how much of a rack exists.
type State string

// States of a rack.
const (
	StateDown   State = "down"
	StateUp     State = "up"
	StateBroken State = "broken" // parts of it exist; Down removes them
)

// Status describes a rack.
type Status struct {
	State       State           `json:"state"`
	Name        string          `json:"name"`
	Namespace   string          `json:"namespace,omitempty"`
	Supervisor  int             `json:"supervisor_pid,omitempty"`
	Accelerator Accelerator     `json:"accelerator,omitempty"`
	Machines    []MachineStatus `json:"machines,omitempty"`
}

// MachineStatus describes one machine of a rack that is up. Counts start at
// zero with Up.
type MachineStatus struct {
	Address string `json:"address"`
	On      bool   `json:"on"`
	PID     int    `json:"pid,omitempty"` // of QEMU while on
	// PowerOns counts transitions from off to on, Resets those that a BMC or
	// Power caused, GuestResets those that the software on the machine did.
	// Boots is their sum: how often the firmware started.
	PowerOns    int `json:"power_ons"`
	Resets      int `json:"resets"`
	GuestResets int `json:"guest_resets"`
	Boots       int `json:"boots"`
	// BootOnce is the class of the next boot, empty for the usual order.
	BootOnce BootClass `json:"boot_once,omitempty"`
	// Serial is the path of the serial log, Disks those of the disks.
	Serial string   `json:"serial_log"`
	Disks  []string `json:"disks,omitempty"`
	// BMC is where the BMC answers, as site.hcl writes it. Fingerprint is
	// the SHA-256 of its certificate in lower-case hexadecimal, and
	// Certificate the PEM file that holds it; redfish only.
	BMC         string `json:"bmc,omitempty"`
	Fingerprint string `json:"fingerprint,omitempty"`
	Certificate string `json:"certificate,omitempty"`
}

var errUnfinished = errors.New("the rack is being written")
