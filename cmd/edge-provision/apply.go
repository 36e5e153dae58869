package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// applyFlags are the flags of apply.
type applyFlags struct {
	planFlags
	autoApprove bool
	json        bool
	parallelism int
	agent       string
	ports       ports

	saved     *savedPlan                 // the plan that was named in place of a site; nil: a site was
	consented map[string]string          // serials that were typed before, by address of the machine
	approve   func(workflows.Plan) error // in place of the question; nil: it is asked
}

// defaultParallelism is Terraform's default, and a small site's whole rack.
const defaultParallelism = 10

func (f *ports) register(c *cobra.Command) {
	c.Flags().Uint16Var(&f.http, "http-port", steps.DefaultHTTPPort, "TCP port of boot files and images")
	c.Flags().Uint16Var(&f.agent, "agent-port", steps.DefaultAgentPort, "TCP port of the agents' API")
}

func (a *app) applyCommand() *cobra.Command {
	var f applyFlags
	c := &cobra.Command{
		Use:   "apply SITE.hcl | PLAN",
		Short: "Bring a site to what it is declared to be",
		Example: `  edge-provision apply site.hcl
  edge-provision apply site.plan
  edge-provision apply -target='machine.node["a"]' site.hcl`,
		Long: `Shows the plan, asks, and carries it out. Machines that were never inspected are first
booted into the installer, which writes nothing; then the final list of disks to
erase is shown and asked about again. A disk that carries anything needs consent of
its own: wipe = true in site.hcl, or the machine's serial typed back. --auto-approve
is not that consent.

It can be interrupted at any time; running it again continues.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path := args[0]
			saved, isPlan, err := readPlan(path)
			if err != nil {
				return err
			}
			if isPlan {
				f.saved, path, f.target, f.replace = &saved, saved.Path, saved.Target, saved.Replace
			}
			return a.apply(cmd.Context(), path, f, nil)
		},
	}
	f.register(c)
	f.ports.register(c)
	a.supply.register(c)
	c.Flags().BoolVar(&f.autoApprove, "auto-approve", false, "do not ask; never consents to erasing a disk that carries something")
	c.Flags().BoolVar(&f.json, "json", false, "report progress as one JSON object a line (format_version 1)")
	c.Flags().IntVar(&f.parallelism, "parallelism", defaultParallelism, "how many machines and steps may be worked on at once")
	c.Flags().StringVar(&f.agent, "agent", "", "the edge-agent program; default: beside this program")
	return c
}

// apply carries a site or a saved plan out; resumed is the plan of the run that
// it continues, which was approved before, or nil.
func (a *app) apply(ctx context.Context, path string, f applyFlags, resumed *workflows.Plan) (err error) {
	a.graceful.Store(true)
	screen := a.display(f.json)
	defer screen.Close()
	w, err := a.openFree(ctx, path, screen.Tell)
	var served *servedError
	if errors.As(err, &served) {
		return served.through(ctx, a, screen, request{
			Command: "apply", Path: path, Target: f.target, Replace: f.replace, Stale: f.stale, AutoApprove: f.autoApprove, JSON: f.json,
			Parallelism: f.parallelism, Agent: f.agent, Saved: f.saved, Resumed: resumed,
		})
	}
	if err != nil {
		return &unopenedError{err}
	}
	defer w.close()
	w.agent, w.stale = f.agent, f.stale
	ctx, fence, unlock, err := w.lock(ctx, "apply")
	if err != nil {
		return err
	}
	defer func() {
		unlock()
		err = errors.Join(err, lostLock(ctx))
	}()
	if err := w.closeCutOff(ctx, "this one continues where it stopped."); err != nil {
		return err
	}
	w.prune(ctx)

	points, err := a.failPoint()
	if err != nil {
		return err
	}
	ap := &applying{flags: f, fence: fence, running: running{
		world: w, screen: screen, answers: bufio.NewReader(a.stdin), points: points, parallelism: f.parallelism,
		record: runRecord{Command: "apply", Path: path, Target: f.target, Replace: f.replace, Agent: f.agent, HTTPPort: f.ports.http, AgentPort: f.ports.agent},
	}}
	w.runner.FailPoint = points
	ap.provisioner = &steps.Provisioner{
		Site: w.site, Catalog: w.catalog, Keys: w.keys, Wanted: w.wanted, Powers: w.powers, Hosts: w.hosts,
		Clock: workflows.SystemClock{}, Images: w.images, ControllerKey: w.key, Fence: fence,
		Tell: screen.Tell, Explain: w.explain, Adopter: w.adopter,
	}
	defer ap.provisioner.End()
	defer ap.stopServing()
	if err := ap.useDaemon(); err != nil {
		return err
	}
	if err := ap.begins(ctx); err != nil {
		return err
	}
	plan, refused, err := w.plan(ctx, ap.service, f.options())
	if err != nil {
		return err
	}
	if f.saved != nil && plan.Digest() != f.saved.Digest {
		return errStale
	}
	approved := f.saved != nil || resumed != nil && covered(plan, *resumed)
	return ap.carryOut(ctx, plan, refused, approved)
}

// applying is one apply under way.
type applying struct {
	running
	flags applyFlags
	fence int64
	last  uuid.UUID // the run of the newest stage; zero before the first
	// recorded says that the site was approved, and what machines are by it is
	// written down.
	recorded bool

	provisioner *steps.Provisioner
	service     *steps.Service     // nil until a machine has to boot
	end         context.CancelFunc // of the service
	served      chan struct{}      // closed when the service has ended, with serveErr
	serveErr    error
}

// carryOut shows the plan, asks, and runs it: first what only looks, then, with
// the facts known, the rest.
func (ap *applying) carryOut(ctx context.Context, plan workflows.Plan, refused, approved bool) error {
	for {
		if err := ap.show(plan, ap.flags.json); err != nil {
			return err
		}
		ap.recordRefusals(plan)
		if ap.app.run != nil {
			ap.app.run.planned(plan)
		}
		if plan.Empty() {
			return ap.nothing(ctx, plan, refused)
		}
		stage := firstStage(plan)
		if ap.flags.approve != nil {
			if err := ap.flags.approve(stage); err != nil {
				return errors.Join(err, ap.letGo(ctx))
			}
		}
		stage, unconsented := ap.consent(stage)
		refused = refused || unconsented
		if stage.Empty() {
			return errors.Join(ap.letGo(ctx), exitCode(exitError))
		}
		if !approved && !ap.flags.autoApprove && !ap.confirm("Do you want to carry this out? Only 'yes' is taken as yes: ", "yes") {
			fmt.Fprintln(ap.app.stderr, "Not approved; nothing was written.")
			ap.withhold()
			return errors.Join(ap.letGo(ctx), exitCode(exitError))
		}
		failed, err := ap.stage(ctx, stage)
		if err != nil {
			return err
		}
		refused = refused || failed
		if ap.stopped {
			fmt.Fprintln(ap.app.stderr, "Stopped before the end; apply continues from here.")
			return exitCode(exitError)
		}
		if !hasKind(stage, workflows.KindInspect) {
			return ap.result(ctx, plan, refused)
		}
		// Whoever cancels a run means the whole of this command, also in the moment
		// between the last look at the journal and the end of this stage.
		cancelled, err := ap.journal.CancelRequested(ctx, ap.last)
		if err != nil {
			return err
		}
		if cancelled {
			fmt.Fprintln(ap.app.stderr, "Cancelled before the end; apply continues from here.")
			return exitCode(exitError)
		}
		fmt.Fprint(ap.app.stderr, "\nNothing was written. With what is known now:\n\n")
		if ap.unbound, err = steps.Bind(ctx, ap.site, ap.catalog, ap.keys); err != nil {
			return err
		}
		next, nextRefused, err := ap.plan(ctx, ap.service, ap.flags.options())
		if err != nil {
			return err
		}
		next = withoutRepeats(next, stage)
		refused = refused || nextRefused
		// What was saved covers this plan only as far as it named what is
		// erased now.
		approved = approved && len(next.MoreDestructive(plan)) == 0
		plan = next
	}
}

// begins has the plan go by what the site would make of the machines, or for the
// daemon's own run, by what it has made of them.
func (ap *applying) begins(ctx context.Context) error {
	if ap.app.run != nil && ap.app.run.own {
		ap.recorded = true
		return ap.recordSite(ctx)
	}
	return ap.foresee(ctx)
}

// approved writes down, once, what machines are by the site: somebody has
// approved it. In a daemon it is served from now on.
func (ap *applying) approved(ctx context.Context, stage workflows.Plan) error {
	if ap.recorded {
		return nil
	}
	// What was shown is done to the machines that it was shown for. Others may have
	// been discovered, or recorded, while the question stood.
	if err := ap.foresee(ctx); err != nil {
		return err
	}
	if err := ap.same(ctx, stage); err != nil {
		return err
	}
	var err error
	if d := ap.app.daemon; d != nil {
		err = d.serveFor(ctx, ap.world)
	} else {
		err = ap.recordSite(ctx)
	}
	if ap.recorded = err == nil; err != nil {
		return err
	}
	return ap.same(ctx, stage)
}

// same refuses a stage whose declarations mean other machines by now.
func (ap *applying) same(ctx context.Context, stage workflows.Plan) error {
	for _, a := range stage.Actions {
		if a.Machine == uuid.Nil {
			continue
		}
		row, err := ap.foresight.Machine(ctx, ap.catalog, ap.site.Name, a.Address)
		if err == nil && row.ID != a.Machine || errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %w", a.Address, steps.ErrOtherMachine)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// withhold keeps the classes of a version, which the approval of its inspections
// made the served one, from doing what somebody said no to.
func (ap *applying) withhold() {
	if d := ap.app.daemon; d != nil && ap.recorded && !ap.app.run.own {
		d.withhold()
		fmt.Fprintln(ap.app.stderr, "serve goes by this version, and starts nothing that its classes say until it is applied, or serve is sent SIGHUP.")
	}
}

// nothing ends an apply that has nothing more to do.
func (ap *applying) nothing(ctx context.Context, plan workflows.Plan, refused bool) error {
	if err := ap.letGo(ctx); err != nil {
		return err
	}
	if refused || !plan.Settled() {
		return exitCode(exitError)
	}
	if d := ap.app.daemon; d != nil && !ap.recorded {
		// Nobody was asked, so that nothing was approved either.
		if !sameFiles(d.current().site, ap.site) {
			fmt.Fprintln(ap.app.stderr, "serve goes on by the site as it read it before; send it SIGHUP to take up what was edited.")
			return ap.outputs(ctx)
		}
	} else if err := ap.approved(ctx, plan); err != nil {
		return err
	}
	if err := ap.commission(ctx, plan, uuid.Nil); err != nil {
		return err
	}
	return ap.outputs(ctx)
}

// firstStage is what may be done before the facts are known: while there is a
// machine to inspect, only what writes to no machine; else the whole plan.
func firstStage(p workflows.Plan) workflows.Plan {
	if !hasKind(p, workflows.KindInspect) {
		return p
	}
	out := p
	out.Actions = nil
	for _, a := range p.Actions {
		if a.Kind == workflows.KindInspect || a.Kind == workflows.KindBuild {
			out.Actions = append(out.Actions, a)
		}
	}
	return out
}

func hasKind(p workflows.Plan, k workflows.Kind) bool {
	return slices.ContainsFunc(p.Actions, func(a workflows.Action) bool { return a.Kind == k })
}

// withoutRepeats drops inspections that this apply has tried already: a machine
// that could not be inspected is not power-cycled again and again.
func withoutRepeats(next, done workflows.Plan) workflows.Plan {
	var kept []workflows.Action
	for _, a := range next.Actions {
		if before, ok := done.Find(a.Address); ok && a.Kind == workflows.KindInspect && before.Kind == workflows.KindInspect {
			a.Kind, a.Reason, a.Power = workflows.KindUnreachable, "it could not be inspected in this run", workflows.PowerKept
		}
		kept = append(kept, a)
	}
	next.Actions = kept
	return next.Block()
}

// consent asks for the serial of each machine whose disk carries something and
// turns what is not consented to into refused, with everything that depends on it.
func (ap *applying) consent(plan workflows.Plan) (_ workflows.Plan, missing bool) {
	plan.Actions = slices.Clone(plan.Actions)
	for i, a := range plan.Actions {
		if a.Erase == nil || a.Erase.Consent != workflows.ConsentNeeded {
			continue
		}
		fmt.Fprintf(ap.app.stderr, "%s: %s carries %s. ", a.Address, workflows.DescribeDisk(a.Erase.Disk), strings.Join(a.Erase.Signatures, ", "))
		erase := *a.Erase
		if a.Erase.Serial != "" && (ap.flags.consented[a.Address] == a.Erase.Serial || ap.confirm(fmt.Sprintf("Type the machine's serial (%s) to erase it: ", a.Erase.Serial), a.Erase.Serial)) {
			erase.Consent = workflows.ConsentTyped
			plan.Actions[i].Erase = &erase
			continue
		}
		missing = true
		if ap.app.run != nil {
			ap.app.run.fails(a.Address, "erasing its disk was not consented to")
		}
		fmt.Fprintf(ap.app.stderr, "\n%s will not be installed: erasing its disk was not consented to. Set wipe = true for it in site.hcl, or type its serial.\n", a.Address)
		plan.Actions[i].Kind, plan.Actions[i].Reason, plan.Actions[i].Erase = workflows.KindRefused, "erasing its disk was not consented to", nil
	}
	return plan.Block(), missing
}

// stage carries out one stage as a run of its own in the journal.
func (ap *applying) stage(ctx context.Context, stage workflows.Plan) (failed bool, err error) {
	if err := ap.approved(ctx, stage); err != nil {
		return false, err
	}
	if err := ap.serve(ctx, stage); err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ap.watchService(ctx, cancel)
	return ap.carry(ctx, stage, func(run uuid.UUID) ([]workflows.Node, error) {
		ap.last = run
		return ap.executor().Nodes(run, stage)
	})
}

// recordRefusals keeps for why which machines a plan has no disk for.
func (ap *applying) recordRefusals(plan workflows.Plan) {
	for _, a := range plan.Actions {
		if a.Candidates == nil {
			continue
		}
		e := inventory.Event{
			Time: time.Now(), Site: ap.site.Name, Kind: inventory.EventDiskNoMatch, Message: a.Reason,
			Attrs: map[string]string{"matched": strconv.Itoa(a.Candidates.Matched), "of": strconv.Itoa(a.Candidates.Of)},
		}
		ap.about(&e, a.Address)
		ap.catalog.Record(e)
	}
}

func (ap *applying) executor() *steps.Executor {
	return &steps.Executor{
		Site: ap.site, Runner: ap.runner,
		BuildImage: func(ctx context.Context, i *site.Image) error {
			_, err := ap.images.Build(ctx, i)
			return err
		},
		Provisioner: ap.provisioner, FailPoint: ap.points,
	}
}

// serve starts the site's services before the first stage that boots a machine.
func (ap *applying) serve(ctx context.Context, stage workflows.Plan) error {
	boots := slices.ContainsFunc(stage.Actions, func(a workflows.Action) bool {
		switch a.Kind {
		case workflows.KindInspect, workflows.KindInstall, workflows.KindBoot, workflows.KindPowerOn:
			return true
		}
		return false
	})
	if ap.service != nil || !boots { // the daemon's, or begun before
		return nil
	}
	service, err := ap.listen(ctx, ap.flags.ports)
	if err != nil {
		return err
	}
	began := time.Now()
	ap.screen.Tell(steps.Progress{Address: "installer", Phase: "build", Message: "preparing kernel and initramfs"})
	installer, err := ap.installer(ctx, ap.flags.agent)
	if err == nil {
		err = service.Boot(installer)
	}
	if err != nil {
		return errors.Join(err, service.Close())
	}
	ap.screen.Change(workflows.Change{Address: "installer", Ended: &workflows.Ending{
		Address: "installer", Outcome: workflows.OutcomeOK, Duration: time.Since(began),
	}})
	// The services outlive a first Ctrl-C, and end with this apply.
	serving, end := context.WithCancel(context.WithoutCancel(ctx))
	ap.end, ap.served = end, make(chan struct{})
	ap.use(service)
	discovery := &steps.Discovery{
		Site: func() *site.Site { return ap.site }, Catalog: ap.catalog, Keys: ap.keys, Dispatch: service.Dispatch, Wanted: ap.wanted, Fence: ap.fence,
		Tell: ap.tell, Busy: func() bool { return true },
	}
	go func() {
		defer close(ap.served)
		discovering := make(chan struct{})
		go func() {
			defer close(discovering)
			discovery.Run(serving)
		}()
		ap.serveErr = service.Serve(serving)
		end()
		<-discovering
	}()
	return nil
}

// use takes the services that machines boot from.
func (ap *applying) use(s *steps.Service) {
	ap.service, ap.images.Service, ap.provisioner.Dispatch = s, s, s.Dispatch
}

// useDaemon takes the services of the daemon, if this is carried out in one and
// they fit the site.
func (ap *applying) useDaemon() error {
	d := ap.app.daemon
	if d == nil {
		return nil
	}
	if err := d.service.Fits(ap.site); err != nil {
		return err
	}
	ap.use(d.service)
	return nil
}

// watchService cuts a run off when the services that it needs have failed. Those
// of a daemon take it with them.
func (ap *applying) watchService(ctx context.Context, cancel context.CancelCauseFunc) {
	if ap.served == nil {
		return
	}
	go func() {
		select {
		case <-ctx.Done():
		case <-ap.served:
			cancel(fmt.Errorf("the site's services ended: %w", ap.serveErr))
		}
	}()
}

// stopServing ends the services and waits for them.
func (ap *applying) stopServing() {
	if ap.served == nil {
		return
	}
	ap.end()
	<-ap.served
	if ap.serveErr != nil {
		fmt.Fprintf(ap.app.stderr, "The site's services ended: %v\n", ap.serveErr)
	}
}

// letGo sends the machines that this apply brought into the installer back to
// where they were.
func (ap *applying) letGo(ctx context.Context) error {
	if ap.service == nil {
		return nil
	}
	return ap.provisioner.Release(ctx)
}

// result ends an apply that did something.
func (ap *applying) result(ctx context.Context, plan workflows.Plan, failed bool) error {
	if failed || plan.Counts()[workflows.KindUnreachable]+plan.Counts()[workflows.KindBlocked] > 0 {
		return exitCode(exitError)
	}
	if err := ap.commission(ctx, plan, ap.last); err != nil {
		return err
	}
	fmt.Fprintf(ap.app.stderr, "%s Site %s is as declared.\n", ap.app.paint(ap.app.stderr, "32", "Done."), ap.site.Name)
	return ap.outputs(ctx)
}

// outputs prints the site's outputs, sensitive ones redacted.
func (ap *applying) outputs(ctx context.Context) error {
	known, err := ap.runner.Known(ctx)
	if err != nil {
		return err
	}
	values, diags := ap.site.OutputValues(known)
	if err := ap.app.report(diags); err != nil {
		return err
	}
	if len(values) == 0 || ap.flags.json {
		return nil
	}
	fmt.Fprintln(ap.app.stdout, "\nOutputs:")
	for _, o := range ap.site.Outputs {
		fmt.Fprintf(ap.app.stdout, "  %s = %s\n", o.Name, site.Text(values[o.Name]))
	}
	return nil
}
