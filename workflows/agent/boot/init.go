// Package boot is what edge-agent does as process 1 of the installer: it mounts
// what a Linux program expects, loads drivers, brings a network port up, and
// runs the agent until the machine is to restart.
//
// Nobody watches a machine in a cupboard, so every wait is bounded and every end
// is a restart: the firmware then boots what the controller, or the disk, has for
// it. What goes on, and what is wrong, stands on every console in plain words.
package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/probe"
	"github.com/edge-provision/edge-provision/inventory/probe/lldp"
	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/agent/host"
)

const (
	// errorPause leaves what went wrong on the screen before the restart.
	errorPause = 60 * time.Second
	// networkWait bounds the search for an address on all ports.
	networkWait = 30 * time.Minute
	// settleWait bounds the wait for the kernel to be silent about new disks,
	// settleQuiet is how long it has to be.
	settleWait  = 15 * time.Second
	settleQuiet = 400 * time.Millisecond
	// driverWait bounds the wait for a driver that still looks for its disks: a SAS
	// controller with many of them may take minutes to tell of the first.
	driverWait = 3 * time.Minute
)

// Main is the whole life of process 1. It returns only if the kernel refuses to
// restart the machine.
func Main(version string) error {
	started := time.Now()
	mountErr := mountAll()
	panicRestarts()
	console := OpenConsoles(started)
	console.Sayf("edge-agent %s is starting.", version)
	if mountErr != nil {
		console.Sayf("Preparing the installer: %v", mountErr)
	}
	go reap()
	ending := run(version, console)
	unix.Sync()
	if ending == agent.EndPoweroff {
		console.Say("Switching off.")
		return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	console.Say("Restarting.")
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

// run does the work; a failure, or a bug, is shown for a while and ends in a
// restart.
func run(version string, console *Console) (ending agent.Ending) {
	failed := func(what string) {
		console.Sayf("%s", what)
		console.Sayf("This machine restarts in %s.", errorPause)
		time.Sleep(errorPause)
		ending = agent.EndReboot
	}
	defer func() {
		if p := recover(); p != nil {
			console.Say(string(debug.Stack()))
			failed(fmt.Sprintf("edge-agent hit a bug: %v", p))
		}
	}()
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		failed(fmt.Sprintf("The kernel command line cannot be read: %v", err))
		return ending
	}
	cmdline, err := ParseCommandLine(string(text))
	if err != nil {
		failed(fmt.Sprintf("The kernel command line is not the controller's: %s", strings.ReplaceAll(err.Error(), "\n", "; ")))
		return ending
	}
	if cmdline.Shell {
		console.Say("edge.shell is set: a person at this console may give commands.")
		go shell(console)
	}
	ending, err = serve(context.Background(), cmdline, version, console)
	if err != nil {
		failed(explain(cmdline, err))
	}
	return ending
}

// explain says in words what ended the conversation.
func explain(c CommandLine, err error) string {
	var pin *agent.PinError
	switch {
	case errors.As(err, &pin):
		return fmt.Sprintf("Something else answers at %s: %v", c.URL, err)
	case errors.Is(err, agent.ErrLost):
		return fmt.Sprintf("Controller %s: %v. Is it running, and does its host's firewall let port traffic in?", c.URL, err)
	}
	return fmt.Sprintf("Controller %s: %v", c.URL, err)
}

// serve loads drivers, brings up the network and runs the agent.
func serve(ctx context.Context, c CommandLine, version string, console *Console) (agent.Ending, error) {
	ctx, cancel := context.WithCancel(ctx)
	var background sync.WaitGroup
	defer background.Wait()
	defer cancel()

	level := slog.LevelWarn
	if c.Debug {
		level = slog.LevelDebug
	}
	stream := agent.NewLogStream(slog.NewTextHandler(console, &slog.HandlerOptions{Level: level}))
	log := slog.New(stream)

	modules, err := openModules()
	if err != nil {
		// A kernel with everything built in needs none.
		console.Sayf("Kernel modules: %v", err)
	}
	rescan := func() {}
	load := func(string) error { return nil }
	if modules != nil {
		rescan = func() {
			if err := modules.LoadForDevices(ctx, "/sys"); err != nil {
				log.Debug("loading drivers", "error", err)
			}
		}
		load = modules.Load
	}
	watch := newUevents(rescan)
	watch.waiting = func(left time.Duration) { tellWaiting(console, log, modules, left) }
	// Disks are found while the network comes up; what needs them waits for
	// watch to settle.
	background.Go(func() { watch.run(ctx) })

	network := &Network{Console: console, Boot: c.MAC}
	source := probe.Machine(c.MAC)
	var connected atomic.Bool
	listener := lldp.NewListener(lldp.Config{Ports: func() []string {
		if connected.Load() {
			network.RaiseOthers()
		}
		return probe.Linked(source)
	}})
	// From here on it hears for as long as everything else takes; nothing waits
	// for it.
	background.Go(func() { listener.Run(ctx) })
	source.Heard = func(_ context.Context, port string) ([]inventory.Neighbor, error) { return listener.Heard(port) }
	upCtx, upCancel := context.WithTimeoutCause(ctx, networkWait, fmt.Errorf("no network port got an address within %s", networkWait))
	defer upCancel()
	port, err := network.Up(upCtx, c)
	if err != nil {
		return agent.EndReboot, err
	}
	connected.Store(true)
	background.Go(func() { network.Keep(ctx, port) })
	if modules != nil {
		// Now, for they take time from the network's drivers.
		watch.during(func() { loadExtras(modules, log) }, &background)
	}

	client, err := agent.NewClient(agent.ClientConfig{URL: c.URL, Pin: c.Pin})
	if err != nil {
		return agent.EndReboot, err
	}
	background.Go(func() { stream.Send(ctx, client) })
	console.Sayf("Talking to the controller at %s.", c.URL)

	firmware, efi := firmwareMode(load)
	executor := host.New(host.Config{
		Getter: client,
		Disks: func(ctx context.Context) ([]inventory.Disk, error) {
			// A disk that is wanted and not there yet is missed by name.
			_ = watch.settle(ctx)
			return probe.Disks(ctx, source)
		},
		Mounter:  host.Devices{Dir: "/mnt", Load: load},
		EFI:      efi,
		Firmware: firmware, Architecture: runtime.GOARCH,
		Logger: log,
	})
	return agent.NewLoop(agent.Config{
		Client: client, Token: c.Token, Boot: c.Boot, MAC: port.bootMAC(c), Version: version,
		Facts: func(ctx context.Context) (inventory.Facts, error) {
			known := watch.settle(ctx)
			facts, err := probe.Collect(ctx, source)
			if !known {
				// Whoever chose among those that were seen might choose the wrong one.
				facts.Disks = nil
			}
			executor.FindOwners(ctx, facts.Disks)
			return facts, err
		},
		News:      listener.News(),
		Neighbors: func(ctx context.Context) ([]inventory.Neighbor, error) { return probe.Neighbors(ctx, source) },
		Executor:  executor, Say: console.Say, LostAfter: c.Lost, Logger: log,
	}).Run(ctx)
}

// tellWaiting says that the disks are waited for, or no longer. It is said in the log,
// and by that to the controller, which would else take a machine that says nothing for
// one that has gone.
func tellWaiting(console *Console, log *slog.Logger, modules *Modules, left time.Duration) {
	names := "unknown"
	if modules != nil {
		if underway := modules.Underway(); len(underway) > 0 {
			names = strings.Join(underway, ", ")
		}
	}
	if left > 0 {
		console.Sayf("Drivers still look for their devices (kernel modules: %s); waiting up to %s more for disks.", names, left.Round(time.Second))
		log.Info("drivers still look for their devices", "modules", names, "left", left.Round(time.Second).String())
		return
	}
	// A warning stands on the console too.
	log.Warn("drivers still look for their devices after "+driverWait.String()+": the disks of this machine are reported as not known", "modules", names)
}

// bootMAC is the port that the token was given to; without one on the command
// line, the port that came up.
func (p *Port) bootMAC(c CommandLine) inventory.MAC {
	if !c.MAC.IsZero() {
		return c.MAC
	}
	return p.MAC
}

// panicSeconds is how long a kernel panic stays on the screen.
const panicSeconds = "60"

// panicRestarts makes a kernel panic (the end of process 1 is one) restart the
// machine, unless the command line says something about it.
func panicRestarts() {
	const path = "/proc/sys/kernel/panic"
	if now, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(now)) == "0" {
		// Without it a panic would stay for ever, as it does anywhere.
		_ = os.WriteFile(path, []byte(panicSeconds), 0o644)
	}
}

// mountAll mounts what a Linux program expects to be there.
func mountAll() error {
	var errs []error
	for _, m := range []struct {
		kind, dir string
		flags     uintptr
		data      string
	}{
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
	} {
		if err := os.MkdirAll(m.dir, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := unix.Mount(m.kind, m.dir, m.kind, m.flags, m.data); err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, fmt.Errorf("mounting %s: %w", m.dir, err))
		}
	}
	return errors.Join(errs...)
}

const efivars = "/sys/firmware/efi/efivars"

// firmwareMode says how the machine booted, and where the firmware's variables
// are, if they can be had.
func firmwareMode(load func(string) error) (mode, vars string) {
	if _, err := os.Stat("/sys/firmware/efi"); err != nil {
		return "bios", ""
	}
	// A failure shows in the mount below.
	_ = load("efivarfs")
	err := unix.Mount("efivarfs", efivars, "efivarfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EBUSY) {
		return "uefi", ""
	}
	return "uefi", efivars
}

// openModules finds the running kernel's modules.
func openModules() (*Modules, error) {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, err
	}
	release := unix.ByteSliceToString(uts.Release[:])
	for _, dir := range []string{"/lib/modules", "/usr/lib/modules"} {
		dir = filepath.Join(dir, release)
		if _, err := os.Stat(filepath.Join(dir, "modules.dep")); err == nil {
			return NewModules(dir, nil)
		}
	}
	return nil, fmt.Errorf("the installer holds none for this kernel, %s", release)
}

// extras are modules that no device asks for: the BMC's character device, and
// what the firmware's tables announce without a modalias.
var extras = []string{"ipmi_si", "ipmi_devintf", "tpm_tis", "tpm_crb", "efivarfs"}

func loadExtras(modules *Modules, log *slog.Logger) {
	for _, name := range extras {
		// Most machines lack one or the other.
		if err := modules.Load(name); err != nil {
			log.Debug("loading an extra module", "module", name, "error", err)
		}
	}
}

// reap waits for children that nobody else waits for: whatever a kernel helper
// leaves behind becomes a child of process 1.
func reap() {
	for {
		var status unix.WaitStatus
		_, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.ECHILD) {
			time.Sleep(5 * time.Second)
		}
	}
}
