package workflows

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
)

// What a crash means, at each point of a node's life:
//
//	journal says      the machine may be          the next run
//	nothing           untouched                   starts the node
//	started           anywhere in the node        inspects again, then continues it
//	finished ok       done                        inspects; does nothing if it still holds
//	finished failed   anywhere in the node        as after started
//
// So a node is journaled before and after it runs, and a node must be able to
// begin anywhere: it inspects, and does only what is missing.

// Node is one thing that a run does: install a machine, or carry out a step.
type Node struct {
	// Address is the node's address in site.hcl.
	Address string
	// DependsOn are the addresses that must have ended well before; one
	// that is not in the run is taken as done.
	DependsOn []string
	// Inputs is the digest of everything the node was approved with.
	Inputs string
	// Limits are the things of which the node needs one to itself, such as
	// a BMC.
	Limits []string
	// Timeout bounds one attempt; zero means that the node bounds itself.
	Timeout   time.Duration
	Retry     Retry
	OnFailure OnFailure
	// Do brings the node about. It must be able to begin anywhere.
	Do func(ctx context.Context, attempt int) (Outputs, error)
	// Undo takes back what Do created; nil where that makes no sense.
	Undo func(ctx context.Context) error
}

// Outputs are what a node hands to the nodes after it, as JSON. Sensitive
// outputs are sealed before they get here.
type Outputs []byte

// OnFailure says what a node's failure does to the others.
type OnFailure string

// What follows a failure.
const (
	// OnFailureContinue blocks the dependents only.
	OnFailureContinue OnFailure = "continue"
	// OnFailureStop starts nothing new and lets the rest finish.
	OnFailureStop OnFailure = "stop"
	// OnFailureRollback stops, then undoes in reverse order what this run
	// created.
	OnFailureRollback OnFailure = "rollback"
)

// Outcome is how a node ended.
type Outcome string

// Outcomes of a node.
const (
	OutcomeOK         Outcome = "ok"
	OutcomeFailed     Outcome = "failed"
	OutcomeBlocked    Outcome = "blocked"   // something it depends on did not end well
	OutcomeCancelled  Outcome = "cancelled" // the run was stopped before it began
	OutcomeRolledBack Outcome = "rolled back"
)

// Ending is how one node ended, and why.
type Ending struct {
	Address  string
	Outcome  Outcome
	Err      error  // for failed
	Cause    string // for blocked: the address that did not end well
	Duration time.Duration
}

// Journal keeps what a run means to do and what came of it. Both methods must
// have reached the disk when they return. Attempts count from 1; UndoAttempt is
// the taking back.
type Journal interface {
	Started(ctx context.Context, run uuid.UUID, address string, attempt int, inputs string) error
	Finished(ctx context.Context, run uuid.UUID, address string, attempt int, outcome string, failure string, outputs []byte) error
}

// UndoAttempt stands in the journal for taking back what a node's attempts did.
const UndoAttempt = 0

// Engine carries out the nodes of one run at a time.
type Engine struct {
	Journal Journal
	Clock   Clock
	// Parallelism is how many nodes may run at once; 10 when zero, which is
	// Terraform's default and a small site's whole rack.
	Parallelism int
	// Stopping is looked at before each start beside Run's stop, which somebody else
	// may close only a moment after the stop was asked for; nil: stop is all.
	Stopping func() bool
	// Watch is told of each start and end; nil for nobody.
	Watch func(Change)
	// FailPoint is told of each boundary but AfterDo, which only the node
	// itself knows.
	FailPoint FailPoint
}

// Change is a node that started or ended.
type Change struct {
	Address string
	Attempt int     // of a start
	Ended   *Ending // nil for a start
}

// Run carries out nodes in the order of their dependencies, as many at once as
// the limits allow, and returns how each ended, in the order of nodes. When
// stop is closed it starts nothing new and waits for what runs; when ctx ends,
// what runs is cut off too. The error is about the run itself (a journal that
// cannot be written), never about a node.
func (e *Engine) Run(ctx context.Context, run uuid.UUID, nodes []Node, stop <-chan struct{}) ([]Ending, error) {
	nodes = slices.Clone(nodes)
	for i := range nodes {
		nodes[i].Retry.Halt = stop
	}
	s := &schedule{engine: e, run: run, nodes: nodes, endings: map[string]*Ending{}, busy: map[string]bool{}, running: map[string]bool{}, done: make(chan finished)}
	ctx, s.cancel = context.WithCancelCause(ctx)
	defer s.cancel(nil)
	for {
		// Looked at first: when a node ends and stop is closed at the same
		// time, what the node was in the way of must not start any more.
		select {
		case <-stop:
			s.stopped, stop = true, nil
		default:
			s.stopped = s.stopped || e.Stopping != nil && e.Stopping()
		}
		s.startReady(ctx)
		if len(s.running) == 0 {
			break
		}
		select {
		case f := <-s.done:
			s.settle(f)
		case <-stop:
			s.stopped, stop = true, nil
		}
	}
	if s.rollback {
		s.undo(context.WithoutCancel(ctx))
	}
	return s.report(), s.err
}

// schedule is the state of one Run; only Run's goroutine touches it.
type schedule struct {
	engine   *Engine
	run      uuid.UUID
	nodes    []Node
	endings  map[string]*Ending
	order    []int // indices of nodes that ran, in the order in which they ended
	running  map[string]bool
	busy     map[string]bool // limits in use
	done     chan finished
	cancel   context.CancelCauseFunc
	stopped  bool
	rollback bool
	err      error
}

type finished struct {
	index  int
	ending Ending
	fatal  error
}

// startReady starts every node that may run now and settles those that never
// will.
func (s *schedule) startReady(ctx context.Context) {
	for changed := true; changed; {
		changed = false
		for i := range s.nodes {
			n := &s.nodes[i]
			if s.endings[n.Address] != nil || s.running[n.Address] {
				continue
			}
			switch ready, cause := s.ready(n); {
			case cause != "":
				s.end(Ending{Address: n.Address, Outcome: OutcomeBlocked, Cause: cause})
				changed = true
			case s.stopped || ctx.Err() != nil:
				s.end(Ending{Address: n.Address, Outcome: OutcomeCancelled})
				changed = true
			case ready && s.room(n):
				s.start(ctx, i)
			}
		}
	}
}

// ready reports whether all that n depends on ended well, or names the one
// that did not.
func (s *schedule) ready(n *Node) (ready bool, cause string) {
	ready = true
	for _, d := range n.DependsOn {
		ending, known := s.endings[d]
		switch {
		case known && ending.Outcome != OutcomeOK && ending.Outcome != OutcomeCancelled:
			return false, d
		case !known && s.has(d):
			ready = false
		}
	}
	return ready, ""
}

func (s *schedule) has(address string) bool {
	return slices.ContainsFunc(s.nodes, func(n Node) bool { return n.Address == address })
}

func (s *schedule) room(n *Node) bool {
	parallelism := s.engine.Parallelism
	if parallelism == 0 {
		parallelism = 10
	}
	if len(s.running) >= parallelism {
		return false
	}
	return !slices.ContainsFunc(n.Limits, func(l string) bool { return s.busy[l] })
}

func (s *schedule) start(ctx context.Context, i int) {
	n := s.nodes[i]
	s.running[n.Address] = true
	for _, l := range n.Limits {
		s.busy[l] = true
	}
	go func() {
		began := s.engine.Clock.Now()
		fatal, err := s.engine.attempt(ctx, s.run, n)
		e := Ending{Address: n.Address, Outcome: OutcomeOK, Err: err, Duration: s.engine.Clock.Now().Sub(began)}
		if err != nil {
			e.Outcome = OutcomeFailed
		}
		s.done <- finished{index: i, ending: e, fatal: fatal}
	}()
}

// attempt runs one node with its retries, journaled. The first result is an
// error of the journal, after which nothing may go on.
func (e *Engine) attempt(ctx context.Context, run uuid.UUID, n Node) (fatal, err error) {
	err = n.Retry.Do(ctx, e.Clock, func(ctx context.Context, attempt int) error {
		e.FailPoint.Pass(n.Address, BeforeIntent)
		if err := e.Journal.Started(ctx, run, n.Address, attempt, n.Inputs); err != nil {
			if ctx.Err() != nil {
				return GiveUp(context.Cause(ctx)) // cut off before it began
			}
			fatal = fmt.Errorf("journaling the start: %w", err)
			return GiveUp(fatal)
		}
		e.FailPoint.Pass(n.Address, AfterIntent)
		e.watch(Change{Address: n.Address, Attempt: attempt})
		outputs, err := n.bounded(ctx, attempt)
		outcome, failure := OutcomeOK, ""
		if err != nil {
			outcome, failure = OutcomeFailed, err.Error()
		}
		e.FailPoint.Pass(n.Address, BeforeResult)
		// What was done is written down also when the run is being cut off.
		if journalErr := e.Journal.Finished(context.WithoutCancel(ctx), run, n.Address, attempt, string(outcome), failure, outputs); journalErr != nil {
			fatal = fmt.Errorf("journaling the result: %w", journalErr)
			return GiveUp(errors.Join(err, fatal))
		}
		e.FailPoint.Pass(n.Address, AfterResult)
		return err
	})
	return fatal, err
}

func (n Node) bounded(ctx context.Context, attempt int) (Outputs, error) {
	if n.Timeout == 0 {
		return n.Do(ctx, attempt)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, n.Timeout, fmt.Errorf("its timeout of %s ended", n.Timeout))
	defer cancel()
	return n.Do(ctx, attempt)
}

func (s *schedule) settle(f finished) {
	n := s.nodes[f.index]
	delete(s.running, n.Address)
	for _, l := range n.Limits {
		delete(s.busy, l)
	}
	s.end(f.ending)
	s.order = append(s.order, f.index)
	switch {
	case f.fatal != nil:
		s.err = errors.Join(s.err, fmt.Errorf("%s: %w", n.Address, f.fatal))
		s.cancel(s.err)
	case f.ending.Outcome == OutcomeOK:
	case n.OnFailure == OnFailureStop:
		s.stopped = true
	case n.OnFailure == OnFailureRollback:
		s.stopped, s.rollback = true, true
	}
}

func (s *schedule) end(e Ending) {
	s.endings[e.Address] = &e
	s.engine.watch(Change{Address: e.Address, Ended: &e})
}

func (e *Engine) watch(c Change) {
	if e.Watch != nil {
		e.Watch(c)
	}
}

// undo takes back, last first, what ran and can be undone. What failed may have
// created something before it did; it stays a failure.
func (s *schedule) undo(ctx context.Context) {
	for _, i := range slices.Backward(s.order) {
		n := s.nodes[i]
		if n.Undo == nil {
			continue
		}
		if err := s.undoOne(ctx, n); err != nil {
			s.err = errors.Join(s.err, fmt.Errorf("%s: %w", n.Address, err))
			return
		}
	}
}

// undoOne takes one node back, journaled; its error is the journal's.
func (s *schedule) undoOne(ctx context.Context, n Node) error {
	if err := s.engine.Journal.Started(ctx, s.run, n.Address, UndoAttempt, n.Inputs); err != nil {
		return fmt.Errorf("journaling the start of undoing: %w", err)
	}
	e := Ending{Address: n.Address, Outcome: OutcomeRolledBack}
	outcome := OutcomeRolledBack
	if ran := s.endings[n.Address]; ran.Outcome == OutcomeFailed {
		e = *ran
	}
	err := n.Undo(ctx)
	if err != nil {
		outcome = OutcomeFailed
		e.Outcome, e.Err = OutcomeFailed, errors.Join(e.Err, fmt.Errorf("undoing it: %w", err))
	}
	s.end(e)
	if err := s.engine.Journal.Finished(ctx, s.run, n.Address, UndoAttempt, string(outcome), errorText(err), nil); err != nil {
		return fmt.Errorf("journaling the end of undoing: %w", err)
	}
	return nil
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (s *schedule) report() []Ending {
	out := make([]Ending, 0, len(s.nodes))
	for _, n := range s.nodes {
		e := s.endings[n.Address]
		if e == nil {
			// Only a cycle leaves a node neither started nor blocked.
			e = &Ending{Address: n.Address, Outcome: OutcomeFailed, Err: errors.New("it waits for itself: its dependencies form a cycle")}
		}
		out = append(out, *e)
	}
	return out
}
