package main

import (
	"bytes"
	"context"
	"errors"
	"testing"
)

func TestProjectingIsToldAndEndsWhenItIsAskedTo(t *testing.T) {
	var said bytes.Buffer
	stop := make(chan struct{})
	a := &app{stop: stop, stderr: &said}
	ctx, cancel := context.WithCancelCause(t.Context())
	tell := a.projecting(cancel)
	tell(500, 999)
	tell(12_000, 100_000)
	if ctx.Err() != nil {
		t.Errorf("before anybody asks for it: %v; want that it goes on", ctx.Err())
	}
	close(stop)
	tell(1_012_500, 2_000_000)
	if err := context.Cause(ctx); !errors.Is(err, errInterrupted) {
		t.Errorf("cause after the command was asked to stop = %v; want %v", err, errInterrupted)
	}
	want := "Projecting facts: 500 of 999 machines.\nProjecting facts: 12,000 of 100,000 machines.\nProjecting facts: 1,012,500 of 2,000,000 machines.\n"
	if said.String() != want {
		t.Errorf("said %q; want %q", said.String(), want)
	}
}
