package host

import (
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

// settings are those of the whole machine that all labs on it share. What they
// were is remembered once, when no lab lives, and restored by the last that
// ends: what a second lab finds while a first one lives is not the machine's own.
type settings struct {
	// sys is where the kernel shows them, sysctl(8)'s /proc/sys.
	sys string
	// dir keeps what they were, and one file for each lab, which the lab has
	// locked for as long as it lives: the kernel frees the lock of one that is
	// killed. It must not survive the machine's restart, or may as long as it
	// has the id of that boot.
	dir string
}

var machineSettings = settings{sys: "/proc/sys", dir: "/run/edge-lab"}

// changed are the settings that a host's systemd and kubelet change. Those of
// networks belong to each namespace.
var changed = []string{
	"fs/inotify/max_user_instances", "fs/inotify/max_user_watches", "fs/protected_fifos", "fs/protected_hardlinks", "fs/protected_regular", "fs/protected_symlinks",
	"kernel/core_pattern", "kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops", "kernel/pid_max", "kernel/printk", "kernel/sysrq",
	"vm/max_map_count", "vm/overcommit_memory", "vm/panic_on_oom",
}

// inotify are limits per user that the hosts' users, all root, share: a host with
// a node's programs takes about 25 instances, and the kernel's own limit is 128.
var inotify = map[string]int{"fs/inotify/max_user_instances": 8192, "fs/inotify/max_user_watches": 524288}

// memory is what the settings were before the first lab.
type memory struct {
	// Boot is the kernel's boot_id: another boot began with settings of its own.
	Boot   string            `json:"boot"`
	Values map[string]string `json:"values"`
}

// held is one lab's part.
type held struct {
	settings
	own *os.File
}

// hold remembers the settings unless a lab that lives has, and raises the limits
// that hosts need. release gives them back.
func (s settings) hold(lab string) (_ *held, err error) {
	if err := os.MkdirAll(s.labs(), 0o755); err != nil {
		return nil, fmt.Errorf("remembering the machine's settings: %w", err)
	}
	unlock, err := s.lock()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	own, err := os.OpenFile(filepath.Join(s.labs(), lab), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("remembering the machine's settings: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, own.Close())
		}
	}()
	if err := unix.Flock(int(own.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("a lab named %s is running already: give this one another name, or end that one: %w", lab, err)
	}
	if err := s.remember(); err != nil {
		return nil, fmt.Errorf("remembering the machine's settings: %w", err)
	}
	return &held{settings: s, own: own}, s.raise()
}

func (s settings) labs() string { return filepath.Join(s.dir, "labs") }

// lockLimit is how long another lab may take to write a dozen small files.
const lockLimit = 30 * time.Second

// lock keeps others from changing the memory meanwhile.
func (s settings) lock() (unlock func() error, err error) {
	f, err := os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the machine's settings: %w", err)
	}
	for began := time.Now(); ; time.Sleep(poll) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f.Close, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) || time.Since(began) > lockLimit {
			return nil, errors.Join(fmt.Errorf("locking %s for the machine's settings: %w", f.Name(), err), f.Close())
		}
	}
}

func (s settings) memoryPath() string { return filepath.Join(s.dir, "settings.json") }

// read returns what is remembered of this boot; nothing is no error.
func (s settings) read() (memory, error) {
	boot, err := os.ReadFile(filepath.Join(s.sys, "kernel/random/boot_id"))
	if err != nil {
		return memory{}, err
	}
	now := memory{Boot: strings.TrimSpace(string(boot)), Values: map[string]string{}}
	text, err := os.ReadFile(s.memoryPath())
	if errors.Is(err, os.ErrNotExist) {
		return now, nil
	}
	if err != nil {
		return memory{}, err
	}
	var m memory
	if err := json.Unmarshal(text, &m); err != nil {
		return memory{}, fmt.Errorf("reading %s: %w: remove it, if the machine's settings are as you want them", s.memoryPath(), err)
	}
	if m.Boot != now.Boot || m.Values == nil {
		return now, nil
	}
	return m, nil
}

// remember notes each setting that is not remembered yet. What a killed lab has
// noted stays: it restored nothing.
func (s settings) remember() error {
	m, err := s.read()
	if err != nil {
		return err
	}
	for _, name := range changed {
		if _, ok := m.Values[name]; ok {
			continue
		}
		value, err := os.ReadFile(filepath.Join(s.sys, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // this kernel does not have it
		} else if err != nil {
			return err
		}
		m.Values[name] = string(value)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	// Renamed, so that a killed lab leaves no half of it.
	next := s.memoryPath() + ".new"
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return err
	}
	return os.Rename(next, s.memoryPath())
}

// raise raises the limits, which are remembered.
func (s settings) raise() error {
	for name, want := range inotify {
		path := filepath.Join(s.sys, name)
		b, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading setting %s: %w", name, err)
		}
		if have, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil && have >= want {
			continue
		}
		if err := os.WriteFile(path, []byte(strconv.Itoa(want)), 0o644); err != nil {
			return fmt.Errorf("raising setting %s to %d: %w", name, want, err)
		}
	}
	return nil
}

// release ends the lab's part. When no other lab lives, the settings become what
// they were before the first.
func (h *held) release() (err error) {
	unlock, err := h.lock()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := errors.Join(os.Remove(h.own.Name()), h.own.Close()); err != nil {
		return fmt.Errorf("giving the machine's settings back: %w", err)
	}
	others, err := h.others()
	if err != nil || others {
		return err
	}
	return h.restore()
}

// others reports whether another lab lives, and removes what is left of those
// that were killed.
func (s settings) others() (living bool, err error) {
	entries, err := os.ReadDir(s.labs())
	if err != nil {
		return false, fmt.Errorf("looking for other labs: %w", err)
	}
	for _, e := range entries {
		path := filepath.Join(s.labs(), e.Name())
		f, err := os.Open(path)
		if err != nil {
			return false, fmt.Errorf("looking for other labs: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			living, err = true, nil
		case err == nil:
			err = os.Remove(path)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return false, fmt.Errorf("looking for other labs: %w", err)
		}
	}
	return living, nil
}

// restore writes what is remembered where it differs, and forgets it. What cannot
// be restored stays remembered, for the next lab to try.
func (s settings) restore() error {
	m, err := s.read()
	if err != nil {
		return fmt.Errorf("restoring the machine's settings: %w", err)
	}
	var errs []error
	for name, before := range m.Values {
		path := filepath.Join(s.sys, name)
		if now, err := os.ReadFile(path); err == nil && string(now) == before {
			continue
		}
		if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("restoring setting %s to %s: %w", name, strings.TrimSpace(before), err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	return os.Remove(s.memoryPath())
}
