package rack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/bmc/sim"
)

// computer is one emulated machine in the supervisor. It implements
// sim.Machine, so that a BMC can be put in front of it.
type computer struct {
	spec   Machine
	index  int
	layout layout
	accel  Accelerator
	log    *slog.Logger
	// start starts a child that dies with the supervisor.
	start func(*exec.Cmd) error

	// power is held for one power operation.
	power sync.Mutex
	// order is held while the emulator is told another boot order.
	order sync.Mutex

	mu       sync.Mutex // guards what follows
	emulator *emulator  // nil while off
	override sim.Override
	counts   struct{ powerOns, resets, guestResets int }
	changed  chan struct{} // closed and replaced whenever any of it changes
}

var _ sim.Machine = (*computer)(nil)

// emulator is one run of QEMU, from power on to power off.
type emulator struct {
	cmd *exec.Cmd
	qmp *qmp
	// indexes are the boot indexes that QEMU has now.
	indexes map[string]int
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
func (c *computer) SetBoot(ctx context.Context, o sim.Override) error {
	if _, ok := overrideClass(c.spec, o); !ok && o.Device != sim.FirmwareOrder {
		c.log.Warn("this firmware does not obey the boot override", "device", string(o.Device), "efi", o.EFI, "firmware", string(c.spec.Firmware))
	}
	c.change(func() { c.override = o })
	return c.syncOrder(ctx)
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
	c.mu.Lock()
	on, override := c.emulator != nil, c.override
	c.mu.Unlock()
	if on {
		return nil
	}
	if err := rotate(c.layout.serial(c.spec.Address)); err != nil {
		return fmt.Errorf("switching on %s: %w", c.spec.Address, err)
	}
	args := qemuArgs(c.layout, c.index, c.spec, c.accel, override)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	e, err := startEmulator(ctx, args, c.layout.emulatorLog(c.spec.Address), c.start)
	if err != nil {
		return fmt.Errorf("switching on %s: %w", c.spec.Address, err)
	}
	e.indexes = bootIndexes(c.spec, override)
	c.change(func() {
		c.emulator = e
		c.counts.powerOns++
		c.consume()
	})
	go c.watch(e)
	c.log.Info("on", "pid", e.cmd.Process.Pid)
	if err := c.syncOrder(ctx); err != nil {
		return fmt.Errorf("switching on %s: %w", c.spec.Address, err)
	}
	return nil
}

// consume uses up a one-time override. c.mu is held.
func (c *computer) consume() {
	if c.override.Once {
		c.override = sim.Override{}
	}
}

// switchOff cuts the power: what the machine had not written is lost. The
// caller holds c.power.
func (c *computer) switchOff(ctx context.Context) error {
	e := c.running()
	if e == nil {
		return nil
	}
	if err := e.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("switching off %s: %w", c.spec.Address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if err := c.wait(ctx, func() bool { return c.emulator != e }); err != nil {
		return fmt.Errorf("switching off %s: waiting for process %d to end: %w", c.spec.Address, e.cmd.Process.Pid, err)
	}
	return nil
}

// reset presses the reset button and returns when the firmware has started
// anew. A machine that is off has nothing to reset. The caller holds c.power.
func (c *computer) reset(ctx context.Context) error {
	c.mu.Lock()
	e, before := c.emulator, c.counts.resets
	c.mu.Unlock()
	if e == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	if err := e.qmp.execute(ctx, "system_reset", nil, nil); err != nil {
		return fmt.Errorf("resetting %s: %w", c.spec.Address, err)
	}
	if err := c.wait(ctx, func() bool { return c.counts.resets > before || c.emulator != e }); err != nil {
		return fmt.Errorf("resetting %s: waiting for the firmware to start: %w", c.spec.Address, err)
	}
	return nil
}

// watch follows one run of the emulator to its end.
func (c *computer) watch(e *emulator) {
	for {
		select {
		case r := <-e.qmp.resets:
			c.change(func() {
				if r.Guest {
					c.counts.guestResets++
				} else {
					c.counts.resets++
				}
				c.consume()
			})
			c.log.Info("reset", "by_guest", r.Guest)
			// QEMU has read the boot order for this start already; what
			// is set from now on is for the next one.
			if err := c.syncOrder(context.Background()); err != nil {
				c.log.Error("restoring the boot order", "error", err)
			}
		case <-e.exited:
			if err := e.qmp.close(); err != nil {
				c.log.Warn("closing QMP", "error", err)
			}
			c.change(func() { c.emulator = nil })
			c.log.Info("off", "status", e.cmd.ProcessState.String())
			return
		}
	}
}

// syncOrder tells QEMU the boot order of the next start, which is the only one
// that it can still change.
func (c *computer) syncOrder(ctx context.Context) error {
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	e, want := c.emulator, bootIndexes(c.spec, c.override)
	c.mu.Unlock()
	if e == nil {
		return nil
	}
	var differ []string
	for id, n := range want {
		if e.indexes[id] != n {
			differ = append(differ, id)
		}
	}
	for id := range e.indexes {
		if _, ok := want[id]; !ok {
			differ = append(differ, id)
		}
	}
	// No two devices may have one index, not even for a moment.
	for _, id := range differ {
		if err := e.setIndex(ctx, id, -1); err != nil {
			return err
		}
		delete(e.indexes, id)
	}
	for _, id := range differ {
		n, ok := want[id]
		if !ok {
			continue
		}
		if err := e.setIndex(ctx, id, n); err != nil {
			return err
		}
		e.indexes[id] = n
	}
	return nil
}

func (e *emulator) setIndex(ctx context.Context, id string, n int) error {
	err := e.qmp.execute(ctx, "qom-set", map[string]any{"path": "/machine/peripheral/" + id, "property": "bootindex", "value": n}, nil)
	select {
	case <-e.exited: // switched off meanwhile: there is no order to set
		return nil
	default:
		return err
	}
}

// status describes the machine.
func (c *computer) status() MachineStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := MachineStatus{
		Address:     c.spec.Address,
		On:          c.emulator != nil,
		PowerOns:    c.counts.powerOns,
		Resets:      c.counts.resets,
		GuestResets: c.counts.guestResets,
		Boots:       c.counts.powerOns + c.counts.resets + c.counts.guestResets,
		Serial:      c.layout.serial(c.spec.Address),
	}
	if c.emulator != nil {
		s.PID = c.emulator.cmd.Process.Pid
	}
	if class, ok := overrideClass(c.spec, c.override); ok {
		s.BootNext = class
	}
	for i := range c.spec.Disks {
		s.Disks = append(s.Disks, c.layout.disk(c.spec, i))
	}
	return s
}

// startEmulator starts QEMU and returns when it answers. The caller must wait
// for exited and then close qmp.
func startEmulator(ctx context.Context, args []string, logPath string, start func(*exec.Cmd) error) (*emulator, error) {
	logFile, err := os.Create(logPath)
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

// childAttributes makes a child die with the thread that started it.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
