package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (a *app) inventoryDiff(f *inventoryFlags) *cobra.Command {
	var source string
	c := &cobra.Command{
		Use: "diff MACHINE [MACHINE]", Short: "Compare the facts of two machines, or the last two reports of one",
		Long: `Of one machine, the last two reports of a source are compared: of --source, or else of the
first that has two, in the order in which sources are believed (the agent before BMCs).
Which ones is said first.

Of two machines, the merged facts are compared, or with --source what that source saw last.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.remote.given() {
				return a.diff(args, inventory.Source(source), f.format, func(name string) (reported, error) {
					return remoteReported(cmd.Context(), f, name)
				})
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				return a.diff(args, inventory.Source(source), f.format, func(name string) (reported, error) {
					return catalogReported(ctx, s, f.site, name)
				})
			})
		},
	}
	c.Flags().StringVar(&source, "source", "", "whose reports: agent, redfish, ipmi, lldp, cluster or manual")
	return c
}

// reported is what sources said of a machine.
type reported struct {
	machine inventory.Machine
	last    map[inventory.Source]inventory.Document
	// newest gives the last reports of a source, at most two, the newest first.
	newest func(inventory.Source) ([]inventory.Document, error)
}

func catalogReported(ctx context.Context, s *store.Store, site, name string) (reported, error) {
	m, err := findMachine(ctx, s, site, name)
	if err != nil {
		return reported{}, err
	}
	last, err := s.Facts(ctx, m.ID)
	return reported{m, last, func(source inventory.Source) (out []inventory.Document, err error) {
		reports, err := s.Reports(ctx, m.ID, source, 0, 2)
		for _, r := range reports {
			out = append(out, r.Document)
		}
		return out, err
	}}, err
}

func remoteReported(ctx context.Context, f *inventoryFlags, name string) (reported, error) {
	c, m, _, err := f.remoteMachine(ctx, name)
	if err != nil {
		return reported{}, err
	}
	facts, err := c.Facts(ctx, m.ID.String())
	return reported{m.Machine, facts.Sources, func(source inventory.Source) (out []inventory.Document, err error) {
		for r, err := range c.History(ctx, m.ID.String(), source) {
			if err != nil {
				return nil, err
			}
			if out = append(out, r.Document); len(out) == 2 {
				break
			}
		}
		return out, nil
	}}, err
}

// diff compares what one of names reports with what it reported before, or with what
// the other does.
func (a *app) diff(names []string, source inventory.Source, format string, find func(name string) (reported, error)) error {
	m, err := find(names[0])
	if err != nil {
		return err
	}
	if len(names) == 1 {
		old, now, err := m.lastTwo(source)
		if err != nil {
			return err
		}
		if format != "json" {
			fmt.Fprintf(a.stdout, "%s, %s → %s\n", now.Source, old.ObservedAt.Format(time.RFC3339), now.ObservedAt.Format(time.RFC3339))
		}
		return a.printDiff(old.Facts, now.Facts, format)
	}
	other, err := find(names[1])
	if err != nil {
		return err
	}
	old, err := m.facts(source)
	if err != nil {
		return err
	}
	now, err := other.facts(source)
	if err != nil {
		return err
	}
	return a.printDiff(old, now, format)
}

// facts are those of a source, or merged of all when none is named.
func (r reported) facts(source inventory.Source) (inventory.Facts, error) {
	if source != "" {
		d, ok := r.last[source]
		if !ok {
			return d.Facts, fmt.Errorf("%s has no report of source %s: %s", nameOf(r.machine), printable(string(source)), r.sources())
		}
		return d.Facts, nil
	}
	all := map[inventory.Source]inventory.Facts{}
	for name, d := range r.last {
		all[name] = d.Facts
	}
	return inventory.Merge(all), nil
}

// lastTwo are the last two reports of a source: of the one that is named, or of the
// first that has two in the order in which they are believed.
func (r reported) lastTwo(source inventory.Source) (old, now inventory.Document, err error) {
	from, of := believed(r.last), "any source"
	if source != "" {
		from, of = []inventory.Source{source}, "source "+printable(string(source))
	}
	for _, name := range from {
		newest, err := r.newest(name)
		if err != nil {
			return old, now, err
		}
		if len(newest) == 2 {
			return newest[1], newest[0], nil
		}
	}
	return old, now, fmt.Errorf("%s has not two reports of %s, which a comparison needs: %s", nameOf(r.machine), of, r.sources())
}

// sources says for a person which sources reported something.
func (r reported) sources() string {
	if len(r.last) == 0 {
		return "it was never inspected"
	}
	var names []string
	for _, name := range believed(r.last) {
		names = append(names, printable(string(name)))
	}
	return "it was reported on by " + strings.Join(names, ", ")
}

// believed are the sources of reports in the order in which they are believed of most
// facts, others after them by name.
func believed(last map[inventory.Source]inventory.Document) []inventory.Source {
	var order []inventory.Source
	for _, p := range inventory.Precedences() {
		if p.Path == "" {
			order = p.Sources
		}
	}
	rank := func(s inventory.Source) int {
		if i := slices.Index(order, s); i >= 0 {
			return i
		}
		return len(order)
	}
	names := slices.Sorted(maps.Keys(last))
	slices.SortStableFunc(names, func(a, b inventory.Source) int { return rank(a) - rank(b) })
	return names
}

func (a *app) printDiff(old, now inventory.Facts, format string) error {
	changes := inventory.Diff(old, now)
	if format == "json" {
		return writeJSON(a.stdout, changes)
	}
	if len(changes) == 0 {
		fmt.Fprintln(a.stdout, "No difference.")
	}
	printChanges(a.stdout, changes)
	return nil
}

func printChanges(out io.Writer, changes []inventory.Change) {
	for _, c := range changes {
		fmt.Fprintf(out, "    %s: %s → %s\n", printable(c.Path), orAbsent(c.Old), orAbsent(c.New))
	}
}

// orAbsent is a value of a fact in JSON, if there is one.
func orAbsent(value string) string {
	if value == "" {
		return "(absent)"
	}
	return printable(value)
}
