package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/query"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/steps"
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
	c.PersistentFlags().StringVarP(&f.format, "output", "o", "table", "table, wide, json or csv")
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

// queryLimit bounds the answer of a query; a site has far fewer machines.
const queryLimit = 100_000

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
	request := store.PageRequest{Site: site, Sort: sort, Limit: store.MaxPageLimit}
	if expr != "" {
		compiled, diags := query.Parse(expr, query.Machine)
		if diags.HasErrors() {
			return nil, 0, errors.New("the expression cannot be used:\n" + query.Format(expr, diags))
		}
		request.Filter, err = compiled.Filter(query.DialectOf(s.Dialect()), expr, time.Now())
		if diags, ok := errors.AsType[hcl.Diagnostics](err); ok {
			return nil, 0, errors.New("the expression cannot be used:\n" + query.Format(expr, diags))
		}
		if err != nil {
			return nil, 0, err
		}
	}
	for len(out) < queryLimit {
		page, err := s.Page(ctx, request)
		if err != nil {
			return nil, 0, err
		}
		out = append(out, page.Machines...)
		examined += page.Examined
		if page.Next == "" {
			break
		}
		request.Cursor = page.Next
	}
	return out, examined, nil
}

// printMachines writes machines of the catalog in the chosen form.
func (a *app) printMachines(ctx context.Context, s *store.Store, machines []inventory.Machine, format string) error {
	return a.print(machines, format, func(i int) (inventory.Facts, error) { return factsOf(ctx, s, machines[i]) })
}

// print writes machines in the chosen form; facts gives those of one of them.
func (a *app) print(machines []inventory.Machine, format string, facts func(int) (inventory.Facts, error)) error {
	switch format {
	case "json":
		if machines == nil {
			machines = []inventory.Machine{}
		}
		return writeJSON(a.stdout, machines)
	case "table", "wide", "csv":
	default:
		return usage("-o %q: machines are printed as table, wide, json or csv", format)
	}
	header := []string{"MACHINE", "STATE", "MAC", "SERIAL", "CPUS", "MEMORY", "DISKS", "LAST SEEN"}
	if format != "table" {
		header = append(header, "SITE", "ID", "MODEL", "BIOS", "IMAGE", "CLASSES")
	}
	rows := [][]string{header}
	for i, m := range machines {
		f, err := facts(i)
		if err != nil {
			return err
		}
		row := []string{nameOf(m), string(m.State), macs(m), or(m.Serial), cpus(f), memory(f), disks(f), ago(m.LastSeen)}
		if format != "table" {
			row = append(row, m.Site, m.ID.String(), model(f), bios(f), or(m.Image), or(strings.Join(m.Classes, " ")))
		}
		rows = append(rows, row)
	}
	if format == "csv" {
		w := csv.NewWriter(a.stdout)
		return w.WriteAll(rows)
	}
	return writeTable(a.stdout, rows)
}

// factsOf is the merged view of a machine's facts, empty while there are none.
func factsOf(ctx context.Context, s *store.Store, m inventory.Machine) (inventory.Facts, error) {
	facts, err := steps.KnownFacts(ctx, s, m.ID)
	if err != nil || facts == nil {
		return inventory.Facts{}, err
	}
	return *facts, nil
}

// writeTable aligns columns with two blanks between them.
func writeTable(out io.Writer, rows [][]string) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		for i := range row {
			row[i] = printable(row[i])
		}
		fmt.Fprintln(w, strings.Join(row, "\t"))
	}
	return w.Flush()
}

// printable keeps a stranger's bytes (a serial, a model) from driving the
// terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s)
}

func nameOf(m inventory.Machine) string {
	if m.Address != "" {
		return m.Address
	}
	return "(undeclared) " + m.ID.String()[:8]
}

func or(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func macs(m inventory.Machine) string {
	if len(m.MACs) == 0 {
		return "-"
	}
	if len(m.MACs) == 1 {
		return m.MACs[0].String()
	}
	return fmt.Sprintf("%s +%d", m.MACs[0], len(m.MACs)-1)
}

func cpus(f inventory.Facts) string {
	if f.CPU == nil || f.CPU.Threads == 0 {
		return "-"
	}
	return strconv.Itoa(f.CPU.Threads)
}

func memory(f inventory.Facts) string {
	if f.Memory == nil || f.Memory.Bytes == 0 {
		return "-"
	}
	return workflows.FormatBytes(f.Memory.Bytes)
}

func disks(f inventory.Facts) string {
	if f.Disks == nil {
		return "-"
	}
	if len(f.Disks) == 0 {
		return "none"
	}
	var out []string
	for _, d := range f.Disks {
		out = append(out, d.Name+" "+workflows.FormatBytes(d.Bytes))
	}
	return strings.Join(out, ", ")
}

func model(f inventory.Facts) string {
	if f.System == nil {
		return "-"
	}
	return or(strings.TrimSpace(f.System.Manufacturer + " " + f.System.Product))
}

func bios(f inventory.Facts) string {
	if f.BIOS == nil {
		return "-"
	}
	return or(f.BIOS.Version)
}

func ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	d := time.Since(t)
	switch {
	case d < time.Minute:
		return "now"
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return t.Local().Format("2006-01-02")
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

func (a *app) inventoryDiff(f *inventoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "diff MACHINE [MACHINE]", Short: "Compare the facts of two machines, or the last two reports of one",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.remote.given() {
				old, now, err := twoRemoteFacts(cmd.Context(), f, args)
				if err != nil {
					return err
				}
				return a.printDiff(old, now, f.format)
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				old, now, err := twoFacts(ctx, s, f.site, args)
				if err != nil {
					return err
				}
				return a.printDiff(old, now, f.format)
			})
		},
	}
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

// twoFacts are the documents that a diff is about.
func twoFacts(ctx context.Context, s *store.Store, site string, names []string) (old, now inventory.Facts, err error) {
	m, err := findMachine(ctx, s, site, names[0])
	if err != nil {
		return old, now, err
	}
	if len(names) == 2 {
		other, err := findMachine(ctx, s, site, names[1])
		if err != nil {
			return old, now, err
		}
		if old, err = factsOf(ctx, s, m); err != nil {
			return old, now, err
		}
		now, err = factsOf(ctx, s, other)
		return old, now, err
	}
	documents, err := s.FactsHistory(ctx, m.ID, inventory.SourceAgent)
	if err != nil {
		return old, now, err
	}
	if len(documents) < 2 {
		return old, now, tooFewReports(m, len(documents))
	}
	slices.SortFunc(documents, func(a, b inventory.Document) int { return a.ObservedAt.Compare(b.ObservedAt) })
	return documents[len(documents)-2].Facts, documents[len(documents)-1].Facts, nil
}

func tooFewReports(m inventory.Machine, n int) error {
	return fmt.Errorf("%s has %s of the agent; a comparison needs two", nameOf(m), count(n, "report"))
}
