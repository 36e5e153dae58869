package dispatch_test

import (
	"testing"
	"time"

	"github.com/edge-provision/edge-provision/workflows/agent"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
)

func TestAWritingMachineIsHeardByAnotherProcessToo(t *testing.T) {
	r := newRig(t)
	ctx := within(t)
	if at, err := dispatch.Heard(ctx, r.values, r.machine); err != nil || !at.IsZero() {
		t.Fatalf("Heard of a machine that never reported = %s, %v; want the zero time", at, err)
	}
	s := newStage()
	s.begin = true
	before := time.Now()
	r.boot("boot-1", s)
	done := make(chan error, 1)
	go func() {
		_, err := r.server.Do(ctx, r.machine, writeTask(1), nil)
		done <- err
	}()
	<-s.started
	s.finish <- agent.Result{Outcome: agent.OutcomeOK}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	at, err := dispatch.Heard(ctx, r.values, r.machine)
	if err != nil || at.Before(before.Truncate(0)) || at.After(time.Now()) {
		t.Errorf("Heard = %s, %v; want a time since %s", at, err, before)
	}
}
