package rack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cleanTimeout bounds the removal of what a failed Up had made.
const cleanTimeout = 60 * time.Second

// record says that a rack exists, or is about to. It is written before the
// first thing that outlives this process and removed after the last.
type record struct {
	Name      string    `json:"name"`
	Namespace string    `json:"namespace"`
	Created   time.Time `json:"created"`
	// Machines are the addresses, for the removal of their directories.
	Machines []string `json:"machines"`
}

// Up builds the namespace, starts the supervisor, waits until every BMC
// answers and prints how to use the rack. When it fails or ctx ends, it removes
// what it had made. A rack that is up already is an error that says so; the
// remains of one that crashed are removed first. Disks, UEFI variables and
// certificates of an earlier rack in StateDir are used again.
func (r *Rack) Up(ctx context.Context) (err error) {
	if err := r.spec.Validate(); err != nil {
		return fmt.Errorf("checking the rack's spec: %w", err)
	}
	if err := checkPrerequisites(prerequisites(r.spec)); err != nil {
		return fmt.Errorf("the virtual rack needs more than this host has:\n%w", err)
	}
	made := &harvest{}
	if err := made.mkdir(r.spec.StateDir); err != nil {
		return err
	}
	unlock, err := r.lock()
	if err != nil {
		return errors.Join(err, made.remove())
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := r.build(ctx, made); err != nil {
		// ctx may be what ended it; the cleaning has a bound of its own.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
		defer cancel()
		if cleaned := errors.Join(r.clear(ctx), made.remove()); cleaned != nil {
			return fmt.Errorf("starting the rack: %w\nand what it had made could not all be removed: %w", err, cleaned)
		}
		return fmt.Errorf("starting the rack: %w", err)
	}
	return r.printUp(ctx)
}

// settle refuses when the rack is up and removes the remains of one that is not.
func (r *Rack) settle(ctx context.Context) error {
	p, ok, err := readProcess(r.layout.supervisor())
	if err != nil {
		return err
	}
	if ok && p.alive() {
		return fmt.Errorf("the rack of site %s is up already (supervisor process %d): take it down first", r.spec.Name, p.PID)
	}
	_, err = os.Stat(r.layout.record())
	switch {
	case err == nil:
		r.cfg.Log.Warn("removing the remains of a rack that ended badly", "state_dir", r.spec.StateDir)
		return r.clear(ctx)
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("looking for the rack's record: %w", err)
	case namespaceExists(r.Namespace()):
		return fmt.Errorf("network namespace %s exists and state directory %s has no record of it: it is another rack's, or somebody else's; take that down, or choose another name for the site", r.Namespace(), r.spec.StateDir)
	}
	return nil
}

// stage is one step of Up.
type stage struct {
	name string
	do   func(context.Context) error
}

// build makes the rack, stage by stage.
func (r *Rack) build(ctx context.Context, made *harvest) error {
	stages := []stage{
		{"record", func(context.Context) error { return r.writeRecord() }},
		{"disks", func(ctx context.Context) error { return r.makeDisks(ctx, made) }},
		{"firmware", func(context.Context) error { return r.copyVariables(made) }},
		{"certificates", func(context.Context) error { return r.makeCertificates(made) }},
		{"trust", func(context.Context) error { return r.trustCertificates(made) }},
		{"namespace", func(ctx context.Context) error { return addNamespace(ctx, r.Namespace()) }},
		{"links", func(ctx context.Context) error { return addLinks(ctx, r.spec) }},
		{"supervisor", r.startSupervisor},
	}
	for _, s := range stages {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		if r.fault != nil {
			if err := r.fault(s.name); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	return nil
}

func (r *Rack) writeRecord() error {
	rec := record{Name: r.spec.Name, Namespace: r.Namespace(), Created: time.Now().UTC()}
	for _, m := range r.spec.Machines {
		rec.Machines = append(rec.Machines, m.Address)
	}
	return writeJSON(r.layout.record(), rec)
}

// copyVariables gives each UEFI machine its own variables, kept like NVRAM.
func (r *Rack) copyVariables(made *harvest) error {
	for _, m := range r.spec.Machines {
		if m.Firmware != FirmwareUEFI {
			continue
		}
		path, template := r.layout.variables(m), ovmfVars
		if m.SecureBoot {
			template = ovmfSecureVars
		}
		if _, err := os.Stat(path); err == nil {
			continue
		}
		made.file(path)
		if err := copyFile(template, path); err != nil {
			return fmt.Errorf("UEFI variables of %s: %w", m.Address, err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copying a file: %w", err)
	}
	return writeFile(to, b, 0o600)
}

// startSupervisor starts the supervisor detached from the terminal and inside
// the namespace, and waits for its word.
func (r *Rack) startSupervisor(ctx context.Context) error {
	if len(r.cfg.Supervisor) == 0 {
		return errors.New("no command of the supervisor is configured")
	}
	spec, err := json.Marshal(r.spec)
	if err != nil {
		return fmt.Errorf("encoding the rack's spec: %w", err)
	}
	log, err := os.OpenFile(r.layout.log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("creating the supervisor's log: %w", err)
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("making a pipe for the supervisor: %w", err)
	}
	defer ready.Close()
	// The spec has the BMCs' passwords: it goes by an unnamed file, so that
	// it is on no disk and does not need us to stay until it is read.
	in, err := unnamedFile(spec)
	if err != nil {
		return errors.Join(err, theirs.Close())
	}
	defer in.Close()
	cmd := exec.Command(r.cfg.Supervisor[0], r.cfg.Supervisor[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, theirs, log
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := errors.Join(inNamespace(r.Namespace(), cmd.Start), theirs.Close()); err != nil {
		return fmt.Errorf("starting %s: %w", strings.Join(r.cfg.Supervisor, " "), err)
	}
	// It outlives us; while we live it must not stay behind as a zombie.
	go func() { _ = cmd.Wait() }()
	if err := r.awaitReady(ctx, ready); err != nil {
		if p, identified := identify(cmd.Process.Pid); identified == nil && p.alive() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
			defer cancel()
			err = errors.Join(err, p.kill(ctx))
		}
		return err
	}
	return nil
}

// unnamedFile returns a descriptor of memory with the content, at its start.
func unnamedFile(b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("rack-spec", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("making an unnamed file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "rack-spec")
	if _, err := f.Write(b); err != nil {
		return nil, errors.Join(fmt.Errorf("writing an unnamed file: %w", err), f.Close())
	}
	if _, err := f.Seek(0, 0); err != nil {
		return nil, errors.Join(fmt.Errorf("rewinding an unnamed file: %w", err), f.Close())
	}
	return f, nil
}

// awaitReady reads the supervisor's line.
func (r *Rack) awaitReady(ctx context.Context, ready *os.File) error {
	if err := ready.SetReadDeadline(time.Now().Add(r.cfg.ReadyTimeout)); err != nil {
		return fmt.Errorf("waiting for the supervisor: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var word readiness
	err := json.NewDecoder(ready).Decode(&word)
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("waiting for the supervisor: %w", ctx.Err())
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the supervisor was not ready within %s%s", r.cfg.ReadyTimeout, lastWords(r.layout.log()))
	case err != nil:
		return fmt.Errorf("the supervisor ended before it was ready (%w)%s", err, lastWords(r.layout.log()))
	case word.Error != "":
		return errors.New(word.Error)
	}
	return nil
}

// printUp tells a person what there is now and how to use it.
func (r *Rack) printUp(ctx context.Context) error {
	st, err := r.Status(ctx)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := st.Write(&b); err != nil {
		return err
	}
	if len(r.cfg.Apply) > 0 {
		fmt.Fprintf(&b, "\nInside the rack's network:\n\n  ip netns exec %s %s\n", r.Namespace(), shellQuote(r.cfg.Apply))
	}
	_, err = r.cfg.Stdout.Write(b.Bytes())
	return err
}

// shellQuote writes a command line as a POSIX shell reads it.
func shellQuote(args []string) string {
	quoted := make([]string, len(args))
	for i, a := range args {
		quoted[i] = a
		if a == "" || strings.ContainsFunc(a, needsQuote) {
			quoted[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

func needsQuote(c rune) bool {
	return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("-_./:=,@%+", c))
}

// harvest lists what one Up made on disk, so that exactly this is removed when
// it fails.
type harvest struct{ paths []string }

// mkdir makes a directory and those above it.
func (h *harvest) mkdir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := h.mkdir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("making a directory of the rack: %w", err)
	}
	h.paths = append(h.paths, dir)
	return nil
}

// file notes a file that is about to be made.
func (h *harvest) file(path string) { h.paths = append(h.paths, path) }

// remove undoes it all, last first. A directory that was made here holds
// nothing of anybody else's.
func (h *harvest) remove() error {
	var problems []error
	for i := len(h.paths) - 1; i >= 0; i-- {
		if err := os.RemoveAll(h.paths[i]); err != nil {
			problems = append(problems, fmt.Errorf("removing what was made: %w", err))
		}
	}
	return errors.Join(problems...)
}
