package dispatch_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
)

// The controller that gave the write was killed: the agent goes on, and nobody has
// it on offer. A restart that comes now would cut the write off.
func TestASpareTaskIsNotGivenToAnAgentAtWork(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	s := newStage()
	r.boot("boot-1", s)
	gone, cancel := context.WithCancel(ctx)
	left := make(chan struct{})
	go func() {
		defer close(left)
		_, _ = r.server.Do(gone, r.machine, writeTask(1), nil) // its end is looked for below
	}()
	<-s.started
	cancel()
	<-left
	reboot := agent.Task{ID: "let go", Run: "discovery", Step: "m", Attempt: 1, Kind: agent.KindReboot}
	short, end := context.WithTimeout(ctx, time.Second)
	defer end()
	if result, err := r.server.Spare(short, r.machine, reboot); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Spare() = %+v, %v; want it never given", result, err)
	}
	s.finish <- agent.Result{Outcome: agent.OutcomeOK}
	if result, err := r.server.Do(ctx, r.machine, writeTask(1), nil); err != nil || result.Outcome != agent.OutcomeOK {
		t.Errorf("the write = %+v, %v; want it done", result, err)
	}
	if want := []string{"start install/write#1", "end install/write#1"}; !slices.Equal(s.lines(), want) {
		t.Errorf("the executor saw %q; want %q", s.lines(), want)
	}
	if result, err := r.server.Spare(ctx, r.machine, reboot); err != nil || result.Outcome != agent.OutcomeOK {
		t.Errorf("Spare() for an agent that does nothing = %+v, %v; want it done", result, err)
	}
}

func TestASpareTaskTakesNoPlaceAndGivesWay(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	reboot := agent.Task{ID: "let go", Run: "discovery", Step: "m", Attempt: 1, Kind: agent.KindReboot, Fence: 7}
	gone, cancel := context.WithCancel(ctx)
	defer cancel()
	spare := make(chan error, 1)
	go func() {
		_, err := r.server.Spare(ctx, r.machine, reboot) // no agent is there yet
		spare <- err
	}()
	real := make(chan error, 1)
	go func() {
		_, err := r.server.Do(gone, r.machine, writeTask(1), nil) // of a lower fence, and yet real work
		real <- err
	}()
	// Whichever of the two came first.
	if err := <-spare; !errors.Is(err, dispatch.ErrReplaced) && !errors.Is(err, dispatch.ErrBusy) {
		t.Errorf("Spare() with work for the machine = %v; want it given up", err)
	}
	if _, err := r.server.Spare(ctx, r.machine, reboot); !errors.Is(err, dispatch.ErrBusy) {
		t.Errorf("Spare() beside work for the machine = %v; want ErrBusy", err)
	}
	cancel()
	if err := <-real; !errors.Is(err, context.Canceled) {
		t.Errorf("Do() = %v; want that it was never replaced", err)
	}
}

// The one who ordered the restart has given up waiting when it is acknowledged.
func TestAMachineThatRestartsIsGoneWhoeverWaits(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	c := r.client()
	session := strings.Repeat("s", 43)
	if _, err := c.Open(ctx, agent.SessionRequest{Token: r.mint("boot-1"), Session: session, Boot: "boot-1", MAC: mac}); err != nil {
		t.Fatal(err)
	}
	waits, leave := context.WithCancel(ctx)
	left := make(chan error, 1)
	go func() {
		_, err := r.server.Spare(waits, r.machine, agent.Task{ID: "let go", Run: "discovery", Step: "m", Attempt: 1, Kind: agent.KindReboot})
		left <- err
	}()
	var task *agent.Task
	for task == nil {
		reply, err := c.Poll(ctx, nil, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		task = reply.Task
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Fatalf("Spare() = %v; want that nobody waits", err)
	}
	if err := c.Result(ctx, agent.Result{Task: task.Ref(), Boot: "boot-1", Outcome: agent.OutcomeOK}); err != nil {
		t.Fatal(err)
	}
	if _, in := r.server.Session(ctx, r.machine); in {
		t.Error("a machine that restarts is taken for one in the installer")
	}
}
