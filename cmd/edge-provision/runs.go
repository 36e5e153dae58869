package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/control"
	"github.com/edge-provision/edge-provision/workflows/journal"
)

func (a *app) runsCommand() *cobra.Command {
	c := &cobra.Command{Use: "runs", Short: "Look at runs, follow, resume or cancel them, and free what a dead one holds"}
	c.AddCommand(a.runsListCommand(), a.runsShowCommand(), a.runsAttachCommand(), a.runsResumeCommand(), a.runsCancelCommand(), a.runsUnlockCommand())
	return c
}

// runsToList is how many runs are listed.
const runsToList = 100

func (a *app) runsListCommand() *cobra.Command {
	var site string
	var remote remoteFlags
	c := &cobra.Command{
		Use: "list", Short: "List runs, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if remote.given() {
				return a.listRemoteRuns(cmd.Context(), remote, site)
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				list, err := journal.New(s, time.Now).List(ctx, site, runsToList)
				if err != nil {
					return err
				}
				runs, steps := make([]resource.Run, len(list)), make([][]resource.Step, len(list))
				for i, r := range list {
					runs[i], steps[i] = runResource(r), stepResources(r)
				}
				return a.printRuns(runs, steps)
			})
		},
	}
	c.Flags().StringVar(&site, "site", "", "only this site's runs")
	remote.register(c)
	return c
}

// printRuns lists runs, each with its steps.
func (a *app) printRuns(runs []resource.Run, steps [][]resource.Step) error {
	rows := [][]string{{"RUN", "SITE", "COMMAND", "STARTED", "STATE", "STEPS"}}
	for i, r := range runs {
		addresses := map[string]bool{}
		for _, st := range steps[i] {
			addresses[st.Address] = true
		}
		rows = append(rows, []string{
			r.ID.String(), r.Site, r.Command, r.StartedAt.Local().Format(time.DateTime), r.State, fmt.Sprint(len(addresses)),
		})
	}
	return writeTable(a.stdout, rows)
}

// recordOf is what a run was begun with; zero for a run of an older program.
func recordOf(r journal.Run) runRecord {
	var record runRecord
	if len(r.Actions) == 0 || json.Unmarshal(r.Actions, &record) != nil {
		return runRecord{}
	}
	return record
}

func (a *app) runsShowCommand() *cobra.Command {
	var remote remoteFlags
	c := &cobra.Command{
		Use: "show RUN|SITE", Short: "Show a run's journal", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if remote.given() {
				return a.showRemoteRun(cmd.Context(), remote, args[0])
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				r, err := findRun(ctx, journal.New(s, time.Now), args[0])
				if err != nil {
					return err
				}
				return a.printRun(runResource(r), stepResources(r))
			})
		},
	}
	remote.register(c)
	return c
}

// printRun writes a run's journal.
func (a *app) printRun(r resource.Run, steps []resource.Step) error {
	fmt.Fprintf(a.stdout, "Run %s of site %s: %s, started %s\n", r.ID, r.Site, r.State, r.StartedAt.Local().Format(time.DateTime))
	if r.Error != "" {
		fmt.Fprintf(a.stdout, "  %s\n", printable(r.Error))
	}
	for _, st := range steps {
		attempt := fmt.Sprintf("attempt %d", st.Attempt)
		if st.Attempt == 0 {
			attempt = "taking back"
		}
		fmt.Fprintf(a.stdout, "  %s  %s  %s\n", st.Address, attempt, st.State)
		for line := range strings.Lines(st.Error) {
			fmt.Fprintf(a.stdout, "      %s\n", printable(strings.TrimRight(line, "\n")))
		}
	}
	return nil
}

func (a *app) runsAttachCommand() *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "attach RUN|SITE",
		Short: "Follow a run that serve carries out, from its beginning",
		Long: `Shows what a run has shown so far and goes on showing it, as the terminal did that began
it. Ctrl-C asks whether to detach or to cancel the run. What the run asks is asked here when
the terminal that began it is gone. SITE is a site's name and means its newest run.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.attach(cmd.Context(), args[0], asJSON) },
	}
	c.Flags().BoolVar(&asJSON, "json", false, "report progress as one JSON object a line (format_version 1)")
	return c
}

// attach follows a run that the daemon carries out.
func (a *app) attach(ctx context.Context, name string, asJSON bool) error {
	var (
		run  journal.Run
		conn *control.Conn
	)
	err := a.withCatalog(ctx, func(ctx context.Context, s *store.Store) (err error) {
		if run, err = findRun(ctx, journal.New(s, time.Now), name); err != nil {
			return err
		}
		if !run.Finished.IsZero() {
			return fmt.Errorf("run %s ended as %s; see what it did with: edge-provision runs show %s", run.ID, run.State, run.ID)
		}
		conn, err = a.reach(ctx, s, run.Site)
		return err
	})
	if err != nil {
		return err
	}
	if conn == nil {
		return fmt.Errorf("run %s is not carried out by serve on this host; see how far it is with: edge-provision runs show %s", run.ID, run.ID)
	}
	a.graceful.Store(true)
	screen := a.display(asJSON)
	defer screen.Close()
	return (&servedError{conn}).through(ctx, a, screen, request{Command: "attach", Run: run.ID, JSON: asJSON})
}

func (a *app) runsResumeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "resume RUN|SITE",
		Short: "Continue a run that was cut off, stopped or failed",
		Long: `Runs the command of that run again, with its flags; variables are given again. What
was approved then is not asked about again, as long as the plan that comes out now
does nothing else and erases nothing more. SITE is a site's name and means its newest
run.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.resume(cmd.Context(), args[0]) },
	}
	a.supply.register(c)
	return c
}

func (a *app) resume(ctx context.Context, name string) error {
	var run journal.Run
	err := a.withCatalog(ctx, func(ctx context.Context, s *store.Store) (err error) {
		run, err = findRun(ctx, journal.New(s, time.Now), name)
		return err
	})
	if err != nil {
		return err
	}
	record := recordOf(run)
	switch {
	case run.State == outcomeOK:
		return fmt.Errorf("run %s ended well; there is nothing to resume", run.ID)
	case record.Path == "":
		return fmt.Errorf("run %s was begun by a program that did not keep its command; run `edge-provision apply` on the site's file", run.ID)
	}
	a.use(record.Sources)
	fmt.Fprintf(a.stderr, "Continuing run %s: edge-provision %s %s\n", run.ID, record.Command, record.Path)
	if record.Command == "destroy" {
		return a.destroy(ctx, record.Path, destroyFlags{
			target: record.Target, data: record.DestroyData, forget: record.Forget, powerOff: record.PowerOff, parallelism: record.Parallelism,
		}, &record.Plan)
	}
	return a.apply(ctx, record.Path, applyFlags{
		planFlags:   planFlags{target: record.Target, replace: record.Replace},
		parallelism: record.Parallelism, agent: record.Agent, ports: ports{http: record.HTTPPort, agent: record.AgentPort},
	}, &record.Plan)
}

// findRun finds a run by its id, or the newest run of a site by its name.
func findRun(ctx context.Context, j *journal.Journal, name string) (journal.Run, error) {
	id, err := uuid.Parse(name)
	if err != nil {
		newest, err := j.List(ctx, name, 1)
		if err != nil {
			return journal.Run{}, err
		}
		if len(newest) == 0 || name == "" {
			return journal.Run{}, noRun(name)
		}
		id = newest[0].ID
	}
	return j.Show(ctx, id)
}

func noRun(name string) error {
	return fmt.Errorf("%q is neither the id of a run nor a site that had one", name)
}

func (a *app) runsCancelCommand() *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use:   "cancel RUN|SITE",
		Short: "Stop a run gracefully: it starts nothing new and lets finish what runs",
		Long: `Asks the process that carries the run out, on this host or another one, to stop. What
is left over is done by ` + "`edge-provision runs resume`" + ` or a new apply. A run whose process
is proven dead is closed at once. SITE is a site's name and means its newest run.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				return a.cancel(ctx, s, args[0], wait)
			})
		},
	}
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for the run to end; default: not at all")
	return c
}

func (a *app) cancel(ctx context.Context, s *store.Store, name string, wait time.Duration) error {
	j := journal.New(s, time.Now)
	run, err := findRun(ctx, j, name)
	if err != nil {
		return err
	}
	var alive bool
	err = audited(ctx, s, "cancelRun", run.ID.String(), http.StatusAccepted, func() error {
		err := j.Cancel(ctx, run.ID)
		if err == nil {
			alive, err = held(ctx, s, run.Site)
		}
		if err == nil && !alive {
			err = j.Close(ctx, run.ID, outcomeInterrupted, "cancelled after its process had ended")
		}
		return err
	})
	if err != nil {
		return err
	}
	if !alive {
		fmt.Fprintf(a.stdout, "Run %s had no process any more; it is closed.\n", run.ID)
		return nil
	}
	fmt.Fprintf(a.stdout, "Run %s was asked to stop: it starts nothing new and lets finish what runs.\n", run.ID)
	if wait == 0 {
		return nil
	}
	return awaitEnd(ctx, s, j, run, wait)
}

// held reports whether a process that is not proven dead works on a site.
func held(ctx context.Context, s *store.Store, site string) (bool, error) {
	locks, err := s.Locks(ctx, site)
	if err != nil {
		return false, err
	}
	for _, l := range locks {
		if l.Address == siteLock && !l.Dead(time.Now()) {
			return true, nil
		}
	}
	return false, nil
}

// awaitEnd waits until a run has ended, or its process has.
func awaitEnd(ctx context.Context, s *store.Store, j *journal.Journal, run journal.Run, wait time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, wait, fmt.Errorf("run %s did not end in %s; it has been asked to", run.ID, wait))
	defer cancel()
	ticker := time.NewTicker(cancelInterval / 2)
	defer ticker.Stop()
	for {
		alive, heldErr := held(ctx, s, run.Site) // before the run is read: a process ends after its run
		now, err := j.Show(ctx, run.ID)
		switch {
		case err == nil && !now.Finished.IsZero():
			return nil
		case err == nil && heldErr == nil && !alive:
			return fmt.Errorf("run %s: its process ended before the run did; `edge-provision runs resume` continues it", run.ID)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

func (a *app) runsUnlockCommand() *cobra.Command {
	return &cobra.Command{
		Use: "unlock SITE", Short: "Free a site that a process on another host holds, when that process is gone for good", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				err := audited(ctx, s, "unlockSite", args[0], http.StatusNoContent, func() error { return s.BreakLock(ctx, args[0], siteLock) })
				if errors.Is(err, fs.ErrNotExist) {
					return fmt.Errorf("nobody holds site %q", args[0])
				}
				return err
			})
		},
	}
}
