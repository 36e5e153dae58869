package host

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed boot.sh
var bootScript string

// rebootCode is how systemd-nspawn ends when the system inside asked for a
// reboot and nobody but the caller can do it (--keep-unit).
const rebootCode = 133

// poll is how often something is looked at that does not report by itself.
const poll = 50 * time.Millisecond

// running is the time from Boot to power off, reboots included.
type running struct {
	// ended is closed when the host is off; err is set before.
	ended chan struct{}
	err   error
	// off, once closed, keeps a reboot from being one.
	off chan struct{}
}

func (h *Host) isOff() bool {
	if h.running == nil {
		return true
	}
	select {
	case <-h.running.ended:
		return true
	default:
		return false
	}
}

func (h *Host) boot(ctx context.Context) error {
	if !h.isOff() {
		return fmt.Errorf("booting host %s: it is on", h.Name)
	}
	r := &running{ended: make(chan struct{}), off: make(chan struct{})}
	h.running = r
	go func() {
		defer close(r.ended)
		// The kernel ends the host when the thread ends that started it: a
		// test that is killed leaves no host.
		runtime.LockOSThread()
		for {
			code, err := h.runOnce()
			if err != nil {
				r.err = err
				return
			}
			select {
			case <-r.off:
				return
			default:
			}
			if code != rebootCode {
				return
			}
			h.lab.config.Log.Info("host reboots", "host", h.Name)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	if err := h.waitForSSH(ctx, r); err != nil {
		return fmt.Errorf("booting host %s: %w", h.Name, errors.Join(err, h.kill(context.WithoutCancel(ctx))))
	}
	h.lab.config.Log.Info("host is up", "host", h.Name, "address", h.Address)
	return nil
}

// runOnce runs the host from power-on until it ends, and returns
// systemd-nspawn's exit code.
func (h *Host) runOnce() (int, error) {
	disks, err := h.attachDisks()
	if err != nil {
		return 0, err
	}
	defer disks.detach()
	console, err := os.OpenFile(h.consolePath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, fmt.Errorf("opening the console of %s: %w", h.Name, err)
	}
	defer console.Close()
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", bootScript)
	cmd.Env = append(os.Environ(),
		"HOST_DIR="+h.dir(), "NAME="+h.Name, "NAMESPACE="+h.lab.Namespace, "BRIDGE="+bridge, "CGROUP="+h.cgroup())
	cmd.Stdout, cmd.Stderr = console, console
	// A group of its own, so that Ctrl-C at the terminal reaches the test only.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return 0, fmt.Errorf("starting host %s: %w", h.Name, err)
	}
	if err := removeCgroups(h.cgroup()); err != nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

// waitForSSH waits until the SSH server greets.
func (h *Host) waitForSSH(ctx context.Context, r *running) error {
	for {
		if h.greets(ctx) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("no SSH at %s: %w; its console's end: %s", h.Address, ctx.Err(), h.consoleEnd())
		case <-r.ended:
			return fmt.Errorf("the host ended while it started: %w; its console's end: %s", errors.Join(r.err, errEnded), h.consoleEnd())
		case <-time.After(poll):
		}
	}
}

var errEnded = errors.New("no host is running")

func (h *Host) greets(ctx context.Context) bool {
	conn, err := h.lab.Dial(ctx, "tcp", net.JoinHostPort(h.Address.String(), "22"))
	if err != nil {
		return false
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return false
	}
	greeting := make([]byte, 4)
	n, err := conn.Read(greeting)
	return err == nil && string(greeting[:n]) == "SSH-" // RFC 4253, section 4.2
}

func (h *Host) consoleEnd() string {
	b, err := os.ReadFile(h.consolePath())
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(b[max(0, len(b)-1000):]))
}

// stop asks the system inside to power off.
func (h *Host) stop(ctx context.Context) error {
	if h.isOff() {
		return nil
	}
	close(h.running.off)
	if _, err := h.exec(ctx, "systemctl", "--no-block", "poweroff"); err != nil {
		return fmt.Errorf("stopping host %s: %w", h.Name, err)
	}
	select {
	case <-h.running.ended:
		return h.running.err
	case <-ctx.Done():
		return fmt.Errorf("stopping host %s: %w: its console's end: %s", h.Name, ctx.Err(), h.consoleEnd())
	}
}

// kill ends the host's first process, and with it the kernel ends all others.
func (h *Host) kill(ctx context.Context) error {
	if h.isOff() {
		return nil
	}
	select {
	case <-h.running.off:
	default:
		close(h.running.off)
	}
	for {
		// The first process may not be there yet, or may be replaced by that of
		// a reboot, so this asks until the host has ended.
		for _, pid := range h.processes() {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("cutting the power of host %s: %w", h.Name, err)
			}
		}
		select {
		case <-h.running.ended:
			return h.running.err
		case <-ctx.Done():
			return fmt.Errorf("cutting the power of host %s: %w", h.Name, ctx.Err())
		case <-time.After(poll):
		}
	}
}

// processes are those of the host's control group itself: systemd-nspawn and,
// below it, nobody else's.
func (h *Host) processes() []int {
	var pids []int
	walk := func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return nil
		}
		b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil {
			return nil
		}
		for field := range strings.FieldsSeq(string(b)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
		return nil
	}
	if err := filepath.WalkDir(filepath.Join(cgroupRoot, "systemd", h.cgroup()), walk); err != nil {
		return nil
	}
	return pids
}

// first is the PID of the host's first process, as the machine sees it.
func (h *Host) first() (int, error) {
	for _, pid := range h.processes() {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(b)) {
			if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "NSpid:" && fields[2] == "1" {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("host %s: %w", h.Name, errEnded)
}

func (h *Host) exec(ctx context.Context, name string, args ...string) ([]byte, error) {
	pid, err := h.first()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", strconv.Itoa(pid), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wd", "--",
		"env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", name,
	}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("running %s on host %s: %w: %s", name, h.Name, err, bytes.TrimSpace(out[max(0, len(out)-500):]))
	}
	return out, nil
}
