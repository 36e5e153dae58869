package dispatch_test

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows/agent"
)

// writing is a machine whose agent has reported its facts and writes a disk now.
func (r *rig) writing(ctx context.Context) (s *stage, done <-chan error) {
	r.t.Helper()
	s = newStage()
	r.boot("boot-1", s)
	if _, err := r.server.WaitFacts(ctx, r.machine); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := r.server.Do(ctx, r.machine, writeTask(1), nil)
		ended <- err
	}()
	<-s.started
	return s, ended
}

func TestWhatIsHeardLaterIsReportedWhileATaskRuns(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	r.news <- struct{}{} // before the facts are reported, which say it then
	s, done := r.writing(ctx)
	for range 2 {
		select {
		case heard := <-r.heard:
			if want := []inventory.Neighbor{{MAC: mac, Chassis: "sw-1", Port: "7"}}; !slices.Equal(heard, want) {
				t.Fatalf("the controller heard %+v; want %+v", heard, want)
			}
		case <-ctx.Done():
			t.Fatal("the controller heard nothing")
		}
		select {
		case r.news <- struct{}{}:
		default:
		}
	}
	s.finish <- agent.Result{Outcome: agent.OutcomeOK}
	if err := <-done; err != nil {
		t.Errorf("Do(write) = %v; want the task to go on", err)
	}
	if lines := s.lines(); len(lines) != 2 {
		t.Errorf("the agent did %q; want one start and one end", lines)
	}
}

// TestATaskEndsThoughNobodyTakesWhatWasHeard: a fact must not keep a machine from
// telling that its disk is written.
func TestATaskEndsThoughNobodyTakesWhatWasHeard(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	r.deaf.Store(true)
	s, done := r.writing(ctx)
	r.news <- struct{}{}
	<-r.heard // and refused
	s.finish <- agent.Result{Outcome: agent.OutcomeOK}
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Do(write) = %v; want its result", err)
		}
	case <-ctx.Done():
		t.Fatal("the task's result did not come: the agent waits until somebody takes what it heard")
	}
	r.deaf.Store(false)
	select {
	case <-r.heard: // again, after an answer to a poll
	case <-ctx.Done():
		t.Fatal("what was heard was not told again")
	}
}

func TestNeighborsThatCannotBeAreRefused(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	c := r.client()
	if _, err := c.Open(ctx, agent.SessionRequest{Token: r.mint("boot-1"), Session: secret('a'), Boot: "boot-1", MAC: mac}); err != nil {
		t.Fatal(err)
	}
	var refused *agent.RefusedError
	for what, neighbors := range map[string][]inventory.Neighbor{
		"of no port": {{Chassis: "sw-1", Port: "7"}}, "with NUL": {{MAC: mac, Port: "7\x00"}}, "too many": make([]inventory.Neighbor, inventory.MaxListLen+1),
	} {
		if err := c.Neighbors(ctx, neighbors); !errors.As(err, &refused) || refused.Reason != agent.RefusalInvalid {
			t.Errorf("neighbors %s = %v; want them refused", what, err)
		}
	}
}
