package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// destroyFlags are the flags of destroy.
type destroyFlags struct {
	target, data      []string
	autoApprove, json bool
	forget, powerOff  bool
	parallelism       int
}

func (a *app) destroyCommand() *cobra.Command {
	var f destroyFlags
	c := &cobra.Command{
		Use:   "destroy SITE.hcl",
		Short: "Take away what apply brought, dependents first",
		Example: `  edge-provision destroy site.hcl
  edge-provision destroy -target=workflow.platform.step.file.motd site.hcl`,
		Long: `Works from what the catalog recorded when it was applied, also for what site.hcl no
longer declares. Shows what will be removed and which data could be lost, asks, and
removes dependents first. Data is destroyed only where the address of what holds it
is typed back or named by --destroy-data; everywhere else it is kept.

Machines are given up: the catalog forgets that it installed them. Their disks are
never erased and they go on running, unless --power-off is given.

It can be interrupted at any time; running it again continues.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.destroy(cmd.Context(), args[0], f, nil) },
	}
	a.supply.register(c)
	c.Flags().StringArrayVar(&f.target, "target", nil, "only this address and what depends on it; may be repeated")
	c.Flags().StringArrayVar(&f.data, "destroy-data", nil, "consent to the loss of the data at this address; may be repeated")
	c.Flags().BoolVar(&f.forget, "forget", false, "forget the records of the targets and change nothing on machines")
	c.Flags().BoolVar(&f.powerOff, "power-off", false, "switch the machines off that are given up")
	c.Flags().BoolVar(&f.autoApprove, "auto-approve", false, "do not ask; never consents to the loss of data")
	c.Flags().BoolVar(&f.json, "json", false, "report progress as one JSON object a line (format_version 1)")
	c.Flags().IntVar(&f.parallelism, "parallelism", defaultParallelism, "how many addresses may be worked on at once")
	return c
}

// destroying is one destroy under way.
type destroying struct {
	running
	flags     destroyFlags
	destroyer *steps.Destroyer
}

// destroy takes a site away, or its targets; resumed is the plan of the run that
// it continues, which was approved before, or nil.
func (a *app) destroy(ctx context.Context, path string, f destroyFlags, resumed *workflows.Plan) (err error) {
	a.graceful.Store(true)
	if f.forget && len(f.target) == 0 {
		return usage("--forget needs --target: say which records are to be forgotten")
	}
	if f.forget && f.powerOff {
		return usage("--forget changes nothing on machines, so that --power-off cannot be given with it")
	}
	points, err := a.failPoint()
	if err != nil {
		return err
	}
	screen := a.display(f.json)
	defer screen.Close()
	w, err := a.openFree(ctx, path, screen.Tell)
	var served *servedError
	if errors.As(err, &served) {
		return served.through(ctx, a, screen, request{
			Command: "destroy", Path: path, Target: f.target, DestroyData: f.data, AutoApprove: f.autoApprove, JSON: f.json,
			Forget: f.forget, PowerOff: f.powerOff, Parallelism: f.parallelism, Resumed: resumed,
		})
	}
	if err != nil {
		return err
	}
	defer w.close()
	ctx, _, unlock, err := w.lock(ctx, "destroy")
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
	// Records are removed under the names that they will have, which are written
	// down once the removal is approved.
	moves, err := steps.ForeseeMoves(ctx, w.site, w.catalog)
	if err != nil {
		return err
	}
	w.goBy(moves)
	d := &destroying{flags: f, running: running{
		world: w, screen: screen, answers: bufio.NewReader(a.stdin), points: points, parallelism: f.parallelism,
		record: runRecord{Command: "destroy", Path: path, Target: f.target, DestroyData: f.data, Forget: f.forget, PowerOff: f.powerOff},
	}}
	d.destroyer = &steps.Destroyer{
		Site: w.site, Catalog: w.catalog, Runner: w.runner, Powers: w.powers,
		Foresight: moves, Forget: f.forget, PowerOff: f.powerOff, FailPoint: points,
	}
	plan, err := d.plan(ctx)
	if err != nil {
		return err
	}
	return d.carryOut(ctx, plan, resumed)
}

// plan finds out what there is to remove and what would be lost.
func (d *destroying) plan(ctx context.Context) (workflows.Plan, error) {
	holdings, err := d.destroyer.Holdings(ctx)
	if err != nil {
		return workflows.Plan{}, err
	}
	removal := workflows.NewRemoval(d.site, holdings)
	selected, diags := removal.Select(d.flags.target)
	if err := d.app.report(diags); err != nil {
		return workflows.Plan{}, err
	}
	found, err := d.destroyer.Find(ctx, selected)
	if err != nil {
		return workflows.Plan{}, err
	}
	return removal.Plan(d.catalog.CatalogID().String(), selected, found), nil
}

// carryOut shows the plan, asks, and runs it.
func (d *destroying) carryOut(ctx context.Context, plan workflows.Plan, resumed *workflows.Plan) error {
	approved := resumed != nil && covered(plan, *resumed)
	plan, unknown := d.consentByFlag(plan)
	if approved {
		plan = consentOf(*resumed, plan)
	}
	for _, address := range unknown {
		fmt.Fprintf(d.app.stderr, "--destroy-data=%s: nothing that would be lost is there.\n", address)
	}
	keepers, err := d.keepers(ctx)
	if err != nil {
		return err
	}
	if len(plan.Actions)+len(keepers) == 0 && !d.flags.json {
		fmt.Fprintf(d.app.stdout, "Nothing to destroy: the catalog has no record of anything that was applied%s.\n", d.where())
		return nil
	}
	if len(plan.Actions) > 0 || d.flags.json {
		if err := d.show(plan, d.flags.json); err != nil {
			return err
		}
	}
	for _, k := range keepers {
		fmt.Fprintf(d.app.stderr, "%s: edge-agent, which is kept in %s for looks at the hardware, is removed when all else is gone.\n", k.Machine.Address, k.Dir)
	}
	left := plan.Counts()[workflows.KindUnreachable] + plan.Counts()[workflows.KindRefused] + plan.Counts()[workflows.KindBlocked]
	if left > 0 {
		fmt.Fprintf(d.app.stderr, "Left alone: %d of them. What is gone for good is dropped from the catalog with: edge-provision destroy --forget --target=ADDRESS SITE.hcl\n", left)
	}
	if plan.Empty() && (len(keepers) == 0 || left > 0) {
		return d.result(plan, left > 0)
	}
	if !approved {
		plan = d.consent(plan)
		if !d.flags.autoApprove && !d.agreed() {
			fmt.Fprintln(d.app.stderr, "Not approved; nothing was removed.")
			return exitCode(exitError)
		}
	}
	if err := steps.Move(ctx, d.site, d.catalog, d.keys); err != nil {
		return err
	}
	d.goBy(nil)
	d.destroyer.Foresight = nil
	incomplete := left > 0
	if !plan.Empty() {
		failed, err := d.carry(ctx, plan, func(run uuid.UUID) ([]workflows.Node, error) { return d.destroyer.Nodes(run, plan), nil })
		if err != nil {
			return err
		}
		if d.stopped {
			fmt.Fprintln(d.app.stderr, "Stopped before the end; destroy continues from here.")
			return exitCode(exitError)
		}
		incomplete = incomplete || failed
	}
	if !incomplete {
		if err := d.destroyer.Relieve(ctx, keepers); err != nil {
			fmt.Fprintf(d.app.stderr, "Left there, for the next destroy: %v\n", err)
			incomplete = true
		}
	}
	return d.result(plan, incomplete)
}

// keepers are the machines from which edge-agent goes with the whole site.
func (d *destroying) keepers(ctx context.Context) ([]steps.Keeper, error) {
	if len(d.flags.target) > 0 {
		return nil, nil
	}
	return d.destroyer.Keepers(ctx)
}

func (d *destroying) where() string {
	if len(d.flags.target) > 0 {
		return " at the targets or at what depends on them"
	}
	return " at site " + d.site.Name
}

// agreed asks for the site's name when all of it goes, and for yes otherwise.
func (d *destroying) agreed() bool {
	if len(d.flags.target) == 0 {
		return d.confirm(fmt.Sprintf("All of the above goes. Type the name of the site (%s) to carry this out: ", d.site.Name), d.site.Name)
	}
	return d.confirm("Do you want to carry this out? Only 'yes' is taken as yes: ", "yes")
}

// consentByFlag takes --destroy-data for what it names, and returns the flags
// that name nothing.
func (d *destroying) consentByFlag(plan workflows.Plan) (_ workflows.Plan, unknown []string) {
	unknown = slices.Clone(d.flags.data)
	plan.Actions = slices.Clone(plan.Actions)
	for i, a := range plan.Actions {
		if len(a.Loss) > 0 && slices.Contains(d.flags.data, a.Address) {
			plan.Actions[i].DataConsent = workflows.ConsentFlag
			unknown = slices.DeleteFunc(unknown, func(u string) bool { return u == a.Address })
		}
	}
	return plan, unknown
}

// consentOf gives a plan the consents of the one that it continues.
func consentOf(approved, plan workflows.Plan) workflows.Plan {
	plan.Actions = slices.Clone(plan.Actions)
	for i, a := range plan.Actions {
		if was, ok := approved.Find(a.Address); ok && len(a.Loss) > 0 {
			plan.Actions[i].DataConsent = was.DataConsent
		}
	}
	return plan
}

// consent asks for the address of each step that holds data. Whatever else is
// typed keeps the data.
func (d *destroying) consent(plan workflows.Plan) workflows.Plan {
	plan.Actions = slices.Clone(plan.Actions)
	for i, a := range plan.Actions {
		if a.DataConsent != workflows.ConsentNeeded {
			continue
		}
		for _, l := range a.Loss {
			fmt.Fprintf(d.app.stderr, "%s: %s\n", a.Address, l)
		}
		if d.confirm(fmt.Sprintf("Type %s to destroy this data; anything else keeps it: ", a.Address), a.Address) {
			plan.Actions[i].DataConsent = workflows.ConsentTyped
			continue
		}
		fmt.Fprintf(d.app.stderr, "\nThe data of %s is kept.\n", a.Address)
	}
	return plan
}

// result ends a destroy.
func (d *destroying) result(plan workflows.Plan, incomplete bool) error {
	for _, a := range plan.Actions {
		for _, l := range a.Loss {
			if a.Kind == workflows.KindRemove && !a.DestroysData() {
				fmt.Fprintf(d.app.stderr, "Kept: %s\n", l)
			}
		}
	}
	if incomplete {
		return exitCode(exitError)
	}
	done := d.app.paint(d.app.stderr, "32", "Done.")
	if len(plan.Actions) == 0 {
		fmt.Fprintln(d.app.stderr, done)
		return nil
	}
	fmt.Fprintf(d.app.stderr, "%s Taken away, or forgotten: %d.\n", done, len(plan.Actions))
	return nil
}
