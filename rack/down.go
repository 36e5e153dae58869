package rack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// stopTimeout is what a supervisor gets to end its machines before it is
// killed, which ends them too.
const stopTimeout = 10 * time.Second

// lock makes this the only Up or Down on the state directory.
func (r *Rack) lock() (unlock func() error, err error) {
	path := r.layout.lock()
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return nil, fmt.Errorf("opening the rack's lock: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("another rack up or rack down is at work in %s: wait for it to end", r.spec.StateDir), f.Close())
		} else if err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", path, err), f.Close())
		}
		// Down removes the file: a lock on what has no name any more
		// excludes nobody.
		ours, err := f.Stat()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("looking at the rack's lock: %w", err), f.Close())
		}
		if named, err := os.Stat(path); err == nil && os.SameFile(ours, named) {
			return f.Close, nil
		}
		if err := f.Close(); err != nil {
			return nil, fmt.Errorf("closing an old lock: %w", err)
		}
	}
}

// Down ends the rack's processes, removes the namespace with all in it, and
// the files that only a running rack needs. It works after a crash of the
// supervisor and after an Up that was killed, and is no error when there is
// nothing. removeDisks also removes the disks (never those given by
// Disk.Path), UEFI variables, certificates and logs.
func (r *Rack) Down(ctx context.Context, removeDisks bool) (err error) {
	if _, err := os.Stat(r.spec.StateDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	machines := r.knownMachines()
	if err := r.clear(ctx); err != nil {
		return fmt.Errorf("taking the rack down: %w", err)
	}
	if !removeDisks {
		return nil
	}
	if err := r.removeState(machines); err != nil {
		return fmt.Errorf("removing the rack's disks: %w", err)
	}
	return nil
}

// knownMachines are the addresses of the machines that are declared now and of
// those that the rack was built with.
func (r *Rack) knownMachines() []string {
	var known []string
	for _, m := range r.spec.Machines {
		known = append(known, m.Address)
	}
	var rec record
	if b, err := os.ReadFile(r.layout.record()); err == nil && json.Unmarshal(b, &rec) == nil {
		known = append(known, rec.Machines...)
	}
	return known
}

// remains reports whether anything of a rack exists that Down would end or
// remove, disks and logs aside.
func (r *Rack) remains() (bool, error) {
	for _, path := range []string{r.layout.record(), r.layout.supervisor(), r.layout.path(controlName)} {
		if _, err := os.Lstat(path); err == nil {
			return true, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
	return false, nil
}

// clear ends what runs and removes what only a running rack has. The record
// goes last, so that clear can be interrupted and called again.
func (r *Rack) clear(ctx context.Context) error {
	if rest, err := r.remains(); err != nil || !rest {
		return err
	}
	if err := r.endSupervisor(ctx); err != nil {
		return err
	}
	// The namespace is ours only by the record.
	if _, err := os.Stat(r.layout.record()); err == nil {
		if err := r.reportStrangers(); err != nil {
			return err
		}
		if err := removeNamespace(ctx, r.Namespace()); err != nil {
			return err
		}
		if err := distrust(r.Namespace()); err != nil {
			return err
		}
	}
	for _, address := range r.knownMachines() {
		// ipmi_sim's files hold the password.
		if err := os.RemoveAll(r.layout.bmc(address)); err != nil {
			return fmt.Errorf("removing a BMC's files: %w", err)
		}
	}
	if err := os.Remove(r.layout.record()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the rack's record: %w", err)
	}
	// A supervisor that was only just starting has either written its
	// identity by now or finds no record and ends by itself.
	if err := r.endSupervisor(ctx); err != nil {
		return err
	}
	for _, path := range []string{r.layout.path(controlName), r.layout.supervisor()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing a file of the supervisor: %w", err)
		}
	}
	return nil
}

// endSupervisor asks the supervisor to end, kills it when it does not, and then
// ends whatever of its session is left in the namespace.
func (r *Rack) endSupervisor(ctx context.Context) error {
	p, ok, err := readProcess(r.layout.supervisor())
	if err != nil || !ok {
		return err
	}
	h, err := p.open()
	if err == nil {
		err = r.stopSupervisor(ctx, h)
		err = errors.Join(err, h.close())
	} else if errors.Is(err, errGone) {
		err = nil
	}
	if err != nil {
		return err
	}
	// The kernel does not give a session's number to anybody else while the
	// session has members: session and namespace together prove whose they are.
	all, err := inhabitants(r.Namespace())
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.session != p.PID {
			continue
		}
		r.cfg.Log.Warn("ending a process that outlived its supervisor", "pid", i.PID, "command", i.command)
		if err := i.kill(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *Rack) stopSupervisor(ctx context.Context, h handle) error {
	gentle, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if _, err := askSupervisor(gentle, r.spec.StateDir, controlRequest{Verb: "stop"}); err == nil {
		if h.wait(gentle) == nil {
			return nil
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("waiting for supervisor %d to end: %w", h.pid, err)
	}
	r.cfg.Log.Warn("the supervisor does not end by itself: killing it", "pid", h.pid)
	if err := h.signal(unix.SIGKILL); err != nil {
		return err
	}
	return h.wait(ctx)
}

// reportStrangers names processes that somebody else runs inside the namespace.
// They are not ours to end; they lose their network.
func (r *Rack) reportStrangers() error {
	all, err := inhabitants(r.Namespace())
	if err != nil {
		return err
	}
	for _, i := range all {
		if _, err := fmt.Fprintf(r.cfg.Stdout, "process %d (%s) still runs inside namespace %s; it has no network from now on\n", i.PID, i.command, r.Namespace()); err != nil {
			return err
		}
	}
	return nil
}

// removeState removes what this package made in the state directory, and the
// directory if nothing else is in it.
func (r *Rack) removeState(machines []string) error {
	for _, address := range machines {
		if machineDir(address) == "" {
			continue
		}
		if err := os.RemoveAll(r.layout.machine(address)); err != nil {
			return err
		}
	}
	for _, path := range []string{r.layout.certificates(), r.layout.log(), r.layout.path("kvm.json"), r.layout.lock()} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	left, err := filepath.Glob(r.layout.path("*"))
	if err != nil || len(left) > 0 {
		return err
	}
	return os.Remove(r.spec.StateDir)
}
