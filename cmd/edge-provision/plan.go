package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// planFlags narrow a plan; plan and apply share them.
type planFlags struct {
	target, replace []string
	// stale takes the facts of running machines as they were gathered last.
	stale bool
}

func (f *planFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&f.target, "target", nil, "only this address and what it depends on; may be repeated")
	c.Flags().StringArrayVar(&f.replace, "replace", nil, "install this machine anew, whatever it is now; may be repeated")
	c.Flags().BoolFunc("refresh", "gather the facts of running machines anew (default true)", func(value string) error {
		refresh, err := strconv.ParseBool(value)
		f.stale = !refresh
		return err
	})
}

func (f *planFlags) options() workflows.BuildOptions {
	return workflows.BuildOptions{Target: f.target, Replace: f.replace}
}

// savedPlan is a plan in a file. It holds no variables: they are given again,
// and a plan that would come out otherwise is stale.
type savedPlan struct {
	FormatVersion int            `json:"edge_provision_plan"`
	Path          string         `json:"site_path"`
	Target        []string       `json:"target,omitempty"`
	Replace       []string       `json:"replace,omitempty"`
	Plan          workflows.Plan `json:"plan"`
	Digest        string         `json:"digest"`
}

// planOptions are the flags of plan.
type planOptions struct {
	planFlags
	out, agent          string
	json, detailed, all bool
}

func (a *app) planCommand() *cobra.Command {
	var f planOptions
	c := &cobra.Command{
		Use:   "plan SITE.hcl",
		Short: "Show what apply would do; change nothing and power nothing on",
		Example: `  edge-provision plan site.hcl
  edge-provision plan -out site.plan site.hcl
  edge-provision plan -replace='machine.node["a"]' site.hcl`,
		Long: `Asks BMCs, machines and the catalog what there is, and prints what apply would do.

Exit codes: 0, or with --detailed-exitcode 2 when something would change. A machine
that cannot be asked makes the answer incomplete: that is exit code 2 always.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.planSite(cmd.Context(), args[0], f) },
	}
	f.register(c)
	a.supply.register(c)
	c.Flags().StringVar(&f.agent, "agent", "", "the edge-agent program, for facts of adopted machines; default: beside this program")
	c.Flags().StringVar(&f.out, "out", "", "save the plan to a file for apply")
	c.Flags().BoolVar(&f.json, "json", false, "print the plan as JSON (format_version 1)")
	c.Flags().BoolVar(&f.detailed, "detailed-exitcode", false, "exit 2 when something is not as declared")
	c.Flags().BoolVar(&f.all, "all", false, "show also what is as declared")
	return c
}

// planSite plans a site and shows the plan.
func (a *app) planSite(ctx context.Context, path string, f planOptions) error {
	w, err := a.openFree(ctx, path, func(steps.Progress) {})
	var served *servedError
	if errors.As(err, &served) {
		screen := a.display(f.json)
		defer screen.Close()
		return served.through(ctx, a, screen, request{
			Command: "plan", Path: path, Target: f.target, Replace: f.replace, Stale: f.stale, JSON: f.json, Agent: f.agent,
			Out: f.out, Detailed: f.detailed, All: f.all,
		})
	}
	if err != nil {
		return err
	}
	defer w.close()
	if err := w.foresee(ctx); err != nil {
		return err
	}
	w.agent, w.stale = f.agent, f.stale
	var service *steps.Service
	if a.daemon != nil {
		service = a.daemon.service
	}
	plan, refused, err := w.plan(ctx, service, f.options())
	if err != nil {
		return err
	}
	if f.json {
		err = writeJSON(a.stdout, plan)
	} else {
		_, color := a.terminal(a.stdout)
		err = plan.Print(a.stdout, workflows.PrintOptions{Color: color, All: f.all, Now: time.Now()})
	}
	if err != nil {
		return err
	}
	if f.out != "" {
		if err := a.savePlan(path, f, plan); err != nil {
			return err
		}
		fmt.Fprintf(a.stderr, "Saved to %s; carry it out with: edge-provision apply %s\n", f.out, f.out)
	}
	switch counts := plan.Counts(); {
	case refused:
		return exitCode(exitError)
	case counts[workflows.KindUnreachable] > 0, f.detailed && (!plan.Settled() || plan.Drifted()):
		return exitCode(exitDifferent)
	}
	return nil
}

// plan observes the site and builds the plan; refused says that diagnostics,
// which have been shown, refuse a part of it.
func (w *world) plan(ctx context.Context, service *steps.Service, o workflows.BuildOptions) (plan workflows.Plan, refused bool, err error) {
	if err := w.app.report(o.Check(w.site)); err != nil {
		return plan, false, err
	}
	seen, err := w.observe(ctx, service)
	if err != nil {
		return plan, false, err
	}
	plan, diags := workflows.Build(w.site, seen, o)
	if plan.Classes, err = steps.ClassViews(ctx, w.site, w.catalog, w.keys, w.foresight, time.Now()); err != nil {
		return plan, false, err
	}
	upgrades, err := w.checkUpgrade(ctx)
	if err != nil {
		return plan, false, err
	}
	diags = append(diags, upgrades...)
	return plan, w.app.report(diags) != nil, nil
}

// savePlan writes a plan where --out says; in a daemon its client does.
func (a *app) savePlan(sitePath string, f planOptions, plan workflows.Plan) error {
	abs, err := filepath.Abs(sitePath)
	if err != nil {
		return err
	}
	b, err := json.MarshalIndent(savedPlan{
		FormatVersion: workflows.PlanVersion, Path: abs, Target: f.target, Replace: f.replace, Plan: plan, Digest: plan.Digest(),
	}, "", "  ")
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if a.run != nil {
		return a.run.session.Publish(kindFile, b)
	}
	return replaceFile(f.out, b, 0o600)
}

// readPlan reads a saved plan; ok is false for a file that is something else.
func readPlan(path string) (p savedPlan, ok bool, err error) {
	info, err := os.Stat(path)
	if err != nil || info.IsDir() || filepath.Ext(path) == ".hcl" {
		return p, false, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return p, false, err
	}
	if json.Unmarshal(b, &p) != nil || p.FormatVersion == 0 {
		return p, false, nil
	}
	if p.FormatVersion != workflows.PlanVersion {
		return p, true, fmt.Errorf("%s was saved in plan format %d; this program reads %d: run plan again", path, p.FormatVersion, workflows.PlanVersion)
	}
	if p.Digest != p.Plan.Digest() {
		return p, true, fmt.Errorf("%s is damaged or was edited: its digest does not fit its content; run plan again", path)
	}
	return p, true, nil
}

// errStale refuses a saved plan that no longer fits.
var errStale = errors.New("the saved plan is stale: the site, its variables or its machines are not what they were; run plan again")

// writeJSON prints a document for programs.
func writeJSON(w interface{ Write([]byte) (int, error) }, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}
