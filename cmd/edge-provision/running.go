package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/journal"
)

// siteLock is the address under which a site as a whole is locked, and
// purposeServe what a daemon says that it holds it for.
const (
	siteLock     = "site"
	purposeServe = "serve"
)

// lock takes the site for this process and keeps it fresh. What needs the lock goes
// by held, which ends when another process has taken it: two controllers must not
// work on one site.
func (w *world) lock(ctx context.Context, purpose string) (held context.Context, fence int64, unlock func(), err error) {
	owner, err := store.Self(purpose)
	if err != nil {
		return nil, 0, nil, err
	}
	if d := w.app.daemon; d != nil && w.app.run != nil {
		return ctx, d.fence, func() {}, nil // it holds the site, and has one run at a time
	}
	if fence, err = w.catalog.Lock(ctx, w.site.Name, siteLock, owner); err != nil {
		return nil, 0, nil, err
	}
	held, lose := context.WithCancelCause(ctx)
	beat, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(store.HeartbeatInterval)
		defer ticker.Stop()
		w.keepLock(beat, ticker.C, fence, lose)
	}()
	return held, fence, func() {
		cancel()
		<-done
		lose(nil)
		if err := w.catalog.Unlock(context.WithoutCancel(ctx), w.site.Name, siteLock, fence); err != nil {
			w.app.logger().Error("giving the site's lock back", "error", err)
		}
	}, nil
}

// keepLock says at each tick that this process is alive, until ctx ends or the lock
// is lost.
func (w *world) keepLock(ctx context.Context, ticks <-chan time.Time, fence int64, lose context.CancelCauseFunc) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticks:
		}
		err := w.catalog.Heartbeat(ctx, w.site.Name, siteLock, fence)
		if err == nil || ctx.Err() != nil {
			continue
		}
		w.app.logger().Error("keeping the site's lock", "error", err)
		var lost *store.LostLockError
		if errors.As(err, &lost) {
			lose(err)
			return
		}
	}
}

// lostLock is why the site's lock is not held any more; nil while it is.
func lostLock(held context.Context) error {
	var lost *store.LostLockError
	if errors.As(context.Cause(held), &lost) {
		return lost
	}
	return nil
}

// running is a command that carries plans out: apply, or destroy.
type running struct {
	*world
	screen      display
	answers     *bufio.Reader
	parallelism int
	points      workflows.FailPoint
	// record goes into the journal with each run, for runs resume.
	record runRecord
	// stopped says that the last run was asked to stop, by Ctrl-C or by
	// runs cancel.
	stopped bool
}

// runRecord is what the journal keeps of a run so that it can be resumed: the
// command with its flags, and what was approved. It holds no variables.
type runRecord struct {
	Command     string         `json:"command"`
	Path        string         `json:"site_path"`
	Target      []string       `json:"target,omitempty"`
	Replace     []string       `json:"replace,omitempty"`
	DestroyData []string       `json:"destroy_data,omitempty"`
	Forget      bool           `json:"forget,omitempty"`
	PowerOff    bool           `json:"power_off,omitempty"`
	Parallelism int            `json:"parallelism,omitempty"`
	Agent       string         `json:"agent,omitempty"`
	HTTPPort    uint16         `json:"http_port,omitempty"`
	AgentPort   uint16         `json:"agent_port,omitempty"`
	Plan        workflows.Plan `json:"plan"`
	Sources     sources        `json:"sources"`
}

// sources says where a run took its site's text and files from: a run that was
// cut off offline must not continue online.
type sources struct {
	VarFiles       []string `json:"var_files,omitempty"`
	AllowFile      bool     `json:"allow_file,omitempty"`
	AllowEnv       bool     `json:"allow_env,omitempty"`
	StackSet       string   `json:"stack_set,omitempty"`
	Bundle         string   `json:"bundle,omitempty"`
	Base           string   `json:"base,omitempty"`
	TrustKeys      []string `json:"trust_keys,omitempty"`
	Mirror         string   `json:"mirror,omitempty"`
	RegistryMirror string   `json:"registry_mirror,omitempty"`
}

// sources are those that this command was given.
func (a *app) sources() (sources, error) {
	s := sources{
		AllowFile: a.allowFile, AllowEnv: a.allowEnv, TrustKeys: a.supply.trust,
		Mirror: withoutPassword(a.supply.mirror), RegistryMirror: withoutPassword(a.supply.registryMirror),
	}
	var errs []error
	abs := func(path string) string {
		if path == "" {
			return ""
		}
		out, err := filepath.Abs(path)
		errs = append(errs, err)
		return out
	}
	s.StackSet, s.Bundle, s.Base = abs(a.stackSet), abs(a.supply.bundle), abs(a.supply.base)
	for _, f := range a.varFiles {
		s.VarFiles = append(s.VarFiles, abs(f))
	}
	return s, errors.Join(errs...)
}

// withoutPassword keeps a password in a URL out of the journal.
func withoutPassword(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	if u.User != nil {
		u.User = url.User(u.User.Username())
	}
	return u.String()
}

// use gives the sources of an earlier run to this command, where it was given
// none of its own.
func (a *app) use(s sources) {
	if len(a.varFiles) == 0 {
		a.varFiles = s.VarFiles
	}
	a.allowFile, a.allowEnv = a.allowFile || s.AllowFile, a.allowEnv || s.AllowEnv
	a.stackSet = cmp.Or(a.stackSet, s.StackSet)
	a.supply.bundle, a.supply.base = cmp.Or(a.supply.bundle, s.Bundle), cmp.Or(a.supply.base, s.Base)
	a.supply.mirror, a.supply.registryMirror = cmp.Or(a.supply.mirror, s.Mirror), cmp.Or(a.supply.registryMirror, s.RegistryMirror)
	if len(a.supply.trust) == 0 {
		a.supply.trust = s.TrustKeys
	}
}

// covered reports whether a plan does nothing that an approved one did not name.
func covered(plan, approved workflows.Plan) bool {
	return len(plan.MoreDestructive(approved)) == 0 && !slices.ContainsFunc(plan.Actions, func(a workflows.Action) bool {
		was, _ := approved.Find(a.Address)
		return a.Kind.Changes() && !was.Kind.Changes()
	})
}

// confirm asks on the terminal; anything but the wanted answer is no.
func (r *running) confirm(question, want string) bool {
	if r.app.run != nil {
		answer, ok := r.app.run.ask(r.app.daemon.ctx, question)
		return ok && strings.TrimSpace(answer) == want
	}
	fmt.Fprint(r.app.stderr, question)
	line, err := r.answers.ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return false
	}
	return strings.TrimSpace(line) == want
}

// show prints the plan.
func (r *running) show(plan workflows.Plan, asJSON bool) error {
	if asJSON {
		return r.screen.Plan(plan)
	}
	_, color := r.app.terminal(r.app.stdout)
	return plan.Print(r.app.stdout, workflows.PrintOptions{Color: color, Now: time.Now()})
}

// carry carries out a plan as a run in the journal. Nodes turns the plan into
// what the engine runs.
func (r *running) carry(ctx context.Context, plan workflows.Plan, nodes func(run uuid.UUID) ([]workflows.Node, error)) (failed bool, err error) {
	run, err := r.begin(ctx, plan)
	if err != nil {
		return false, err
	}
	if r.app.run != nil {
		r.app.run.began(run.ID)
	}
	list, err := nodes(run.ID)
	if err != nil {
		return false, err
	}
	stop, done := r.listenForStop(ctx, run.ID)
	engine := workflows.Engine{
		Journal: r.journal, Clock: workflows.SystemClock{}, Parallelism: r.parallelism, FailPoint: r.points, Stopping: r.app.stopAsked,
		Watch: func(c workflows.Change) {
			r.event(run.ID, c)
			r.screen.Change(c)
		},
	}
	r.screen.Begin(run.ID, list)
	endings, err := engine.Run(ctx, run.ID, list, stop)
	done()
	r.stopped = r.stopped || r.app.stopAsked()
	if r.app.run != nil {
		r.app.run.carried(endings)
	}
	outcome := r.screen.End(endings)
	if cause := context.Cause(ctx); cause != nil && err == nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	failure := ""
	if err != nil {
		failure = err.Error()
	}
	if finishErr := r.journal.Finish(context.WithoutCancel(ctx), run.ID, outcome, failure); finishErr != nil {
		err = errors.Join(err, finishErr)
	}
	return outcome != outcomeOK, err
}

// cancelInterval is how often a run looks whether somebody cancelled it.
const cancelInterval = time.Second

// stopAsked reports whether nothing new shall be started, by Ctrl-C or what stands for
// it in a daemon.
func (a *app) stopAsked() bool { return asked(a.stop) }

// asked reports whether the channel of a stop is closed.
func asked(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// listenForStop returns a channel that is closed when the run shall start nothing new:
// after Ctrl-C, or when the journal says that somebody cancelled it. done ends
// the listening.
func (r *running) listenForStop(ctx context.Context, run uuid.UUID) (stop <-chan struct{}, done func()) {
	stopping := make(chan struct{})
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(cancelInterval)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-r.app.stop:
				r.stopped = true
				close(stopping)
				if r.app.run != nil { // who follows may be another than who asked
					fmt.Fprintln(r.app.stderr, "The run was asked to stop: nothing new is started, and what runs may finish.")
				}
				return
			case <-ticker.C:
				// A catalog that cannot be asked now is asked again.
				if asked, err := r.journal.CancelRequested(ctx, run); err == nil && asked {
					r.stopped = true
					close(stopping) // before it is said, so that it is true by then
					fmt.Fprintln(r.app.stderr, "Cancelled by `edge-provision runs cancel`: nothing new is started, and what runs may finish.")
					return
				}
			}
		}
	}()
	return stopping, func() {
		cancel()
		<-ended
	}
}

// event keeps what a run did for trace.
func (r *running) event(run uuid.UUID, c workflows.Change) {
	e := inventory.Event{
		Time: time.Now(), Site: r.site.Name, Run: run.String(), Step: c.Address,
		Kind: inventory.EventStepStarted, Attrs: map[string]string{"attempt": strconv.Itoa(c.Attempt)},
	}
	if c.Ended != nil {
		e.Kind = inventory.EventStepFinished
		e.Attrs = map[string]string{"outcome": string(c.Ended.Outcome), "duration": c.Ended.Duration.Round(time.Millisecond).String()}
		if c.Ended.Err != nil {
			e.Attrs["error"] = c.Ended.Err.Error()
		}
	}
	r.about(&e, c.Address)
	r.catalog.Record(e)
}

// about joins an event to the machine at an address, if it is one.
func (r *running) about(e *inventory.Event, address string) {
	if m := r.site.MachineByAddress(address); m != nil {
		e.MAC = m.MAC
	}
}

// closeCutOff closes the books on runs that were cut off: whoever holds the
// site's lock knows that nobody works on them. What comes is said of each.
func (w *world) closeCutOff(ctx context.Context, what string) error {
	unfinished, err := w.journal.Unfinished(ctx, w.site.Name)
	if err != nil {
		return err
	}
	for _, u := range unfinished {
		fmt.Fprintf(w.app.stderr, "Run %s was cut off; %s\n", u.ID, what)
		if err := w.journal.Finish(ctx, u.ID, outcomeInterrupted, "the controller ended before the run did"); err != nil {
			return err
		}
	}
	return nil
}

// begin opens a run in the journal.
func (r *running) begin(ctx context.Context, plan workflows.Plan) (journal.Run, error) {
	r.record.Plan, r.record.Parallelism = plan, r.parallelism
	path, err := filepath.Abs(r.record.Path)
	if err != nil {
		return journal.Run{}, err
	}
	r.record.Path = path
	if r.record.Sources, err = r.app.sources(); err != nil {
		return journal.Run{}, err
	}
	record, err := json.Marshal(r.record)
	if err != nil {
		return journal.Run{}, fmt.Errorf("recording the run: %w", err)
	}
	return r.journal.Begin(ctx, journal.Run{ID: uuid.Must(uuid.NewV7()), Site: r.site.Name, PlanDigest: plan.Digest(), Actions: record})
}

// Outcomes of a run, as the journal keeps them.
const (
	outcomeOK          = "ok"
	outcomeFailed      = "failed"
	outcomeStopped     = "stopped"
	outcomeInterrupted = "interrupted"
)

// failPointVariable names a boundary of a step at which the process kills
// itself, as ADDRESS@BOUNDARY, or says "list" to have them all told. It is for
// tests of what a crash leaves behind; docs/architecture.md describes it.
const failPointVariable = "EDGE_FAILPOINT"

// failPoint reads the variable; nil when it is not set.
func (a *app) failPoint() (workflows.FailPoint, error) {
	switch want := os.Getenv(failPointVariable); want {
	case "":
		return nil, nil
	case "list":
		return func(address string, at workflows.Boundary) {
			fmt.Fprintf(a.stderr, "failpoint %s@%s\n", address, at)
		}, nil
	default:
		address, boundary, ok := strings.Cut(want, "@")
		if !ok || !slices.Contains(workflows.Boundaries(), workflows.Boundary(boundary)) {
			return nil, fmt.Errorf("%s=%q: want ADDRESS@BOUNDARY, with one of the boundaries %v, or list", failPointVariable, want, workflows.Boundaries())
		}
		return func(at string, b workflows.Boundary) {
			if at == address && string(b) == boundary {
				kill()
			}
		}, nil
	}
}

// kill ends this process as a power cut would: nothing is flushed or undone.
func kill() {
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		os.Exit(exitError)
	}
	select {} // the signal is on its way
}
