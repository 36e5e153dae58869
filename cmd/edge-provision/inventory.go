package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
)

// inventoryFlags are shared by the commands that print machines.
type inventoryFlags struct {
	site   string
	format string
	sort   string
	remote remoteFlags
}

func (a *app) inventoryCommand() *cobra.Command {
	var f inventoryFlags
	c := &cobra.Command{Use: "inventory", Short: "Ask the catalog about machines"}
	c.PersistentFlags().StringVar(&f.site, "site", "", "only this site's machines")
	c.PersistentFlags().StringVarP(&f.format, "output", "o", "table", "table, wide, json, csv or netbox")
	c.PersistentFlags().StringVar(&f.sort, "sort", "", "order: "+strings.Join(store.SortFields(), ", ")+"; with a minus before it the greatest first")
	f.remote.register(c)
	c.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List machines", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				if f.remote.given() {
					return a.listRemote(cmd.Context(), f, "")
				}
				return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
					machines, err := selectMachines(ctx, s, f.site, "", f.sort)
					if err != nil {
						return err
					}
					return a.printMachines(ctx, s, machines, f.format)
				})
			},
		},
		&cobra.Command{
			Use: "query EXPR", Short: "List the machines for which an expression over their facts is true",
			Long: `EXPR is the expression language of site.hcl, for example:

  edge-provision inventory query 'facts.memory.bytes >= GiB(8) && any([for d in facts.disks : d.bytes >= TiB(1)])'

A fact that was not observed makes a comparison neither true nor false; use
missing(...) to ask for that.`,
			Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				if f.remote.given() {
					return a.listRemote(cmd.Context(), f, args[0])
				}
				return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
					machines, examined, err := examineMachines(ctx, s, f.site, args[0], f.sort)
					if err != nil {
						return err
					}
					if err := a.printMachines(ctx, s, machines, f.format); err != nil {
						return err
					}
					a.tellCost(f.format, len(machines), int64(examined))
					return nil
				})
			},
		},
		a.inventoryShow(&f), a.inventoryHistory(&f), a.inventoryDiff(&f), a.inventoryForget(&f), a.inventoryAccept(&f),
		a.inventoryTag(&f), a.inventorySet(&f), a.inventoryReactions(&f), a.inventoryImport(&f), a.inventoryExport(&f),
	)
	return c
}

// withCatalog opens the catalog for one command.
func (a *app) withCatalog(ctx context.Context, do func(ctx context.Context, s *store.Store) error) error {
	s, err := a.openCatalog(ctx)
	if err != nil {
		return err
	}
	return errors.Join(do(ctx, s), s.Close())
}

// tellCost says what a query looked at, where people read its answer.
func (a *app) tellCost(format string, found int, examined int64) {
	if format == "table" || format == "wide" {
		fmt.Fprintf(a.stderr, "%s of %d that were looked at.\n", count(found, "machine"), examined)
	}
}

// selectMachines runs an expression in the catalog's database. An empty one
// selects all machines.
func selectMachines(ctx context.Context, s *store.Store, site, expr, sort string) ([]inventory.Machine, error) {
	machines, _, err := examineMachines(ctx, s, site, expr, sort)
	return machines, err
}

// examineMachines is selectMachines, which also counts for how many machines the
// expression was computed.
func examineMachines(ctx context.Context, s *store.Store, site, expr, sort string) (out []inventory.Machine, examined int, err error) {
	err = eachPage(ctx, s, site, expr, sort, func(page store.Page) error {
		out, examined = append(out, page.Machines...), examined+page.Examined
		return nil
	})
	return out, examined, err
}

// eachPage gives the machines that an expression selects to each, page by page, so
// that a large catalog need not be held at once.
func eachPage(ctx context.Context, s *store.Store, site, expr, sort string, each func(store.Page) error) error {
	filter, err := filterOf(s, expr)
	if err != nil {
		return err
	}
	request := store.PageRequest{Site: site, Sort: sort, Limit: store.MaxPageLimit, Filter: filter}
	for {
		page, err := s.Page(ctx, request)
		if err == nil {
			err = each(page)
		}
		if request.Cursor = page.Next; err != nil || request.Cursor == "" {
			return err
		}
	}
}

// filterOf is an expression for the catalog's database; the zero filter selects all
// machines.
func filterOf(s *store.Store, expr string) (inventory.Filter, error) {
	if expr == "" {
		return inventory.Filter{}, nil
	}
	compiled, diags := query.Parse(expr, query.Machine)
	if diags.HasErrors() {
		return inventory.Filter{}, unusable(expr, diags)
	}
	filter, err := compiled.Filter(query.DialectOf(s.Dialect()), expr, time.Now())
	if diags, ok := errors.AsType[hcl.Diagnostics](err); ok {
		return inventory.Filter{}, unusable(expr, diags)
	}
	return filter, err
}

func unusable(expr string, diags hcl.Diagnostics) error {
	return errors.New("the expression cannot be used:\n" + query.Format(expr, diags))
}

func (a *app) inventoryShow(f *inventoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "show MACHINE", Short: "Show one machine and its facts as JSON",
		Long: "MACHINE is an address in site.hcl, an id or its beginning, a MAC, a serial or a name.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.remote.given() {
				return a.showRemote(cmd.Context(), f, args[0])
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				m, err := findMachine(ctx, s, f.site, args[0])
				if err != nil {
					return err
				}
				documents, err := s.Facts(ctx, m.ID)
				if err != nil {
					return err
				}
				bySource := map[inventory.Source]inventory.Facts{}
				for source, d := range documents {
					bySource[source] = d.Facts
				}
				hardware, err := a.driftOf(ctx, s, m.ID)
				if err != nil {
					return err
				}
				return a.showMachine(m, inventory.Merge(bySource), documents, hardware)
			})
		},
	}
}

// showMachine writes all that is known of a machine as JSON.
func (a *app) showMachine(m inventory.Machine, merged inventory.Facts, documents map[inventory.Source]inventory.Document, hardware *resource.Drift) error {
	return writeJSON(a.stdout, struct {
		Machine inventory.Machine                       `json:"machine"`
		Drift   *resource.Drift                         `json:"drift,omitempty"`
		Facts   inventory.Facts                         `json:"facts"`
		Source  map[inventory.Source]inventory.Document `json:"source"`
	}{m, hardware, merged, documents})
}

// findMachine finds a machine by any of its names; nothing found says what
// there is.
func findMachine(ctx context.Context, s *store.Store, site, name string) (inventory.Machine, error) {
	m, err := s.Find(ctx, site, name)
	if errors.Is(err, fs.ErrNotExist) {
		return m, fmt.Errorf("the catalog knows no machine %q; `edge-provision inventory list` shows those it knows", name)
	}
	return m, err
}

func (a *app) inventoryForget(f *inventoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "forget MACHINE", Short: "Forget what is known of a machine's identity and hardware; the machine is not touched",
		Long: `For a machine whose hardware was changed, or that is gone. Its MACs, facts and history leave
the catalog; what was installed at its address in site.hcl stays recorded.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.remote.given() {
				return a.forgetRemote(cmd.Context(), f, args[0])
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				m, err := findMachine(ctx, s, f.site, args[0])
				if err != nil {
					return err
				}
				if err := audited(ctx, s, "forgetMachine", m.ID.String(), http.StatusNoContent, func() error { return s.Forget(ctx, m.ID) }); err != nil {
					return err
				}
				return a.forgot(m)
			})
		},
	}
}

func (a *app) forgot(m inventory.Machine) error {
	fmt.Fprintf(a.stdout, "Forgot %s (%s).\n", nameOf(m), m.ID)
	return nil
}

func (a *app) inventoryHistory(f *inventoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "history MACHINE", Short: "List the facts documents of a machine, oldest first, with what changed",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.remote.given() {
				return a.historyRemote(cmd.Context(), f, args[0])
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				m, err := findMachine(ctx, s, f.site, args[0])
				if err != nil {
					return err
				}
				documents, err := s.FactsHistory(ctx, m.ID, "")
				if err != nil {
					return err
				}
				return a.printHistory(documents, f.format)
			})
		},
	}
}

// printHistory writes reports, oldest first, with what changed between those of
// one source.
func (a *app) printHistory(documents []inventory.Document, format string) error {
	if format == "json" {
		return writeJSON(a.stdout, documents)
	}
	last := map[inventory.Source]inventory.Facts{}
	for _, d := range documents {
		fmt.Fprintf(a.stdout, "%s  %-8s %s  seen until %s\n", d.ObservedAt.Format(time.RFC3339), d.Source, d.Digest[:min(19, len(d.Digest))], d.LastSeen.Format(time.RFC3339))
		if before, ok := last[d.Source]; ok {
			printChanges(a.stdout, inventory.Diff(before, d.Facts))
		}
		last[d.Source] = d.Facts
	}
	return nil
}
