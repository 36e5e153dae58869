package rack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/edge-provision/edge-provision/bmc/sim"
)

// readiness is the one line that a supervisor writes when it has started, or
// has not.
type readiness struct {
	Error string `json:"error,omitempty"`
}

// supervisor owns the emulated machines and their BMCs.
type supervisor struct {
	spec      Spec
	layout    layout
	accel     Accelerator
	computers []*computer
	bmcs      []managed
	log       *slog.Logger
	stop      context.CancelFunc
}

// managed is a running BMC.
type managed struct {
	address string // the machine's
	stop    func() error
}

// Supervise is the supervisor of one rack. Up starts it inside the rack's
// namespace as a process of its own, gives it the spec as JSON on in and waits
// for one line of JSON on ready; other programs have no use for it. It returns
// when ctx ends or Down tells it to, and ends its machines first.
func Supervise(ctx context.Context, in io.Reader, ready io.Writer, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &supervisor{log: log, stop: cancel}
	nursery := newNursery()
	defer nursery.close()
	serve, err := s.start(ctx, in, nursery)
	if err != nil {
		// Nothing may outlive a failed start; Up waits for the line.
		err = errors.Join(err, s.shutdown())
		_ = json.NewEncoder(ready).Encode(readiness{Error: err.Error()})
		return err
	}
	if err := json.NewEncoder(ready).Encode(readiness{}); err != nil {
		return errors.Join(fmt.Errorf("reporting that the rack is up: %w", err), s.shutdown())
	}
	log.Info("rack is up", "accelerator", string(s.accel), "machines", len(s.computers))
	err = serve(ctx)
	return errors.Join(err, s.shutdown())
}

// start reads the spec and brings everything up; the function that it returns
// serves the control socket.
func (s *supervisor) start(ctx context.Context, in io.Reader, n *nursery) (serve func(context.Context) error, err error) {
	var spec Spec
	if err := json.NewDecoder(io.LimitReader(in, maxControlMessage)).Decode(&spec); err != nil {
		return nil, fmt.Errorf("reading the rack's spec: %w", err)
	}
	s.spec = spec.withDefaults()
	if err := s.spec.Validate(); err != nil {
		return nil, fmt.Errorf("checking the rack's spec: %w", err)
	}
	s.layout = layout(s.spec.StateDir)
	if err := s.enroll(); err != nil {
		return nil, err
	}
	s.accel, err = chooseAccelerator(ctx, s.spec.Accelerator, s.spec.CacheDir, n.start, s.log)
	if err != nil {
		return nil, fmt.Errorf("choosing an accelerator: %w", err)
	}
	for i, m := range s.spec.Machines {
		s.computers = append(s.computers, newComputer(s.layout, i, m, s.accel, n.start, s.log))
	}
	control, err := listenControl(s.spec.StateDir, s.answer)
	if err != nil {
		return nil, err
	}
	for _, c := range s.computers {
		stop, err := startBMC(ctx, s.layout, c)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("starting the BMC of %s: %w", c.spec.Address, err), control.listener.Close())
		}
		if stop != nil {
			s.bmcs = append(s.bmcs, managed{address: c.spec.Address, stop: stop})
		}
	}
	for _, c := range s.computers {
		if !c.spec.PowerOn {
			continue
		}
		if err := c.Do(ctx, sim.On); err != nil {
			return nil, errors.Join(err, control.listener.Close())
		}
	}
	return control.serve, nil
}

// enroll makes sure that Down can find this process, and only then that the
// rack is wanted: a Down that came first has removed the record, one that comes
// later finds the process.
func (s *supervisor) enroll() error {
	self, err := identify(os.Getpid())
	if err != nil {
		return err
	}
	if err := writeJSON(s.layout.supervisor(), self); err != nil {
		return err
	}
	if _, err := os.Stat(s.layout.record()); err != nil {
		return errors.Join(fmt.Errorf("the rack was taken down while its supervisor started: %w", err), os.Remove(s.layout.supervisor()))
	}
	name := namespaceName(s.spec.Name)
	want, err := os.Stat(namespacePath(name))
	if err != nil {
		return fmt.Errorf("looking at namespace %s: %w", name, err)
	}
	got, err := os.Stat("/proc/self/ns/net")
	if err != nil {
		return fmt.Errorf("looking at our own network namespace: %w", err)
	}
	if !os.SameFile(want, got) {
		return fmt.Errorf("the supervisor was started outside namespace %s: start it by Up, never by hand", name)
	}
	return nil
}

// shutdown ends BMCs and machines, all at once, and removes what says that they
// run.
func (s *supervisor) shutdown() error {
	ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
	defer cancel()
	var mu sync.Mutex
	var problems []error
	var ends sync.WaitGroup
	end := func(f func() error) {
		ends.Go(func() {
			if err := f(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				problems = append(problems, err)
			}
		})
	}
	for _, b := range s.bmcs {
		end(func() error {
			if err := b.stop(); err != nil {
				return fmt.Errorf("stopping the BMC of %s: %w", b.address, err)
			}
			return nil
		})
	}
	ends.Wait()
	for _, c := range s.computers {
		end(func() error { return c.Do(ctx, sim.Off) })
	}
	ends.Wait()
	if s.layout != "" {
		for _, path := range []string{s.layout.path(controlName), s.layout.supervisor()} {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				problems = append(problems, fmt.Errorf("removing a file of the supervisor: %w", err))
			}
		}
	}
	return errors.Join(problems...)
}

// answer carries out one request from the control socket.
func (s *supervisor) answer(ctx context.Context, q controlRequest) controlReply {
	var err error
	switch q.Verb {
	case "status":
		status := s.status()
		return controlReply{Status: &status}
	case "stop":
		s.stop()
		return controlReply{}
	case "power":
		err = s.withComputer(q.Machine, func(c *computer) error { return c.press(ctx, q.Power) })
	case "boot":
		err = s.withComputer(q.Machine, func(c *computer) error { return c.bootOnce(ctx, q.Boot) })
	case "swap":
		if q.Disk == nil {
			q.Disk = &Disk{}
		}
		err = s.withComputer(q.Machine, func(c *computer) error { return c.swap(ctx, q.Slot, *q.Disk) })
	default:
		err = fmt.Errorf("the supervisor does not know %q: it is of another version than this program", q.Verb)
	}
	if err != nil {
		return controlReply{Error: err.Error()}
	}
	return controlReply{}
}

func (s *supervisor) withComputer(address string, f func(*computer) error) error {
	for _, c := range s.computers {
		if c.spec.Address == address {
			return f(c)
		}
	}
	return fmt.Errorf("the rack of site %s has no machine %q", s.spec.Name, address)
}

// press does what a person in front of the machine can do.
func (c *computer) press(ctx context.Context, a PowerAction) error {
	actions := map[PowerAction]sim.Action{
		PowerOn: sim.On, PowerOff: sim.Off, PowerCycle: sim.Cycle, PowerReset: sim.Reset, PowerShutdown: sim.Soft,
	}
	action, ok := actions[a]
	if !ok {
		return fmt.Errorf("power action %q is unknown: use on, off, cycle, reset or shutdown", a)
	}
	if (a == PowerReset || a == PowerShutdown) && c.running() == nil {
		return fmt.Errorf("%s is off: there is nothing to %s", c.spec.Address, a)
	}
	return c.Do(ctx, action)
}

func (c *computer) bootOnce(ctx context.Context, class BootClass) error {
	devices := map[BootClass]sim.Device{BootNetwork: sim.PXE, BootDisk: sim.Disk, "": sim.FirmwareOrder}
	device, ok := devices[class]
	if !ok {
		return fmt.Errorf("boot class %q is unknown: use network or disk", class)
	}
	return c.SetBoot(ctx, sim.Override{Device: device, Once: true, EFI: c.spec.Firmware == FirmwareUEFI})
}

func (s *supervisor) status() Status {
	st := Status{
		State: StateUp, Name: s.spec.Name, Namespace: namespaceName(s.spec.Name),
		Supervisor: os.Getpid(), Accelerator: s.accel,
	}
	for _, c := range s.computers {
		st.Machines = append(st.Machines, c.status())
	}
	return st
}
