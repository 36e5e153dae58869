package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/manual"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (a *app) inventorySet(f *inventoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "set MACHINE [PATH=VALUE | PATH-]...", Short: "Write facts that no program observed, such as a serial number; PATH- takes one away",
		Long: `Facts that people write are a source of their own, "manual", with a history like any other. What
stands on the machine is believed before them, but for the chassis and its asset tag, and
placeholders such as "To Be Filled By O.E.M.".

Numbers are in the unit that the fact has (memory.bytes in bytes), lists are JSON. Without
facts to write, those of the machine are listed. An asset number that queries are to find is a tag: see
edge-provision inventory tag.`,
		Example: "  edge-provision inventory set 52:54:00:04:21:11 system.serial=7XK2Q93 bios.version=1.2",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, remove, err := parseFacts(args[1:])
			if err != nil {
				return err
			}
			if f.remote.given() {
				return a.setRemote(cmd.Context(), f, args[0], set, remove)
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				m, err := findMachine(ctx, s, f.site, args[0])
				if err != nil {
					return err
				}
				var written inventory.Facts
				err = audited(ctx, s, "changeFacts", m.ID.String(), http.StatusOK, func() (err error) {
					written, _, err = s.EditFacts(ctx, m.ID, func(f *inventory.Facts) error { return manual.Apply(f, set, remove) }, nil)
					return err
				})
				if err != nil {
					return err
				}
				return a.printWritten(written, f.format)
			})
		},
	}
}

// printWritten lists what people wrote.
func (a *app) printWritten(written inventory.Facts, format string) error {
	if format == "json" {
		return writeJSON(a.stdout, written)
	}
	for _, fact := range manual.List(written) {
		fmt.Fprintf(a.stdout, "%s=%s\n", fact.Path, printable(fact.Value))
	}
	return nil
}

// parseFacts reads PATH=VALUE and PATH-.
func parseFacts(args []string) (set map[string]string, remove []string, err error) {
	set = map[string]string{}
	seen := map[string]bool{}
	for _, arg := range args {
		path, value, sets := strings.Cut(arg, "=")
		removes := false
		if !sets {
			path, removes = strings.CutSuffix(arg, "-")
		}
		switch {
		case !sets && !removes:
			return nil, nil, usage("%q is no fact: write PATH=VALUE to set one, PATH- to take it away", arg)
		case seen[path]:
			return nil, nil, usage("fact %s is given twice", path)
		case sets:
			set[path] = value
		default:
			remove = append(remove, path)
		}
		seen[path] = true
	}
	return set, remove, nil
}
