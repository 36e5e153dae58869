package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/hcl/v2"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/control"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// daemon is `serve` at work: it holds the site, its services listen, and runs are
// carried out in it, one at a time.
type daemon struct {
	app     *app   // of serve: its variables, its flags and its streams
	path    string // of the site, as samePath gives it
	fence   int64
	catalog *store.Store
	wanted  *steps.Wanted
	service *steps.Service
	agent   string        // the edge-agent program, where a flag names it
	refresh time.Duration // how often hardware is looked at; zero: never
	// installer is the one that serve has built for itself; zero: it began with a
	// bundle, or has no network.
	installer steps.Installer
	ctx       context.Context // ends when serving ends; runs are bounded by it

	mu       sync.Mutex
	world    *world     // the site as it is served now
	retired  *world     // the one that was served before: what began with it may still use it
	running  *daemonRun // nil: none is under way
	stopping bool       // no run begins any more
	due      bool       // the site is to be read again when the run has ended
	withheld bool       // somebody said no to a part of what is served: classes start nothing
	refusal  string     // why the last reload was refused; empty: it was not
	hindered bool       // the site could not be opened for what classes start, and that was said
	runs     sync.WaitGroup

	// turn is held, for reading, while what machines are is recorded by the site
	// as it is served, or a run begins, and for writing while another version takes
	// the site's place.
	turn sync.RWMutex
}

// runRequest is a run that nobody sits before. It asks nobody: what site.hcl does
// not consent to, and Consent neither, is not erased.
type runRequest struct {
	// Why says who wants it, for people and the log: class "nuc".
	Why string
	// Target and Replace are as the flags of apply; no target is the whole site.
	Target, Replace []string
	// Consent holds by address of a machine the serial that somebody typed to
	// have its disk erased.
	Consent map[string]string
	// Approve sees each stage before it is carried out, in place of the question;
	// its error ends the run, with nothing of the stage carried out. Nil
	// approves all.
	Approve func(stage workflows.Plan) error
}

// busyError says that a run is under way already.
type busyError struct {
	Command string
	Run     uuid.UUID // Nil: it has not begun yet, and is still planning or asking
	Over    bool      // it has ended, and the site is being read again
	Asks    bool      // it waits for somebody's answer
	Asked   int       // the process that is asked, where it began the run; zero: another, or nobody
}

// Error implements error.
func (e *busyError) Error() string {
	if e.Over {
		return fmt.Sprintf("%s has ended, and serve is reading the site again, which was put off until then; try again in a moment", e.Command)
	}
	if e.Asks {
		where := "a terminal that follows it"
		if e.Asked != 0 {
			where = fmt.Sprintf("the terminal of process %d", e.Asked)
		}
		return fmt.Sprintf("serve is carrying out %s already, one run at a time; it waits for an answer from %s: answer there, or end that program, which is a no. None within %.0f minutes is a no, too",
			e.Command, where, answerLimit.Minutes())
	}
	if e.Run == uuid.Nil {
		return fmt.Sprintf("serve is carrying out %s already, which has begun nothing yet; one run at a time", e.Command)
	}
	return fmt.Sprintf("serve is carrying out run %s (%s) already, one run at a time; follow it with: edge-provision runs attach %s", e.Run, e.Command, e.Run)
}

// errDaemonStops refuses what comes too late.
var errDaemonStops = errors.New("serve is stopping and begins no run any more")

// daemonRun is a command that carries plans out in the daemon: apply or destroy.
type daemonRun struct {
	command string
	own     bool // the daemon's, and not a client's: it works on the site as it is served
	session *control.Session
	// client follows for the one that began it, from before it can ask; nil: the
	// daemon's own.
	client  *control.Follower
	process int           // of the client
	begun   chan struct{} // closed with the first run in the journal
	over    chan struct{} // closed when the work has ended, before a client hears of it
	done    chan struct{} // closed when the next run may begin

	stopOnce sync.Once
	stop     chan struct{} // closed: start nothing new
	cancel   context.CancelCauseFunc

	mu       sync.Mutex
	alone    bool // a question was not answered in time: nobody is asked any more
	ids      []uuid.UUID
	plan     workflows.Plan
	failures []string // each an address, and why it is not as declared
	refusals []string // what is wrong with the site
	err      error
}

// Done is closed when the run has ended.
func (r *daemonRun) Done() <-chan struct{} { return r.done }

// ID is the newest run in the journal; Nil before the first.
func (r *daemonRun) ID() uuid.UUID {
	ids := r.IDs()
	if len(ids) == 0 {
		return uuid.Nil
	}
	return ids[len(ids)-1]
}

// IDs are the runs in the journal, one for each stage.
func (r *daemonRun) IDs() []uuid.UUID {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.ids)
}

// Plan is the newest plan that was made.
func (r *daemonRun) Plan() workflows.Plan {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.plan
}

// Err is how the run ended, once it is done: nil when all is as declared, and
// errors.Is(err, context.Canceled) when it was stopped.
func (r *daemonRun) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Stop starts nothing new and lets finish what runs, however often it is called and
// by whom.
func (r *daemonRun) Stop() { r.stopOnce.Do(func() { close(r.stop) }) }

// stopper is Stop for one client, which is counted for itself: the second time this
// client asks, what runs is cut off.
func (r *daemonRun) stopper() func() {
	asked := false
	return func() {
		if asked {
			r.cancel(errInterrupted)
		}
		asked = true
		r.Stop()
	}
}

// answerLimit bounds how long an answer is waited for. Until there is one no other
// run begins, neither of a client nor of a class.
const answerLimit = 10 * time.Minute

// ask asks whoever follows. Who stops the run is not asked any more, and who has let
// one question wait for too long neither.
func (r *daemonRun) ask(ctx context.Context, question string) (answer string, ok bool) {
	if r.isAlone() {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	go func() {
		select {
		case <-r.stop:
			cancel()
		case <-ctx.Done():
		}
	}()
	answer, ok = r.session.Ask(ctx, fmt.Sprintf("No answer within %.0f minutes is taken as no.\n%s", answerLimit.Minutes(), question))
	if !ok && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		r.leaveAlone()
		fmt.Fprintf(sessionWriter{session: r.session, stream: 2}, "\nNobody answered within %.0f minutes, which is taken as no.\n", answerLimit.Minutes())
	}
	return answer, ok
}

func (r *daemonRun) isAlone() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.alone
}

func (r *daemonRun) leaveAlone() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alone = true
}

// busy says why no other run begins beside this one.
func (r *daemonRun) busy() *busyError {
	e := &busyError{Command: r.command, Run: r.ID(), Over: r.isOver()}
	if asked := r.session.Asked(); asked != nil {
		e.Asks = true
		if asked == r.client {
			e.Asked = r.process
		}
	}
	return e
}

func (r *daemonRun) began(id uuid.UUID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ids) == 0 {
		close(r.begun)
	}
	r.ids = append(r.ids, id)
}

// patience bounds how long a command waits for runs that are likely to make room
// at once: reading a site takes moments, unless a bundle is to be read with it.
const patience = 10 * time.Second

// leaves waits for a run that makes room without anybody's doing, while ctx lasts:
// one that has ended, after which the site may be read again, and one of the daemon's
// own that may find nothing to do. It reports whether there is room now.
func (r *daemonRun) leaves(ctx context.Context) bool {
	if r.own {
		select {
		case <-r.over:
		case <-r.begun:
		case <-ctx.Done():
		}
	}
	if !r.isOver() {
		return false
	}
	select {
	case <-r.done:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *daemonRun) isOver() bool {
	select {
	case <-r.over:
		return true
	default:
		return false
	}
}

// finish keeps how the run ended; one that was stopped before its end was
// cancelled, whatever it says.
func (r *daemonRun) finish(err error) {
	select {
	case <-r.stop:
		if err != nil {
			err = fmt.Errorf("%w: %w", context.Canceled, err)
		}
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *daemonRun) planned(p workflows.Plan) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.plan = p
}

// current is the site as it is served now.
func (d *daemon) current() *world {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.world
}

// withhold keeps classes from starting anything until another version is served.
func (d *daemon) withhold() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.withheld = true
}

// withholds reports whether classes start nothing.
func (d *daemon) withholds() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.withheld
}

// underway is the run that is carried out now; nil: none.
func (d *daemon) underway() *daemonRun {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.running
}

// Start begins a run that nobody sits before, and returns while it goes on. ctx
// bounds the beginning alone. The error is *busyError while another run is under
// way.
func (d *daemon) Start(ctx context.Context, r runRequest) (*daemonRun, error) {
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	return d.begin(ctx, "apply", caller{}, func(ctx context.Context, b *app) error {
		fmt.Fprintf(b.stderr, "A run for %s.\n", r.Why)
		return b.apply(ctx, d.path, applyFlags{
			planFlags: planFlags{target: r.Target, replace: r.Replace}, autoApprove: true, parallelism: defaultParallelism, agent: d.agent,
			consented: r.Consent, approve: r.Approve,
		}, nil)
	})
}

// caller is who wants a command carried out; zero: the daemon itself.
type caller struct {
	request *request
	conn    *control.Conn
}

// errClientLeft says that nobody waits for a command any more that has not begun.
var errClientLeft = errors.New("the client left before its command began")

// present is errClientLeft once a client has gone.
func (c caller) present() error {
	if c.conn == nil {
		return nil
	}
	gone, err := c.conn.Gone()
	if gone {
		return errClientLeft
	}
	return err
}

// begin carries a command out in the daemon, with an app of its own. The daemon's own
// goes by its variables, and answers nothing that is asked. It waits a little for a run
// that leaves by itself; otherwise the error is *busyError while another is under way.
// That of a client which has gone meanwhile does not begin. ctx bounds the beginning
// alone.
func (d *daemon) begin(ctx context.Context, command string, c caller, do func(context.Context, *app) error) (*daemonRun, error) {
	run := &daemonRun{
		command: command, own: c.request == nil, session: control.NewSession(),
		begun: make(chan struct{}), over: make(chan struct{}), done: make(chan struct{}), stop: make(chan struct{}),
	}
	if c.conn != nil {
		var err error
		if run.process, err = c.conn.Process(); err != nil {
			return nil, err
		}
		run.client = run.session.Follow()
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		before, err := d.start(run, c, do)
		if err != nil {
			return nil, err
		}
		if before == nil {
			return run, nil
		}
		if !before.leaves(ctx) {
			return nil, before.busy()
		}
	}
}

// start carries a run out unless one is under way, which it returns.
func (d *daemon) start(run *daemonRun, c caller, do func(context.Context, *app) error) (before *daemonRun, err error) {
	d.turn.RLock() // no run begins while another version of the site takes its place
	defer d.turn.RUnlock()
	if err := c.present(); err != nil {
		return nil, err
	}
	d.mu.Lock()
	if d.stopping || d.running != nil {
		defer d.mu.Unlock()
		if d.stopping {
			err = errDaemonStops
		}
		return d.running, err
	}
	d.running = run
	ctx, cancel := context.WithCancelCause(d.ctx)
	run.cancel = cancel
	d.runs.Add(1)
	d.mu.Unlock()
	b := d.command(c.request, run)
	go func() {
		defer d.runs.Done()
		defer cancel(nil)
		d.tellManager()
		err := do(ctx, b)
		code := b.exit(err)
		run.finish(run.explain(err))
		close(run.over)
		run.session.End(code)
		d.ended(run)
		close(run.done)
	}()
	return nil, nil
}

// ended reads the site again if that was put off, and then makes room for the
// next run, which must not begin with the one before.
func (d *daemon) ended(run *daemonRun) {
	for d.holds(run) {
		d.reloadAfter(d.ctx, run)
	}
	d.tellManager()
}

// holds makes room for the next run, unless the site is to be read again first.
func (d *daemon) holds(run *daemonRun) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	due := d.due && d.ctx.Err() == nil
	d.due = false
	if !due && d.running == run {
		d.running = nil
	}
	return due
}

// close lets no further run begin and returns the one under way; nil: none.
func (d *daemon) close() *daemonRun {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stopping = true
	return d.running
}

// tellManager says in a line what is going on.
func (d *daemon) tellManager() { d.app.told(d.app.manager.Status(d.status())) }

func (d *daemon) status() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	status := "Serving site " + d.world.site.Name
	if d.running != nil {
		status += ", carrying out " + d.running.command
	}
	if d.refusal != "" {
		status += "; the last reload was refused: " + d.refusal
	}
	return status
}

// command is the program as it carries out one command of a client, or one of the
// daemon's own where r is nil, which takes its files from where those of the site
// that is served came from. What it writes goes to the session of its run.
func (d *daemon) command(r *request, run *daemonRun) *app {
	b := &app{
		daemon: d, run: run, stop: run.stop, stdin: bytes.NewReader(nil),
		dataDir: d.app.dataDir, cacheDir: d.app.cacheDir, catalog: d.app.catalog,
	}
	if r == nil {
		// What is served stays so, with its bundle, until this run has ended.
		served := d.current()
		b.copySources(served.app)
		b.verified = served.bundle
		b.stdout, b.stderr = sessionWriter{session: run.session, stream: 1}, sessionWriter{session: run.session, stream: 2}
		return b
	}
	b.receive(*r)
	b.supply.orBundle(d.app.supply)
	b.stdout = sessionWriter{session: run.session, stream: 1, screen: r.Stdout}
	b.stderr = sessionWriter{session: run.session, stream: 2, screen: r.Stderr}
	return b
}

// carried keeps which addresses of a stage failed.
func (r *daemonRun) carried(endings []workflows.Ending) {
	for _, e := range endings {
		if e.Err != nil {
			r.fails(e.Address, e.Err.Error())
		}
	}
}

// fails keeps why an address is not as declared.
func (r *daemonRun) fails(address, why string) {
	why, _, _ = strings.Cut(why, "\n")
	// Most errors name what they are about.
	if !strings.HasPrefix(why, address+": ") {
		why = address + ": " + why
	}
	r.keep(&r.failures, why)
}

// refuses keeps what is wrong with a site, without the lines of the site.
func (r *daemonRun) refuses(diags hcl.Diagnostics) {
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			why, _, _ := strings.Cut(d.Detail, "\n")
			r.keep(&r.refusals, d.Summary+": "+why)
		}
	}
}

// keep adds a reason to a list, cut to what fits a sentence.
func (r *daemonRun) keep(list *[]string, why string) {
	why = shortened(why)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !slices.Contains(*list, why) {
		*list = append(*list, why)
	}
}

func shortened(why string) string {
	if len(why) > maxReasonBytes {
		return strings.ToValidUTF8(why[:maxReasonBytes], "") + "…"
	}
	return why
}

// Bounds of a run's error, which ends in events and answers of the API: with more
// it would be no sentence. The journal has all of it.
const (
	maxReasons     = 5
	maxReasonBytes = 500
)

// explain gives an error that was shown already the reasons for it. They hold no
// text of the site, and one line of each error.
func (r *daemonRun) explain(err error) error {
	var shown exitCode
	if !errors.As(err, &shown) {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	reasons := slices.Clone(r.failures)
	if len(reasons) == 0 {
		for _, a := range r.plan.Actions {
			if !a.Kind.Changes() && !a.Kind.Settled() {
				reasons = append(reasons, fmt.Sprintf("%s: %s: %s", a.Address, a.Kind, a.Reason))
			}
		}
	}
	if len(reasons) == 0 {
		reasons = slices.Clone(r.refusals)
	}
	if n := len(reasons); n > maxReasons {
		reasons = append(reasons[:maxReasons], fmt.Sprintf("and %d more", n-maxReasons))
	}
	if len(reasons) == 0 {
		reasons = []string{"not everything is as declared; see `edge-provision runs list`"}
	}
	text := strings.Join(reasons, "; ")
	if len(r.ids) == 0 {
		return errors.New(text)
	}
	return fmt.Errorf("run %s: %s", r.ids[len(r.ids)-1], text)
}
