package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/resource"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/workflows"
	"github.com/edge-provision/edge-provision/workflows/keyring"
	"github.com/edge-provision/edge-provision/workflows/site"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

// unlockSnapshots gives the catalog the key of its snapshots.
func (a *app) unlockSnapshots(ctx context.Context, s *store.Store) error {
	dir, err := a.data()
	if err != nil {
		return err
	}
	keys, err := keyring.Open(ctx, keyring.Config{KeyFile: filepath.Join(dir, "key"), Values: s.Settings()})
	if err != nil {
		return err
	}
	s.UseSnapshotKey(keys.SnapshotKey())
	return nil
}

// snapshotsAtHand is unlockSnapshots where this host has the key, and does nothing
// where it has none: a command that reads makes no keys.
func (a *app) snapshotsAtHand(ctx context.Context, s *store.Store) bool {
	dir, err := a.data()
	if err == nil {
		_, err = os.Stat(filepath.Join(dir, "key"))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = a.unlockSnapshots(ctx, s)
	}
	if err != nil {
		a.logger().Warn("hardware cannot be compared with its snapshots here", "error", err)
	}
	return err == nil
}

// driftOf is how a machine's hardware stands; nil where nothing can be proved,
// because the catalog's key is elsewhere.
func (a *app) driftOf(ctx context.Context, s *store.Store, id uuid.UUID) (*resource.Drift, error) {
	if !a.snapshotsAtHand(ctx, s) {
		return nil, nil
	}
	r, err := s.Drift(ctx, id)
	if err != nil {
		return nil, err
	}
	history, err := s.Snapshots(ctx, id)
	if err != nil {
		return nil, err
	}
	out := resource.DriftOf(id, r)
	for _, h := range history {
		out.History = append(out.History, resource.SnapshotOf(h.Snapshot, h.Forged))
	}
	return &out, nil
}

func (a *app) inventoryAccept(f *inventoryFlags) *cobra.Command {
	var autoApprove bool
	c := &cobra.Command{
		Use: "accept MACHINE", Short: "Accept the hardware of a machine as it is now, and compare with that from now on",
		Long: `Shows how the hardware differs from the snapshot that was frozen when the machine was
commissioned, or accepted last, and asks. The difference is not accepted if it became
another one meanwhile. Earlier snapshots are kept. The machine is not touched.

To repair instead of accepting, put the hardware back as it was: the next look ends the
drift.`,
		Example: "  edge-provision inventory accept 'machine.node[\"a\"]'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.remote.given() {
				return a.acceptRemote(cmd.Context(), f, args[0], autoApprove)
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				return a.accept(ctx, s, f.site, args[0], autoApprove)
			})
		},
	}
	c.Flags().BoolVar(&autoApprove, "auto-approve", false, "do not ask")
	return c
}

func (a *app) accept(ctx context.Context, s *store.Store, site, name string, autoApprove bool) error {
	m, err := findMachine(ctx, s, site, name)
	if err != nil {
		return err
	}
	if err := a.unlockSnapshots(ctx, s); err != nil {
		return err
	}
	r, err := s.Drift(ctx, m.ID)
	if err != nil {
		return err
	}
	if !a.consider(m, resource.DriftOf(m.ID, r), autoApprove) {
		return exitCode(exitError)
	}
	err = audited(ctx, s, "acceptDrift", m.ID.String(), http.StatusOK, func() error {
		_, err := s.AcceptDrift(ctx, m.ID, r.Digest, "command line, "+whoAmI())
		return err
	})
	if errors.Is(err, store.ErrNoDrift) {
		return a.alreadyAccepted(m)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "The hardware of %s is accepted as it is.\n", nameOf(m))
	return nil
}

func (a *app) acceptRemote(ctx context.Context, f *inventoryFlags, name string, autoApprove bool) error {
	c, m, _, err := f.remoteMachine(ctx, name)
	if err != nil {
		return err
	}
	d, err := c.Drift(ctx, m.ID.String())
	if err != nil {
		return err
	}
	if d.State == inventory.DriftNone {
		return a.alreadyAccepted(m.Machine)
	}
	if !a.consider(m.Machine, d, autoApprove) {
		return exitCode(exitError)
	}
	o, err := c.AcceptDrift(ctx, m.ID.String(), d.Digest, uuid.NewString())
	if err == nil {
		o, err = c.Await(ctx, o)
	}
	if err != nil {
		return err
	}
	if o.State != resource.OperationSucceeded {
		return errors.New(o.Error) // which names the machine
	}
	fmt.Fprintf(a.stdout, "The hardware of %s is accepted as it is.\n", nameOf(m.Machine))
	return nil
}

func (a *app) alreadyAccepted(m inventory.Machine) error {
	fmt.Fprintf(a.stdout, "The hardware of %s is as in its snapshot; there is nothing to accept.\n", nameOf(m))
	return nil
}

// consider shows what would be accepted and asks for it.
func (a *app) consider(m inventory.Machine, d resource.Drift, autoApprove bool) bool {
	switch {
	case d.State == inventory.DriftNone:
		return true // there is no question to ask
	case d.Snapshot == nil:
		fmt.Fprintf(a.stderr, "%s has no snapshot yet: what is known of its hardware becomes the first.\n", nameOf(m))
	case d.State == inventory.DriftForged:
		fmt.Fprintf(a.stderr, "The snapshot of %s is not one that this catalog signed: what it was cannot be shown.\n", nameOf(m))
	default:
		fmt.Fprintf(a.stderr, "The hardware of %s is not what it was on %s:\n", nameOf(m), d.Snapshot.TakenAt.Local().Format("2006-01-02 15:04"))
		for _, c := range d.Changes {
			fmt.Fprintf(a.stderr, "  %s\n", printable(c.Text))
		}
	}
	looked := "never"
	if d.LookedAt != nil {
		looked = ago(*d.LookedAt)
	}
	fmt.Fprintf(a.stderr, "It was last looked at: %s.\n", looked)
	if autoApprove {
		return true
	}
	fmt.Fprint(a.stderr, "Do you want to accept it as it is? Only 'yes' is taken as yes: ")
	line, err := bufio.NewReader(a.stdin).ReadString('\n')
	if strings.TrimSpace(line) != "yes" {
		if err != nil {
			fmt.Fprintln(a.stderr)
		}
		fmt.Fprintln(a.stderr, "Not accepted; nothing was changed.")
		return false
	}
	return true
}

// whoAmI is the user of this host who runs the program.
func whoAmI() string {
	name := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

// commission freezes the hardware of the machines that an apply found as declared
// and that have no snapshot yet: adopted ones, and those that an earlier program
// installed.
func (w *world) commission(ctx context.Context, plan workflows.Plan, run uuid.UUID) error {
	name := ""
	if run != uuid.Nil {
		name = run.String()
	}
	for _, m := range w.site.Machines {
		a, planned := plan.Find(m.Address)
		if !planned || a.Kind != workflows.KindNone {
			continue
		}
		row, err := w.catalog.MachineByAddress(ctx, w.site.Name, m.Address)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !m.Adopted() && row.State != inventory.StateInstalled || row.Drift != "" {
			continue
		}
		if _, err := w.catalog.Commission(ctx, row.ID, name); err != nil && !errors.Is(err, store.ErrNeverLooked) {
			return err
		}
	}
	return nil
}

// look looks at the hardware of running machines until ctx ends.
func (d *daemon) look(ctx context.Context) {
	if d.refresh <= 0 {
		if err := d.catalog.ReviewDrift(ctx, d.current().site.Name); err != nil && ctx.Err() == nil {
			d.app.logger().Error("comparing hardware with its snapshots", "error", err)
		}
		return
	}
	refresher := &steps.Refresher{
		Site: func() *site.Site { return d.current().site }, Hosts: func() steps.Hosts { return d.current().hosts },
		Adopter: func() *steps.Adopter { return d.current().adopter }, BMCFacts: func() *steps.BMCFacts { return d.current().inside },
		Catalog: d.catalog, Every: d.refresh, Tell: d.current().tell,
	}
	refresher.Run(ctx)
}
