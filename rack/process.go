package rack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// process identifies one process for as long as the host runs: a PID alone may
// meanwhile be another's.
type process struct {
	PID int `json:"pid"`
	// StartTicks is field 22 of /proc/PID/stat: clock ticks from boot to start.
	StartTicks uint64 `json:"start_ticks"`
	// BootID is /proc/sys/kernel/random/boot_id.
	BootID string `json:"boot_id"`
}

// procStat is what this package needs of /proc/PID/stat (proc(5)).
type procStat struct {
	command    string
	state      byte
	session    int
	startTicks uint64
}

// parseStat reads a line of /proc/PID/stat. The command's name may contain
// blanks and parentheses, so the fields are counted from the last one.
func parseStat(b []byte) (procStat, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return procStat{}, fmt.Errorf("process status %.64q has no command", b)
	}
	fields := strings.Fields(string(b[end+1:]))
	if len(fields) < 20 || len(fields[0]) != 1 {
		return procStat{}, fmt.Errorf("process status has %d fields after the command; want at least 20", len(fields))
	}
	session, err := strconv.Atoi(fields[3])
	if err != nil {
		return procStat{}, fmt.Errorf("reading the session of a process status: %w", err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("reading the start time of a process status: %w", err)
	}
	return procStat{command: string(b[open+1 : end]), state: fields[0][0], session: session, startTicks: start}, nil
}

func statOf(pid int) (procStat, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return procStat{}, err
	}
	return parseStat(b)
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the host's boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// identify returns the identity of a living process.
func identify(pid int) (process, error) {
	st, err := statOf(pid)
	if err != nil {
		return process{}, fmt.Errorf("identifying process %d: %w", pid, err)
	}
	boot, err := bootID()
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, StartTicks: st.startTicks, BootID: boot}, nil
}

// alive reports whether exactly this process still runs. A zombie does not.
func (p process) alive() bool {
	boot, err := bootID()
	if err != nil || p.BootID != boot || p.PID <= 0 {
		return false
	}
	st, err := statOf(p.PID)
	return err == nil && st.startTicks == p.StartTicks && st.state != 'Z' && st.state != 'X'
}

// handle is an open reference to a process that cannot come to mean another.
type handle struct {
	fd  int
	pid int
}

// errGone says that the process is no more, so there is nothing to do to it.
var errGone = errors.New("the process has ended")

// open returns a handle on the process, or errGone. The descriptor is taken
// first and the start time compared afterwards, so that no other process can
// slip in between.
func (p process) open() (handle, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) {
		return handle{}, errGone
	} else if err != nil {
		return handle{}, fmt.Errorf("opening process %d: %w", p.PID, err)
	}
	if !p.alive() {
		return handle{}, errors.Join(errGone, unix.Close(fd))
	}
	return handle{fd: fd, pid: p.PID}, nil
}

func (h handle) close() error { return unix.Close(h.fd) }

func (h handle) signal(sig unix.Signal) error {
	if err := unix.PidfdSendSignal(h.fd, sig, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("sending signal %s to process %d: %w", unix.SignalName(sig), h.pid, err)
	}
	return nil
}

// wait returns when the process has ended; ctx bounds it.
func (h handle) wait(ctx context.Context) error {
	for {
		fds := []unix.PollFd{{Fd: int32(h.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int((100 * time.Millisecond).Milliseconds()))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("waiting for process %d: %w", h.pid, err)
		}
		if n > 0 {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("waiting for process %d to end: %w", h.pid, err)
		}
	}
}

// kill ends the process and waits until it has gone.
func (p process) kill(ctx context.Context) error {
	h, err := p.open()
	if errors.Is(err, errGone) {
		return nil
	} else if err != nil {
		return err
	}
	return errors.Join(h.signal(unix.SIGKILL), h.wait(ctx), h.close())
}

// readProcess reads an identity that writeJSON wrote. ok is false when there is no such file.
func readProcess(path string) (p process, ok bool, err error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return process{}, false, nil
	} else if err != nil {
		return process{}, false, fmt.Errorf("reading process file: %w", err)
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return process{}, false, fmt.Errorf("reading process file %s: %w", path, err)
	}
	return p, true, nil
}

// writeJSON replaces the file whole or not at all.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	return writeFile(path, append(b, '\n'), 0o600)
}

// writeFile replaces the file whole or not at all.
func writeFile(path string, b []byte, mode os.FileMode) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, mode); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// inhabitant is a process that runs inside a network namespace.
type inhabitant struct {
	process
	command string
	session int
}

// inhabitants lists the processes inside the namespace. Processes that end
// while it looks are left out.
func inhabitants(namespace string) ([]inhabitant, error) {
	want, err := os.Stat(namespacePath(namespace))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("looking at namespace %s: %w", namespace, err)
	}
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var found []inhabitant
	for _, dir := range dirs {
		got, err := os.Stat(filepath.Join(dir, "ns/net"))
		if err != nil || !os.SameFile(want, got) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			continue
		}
		st, err := statOf(pid)
		if err != nil || st.state == 'Z' || st.state == 'X' {
			continue
		}
		found = append(found, inhabitant{
			process: process{PID: pid, StartTicks: st.startTicks, BootID: boot},
			command: st.command,
			session: st.session,
		})
	}
	return found, nil
}
