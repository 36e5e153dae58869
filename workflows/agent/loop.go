package agent

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/edge-provision/edge-provision/inventory"
)

// Executor carries out the tasks that change a disk.
type Executor interface {
	// Execute does a wipe, write or configure task. When ctx ends it stops
	// and returns only when nothing of it runs any more. Before it changes
	// the first byte of a disk it calls report with PhaseBegin, and goes on
	// only if that returned nil. It fills the Result's outcome, error and
	// details.
	Execute(ctx context.Context, task Task, report func(Progress) error) Result
}

// Config configures a Loop.
type Config struct {
	Client *Client
	// Token, Boot and MAC come from the kernel command line.
	Token string
	Boot  string
	MAC   inventory.MAC
	// Version of the agent, for the record.
	Version string
	// Facts gathers the machine's facts.
	Facts func(ctx context.Context) (inventory.Facts, error)
	// News is signalled when Neighbors has something to say that it had not before;
	// nil: never. It is told once the facts of this boot were reported.
	News <-chan struct{}
	// Neighbors is what the machine's ports are connected to; required with News.
	Neighbors func(ctx context.Context) ([]inventory.Neighbor, error)
	// Executor carries out tasks.
	Executor Executor
	// Say shows one line to a person at the machine; nil shows nothing.
	Say func(line string)
	// LostAfter is how long the controller may stay silent; default 30 min.
	LostAfter time.Duration
	// Hold is how long one request for a task may be held; default 25 s.
	Hold time.Duration
	// Backoff is the first wait between two tries, which doubles up to ten
	// times itself; default 500 ms.
	Backoff time.Duration
	// Logger receives diagnostics; nil discards them.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Ending is how a Loop ended well: what the machine is to do next.
type Ending string

// Endings.
const (
	EndReboot   Ending = "reboot"
	EndPoweroff Ending = "poweroff"
)

// ErrLost says that the controller was silent for too long.
var ErrLost = errors.New("the controller has not answered for too long")

// Loop is the agent's side of the conversation, for one boot.
type Loop struct {
	cfg Config
	log *slog.Logger

	job      *job
	finished map[TaskRef]Result
	attempts map[string]int
	fence    int64
	reported bool // the facts of this boot
	untold   bool // what was heard since

	saying  sync.Mutex
	lastSay string
}

// job is the task under way.
type job struct {
	task   Task
	cancel context.CancelCauseFunc
	done   chan Result
}

var errCancelled = errors.New("stopped by order of the controller")

// NewLoop returns a Loop; Run runs it once.
func NewLoop(cfg Config) *Loop {
	if cfg.LostAfter <= 0 {
		cfg.LostAfter = 30 * time.Minute
	}
	if cfg.Hold <= 0 {
		cfg.Hold = 25 * time.Second
	}
	if cfg.Backoff <= 0 {
		cfg.Backoff = 500 * time.Millisecond
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Say == nil {
		cfg.Say = func(string) {}
	}
	l := &Loop{cfg: cfg, log: cfg.Logger, finished: make(map[TaskRef]Result), attempts: make(map[string]int)}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l
}

// Run opens a session and carries out tasks until one of them ends the boot, the
// controller is lost for too long, or it refuses this boot. Whatever runs has
// stopped when it returns.
func (l *Loop) Run(ctx context.Context) (Ending, error) {
	defer l.stop(errCancelled)
	var secret [32]byte
	rand.Read(secret[:]) // never fails, see crypto/rand
	req := SessionRequest{
		Token: l.cfg.Token, Session: base64.RawURLEncoding.EncodeToString(secret[:]),
		Boot: l.cfg.Boot, MAC: l.cfg.MAC, Agent: l.cfg.Version,
	}
	err := l.retry(ctx, func() error {
		reply, err := l.cfg.Client.Open(ctx, req)
		if err == nil {
			l.say("Connected to the controller of site %s as machine %s.", reply.Site, reply.Machine)
		}
		return err
	})
	if err != nil {
		return "", err
	}
	for {
		reply, err := l.poll(ctx)
		if err != nil {
			return "", err
		}
		if reply.Facts {
			if err := l.reportFacts(ctx); err != nil {
				return "", err
			}
		}
		if reply.Cancel != nil && l.job != nil && l.job.task.Ref() == *reply.Cancel {
			l.say("Stopping task %s by order of the controller.", *reply.Cancel)
			l.job.cancel(errCancelled)
		}
		if reply.Task == nil {
			continue
		}
		ending, err := l.accept(ctx, *reply.Task)
		if ending != "" || err != nil {
			return ending, err
		}
	}
}

// poll waits for something to do, delivers the result of the running task when that
// ends first, and tells news.
func (l *Loop) poll(ctx context.Context) (PollReply, error) {
	var reply PollReply
	var done chan Result
	var running *TaskRef
	if l.job != nil {
		ref := l.job.task.Ref()
		running, done = &ref, l.job.done
	}
	var news <-chan struct{}
	if l.reported {
		news = l.cfg.News
	}
	pollCtx, stop := context.WithCancel(ctx)
	defer stop()
	answered := make(chan error, 1)
	go func() {
		answered <- l.retry(pollCtx, func() error {
			var err error
			reply, err = l.cfg.Client.Poll(pollCtx, running, l.cfg.Hold)
			return err
		})
	}()
	select {
	case err := <-answered:
		if err == nil && l.untold {
			l.reportNeighbors(ctx)
		}
		return reply, err
	case result := <-done:
		// What the poll may have brought is asked for again: the
		// controller answers by state, not by event.
		stop()
		<-answered // cut off by stop: its error says nothing
		return PollReply{}, l.conclude(ctx, result)
	case <-news:
		stop()
		<-answered
		l.reportNeighbors(ctx)
		return PollReply{}, nil
	}
}

// accept starts a task, after whatever ran before has stopped.
func (l *Loop) accept(ctx context.Context, task Task) (Ending, error) {
	ref := task.Ref()
	if l.job != nil && l.job.task.Ref() == ref {
		return "", nil
	}
	if result, ok := l.finished[ref]; ok {
		return "", l.deliver(ctx, result)
	}
	if task.Fence < l.fence || task.Attempt < l.attempts[task.ID] {
		return "", l.finish(ctx, task, failed(OutcomeRefused, CodeStale,
			"task %s (fence %d) is older than what this machine was given already", ref, task.Fence))
	}
	if err := task.Check(); err != nil {
		return "", l.finish(ctx, task, failed(OutcomeRefused, CodeInvalid, "task %s: %v", ref, err))
	}
	if l.job != nil {
		l.say("Stopping task %s: %s takes its place.", l.job.task.Ref(), ref)
		l.job.cancel(errCancelled)
		result := <-l.job.done
		if err := l.conclude(ctx, result); err != nil {
			return "", err
		}
	}
	l.fence = max(l.fence, task.Fence)
	l.attempts[task.ID] = task.Attempt
	l.log.Info("task accepted", "task", task.ID, "kind", string(task.Kind), "attempt", task.Attempt)

	switch task.Kind {
	case KindHold:
		if task.Hold != nil && task.Hold.Message != "" {
			l.say("Waiting: %s", task.Hold.Message)
		} else {
			l.say("Waiting for the controller to decide.")
		}
		return "", l.finish(ctx, task, Result{Outcome: OutcomeOK})
	case KindFacts:
		if err := l.reportFacts(ctx); err != nil {
			return "", err
		}
		return "", l.finish(ctx, task, Result{Outcome: OutcomeOK})
	case KindReboot, KindPoweroff:
		// The result goes first: afterwards there is nobody to send it.
		if err := l.finish(ctx, task, Result{Outcome: OutcomeOK}); err != nil {
			return "", err
		}
		if task.Kind == KindPoweroff {
			return EndPoweroff, nil
		}
		return EndReboot, nil
	}
	l.start(ctx, task)
	return "", nil
}

// start runs a task in the background.
func (l *Loop) start(ctx context.Context, task Task) {
	l.say("Task %s: %s.", task.Ref(), describe(task))
	jobCtx, cancel := context.WithCancelCause(ctx)
	j := &job{task: task, cancel: cancel, done: make(chan Result, 1)}
	l.job = j
	began := l.cfg.Now()
	go func() {
		reporter := newReporter(jobCtx, l, task.Ref())
		result := l.execute(jobCtx, task, reporter.report)
		reporter.close()
		if result.Outcome != OutcomeOK && errors.Is(context.Cause(jobCtx), errCancelled) {
			result.Outcome = OutcomeCancelled
			result.Error = &Failure{Code: CodeCancelled, Message: fmt.Sprintf("task %s was stopped by order of the controller", task.Ref())}
		}
		result.Duration = l.cfg.Now().Sub(began)
		j.done <- result
	}()
}

// execute turns a panic of the executor into a failed task: the machine stays
// reachable and the person gets the reason.
func (l *Loop) execute(ctx context.Context, task Task, report func(Progress) error) (result Result) {
	defer func() {
		if p := recover(); p != nil {
			result = failed(OutcomeFailed, CodeInternal, "the agent hit a bug in task %s: %v", task.Ref(), p)
		}
	}()
	return l.cfg.Executor.Execute(ctx, task, report)
}

// conclude takes in the result of the job.
func (l *Loop) conclude(ctx context.Context, result Result) error {
	task := l.job.task
	l.job.cancel(nil)
	l.job = nil
	return l.finish(ctx, task, result)
}

// finish remembers a result and delivers it.
func (l *Loop) finish(ctx context.Context, task Task, result Result) error {
	result.Task, result.Boot = task.Ref(), l.cfg.Boot
	l.finished[result.Task] = result
	if result.Error != nil {
		l.say("Task %s: %s: %s", result.Task, result.Outcome, result.Error.Message)
	} else if task.Kind != KindHold {
		l.say("Task %s: %s.", result.Task, result.Outcome)
	}
	return l.deliver(ctx, result)
}

// deliver repeats a result until the controller has it. Work has a limit of
// tries, the report of its result has none but LostAfter: the controller would
// wait for ever.
func (l *Loop) deliver(ctx context.Context, result Result) error {
	err := l.retry(ctx, func() error { return l.cfg.Client.Result(ctx, result) })
	var refused *RefusedError
	if errors.As(err, &refused) && refused.Reason == RefusalInvalid {
		l.log.Warn("the controller does not want this result", "task", result.Task.String(), "error", err)
		return nil
	}
	return err
}

// reportFacts gathers facts and delivers them. Facts that the controller finds
// invalid are not sent again by themselves.
func (l *Loop) reportFacts(ctx context.Context) error {
	l.say("Looking at this machine's hardware.")
	facts, err := l.cfg.Facts(ctx)
	if err != nil {
		// What could be seen is reported all the same.
		l.log.Warn("some facts could not be gathered", "error", err)
	}
	err = l.retry(ctx, func() error { return l.cfg.Client.Facts(ctx, facts) })
	l.reported = l.reported || err == nil
	return err
}

// reportNeighbors tells what was heard after the facts were reported. It is no more
// than a fact, and is tried once: what the controller orders must not wait for it. What
// was not taken is tried again after the next answer to a poll, unless the controller
// does not want it.
func (l *Loop) reportNeighbors(ctx context.Context) {
	neighbors, err := l.cfg.Neighbors(ctx)
	if err != nil {
		l.log.Warn("some of what the ports are connected to could not be read", "error", err)
	}
	err = l.cfg.Client.Neighbors(ctx, neighbors)
	var refused *RefusedError
	unwanted := errors.As(err, &refused) && (refused.Reason == RefusalInvalid || refused.Status == http.StatusNotFound)
	l.untold = err != nil && !unwanted
	if err != nil {
		l.log.Warn("what the ports are connected to was not reported", "error", err)
	}
}

// retry calls do until it succeeds, the controller says that repeating is
// pointless, the controller has been silent for LostAfter, or ctx ends.
func (l *Loop) retry(ctx context.Context, do func() error) error {
	wait := l.cfg.Backoff
	began := l.cfg.Now()
	for {
		err := do()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var refused *RefusedError
		if errors.As(err, &refused) && (refused.final() || refused.Reason == RefusalInvalid) {
			return err
		}
		since := l.cfg.Client.LastContact()
		if since.Before(began) {
			since = began
		}
		if silent := l.cfg.Now().Sub(since); silent >= l.cfg.LostAfter {
			return fmt.Errorf("%w (%s): %w", ErrLost, silent.Round(time.Second), err)
		}
		l.say("No answer from the controller, trying again: %v", err)
		l.log.Debug("request failed", "error", err)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		wait = min(2*wait, 10*l.cfg.Backoff)
	}
}

// stop ends the running task and waits until nothing of it runs.
func (l *Loop) stop(cause error) {
	if l.job == nil {
		return
	}
	l.job.cancel(cause)
	<-l.job.done
	l.job = nil
}

// say shows a line unless it is the one shown last.
func (l *Loop) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	l.saying.Lock()
	defer l.saying.Unlock()
	if line == l.lastSay {
		return
	}
	l.lastSay = line
	l.cfg.Say(line)
}

// failed makes a result out of a code and a message.
func failed(outcome Outcome, code Code, format string, args ...any) Result {
	return Result{Outcome: outcome, Error: &Failure{Code: code, Message: fmt.Sprintf(format, args...)}}
}

func describe(t Task) string {
	switch t.Kind {
	case KindWrite:
		return fmt.Sprintf("writing image %.19s… to %s", t.Write.Image, t.Write.Disk)
	case KindWipe:
		return fmt.Sprintf("wiping %d disks", len(t.Wipe.Disks))
	case KindConfigure:
		return fmt.Sprintf("making the installed system %s", t.Configure.Hostname)
	}
	return string(t.Kind)
}
