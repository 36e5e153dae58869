package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/workflows/journal"
	"github.com/edge-provision/edge-provision/workflows/site"
)

// workingError says that a run works on a machine, so that its power must not be
// changed.
type workingError struct {
	Address string // of the machine
	Run     uuid.UUID
	Command string
}

// Error implements error.
func (e *workingError) Error() string {
	return fmt.Sprintf("run %s (%s) works on %s, or has yet to, and its disk may be half written: wait for it (edge-provision runs attach %s), "+
		"cancel it (edge-provision runs cancel), or say --force", e.Run, e.Command, e.Address, e.Run)
}

// workingOn is the run under way that works on a machine, or has yet to; nil: none.
// A run whose process is proven dead was cut off, and works on nothing.
func (w *world) workingOn(ctx context.Context, address string) (*journal.Run, error) {
	locks, err := w.catalog.Locks(ctx, w.site.Name)
	if err != nil {
		return nil, err
	}
	alive := false
	for _, l := range locks {
		alive = alive || l.Address == siteLock && !l.Dead(time.Now())
	}
	if !alive {
		return nil, nil
	}
	runs, err := w.journal.Unfinished(ctx, w.site.Name)
	if err != nil {
		return nil, err
	}
	for _, run := range runs {
		if concerns(w.site, run, address) {
			return &run, nil
		}
	}
	return nil, nil
}

// concerns reports whether a run has something to do yet, or under way, that needs
// the machine at an address: its own installation, or a step that waits for it at
// whatever distance. What the site does not tell of may need any machine.
func concerns(s *site.Site, run journal.Run, address string) bool {
	done := map[string]bool{}
	for _, step := range run.Steps {
		done[step.Address] = step.State == outcomeOK
	}
	below := map[string][]string{}
	known := map[string]bool{}
	graph := s.Graph()
	for _, n := range graph.Nodes {
		known[n] = true
	}
	for _, e := range graph.Edges {
		below[e.From] = append(below[e.From], e.To)
	}
	var needs func(from string, seen map[string]bool) bool
	needs = func(from string, seen map[string]bool) bool {
		if from == address {
			return true
		}
		seen[from] = true
		for _, next := range below[from] {
			if !seen[next] && needs(next, seen) {
				return true
			}
		}
		return false
	}
	for _, a := range recordOf(run).Plan.Actions {
		if a.Kind.Changes() && !done[a.Address] && (!known[a.Address] || needs(a.Address, map[string]bool{})) {
			return true
		}
	}
	return false
}

// undisturbed is *workingError while a run works on a machine.
func (w *world) undisturbed(ctx context.Context, address string) error {
	run, err := w.workingOn(ctx, address)
	if err != nil || run == nil {
		return err
	}
	return &workingError{Address: address, Run: run.ID, Command: recordOf(*run).Command}
}
