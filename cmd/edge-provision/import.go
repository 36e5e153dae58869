package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/exchange"
	"github.com/edge-provision/edge-provision/inventory/store"
)

func (a *app) inventoryImport(f *inventoryFlags) *cobra.Command {
	return &cobra.Command{
		Use: "import FILE", Short: "Take machines, their facts and tags from another catalog or a list",
		Long: `FILE is what 'inventory export -o full' wrote, or CSV with a header; "-" reads from standard input.
Machines are known by MAC, serial number and UUID as when they are seen; new ones are made.
A machine that is in conflict with others is left out and named. Reports go into the history
at the time at which they were made: one that is older than what is known of its source
replaces nothing, and importing a file again changes nothing.`,
		Example: "  edge-provision inventory import machines.csv --site store-0421",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.remote.given() {
				return usage("inventory import writes into a catalog itself; run it where the catalog is, without --server")
			}
			in := io.Reader(os.Stdin)
			if args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer file.Close()
				in = file
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				a.snapshotsAtHand(ctx, s) // what is taken is compared with them
				return a.importMachines(ctx, s, f.site, args[0], in)
			})
		},
	}
}

// importBatch bounds a transaction of an import: leases must not wait for long.
const importBatch = 100

// importer takes machines into a catalog, some at a time.
type importer struct {
	store          *store.Store
	site           string
	waiting        []exchange.Machine
	taken, changed int
	// conflicts are machines that were left out, unfit reports of others.
	conflicts, unfit leftOut
}

// leftOut is what an import does not take, each with the reason; of very many the
// first.
type leftOut struct {
	reasons []error
	more    int
}

func (l *leftOut) add(m exchange.Machine, err error) {
	const most = 20
	if len(l.reasons) >= most {
		l.more++
		return
	}
	name := m.Serial
	if len(m.MACs) > 0 {
		name = m.MACs[0].String()
	}
	l.reasons = append(l.reasons, fmt.Errorf("%s: %w", printable(name), err))
}

// err says how many things were left out, and why; nil for none.
func (l *leftOut) err(thing string) error {
	if len(l.reasons) == 0 {
		return nil
	}
	reasons := l.reasons
	if l.more > 0 {
		reasons = append(reasons, fmt.Errorf("and %d more", l.more))
	}
	return fmt.Errorf("%s left out:\n%w", count(len(l.reasons)+l.more, thing), errors.Join(reasons...))
}

func (a *app) importMachines(ctx context.Context, s *store.Store, site, name string, in io.Reader) error {
	i := &importer{store: s, site: site}
	err := audited(ctx, s, "importMachines", name, http.StatusOK, func() error {
		err := exchange.Read(in, func(m exchange.Machine) error { return i.add(ctx, m) })
		if err == nil {
			err = i.flush(ctx)
		}
		if err != nil {
			return fmt.Errorf("importing %s: %w; %s before it were taken, and importing again changes nothing of them", name, err, count(i.taken, "machine"))
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "Took %s, of which %d were new or changed.\n", count(i.taken, "machine"), i.changed)
	if err := i.unfit.err("report"); err != nil {
		fmt.Fprintln(a.stderr, err)
	}
	return i.conflicts.err("machine")
}

func (i *importer) add(ctx context.Context, m exchange.Machine) error {
	if m.Site == "" {
		m.Site = i.site
	}
	if m.Site == "" {
		return errors.New("the machine names no site; give one with --site")
	}
	if len(i.waiting) > 0 && i.waiting[0].Site != m.Site || len(i.waiting) >= importBatch {
		if err := i.flush(ctx); err != nil {
			return err
		}
	}
	i.waiting = append(i.waiting, m)
	return nil
}

// flush takes the machines that wait, which are of one site.
func (i *importer) flush(ctx context.Context) error {
	if len(i.waiting) == 0 {
		return nil
	}
	machines := i.waiting
	i.waiting = nil
	var all []store.Observation
	var owner []int // of each observation
	for n, m := range machines {
		o := store.Observation{MACs: m.MACs, UUID: m.SMBIOSUUID, Serial: m.Serial}
		if len(m.Reports) == 0 {
			all, owner = append(all, o), append(owner, n)
		}
		for _, r := range newestFirst(m.Reports) {
			with := o
			with.Source, with.Facts, with.At, with.Past = r.Source, &r.Facts, r.ObservedAt, !r.ObservedAt.IsZero()
			all, owner = append(all, with), append(owner, n)
		}
	}
	seen, err := i.store.ObserveAll(ctx, machines[0].Site, all)
	if err != nil {
		return err
	}
	ids, changed := make([]uuid.UUID, len(machines)), make([]bool, len(machines))
	refused := make([]*store.ConflictError, len(machines))
	for n, o := range seen {
		ids[owner[n]], changed[owner[n]] = o.Machine, changed[owner[n]] || o.Changed
		if o.Conflict != nil {
			refused[owner[n]] = o.Conflict
		}
		if o.Unfit != nil {
			i.unfit.add(machines[owner[n]], o.Unfit)
		}
	}
	for n, m := range machines {
		if refused[n] != nil {
			i.conflicts.add(m, refused[n])
			continue
		}
		if len(m.Tags) > 0 {
			before, err := i.store.Machine(ctx, ids[n])
			if err != nil {
				return err
			}
			after, err := i.store.SetTags(ctx, ids[n], m.Tags, nil, nil)
			if err != nil {
				return err
			}
			for key, value := range after.Tags {
				changed[n] = changed[n] || before.Tags[key] != value
			}
		}
		i.taken++
		if changed[n] {
			i.changed++
		}
	}
	return nil
}

// newestFirst are the reports of a machine, so that it is known by what was seen of it
// last, and the others only fill the history. Of two that a source made at one time, the
// one that stands later is the newer.
func newestFirst(reports []exchange.Report) []exchange.Report {
	for i := range reports {
		reports[i].ObservedAt = reports[i].ObservedAt.Truncate(time.Microsecond) // as the catalog keeps it
	}
	slices.SortStableFunc(reports, func(a, b exchange.Report) int { return a.ObservedAt.Compare(b.ObservedAt) })
	last := map[inventory.Source]time.Time{}
	for i := range reports {
		r := &reports[i]
		if at, known := last[r.Source]; known && !r.ObservedAt.IsZero() && !r.ObservedAt.After(at) {
			r.ObservedAt = at.Add(time.Microsecond)
		}
		last[r.Source] = r.ObservedAt
	}
	slices.Reverse(reports)
	return reports
}

// exportFull writes machines as import reads them.
func (a *app) exportFull(ctx context.Context, f inventoryFlags, filter string) error {
	w := exchange.NewWriter(a.stdout)
	var err error
	if f.remote.given() {
		err = a.remoteExchange(ctx, f, filter, w.Write)
	} else {
		err = a.withCatalog(ctx, func(ctx context.Context, s *store.Store) error { return catalogExchange(ctx, s, f, filter, w.Write) })
	}
	if err != nil {
		return err
	}
	return w.Close()
}

// catalogExchange reads the machines of a catalog with all that their sources saw.
func catalogExchange(ctx context.Context, s *store.Store, f inventoryFlags, filter string, each func(exchange.Machine) error) error {
	return eachPage(ctx, s, f.site, filter, f.sort, func(page store.Page) error {
		for _, m := range page.Machines {
			documents, err := s.FactsHistory(ctx, m.ID, "")
			if err == nil {
				err = each(exchanged(m, documents))
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// exchanged is a machine with all that its sources saw, oldest first.
func exchanged(m inventory.Machine, documents []inventory.Document) exchange.Machine {
	out := exchange.Machine{Site: m.Site, MACs: m.MACs, SMBIOSUUID: m.SMBIOSUUID, Serial: m.Serial, Tags: m.Tags, Address: m.Address}
	for _, d := range documents {
		out.Reports = append(out.Reports, exchange.Report{Source: d.Source, ObservedAt: d.ObservedAt, Facts: d.Facts})
	}
	return out
}
