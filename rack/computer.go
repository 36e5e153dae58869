package rack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/bmc/sim"
)

// computer is one emulated machine in the supervisor. It implements
// sim.Machine, so that a BMC can be put in front of it.
//
// Every start of the firmware is a process of its own: QEMU ends at a reset,
// whoever causes it, and is started anew. SeaBIOS would otherwise answer a
// reset with two more of its own (its "hard reboot", needed because QEMU keeps
// RAM), so that boots could not be counted and a one-time boot device would be
// gone before the firmware that counts has read it.
type computer struct {
	spec   Machine
	index  int
	layout layout
	accel  Accelerator
	log    *slog.Logger
	// fixed is the part of the status that does not change.
	fixed MachineStatus
	// start starts a child that dies with the supervisor.
	start func(*exec.Cmd) error

	// power is held for one power operation.
	power sync.Mutex

	mu       sync.Mutex // guards what follows
	emulator *emulator  // the latest; nil while off
	ending   end        // why the emulator is being killed
	disks    []Disk     // those of spec, or what they were swapped for
	override sim.Override
	counts   struct{ powerOns, resets, guestResets int }
	changed  chan struct{} // closed and replaced whenever any of it changes
}

var _ sim.Machine = (*computer)(nil)

// end is why an emulator is killed.
type end int

const (
	endItself end = iota // it is not killed: what the guest did decides
	endOff
	endReset
)

// emulator is one run of QEMU, from a start of the firmware to the next.
type emulator struct {
	cmd *exec.Cmd
	qmp *qmp
	// exited is closed when the process is gone and reaped.
	exited chan struct{}
}

// startTimeout bounds the time from fork to QMP's answer, on a host whose
// cores are all busy emulating.
const startTimeout = 30 * time.Second

// endTimeout bounds the end of a killed emulator, which may have to flush
// gigabytes.
const endTimeout = 30 * time.Second

// change applies f to the guarded state and wakes whoever waits for a change.
func (c *computer) change(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
	close(c.changed)
	c.changed = make(chan struct{})
}

// wait returns when cond, called with the state locked, is true.
func (c *computer) wait(ctx context.Context, cond func() bool) error {
	for {
		c.mu.Lock()
		ok, changed := cond(), c.changed
		c.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (c *computer) running() *emulator {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.emulator
}

// Power implements sim.Machine.
func (c *computer) Power(context.Context) (bool, error) { return c.running() != nil, nil }

// Boot implements sim.Machine.
func (c *computer) Boot(context.Context) (sim.Override, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.override, nil
}

// SetBoot implements sim.Machine. A running machine obeys it at its next reset,
// whoever causes that.
func (c *computer) SetBoot(_ context.Context, o sim.Override) error {
	if _, ok := overrideClass(c.spec, o); !ok && o.Device != sim.FirmwareOrder {
		c.log.Warn("this firmware does not obey the boot override", "device", string(o.Device), "efi", o.EFI, "firmware", string(c.spec.Firmware))
	}
	c.change(func() { c.override = o })
	return nil
}

// Do implements sim.Machine.
func (c *computer) Do(ctx context.Context, a sim.Action) error {
	c.power.Lock()
	defer c.power.Unlock()
	c.log.Info("power action", "action", string(a))
	switch a {
	case sim.On:
		return c.switchOn(ctx)
	case sim.Off:
		return c.switchOff(ctx)
	case sim.Cycle:
		if err := c.switchOff(ctx); err != nil {
			return err
		}
		return c.switchOn(ctx)
	case sim.Reset:
		return c.reset(ctx)
	case sim.Soft:
		if e := c.running(); e != nil {
			return e.qmp.execute(ctx, "system_powerdown", nil, nil)
		}
		return nil
	}
	return fmt.Errorf("power action %q is unknown", a)
}

// switchOn starts the emulator. The caller holds c.power.
func (c *computer) switchOn(ctx context.Context) error {
	if c.running() != nil {
		return nil
	}
	if err := rotate(c.layout.serial(c.spec.Address)); err != nil {
		return fmt.Errorf("switching on %s: %w", c.spec.Address, err)
	}
	if err := os.Remove(c.layout.emulatorLog(c.spec.Address)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("switching on %s: removing the emulator's old log: %w", c.spec.Address, err)
	}
	e, used, err := c.launch(ctx)
	if err != nil {
		return fmt.Errorf("switching on %s: %w", c.spec.Address, err)
	}
	c.change(func() {
		c.emulator, c.ending = e, endItself
		c.counts.powerOns++
		c.consume(used)
	})
	go c.run(e)
	return nil
}

// launch starts the firmware once, and returns the override that it obeys.
func (c *computer) launch(ctx context.Context) (*emulator, sim.Override, error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c.mu.Lock()
	o := c.override
	c.mu.Unlock()
	args := qemuArgs(c.layout, c.index, c.machine(), c.accel, o)
	e, err := startEmulator(ctx, args, c.layout.emulatorLog(c.spec.Address), c.start)
	if err != nil {
		return nil, o, err
	}
	c.log.Info("firmware starts", "pid", e.cmd.Process.Pid, "override", string(o.Device))
	return e, o, nil
}

// consume uses up a one-time override that a start has obeyed, unless it was
// replaced meanwhile. c.mu is held.
func (c *computer) consume(used sim.Override) {
	if used.Once && c.override == used {
		c.override = sim.Override{}
	}
}

// switchOff cuts the power: what the machine had not written is lost. The
// caller holds c.power.
func (c *computer) switchOff(ctx context.Context) error {
	if err := c.kill(ctx, endOff, func() bool { return c.emulator == nil }); err != nil {
		return fmt.Errorf("switching off %s: %w", c.spec.Address, err)
	}
	return nil
}

// reset presses the reset button and returns when the firmware has started
// anew. A machine that is off has nothing to reset. The caller holds c.power.
func (c *computer) reset(ctx context.Context) error {
	c.mu.Lock()
	before := c.counts.resets
	c.mu.Unlock()
	if err := c.kill(ctx, endReset, func() bool { return c.counts.resets > before || c.emulator == nil }); err != nil {
		return fmt.Errorf("resetting %s: %w", c.spec.Address, err)
	}
	return nil
}

// kill ends the emulator for the reason and waits until done, called with the
// state locked, is true.
func (c *computer) kill(ctx context.Context, why end, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout+endTimeout)
	defer cancel()
	var e *emulator
	c.change(func() { e, c.ending = c.emulator, why })
	if e == nil {
		return nil
	}
	if err := e.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing process %d: %w", e.cmd.Process.Pid, err)
	}
	if err := c.wait(ctx, done); err != nil {
		return fmt.Errorf("waiting for process %d to end: %w", e.cmd.Process.Pid, err)
	}
	return nil
}

// run follows the machine from power on to power off, over all its resets.
func (c *computer) run(e *emulator) {
	for e != nil {
		<-e.exited
		byGuest := e.qmp.reset()
		if err := e.qmp.close(); err != nil {
			c.log.Warn("closing QMP", "error", err)
		}
		c.log.Info("emulator ended", "pid", e.cmd.Process.Pid, "status", e.cmd.ProcessState.String(), "reset_by_guest", byGuest)
		e = c.next(byGuest)
	}
}

// next decides what follows the end of an emulator, and returns its successor
// or nil when the machine is off.
func (c *computer) next(byGuest bool) *emulator {
	c.mu.Lock()
	why := c.ending
	c.mu.Unlock()
	var e *emulator
	var used sim.Override
	if why == endReset || why == endItself && byGuest {
		var err error
		if e, used, err = c.launch(context.Background()); err != nil {
			c.log.Error("the firmware cannot start again: the machine is off", "error", err)
		}
	}
	var late *emulator
	c.change(func() {
		if c.ending == endOff && e != nil {
			// Switched off while the firmware was being started: that
			// start never happened.
			late, e = e, nil
		}
		c.emulator = e
		switch {
		case e == nil:
		case c.ending == endReset: // or pressed while the firmware was being started
			c.counts.resets++
			c.consume(used)
		default:
			c.counts.guestResets++
			c.consume(used)
		}
		c.ending = endItself
	})
	if late != nil {
		if err := late.discard(); err != nil {
			c.log.Warn("ending an emulator", "error", err)
		}
	}
	return e
}

// discard kills an emulator that nobody follows and waits for its end.
func (e *emulator) discard() error {
	err := e.cmd.Process.Kill()
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	<-e.exited
	return errors.Join(err, e.qmp.close())
}

// newComputer returns a machine that is switched off.
func newComputer(l layout, index int, m Machine, accel Accelerator, start func(*exec.Cmd) error, log *slog.Logger) *computer {
	c := &computer{
		spec: m, index: index, layout: l, accel: accel, start: start,
		log:     log.With("machine", m.Address),
		fixed:   MachineStatus{Address: m.Address, Serial: l.serial(m.Address)},
		disks:   slices.Clone(m.Disks),
		changed: make(chan struct{}),
	}
	describeBMC(l, m, &c.fixed)
	return c
}

// status describes the machine.
func (c *computer) status() MachineStatus {
	m := c.machine()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.fixed
	for i := range m.Disks {
		s.Disks = append(s.Disks, c.layout.disk(m, i))
	}
	s.On = c.emulator != nil
	s.PowerOns, s.Resets, s.GuestResets = c.counts.powerOns, c.counts.resets, c.counts.guestResets
	s.Boots = s.PowerOns + s.Resets + s.GuestResets
	if c.emulator != nil {
		s.PID = c.emulator.cmd.Process.Pid
	}
	if class, ok := overrideClass(c.spec, c.override); ok {
		s.BootNext = class
	}
	return s
}

// startEmulator starts QEMU and returns when it answers. The caller must wait
// for exited and then close qmp.
func startEmulator(ctx context.Context, args []string, logPath string, start func(*exec.Cmd) error) (*emulator, error) {
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("creating the emulator's log: %w", err)
	}
	defer logFile.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(qemuProgram, args...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.ExtraFiles = []*os.File{theirs}
	if err := errors.Join(start(cmd), theirs.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("starting %s: %w", qemuProgram, err), ours.Close())
	}
	e := &emulator{cmd: cmd, exited: make(chan struct{})}
	go func() {
		// How it ended is in cmd.ProcessState; a killed one is no error.
		_ = cmd.Wait()
		close(e.exited)
	}()
	if e.qmp, err = dialQMP(ctx, ours); err == nil {
		return e, nil
	}
	killed := cmd.Process.Kill()
	<-e.exited
	if errors.Is(killed, os.ErrProcessDone) {
		killed = nil
	}
	return nil, errors.Join(fmt.Errorf("starting %s: %w%s", qemuProgram, err, lastWords(logPath)), killed)
}

// lastWords is the end of a log, as a suffix of an error message.
func lastWords(path string) string {
	b, err := tail(path, 2048)
	text := strings.TrimSpace(string(b))
	if err != nil || text == "" {
		return ""
	}
	return "; its last words in " + path + " are:\n" + text
}

// socketPair returns our end and the end for a child. The child inherits its
// end, so that there is no socket file which a crash could leave behind.
func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "qmp"), os.NewFile(uintptr(fds[1]), "qmp")
	conn, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("making a socket pair: %w", err), theirs.Close())
	}
	return conn, theirs, nil
}

// serialLogsKept is the number of earlier serial logs that are kept.
const serialLogsKept = 5

// rotate moves a log to PATH.1, PATH.1 to PATH.2 and so on.
func rotate(path string) error {
	for n := serialLogsKept; n > 0; n-- {
		from := path
		if n > 1 {
			from = fmt.Sprintf("%s.%d", path, n-1)
		}
		if err := os.Rename(from, fmt.Sprintf("%s.%d", path, n)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotating a serial log: %w", err)
		}
	}
	return nil
}
