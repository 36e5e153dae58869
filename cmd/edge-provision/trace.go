package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/spf13/cobra"

	"github.com/edge-provision/edge-provision/inventory"
	"github.com/edge-provision/edge-provision/inventory/store"
	"github.com/edge-provision/edge-provision/inventory/timeline"
	"github.com/edge-provision/edge-provision/workflows/dispatch"
	"github.com/edge-provision/edge-provision/workflows/steps"
)

func (a *app) traceCommand() *cobra.Command {
	var (
		siteName        string
		asJSON, earlier bool
		remote          remoteFlags
	)
	c := &cobra.Command{
		Use: "trace MACHINE", Short: "Show what happened to a machine as one timeline, with the time each phase took",
		Example: `  edge-provision trace 'machine.node["a"]'`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			print := func(t timeline.Timeline) error {
				if asJSON {
					return writeJSON(a.stdout, t)
				}
				width, color := a.terminal(a.stdout)
				return timeline.Print(a.stdout, t, timeline.Style{Width: int(width), Color: color, Location: time.Local, Earlier: earlier})
			}
			if remote.given() {
				t, err := remoteTimeline(cmd.Context(), remote, siteName, args[0])
				if err != nil {
					return err
				}
				return print(t)
			}
			return a.withCatalog(cmd.Context(), func(ctx context.Context, s *store.Store) error {
				m, err := findMachine(ctx, s, siteName, args[0])
				if err != nil {
					return err
				}
				events, err := eventsOf(ctx, s, m)
				if err != nil {
					return err
				}
				return print(timeline.Trace(events))
			})
		},
	}
	remote.register(c)
	c.Flags().StringVar(&siteName, "site", "", "only this site's machines")
	c.Flags().BoolVar(&asJSON, "json", false, "print the timeline as JSON (schema_version 1)")
	c.Flags().BoolVar(&earlier, "all", false, "show earlier attempts too")
	return c
}

// eventsOf are the newest events of a machine, oldest first.
func eventsOf(ctx context.Context, s *store.Store, m inventory.Machine) ([]inventory.Event, error) {
	return s.Events(ctx, store.EventFilter{Machine: m.ID})
}

func (a *app) whyCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use: "why MACHINE", Short: "Say where a machine is stuck, which hop broke, and what to try",
		Example: `  edge-provision why --site site.hcl 'machine.node["a"]'`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := a.open(cmd.Context(), path, func(steps.Progress) {})
			if err != nil {
				return err
			}
			defer w.close()
			if err := w.foresee(cmd.Context()); err != nil {
				return err
			}
			m, err := w.machine(args[0])
			if err != nil {
				return err
			}
			findings, err := w.diagnose(cmd.Context(), m.Address, false)
			if err != nil {
				return err
			}
			width, color := a.terminal(a.stdout)
			return timeline.PrintFindings(a.stdout, findings, timeline.Style{Width: int(width), Color: color, Location: time.Local})
		},
	}
	c.Flags().StringVar(&path, "site", "site.hcl", "the site that declares the machine")
	return c
}

// firewallAge is how long a finding about this host's packet filter is believed:
// longer than the longest usual boot timeout, shorter than the memory of whoever
// changed the rules.
const firewallAge = time.Hour

// diagnose finds out where a declared machine is stuck; gaveUp says that nobody
// waits for it any more.
func (w *world) diagnose(ctx context.Context, address string, gaveUp bool) ([]timeline.Finding, error) {
	m, err := w.machine(address)
	if err != nil {
		return nil, err
	}
	if err := w.catalog.Flush(ctx); err != nil {
		return nil, err
	}
	var events []inventory.Event
	row, err := w.foresight.Machine(ctx, w.catalog, w.site.Name, m.Address)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		row.State = inventory.StateDeclared // never seen
	case err == nil:
		events, err = eventsOf(ctx, w.catalog, row)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// What this host's packet filter stops is told of no machine in particular,
	// and may be put right later: what an earlier service found does not count.
	blocked, err := w.catalog.Events(ctx, store.EventFilter{Site: w.site.Name, Kinds: []inventory.EventKind{inventory.EventHostFirewall}, Since: time.Now().Add(-firewallAge)})
	if err != nil {
		return nil, err
	}
	events = append(events, blocked...)
	heard, err := dispatch.Heard(ctx, w.catalog.Settings(), row.ID)
	if err != nil {
		return nil, err
	}
	in := timeline.Input{
		Events: events, Now: time.Now(), Heard: heard, GaveUp: gaveUp, Declared: true, State: row.State, BMC: string(m.BMC.Driver), BMCAddress: m.BMC.Address,
	}
	if m.Network != nil {
		in.Mode, in.Interface = string(m.Network.DHCP.Mode), m.Network.Interface
	}
	return timeline.Diagnose(in), nil
}

// explain is diagnose for an error message.
func (w *world) explain(ctx context.Context, address string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	findings, err := w.diagnose(ctx, address, true)
	if err != nil {
		return fmt.Sprintf("(where it stopped cannot be told: %v)", err)
	}
	var text bytes.Buffer
	if err := timeline.PrintFindings(&text, findings, timeline.Style{Width: 100, Location: time.Local}); err != nil {
		return ""
	}
	return text.String()
}
