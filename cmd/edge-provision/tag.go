package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (a *app) inventoryTag(f *inventoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "tag MACHINE [KEY=VALUE | KEY-]...", Short: "Write tags on a machine, such as an asset number or a place; KEY- removes one",
		Long: `Tags are what people know of a machine and no program can see. They can be asked for:

  edge-provision inventory query 'machine.tags.location == "back room"'

Without tags to write, those of the machine are listed.`,
		Example: "  edge-provision inventory tag 52:54:00:04:21:11 location='back room' asset=0042",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, remove, err := parseTags(args[1:])
			if err != nil {
				return err
			}
			if f.remote.given() {
				return a.tagRemote(cmd.Context(), f, args[0], set, remove)
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				m, err := findMachine(ctx, s, f.site, args[0])
				if err != nil {
					return err
				}
				if len(args) > 1 {
					err := audited(ctx, s, "changeTags", m.ID.String(), http.StatusOK, func() (err error) {
						m, err = s.SetTags(ctx, m.ID, set, remove, nil)
						return err
					})
					if err != nil {
						return err
					}
				}
				return a.printTags(m, f.format)
			})
		},
	}
}

func (a *app) printTags(m inventory.Machine, format string) error {
	if format == "json" {
		return writeJSON(a.stdout, m)
	}
	for _, key := range slices.Sorted(maps.Keys(m.Tags)) {
		fmt.Fprintf(a.stdout, "%s=%s\n", key, printable(m.Tags[key]))
	}
	return nil
}

// parseTags reads KEY=VALUE and KEY-.
func parseTags(args []string) (set map[string]string, remove []string, err error) {
	set = map[string]string{}
	for _, arg := range args {
		key, value, ok := strings.Cut(arg, "=")
		if ok {
			if _, twice := set[key]; twice {
				return nil, nil, usage("tag %s is given twice", key)
			}
			set[key] = value
			continue
		}
		if key, ok = strings.CutSuffix(arg, "-"); !ok {
			return nil, nil, usage("%q is no tag: write KEY=VALUE to set one, KEY- to remove it", arg)
		}
		remove = append(remove, key)
	}
	for _, key := range remove {
		if _, both := set[key]; both {
			return nil, nil, usage("tag %s is set and removed", key)
		}
	}
	return set, remove, nil
}
