package main

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/client"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (a *app) inventoryReactions(f *inventoryFlags) *cobra.Command {
	var class, state string
	c := &cobra.Command{
		Use: "reactions [MACHINE]", Short: "List what classes started or will start for machines, the newest first",
		Long: `A class with a react block starts work, once for each machine and definition of the class.
The reason says what a reaction waits for, or how it ended.`,
		Example: "  edge-provision inventory reactions --state queued",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted := inventory.ReactionState(state)
			if state != "" && !slices.Contains(inventory.ReactionStates(), wanted) {
				return usage("--state %q: a reaction is %s", state, reactionStates())
			}
			if f.remote.given() {
				return a.reactionsRemote(cmd.Context(), f, args, client.ReactionQuery{Site: f.site, Class: class, State: wanted})
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				q := store.ReactionFilter{Site: f.site, Class: class, State: wanted}
				if len(args) > 0 {
					m, err := findMachine(ctx, s, f.site, args[0])
					if err != nil {
						return err
					}
					q.Machine = m.ID
				}
				list, err := s.Reactions(ctx, q)
				if err != nil {
					return err
				}
				slices.Reverse(list)
				return a.printReactions(list, f.format)
			})
		},
	}
	c.Flags().StringVar(&class, "class", "", "only this class's")
	c.Flags().StringVar(&state, "state", "", "only those that are "+reactionStates())
	return c
}

// reactionStates are the states for a person.
func reactionStates() string {
	var out []string
	for _, s := range inventory.ReactionStates() {
		out = append(out, string(s))
	}
	return strings.Join(out[:len(out)-1], ", ") + " or " + out[len(out)-1]
}

func (a *app) reactionsRemote(ctx context.Context, f *inventoryFlags, args []string, q client.ReactionQuery) error {
	c, err := f.remote.client()
	if err != nil {
		return err
	}
	if len(args) > 0 {
		_, m, _, err := f.remoteMachine(ctx, args[0])
		if err != nil {
			return err
		}
		q.Machine = m.ID.String()
	}
	list, err := client.Collect(c.Reactions(ctx, q))
	if err != nil {
		return err
	}
	return a.printReactions(list, f.format)
}

func (a *app) printReactions(list []inventory.Reaction, format string) error {
	switch format {
	case "json":
		if list == nil {
			list = []inventory.Reaction{}
		}
		return writeJSON(a.stdout, list)
	case "table", "wide":
	default:
		return usage("-o %q: reactions are printed as table, wide or json", format)
	}
	header := []string{"REACTION", "MACHINE", "CLASS", "STATE", "SINCE"}
	if format == "wide" {
		header = append(header, "SITE", "ID", "ATTEMPTS", "QUEUED")
	}
	rows := [][]string{append(header, "REASON")}
	for _, r := range list {
		machine, since := r.Address, r.QueuedAt
		if machine == "" {
			machine = r.Machine.String()[:8]
		}
		if !r.StartedAt.IsZero() {
			since = r.StartedAt
		}
		if !r.FinishedAt.IsZero() {
			since = r.FinishedAt
		}
		row := []string{strconv.FormatInt(r.ID, 10), machine, r.Class, string(r.State), ago(since)}
		if format == "wide" {
			row = append(row, r.Site, r.Machine.String(), fmt.Sprint(r.Attempts), ago(r.QueuedAt))
		}
		rows = append(rows, append(row, or(r.Reason)))
	}
	return writeTable(a.stdout, rows)
}
