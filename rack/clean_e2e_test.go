//go:build e2e

package rack

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

var errInjected = errors.New("injected fault")

func TestAFailureAtEachStageOfUpLeavesNothing(t *testing.T) {
	for _, name := range []string{"record", "disks", "firmware", "certificates", "trust", "namespace", "links", "supervisor"} {
		t.Run(name, func(t *testing.T) {
			spec := siteUnderTest(t)
			spec.Machines[1].PowerOn = true
			before := take(t, spec)
			r := newRack(t, spec)
			r.fault = func(stage string) error {
				if stage == name {
					return errInjected
				}
				return nil
			}
			if err := r.Up(bounded(t, time.Minute)); !errors.Is(err, errInjected) {
				t.Fatalf("Up = %v; want the injected fault", err)
			}
			mustBeGone(t, before, spec)
			if _, err := os.Stat(spec.StateDir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("state directory after a failed Up: %v; want it gone", err)
			}
		})
	}
}

func TestAFailedSupervisorIsExplainedAndLeavesNothing(t *testing.T) {
	cases := map[string]struct {
		sabotage func(*Spec, *Rack)
		want     string
	}{
		"a disk vanishes before power on": {
			sabotage: func(s *Spec, r *Rack) {
				s.Machines[1].PowerOn = true
				r.fault = func(stage string) error {
					if stage == "links" {
						return os.Remove(r.layout.disk(r.spec.Machines[1], 0))
					}
					return nil
				}
			},
			want: "disk0.raw",
		},
		"a tap is gone": {
			sabotage: func(s *Spec, r *Rack) {
				s.Machines[1].PowerOn = true
				r.fault = func(stage string) error {
					if stage == "links" {
						return ip(context.Background(), nil, "netns", "exec", r.Namespace(), "sh", "-c", "ip link del m1n0; ip link add m1n0 type bridge")
					}
					return nil
				}
			},
			want: "m1n0",
		},
		"a BMC's address is taken": {
			sabotage: func(_ *Spec, r *Rack) {
				r.fault = func(stage string) error {
					if stage == "links" {
						return ip(context.Background(), nil, "-n", r.Namespace(), "address", "delete", "172.22.1.11/32", "dev", "lo")
					}
					return nil
				}
			},
			want: "172.22.1.11",
		},
		"the program is none": {
			sabotage: func(_ *Spec, r *Rack) { r.cfg.Supervisor = []string{"/bin/false"} },
			want:     "ended before it was ready",
		},
		"the program hangs": {
			sabotage: func(_ *Spec, r *Rack) {
				r.cfg.Supervisor = []string{"sleep", "1000"}
				r.cfg.ReadyTimeout = 300 * time.Millisecond
			},
			want: "not ready within 300ms",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			spec := siteUnderTest(t)
			before := take(t, spec)
			r := newRack(t, spec)
			c.sabotage(&r.spec, r)
			if err := r.Up(bounded(t, time.Minute)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("Up = %v; want an error with %q", err, c.want)
			}
			mustBeGone(t, before, spec)
		})
	}
}

func TestInterruptedUpLeavesNothing(t *testing.T) {
	spec := siteUnderTest(t)
	before := take(t, spec)
	r := newRack(t, spec)
	ctx, cancel := context.WithCancel(context.Background())
	r.fault = func(stage string) error {
		if stage == "links" {
			cancel()
		}
		return nil
	}
	if err := r.Up(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Up = %v; want it cancelled", err)
	}
	mustBeGone(t, before, spec)
}

func TestInterruptWhileTheSupervisorStartsLeavesNothing(t *testing.T) {
	spec := siteUnderTest(t)
	before := take(t, spec)
	r := newRack(t, spec)
	r.cfg.Supervisor = []string{"sleep", "1000"}
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	if err := r.Up(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("Up = %v; want it ended by its context", err)
	}
	mustBeGone(t, before, spec)
}

// TestDownCleansAfterACrashOfTheSupervisor kills the supervisor as a crash
// would; a second Up over the remains works too.
func TestDownCleansAfterACrashOfTheSupervisor(t *testing.T) {
	spec := siteUnderTest(t)
	spec.Machines[0].PowerOn, spec.Machines[1].PowerOn = true, true
	before := take(t, spec)
	r := newRack(t, spec)
	crash := func() {
		t.Helper()
		if err := r.Up(bounded(t, 2*time.Minute)); err != nil {
			t.Fatalf("Up = %v", err)
		}
		p, ok, err := readProcess(r.layout.supervisor())
		if err != nil || !ok {
			t.Fatalf("readProcess = %v, %v", ok, err)
		}
		if err := p.kill(bounded(t, time.Minute)); err != nil {
			t.Fatalf("killing the supervisor = %v", err)
		}
		st, err := r.Status(bounded(t, time.Minute))
		if err != nil || st.State != StateBroken {
			t.Errorf("Status after the crash = %+v, %v; want it broken", st, err)
		}
	}
	crash()
	crash() // Up over the remains
	if err := r.Down(bounded(t, time.Minute), true); err != nil {
		t.Fatalf("Down = %v", err)
	}
	mustBeGone(t, before, spec)
	st, err := r.Status(bounded(t, time.Minute))
	if err != nil || st.State != StateDown {
		t.Errorf("Status after Down = %+v, %v; want it down", st, err)
	}
}

// TestMachinesDieWithTheirSupervisor: no emulator may go on writing to a disk
// that nobody answers for.
func TestMachinesDieWithTheirSupervisor(t *testing.T) {
	spec := siteUnderTest(t)
	spec.Machines[1].PowerOn = true
	r := newRack(t, spec)
	if err := r.Up(bounded(t, 2*time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	m, err := r.Machine(bounded(t, time.Minute), biosMachine)
	if err != nil {
		t.Fatalf("Machine = %v", err)
	}
	emulator, err := identify(m.PID)
	if err != nil {
		t.Fatalf("identify = %v", err)
	}
	h, err := emulator.open()
	if err != nil {
		t.Fatalf("open = %v", err)
	}
	defer h.close()
	p, _, err := readProcess(r.layout.supervisor())
	if err != nil {
		t.Fatalf("readProcess = %v", err)
	}
	if err := p.kill(bounded(t, time.Minute)); err != nil {
		t.Fatalf("killing the supervisor = %v", err)
	}
	if err := h.wait(bounded(t, 20*time.Second)); err != nil {
		t.Errorf("the emulator outlives its supervisor: %v", err)
	}
}

func TestDownSparesAndNamesAStrangerInTheNamespace(t *testing.T) {
	spec := siteUnderTest(t)
	r := newRack(t, spec)
	if err := r.Up(bounded(t, 2*time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	stranger := exec.Command("ip", "netns", "exec", r.Namespace(), "sleep", "1000")
	stranger.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := stranger.Start(); err != nil {
		t.Fatalf("starting a stranger = %v", err)
	}
	defer func() {
		if err := stranger.Process.Kill(); err != nil {
			t.Errorf("ending the stranger = %v: Down has ended it", err)
		}
		_ = stranger.Wait()
	}()
	inside := func() bool {
		all, err := inhabitants(r.Namespace())
		if err != nil {
			t.Fatalf("inhabitants = %v", err)
		}
		for _, i := range all {
			if i.PID == stranger.Process.Pid {
				return true
			}
		}
		return false
	}
	for deadline := time.Now().Add(10 * time.Second); !inside(); {
		if time.Now().After(deadline) {
			t.Fatal("the stranger did not get into the namespace within 10 s")
		}
	}
	var said strings.Builder
	r.cfg.Stdout = &said
	if err := r.Down(bounded(t, time.Minute), true); err != nil {
		t.Fatalf("Down = %v", err)
	}
	if !strings.Contains(said.String(), "sleep") {
		t.Errorf("Down said %q; want the stranger named", said.String())
	}
	if namespaceExists(r.Namespace()) {
		t.Errorf("namespace %s is still there", r.Namespace())
	}
}

func TestASecondRackOfTheSameNameIsRefused(t *testing.T) {
	spec := siteUnderTest(t)
	r := newRack(t, spec)
	if err := r.Up(bounded(t, 2*time.Minute)); err != nil {
		t.Fatalf("Up = %v", err)
	}
	other := spec
	other.StateDir = t.TempDir()
	second := newRack(t, other)
	if err := second.Up(bounded(t, time.Minute)); err == nil || !strings.Contains(err.Error(), "no record") {
		t.Errorf("Up of a rack whose namespace exists = %v; want it refused", err)
	}
	if err := second.Down(bounded(t, time.Minute), true); err != nil {
		t.Errorf("Down of a rack that is not up = %v", err)
	}
	if st, err := r.Status(bounded(t, time.Minute)); err != nil || st.State != StateUp {
		t.Errorf("the first rack = %+v, %v; want it untouched", st, err)
	}
}
