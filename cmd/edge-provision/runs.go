package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows/journal"
)

func (a *app) runsCommand() *cobra.Command {
	var site string
	c := &cobra.Command{Use: "runs", Short: "Look at runs, and free what a dead one holds"}
	list := &cobra.Command{
		Use: "list", Short: "List runs, newest first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				runs, err := journal.New(s, time.Now).List(ctx, site, 100)
				if err != nil {
					return err
				}
				rows := [][]string{{"RUN", "SITE", "STARTED", "STATE", "STEPS"}}
				for _, r := range runs {
					rows = append(rows, []string{r.ID.String(), r.Site, r.Started.Local().Format(time.DateTime), string(r.State), fmt.Sprint(len(r.Steps))})
				}
				return writeTable(a.stdout, rows)
			})
		},
	}
	list.Flags().StringVar(&site, "site", "", "only this site's runs")
	c.AddCommand(list,
		&cobra.Command{
			Use: "show RUN", Short: "Show a run's journal", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				id, err := uuid.Parse(args[0])
				if err != nil {
					return usage("%q is not the id of a run: %v", args[0], err)
				}
				return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
					r, err := journal.New(s, time.Now).Show(ctx, id)
					if err != nil {
						return err
					}
					fmt.Fprintf(a.stdout, "Run %s of site %s: %s, started %s\n", r.ID, r.Site, r.State, r.Started.Local().Format(time.DateTime))
					for _, st := range r.Steps {
						fmt.Fprintf(a.stdout, "  %s  attempt %d  %-8s %s\n", st.Address, st.Attempt, st.State, printable(st.Error))
					}
					return nil
				})
			},
		},
		&cobra.Command{
			Use: "unlock SITE", Short: "Free a site that a process on another host holds, when that process is gone for good", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
					err := s.BreakLock(ctx, args[0], siteLock)
					if errors.Is(err, fs.ErrNotExist) {
						return fmt.Errorf("nobody holds site %q", args[0])
					}
					return err
				})
			},
		},
	)
	return c
}
